"""Write what tests/test_released.py reads: bases, documents, stores and exports of this version.

    python tests/released/make.py tests/released/vX.Y.Z

Run it with the version that is being released, never with a later one: the folders are what files
of that version look like. v0.1.0 was written by the functions as they were called then (commit
65a9c8b), from tiny random models and tones; nothing in it comes from elsewhere.
"""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import soundfile
from safetensors.numpy import load_file

import dlm
from dlm.training.events import StepCompleted
from tests.pretrained_twins import write_pretrained_twin
from tests.tiny_models import write_tiny_model

WORDS = "one two three four".split()
IDS = {
    "stitched": "01ARZ3NDEKTSV4RRFFQ69G5FA1",
    "native": "01ARZ3NDEKTSV4RRFFQ69G5FA2",
    "cut": "01ARZ3NDEKTSV4RRFFQ69G5FA3",
    "whole": "01ARZ3NDEKTSV4RRFFQ69G5FA4",
}
DOCUMENT = """---
dlm_id: {dlm_id}
dlm_version: 11
base_model: {base_model}
training:
  precision: fp32
  adapter: lora
  lora_r: 2
  micro_batch_size: 2
  held_out: 2
  sources:
    - path: clips
{more}---

::audio path="clips/0.wav" transcript="one"::

::instruction::

### Q
What is one and one?

### A
two
"""


def write_clips(folder: Path) -> None:
    """Four tones and their texts."""
    folder.mkdir()
    for number, word in enumerate(WORDS):
        time = np.arange(int(16000 * (0.4 + 0.05 * number))) / 16000
        noise = np.random.default_rng(number).normal(0, 0.01, len(time))
        tone = 0.3 * np.sin(2 * np.pi * (200 + 150 * number) * time) + noise
        soundfile.write(folder / f"{number}.wav", tone.astype("f"), 16000, subtype="PCM_16")
        (folder / f"{number}.txt").write_text(word + "\n")


def write_document(name: str, base_model: str, more: str = "") -> Path:
    path = Path(f"{name}.dlm")
    path.write_text(DOCUMENT.format(dlm_id=IDS[name], base_model=base_model, more=more))
    return path


def make_versions(name: str, base_model: str) -> dict:
    """Two versions of a document, the first in use and exported; what they score."""
    path = write_document(name, base_model)
    for steps in (2, 3):
        list(dlm.train(path, steps=steps, fresh=True))
    dlm.use_version(path, "v0001")
    dlm.export(path, out=Path(f"export-{name}").absolute())
    versions = dlm.show(path).versions
    expected = {
        version.name: dlm.evaluate(path, version=version.name).scores for version in versions
    }
    expected["base"] = dlm.evaluate(path, bare=True).scores
    expected["sha256"] = {version.name: version.sha256 for version in versions}
    audio = [Path("clips/1.wav")]
    expected["answer"] = "".join(dlm.prompt(path, "What?", audio=audio, max_tokens=5))
    return expected


def make_cut_run() -> dict:
    """A run that was stopped after three of six steps; what the whole one comes to."""
    more = "  stability:\n    max_skipped_steps: 3\n"
    done: list[int] = []
    document = write_document("cut", "tiny-stitched", more)
    for event in dlm.train(document, steps=6, seed=7, stop=lambda: len(done) >= 3):
        if isinstance(event, StepCompleted):
            done.append(event.step)
    whole = write_document("whole", "tiny-stitched", more)
    *events, version = dlm.train(whole, steps=6, seed=7)
    weights = load_file(version.path / "adapter_model.safetensors")
    shutil.rmtree(Path(os.environ["DLM_HOME"]) / "store" / IDS["whole"])
    whole.unlink()
    return {
        "losses": [event.loss for event in events if isinstance(event, StepCompleted)],
        "steps_done": done[-1],
        "scores": version.scores,
        "norms": {name: float(np.linalg.norm(each.astype("f8"))) for name, each in weights.items()},
    }


def main() -> None:
    folder = Path(sys.argv[1]).absolute()
    folder.mkdir(parents=True)
    os.chdir(folder)
    os.environ["DLM_HOME"] = str(folder / "home")
    write_tiny_model(folder / "tiny-stitched")
    write_pretrained_twin("qwen2_audio", folder / "tiny-qwen2-audio")
    write_clips(folder / "clips")
    expected = {
        "stitched": make_versions("stitched", "tiny-stitched"),
        "native": make_versions("native", "tiny-qwen2-audio"),
        "cut": make_cut_run(),
    }
    Path("expected.json").write_text(json.dumps(expected, indent=2) + "\n")


if __name__ == "__main__":
    main()
