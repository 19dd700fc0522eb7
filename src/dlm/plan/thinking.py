"""What the config of a language model tells: its shape, its words, how long a row it knows."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dlm.errors import BaseError
from dlm.plan.bases import Tower
from dlm.plan.weights import Weights

Config = Mapping[str, Any]

NAMES = {  # what classes of transformers call it
    "layers": ("num_hidden_layers", "n_layer", "num_layers"),
    "width": ("hidden_size", "n_embd", "d_model"),
    "inner": ("intermediate_size", "n_inner", "ffn_dim"),
    "heads": ("num_attention_heads", "n_head"),
    "kv_heads": ("num_key_value_heads",),
    "head_width": ("head_dim",),
    "vocabulary": ("vocab_size",),
    "context": ("max_position_embeddings", "n_positions", "max_seq_len"),
}
QWEN = {"layers": 32, "width": 4096, "inner": 22_016, "heads": 32, "kv_heads": 32}
QWEN |= {"vocabulary": 151_936, "context": 32_768}
LLAMA = {"layers": 32, "width": 4096, "inner": 11_008, "heads": 32}
LLAMA |= {"vocabulary": 32_000, "context": 2048}
GPT2 = {"layers": 12, "width": 768, "heads": 12, "vocabulary": 50_257, "context": 1024}
USUAL = {  # what classes that are often made from nothing are when their config says nothing
    "nanochat": {**GPT2, "inner": 8192, "heads": 6, "vocabulary": 50_304, "context": 2048},
    "gpt2": GPT2,
    "llama": LLAMA,
    "mistral": {**LLAMA, "inner": 14_336, "kv_heads": 8, "context": 131_072},
    "qwen2": QWEN,
    "qwen3": {**QWEN, "head_width": 128},
}
UNGATED = ("nanochat", "gpt2")  # two matrices in the feed-forward part, where others have three
WORDS = re.compile(r"embed_tokens|lm_head|(^|\.)(wte|wpe|embed_in|embed_out|word_embeddings)\.")


@dataclass(frozen=True)
class Thinking:
    """The shape of a language model; `words` are the parameters of embeddings and head.

    The parameters are those of random weights of its config, until they are counted.
    """

    tower: Tower
    words: int
    vocabulary: int
    context: int


def thinking_of(config: Config, *, where: str) -> Thinking:
    """The shape that a config tells. Raises BaseError naming what it does not tell."""
    known = USUAL.get(config["model_type"], {})
    shape = {name: _told(config, name, known, where) for name in NAMES}
    heads = shape["heads"]
    tower = Tower(
        parameters=0,
        layers=shape["layers"],
        width=shape["width"],
        inner=shape["inner"] or 4 * shape["width"],
        heads=heads,
        kv_heads=shape["kv_heads"] or heads,
        head_width=shape["head_width"],
    )
    return Thinking(
        tower=_counted(config, tower),
        words=_words(config, tower.width, shape),
        vocabulary=shape["vocabulary"],
        context=shape["context"],
    )


def lm_parameters(weights: Weights) -> tuple[int, int]:
    """Parameters of the layers among the tensors of a checkpoint, and those of its words."""
    counts = {True: 0, False: 0}
    for file in weights.values():
        for key, each in file.items():
            counts[bool(WORDS.search(key))] += each.count
    return counts[False], counts[True]


def _told(config: Config, name: str, known: Mapping[str, int], where: str) -> int:
    """What a config says; what it may leave out is 0."""
    for key in NAMES[name]:
        if type(config.get(key)) is int:
            return int(config[key])
    if name in known or name in ("inner", "kv_heads", "head_width"):
        return known.get(name, 0)
    what = f"its config does not tell its {NAMES[name][0]}"
    raise BaseError(what, where=where, mend=f"add '{NAMES[name][0]}: ...' to it")


def _words(config: Config, width: int, shape: Mapping[str, int]) -> int:
    gpt2 = config["model_type"] == "gpt2"
    tied = config.get("tie_word_embeddings", gpt2)
    positions = shape["context"] * width if gpt2 else 0
    return shape["vocabulary"] * width * (1 if tied else 2) + positions


def _counted(config: Config, tower: Tower) -> Tower:
    """The tower with its parameters: attention, feed-forward part, norms and biases."""
    kind, width, inner = config["model_type"], tower.width, tower.inner
    head = tower.head_width or width // tower.heads
    query, pair = tower.heads * head, tower.kv_heads * head
    layer = 2 * width * (query + pair) + (2 if kind in UNGATED else 3) * width * inner
    norms = {"nanochat": 0, "gpt2": 4 * width, "qwen3": 2 * width + 2 * head}.get(kind, 2 * width)
    biases = {"gpt2": query + 2 * pair + 2 * width + inner, "qwen2": query + 2 * pair}.get(kind, 0)
    last = {"nanochat": 0, "gpt2": 2 * width}.get(kind, width)
    count = tower.layers * (layer + norms + biases) + last
    return Tower(**{**vars(tower), "parameters": count})
