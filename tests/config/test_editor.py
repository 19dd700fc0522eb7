"""Editing a document changes no other byte; the template of a new document is valid."""

import re
import time
from pathlib import Path
from typing import get_args

import pytest

from dlm.config.editor import (
    add_source,
    append_section,
    format_audio_fence,
    format_conversation,
    generate_ulid,
    make_document_path,
    render_new_document,
    set_field,
)
from dlm.config.parser import parse_document
from dlm.config.schema import ULID_PATTERN, AdapterType
from dlm.errors import DocumentError

HEAD = "dlm_id: 01HZ4X7TGZM3J1A2B3C4D5E6F7\nbase_model: sparrow # comment\n"
BODY = "---\nProse.\n\n"


@pytest.mark.parametrize(
    ("yaml", "field", "value", "changed"),
    [
        ("", "dlm_version", 11, "dlm_version: 11\n"),
        ("dlm_version: 3 # old\n", "dlm_version", 11, "dlm_version: 11 # old\n"),
        ("", "system_prompt", 'Say "hi": é', 'system_prompt: "Say \\"hi\\": é"\n'),
        ("system_prompt: 'a'\n", "system_prompt", "b", "system_prompt: b\n"),
        ("system_prompt: |\n  a\n  b\n\n# c\n", "system_prompt", "b", "system_prompt: b\n\n# c\n"),
        ("system_prompt: a\n  b # c\n", "system_prompt", None, "system_prompt: null # c\n"),
        ("system_prompt: # c\n", "system_prompt", "no", 'system_prompt: "no" # c\n'),
        ("system_prompt: ~\n", "system_prompt", "3", 'system_prompt: "3"\n'),
        ("", "training.lora_r", 4, "training:\n  lora_r: 4\n"),
        ("training:\n", "training.lora_r", 4, "training:\n  lora_r: 4\n"),
        ("training: # t\n  # x\n", "training.lora_r", 4, "training: # t\n  lora_r: 4\n  # x\n"),
        ("training: {}\n", "training.lora_r", 4, "training: {lora_r: 4}\n"),
        (
            "training: {seed: 1, } # t\n",
            "training.audio.auto_resample",
            True,
            "training: {seed: 1, audio: {auto_resample: true}, } # t\n",
        ),
        (
            "training: {audio: }\n",
            "training.audio.auto_resample",
            False,
            "training: {audio: {auto_resample: false} }\n",
        ),
        (
            "training:\n    seed: 1 # s\n    # note\n\nsystem_prompt: a\n",
            "training.audio.auto_resample",
            True,
            "training:\n    seed: 1 # s\n    audio:\n      auto_resample: true\n    # note\n\n"
            "system_prompt: a\n",
        ),
        (
            "training:\n  sources:\n  - path: a\n    include: [b]\n",
            "training.learning_rate",
            1e-5,
            "training:\n  sources:\n  - path: a\n    include: [b]\n  learning_rate: 1.0e-05\n",
        ),
        (
            "training:\n  target_modules:\n  - a # x\n  - b\n  # y\n  seed: 1\n",
            "training.target_modules",
            ["c", "d.e", "*"],
            'training:\n  target_modules:\n  - c\n  - d.e\n  - "*"\n  # y\n  seed: 1\n',
        ),
        (
            "training:\n  target_modules:\n  - a\n",
            "training.target_modules",
            "auto",
            "training:\n  target_modules:\n    auto\n",
        ),
        (
            "training:\n  target_modules: auto\n",
            "training.target_modules",
            ("a", "b"),
            "training:\n  target_modules: [a, b]\n",
        ),
        (
            "training:\n  rates: {lm: 1}\n",
            "training.rates.lm.*.norm",
            0.5,
            'training:\n  rates: {lm: 1, "lm.*.norm": 0.5}\n',
        ),
        (
            "system_prompt: |\n  a\n\n\n",
            "dlm_version",
            2,
            "system_prompt: |\n  a\n\n\ndlm_version: 2\n",
        ),
    ],
)
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_setting_a_field_changes_no_other_byte(
    yaml: str, field: str, value: str, changed: str, line_end: str
) -> None:
    def encode_document(middle: str) -> bytes:
        text = f"---\n# top\n{HEAD}{middle}{BODY}"
        return ("\ufeff" + text.replace("\n", line_end)).encode()

    assert set_field(encode_document(yaml), field, value) == encode_document(changed)
    assert set_field(encode_document(changed), field, value) == encode_document(changed)


