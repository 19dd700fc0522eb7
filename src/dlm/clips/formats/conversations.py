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

from dlm.clips.clip import Part, Role, Sound, Turn
from dlm.clips.formats.rows import Fields, letters_of, local, text_of
from dlm.clips.sections import check_end
from dlm.errors import ClipError

FORMS = {"conversations": ("from", "value"), "messages": ("role", "content")}
ROLES: dict[str, Role] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}
TAG = re.compile(r"<audio>(?P<path>[^<>]*)</audio>|(?P<odd></?audio\b[^<>]*>?)", re.IGNORECASE)
EXAMPLE = "write <audio>clips/a.wav</audio>"
HEARD = ("audio", "audio_url", "input_audio")  # the types of a part that is a recording
NAMED = (*HEARD, "path", "url")  # where such a part has its path
PART = '{"type": "audio", "audio": "clips/a.wav"}'


def is_conversation(row: Fields) -> bool:
    """Whether a row holds turns."""
    return any(key in row for key in FORMS)


def turns_of(row: Fields, folder: Path) -> tuple[Turn, ...]:
    """The turns of a row, recordings relative to `folder`. Raises ClipError for what is wrong."""
    beside = _beside(row)
    turns = tuple(_turns(row, folder, beside))
    if beside:
        what = f"{beside[0]} has no <audio> tag"
        raise ClipError(what, mend="write <audio> where it is heard, or take it out")
    if not turns or turns[0].role == "assistant":
        mend = "let a user begin"
        raise ClipError("the conversation begins with no turn of a user", mend=mend)
    if not any(isinstance(part, Sound) for turn in turns for part in turn.parts):
        mend = f"{EXAMPLE} in a user's turn"
        raise ClipError("nothing is heard in it: no <audio> tag", mend=mend)
    check_end(turns)
    return turns


def refuse_tag(text: str | None, key: str) -> None:
    """Refuse a tag in the words of a row that names its one recording beside them."""
    if text and TAG.search(text):
        what = f"{key} holds an <audio> tag, and the row has its recording in audio"
        raise ClipError(what, mend="take the tag out, or write the row as a conversation")


def _beside(row: Fields) -> list[str]:
    """The recordings named beside the turns, in order."""
    named = row.get("audios", row.get("audio")) or []
    listed = named if isinstance(named, list) else [named]
    return [text_of({"audios": each}, "audios") or "" for each in listed]


def _turns(row: Fields, folder: Path, beside: list[str]) -> Iterator[Turn]:
    form = next(key for key in FORMS if key in row)
    who, words = FORMS[form]
    said = row[form]
    if not isinstance(said, list):
        raise ClipError(f"{form} is not a list", mend=f'write "{form}": [...]')
    for number, each in enumerate(said, start=1):
        name = each.get(who) if isinstance(each, dict) else None
        role = ROLES.get(name.lower()) if isinstance(name, str) else None
        if role is None:
            mend = f'write {{"{who}": "user" or "assistant", "{words}": ...}}'
            raise ClipError(f"turn {number} is nobody's", mend=mend)
        parts = tuple(_said(each, words, folder, beside))
        if not parts:
            what = f"turn {number} says nothing"
            raise ClipError(what, mend="write what is said, or take it out")
        if role != "user" and not all(isinstance(part, str) for part in parts):
            what = f"turn {number} holds sound, and is the {role}'s"
            raise ClipError(what, mend="put it in a user's turn")
        yield Turn(role, parts)


def _said(turn: Fields, words: str, folder: Path, beside: list[str]) -> Iterator[Part]:
    """What a turn says, as text with tags or as a list of parts."""
    content = turn.get(words)
    if not isinstance(content, list):
        yield from _parts(text_of(turn, words) or "", folder, beside)
        return
    for place, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text":
            text = letters_of(part, "text")
            text = text.lstrip() if place == 0 else text
            text = text.rstrip() if place == len(content) - 1 else text
            yield from _parts(text, folder, beside)
        elif kind in HEARD:
            written = _path(part) or (beside.pop(0) if beside else None)
            if written is None:
                raise ClipError("a part of a turn names no file", mend=f"write {PART}")
            yield _sound(folder, written)
        else:
            mend = f'write {{"type": "text", "text": ...}} or {PART}'
            raise ClipError("a part of a turn is neither text nor sound", mend=mend)


def _path(part: Fields) -> str | None:
    """The file that a part of a turn names."""
    for key in NAMED:
        held = part.get(key)
        if isinstance(held, dict) and held.get("data") is not None:
            what = "a part of a turn holds its recording itself, as base64"
            raise ClipError(what, mend=f"save it in a file, and write {PART}")
        row = held if isinstance(held, dict) else part
        for name in ("url", "path") if isinstance(held, dict) else (key,):
            if found := text_of(row, name):
                return found
    return None


def _sound(folder: Path, written: str) -> Sound:
    return Sound(folder / local(written), written=written)


def _parts(text: str, folder: Path, beside: list[str]) -> Iterator[Part]:
    """Text and sounds in order; blanks between two sounds are dropped."""
    at = 0
    for tag in TAG.finditer(text):
        if text[at : tag.start()].strip():
            yield text[at : tag.start()]
        written = (tag["path"] or "").strip()
        if tag[0] == "<audio>" and beside:
            written = beside.pop(0)
        if not written or tag["odd"] not in (None, "<audio>"):
            raise ClipError(f"the tag {tag[0]} names no file", mend=EXAMPLE)
        yield _sound(folder, written)
        at = tag.end()
    if text[at:].strip():
        yield text[at:]
