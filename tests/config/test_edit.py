"""Changes to a document touch nothing else; a new document is ready to use."""

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

HEAD = "dlm_id: 01HZ4X7TGZM3J1A2B3C4D5E6F7\nbase_model: sparrow # the bird\n"
BODY = "---\nProse stays.\n\n"


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
def test_one_field_is_set_and_nothing_else(
    yaml: str, field: str, value: str, changed: str, line_end: str
) -> None:
    def data(middle: str) -> bytes:
        text = f"---\n# top\n{HEAD}{middle}{BODY}"
        return ("\ufeff" + text.replace("\n", line_end)).encode()

    assert set_field(data(yaml), field, value) == data(changed)
    assert set_field(data(changed), field, value) == data(changed)


NEW = {"path": "new.csv", "columns": {"text": "say it"}, "include": ["*.wav"]}
INLINE = '{path: new.csv, columns: {text: "say it"}, include: ["*.wav"]}'


def item(blanks: str) -> str:
    return f"""\
{blanks}- path: new.csv
{blanks}  columns: {{text: "say it"}}
{blanks}  include: ["*.wav"]
"""


@pytest.mark.parametrize(
    ("yaml", "changed"),
    [
        ("", f"training:\n  sources:\n{item('    ')}"),
        ("training:\n", f"training:\n  sources:\n{item('    ')}"),
        ("training: ~ # t\n", f"training:  # t\n  sources:\n{item('    ')}"),
        ("training: {}\n", f"training: {{sources: [{INLINE}]}}\n"),
        ("training: {seed: 1}\n", f"training: {{seed: 1, sources: [{INLINE}]}}\n"),
        ("training: {sources: }\n", f"training: {{sources: [{INLINE}] }}\n"),
        ("training: {sources: a}\n", f"training: {{sources: [a, {INLINE}]}}\n"),
        ("training: {sources: [a]}\n", f"training: {{sources: [a, {INLINE}]}}\n"),
        (
            "training:\n    seed: 1 # s\n    # note\n\nsystem_prompt: a\n",
            f"training:\n    seed: 1 # s\n    sources:\n{item('      ')}    # note\n\n"
            "system_prompt: a\n",
        ),
        ("training:\n  sources:\n", f"training:\n  sources:\n{item('    ')}"),
        (
            "training:\n  sources: # none yet\n  # x\n  seed: 1\n",
            f"training:\n  sources: # none yet\n{item('    ')}  # x\n  seed: 1\n",
        ),
        ("training:\n  sources: null\n", f"training:\n  sources: \n{item('    ')}"),
        ("training:\n  sources: [] # s\n", f"training:\n  sources: [{INLINE}] # s\n"),
        (
            "training:\n  sources: [\n    a, # x\n    {path: b}, # y\n  ]\n",
            f"training:\n  sources: [\n    a, # x\n    {{path: b}}, {INLINE}, # y\n  ]\n",
        ),
        (
            "training:\n  sources: ./a b # s\n  seed: 1\n",
            f"training:\n  sources:\n    - ./a b # s\n{item('    ')}  seed: 1\n",
        ),
        (
            "training:\n  sources:\n      'a' # s\n",
            f"training:\n  sources:\n      - 'a' # s\n{item('      ')}",
        ),
        (
            "training:\n  sources:\n  - path: a # x\n    include: [b]\n\n  # y\n  seed: 1\n",
            f"training:\n  sources:\n  - path: a # x\n    include: [b]\n{item('  ')}\n  # y\n"
            "  seed: 1\n",
        ),
        (
            "training:\n  sources:\n    - a\n    -   path: b\n        prompt: |\n          c\n",
            "training:\n  sources:\n    - a\n    -   path: b\n        prompt: |\n          c\n"
            f"{item('    ')}",
        ),
    ],
)
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_a_source_is_added_and_nothing_else(yaml: str, changed: str, line_end: str) -> None:
    def data(middle: str) -> bytes:
        text = f"---\n# top\n{HEAD}{middle}{BODY}"
        return ("\ufeff" + text.replace("\n", line_end)).encode()

    assert add_source(data(yaml), NEW) == data(changed)
    *kept, new = parse_document(data(changed).decode(), Path("my.dlm")).config.training.sources
    assert (
        tuple(kept) == parse_document(data(yaml).decode(), Path("my.dlm")).config.training.sources
    )
    assert new.model_dump(exclude_unset=True) == {**NEW, "include": ("*.wav",)}


def test_a_source_in_a_document_of_one_line() -> None:
    data = b"---\n{dlm_id: 01HZ4X7TGZM3J1A2B3C4D5E6F7, base_model: sparrow}\n---\n"
    added = b", training: {sources: [{path: b}]}}\n---\n"
    assert add_source(data, {"path": "b"}) == data.replace(b"}\n---\n", added)


def test_a_source_beside_one_that_nobody_would_write() -> None:
    data = f"---\n{HEAD}training:\n  sources: a\n   b\n---\n".encode()
    with pytest.raises(DocumentError, match="cannot be written there; write it in the document"):
        add_source(data, {"path": "b"})