NEW_SOURCE = {"path": "new.csv", "columns": {"text": "say it"}, "include": ["*.wav"]}
FLOW_SOURCE = '{path: new.csv, columns: {text: "say it"}, include: ["*.wav"]}'


def block_source(blanks: str) -> str:
    return f"""\
{blanks}- path: new.csv
{blanks}  columns: {{text: "say it"}}
{blanks}  include: ["*.wav"]
"""


@pytest.mark.parametrize(
    ("yaml", "changed"),
    [
        ("", f"training:\n  sources:\n{block_source('    ')}"),
        ("training:\n", f"training:\n  sources:\n{block_source('    ')}"),
        ("training: ~ # t\n", f"training:  # t\n  sources:\n{block_source('    ')}"),
        ("training: {}\n", f"training: {{sources: [{FLOW_SOURCE}]}}\n"),
        ("training: {seed: 1}\n", f"training: {{seed: 1, sources: [{FLOW_SOURCE}]}}\n"),
        ("training: {sources: }\n", f"training: {{sources: [{FLOW_SOURCE}] }}\n"),
        ("training: {sources: a}\n", f"training: {{sources: [a, {FLOW_SOURCE}]}}\n"),
        ("training: {sources: [a]}\n", f"training: {{sources: [a, {FLOW_SOURCE}]}}\n"),
        (
            "training:\n    seed: 1 # s\n    # note\n\nsystem_prompt: a\n",
            f"training:\n    seed: 1 # s\n    sources:\n{block_source('      ')}    # note\n\n"
            "system_prompt: a\n",
        ),
        ("training:\n  sources:\n", f"training:\n  sources:\n{block_source('    ')}"),
        (
            "training:\n  sources: # none yet\n  # x\n  seed: 1\n",
            f"training:\n  sources: # none yet\n{block_source('    ')}  # x\n  seed: 1\n",
        ),
        ("training:\n  sources: null\n", f"training:\n  sources: \n{block_source('    ')}"),
        ("training:\n  sources: [] # s\n", f"training:\n  sources: [{FLOW_SOURCE}] # s\n"),
        (
            "training:\n  sources: [\n    a, # x\n    {path: b}, # y\n  ]\n",
            f"training:\n  sources: [\n    a, # x\n    {{path: b}}, {FLOW_SOURCE}, # y\n  ]\n",
        ),
        (
            "training:\n  sources: ./a b # s\n  seed: 1\n",
            f"training:\n  sources:\n    - ./a b # s\n{block_source('    ')}  seed: 1\n",
        ),
        (
            "training:\n  sources:\n      'a' # s\n",
            f"training:\n  sources:\n      - 'a' # s\n{block_source('      ')}",
        ),
        (
            "training:\n  sources:\n  - path: a # x\n    include: [b]\n\n  # y\n  seed: 1\n",
            "training:\n  sources:\n  - path: a # x\n    include: [b]\n"
            f"{block_source('  ')}\n  # y\n  seed: 1\n",
        ),
        (
            "training:\n  sources:\n    - a\n    -   path: b\n        prompt: |\n          c\n",
            "training:\n  sources:\n    - a\n    -   path: b\n        prompt: |\n          c\n"
            f"{block_source('    ')}",
        ),
    ],
)
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_adding_a_source_changes_no_other_byte(yaml: str, changed: str, line_end: str) -> None:
    def encode_document(middle: str) -> bytes:
        text = f"---\n# top\n{HEAD}{middle}{BODY}"
        return ("\ufeff" + text.replace("\n", line_end)).encode()

    assert add_source(encode_document(yaml), NEW_SOURCE) == encode_document(changed)
    before, after = (
        parse_document(encode_document(text).decode(), Path("my.dlm")).config.training.sources
        for text in (yaml, changed)
    )
    *others, new = after
    assert tuple(others) == before
    assert new.model_dump(exclude_unset=True) == {**NEW_SOURCE, "include": ("*.wav",)}


