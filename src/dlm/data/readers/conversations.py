"""Conversations in the records of a JSON list: messages, and the recordings in them.

    {"conversations": [{"from": "user", "value": "<audio>clips/a.wav</audio> What is said?"},
                       {"from": "assistant", "value": "The train leaves at seven."}]}
    {"messages": [{"role": "user", "content": "<audio> What is said?"}, ...], "audios": ["a.wav"]}
    {"messages": [{"role": "user", "content": [{"type": "audio", "audio": "clips/a.wav"},
                                               {"type": "text", "text": "What is said?"}]}, ...]}

The first is the form of Qwen3 audio trainers and of ShareGPT, the second that of ms-swift,
LLaMA-Factory and SALMONN-2, the third that of OpenAI and of chat templates. Recordings are named in
tags, in content parts or beside the messages; a user message may have several, no other has any.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from dlm.data.readers.columns import SourceRecord, get_raw_text, get_text, require_local_path
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
    r"<audio>(?P<path>[^<>]*)</audio>|(?P<unpaired></?audio\b[^<>]*>?)", re.IGNORECASE
)
AUDIO_TAG_HINT = "write <audio>clips/a.wav</audio>"
AUDIO_PART_TYPES = ("audio", "audio_url", "input_audio")
AUDIO_PATH_KEYS = (*AUDIO_PART_TYPES, "path", "url")  # where a content part has its path
AUDIO_PART_EXAMPLE = '{"type": "audio", "audio": "clips/a.wav"}'


def is_conversation(record: SourceRecord) -> bool:
    """Whether a record holds messages."""
    return any(key in record for key in CONVERSATION_KEYS)


def parse_record_messages(record: SourceRecord, folder: Path) -> tuple[Message, ...]:
    """Return the messages of a record, recordings relative to `folder`.

    Raises:
        DataError: a message, a content part or a tag is wrong, no user message begins it, it has
            no audio, or more than its tags take (`data.*`).
    """
    pending_paths = _get_audio_paths(record)  # taken by <audio> tags without a path
    messages = tuple(_iter_messages(record, folder, pending_paths))
    if pending_paths:
        what = f"{pending_paths[0]} has no <audio> tag"
        hint = "write <audio> where it belongs, or take it out"
        raise DataError(what, hint=hint, code="data.unused_audio")
    if not messages or messages[0].role == "assistant":
        what = "the conversation does not begin with a user message"
        raise DataError(what, hint="put one before it", code="data.no_user_message")
    if not any(message.audio_segments for message in messages):
        what, hint = "nothing is heard in it: no <audio> tag", f"{AUDIO_TAG_HINT} in a user message"
        raise DataError(what, hint=hint, code="data.no_audio_tag")
    require_assistant_reply(messages)
    return messages


def reject_audio_tag(text: str | None, key: str) -> None:
    """Refuse a tag in the text of a record that has its one recording beside it."""
    if text and MESSAGE_AUDIO_TAG_RE.search(text):
        raise DataError(
            f"{key} holds an <audio> tag, and the record has its recording in audio",
            hint="take the tag out, or write the record as a conversation",
            code="data.audio_tag_in_text",
        )


def _get_audio_paths(record: SourceRecord) -> list[str]:
    """The recordings named beside the messages, in order."""
    paths = record.get("audios", record.get("audio")) or []
    paths = paths if isinstance(paths, list) else [paths]
    return [get_text({"audios": path}, "audios") or "" for path in paths]


def _iter_messages(
    record: SourceRecord, folder: Path, pending_paths: list[str]
) -> Iterator[Message]:
    key = next(key for key in CONVERSATION_KEYS if key in record)
    role_key, content_key = CONVERSATION_KEYS[key]
    raw_messages = record[key]
    if not isinstance(raw_messages, list):
        hint = f'write "{key}": [...]'
        raise DataError(f"{key} is not a list", hint=hint, code="data.not_a_list")
    for number, raw_message in enumerate(raw_messages, start=1):
        raw_role = raw_message.get(role_key) if isinstance(raw_message, dict) else None
        role = ROLE_ALIASES.get(raw_role.lower()) if isinstance(raw_role, str) else None
        if role is None:
            hint = f'write {{"{role_key}": "user" or "assistant", "{content_key}": ...}}'
            raise DataError(f"message {number} has no known role", hint=hint, code="data.bad_role")
        content = tuple(_parse_content(raw_message, content_key, folder, pending_paths))
        if not content:
            hint = "write what is said, or take it out"
            raise DataError(f"message {number} is empty", hint=hint, code="data.empty_message")
        if role != "user" and any(isinstance(part, AudioSegment) for part in content):
            what = f"message {number} has audio, and its role is {role}"
            hint = "put it in a user message"
            raise DataError(what, hint=hint, code="data.audio_outside_user")
        yield Message(role, content)


def _parse_content(
    message: SourceRecord, content_key: str, folder: Path, pending_paths: list[str]
) -> Iterator[ContentPart]:
    """The content of a message: text with tags, or a list of parts."""
    content = message.get(content_key)
    if not isinstance(content, list):
        yield from _split_audio_tags(get_text(message, content_key) or "", folder, pending_paths)
        return
    for index, part in enumerate(content):
        part_type = part.get("type") if isinstance(part, dict) else None
        if part_type == "text":
            text = get_raw_text(part, "text")
            text = text.lstrip() if index == 0 else text
            text = text.rstrip() if index == len(content) - 1 else text
            yield from _split_audio_tags(text, folder, pending_paths)
        elif part_type in AUDIO_PART_TYPES:
            path = _get_part_path(part) or (pending_paths.pop(0) if pending_paths else None)
            if path is None:
                what, hint = "a content part names no file", f"write {AUDIO_PART_EXAMPLE}"
                raise DataError(what, hint=hint, code="data.no_audio_path")
            yield _make_segment(folder, path)
        else:
            hint = f'write {{"type": "text", "text": ...}} or {AUDIO_PART_EXAMPLE}'
            what = "a content part is neither text nor audio"
            raise DataError(what, hint=hint, code="data.bad_content_part")


def _get_part_path(content_part: SourceRecord) -> str | None:
    """The file of a content part: {"audio": path}, or {"audio_url": {"url": path}}."""
    for key in AUDIO_PATH_KEYS:
        value = content_part.get(key)
        if not isinstance(value, dict):
            path = get_text(content_part, key)
        elif value.get("data") is not None:
            what = "a content part holds its recording itself, as base64"
            hint = f"save it in a file, and write {AUDIO_PART_EXAMPLE}"
            raise DataError(what, hint=hint, code="data.inline_audio")
        else:
            path = get_text(value, "url") or get_text(value, "path")
        if path:
            return path
    return None


def _make_segment(folder: Path, raw_path: str) -> AudioSegment:
    return AudioSegment(folder / require_local_path(raw_path), display_path=raw_path)


def _split_audio_tags(text: str, folder: Path, pending_paths: list[str]) -> Iterator[ContentPart]:
    """Text and audio in order; blanks between two recordings are dropped."""
    position = 0
    for tag in MESSAGE_AUDIO_TAG_RE.finditer(text):
        if text[position : tag.start()].strip():
            yield text[position : tag.start()]
        path = (tag["path"] or "").strip()
        if tag[0] == "<audio>" and pending_paths:
            path = pending_paths.pop(0)
        if not path or tag["unpaired"] not in (None, "<audio>"):
            what = f"the tag {tag[0]} names no file"
            raise DataError(what, hint=AUDIO_TAG_HINT, code="data.no_audio_path")
        yield _make_segment(folder, path)
        position = tag.end()
    if text[position:].strip():
        yield text[position:]
