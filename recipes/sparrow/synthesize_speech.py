"""Synthesize the sentences with natural and with small voices, in rooms, noise and bands.

    python recipes/sparrow/synthesize_speech.py --work DIR --list      writes DIR/natural.jsonl
    VENV/bin/python recipes/sparrow/synthesize_natural.py ...          renders its clips
    python recipes/sparrow/synthesize_speech.py --work DIR

writes `DIR/clips/<split>/<number>.flac` (16 kHz mono) and `DIR/<split>.jsonl`, a row per clip:
path, text, engine, voice, gender, accent, pace and split. Clip `i` of a split is the same in every
run; a clip that exists is not made again. A natural clip that is not rendered is left out.

    kokoro    Kokoro-82M, 28 English voices, four of them only for measurement, and mixtures of two
    piper     the voice joe
    espeak    espeak-ng, eight accents and some twenty variants
    flite     kal16, slt and rms; awb is only for measurement
    silence   noise, tones, music or nothing, whose transcript is empty
"""

import argparse
import io
import json
import random
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from augment import SAMPLE_RATE, augment_waveform, make_background
from sentences import add_punctuation, iter_sentences

SEED = 7
SPLITS = {
    "test": {"kokoro": 75, "piper": 75, "espeak": 75, "flite": 75},
    "unheard": {"kokoro": 80, "flite": 60},
    "train": {"kokoro": 9_000, "piper": 1_500, "espeak": 3_000, "flite": 2_000, "silence": 900},
}
# of the stream of sentences, which does not repeat; names of splits are part of the seeds
FIRST_SENTENCE = {"test": 0, "unheard": 300, "train": 600}
AUGMENT_PROBABILITY = 0.6
MAX_SECONDS = 10.0
KOKORO_VOICES = (
    "af_alloy af_aoede af_bella af_heart af_jessica af_kore af_nicole af_nova af_river af_sarah "
    "am_adam am_echo am_eric am_fenrir am_liam am_michael am_onyx am_santa bf_alice bf_emma "
    "bf_isabella bm_daniel bm_george bm_lewis"
)
NUM_MORE_SENTENCES, MAX_TEXT_LETTERS = (0, 0, 1, 1, 2), 90  # of a training clip of Kokoro
MIX_PROBABILITY = 0.6  # of a training clip of Kokoro: two voices of a gender, mixed
UNSEEN_KOKORO_VOICES = "af_sky am_puck bf_lily bm_fable"  # not in training
ACCENTS = {
    "en-gb": "british",
    "en-us": "american",
    "en-gb-scotland": "scottish",
    "en-029": "caribbean",
    "en-gb-x-rp": "british",
    "en-gb-x-gbclan": "lancaster",
    "en-gb-x-gbcwmd": "birmingham",
    "en-us-nyc": "new york",
}
FEMALE_VARIANTS = "f1 f2 f3 f4 f5 Annie linda steph anika Alicia Andrea"
MALE_VARIANTS = "m1 m2 m3 m4 m5 m6 m7 m8 Alex Andy Michael john paul"
FLITE_GENDERS = {"kal16": "male", "slt": "female", "rms": "male"}
UNSEEN_FLITE_VOICE = "awb"  # not in training
SPEEDS = {"slow": (0.72, 0.84), "normal": (0.93, 1.07), "fast": (1.2, 1.35)}  # 1: the voice's own
ESPEAK_WORDS_PER_MINUTE = 170  # at speed 1

ManifestRow = dict[str, Any]


@dataclass(frozen=True)
class ClipSpec:
    """One clip to synthesize.

    Attributes:
        path: of the audio file, from the working folder; seeds every random choice.
        text: the transcript, without punctuation.
        spoken: what the engine reads.
        engine: kokoro, piper, espeak, flite or silence.
        voice: by the engine's name for it.
        gender: male or female.
        accent: of ACCENTS.
        pace: slow, normal or fast.
        speed: of the voice, 1 for its own.
        split: test, unheard or train.
        natural: file that synthesize_natural.py renders, from the working folder; else empty.
    """

    path: str
    text: str
    spoken: str
    engine: str
    voice: str
    gender: str
    accent: str
    pace: str
    speed: float
    split: str
    natural: str


def list_natural_clips(work_dir: Path) -> None:
    """Write the manifest of what synthesize_natural.py renders."""
    rows = [spec for split in SPLITS for spec in make_clip_specs(split) if spec.natural]
    _write_manifest(work_dir / "natural.jsonl", rows)


def synthesize_splits(work_dir: Path, *, num_processes: int = 2) -> None:
    """Write the clips and the manifest of every split."""
    for split in SPLITS:
        all_specs = make_clip_specs(split)
        clip_specs = [
            spec for spec in all_specs if not spec.natural or (work_dir / spec.natural).exists()
        ]
        (work_dir / "clips" / split).mkdir(parents=True, exist_ok=True)
        with Pool(num_processes) as pool:
            for _ in pool.imap_unordered(partial(_write_clip, work_dir), clip_specs, chunksize=50):
                pass
        _write_manifest(work_dir / f"{split}.jsonl", clip_specs)
        num_missing = len(all_specs) - len(clip_specs)
        print(f"{split}: {len(clip_specs)} clips, {num_missing} natural ones not rendered")


def _write_manifest(path: Path, clip_specs: list[ClipSpec]) -> None:
    lines = "".join(json.dumps(asdict(clip_spec)) + "\n" for clip_spec in clip_specs)
    path.write_text(lines, encoding="utf-8")


