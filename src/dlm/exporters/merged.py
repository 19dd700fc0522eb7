"""Exports a version of a composed model as a model of its own, with LoRA merged into its weights.

folder/
  dlm_base.json  config.json  model.safetensors  tokenizer files
  README.md                  how to use it
  snapshot_manifest.json     sha256 of every other file
"""

from dataclasses import replace
from pathlib import Path
from typing import cast

import torch

from dlm.errors import ModelError
from dlm.exporters.hf_snapshot import write_hf_snapshot
from dlm.exporters.manifest import EXPORT_MANIFEST_FILE, write_export_manifest
from dlm.models.audio_lm import AudioLanguageModel
from dlm.models.composed import ComposedAudioLM, load_composed_model, save_composed_model
from dlm.models.load import load_version
from dlm.models.quantize import dequantize_linear_layers
from dlm.plan.model_spec import ModelSpec
from dlm.store.records import Version

LOGIT_TOLERANCE = 1e-3  # largest difference of logits between model and export, fp32


def export_version(
    spec: ModelSpec, version: Version, system_prompt: str | None, folder: Path
) -> None:
    """Write a version into an empty folder: a snapshot, or a merged model of its own.

    Raises:
        ModelError: base model or version cannot be read, or the export differs from it (`model.*`).
    """
    if spec.kind == "native":
        write_hf_snapshot(spec, version, system_prompt, folder)
    else:
        model = load_version(spec, version.path, device="cpu")
        write_merged_model(cast(ComposedAudioLM, model), version, folder)


def write_merged_model(model: ComposedAudioLM, version: Version, folder: Path) -> None:
    """Merge and write a model, and read it back to compare logits.

    Raises:
        ModelError: what was written gives other logits (`model.export_differs`).
    """
    dequantize_linear_layers(model)
    spec = model.spec
    key = f"{spec.key}-{version.name}"
    logits = _compute_probe_logits(model)
    merge_lora_layers(model)
    merged_spec = replace(spec, key=key, revision=version.sha256[:12])
    merged = ComposedAudioLM(merged_spec, model.config, model.tokenizer)
    merged.load_state_dict(_get_merged_state_dict(model))
    save_composed_model(merged, folder)
    difference = float((_compute_probe_logits(load_composed_model(folder)) - logits).abs().max())
    if not difference <= LOGIT_TOLERANCE:
        raise ModelError(
            f"the written model computes other outputs (logits differ by {difference:.2g})",
            where=str(folder),
            hint="report this document and its version",
            code="model.export_differs",
        )
    (folder / "README.md").write_text(_format_merged_card(key, version), encoding="utf-8")
    write_export_manifest(folder, spec, version, target="stitched", architecture="Stitched")


def write_composed_model(model: AudioLanguageModel, folder: Path) -> None:
    """Write a model that was just composed into an empty folder."""
    save_composed_model(cast(ComposedAudioLM, model), folder)
    (folder / "README.md").write_text(
        f"""# {model.spec.key}

A base composed by `dlm stitch`, which was not trained on audio yet. Licence: {model.spec.license}.

Name this folder in a document, as `base_model: PATH/OF/THIS/FOLDER`, and `dlm train` it.
""",
        encoding="utf-8",
    )


def merge_lora_layers(model: ComposedAudioLM) -> None:
    """Merge LoRA weights into the layers they belong to, in place."""
    from peft.tuners.lora import LoraLayer  # loads bitsandbytes where it is installed

    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.merge()


def _get_merged_state_dict(model: ComposedAudioLM) -> dict[str, torch.Tensor]:
    """The merged weights, under the names of a model without LoRA."""
    return {
        name.replace(".base_layer", ""): tensor
        for name, tensor in model.state_dict().items()
        if ".lora_" not in name
    }


@torch.no_grad()
def _compute_probe_logits(model: ComposedAudioLM) -> torch.Tensor:
    """Logits of a few tokens and one second of noise, which use every weight."""
    audio_spec = model.spec.audio_spec
    num_frames = audio_spec.sample_rate // audio_spec.hop_length
    num_channels = 1 if model.spec.encoder_input == "wave" else model.spec.num_mel_bins
    rng = torch.Generator().manual_seed(0)
    noise = torch.randn(1, num_channels, num_frames, generator=rng)
    encoded = model.eval().encode_audio(noise, torch.tensor([num_frames]))
    audio = model.project_audio(encoded)
    text = model.embed_input_ids(torch.arange(8)[None])
    embeddings = torch.cat([text, audio[None], text], dim=1)  # (1, tokens, hidden_size)
    attention_mask = torch.ones(embeddings.shape[:2], dtype=torch.long)
    return model.compute_logits(model.forward_lm(embeddings, attention_mask)[0])


def _format_merged_card(key: str, version: Version) -> str:
    scores = "\n".join(f"- {name}: {value:.4g}" for name, value in sorted(version.scores.items()))
    return f"""# {key}

An audio language model, made from {version.base_model} by `dlm train` ({version.steps} steps).

Use it in any document:

```yaml
base_model: {key}   # the path of this folder
```

or directly:

```
dlm init my.dlm --base PATH/OF/THIS/FOLDER
dlm prompt my.dlm --base --audio clip.wav "What was said?"
```

Scores, of held-out clips if there were any:

{scores or "- nothing was measured"}

`{EXPORT_MANIFEST_FILE}` lists every file with its sha256.
"""
