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
from dlm.exporters.hf_snapshot import write_hf_snapshot
from dlm.exporters.manifest import EXPORT_MANIFEST_FILE, write_export_manifest
from dlm.models.audio_lm import AudioLanguageModel, EncoderOutput
from dlm.models.composed import ComposedAudioLM, load_composed_model, save_composed_model
from dlm.models.load import load_version
from dlm.models.quantize import dequantize_linear_layers
from dlm.plan.model_spec import ModelSpec
from dlm.store.records import Version

LOGIT_TOLERANCE = 1e-3  # largest difference of logits between the model and what was written, fp32


def export_version(
    spec: ModelSpec, version: Version, system_prompt: str | None, folder: Path
) -> None:
    """Write a version into the empty `folder`: a snapshot, or a stitched base of its own."""
    if spec.kind == "native":
        write_hf_snapshot(spec, version, system_prompt, folder)
    else:
        model = load_version(spec, version.path, device="cpu")
        write_merged_model(cast(ComposedAudioLM, model), version, folder)


def write_merged_model(model: ComposedAudioLM, version: Version, folder: Path) -> None:
    """Write `model` into `folder`, and read it back to see that it says the same."""
    dequantize_linear_layers(model)
    base = model.spec
    key = f"{base.key}-{version.name}"
    probe = _compute_probe_logits(model)
    merge_lora_layers(model)
    named = replace(base, key=key, revision=version.sha256[:12])
    bare = ComposedAudioLM(named, model.config, model.tokenizer)
    bare.load_state_dict(_merged_state_dict(model))
    save_composed_model(bare, folder)
    difference = float((_compute_probe_logits(load_composed_model(folder)) - probe).abs().max())
    if not difference <= LOGIT_TOLERANCE:
        raise TrainingError(
            f"what was written answers otherwise (logits differ by {difference:.2g})",
            where=str(folder),
            hint="report this document and its version",
        )
    (folder / "README.md").write_text(_format_model_card(key, version), encoding="utf-8")
    write_export_manifest(folder, base, version, target="stitched", architecture="Stitched")


def write_composed_model(model: AudioLanguageModel, folder: Path) -> None:
    """Write a base just stitched into the empty `folder`."""
    save_composed_model(cast(ComposedAudioLM, model), folder)
    (folder / "README.md").write_text(
        f"""# {model.spec.key}

A base stitched by `dlm stitch`: nobody has taught it to hear yet. Licence: {model.spec.license}.

Name this folder in a document, as `base_model: PATH/OF/THIS/FOLDER`, and `dlm train` it.
""",
        encoding="utf-8",
    )


def merge_lora_layers(model: ComposedAudioLM) -> None:
    """Fold LoRA into the layers it sits on."""
    from peft.tuners.lora import LoraLayer  # which loads bitsandbytes, wherever it is

    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.merge()


def _merged_state_dict(model: ComposedAudioLM) -> dict[str, torch.Tensor]:
    """The merged weights under the names of the bare base."""
    state = model.state_dict().items()
    return {name.replace(".base_layer", ""): each for name, each in state if ".lora_" not in name}


@torch.no_grad()
def _compute_probe_logits(model: ComposedAudioLM) -> torch.Tensor:
    """Logits after one second of noise and a few tokens: enough to touch every weight."""
    chance = torch.Generator().manual_seed(0)
    strides = model.spec.audio_spec
    frames = torch.tensor([strides.sample_rate // strides.hop_length])
    channels = 1 if model.spec.encoder_input == "wave" else model.spec.num_mel_bins
    sound = torch.randn(1, channels, int(frames), generator=chance)
    heard: EncoderOutput = model.eval().encode_audio(sound, frames)
    audio = model.project_audio(heard)
    text = model.embed_input_ids(torch.arange(8)[None])
    embedded = torch.cat([text, audio[None], text], dim=1)
    attention = torch.ones(embedded.shape[:2], dtype=torch.long)
    return model.compute_logits(model.forward_lm(embedded, attention)[0])


def _format_model_card(model_key: str, version: Version) -> str:
    scores = "\n".join(f"- {name}: {value:.4g}" for name, value in sorted(version.scores.items()))
    return f"""# {model_key}

A base that can hear, made from {version.base_model} by `dlm train` ({version.steps} steps).

Use it in any document:

```yaml
base_model: {model_key}   # the path of this folder
```

or straight away:

```
dlm init my.dlm --base PATH/OF/THIS/FOLDER
dlm prompt my.dlm --base --audio clip.wav "What was said?"
```

Scores, of held-out clips if there were any:

{scores or "- nothing was measured"}

`{EXPORT_MANIFEST_FILE}` lists every file with its sha256.
"""