def test_a_source_is_added_to_frontmatter_of_one_line() -> None:
    data = b"---\n{dlm_id: 01HZ4X7TGZM3J1A2B3C4D5E6F7, base_model: sparrow}\n---\n"
    added = b", training: {sources: [{path: b}]}}\n---\n"
    assert add_source(data, {"path": "b"}) == data.replace(b"}\n---\n", added)


def test_a_source_that_cannot_be_added_is_an_error() -> None:
    data = f"---\n{HEAD}training:\n  sources: a\n   b\n---\n".encode()
    with pytest.raises(DocumentError, match="cannot be written there; write it") as caught:
        add_source(data, {"path": "b"})
    assert caught.value.code == "document.not_editable"


def test_paths_are_written_relative_to_the_document_where_that_is_the_same_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "real/deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real/deep")
    assert make_document_path(tmp_path / "real", tmp_path / "a b") == "../a b"
    assert make_document_path(tmp_path, tmp_path / "real/deep") == "real/deep"
    assert make_document_path(tmp_path / "link", tmp_path / "a") == str(tmp_path / "a")
    assert make_document_path(tmp_path, tmp_path / "~") == str(tmp_path / "~")
    monkeypatch.chdir(tmp_path)
    assert make_document_path(Path(), Path("real/../a")) == "a"


def test_a_formatted_conversation_parses_to_the_same_messages() -> None:
    text = format_conversation([("user", "<audio>a.wav</audio> Who?"), ("assistant", "Ann.")])
    (section,) = parse_document(f"---\n{HEAD}---\n{text}\n", Path("my.dlm")).sections
    assert [message.content for message in section.messages] == [
        (Path("a.wav"), " Who?"),
        ("Ann.",),
    ]


def test_a_missing_final_newline_stays_missing() -> None:
    data = f"---\n{HEAD}---".encode()
    assert set_field(data, "dlm_version", 2) == f"---\n{HEAD}dlm_version: 2\n---".encode()


@pytest.mark.parametrize(
    ("field", "value", "code", "words"),
    [
        ("training.lora_rr", 3, "unknown_key", "did you mean 'training.lora_r'?"),
        ("zzz", 3, "unknown_key", "unknown key 'zzz'; name a field, such as training.lora_r"),
        ("training.sources.path", "a", "unknown_key", "unknown key 'training.sources.path'"),
        ("training.lora_r", "8", "bad_value", "training.lora_r is '8'; it must be a whole number"),
        ("training", 3, "bad_value", "training is 3; it must be a group"),
        ("dlm_version", 16, "newer_version", "dlm_version 16 is newer"),
    ],
)
def test_a_field_that_cannot_be_set_is_an_error(
    field: str, value: int, code: str, words: str
) -> None:
    with pytest.raises(DocumentError, match=re.escape(words)) as caught:
        set_field(f"---\n{HEAD}{BODY}".encode(), field, value)
    assert caught.value.code == f"document.{code}"


@pytest.mark.parametrize("ending", ["", "\n", "\n\n", "\n\n\n"])
def test_a_section_is_added_after_a_blank_line(ending: str) -> None:
    fence = format_audio_fence("a.wav", "Hi.")
    data = f"---\n{HEAD}---\nProse.{ending}".encode()
    added = append_section(data, fence)
    assert added.startswith(data)
    assert added == data + b"\n" * (2 - min(2, len(ending))) + f"{fence}\n".encode()


