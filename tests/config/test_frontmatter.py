"""The YAML of a document: defaults, every field, and each mistake with its code and location."""

import pytest

from dlm.config.schema import DlmConfig, iter_config_fields
from tests.config.documents import HEAD, REQUIRED_FIELDS, ULID, catch_error, parse_yaml


def parse_config(yaml: str) -> DlmConfig:
    return parse_yaml(yaml).config


def test_a_field_that_is_left_out_has_a_default() -> None:
    config = parse_config("")
    assert config.dlm_version == 1
    assert config.training.adapter is None
    assert config.training.lora.where == ("lm",)
    assert config.training.held_out == 0.1
    assert config.training.sources == ()
    assert config.training.audio.auto_resample is False
    assert config.training.stability.max_skipped_steps == 5
    assert parse_config("training:\n  audio:\n  sources:\n") == config


def test_every_field_can_be_set() -> None:
    config = parse_config(
        """\
dlm_version: 15
system_prompt: "Be brief."
training:
  adapter: dora
  lora_r: 256
  lora_alpha: 1
  lora_dropout: 0
  lora: {where: [lm, encoder]}
  target_modules: [q_proj, v_proj]
  sequence_len: 64
  micro_batch_size: 2
  grad_accum: auto
  learning_rate: 1e-4
  rates: {projector: 1e-3, "lm.*.norm": 2}
  num_epochs: 1
  weight_decay: 0.1
  max_grad_norm: 1
  lr_scheduler: constant
  warmup_ratio: 0.5
  precision: fp32
  seed: 0
  held_out: 12
  sources_policy: strict
  audio: {auto_resample: true}
  stability: {max_skipped_steps: 1}
  sources:
    - path: ./corpus
      include: ["**/*.wav"]
      exclude: [bad/*]
      max_files: 3
      language: fr
      prompt: Transcribe.
    - path: b
"""
    )
    training = config.training
    assert (training.learning_rate, training.lora_dropout) == (1e-4, 0.0)
    assert training.rates == {"projector": 1e-3, "lm.*.norm": 2.0}
    assert training.target_modules == ("q_proj", "v_proj")
    assert training.lora.where == ("lm", "encoder")
    assert training.held_out == 12
    assert training.sources[0].include == ("**/*.wav",)
    assert training.sources[1].include == ("**/*",)


@pytest.mark.parametrize(("written", "expected"), [("0", 0.0), ("0.5", 0.5), ("1", 1)])
def test_held_out_is_a_fraction_or_a_count(written: str, expected: float) -> None:
    held_out = parse_config(f"training: {{held_out: {written}}}").training.held_out
    assert held_out == expected and type(held_out) is type(expected)


def test_a_config_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        parse_config("").training.lora_r = 4


def test_every_field_has_a_description_of_one_line() -> None:
    names = [name for name, _ in iter_config_fields()]
    assert "training.audio.auto_resample" in names and "training.sources.path" in names
    for _, field in iter_config_fields():
        assert field.description and "\n" not in field.description
        assert field.description.endswith(".")


