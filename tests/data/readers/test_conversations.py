"""Conversations in a JSON list: messages from every form, and each broken one with its line."""

import json
from pathlib import Path
from typing import Any

import pytest

from dlm.data.load import LoadedData
from dlm.data.types import AudioSegment, Message
from tests.data.readers.source_loading import get_issues, get_locations, get_texts, load_source
from tests.data.recordings import save_audio

SOURCE = {"path": "data/talk.json"}
USER = {"from": "user", "value": "<audio>a.wav</audio> What is it?"}
ASSISTANT = {"from": "assistant", "value": "A bell."}


def make_conversation(*messages: object) -> dict[str, Any]:
    return {"conversations": list(messages)}


def make_user_conversation(value: object) -> dict[str, Any]:
    return make_conversation({"from": "user", "value": value}, ASSISTANT)


def make_messages(content: object, answer: object = "A bell.", **fields: object) -> dict[str, Any]:
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
    return {"messages": messages, **fields}


def make_text_part(text: object) -> dict[str, object]:
    return {"type": "text", "text": text}


def load_list(folder: Path, content: object, **options: Any) -> LoadedData:
    """Load a list with this content, two recordings beside it; text is written as it is."""
    for name in ("a.wav", "b.wav"):
        save_audio(folder / "data" / name)
    text = content if isinstance(content, str) else json.dumps(content, indent=1)
    (folder / "data/talk.json").write_text(text, encoding="utf-8")
    load_options = {key: options.pop(key) for key in ("policy", "system") if key in options}
    return load_source(folder, {**SOURCE, **options}, **load_options)


def test_a_conversation_is_an_example(tmp_path: Path) -> None:
    comparison = {"from": "user", "value": "Compare <audio>a.wav</audio> <audio>b.wav</audio>"}
    answer = {"from": "gpt", "value": " Two bells.\n"}
    record = make_conversation(USER, ASSISTANT, comparison, answer) | {"id": 3}
    data = load_list(tmp_path, [record])
    a, b = (AudioSegment(tmp_path / "data" / name) for name in ("a.wav", "b.wav"))
    (example,) = data.examples
    assert example.messages == (
        Message("user", (a, " What is it?")),
        Message("assistant", ("A bell.",)),
        Message("user", ("Compare ", a, b)),
        Message("assistant", ("Two bells.",)),
    )
    assert (example.task, example.location, data.issues) == ("answer", "data/talk.json:2", ())
    assert example.audio_segments[0].name == "a.wav" and data.sources[0].audio_count == 1


def test_recordings_may_be_named_beside_the_messages(tmp_path: Path) -> None:
    user = {"role": "user", "content": "<audio>First.\n<audio> Second?"}
    messages = [user, {"role": "assistant", "content": "Yes."}]
    two = {"messages": messages, "audios": ["a.wav", "b.wav"], "language": "fr"}
    one = make_conversation({"from": "human", "value": "<audio>\nWhat?"}, ASSISTANT)
    first, second = load_list(tmp_path, [two, one | {"audio": "a.wav"}]).examples
    assert [segment.name for segment in first.audio_segments] == ["a.wav", "b.wav"]
    assert first.messages[0].content[1] == "First.\n" and first.language == "fr"
    assert [segment.name for segment in second.audio_segments] == ["a.wav"]


PARTS = [
    {"type": "audio", "audio": "a.wav"},
    {"type": "audio", "path": "a.wav"},
    {"type": "audio", "url": "a.wav"},
    {"type": "audio", "audio_url": "a.wav"},
    {"type": "audio_url", "audio_url": {"url": "a.wav"}},
    {"type": "audio", "audio": {"path": "a.wav", "bytes": None}},
    {"type": "input_audio", "input_audio": "a.wav"},
    {"type": "audio"},
]


