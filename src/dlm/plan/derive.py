"""A row for a checkpoint: that of its family, with what its own files tell.

config.json    the class, shapes, mel bins, window, context
safetensors    parameters by part, bytes
README.md      the licence
"""

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from dlm.errors import BaseError
from dlm.plan.bases import Base, Sizes, Tower
from dlm.plan.catalogue import CATALOGUE, DEFAULT
from dlm.plan.frames import Strides
from dlm.plan.hub import CARD
from dlm.plan.weights import CONFIG, Weights, damaged

Config = dict[str, Any]

HALF = "_thinker"  # the half of an Omni model that hears; its config is one of the whole's
PARTS = {  # by the names of tensors; the first that fits
    "other": re.compile(r"^(talker|token2wav|code2wav)\."),  # what speaks is not loaded
    "projector": re.compile(r"multi_modal_projector|audio_tower\.proj\d?\."),
    "encoder": re.compile(r"audio_tower|(^|\.)visual\."),  # eyes stay as they are, as an ear does
    "words": re.compile(r"embed_tokens|lm_head"),
    "lm": re.compile(""),
}
SHAPE = {
    "layers": ("encoder_layers", "num_hidden_layers"),
    "width": ("d_model", "hidden_size"),
    "inner": ("encoder_ffn_dim", "intermediate_size"),
    "heads": ("encoder_attention_heads", "num_attention_heads"),
    "head_width": ("head_dim",),
}


def read_config(folder: Path) -> Config:
    """The config beside the weights. Raises BaseError where it is none, or tells of packed ones."""
    path = folder / CONFIG
    if not path.is_file():
        mend = "name a folder that transformers' save_pretrained wrote, or one of `dlm export`"
        raise BaseError(f"no {CONFIG} in this folder", where=str(folder), mend=mend)
    config = read_json(path)
    if "quantization_config" in config:
        mend = "name the model it was made from; training.adapter: qlora packs it as it is loaded"
        raise BaseError("its weights are packed already", where=str(path), mend=mend)
    return config


def read_json(path: Path) -> Config:
    """What a file of settings says. Raises BaseError where it is none."""
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as reason:
        told = " ".join(str(reason).split())
        raise damaged(f"cannot be read ({told})", path) from reason
    if not isinstance(read, dict):
        raise damaged("is no config of a model", path)
    return read


def family_of(config: Config) -> str:
    """The class that a config names, as the rows call it."""
    return str(config.get("model_type", "unknown")).removesuffix(HALF)


def row_of(config: Config, where: str, source: str = "") -> Base:
    """The row to begin with: that of `source`, or of its family. Raises BaseError without one."""
    family = family_of(config)
    rows = [base for base in CATALOGUE.values() if base.family == family]
    if rows:
        return next((base for base in rows if base.source == source), rows[0])
    classes = config.get("architectures")
    named = str(classes[0]) if isinstance(classes, list) and classes else "no class"
    if named.endswith(("ForCausalLM", "LMHeadModel")):
        raise BaseError(f"is a text model ({family})", where=where, mend=f"pick --base {DEFAULT}")
    known = sorted({base.family for base in CATALOGUE.values() if base.kind == "native"})
    what = f"is of a class that is not known to hear ({family}, {named})"
    raise BaseError(what, where=where, mend=f"known ones: {', '.join(known)}")


def derive(row: Base, config: Config, weights: Weights) -> Base:
    """`row`, with what a checkpoint's config and the heads of its weights say otherwise."""
    whole = part_of(config, "thinker_config") or config
    ear, text = part_of(whole, "audio_config"), part_of(whole, "text_config")
    size = sum(tensor.end - tensor.begin for file in weights.values() for tensor in file.values())
    return replace(
        row,
        strides=_strides(row.strides, ear),
        bins=_number(ear, ("num_mel_bins",), row.bins),
        sizes=_sizes(row.sizes, ear, text, weights),
        megabytes=max(1, round(size / 1e6)),
        context=min(row.context, _number(text, ("max_position_embeddings",), row.context)),
    )


def licence_of(folder: Path) -> str:
    """The licence that the README beside the weights names."""
    try:
        text = (folder / CARD).read_text(encoding="utf-8")
        front = yaml.safe_load(text.split("---")[1]) if text.startswith("---") else None
    except (OSError, ValueError, IndexError, yaml.YAMLError):
        return "unknown"
    if not isinstance(front, dict):
        return "unknown"
    return str(front.get("license_name") or front.get("license") or "unknown")


def _strides(strides: Strides, ear: Config) -> Strides:
    """The window is as long as the encoder has positions, where it has them for a whole one."""
    positions = _number(ear, ("max_source_positions",), 0)
    if strides.chunk or not positions:
        return strides
    return replace(strides, window=positions * strides.encoder * strides.hop)


def _sizes(row: Sizes, ear: Config, text: Config, weights: Weights) -> Sizes:
    counted: Counter[str] = Counter()
    for name, tensor in ((name, each) for file in weights.values() for name, each in file.items()):
        counted[next(part for part, form in PARTS.items() if form.search(name))] += tensor.count
    return Sizes(
        encoder=_tower(row.encoder, ear, counted["encoder"]),
        projector=counted["projector"],
        lm=_tower(row.lm, text, counted["lm"]),
        words=counted["words"],
        vocabulary=_number(text, ("vocab_size",), row.vocabulary),
    )


def _tower(row: Tower, config: Config, parameters: int) -> Tower:
    """What a config leaves out is as in the released model, from which the class has it."""
    shape = {name: _number(config, keys, vars(row)[name]) for name, keys in SHAPE.items()}
    same = row.kv_heads if shape["heads"] == row.heads else shape["heads"]
    kv_heads = _number(config, ("num_key_value_heads",), same)
    return replace(row, parameters=parameters, kv_heads=kv_heads, **shape)


def part_of(config: Config, name: str) -> Config:
    """The config inside a config, empty where there is none."""
    part = config.get(name)
    return part if isinstance(part, dict) else {}


def _number(config: Config, names: tuple[str, ...], otherwise: int) -> int:
    return next((config[name] for name in names if isinstance(config.get(name), int)), otherwise)