def test_added_lines_end_as_the_others_do() -> None:
    data = f"---\n{HEAD}---\n".replace("\n", "\r\n").encode()
    added = append_section(data, "::instruction::\n### Q\na\n### A\nb\n")
    assert added == data + b"\r\n::instruction::\r\n### Q\r\na\r\n### A\r\nb\r\n"


@pytest.mark.parametrize("text", ["More prose.", "", "<!-- only a comment -->"])
def test_a_section_that_would_continue_the_last_one_is_an_error(text: str) -> None:
    with pytest.raises(DocumentError, match="begin it with a fence") as caught:
        append_section(f"---\n{HEAD}---\nProse.\n".encode(), text)
    assert caught.value.code == "document.section_not_separate"


def test_a_section_with_a_mistake_is_not_added() -> None:
    with pytest.raises(DocumentError, match="::audio:: has no transcript") as caught:
        append_section(f"---\n{HEAD}---\n".encode(), '::audio path="a"::')
    assert caught.value.code == "document.missing_attribute"


def test_a_fence_is_formatted_with_escapes_and_every_attribute() -> None:
    fence = format_audio_fence("a.wav", 'Say "hi"\r\n\\now', start=1.5, end="3", language="fr")
    assert fence == (
        '::audio path="a.wav" transcript="Say \\"hi\\" \\\\now" start="1.5" end="3" language="fr"::'
    )


@pytest.mark.parametrize(
    ("transcript", "attributes", "code", "words"),
    [
        (" \n", {}, "data.empty_transcript", "AUDIO section has empty transcript"),
        ("x", {"prompt": ""}, "document.empty_attribute", "'prompt' is empty"),
        ("x", {"lang": "fr"}, "document.unknown_attribute", "'lang'; did you mean 'language'?"),
    ],
)
def test_a_fence_with_an_unknown_or_empty_attribute_is_not_formatted(
    transcript: str, attributes: dict[str, str], code: str, words: str
) -> None:
    with pytest.raises(DocumentError, match=re.escape(words)) as caught:
        format_audio_fence("a.wav", transcript, **attributes)
    assert caught.value.code == code


@pytest.mark.parametrize("adapter", get_args(AdapterType))
@pytest.mark.parametrize("base_model", ["sparrow", "hf:org/name", "./folder: odd"])
def test_the_template_parses_and_holds_one_clip(base_model: str, adapter: str) -> None:
    document = parse_document(render_new_document(base_model, adapter), Path("my.dlm"))
    assert document.config.base_model == base_model
    assert document.config.dlm_version == 11
    assert document.config.training.adapter == adapter
    (section,) = document.sections
    assert section.attributes == {
        "path": "clips/your-clip.wav",
        "transcript": "Transcript of the audio clip.",
    }
    assert '::audio path="clips/your-clip.wav" transcript="Transcript of the audio clip."::' in (
        document.text.split("\n")
    )


def test_every_commented_field_of_the_template_is_valid() -> None:
    text = re.sub(r"^  # ", "  ", render_new_document("sparrow", "lora"), flags=re.MULTILINE)
    training = parse_document(text, Path("my.dlm")).config.training
    assert training.audio.auto_resample is True
    assert training.sources[0].path == "./corpus"
    assert training.sources[0].include == ("**/*.{wav,flac,mp3,m4a}",)


def test_the_sections_in_comments_of_the_template_are_valid() -> None:
    comment = render_new_document("sparrow", "lora").rpartition("<!--")[2]
    lines = comment.split("\n")[1:]
    body = "\n".join(line for line in lines if not line.startswith("   "))
    sections = parse_document(f"---\n{HEAD}---\n{body}", Path("my.dlm")).sections
    assert [section.kind for section in sections] == ["instruction", "conversation"]


def test_ulids_differ_and_sort_by_time() -> None:
    first = generate_ulid()
    time.sleep(0.002)
    later = generate_ulid()
    assert re.fullmatch(ULID_PATTERN, first) and first < later
    assert len({generate_ulid() for _ in range(100)}) == 100
