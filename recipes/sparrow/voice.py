"""The example voice: clean clips of a speaker that sparrow never heard, for the demo to learn.

    python recipes/sparrow/voice.py --work DIR --out examples/voice

writes `clips/001.flac` and `clips/001.txt` onwards, and `new.flac` and `new.txt` beside the folder.
No sentence of theirs is in any split of `DIR`.
"""

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

import speech
import text

CLIPS = 120
FEWEST_WORDS, MOST_WORDS = 4, 8
KEPT_BITS = 11  # of 16: what FLAC then leaves out, nobody hears
PEAK = 0.9


def make_voice(work: Path, out: Path) -> None:
    """Speak the clips and write each beside its transcript."""
    (out / "clips").mkdir(parents=True, exist_ok=True)
    for number, said in zip(range(1, CLIPS + 2), _fresh(work), strict=False):
        stem = out / "clips" / f"{number:03d}" if number <= CLIPS else out / "new"
        spoken = speech.Clip(
            f"voice/{stem.name}", said, "flite", speech.UNHEARD, "male", "scottish", "normal", ""
        )
        samples = _coarse(speech.speak(spoken))
        soundfile.write(stem.with_suffix(".flac"), samples, speech.RATE, compression_level=1.0)
        stem.with_suffix(".txt").write_text(said + "\n", encoding="utf-8")


def _fresh(work: Path) -> Iterator[str]:
    """Short sentences that no split holds."""
    known: set[str] = set()
    for split in speech.SPLITS:
        lines = (work / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        known.update(json.loads(line)["text"] for line in lines)
    chance = random.Random("a new voice")
    while True:
        said = text.sentence(chance)
        if said not in known and FEWEST_WORDS <= len(said.split()) <= MOST_WORDS:
            known.add(said)
            yield said


def _coarse(samples: np.ndarray) -> np.ndarray:
    """`samples` as int16 at full loudness with the lowest bits zero."""
    step = 1 << (16 - KEPT_BITS)
    loud = samples * (PEAK / np.abs(samples).max()) * 32_768
    return (np.round(loud / step) * step).astype(np.int16)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    wanted = parser.parse_args()
    make_voice(wanted.work, wanted.out)
