"""A base in parts: how it is written, what each mistake says, what the command line changes."""

from pathlib import Path
from typing import Any

import pytest

from dlm.config.editor import set_field
from dlm.config.model_schema import ComposedModelConfig
from dlm.config.overrides import apply_overrides
from dlm.config.parser import parse_document
from dlm.errors import DocumentError, UsageError

PARTS = "\n  encoder: sparrow\n  projector: stack\n  lm: hf:a/b"


def written(base_model: str) -> ComposedModelConfig:
    return document(base_model).config.base_model


def document(base_model: str) -> Any:
    text = f"---\ndlm_id: 01ARZ3NDEKTSV4RRFFQ69G5FAV\nbase_model:{base_model}\n---\n"
    return parse_document(text, Path("a.dlm"))


def test_a_word_is_short_for_a_part() -> None:
    short = written(PARTS)
    whole = "\n  encoder: {source: sparrow}\n  projector: {kind: stack}\n  lm: {source: hf:a/b}"
    assert written(whole) == short
    assert [each.source for each in short.encoders] == ["sparrow"]
    assert written("\n  encoder: a\n  lm: b\n  projector: ./v1").projector.source == "./v1"


def test_every_field_of_a_part_is_read() -> None:
    found = written(
        """
  encoder:
    - {source: hf:openai/whisper-base@abc, pad: 30s}
    - {from_scratch: {model_type: wavlm, hidden_size: 32}, layer: weighted_sum}
  projector: {kind: stack, tokens_per_second: 12.5, hidden: 512, scale: embeddings}
  lm: {from_scratch: {model_type: nanochat}, tokenizer: bytes}
  prompt: "What is this?"
  before: "<sound>"
  after: ""
  chat: plain"""
    )
    assert [each.layer for each in found.encoders] == ["last", "weighted_sum"]
    assert found.encoders[1].from_scratch == {"model_type": "wavlm", "hidden_size": 32}
    assert found.projector.scale == "embeddings"
    assert (found.lm.tokenizer, found.prompt, found.after) == ("bytes", "What is this?", "")
    layers = written("\n  encoder: {source: a, layer: 4}\n  projector: {kind: mlp, scale: 0.4}\n"
                     "  lm: b")  # fmt: skip
    assert (layers.encoder.layer, layers.projector.scale) == (4, 0.4)


@pytest.mark.parametrize(
    ("base_model", "line"),
    [
        ("\n  encoder: a\n  projector: stack", "3:1: base_model.lm is missing; add 'lm: ...'"),
        ("\n  lm: b\n  projector: stack", "3:1: base_model.encoder is missing"),
        ("\n  encoder: {sorce: a}\n  projector: stack\n  lm: b",
         "4:13: unknown key 'sorce'; did you mean 'source'?"),
        ("\n  encoder: [a, {sorce: a}]\n  projector: stack\n  lm: b",
         "4:17: unknown key 'sorce'; did you mean 'source'?"),
        ("\n  encoder: a\n  projector: {hiden: 3}\n  lm: b",
         "5:15: unknown key 'hiden'; did you mean 'hidden'?"),
        (f"{PARTS}\n  promt: x", "7:3: unknown key 'promt'; did you mean 'prompt'?"),
        ("\n  encoder: [a, b, c]\n  projector: stack\n  lm: b",
         "4:3: base_model.encoder is a list; it must be one encoder, or a list of two"),
        ("\n  encoder: {source: a, pad: 20s}\n  projector: stack\n  lm: b",
         "4:24: base_model.encoder.pad is '20s'; it must be '30s'"),
        ("\n  encoder: {source: a, layer: 0}\n  projector: stack\n  lm: b",
         "4:24: base_model.encoder.layer is 0; it must be 'last', 'weighted_sum' or the number"),
        ("\n  encoder: {layer: 1}\n  projector: stack\n  lm: b",
         "4:3: base_model.encoder.source is missing"),
        ("\n  encoder: 3\n  projector: stack\n  lm: b",
         "4:3: base_model.encoder is 3; it must be text, in quotes, or a group"),
        ("\n  encoder: a\n  projector: mlp\n  lm: {source: a, from_scratch: {model_type: b}}",
         "base_model.lm.from_scratch is {'model_type': 'b'}; it must be left out where source"),
        ("\n  encoder: a\n  projector: mlp\n  lm: {from_scratch: {layers: 2}}",
         "6:8: base_model.lm.from_scratch is {'layers': 2}; it must name its model_type"),
        (f"{PARTS}\n  chat: json", "7:3: base_model.chat is 'json'; it must be 'template' or"),
        (" [a]", "3:1: base_model is a list; it must be text, in quotes"),
    ],
    ids=str,
)  # fmt: skip
def test_a_mistake_is_told_where_it_stands(base_model: str, line: str) -> None:
    with pytest.raises(DocumentError) as told:
        written(base_model)
    assert str(told.value).startswith("a.dlm:") and line in str(told.value)
    assert "\n" not in str(told.value)


