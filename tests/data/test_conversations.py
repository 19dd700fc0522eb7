"""Conversations in a list: turns from every form, and each bad one told with its line."""

import json
from pathlib import Path

import pytest

from dlm.data.load import LoadedData, load_examples
from dlm.data.types import AudioSegment, Message
from tests.data.sounds import document, save

HEAD = "training:\n  sources:\n    - path: data/talk.json\n"
ASKED = {"from": "user", "value": "<audio>a.wav</audio> What is it?"}
SAID = {"from": "assistant", "value": "A bell."}


def talk(*turns: object) -> dict[str, object]:
    return {"conversations": list(turns)}


def given(folder: Path, content: object, *, head: str = HEAD) -> LoadedData:
    """What a document gives whose one source is this file; text is written as it is."""
    path = folder / "data/talk.json"
    for name in ("a.wav", "b.wav"):
        save(folder / "data" / name)
    text = content if isinstance(content, str) else json.dumps(content, indent=1)
    path.write_text(text, encoding="utf-8")
    return load_examples(document(folder, head=head))


def told(found: LoadedData) -> list[str]:
    return [str(problem) for problem in found.issues]


def test_a_conversation_is_a_clip(tmp_path: Path) -> None:
    again = {"from": "user", "value": "Compare <audio>a.wav</audio> <audio>b.wav</audio>"}
    rows = [talk(ASKED, SAID, again, {"from": "gpt", "value": " Two bells.\n"}) | {"id": 3}]
    found = given(tmp_path, rows)
    a, b = (AudioSegment(tmp_path / "data" / name) for name in ("a.wav", "b.wav"))
    (clip,) = found.examples
    assert clip.messages == (
        Message("user", (a, " What is it?")),
        Message("assistant", ("A bell.",)),
        Message("user", ("Compare ", a, b)),
        Message("assistant", ("Two bells.",)),
    )
    assert (clip.task, clip.location, found.issues) == ("answer", "data/talk.json:2", ())
    assert clip.audio_segments[0].name == "a.wav" and found.sources[0].audio_count == 1


def test_recordings_named_beside_the_turns(tmp_path: Path) -> None:
    user = {"role": "user", "content": "<audio>First.\n<audio> Second?"}
    turns = [user, {"role": "assistant", "content": "Yes."}]
    two = {"messages": turns, "audios": ["a.wav", "b.wav"], "language": "fr"}
    one = talk({"from": "human", "value": "<audio>\nWhat?"}, SAID) | {"audio": "a.wav"}
    first, second = given(tmp_path, [two, one]).examples
    assert [sound.name for sound in first.audio_segments] == ["a.wav", "b.wav"]
    assert first.messages[0].content[1] == "First.\n" and first.language == "fr"
    assert [sound.name for sound in second.audio_segments] == ["a.wav"]


