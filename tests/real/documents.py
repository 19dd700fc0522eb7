"""Documents on real parts, and human clips for them."""

import json
from pathlib import Path
from typing import Any

import yaml

from dlm.config.model_schema import parse_base_model
from dlm.plan.model_spec import ModelSpec
from dlm.plan.resolve import resolve_model_spec
from tests.real.conftest import PartFn
from tests.tiny_models import DLM_ID

MAX_CLIP_BYTES = 90_000  # under three seconds of 16 kHz
MIN_CLIP_BYTES = 30_000


def list_clips(folder: Path, count: int) -> list[Path]:
    """The first clips of one to three seconds with a text of several words, each text once."""
    clips: dict[str, Path] = {}
    for path in sorted(folder.glob("*.wav")):
        text = path.with_suffix(".txt").read_text(encoding="utf-8").strip()
        if MIN_CLIP_BYTES < path.stat().st_size < MAX_CLIP_BYTES and len(text.split()) > 1:
            clips.setdefault(text, path)
        if len(clips) == count:
            break
    assert len(clips) == count, f"{folder} has {len(clips)} such clips"
    return list(clips.values())


def make_real_base_model(part: PartFn, **components: Any) -> dict[str, Any]:
    """The `base_model` of whisper-base and the language model, with other components."""
    parts = {"encoder": str(part("whisper-base")), "lm": str(part("gemma-3-270m"))}
    return {**parts, **components}


def compose_real_spec(part: PartFn, **components: Any) -> ModelSpec:
    """The spec of `make_real_base_model`."""
    return resolve_model_spec(parse_base_model(make_real_base_model(part, **components)), Path())


def write_real_document(
    folder: Path, base_model: dict[str, Any], clips: list[Path], **training: Any
) -> Path:
    """Write a document on clips where they are, each with its own text."""
    texts = [path.with_suffix(".txt").read_text(encoding="utf-8").strip() for path in clips]
    sections = [
        f'::audio path="{path}" transcript={json.dumps(text)}::\n'
        for path, text in zip(clips, texts, strict=True)
    ]
    config = {
        "dlm_id": DLM_ID,
        "dlm_version": 15,
        "base_model": base_model,
        "training": {"held_out": 0, **training},
    }
    path = folder / "real.dlm"
    path.write_text(f"---\n{yaml.safe_dump(config)}---\n\n" + "\n".join(sections), encoding="utf-8")
    return path
