"""A version that leaves the store: a base of its own, with what was learned folded in.

folder/
  dlm_base.json  config.json  model.safetensors  tokenizer files
  README.md                  how to use it
  snapshot_manifest.json     sha256 of every file
"""

from dataclasses import replace
from pathlib import Path
from typing import cast

import torch

from dlm.errors import TrainingError
from dlm.model.face import Features, Model
from dlm.model.load import load_version
from dlm.model.quantize import unpack
from dlm.model.stitched import Stitched, load_stitched, save_stitched
from dlm.plan.bases import Base
from dlm.store.facts import Version
from dlm.use.manifest import MANIFEST, write_manifest
from dlm.use.snapshot import snapshot

TOLERANCE = 1e-3  # largest difference of logits between the model and what was written, fp32


def export(base: Base, version: Version, system: str | None, folder: Path) -> None:
    """Write a version into the empty `folder`: a snapshot, or a stitched base of its own."""
    if base.kind == "native":
        snapshot(base, version, system, folder)
    else:
        model = load_version(base, version.path, device="cpu")
        write_base(cast(Stitched, model), version, folder)


def write_base(model: Stitched, version: Version, folder: Path) -> None:
    """Write `model` into `folder`, and read it back to see that it says the same."""
    unpack(model)
    base = model.base
    key = f"{base.key}-{version.name}"
    probe = _probe(model)
    merge(model)
    named = replace(base, key=key, revision=version.sha256[:12])
    bare = Stitched(named, model.config, model.tokenizer)
    bare.load_state_dict(_bare_state(model))
    save_stitched(bare, folder)
    difference = float((_probe(load_stitched(folder)) - probe).abs().max())
    if not difference <= TOLERANCE:
        raise TrainingError(
            f"what was written answers otherwise (logits differ by {difference:.2g})",
            where=str(folder),
            mend="report this document and its version",
        )
    (folder / "README.md").write_text(_readme(key, version), encoding="utf-8")
    write_manifest(folder, base, version, target="stitched", architecture="Stitched")


def write_stitched(model: Model, folder: Path) -> None:
    """Write a base just stitched into the empty `folder`."""
    save_stitched(cast(Stitched, model), folder)
    (folder / "README.md").write_text(
        f"""# {model.base.key}

A base stitched by `dlm stitch`: nobody has taught it to hear yet. Licence: {model.base.license}.

Name this folder in a document, as `base_model: PATH/OF/THIS/FOLDER`, and `dlm train` it.
""",
        encoding="utf-8",
    )


def merge(model: Stitched) -> None:
    """Fold LoRA into the layers it sits on."""
    from peft.tuners.lora import LoraLayer  # which loads bitsandbytes, wherever it is

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
    channels = 1 if model.base.ear == "wave" else model.base.bins
    sound = torch.randn(1, channels, int(frames), generator=chance)
    heard: Features = model.eval().hear(sound, frames)
    audio = model.project(heard)
    text = model.embed(torch.arange(8)[None])
    embedded = torch.cat([text, audio[None], text], dim=1)
    attention = torch.ones(embedded.shape[:2], dtype=torch.long)
    return model.speak(model.think(embedded, attention)[0])


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

Scores, of held-out clips if there were any:

{scores or "- nothing was measured"}

`{MANIFEST}` lists every file with its sha256.
"""
