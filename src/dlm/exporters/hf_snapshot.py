"""What a native base learned, as a folder that plain transformers and peft load.

folder/
  adapter/                   adapter_config.json, adapter_model.safetensors: PEFT's own form
  model/                     instead of it, when the whole model learned
  processor/                 the base's processor, byte for byte
  README.md                  how to load it and ask it something
  snapshot_manifest.json     sha256 of every other file

The base stays where it is, and for an adapter its weights are not even loaded: the tensors of a
version only take other names.
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
from dlm.models.pretrained import MODEL_FAMILIES, PretrainedAudioLM
from dlm.models.quantize import silence_bitsandbytes
from dlm.plan.model_spec import ModelSpec
from dlm.plan.types import AdapterSpec
from dlm.store.records import Version

MODEL_PREFIX = "whole."  # how the names in a Native begin
LORA_MARKER = ".lora_"
PROCESSOR_FILE_PATTERNS = (  # patterns of its files, and of the configuration that names its class
    *("*processor_config.json", "chat_template.*", "config.json", "tekken.json"),
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt"),
)


def write_hf_snapshot(
    spec: ModelSpec, version: Version, system_prompt: str | None, folder: Path
) -> None:
    """Write a version of a native base into the empty `folder`."""
    adapter = read_adapter_spec(version.path, spec)
    _copy_processor(spec, folder / "processor")
    if adapter.kind == "full":
        _save_model(spec, adapter, version, folder / "model")
    else:
        _save_adapter(spec, adapter, version, folder / "adapter")
    architecture = MODEL_FAMILIES[spec.family].architecture.__name__
    text = format_model_card(spec, version, adapter, load_tokenizer(spec), system_prompt)
    (folder / "README.md").write_text(text, encoding="utf-8")
    write_export_manifest(folder, spec, version, target="hf_snapshot", architecture=architecture)


def _copy_processor(spec: ModelSpec, folder: Path) -> None:
    """The processor beside the base's weights. Raises BaseError when there is none."""
    source = get_tokenizer_dir(spec)
    if not any(source.glob("*processor_config.json")):
        mend = "put its processor_config.json or preprocessor_config.json there"
        raise ModelError(f"could not load processor for '{spec.key}'", where=str(source), hint=mend)
    folder.mkdir()
    for file in {file for pattern in PROCESSOR_FILE_PATTERNS for file in source.glob(pattern)}:
        shutil.copyfile(file, folder / file.name)


def _save_adapter(spec: ModelSpec, adapter: AdapterSpec, version: Version, folder: Path) -> None:
    """Low-rank weights and whatever learned as it is, by the names that PEFT knows."""
    silence_bitsandbytes()
    from peft import LoraConfig
    from peft.utils.constants import DUMMY_TARGET_MODULES

    tensors = read_adapter_tensors(version.path).items()
    learned = {name.removeprefix(MODEL_PREFIX): tensor for name, tensor in tensors}
    low_rank = {name.partition(LORA_MARKER)[0] for name in learned if LORA_MARKER in name}
    as_it_is = {name.rpartition(".")[0] for name in learned if LORA_MARKER not in name}
    config = LoraConfig(
        base_model_name_or_path=spec.source,
        revision=spec.revision,
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        use_dora=adapter.kind == "dora",
        target_modules=sorted(low_rank) or DUMMY_TARGET_MODULES,
        modules_to_save=sorted(as_it_is) or None,
        inference_mode=True,
    )
    folder.mkdir()
    config.save_pretrained(str(folder))
    known = {_to_peft_name(name): tensor for name, tensor in learned.items()}
    save_file(known, folder / ADAPTER_WEIGHTS_FILE, metadata={"format": "pt"})


def _to_peft_name(tensor_name: str) -> str:
    """The name of a tensor in an adapter that PEFT saved."""
    if LORA_MARKER in tensor_name:
        vector = "lora_magnitude_vector"  # which PEFT keeps without its ending
        tensor_name = tensor_name.replace(f"{vector}.default.weight", vector).replace(
            ".default.", "."
        )
    return f"base_model.model.{tensor_name}"


def _save_model(spec: ModelSpec, adapter: AdapterSpec, version: Version, folder: Path) -> None:
    """The whole model, in the number format it was released in."""
    dtype = AutoConfig.from_pretrained(get_tokenizer_dir(spec)).dtype or torch.float32
    model = load_base_model(spec, dtype=dtype)
    apply_adapter(model, adapter, seed=0)
    load_adapter_weights(model, version.path)
    for each in get_trainable_parameters(model).values():
        each.data = each.data.to(dtype)
    if isinstance(model, PretrainedAudioLM):
        model.whole.save_pretrained(folder)
