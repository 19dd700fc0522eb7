"""base_model with components: short forms, every field, mistakes, overrides, edits."""

from pathlib import Path
from typing import Any

import pytest

from dlm.config.editor import set_field
from dlm.config.model_schema import ComposedModelConfig
from dlm.config.overrides import apply_overrides
from dlm.config.parser import parse_document
from dlm.errors import DocumentError, UsageError

COMPONENTS = "\n  encoder: sparrow\n  projector: stack\n  lm: hf:a/b"


def parse_config(base_model: str) -> ComposedModelConfig:
    return parse_document_with(base_model).config.base_model


def parse_document_with(base_model: str) -> Any:
    text = f"---\ndlm_id: 01ARZ3NDEKTSV4RRFFQ69G5FAV\nbase_model:{base_model}\n---\n"
    return parse_document(text, Path("a.dlm"))


def test_text_is_short_for_a_component() -> None:
    short = parse_config(COMPONENTS)
    whole = "\n  encoder: {source: sparrow}\n  projector: {kind: stack}\n  lm: {source: hf:a/b}"
    assert parse_config(whole) == short
    assert [encoder.source for encoder in short.encoders] == ["sparrow"]
    assert parse_config("\n  encoder: a\n  lm: b\n  projector: ./v1").projector.source == "./v1"