@pytest.mark.parametrize("part", PARTS, ids=range(len(PARTS)))
def test_a_message_may_be_a_list_of_content_parts(part: dict[str, object], tmp_path: Path) -> None:
    content = [make_text_part(" First "), part, make_text_part("What "), make_text_part("is it? ")]
    record = make_messages(content, [make_text_part("A bell."), make_text_part(" Two. ")])
    record |= {} if len(part) > 1 else {"audios": ["a.wav"]}
    (example,) = load_list(tmp_path, [record]).examples
    segment = AudioSegment(tmp_path / "data/a.wav")
    assert example.messages == (
        Message("user", ("First ", segment, "What ", "is it?")),
        Message("assistant", ("A bell.", " Two.")),
    )
    assert example.audio_segments[0].name == "a.wav" and example.target == "A bell. Two."


def test_a_source_names_the_columns(tmp_path: Path) -> None:
    columns = {"messages": "chat", "audios": "heard", "language": "lg", "speaker": "who"}
    record = make_messages("<audio>") | {"lg": "fr", "who": "ann", "heard": ["b.wav"]}
    record["chat"] = record.pop("messages")
    (example,) = load_list(tmp_path, [record], columns=columns).examples
    assert [segment.name for segment in example.audio_segments] == ["b.wav"]
    assert (example.language, example.speaker) == ("fr", "ann")


def test_the_system_prompt_of_the_document_is_used_where_a_record_has_none(tmp_path: Path) -> None:
    system = {"from": "system", "value": "Be long."}
    records = [make_conversation(USER, ASSISTANT), make_conversation(system, USER, ASSISTANT)]
    data = load_list(tmp_path, records, system="Be brief.")
    assert [example.messages[0].text for example in data.examples] == ["Be brief.", "Be long."]
    assert [len(example.messages) for example in data.examples] == [3, 3]


def test_an_array_may_hold_flat_records(tmp_path: Path) -> None:
    first = {"audio": "a.wav", "text": "Ding."}
    data = load_list(tmp_path, [first, {"audio": "b.wav", "text": "Dong.", "prompt": "?"}])
    assert get_texts(data) == ["Ding.", "Dong."]
    assert data.examples[0].task == "transcribe"
    assert data.examples[1].messages[0].content[1] == "?"


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_records_may_follow_each_other_with_any_line_ends(
    mark: str, end: str, tmp_path: Path
) -> None:
    record = make_conversation(USER, ASSISTANT)
    records = [json.dumps(record), json.dumps(record, indent=2)]
    data = load_list(tmp_path, mark + end.join(records).replace("\n", end) + end)
    assert get_locations(data) == ["data/talk.json:1", "data/talk.json:2"]