MISTAKES = {  # code of the error: yaml, position, words
    "document.unknown_key": [
        ("trainng: {}", "4:1", "unknown key 'trainng'; did you mean 'training'?"),
        ("training:\n  lora_rr: 3", "5:3", "unknown key 'lora_rr'; did you mean 'lora_r'?"),
        ("lora_r: 3", "4:1", "did you mean 'training.lora_r'?"),
        ("training: {auto_resample: true}", "4:12", "did you mean 'training.audio.auto_resample'?"),
        ("training:\n  audio: {zzz: 1}", "5:11", "unknown key 'zzz'; known here are auto_resample"),
        ("training:\n  sources:\n    - pth: a\n", "6:7", "'pth'; did you mean 'path'? (1 more"),
        ("true: 3", "4:1", "unknown key 'true'"),
        ('"a\\nb": 3', "4:1", "unknown key 'a\\nb'"),
    ],
    "document.missing_key": [
        (
            "training:\n  sources:\n    - include: [a]\n",
            "6:7",
            "training.sources[0].path is missing",
        ),
    ],
    "document.bad_value": [
        ("training:\n  sources: [{path: a}, 3]", "5:24", "training.sources[1] is 3; it must be a"),
        ("training: 3", "4:1", "training is 3; it must be a group of 'key: value' lines"),
        ("training:\n  lora_r: 0", "5:3", "lora_r is 0; it must be greater than or equal to 1"),
        ("training:\n  lora_r: true", "5:3", "lora_r is true; it must be a whole number"),
        ("training:\n  lora_r: '8'", "5:3", "lora_r is '8'; it must be a whole number"),
        ("training:\n  weight_decay: yes", "5:3", "weight_decay is 'yes'; it must be a number"),
        ("training:\n  weight_decay: true", "5:3", "weight_decay is true; it must be a number"),
        ("training:\n  weight_decay: 1e999", "5:3", "it must be a finite number"),
        ("training:\n  audio: {auto_resample: yes}", "5:11", "it must be true or false"),
        ("training:\n  adapter: lorra", "5:3", "adapter is 'lorra'; it must be 'lora', 'qlora',"),
        ("training:\n  precision: fp16", "5:3", "precision is 'fp16'; it must be 'bf16' or 'fp32'"),
        ("training:\n  held_out: 1.0", "5:3", "held_out is 1.0; it must be a fraction from 0 to"),
        ("training:\n  held_out: true", "5:3", "held_out is true; it must be a fraction"),
        ("training:\n  held_out: -1", "5:3", "held_out is -1; it must be a fraction"),
        ("training:\n  grad_accum: 0", "5:3", "it must be 'auto' or a whole number of at least 1"),
        ("training:\n  grad_accum: true", "5:3", "must be 'auto' or a whole number"),
        ("training:\n  target_modules: all", "5:3", "it must be 'auto' or a list of module names"),
        ("training:\n  target_modules: []", "5:3", "target_modules is a list; it must be 'auto'"),
        ("training:\n  lora:\n    where: [lm, ear]", "6:17", "lora.where[1] is 'ear'; it must be"),
        ("training:\n  lora:\n    where: []", "6:5", "lora.where is a list; it must have at least"),
        (
            "training:\n  sources:\n    - path: a\n      include: x",
            "7:7",
            "must be a list, such as",
        ),
        ("training:\n  rates:\n    lm: -1", "6:5", "rates.lm is -1; it must be greater than 0"),
        ("dlm_version: 0", "4:1", "dlm_version is 0; it must be greater than or equal to 1"),
        ("dlm_version: true", "4:1", "dlm_version is true; it must be a whole number"),
        ("system_prompt: 3", "4:1", "system_prompt is 3; it must be text, in quotes"),
        ("system_prompt: [3]", "4:1", "system_prompt is a list; it must be text"),
    ],
    "document.newer_version": [
        ("dlm_version: 16", "4:1", "dlm_version 16 is newer than 15, the newest this dlm knows"),
    ],
    "document.duplicate_key": [
        ("dlm_version: 1\ndlm_version: 2", "5:1", "'dlm_version' is written twice; remove one"),
    ],
    "document.bad_key": [
        ("? [a]\n: 3", "4:3", "a list or mapping cannot be a key"),
    ],
    "document.yaml_alias": [
        ("a: &x 1\nb: *x", "5:4", "aliases such as *x are not read; write the value out"),
    ],
    "document.yaml_tag": [
        ("system_prompt: !!python/name:os.system x", "4:16", "are not read; remove the tag"),
        ("system_prompt: !!int 3", "4:16", "are not read; remove the tag"),
    ],
    "document.yaml_too_deep": [
        ("a: " + "[" * 40, "4:19", "nested too deep"),
    ],
    "document.invalid_yaml": [
        ("training:\n\tlora_r: 3", "5:1", "cannot start any token; indent with blanks, not tabs"),
        ("training: {", "5:1", "invalid YAML: "),
        ("a: b: c", "4:5", "invalid YAML: mapping values are not allowed here; check the colons"),
        ('a: "b', "5:1", "invalid YAML: found unexpected end of stream"),
        ("a: \u0007", "4:4", "invalid YAML: the character '\\x07' is not allowed; remove it"),
        ('a: "\\UFFFFFFFF"', "2:1", "invalid YAML: an escape names no character"),
        ("--- # two", "4:1", "invalid YAML: "),
    ],
}