def changed(base_model: str, **over: object) -> object:
    asked = {f"base_model.{name}": value for name, value in over.items()}
    found = apply_overrides(document(base_model), asked).config
    return found.model_dump(exclude_unset=True)["base_model"]


def test_a_part_is_set_for_once() -> None:
    assert changed(PARTS, encoder="./ear", **{"projector.hidden": 8}) == {
        "encoder": {"source": "./ear"},
        "projector": {"kind": "stack", "hidden": 8},
        "lm": {"source": "hf:a/b"},
    }
    assert changed(PARTS, **{"encoder.layer": 2})["encoder"] == {"source": "sparrow", "layer": 2}
    scratch = {"from_scratch": {"model_type": "gpt2"}}
    assert changed(PARTS, lm=scratch)["lm"] == scratch
    pair = ["a", {"source": "b", "layer": 3}]
    assert changed(PARTS, encoder=pair)["encoder"] == ({"source": "a"}, pair[1])


def test_a_named_base_becomes_one_like_it() -> None:
    assert changed(" whisper-qwen3", encoder="sparrow", **{"projector.kind": "mlp"}) == {
        "like": "whisper-qwen3",
        "encoder": {"source": "sparrow"},
        "projector": {"kind": "mlp"},
    }


@pytest.mark.parametrize(
    ("base_model", "name", "value", "line"),
    [
        (PARTS, "encoder.laye", 1, "unknown field 'base_model.encoder.laye'; did you mean 'layer'"),
        (PARTS, "encoder.layer", 0, "--set: base_model.encoder.layer is 0; it must be 'last'"),
        (PARTS, "lm.from_scratch", {"model_type": "x"}, "must be left out where source is given"),
        ("\n  encoder: [a, b]\n  projector: mlp\n  lm: c", "encoder.layer", 2,
         "base_model.encoder is a list here; set it whole: base_model.encoder=[{...}, {...}]"),
    ],
)  # fmt: skip
def test_what_cannot_be_set_is_told(base_model: str, name: str, value: object, line: str) -> None:
    with pytest.raises(UsageError) as told:
        changed(base_model, **{name: value})
    assert line in str(told.value)


def test_a_field_of_a_part_is_edited_in_place() -> None:
    text = (
        "---\ndlm_id: 01ARZ3NDEKTSV4RRFFQ69G5FAV\nbase_model:\n  encoder: sparrow  # hears\n"
        "  projector: {kind: stack}\n  lm: sparrow\n---\n"
    )
    after = set_field(text.encode(), "base_model.projector.hidden", 64).decode()
    assert after == text.replace("{kind: stack}", "{kind: stack, hidden: 64}")
    after = set_field(text.encode(), "base_model.encoder", "hf:a/b").decode()
    assert after.count("# hears") == 1 and "encoder: " in after and "hf:a/b" in after