def test_a_path_as_a_document_writes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real/deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real/deep")
    assert make_document_path(tmp_path / "real", tmp_path / "a b") == "../a b"
    assert make_document_path(tmp_path, tmp_path / "real/deep") == "real/deep"
    assert make_document_path(tmp_path / "link", tmp_path / "a") == str(tmp_path / "a")
    assert make_document_path(tmp_path, tmp_path / "~") == str(tmp_path / "~")
    monkeypatch.chdir(tmp_path)
    assert make_document_path(Path(), Path("real/../a")) == "a"


def test_a_conversation_as_a_section() -> None:
    text = format_conversation([("user", "<audio>a.wav</audio> Who?"), ("assistant", "Ann.")])
    (section,) = parse_document(f"---\n{HEAD}---\n{text}\n", Path("my.dlm")).sections
    assert [turn.content for turn in section.messages] == [(Path("a.wav"), " Who?"), ("Ann.",)]


def test_no_final_newline_stays_none() -> None:
    data = f"---\n{HEAD}---".encode()
    assert set_field(data, "dlm_version", 2) == f"---\n{HEAD}dlm_version: 2\n---".encode()


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("training.lora_rr", 3, "unknown key 'training.lora_rr'; did you mean 'training.lora_r'?"),
        ("zzz", 3, "unknown key 'zzz'; name a field, such as training.lora_r"),
        ("training.sources.path", "a", "unknown key 'training.sources.path'"),
        ("training.lora_r", "8", "training.lora_r is '8'; it must be a whole number"),
        ("training", 3, "training is 3; it must be a group"),
        ("dlm_version", 16, "dlm_version 16 is newer"),
    ],
)
def test_a_field_that_cannot_be_set(field: str, value: int, words: str) -> None:
    with pytest.raises(DocumentError, match=re.escape(words)):
        set_field(f"---\n{HEAD}{BODY}".encode(), field, value)


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


@pytest.mark.parametrize("text", ["More prose.", "", "<!-- only a note -->"])
def test_text_that_would_join_the_section_before_is_refused(text: str) -> None:
    with pytest.raises(DocumentError, match="begin it with a fence"):
        append_section(f"---\n{HEAD}---\nProse.\n".encode(), text)


def test_a_broken_section_is_not_added() -> None:
    with pytest.raises(DocumentError, match="::audio:: has no transcript"):
        append_section(f"---\n{HEAD}---\n".encode(), '::audio path="a"::')


def test_a_fence_with_all_it_may_hold() -> None:
    fence = format_audio_fence("a.wav", 'Say "hi"\r\n\\now', start=1.5, end="3", language="fr")
    assert fence == (
        '::audio path="a.wav" transcript="Say \\"hi\\" \\\\now" start="1.5" end="3" language="fr"::'
    )


def test_a_fence_that_cannot_be() -> None:
    with pytest.raises(DocumentError, match="AUDIO section has empty transcript"):
        format_audio_fence("a.wav", " \n")
    with pytest.raises(DocumentError, match="unknown attribute 'lang'; did you mean 'language'"):
        format_audio_fence("a.wav", "x", lang="fr")


@pytest.mark.parametrize("adapter", get_args(AdapterType))
@pytest.mark.parametrize("base", ["sparrow", "hf:org/name", "./folder: odd"])
def test_the_scaffold_parses_and_holds_one_clip(base: str, adapter: str) -> None:
    found = parse_document(render_new_document(base, adapter), Path("my.dlm"))
    assert found.config.base_model == base
    assert found.config.dlm_version == 11
    assert found.config.training.adapter == adapter
    (section,) = found.sections
    assert section.attributes == {
        "path": "clips/your-clip.wav",
        "transcript": "Transcript of the audio clip.",
    }
    assert '::audio path="clips/your-clip.wav" transcript="Transcript of the audio clip."::' in (
        found.text.split("\n")
    )


def test_every_line_the_scaffold_offers_works_when_uncommented() -> None:
    text = re.sub(r"^  # ", "  ", render_new_document("sparrow", "lora"), flags=re.MULTILINE)
    training = parse_document(text, Path("my.dlm")).config.training
    assert training.audio.auto_resample is True
    assert training.sources[0].path == "./corpus"
    assert training.sources[0].include == ("**/*.wav", "**/*.flac")


def test_what_the_scaffold_shows_in_notes_can_be_learnt() -> None:
    note = render_new_document("sparrow", "lora").rpartition("<!--")[2]
    shown = "\n".join(line for line in note.split("\n")[1:] if not line.startswith("   "))
    sections = parse_document(f"---\n{HEAD}---\n{shown}", Path("my.dlm")).sections
    assert [section.kind for section in sections] == ["instruction", "conversation"]


def test_ulids_are_fresh_and_in_order_of_time() -> None:
    first = generate_ulid()
    time.sleep(0.002)
    later = generate_ulid()
    assert re.fullmatch(ULID_PATTERN, first) and first < later
    assert len({generate_ulid() for _ in range(100)}) == 100
