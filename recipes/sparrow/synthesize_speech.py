"""Synthesize the sentences with espeak-ng and flite: voice, accent, pace and augmentation.

    python recipes/sparrow/synthesize_speech.py --work DIR

writes `DIR/clips/<split>/<number>.flac` (16 kHz mono) and `DIR/<split>.jsonl`, a row per clip:
path, text, engine, voice, gender, accent, pace and split. Clip `i` of a split is the same in every
run; a clip that exists is not made again.
"""

import argparse
import io
import json
import random
import subprocess
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from augment import SAMPLE_RATE, augment_waveform
from sentences import add_punctuation, iter_sentences

SEED = 7
SPLITS = {"test": (200, 100), "unheard": (0, 60), "train": (22_000, 11_000)}  # espeak, flite
# of the stream of sentences, which does not repeat; names of splits are part of the seeds
FIRST_SENTENCE = {"test": 0, "unheard": 300, "train": 600}
AUGMENT_PROBABILITY = 0.6
MAX_SECONDS = 7.0
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
UNSEEN_VOICE = "awb"  # of flite; not in training
ESPEAK_WORDS_PER_MINUTE = {"slow": (125, 142), "normal": (155, 180), "fast": (200, 225)}
FLITE_STRETCH = {"slow": (1.22, 1.4), "normal": (0.93, 1.07), "fast": (0.68, 0.8)}

ManifestRow = dict[str, Any]


@dataclass(frozen=True)
class ClipSpec:
    """One clip to synthesize.

    Attributes:
        path: of the audio file, from the working folder; seeds every random choice.
        text: the transcript, without punctuation.
        engine: espeak or flite.
        voice: by the engine's name for it.
        gender: male or female.
        accent: of ACCENTS.
        pace: slow, normal or fast.
        split: test, unheard or train.
    """

    path: str
    text: str
    engine: str
    voice: str
    gender: str
    accent: str
    pace: str
    split: str


def synthesize_splits(work_dir: Path, *, num_processes: int = 2) -> None:
    """Write the clips and the manifest of every split."""
    for split in SPLITS:
        clip_specs = make_clip_specs(split)
        (work_dir / "clips" / split).mkdir(parents=True, exist_ok=True)
        with Pool(num_processes) as pool:
            for _ in pool.imap_unordered(partial(_write_clip, work_dir), clip_specs, chunksize=50):
                pass
        lines = "".join(json.dumps(asdict(clip_spec)) + "\n" for clip_spec in clip_specs)
        (work_dir / f"{split}.jsonl").write_text(lines, encoding="utf-8")


def read_manifest(path: Path) -> list[ManifestRow]:
    """Read a manifest, a JSON object per line."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _write_clip(work_dir: Path, clip_spec: ClipSpec) -> None:
    path = work_dir / clip_spec.path
    if not path.exists():
        temp_path = path.with_suffix(".part")
        waveform = synthesize_clip(clip_spec)
        soundfile.write(temp_path, waveform, SAMPLE_RATE, subtype="PCM_16", format="FLAC")
        temp_path.replace(path)


def make_clip_specs(split: str) -> list[ClipSpec]:
    """Return the clips of a split, the engines in random order."""
    num_espeak, num_flite = SPLITS[split]
    engines = ["espeak"] * num_espeak + ["flite"] * num_flite
    random.Random(f"{SEED}:{split}").shuffle(engines)
    first = FIRST_SENTENCE[split]
    sentences = islice(iter_sentences(SEED), first, first + len(engines))
    return [
        _draw_clip_spec(number, text=text, engine=engine, split=split)
        for number, (text, engine) in enumerate(zip(sentences, engines, strict=True))
    ]


def _draw_clip_spec(number: int, *, text: str, engine: str, split: str) -> ClipSpec:
    rng = random.Random(f"{SEED}:{split}:{number}")
    pace = rng.choice(("slow", "normal", "normal", "fast"))
    gender = rng.choice(("male", "female"))
    if engine == "espeak":
        language = rng.choice(list(ACCENTS))
        variants = FEMALE_VARIANTS if gender == "female" else MALE_VARIANTS
        voice = f"{language}+{rng.choice(variants.split())}"
        accent = ACCENTS[language]
    else:
        voice = UNSEEN_VOICE if split == "unheard" else rng.choice(list(FLITE_GENDERS))
        gender = FLITE_GENDERS.get(voice, "male")
        accent = "scottish" if voice == UNSEEN_VOICE else "american"
    path = f"clips/{split}/{number:05d}.flac"
    return ClipSpec(path, text, engine, voice, gender, accent, pace, split)


def synthesize_clip(clip_spec: ClipSpec) -> np.ndarray:
    """Return the clip, float32 (samples,) at 16 kHz; training clips may be augmented."""
    rng = random.Random(f"{SEED}:{clip_spec.path}")
    run_engine = _run_espeak if clip_spec.engine == "espeak" else _run_flite
    speech = run_engine(clip_spec, rng)
    before, after = (np.zeros(rng.randint(0, SAMPLE_RATE * 3 // 10), np.float32) for _ in range(2))
    waveform = np.concatenate([before, speech, after])[: int(MAX_SECONDS * SAMPLE_RATE)]
    if clip_spec.split == "train" and rng.random() < AUGMENT_PROBABILITY:
        waveform = augment_waveform(waveform, np.random.default_rng(rng.getrandbits(32)))
    return waveform


def _run_espeak(clip_spec: ClipSpec, rng: random.Random) -> np.ndarray:
    words_per_minute = rng.randint(*ESPEAK_WORDS_PER_MINUTE[clip_spec.pace])
    command = ["espeak-ng", "-v", clip_spec.voice, "-s", str(words_per_minute)]
    command += ["-p", str(rng.randint(30, 70)), "--stdout", add_punctuation(clip_spec.text)]
    wav = subprocess.run(command, capture_output=True, check=True).stdout
    sample_rate = int.from_bytes(wav[24:28], "little")  # on a pipe, the header has no length
    samples = np.frombuffer(wav[44 : len(wav) // 2 * 2], "<i2").astype(np.float32) / 32768
    return soxr.resample(samples, sample_rate, SAMPLE_RATE).astype(np.float32)


def _run_flite(clip_spec: ClipSpec, rng: random.Random) -> np.ndarray:
    stretch = f"duration_stretch={rng.uniform(*FLITE_STRETCH[clip_spec.pace]):.3f}"
    command = ["flite", "-voice", clip_spec.voice, "--setf", stretch]
    command += ["-t", add_punctuation(clip_spec.text), "-o", "/dev/stdout"]
    wav = subprocess.run(command, capture_output=True, check=True).stdout
    samples, _ = soundfile.read(io.BytesIO(wav), dtype="float32")
    return samples


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    synthesize_splits(parser.parse_args().work)