ASSISTANT_AUDIO = {"from": "assistant", "value": USER["value"]}
INLINE = {"type": "input_audio", "input_audio": {"data": "UklG"}}
BROKEN = [
    (
        make_user_conversation("What is it?"),
        "data.no_audio_tag",
        "nothing is heard in it: no <audio>",
    ),
    (
        make_user_conversation("<audio></audio> What?"),
        "data.no_audio_path",
        "<audio></audio> names no",
    ),
    (
        make_user_conversation("<audio> What?"),
        "data.no_audio_path",
        "the tag <audio> names no file",
    ),
    (
        make_user_conversation("<audio>a.wav<audio>b.wav</audio>"),
        "data.no_audio_path",
        "the tag <audio>",
    ),
    (
        make_user_conversation("a.wav</audio> What?"),
        "data.no_audio_path",
        "the tag </audio> names no",
    ),
    (
        make_user_conversation("<audio>a.wav</audio>") | {"audios": ["b.wav"]},
        "data.unused_audio",
        "b.wav has no <audio> tag",
    ),
    (make_user_conversation(" "), "data.empty_message", "message 1"),
    (make_user_conversation(7), "data.not_text", "value"),
    (make_conversation(ASSISTANT), "data.no_user_message", ""),
    (make_conversation(), "data.no_user_message", ""),
    (
        make_conversation(USER),
        "data.no_assistant_reply",
        "the conversation does not end with words of the assistant",
    ),
    (make_conversation(USER, ASSISTANT_AUDIO), "data.audio_outside_user", "message 2"),
    (make_conversation(USER, {"from": "bot", "value": "Hm."}), "data.bad_role", "message 2"),
    (make_conversation(USER, "Hm."), "data.bad_role", "message 2"),
    (make_conversation({"from": [[]], "value": "Hm."}), "data.bad_role", "message 1"),
    ({"conversations": "Hm."}, "data.not_a_list", "conversations"),
    (
        {"audio": "a.wav", "text": "x", "prompt": "<audio>b.wav</audio>"},
        "data.audio_tag_in_text",
        "prompt holds an <audio> tag,",
    ),
    ({"audio": "a.wav", "text": "<audio>a.wav</audio> x"}, "data.audio_tag_in_text", "text holds"),
    (make_messages([INLINE]), "data.inline_audio", "base64"),
    (
        make_messages([{"type": "audio", "audio": "data:audio/wav;base64,UklG"}]),
        "data.inline_audio",
        "",
    ),
    (make_messages([{"type": "audio", "url": "http://x.org/a"}]), "data.remote_audio", "x.org/a"),
    (make_messages("<audio>https://x.org/a.wav</audio>"), "data.remote_audio", "x.org/a.wav"),
    (make_messages([{"type": "audio_url", "audio_url": {}}]), "data.no_audio_path", "content part"),
    (make_messages([{"type": "audio", "audio": "A" * 9000}]), "data.bad_path", "9,000"),
    (make_messages([{"type": "image", "image": "a.png"}]), "data.bad_content_part", ""),
    (make_messages(["a.wav"]), "data.bad_content_part", ""),
    (make_messages([{"type": ["text"], "text": "x"}]), "data.bad_content_part", ""),
    (make_messages([]), "data.empty_message", "message 1"),
    (make_messages([make_text_part(5)]), "data.not_text", "text"),
    ({"text": "x"}, "data.no_audio_path", ""),
    (["a.wav", "x"], "data.not_an_object", ""),
]


@pytest.mark.parametrize(("record", "code", "words"), BROKEN, ids=range(len(BROKEN)))
def test_a_broken_record_is_an_issue_with_its_line(
    record: object, code: str, words: str, tmp_path: Path
) -> None:
    good = json.dumps(make_conversation(USER, ASSISTANT))
    data = load_list(tmp_path, f"[{good},\n{json.dumps(record)},\n{good}]")
    assert get_locations(data) == ["data/talk.json:1", "data/talk.json:3"]
    assert get_issues(data) == [("data/talk.json:2", code)]
    assert words in data.issues[0].what and data.issues[0].fatal


@pytest.mark.parametrize(
    "end", ["", ",", "] []", " {}]", ",\n{'a': 1}]", ",\n" + "[" * 100_000], ids=range(6)
)
def test_an_array_ends_where_it_is_broken(end: str, tmp_path: Path) -> None:
    data = load_list(tmp_path, f"[{json.dumps(make_conversation(USER, ASSISTANT))}{end}")
    assert len(data.examples) == 1
    line = 1 + end.count("\n")
    assert get_issues(data) == [(f"data/talk.json:{line}", "data.not_json")]


@pytest.mark.parametrize("text", ["", "[]", " [ ]\n"])
def test_an_empty_list_is_an_issue(text: str, tmp_path: Path) -> None:
    data = load_list(tmp_path, text)
    assert [issue.code for issue in data.issues] == ["source.empty", "data.no_examples"]


def test_under_strict_every_recording_must_be_inside(tmp_path: Path) -> None:
    record = make_user_conversation("<audio>a.wav</audio><audio>../../b.wav</audio>")
    data = load_list(tmp_path, [record], policy="strict")
    assert get_issues(data) == [("data/talk.json:2", "data.outside_folder")]
    assert "../../b.wav" in data.issues[0].what
    assert len(load_list(tmp_path, [record]).examples) == 1