def messages(content: object, answer: object = "A bell.", **more: object) -> dict[str, object]:
    turns = [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
    return {"messages": turns, **more}


def text(words: object) -> dict[str, object]:
    return {"type": "text", "text": words}


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
def test_a_turn_may_be_a_list_of_parts(part: dict[str, object], tmp_path: Path) -> None:
    content = [text(" First "), part, text("What "), text("is it? ")]
    row = messages(content, [text("A bell."), text(" Two. ")])
    (clip,) = given(tmp_path, [row | ({} if len(part) > 1 else {"audios": ["a.wav"]})]).examples
    sound = AudioSegment(tmp_path / "data/a.wav")
    assert clip.messages == (
        Message("user", ("First ", sound, "What ", "is it?")),
        Message("assistant", ("A bell.", " Two.")),
    )
    assert clip.audio_segments[0].name == "a.wav" and clip.target == "A bell. Two."


def test_a_source_names_the_columns(tmp_path: Path) -> None:
    more = "      columns: {messages: chat, audios: heard, language: lg, speaker: who}\n"
    row = messages("<audio>") | {"lg": "fr", "who": "ann", "heard": ["b.wav"]}
    row["chat"] = row.pop("messages")
    (clip,) = given(tmp_path, [row], head=HEAD + more).examples
    assert [sound.name for sound in clip.audio_segments] == ["b.wav"]
    assert (clip.language, clip.speaker) == ("fr", "ann")


def test_the_document_tells_the_system_where_a_row_does_not(tmp_path: Path) -> None:
    own = {"from": "system", "value": "Be long."}
    found = given(tmp_path, [talk(ASKED, SAID), talk(own, ASKED, SAID)], head=SYSTEM + HEAD)
    assert [clip.messages[0].text for clip in found.examples] == ["Be brief.", "Be long."]
    assert [len(clip.messages) for clip in found.examples] == [3, 3]


SYSTEM = "system_prompt: Be brief.\n"


def test_flat_rows_in_an_array(tmp_path: Path) -> None:
    rows = [{"audio": "a.wav", "text": "Ding."}, {"audio": "b.wav", "text": "Dong.", "prompt": "?"}]
    found = given(tmp_path, rows)
    assert [clip.target for clip in found.examples] == ["Ding.", "Dong."]
    assert (
        found.examples[0].task == "transcribe" and found.examples[1].messages[0].content[1] == "?"
    )


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("line", ["\n", "\r\n"])
def test_any_line_ends_and_lines_without_an_array(mark: str, line: str, tmp_path: Path) -> None:
    rows = [json.dumps(talk(ASKED, SAID)), json.dumps(talk(ASKED, SAID), indent=2)]
    text = mark + line.join(rows).replace("\n", line) + line
    found = given(tmp_path, text)
    assert [clip.location for clip in found.examples] == ["data/talk.json:1", "data/talk.json:2"]


def user(value: object) -> dict[str, object]:
    return talk({"from": "user", "value": value}, SAID)


BAD = [
    (user("What is it?"), "nothing is heard in it: no <audio> tag"),
    (user("<audio></audio> What?"), "the tag <audio></audio> names no file"),
    (user("<audio> What?"), "the tag <audio> names no file"),
    (user("<audio>a.wav<audio>b.wav</audio>"), "the tag <audio> names no file"),
    (user("a.wav</audio> What?"), "the tag </audio> names no file"),
    (user("<audio>a.wav</audio>") | {"audios": ["b.wav"]}, "b.wav has no <audio> tag"),
    (user(" "), "message 1 is empty"),
    (user(7), "value is not text"),
    (talk(SAID), "the conversation does not begin with a user message"),
    (talk(), "the conversation does not begin with a user message"),
    (talk(ASKED), "does not end with words of the assistant"),
    (talk(ASKED, {"from": "assistant", "value": ASKED["value"]}), "message 2 has audio"),
    (talk(ASKED, {"from": "bot", "value": "Hm."}), "message 2 has no known role"),
    (talk(ASKED, "Hm."), "message 2 has no known role"),
    ({"conversations": "Hm."}, "conversations is not a list"),
    ({"audio": "a.wav", "text": "x", "prompt": "<audio>b.wav</audio>"}, "prompt holds an <audio>"),
    ({"audio": "a.wav", "text": "<audio>a.wav</audio> x"}, "text holds an <audio> tag"),
    (messages([{"type": "input_audio", "input_audio": {"data": "UklG"}}]), "holds its recording"),
    (messages([{"type": "audio", "audio": "data:audio/wav;base64,UklG"}]), "is inside the record"),
    (messages([{"type": "audio", "url": "http://x.org/a"}]), "http://x.org/a is not on this"),
    (messages([{"type": "audio_url", "audio_url": {}}]), "a content part names no file"),
    (messages([{"type": "audio", "audio": "A" * 9000}]), "the path of a recording has 9,000"),
    (messages([{"type": "image", "image": "a.png"}]), "a content part is neither text nor"),
    (messages(["a.wav"]), "a content part is neither text nor audio"),
    (messages([{"type": ["text"], "text": "x"}]), "a content part is neither text nor audio"),
    (messages([]), "message 1 is empty"),
    (messages([text(5)]), "text is not text"),
    (messages("<audio>https://x.org/a.wav</audio>"), "https://x.org/a.wav is not on this machine"),
    (talk({"from": [[]], "value": "Hm."}), "message 1 has no known role"),
    ({"text": "x"}, "no audio"),
    (["a.wav", "x"], "not an object"),
]


@pytest.mark.parametrize(("row", "what"), BAD, ids=range(len(BAD)))
def test_a_bad_row_is_told_with_its_line(row: object, what: str, tmp_path: Path) -> None:
    text = (
        f"[{json.dumps(talk(ASKED, SAID))},\n{json.dumps(row)},\n{json.dumps(talk(ASKED, SAID))}]"
    )
    found = given(tmp_path, text)
    assert [clip.location for clip in found.examples] == ["data/talk.json:1", "data/talk.json:3"]
    (line,) = told(found)
    assert line.startswith("data/talk.json:2: ") and what in line and "; " in line
    assert found.issues[0].fatal


@pytest.mark.parametrize(
    "end", ["", ",", "] []", " {}]", ",\n{'a': 1}]", ",\n" + "[" * 100_000], ids=range(6)
)
def test_what_is_broken_ends_an_array(end: str, tmp_path: Path) -> None:
    found = given(tmp_path, f"[{json.dumps(talk(ASKED, SAID))}{end}")
    assert len(found.examples) == 1
    (line,) = told(found)
    assert "not JSON (" in line and line.startswith(f"data/talk.json:{1 + end.count(chr(10))}: ")


@pytest.mark.parametrize("text", ["", "[]", " [ ]\n"])
def test_an_empty_list(text: str, tmp_path: Path) -> None:
    first, nothing = told(given(tmp_path, text))
    assert "no clips in data/talk.json" in first and "nothing to train on" in nothing


def test_strict_keeps_every_sound_inside(tmp_path: Path) -> None:
    row = talk({"from": "user", "value": "<audio>a.wav</audio><audio>../../b.wav</audio>"}, SAID)
    strict = HEAD + "  sources_policy: strict\n"
    (line,) = told(given(tmp_path, [row], head=strict))
    assert line.startswith("data/talk.json:2: ../../b.wav lies outside the document's folder")
    assert len(given(tmp_path, [row]).examples) == 1
