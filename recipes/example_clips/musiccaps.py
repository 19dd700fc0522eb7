"""Make the clips of examples/musiccaps.dlm: eight short pieces of music, and a MusicCaps table.

    python recipes/example_clips/musiccaps.py examples/musiccaps

writes `musiccaps.csv` and a recording for each of its rows but the last, as in downloads of
MusicCaps, some of whose videos no longer exist.
"""

import csv
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

SAMPLE_RATE = 16_000
SECONDS = 4.0
PEAK = 0.6
COLUMNS = "ytid start_s end_s audioset_positive_labels aspect_list caption".split()
COLUMNS += "author_id is_balanced_subset is_audioset_eval".split()
MAJOR_SCALE = (0, 2, 4, 5, 7, 9, 11, 12)  # semitones

Waveform = np.ndarray
Instrument = Callable[[float, float], Waveform]  # hertz, seconds


def make_clips(out_dir: Path) -> None:
    """Render every piece, and write the table."""
    out_dir.mkdir(parents=True, exist_ok=True)
    with (out_dir / "musiccaps.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        for number, (aspects, caption, play) in enumerate(PIECES):
            ytid, start = f"dlm-piece-{number}", 30 * number
            end = start + round(SECONDS)
            table.writerow(
                [ytid, start, end, "/m/04rlf", str(aspects), caption, 0, False, number == 0]
            )
            if number < len(PIECES) - 1:
                name = f"{ytid}_{start}_{end}.ogg" if number % 2 else f"{ytid}.ogg"
                soundfile.write(out_dir / name, render_piece(play), SAMPLE_RATE)


def render_piece(play: Callable[[], Waveform]) -> Waveform:
    """Render a piece with a little noise and fades: float32 (samples,)."""
    num_samples = round(SECONDS * SAMPLE_RATE)
    noise = np.random.default_rng(0).normal(0, 0.003, num_samples)
    waveform = np.resize(play(), num_samples) + noise
    fade = np.minimum(1, np.arange(num_samples) / (0.05 * SAMPLE_RATE))
    waveform *= fade * fade[::-1]
    return (waveform * (PEAK / np.abs(waveform).max())).astype(np.float32)


def make_times(seconds: float) -> np.ndarray:
    """Return the time of each sample, in seconds."""
    return np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE


def pluck_string(hertz: float, seconds: float) -> Waveform:
    """Synthesize a plucked string (Karplus and Strong, 1983)."""
    delay_line = np.random.default_rng(round(hertz)).uniform(-1, 1, round(SAMPLE_RATE / hertz))
    size = len(delay_line)
    waveform = np.empty(round(seconds * SAMPLE_RATE))
    for n in range(len(waveform)):
        waveform[n] = delay_line[n % size]
        delay_line[n % size] = 0.498 * (waveform[n] + delay_line[(n + 1) % size])
    return waveform


def play_organ(hertz: float, seconds: float) -> Waveform:
    """Synthesize an organ pipe: odd harmonics that do not decay."""
    times = make_times(seconds)
    fade = np.minimum(1, np.minimum(times, times[::-1]) / 0.03)
    return fade * sum(np.sin(2 * np.pi * hertz * n * times) / n for n in (1, 3, 5))


def ring_bell(hertz: float, seconds: float) -> Waveform:
    """Synthesize a bell: inharmonic partials, the higher the faster they decay."""
    times = make_times(seconds)
    partials = (0.5, 1.0, 1.19, 1.56, 2.0, 2.51)
    return sum(
        np.sin(2 * np.pi * hertz * ratio * times) * np.exp(-times * ratio) for ratio in partials
    )


def hit_drum(hertz: float, seconds: float) -> Waveform:
    """Synthesize a drum: a tone of falling pitch, and a burst of noise."""
    times = make_times(seconds)
    tone = np.sin(2 * np.pi * hertz * times * np.exp(-4 * times)) * np.exp(-12 * times)
    return tone + np.random.default_rng(1).normal(0, 0.3, len(times)) * np.exp(-40 * times)


def play_melody(
    instrument: Instrument, semitones: tuple[int, ...], *, hertz: float, seconds: float
) -> Waveform:
    """Play notes in sequence, `seconds` each, in semitones above `hertz`."""
    return np.concatenate([instrument(hertz * 2 ** (step / 12), seconds) for step in semitones])


def play_chord(
    instrument: Instrument, semitones: tuple[int, ...], *, hertz: float, seconds: float
) -> Waveform:
    """Play notes at once, in semitones above `hertz`."""
    return sum(instrument(hertz * 2 ** (step / 12), seconds) for step in semitones)


PIECES: tuple[tuple[list[str], str, Callable[[], Waveform]], ...] = (
    (
        ["plucked string", "rising scale", "slow"],
        "A single plucked string climbs a major scale, slowly and evenly, with nothing beside it.",
        lambda: play_melody(pluck_string, MAJOR_SCALE, hertz=220, seconds=0.5),
    ),
    (
        ["organ", "held chord", "calm"],
        "An organ holds one major chord from beginning to end. It is calm and without rhythm.",
        lambda: play_chord(play_organ, (0, 4, 7, 12), hertz=196, seconds=SECONDS),
    ),
    (
        ["drums only", "steady beat", "medium tempo"],
        "A low drum beats twice a second. There is no melody, only the steady pulse.",
        lambda: play_melody(hit_drum, (0,) * 8, hertz=90, seconds=0.5),
    ),
    (
        ["bells", "sparse", "bright"],
        "Two bright bells take turns, each left to ring, as from a small tower.",
        lambda: play_melody(ring_bell, (12, 7, 12, 7), hertz=440, seconds=1.0),
    ),
    (
        ["organ", "fast arpeggio", "playful"],
        "A fast arpeggio on a flute-like organ runs up and down again, playful as in an old game.",
        lambda: play_melody(play_organ, (0, 4, 7, 12, 16, 12, 7, 4) * 4, hertz=330, seconds=0.125),
    ),
    (
        ["plucked string", "minor chord", "sad"],
        "A minor chord is plucked on a low string instrument every two seconds; it sounds sad.",
        lambda: play_chord(pluck_string, (0, 3, 7), hertz=110, seconds=2.0),
    ),
    (
        ["drums", "fast", "energetic"],
        "Fast drums alternate between high and low, energetic and dry, with no other instrument.",
        lambda: play_melody(hit_drum, (0, 12) * 8, hertz=80, seconds=0.25),
    ),
    (
        ["bell", "low", "slow"],
        "One large low bell is struck and left to fade.",
        lambda: ring_bell(110, SECONDS),
    ),
)


if __name__ == "__main__":
    make_clips(Path(sys.argv[1]))
