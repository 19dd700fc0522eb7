"""Exports a version of a pretrained model as a folder that plain transformers and peft load.

folder/
  adapter/                   adapter_config.json, adapter_model.safetensors, in PEFT's format
  model/                     in its place where all weights were trained
  processor/                 the base model's processor, byte for byte
  README.md                  how to load it and ask it something
  snapshot_manifest.json     sha256 of every other file

For an adapter the base model is not loaded: the tensors of a version are only renamed.
"""

import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoConfig

from dlm.errors import ModelError
from dlm.exporters.manifest import write_export_manifest
from dlm.exporters.model_card import format_model_card
from dlm.models.adapters import (
    ADAPTER_WEIGHTS_FILE,
    apply_adapter,
    get_trainable_parameters,
    load_adapter_weights,
    read_adapter_spec,
    read_adapter_tensors,
)
from dlm.models.load import get_tokenizer_dir, load_base_model, load_tokenizer
from dlm.models.pretrained import MODEL_FAMILIES, PretrainedAudioLM, silence_transformers
from dlm.models.quantize import silence_bitsandbytes
from dlm.plan.model_spec import ModelSpec
from dlm.plan.types import AdapterSpec
from dlm.store.records import Version

MODEL_PREFIX = "whole."  # of tensor names in a PretrainedAudioLM
LORA_MARKER = ".lora_"
DORA_VECTOR = "lora_magnitude_vector"
PROCESSOR_FILE_PATTERNS = (  # of its files, and of the configuration that names its class
    *("*processor_config.json", "chat_template.*", "config.json", "tekken.json"),
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt"),
)


def write_hf_snapshot(
    spec: ModelSpec, version: Version, system_prompt: str | None, folder: Path
) -> None:
    """Write a version of a pretrained model into an empty folder.

    Raises:
        ModelError: the base model has no processor (`model.no_processor`), or base model or version
            cannot be read (`model.*`).
    """
    adapter = read_adapter_spec(version.path, spec)
    _copy_processor(spec, folder / "processor")
    if adapter.kind == "full":
        _save_model(spec, adapter, version, folder / "model")
    else:
        _save_adapter(spec, adapter, version, folder / "adapter")
    model_card = format_model_card(spec, version, adapter, load_tokenizer(spec), system_prompt)
    (folder / "README.md").write_text(model_card, encoding="utf-8")
    architecture = MODEL_FAMILIES[spec.family].architecture.__name__
    write_export_manifest(folder, spec, version, target="hf_snapshot", architecture=architecture)


def _copy_processor(spec: ModelSpec, folder: Path) -> None:
    source = get_tokenizer_dir(spec)
    if not any(source.glob("*processor_config.json")):
        raise ModelError(
            f"could not load processor for '{spec.key}'",
            where=str(source),
            hint="put its processor_config.json or preprocessor_config.json there",
            code="model.no_processor",
        )
    folder.mkdir()
    for path in {path for pattern in PROCESSOR_FILE_PATTERNS for path in source.glob(pattern)}:
        shutil.copyfile(path, folder / path.name)


def _save_adapter(spec: ModelSpec, adapter: AdapterSpec, version: Version, folder: Path) -> None:
    """Save LoRA weights, and modules trained whole, under the names that PEFT knows."""
    silence_bitsandbytes()
    from peft import LoraConfig
    from peft.utils.constants import DUMMY_TARGET_MODULES

    tensors = {
        name.removeprefix(MODEL_PREFIX): tensor
        for name, tensor in read_adapter_tensors(version.path).items()
    }
    lora_modules = {name.partition(LORA_MARKER)[0] for name in tensors if LORA_MARKER in name}
    whole_modules = {name.rpartition(".")[0] for name in tensors if LORA_MARKER not in name}
    config = LoraConfig(
        base_model_name_or_path=spec.source,
        revision=spec.revision,
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        use_dora=adapter.kind == "dora",
        target_modules=sorted(lora_modules) or DUMMY_TARGET_MODULES,
        modules_to_save=sorted(whole_modules) or None,
        inference_mode=True,
    )
    folder.mkdir()
    config.save_pretrained(str(folder))
    peft_tensors = {_to_peft_name(name): tensor for name, tensor in tensors.items()}
    save_file(peft_tensors, folder / ADAPTER_WEIGHTS_FILE, metadata={"format": "pt"})


def _to_peft_name(tensor_name: str) -> str:
    """The name of a tensor in an adapter that PEFT saved, which is without the adapter's name."""
    if LORA_MARKER in tensor_name:
        tensor_name = tensor_name.replace(f"{DORA_VECTOR}.default.weight", DORA_VECTOR)
        tensor_name = tensor_name.replace(".default.", ".")
    return f"base_model.model.{tensor_name}"


def _save_model(spec: ModelSpec, adapter: AdapterSpec, version: Version, folder: Path) -> None:
    """Save all weights, in the dtype the base model was released in."""
    dtype = AutoConfig.from_pretrained(get_tokenizer_dir(spec)).dtype or torch.float32
    model = load_base_model(spec, dtype=dtype)
    apply_adapter(model, adapter, seed=0)
    load_adapter_weights(model, version.path)
    for parameter in get_trainable_parameters(model).values():
        parameter.data = parameter.data.to(dtype)
    if isinstance(model, PretrainedAudioLM):
        with silence_transformers():
            model.whole.save_pretrained(folder)
