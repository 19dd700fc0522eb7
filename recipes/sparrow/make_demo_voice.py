"""Make the example voice: clean clips of flite's awb, which is not in sparrow's training data.

    python recipes/sparrow/make_demo_voice.py --work DIR --out examples/voice

writes `clips/001.flac` and `clips/001.txt` to 120, and `new.flac` and `new.txt` beside the folder.
None of the sentences is in a split of `DIR`.
"""

import argparse
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

from augment import SAMPLE_RATE
from sentences import add_punctuation, make_sentence
from synthesize_speech import (
    SPLITS,
    UNSEEN_FLITE_VOICE,
    ClipSpec,
    read_manifest,
    synthesize_clip,
)

NUM_CLIPS = 120
MIN_WORDS, MAX_WORDS = 4, 8
NUM_BITS = 11  # of 16: FLAC files become smaller, without an audible difference
PEAK = 0.9


def make_demo_voice(work_dir: Path, out_dir: Path) -> None:
    """Synthesize the clips, and write each beside its transcript."""
    (out_dir / "clips").mkdir(parents=True, exist_ok=True)
    for number, text in zip(range(1, NUM_CLIPS + 2), _iter_new_sentences(work_dir), strict=False):
        stem = out_dir / "clips" / f"{number:03d}" if number <= NUM_CLIPS else out_dir / "new"
        clip_spec = ClipSpec(
            path=f"voice/{stem.name}",
            text=text,
            spoken=add_punctuation(text),
            engine="flite",
            voice=UNSEEN_FLITE_VOICE,
            gender="male",
            accent="scottish",
            pace="normal",
            speed=1.0,
            split="",
            natural="",
        )
        samples = _quantize_waveform(synthesize_clip(work_dir, clip_spec))
        soundfile.write(stem.with_suffix(".flac"), samples, SAMPLE_RATE, compression_level=1.0)
        stem.with_suffix(".txt").write_text(text + "\n", encoding="utf-8")


def _iter_new_sentences(work_dir: Path) -> Iterator[str]:
    """Yield short sentences that are in no split."""
    used = {row["text"] for split in SPLITS for row in read_manifest(work_dir / f"{split}.jsonl")}
    rng = random.Random("a new voice")
    while True:
        text = make_sentence(rng)
        if text not in used and MIN_WORDS <= len(text.split()) <= MAX_WORDS:
            used.add(text)
            yield text


def _quantize_waveform(waveform: np.ndarray) -> np.ndarray:
    """Scale to the peak, and return int16 with the lowest bits zero."""
    step = 1 << (16 - NUM_BITS)
    scaled = waveform * (PEAK / np.abs(waveform).max()) * 32_768
    return (np.round(scaled / step) * step).astype(np.int16)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    make_demo_voice(args.work, args.out)