def read_manifest(path: Path) -> list[ManifestRow]:
    """Read a manifest, a JSON object per line."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _write_clip(work_dir: Path, clip_spec: ClipSpec) -> None:
    path = work_dir / clip_spec.path
    if not path.exists():
        temp_path = path.with_suffix(".part")
        waveform = synthesize_clip(work_dir, clip_spec)
        soundfile.write(temp_path, waveform, SAMPLE_RATE, subtype="PCM_16", format="FLAC")
        temp_path.replace(path)


def make_clip_specs(split: str) -> list[ClipSpec]:
    """Return the clips of a split, the engines in random order."""
    engines = [engine for engine, number in SPLITS[split].items() for _ in range(number)]
    random.Random(f"{SEED}:{split}").shuffle(engines)
    first = FIRST_SENTENCE[split]
    sentences = islice(iter_sentences(SEED), first, None)
    return [
        _draw_clip_spec(number, sentences=sentences, engine=engine, split=split)
        for number, engine in enumerate(engines)
    ]


def _draw_clip_spec(number: int, *, sentences: Iterator[str], engine: str, split: str) -> ClipSpec:
    rng = random.Random(f"{SEED}:{split}:{number}")
    parts = [next(sentences)]
    if engine == "kokoro" and split == "train":
        parts += islice(sentences, rng.choice(NUM_MORE_SENTENCES))
        while len(parts) > 1 and len(" ".join(parts)) > MAX_TEXT_LETTERS:
            parts.pop()
    text = " ".join(parts)
    pace = rng.choice(("slow", "normal", "normal", "fast"))
    gender = rng.choice(("male", "female"))
    accent = "american"
    if engine == "espeak":
        language = rng.choice(list(ACCENTS))
        variants = FEMALE_VARIANTS if gender == "female" else MALE_VARIANTS
        voice = f"{language}+{rng.choice(variants.split())}"
        accent = ACCENTS[language]
    elif engine == "flite":
        voice = UNSEEN_FLITE_VOICE if split == "unheard" else rng.choice(list(FLITE_GENDERS))
        gender = FLITE_GENDERS.get(voice, "male")
        accent = "scottish" if voice == UNSEEN_FLITE_VOICE else "american"
    elif engine == "kokoro":
        voices = UNSEEN_KOKORO_VOICES if split == "unheard" else KOKORO_VOICES
        voice = rng.choice(voices.split())
        gender = "female" if voice[1] == "f" else "male"
        if split == "train" and rng.random() < MIX_PROBABILITY:
            other = rng.choice([name for name in voices.split() if name[1] == voice[1]])
            weight = round(rng.uniform(0.5, 0.9), 2)
            voice = f"{voice}*{weight}+{other}*{1 - weight:.2f}"
        accent = "british" if voice[0] == "b" else "american"
    else:
        voice, gender = ("joe", "male") if engine == "piper" else ("", "")
        text = text if engine == "piper" else ""
    is_natural = engine in ("kokoro", "piper")
    return ClipSpec(
        path=f"clips/{split}/{number:05d}.flac",
        text=text,
        spoken=" ".join(map(add_punctuation, parts)) if text else "",
        engine=engine,
        voice=voice,
        gender=gender,
        accent=accent,
        pace=pace,
        speed=round(rng.uniform(*SPEEDS[pace]), 3),
        split=split,
        natural=f"natural/{split}/{number:05d}.flac" if is_natural else "",
    )


def synthesize_clip(work_dir: Path, clip_spec: ClipSpec) -> np.ndarray:
    """Return the clip, float32 (samples,) at 16 kHz; training clips may be augmented."""
    rng = random.Random(f"{SEED}:{clip_spec.path}")
    noise_rng = np.random.default_rng(rng.getrandbits(32))
    if clip_spec.engine == "silence":
        return make_background(noise_rng)
    if clip_spec.natural:
        samples, sample_rate = soundfile.read(work_dir / clip_spec.natural, dtype="float32")
        speech = soxr.resample(samples, sample_rate, SAMPLE_RATE)
    else:
        run_engine = _run_espeak if clip_spec.engine == "espeak" else _run_flite
        speech = run_engine(clip_spec, rng)
    before, after = (np.zeros(rng.randint(0, SAMPLE_RATE * 3 // 10), np.float32) for _ in range(2))
    waveform = np.concatenate([before, speech, after])[: int(MAX_SECONDS * SAMPLE_RATE)]
    if clip_spec.split == "train" and rng.random() < AUGMENT_PROBABILITY:
        waveform = augment_waveform(waveform, noise_rng)
    return waveform


def _run_espeak(clip_spec: ClipSpec, rng: random.Random) -> np.ndarray:
    words_per_minute = round(ESPEAK_WORDS_PER_MINUTE * clip_spec.speed)
    command = ["espeak-ng", "-v", clip_spec.voice, "-s", str(words_per_minute)]
    command += ["-p", str(rng.randint(30, 70)), "--stdout", clip_spec.spoken]
    wav = subprocess.run(command, capture_output=True, check=True).stdout
    sample_rate = int.from_bytes(wav[24:28], "little")  # on a pipe, the header has no length
    samples = np.frombuffer(wav[44 : len(wav) // 2 * 2], "<i2").astype(np.float32) / 32768
    return soxr.resample(samples, sample_rate, SAMPLE_RATE).astype(np.float32)


def _run_flite(clip_spec: ClipSpec, rng: random.Random) -> np.ndarray:
    del rng
    command = ["flite", "-voice", clip_spec.voice]
    command += ["--setf", f"duration_stretch={1 / clip_spec.speed:.3f}"]
    command += ["-t", clip_spec.spoken, "-o", "/dev/stdout"]
    wav = subprocess.run(command, capture_output=True, check=True).stdout
    samples, _ = soundfile.read(io.BytesIO(wav), dtype="float32")
    return samples


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--list", action="store_true", help="only list the natural clips")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    (list_natural_clips if args.list else synthesize_splits)(args.work)
