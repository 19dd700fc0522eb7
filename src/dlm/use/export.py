"""A version that leaves the store: a base of its own, with what was learned folded in.

folder/
  dlm_base.json  config.json  model.safetensors  tokenizer files
  README.md                  how to use it
  snapshot_manifest.json     sha256 of every file
"""

import json
from dataclasses import replace
from pathlib import Path

import torch
from peft.tuners.lora import LoraLayer

from dlm.errors import BaseError, TrainingError
from dlm.files import hash_tree, make_folder
from dlm.model.face import Features, Model
from dlm.model.stitched import Stitched, load_stitched, save_stitched
from dlm.store.facts import Version

MANIFEST = "snapshot_manifest.json"
TOLERANCE = 1e-3  # largest difference of logits between the model and what was written, fp32


def export(model: Model, version: Version, folder: Path) -> None:
    """Write `model` into the empty `folder`, and read it back to see that it says the same.

    Raises BaseError for a native base: what it learned is an adapter for a released model.
    """
    if not isinstance(model, Stitched):
        mend = f"its adapter is {version.path}, in the names of transformers' own class"
        raise BaseError(f"{model.base.key} cannot be written as a base of its own", mend=mend)
    make_folder(folder)
    key = f"{model.base.key}-{version.name}"
    base = replace(model.base, key=key, revision=version.sha256[:12])
    probe = _probe(model)
    merge(model)
    bare = Stitched(base, model.config, model.tokenizer)
    bare.load_state_dict(_bare_state(model))
    save_stitched(bare, folder)
    difference = float((_probe(load_stitched(folder)) - probe).abs().max())
    if not difference <= TOLERANCE:
        raise TrainingError(
            f"what was written answers otherwise (logits differ by {difference:.2g})",
            where=str(folder),
            mend="report this document and its version",
        )
    (folder / "README.md").write_text(_readme(base.key, version), encoding="utf-8")
    _write_manifest(folder, model, version)


def merge(model: Stitched) -> None:
    """Fold LoRA into the layers it sits on."""
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.merge()


def _bare_state(model: Stitched) -> dict[str, torch.Tensor]:
    """The merged weights under the names of the bare base."""
    state = model.state_dict().items()
    return {name.replace(".base_layer", ""): each for name, each in state if ".lora_" not in name}


@torch.no_grad()
def _probe(model: Stitched) -> torch.Tensor:
    """Logits after one second of noise and a few tokens: enough to touch every weight."""
    chance = torch.Generator().manual_seed(0)
    strides = model.base.strides
    frames = torch.tensor([strides.rate // strides.hop])
    mel = torch.randn(1, model.base.bins, int(frames), generator=chance)
    heard: Features = model.eval().hear(mel, frames)
    audio = model.project(heard)
    text = model.embed(torch.arange(8)[None])
    embedded = torch.cat([text, audio[None], text], dim=1)
    attention = torch.ones(embedded.shape[:2], dtype=torch.long)
    return model.speak(model.think(embedded, attention)[0])


def _write_manifest(folder: Path, model: Stitched, version: Version) -> None:
    base = model.base
    facts = {
        "export_target": "stitched",
        "base_model": base.key,
        "base_model_revision": base.revision,
        "modality": "audio-language",
        "audio_token": base.placeholder,
        "sample_rate": base.strides.rate,
        "max_length_seconds": base.strides.window_seconds,
        "adapter_version": version.number,
        "created_at": version.created_at,
        "scores": version.scores,
        "artifacts": [
            {"path": path, "sha256": sha256, "size_bytes": (folder / path).stat().st_size}
            for path, sha256 in sorted(hash_tree(folder).items())
        ],
    }
    text = json.dumps(facts, indent=2, ensure_ascii=False) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8")


def _readme(key: str, version: Version) -> str:
    scores = "\n".join(f"- {name}: {value:.4g}" for name, value in sorted(version.scores.items()))
    return f"""# {key}

A base that can hear, made from {version.base} by `dlm train` ({version.steps} steps).

Use it in any document:

```yaml
base_model: {key}   # the path of this folder
```

or straight away:

```
dlm init my.dlm --base PATH/OF/THIS/FOLDER
dlm prompt my.dlm --base --audio clip.wav "What was said?"
```

Scores on held-out clips:

{scores or "- none were held out"}

`{MANIFEST}` lists every file with its sha256.
"""
