"""The clips of examples/musiccaps.dlm: eight short pieces of music, and a table as MusicCaps'.

    python recipes/musiccaps/clips.py examples/musiccaps

writes `musiccaps.csv` and a recording for each of its rows but the last, as one who could not
fetch all of them has it.
"""

import csv
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

RATE = 16_000
SECONDS = 4.0
PEAK = 0.6
HEAD = "ytid start_s end_s audioset_positive_labels aspect_list caption".split()
HEAD += "author_id is_balanced_subset is_audioset_eval".split()
SCALE = (0, 2, 4, 5, 7, 9, 11, 12)  # semitones

Wave = np.ndarray
Instrument = Callable[[float, float], Wave]  # Hz, seconds


def make_clips(out: Path) -> None:
    """Play every piece and write the table."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / "musiccaps.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(HEAD)
        for number, (aspects, caption, music) in enumerate(PIECES):
            ytid, start = f"dlm-piece-{number}", 30 * number
            end = start + round(SECONDS)
            table.writerow(
                [ytid, start, end, "/m/04rlf", str(aspects), caption, 0, False, number == 0]
            )
            if number < len(PIECES) - 1:
                name = f"{ytid}_{start}_{end}.ogg" if number % 2 else f"{ytid}.ogg"
                soundfile.write(out / name, played(music), RATE)


def played(music: Callable[[], Wave]) -> Wave:
    """A piece as float32 (samples,), with a little noise and soft ends."""
    length = round(SECONDS * RATE)
    made = np.resize(music(), length) + np.random.default_rng(0).normal(0, 0.003, length)
    fade = np.minimum(1, np.arange(length) / (0.05 * RATE))
    made *= fade * fade[::-1]
    return (made * (PEAK / np.abs(made).max())).astype(np.float32)


def plucked(hertz: float, seconds: float) -> Wave:
    """A string, after Karplus and Strong (1983)."""
    string = np.random.default_rng(round(hertz)).uniform(-1, 1, round(RATE / hertz))
    made = np.empty(round(seconds * RATE))
    for at in range(len(made)):
        made[at] = string[at % len(string)]
        string[at % len(string)] = 0.498 * (made[at] + string[(at + 1) % len(string)])
    return made


def piped(hertz: float, seconds: float) -> Wave:
    """An organ pipe: odd harmonics that hold."""
    time = np.arange(round(seconds * RATE)) / RATE
    edge = np.minimum(1, np.minimum(time, time[::-1]) / 0.03)
    return edge * sum(np.sin(2 * np.pi * hertz * each * time) / each for each in (1, 3, 5))


def belled(hertz: float, seconds: float) -> Wave:
    """A bell: partials that are no harmonics, each dying at its own pace."""
    time = np.arange(round(seconds * RATE)) / RATE
    partials = (0.5, 1.0, 1.19, 1.56, 2.0, 2.51)
    return sum(np.sin(2 * np.pi * hertz * each * time) * np.exp(-time * each) for each in partials)


def drummed(hertz: float, seconds: float) -> Wave:
    """A drum: a tone that falls, and a burst of noise."""
    time = np.arange(round(seconds * RATE)) / RATE
    skin = np.sin(2 * np.pi * hertz * time * np.exp(-4 * time)) * np.exp(-12 * time)
    return skin + np.random.default_rng(1).normal(0, 0.3, len(time)) * np.exp(-40 * time)


def notes(play: Instrument, steps: tuple[int, ...], *, base: float, each: float) -> Wave:
    """Notes one after the other, in semitones above `base` Hz, each so many seconds."""
    return np.concatenate([play(base * 2 ** (step / 12), each) for step in steps])


def chord(play: Instrument, steps: tuple[int, ...], *, base: float, each: float) -> Wave:
    """The same notes at once."""
    return sum(play(base * 2 ** (step / 12), each) for step in steps)


PIECES: tuple[tuple[list[str], str, Callable[[], Wave]], ...] = (
    (
        ["plucked string", "rising scale", "slow"],
        "A single plucked string climbs a major scale, slowly and evenly, with nothing beside it.",
        lambda: notes(plucked, SCALE, base=220, each=0.5),
    ),
    (
        ["organ", "held chord", "calm"],
        "An organ holds one major chord from beginning to end. It is calm and without rhythm.",
        lambda: chord(piped, (0, 4, 7, 12), base=196, each=SECONDS),
    ),
    (
        ["drums only", "steady beat", "medium tempo"],
        "A low drum beats twice a second. There is no melody, only the steady pulse.",
        lambda: notes(drummed, (0,) * 8, base=90, each=0.5),
    ),
    (
        ["bells", "sparse", "bright"],
        "Two bright bells take turns, each left to ring, as from a small tower.",
        lambda: notes(belled, (12, 7, 12, 7), base=440, each=1.0),
    ),
    (
        ["organ", "fast arpeggio", "playful"],
        "A fast arpeggio on a flute-like organ runs up and down again, playful as in an old game.",
        lambda: notes(piped, (0, 4, 7, 12, 16, 12, 7, 4) * 4, base=330, each=0.125),
    ),
    (
        ["plucked string", "minor chord", "sad"],
        "A minor chord is plucked on a low string instrument every two seconds; it sounds sad.",
        lambda: chord(plucked, (0, 3, 7), base=110, each=2.0),
    ),
    (
        ["drums", "fast", "energetic"],
        "Fast drums alternate between high and low, energetic and dry, with no other instrument.",
        lambda: notes(drummed, (0, 12) * 8, base=80, each=0.25),
    ),
    (
        ["bell", "low", "slow"],
        "One large low bell is struck and left to fade.",
        lambda: belled(110, SECONDS),
    ),
)


if __name__ == "__main__":
    make_clips(Path(sys.argv[1]))
