"""A conversation in a row of a list: who says what, and which recordings are heard where.

    {"conversations": [{"from": "user", "value": "<audio>clips/a.wav</audio> What is said?"},
                       {"from": "assistant", "value": "The train leaves at seven."}]}
    {"messages": [{"role": "user", "content": "<audio> What is said?"}, ...], "audios": ["a.wav"]}
    {"messages": [{"role": "user", "content": [{"type": "audio", "audio": "clips/a.wav"},
                                               {"type": "text", "text": "What is said?"}]}, ...]}

The first is the form of Qwen3 audio trainers and of ShareGPT, the second that of ms-swift,
LLaMA-Factory and SALMONN-2, the third that of OpenAI and of chat templates. Recordings are named in
tags, in parts or beside the turns; a user's turn may hold several.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from dlm.data.readers.records import SourceRecord, get_raw_text, get_text, require_local_path
from dlm.data.types import AudioSegment, ContentPart, Message, Role, require_assistant_reply
from dlm.errors import DataError

CONVERSATION_KEYS = {"conversations": ("from", "value"), "messages": ("role", "content")}
ROLE_ALIASES: dict[str, Role] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}
MESSAGE_AUDIO_TAG_RE = re.compile(
    r"<audio>(?P<path>[^<>]*)</audio>|(?P<odd></?audio\b[^<>]*>?)", re.IGNORECASE
)
AUDIO_TAG_HINT = "write <audio>clips/a.wav</audio>"
AUDIO_PART_TYPES = ("audio", "audio_url", "input_audio")  # the types of a part that is a recording
AUDIO_PATH_KEYS = (*AUDIO_PART_TYPES, "path", "url")  # where such a part has its path
AUDIO_PART_EXAMPLE = '{"type": "audio", "audio": "clips/a.wav"}'


def is_conversation(record: SourceRecord) -> bool:
    """Whether a row holds turns."""
    return any(key in record for key in CONVERSATION_KEYS)


def parse_record_messages(record: SourceRecord, folder: Path) -> tuple[Message, ...]:
    """The turns of a row, recordings relative to `folder`. Raises ClipError for what is wrong."""
    beside = _get_audio_paths(record)
    turns = tuple(_iter_messages(record, folder, beside))
    if beside:
        what = f"{beside[0]} has no <audio> tag"
        raise DataError(what, hint="write <audio> where it is heard, or take it out")
    if not turns or turns[0].role == "assistant":
        mend = "let a user begin"
        raise DataError("the conversation begins with no turn of a user", hint=mend)
    if not any(isinstance(part, AudioSegment) for turn in turns for part in turn.content):
        mend = f"{AUDIO_TAG_HINT} in a user's turn"
        raise DataError("nothing is heard in it: no <audio> tag", hint=mend)
    require_assistant_reply(turns)
    return turns


def reject_audio_tag(text: str | None, key: str) -> None:
    """Refuse a tag in the words of a row that names its one recording beside them."""
    if text and MESSAGE_AUDIO_TAG_RE.search(text):
        what = f"{key} holds an <audio> tag, and the row has its recording in audio"
        raise DataError(what, hint="take the tag out, or write the row as a conversation")


def _get_audio_paths(record: SourceRecord) -> list[str]:
    """The recordings named beside the turns, in order."""
    named = record.get("audios", record.get("audio")) or []
    listed = named if isinstance(named, list) else [named]
    return [get_text({"audios": each}, "audios") or "" for each in listed]


def _iter_messages(
    record: SourceRecord, folder: Path, pending_paths: list[str]
) -> Iterator[Message]:
    form = next(key for key in CONVERSATION_KEYS if key in record)
    who, words = CONVERSATION_KEYS[form]
    said = record[form]
    if not isinstance(said, list):
        raise DataError(f"{form} is not a list", hint=f'write "{form}": [...]')
    for number, each in enumerate(said, start=1):
        name = each.get(who) if isinstance(each, dict) else None
        role = ROLE_ALIASES.get(name.lower()) if isinstance(name, str) else None
        if role is None:
            mend = f'write {{"{who}": "user" or "assistant", "{words}": ...}}'
            raise DataError(f"turn {number} is nobody's", hint=mend)
        parts = tuple(_parse_content(each, words, folder, pending_paths))
        if not parts:
            what = f"turn {number} says nothing"
            raise DataError(what, hint="write what is said, or take it out")
        if role != "user" and not all(isinstance(part, str) for part in parts):
            what = f"turn {number} holds sound, and is the {role}'s"
            raise DataError(what, hint="put it in a user's turn")
        yield Message(role, parts)


def _parse_content(
    message: SourceRecord, content_key: str, folder: Path, pending_paths: list[str]
) -> Iterator[ContentPart]:
    """What a turn says, as text with tags or as a list of parts."""
    content = message.get(content_key)
    if not isinstance(content, list):
        yield from _split_audio_tags(get_text(message, content_key) or "", folder, pending_paths)
        return
    for place, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text":
            text = get_raw_text(part, "text")
            text = text.lstrip() if place == 0 else text
            text = text.rstrip() if place == len(content) - 1 else text
            yield from _split_audio_tags(text, folder, pending_paths)
        elif kind in AUDIO_PART_TYPES:
            written = _get_part_path(part) or (pending_paths.pop(0) if pending_paths else None)
            if written is None:
                raise DataError(
                    "a part of a turn names no file", hint=f"write {AUDIO_PART_EXAMPLE}"
                )
            yield _make_segment(folder, written)
        else:
            mend = f'write {{"type": "text", "text": ...}} or {AUDIO_PART_EXAMPLE}'
            raise DataError("a part of a turn is neither text nor sound", hint=mend)


def _get_part_path(content_part: SourceRecord) -> str | None:
    """The file that a part of a turn names."""
    for key in AUDIO_PATH_KEYS:
        held = content_part.get(key)
        if isinstance(held, dict) and held.get("data") is not None:
            what = "a part of a turn holds its recording itself, as base64"
            raise DataError(what, hint=f"save it in a file, and write {AUDIO_PART_EXAMPLE}")
        row = held if isinstance(held, dict) else content_part
        for name in ("url", "path") if isinstance(held, dict) else (key,):
            if found := get_text(row, name):
                return found
    return None


def _make_segment(folder: Path, raw_path: str) -> AudioSegment:
    return AudioSegment(folder / require_local_path(raw_path), display_path=raw_path)


def _split_audio_tags(text: str, folder: Path, pending_paths: list[str]) -> Iterator[ContentPart]:
    """Text and sounds in order; blanks between two sounds are dropped."""
    at = 0
    for tag in MESSAGE_AUDIO_TAG_RE.finditer(text):
        if text[at : tag.start()].strip():
            yield text[at : tag.start()]
        written = (tag["path"] or "").strip()
        if tag[0] == "<audio>" and pending_paths:
            written = pending_paths.pop(0)
        if not written or tag["odd"] not in (None, "<audio>"):
            raise DataError(f"the tag {tag[0]} names no file", hint=AUDIO_TAG_HINT)
        yield _make_segment(folder, written)
        at = tag.end()
    if text[at:].strip():
        yield text[at:]
