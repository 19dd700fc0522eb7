"""Speech for the sentences: who says each, how fast, and what the room does to it.

    python recipes/sparrow/speech.py --work DIR

writes `DIR/clips/<split>/<number>.flac` (16 kHz mono) and `DIR/<split>.jsonl`, one line a clip:
path, text, engine, voice, gender, accent, pace and split. Clip `i` of a split is the same on every
run; a clip that is there is not made again.
"""

import argparse
import io
import json
import random
import subprocess
from dataclasses import asdict, dataclass
from itertools import islice
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import soundfile
import soxr

import text
from room import rough_up

RATE = 16_000
SEED = 7
HELD_OUT = 600  # sentences at the head of the stream that never train: test, then the new voice
SPLITS = {"test": (200, 100), "unheard": (0, 60), "train": (22_000, 11_000)}  # espeak, flite
ROUGH_SHARE = 0.6
LONGEST_SECONDS = 7.0
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
FEMALE = "f1 f2 f3 f4 f5 Annie linda steph anika Alicia Andrea"
MALE = "m1 m2 m3 m4 m5 m6 m7 m8 Alex Andy Michael john paul"
FLITE = {"kal16": "male", "slt": "female", "rms": "male"}
UNHEARD = "awb"
WORDS_PER_MINUTE = {"slow": (125, 142), "normal": (155, 180), "fast": (200, 225)}
STRETCH = {"slow": (1.22, 1.4), "normal": (0.93, 1.07), "fast": (0.68, 0.8)}


@dataclass(frozen=True)
class Clip:
    """One clip to be spoken: what the generator knows about it."""

    path: str
    text: str
    engine: str
    voice: str
    gender: str
    accent: str
    pace: str
    split: str


def make_speech(work: Path, *, processes: int = 2) -> None:
    """Speak every split into `work`."""
    for split in SPLITS:
        clips = plan(split)
        (work / "clips" / split).mkdir(parents=True, exist_ok=True)
        with Pool(processes) as pool:
            for _ in pool.imap_unordered(_Speaker(work), clips, chunksize=50):
                pass
        lines = "".join(json.dumps(asdict(clip)) + "\n" for clip in clips)
        (work / f"{split}.jsonl").write_text(lines, encoding="utf-8")


def plan(split: str) -> list[Clip]:
    """The clips of a split, in an order that mixes the engines."""
    espeak, flite = SPLITS[split]
    chance = random.Random(f"{SEED}:{split}")
    engines = ["espeak"] * espeak + ["flite"] * flite
    chance.shuffle(engines)
    lines = _transcripts(split, len(engines))
    return [
        _cast(number, transcript=line, engine=engine, split=split)
        for number, (line, engine) in enumerate(zip(lines, engines, strict=True))
    ]


def speak(clip: Clip) -> np.ndarray:
    """The clip as float32 at 16 kHz, clean or roughened as its split and number decide."""
    chance = random.Random(f"{SEED}:{clip.path}")
    samples = (_espeak if clip.engine == "espeak" else _flite)(clip, chance)
    quiet = [np.zeros(chance.randint(0, RATE * 3 // 10), np.float32) for _ in range(2)]
    samples = np.concatenate([quiet[0], samples, quiet[1]])[: int(LONGEST_SECONDS * RATE)]
    if clip.split == "train" and chance.random() < ROUGH_SHARE:
        samples = rough_up(samples, np.random.default_rng(chance.getrandbits(32)))
    return samples


@dataclass(frozen=True)
class _Speaker:
    """Speaks a clip into its file unless it is there."""

    work: Path

    def __call__(self, clip: Clip) -> None:
        path = self.work / clip.path
        if not path.exists():
            part = path.with_suffix(".part")
            soundfile.write(part, speak(clip), RATE, subtype="PCM_16", format="FLAC")
            part.replace(path)


def _transcripts(split: str, count: int) -> list[str]:
    """Held-out sentences lie at the head of one stream without repetitions; the rest trains."""
    first = {"test": 0, "unheard": 300, "train": HELD_OUT}[split]
    return list(islice(text.sentences(SEED), first, first + count))


def _cast(number: int, *, transcript: str, engine: str, split: str) -> Clip:
    chance = random.Random(f"{SEED}:{split}:{number}")
    pace = chance.choice(("slow", "normal", "normal", "fast"))
    gender = chance.choice(("male", "female"))
    if engine == "espeak":
        accent = chance.choice(list(ACCENTS))
        voice = f"{accent}+{chance.choice((FEMALE if gender == 'female' else MALE).split())}"
        label = ACCENTS[accent]
    else:
        voice = UNHEARD if split == "unheard" else chance.choice(list(FLITE))
        gender = FLITE.get(voice, "male")
        label = "scottish" if voice == UNHEARD else "american"
    path = f"clips/{split}/{number:05d}.flac"
    return Clip(path, transcript, engine, voice, gender, label, pace, split)


def _espeak(clip: Clip, chance: random.Random) -> np.ndarray:
    words_per_minute = chance.randint(*WORDS_PER_MINUTE[clip.pace])
    command = ["espeak-ng", "-v", clip.voice, "-s", str(words_per_minute)]
    command += ["-p", str(chance.randint(30, 70)), "--stdout", text.spoken(clip.text)]
    out = subprocess.run(command, capture_output=True, check=True).stdout
    rate = int.from_bytes(out[24:28], "little")  # the header promises no length: read past it
    samples = np.frombuffer(out[44 : len(out) // 2 * 2], "<i2").astype(np.float32) / 32768
    return soxr.resample(samples, rate, RATE).astype(np.float32)


def _flite(clip: Clip, chance: random.Random) -> np.ndarray:
    stretch = f"duration_stretch={chance.uniform(*STRETCH[clip.pace]):.3f}"
    command = ["flite", "-voice", clip.voice, "--setf", stretch]
    command += ["-t", text.spoken(clip.text), "-o", "/dev/stdout"]
    out = subprocess.run(command, capture_output=True, check=True).stdout
    samples, _ = soundfile.read(io.BytesIO(out), dtype="float32")
    return samples


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    make_speech(parser.parse_args().work)
