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

from dlm.errors import BaseError
from dlm.model.adapters import WEIGHTS, adapt, learning, place_adapter, read_adapter, read_tensors
from dlm.model.load import load_base, tokenizer_of, words_of
from dlm.model.native import FAMILIES, Native
from dlm.model.quantize import hush
from dlm.plan.bases import Base
from dlm.plan.plan import Adapter
from dlm.store.facts import Version
from dlm.use.manifest import write_manifest
from dlm.use.readme import readme

WHOLE = "whole."  # how the names in a Native begin
LORA = ".lora_"
PROCESSOR = (  # patterns of its files, and of the configuration that names its class
    *("*processor_config.json", "chat_template.*", "config.json", "tekken.json"),
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt"),
)


def snapshot(base: Base, version: Version, system: str | None, folder: Path) -> None:
    """Write a version of a native base into the empty `folder`."""
    adapter = read_adapter(version.path, base)
    _copy_processor(base, folder / "processor")
    if adapter.kind == "full":
        _save_model(base, adapter, version, folder / "model")
    else:
        _save_adapter(base, adapter, version, folder / "adapter")
    architecture = FAMILIES[base.family].architecture.__name__
    text = readme(base, version, adapter, tokenizer_of(base), system)
    (folder / "README.md").write_text(text, encoding="utf-8")
    write_manifest(folder, base, version, target="hf_snapshot", architecture=architecture)


def _copy_processor(base: Base, folder: Path) -> None:
    """The processor beside the base's weights. Raises BaseError when there is none."""
    source = words_of(base)
    if not any(source.glob("*processor_config.json")):
        mend = "put its processor_config.json or preprocessor_config.json there"
        raise BaseError(f"could not load processor for '{base.key}'", where=str(source), mend=mend)
    folder.mkdir()
    for file in {file for pattern in PROCESSOR for file in source.glob(pattern)}:
        shutil.copyfile(file, folder / file.name)


def _save_adapter(base: Base, adapter: Adapter, version: Version, folder: Path) -> None:
    """Low-rank weights and whatever learned as it is, by the names that PEFT knows."""
    hush()
    from peft import LoraConfig
    from peft.utils.constants import DUMMY_TARGET_MODULES

    tensors = read_tensors(version.path).items()
    learned = {name.removeprefix(WHOLE): tensor for name, tensor in tensors}
    low_rank = {name.partition(LORA)[0] for name in learned if LORA in name}
    as_it_is = {name.rpartition(".")[0] for name in learned if LORA not in name}
    config = LoraConfig(
        base_model_name_or_path=base.source,
        revision=base.revision,
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
    known = {_in_peft(name): tensor for name, tensor in learned.items()}
    save_file(known, folder / WEIGHTS, metadata={"format": "pt"})


def _in_peft(name: str) -> str:
    """The name of a tensor in an adapter that PEFT saved."""
    if LORA in name:
        vector = "lora_magnitude_vector"  # which PEFT keeps without its ending
        name = name.replace(f"{vector}.default.weight", vector).replace(".default.", ".")
    return f"base_model.model.{name}"


def _save_model(base: Base, adapter: Adapter, version: Version, folder: Path) -> None:
    """The whole model, in the number format it was released in."""
    dtype = AutoConfig.from_pretrained(words_of(base)).dtype or torch.float32
    model = load_base(base, dtype=dtype)
    adapt(model, adapter, seed=0)
    place_adapter(model, version.path)
    for each in learning(model).values():
        each.data = each.data.to(dtype)
    if isinstance(model, Native):
        model.whole.save_pretrained(folder)