def test_every_field_of_a_component_is_read() -> None:
    config = parse_config(
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
    assert [encoder.layer for encoder in config.encoders] == ["last", "weighted_sum"]
    assert config.encoders[1].from_scratch == {"model_type": "wavlm", "hidden_size": 32}
    assert config.projector.scale == "embeddings"
    assert (config.lm.tokenizer, config.prompt, config.after) == ("bytes", "What is this?", "")
    layers = parse_config(
        "\n  encoder: {source: a, layer: 4}\n  projector: {kind: mlp, scale: 0.4}\n  lm: b"
    )
    assert (layers.encoder.layer, layers.projector.scale) == (4, 0.4)


MISTAKES = {  # code of the error: base_model, line
    "document.missing_key": [
        ("\n  encoder: a\n  projector: stack", "3:1: base_model.lm is missing; add 'lm: ...'"),
        ("\n  lm: b\n  projector: stack", "3:1: base_model.encoder is missing"),
        (
            "\n  encoder: {layer: 1}\n  projector: stack\n  lm: b",
            "4:3: base_model.encoder.source is missing",
        ),
    ],
    "document.unknown_key": [
        (
            "\n  encoder: {sorce: a}\n  projector: stack\n  lm: b",
            "4:13: unknown key 'sorce'; did you mean 'source'?",
        ),
        (
            "\n  encoder: [a, {sorce: a}]\n  projector: stack\n  lm: b",
            "4:17: unknown key 'sorce'; did you mean 'source'?",
        ),
        (
            "\n  encoder: a\n  projector: {hiden: 3}\n  lm: b",
            "5:15: unknown key 'hiden'; did you mean 'hidden'?",
        ),
        (f"{COMPONENTS}\n  promt: x", "7:3: unknown key 'promt'; did you mean 'prompt'?"),
    ],
    "document.bad_value": [
        (
            "\n  encoder: [a, b, c]\n  projector: stack\n  lm: b",
            "4:3: base_model.encoder is a list; it must be one encoder, or a list of two",
        ),
        (
            "\n  encoder: {source: a, pad: 20s}\n  projector: stack\n  lm: b",
            "4:24: base_model.encoder.pad is '20s'; it must be '30s'",
        ),
        (
            "\n  encoder: {source: a, layer: 0}\n  projector: stack\n  lm: b",
            "4:24: base_model.encoder.layer is 0; it must be 'last', 'weighted_sum' or the number",
        ),
        (
            "\n  encoder: 3\n  projector: stack\n  lm: b",
            "4:3: base_model.encoder is 3; it must be text, in quotes, or a group",
        ),
        (
            "\n  encoder: a\n  projector: mlp\n  lm: {source: a, from_scratch: {model_type: b}}",
            "base_model.lm.from_scratch is {'model_type': 'b'}; it must be left out where source",
        ),
        (
            "\n  encoder: a\n  projector: mlp\n  lm: {from_scratch: {layers: 2}}",
            "6:8: base_model.lm.from_scratch is {'layers': 2}; it must name its model_type",
        ),
        (f"{COMPONENTS}\n  chat: json", "7:3: base_model.chat is 'json'; it must be 'template' or"),
        (" [a]", "3:1: base_model is a list; it must be text, in quotes"),
    ],
}


@pytest.mark.parametrize(
    ("code", "base_model", "line"),
    [(code, *case) for code, cases in MISTAKES.items() for case in cases],
)
def test_a_mistake_is_an_error_at_its_location(code: str, base_model: str, line: str) -> None:
    with pytest.raises(DocumentError) as caught:
        parse_config(base_model)
    assert caught.value.code == code
    assert str(caught.value).startswith("a.dlm:") and line in str(caught.value)
    assert "\n" not in str(caught.value)


def set_fields(base_model: str, **fields: object) -> object:
    overrides = {f"base_model.{name}": value for name, value in fields.items()}
    config = apply_overrides(parse_document_with(base_model), overrides).config
    return config.model_dump(exclude_unset=True)["base_model"]


def test_a_component_is_set_for_one_run() -> None:
    assert set_fields(COMPONENTS, encoder="./encoder", **{"projector.hidden": 8}) == {
        "encoder": {"source": "./encoder"},
        "projector": {"kind": "stack", "hidden": 8},
        "lm": {"source": "hf:a/b"},
    }
    assert set_fields(COMPONENTS, **{"encoder.layer": 2})["encoder"] == {
        "source": "sparrow",
        "layer": 2,
    }
    scratch = {"from_scratch": {"model_type": "gpt2"}}
    assert set_fields(COMPONENTS, lm=scratch)["lm"] == scratch
    pair = ["a", {"source": "b", "layer": 3}]
    assert set_fields(COMPONENTS, encoder=pair)["encoder"] == ({"source": "a"}, pair[1])


def test_setting_a_component_of_a_named_base_leaves_the_others() -> None:
    assert set_fields(" whisper-qwen3", encoder="sparrow", **{"projector.kind": "mlp"}) == {
        "like": "whisper-qwen3",
        "encoder": {"source": "sparrow"},
        "projector": {"kind": "mlp"},
    }


NOT_SETTABLE = {  # code of the error: base_model, name, value, line
    "usage.unknown_field": [
        (
            COMPONENTS,
            "encoder.laye",
            1,
            "'base_model.encoder.laye'; did you mean 'layer'",
        ),
    ],
    "usage.bad_value": [
        (COMPONENTS, "encoder.layer", 0, "--set: base_model.encoder.layer is 0; it must be 'last'"),
        (
            COMPONENTS,
            "lm.from_scratch",
            {"model_type": "x"},
            "must be left out where source is given",
        ),
    ],
    "usage.field_list": [
        (
            "\n  encoder: [a, b]\n  projector: mlp\n  lm: c",
            "encoder.layer",
            2,
            "base_model.encoder is a list here; set it whole: base_model.encoder=[{...}, {...}]",
        ),
    ],
}


@pytest.mark.parametrize(
    ("code", "base_model", "name", "value", "line"),
    [(code, *case) for code, cases in NOT_SETTABLE.items() for case in cases],
)
def test_a_component_that_cannot_be_set_is_an_error(
    code: str, base_model: str, name: str, value: object, line: str
) -> None:
    with pytest.raises(UsageError) as caught:
        set_fields(base_model, **{name: value})
    assert caught.value.code == code and line in str(caught.value)


def test_a_field_of_a_component_is_edited_in_place() -> None:
    text = (
        "---\ndlm_id: 01ARZ3NDEKTSV4RRFFQ69G5FAV\nbase_model:\n  encoder: sparrow  # comment\n"
        "  projector: {kind: stack}\n  lm: sparrow\n---\n"
    )
    after = set_field(text.encode(), "base_model.projector.hidden", 64).decode()
    assert after == text.replace("{kind: stack}", "{kind: stack, hidden: 64}")
    after = set_field(text.encode(), "base_model.encoder", "hf:a/b").decode()
    assert after.count("# comment") == 1 and "encoder: " in after and "hf:a/b" in after