@pytest.mark.parametrize(
    ("code", "yaml", "position", "words"),
    [(code, *case) for code, cases in MISTAKES.items() for case in cases],
)
def test_a_mistake_is_an_error_at_its_line_and_column(
    code: str, yaml: str, position: str, words: str
) -> None:
    error = catch_error(f"---\n{REQUIRED_FIELDS}{yaml}\n---\nBody.\n")
    assert (error.code, error.where) == (code, f"my.dlm:{position}")
    assert words in str(error)


BAD_FRONTMATTERS = {  # code of the error: text, position, words
    "document.no_frontmatter": [
        ("", "1:1", "a document begins with '---' alone on its first line, not ''"),
        ("hello\n---\n", "1:1", "not 'hello'; dlm init writes a document"),
        ("x" * 99, "1:1", "not 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...'"),
    ],
    "document.stray_blanks": [
        ("--- \n---\n", "1:1", "there are blanks after '---'; remove them"),
        ("---\na: 1\n---\t\n", "3:1", "there are blanks after '---'"),
    ],
    "document.frontmatter_not_closed": [
        ("---\na: 1\n", "1:1", "the frontmatter is never closed; put '---' alone"),
        ("---", "1:1", "the frontmatter is never closed"),
    ],
    "document.missing_key": [
        ("---\n---\n", "2:1", "dlm_id is missing; add 'dlm_id: ...' (1 more mistake below)"),
        (f"---\ndlm_id: {ULID}\n---\n", "2:1", "base_model is missing; add 'base_model: ...'"),
    ],
    "document.no_keys": [
        ("---\n- a\n---\n", "2:1", "the frontmatter holds no keys; write 'key: value'"),
    ],
    "document.bad_value": [
        (
            f"---\ndlm_id: {ULID}\nbase_model: ' '\n---",
            "3:1",
            "base_model is ' '; it must be named",
        ),
        ("---\nbase_model: a\ndlm_id: O1\n---", "3:1", "dlm_id is 'O1'; it must be 26 letters"),
        ("---\nbase_model: 3\ndlm_id: x\na: 1\n---", "2:1", "base_model is 3; it must be text"),
        ("---\nbase_model: 3\ndlm_id: x\na: 1\n---", "2:1", "in quotes (2 more mistakes below)"),
    ],
    "document.frontmatter_too_long": [
        (f"---\na: {'x' * 300_000}\n---\n", "2:1", "the frontmatter is longer than 256 KiB"),
    ],
}


@pytest.mark.parametrize(
    ("code", "text", "position", "words"),
    [(code, *case) for code, cases in BAD_FRONTMATTERS.items() for case in cases],
)
def test_a_frontmatter_without_a_valid_start_end_or_required_field_is_an_error(
    code: str, text: str, position: str, words: str
) -> None:
    error = catch_error(text)
    assert (error.code, error.where) == (code, f"my.dlm:{position}")
    assert words in str(error)


def test_lines_are_counted_with_windows_line_ends() -> None:
    error = catch_error(f"---\r\n{REQUIRED_FIELDS}\r\nfoo: 1\r\n---\r\n")
    assert (error.code, error.where) == ("document.unknown_key", "my.dlm:5:1")


def test_a_zero_byte_in_a_path_is_an_error() -> None:
    sources = 'training:\n  sources:\n    - path: a\n      audio: "b\\0"\n'
    error = catch_error(HEAD.replace("---\n", f"---\n{sources}", 1))
    assert error.code == "document.bad_value" and "it must hold no zero byte" in str(error)
