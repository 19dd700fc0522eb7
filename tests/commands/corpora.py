"""A document without clips, and folders of recordings with transcripts to import into it."""

from pathlib import Path

import numpy as np
import soundfile

FRONTMATTER = "---\ndlm_id: 01J9Z3K4M5N6P7Q8R9S0T1V2W3\nbase_model: sparrow # the bird\n---\n"


def write_corpus(folder: str = "corpus", num_clips: int = 3, *, sample_rate: int = 16_000) -> Path:
    """Write recordings of half a second of noise, each with a transcript."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for number in range(num_clips):
        noise = np.random.default_rng(number).normal(0, 0.1, sample_rate // 2)
        soundfile.write(f"{folder}/{number}.wav", noise, sample_rate)
        Path(folder, f"{number}.txt").write_text(f'Number "{number}" it is.')
    return Path(folder)
