"""A conversation in a row of a list: who says what, and which recordings are heard where.

    {"conversations": [{"from": "user", "value": "<audio>clips/a.wav</audio> What is said?"},
                       {"from": "assistant", "value": "The train leaves at seven."}]}
    {"messages": [{"role": "user", "content": "<audio> What is said?"}, ...], "audios": ["a.wav"]}

The first is the form of Qwen3 audio trainers and of ShareGPT, the second that of ms-swift and
LLaMA-Factory; either may name its recordings in the tags or beside the turns. A user's turn may
hold several.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from dlm.clips.clip import Part, Role, Sound, Turn
from dlm.clips.rows import Fields, text_of
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
        role = ROLES.get(str(each.get(who)).lower()) if isinstance(each, dict) else None
        if role is None:
            mend = f'write {{"{who}": "user" or "assistant", "{words}": ...}}'
            raise ClipError(f"turn {number} is nobody's", mend=mend)
        text = text_of(each, words)
        if text is None:
            what = f"turn {number} says nothing"
            raise ClipError(what, mend="write what is said, or take it out")
        parts = tuple(_parts(text, folder, beside))
        if role != "user" and not all(isinstance(part, str) for part in parts):
            what = f"turn {number} holds sound, and is the {role}'s"
            raise ClipError(what, mend="put the tag in a user's turn")
        yield Turn(role, parts)


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
        yield Sound(folder / written, written=written)
        at = tag.end()
    if text[at:].strip():
        yield text[at:]
