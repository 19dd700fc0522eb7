"""Writing documents: byte-exact changes to one that exists, and the first text of a new one.

Every byte that a change does not speak of stays: comments, key order, line ends, byte order mark.
"""

import os
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from dlm.document.fences import ATTRIBUTES, EMPTY_TRANSCRIPT
from dlm.document.frontmatter import BREAK, open_frontmatter, values
from dlm.document.lines import shown
from dlm.document.parse import BOM, decode, parse
from dlm.document.settings import every_field
from dlm.document.splice import Entry, More, Value, line_end_of, spliced, written
from dlm.errors import DocumentError

CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
NOWHERE = Path("document.dlm")
RATES = "training.rates."
SOURCES = ("training", "sources")

SCAFFOLD = """\
---
# Settings. Only dlm_id and base_model are needed; a line that begins with # is not read.
dlm_id: {dlm_id}
dlm_version: 11
base_model: {base_model}  # the model that learns: a name of the catalogue, or a folder
training:
  adapter: {adapter}  # what is trained: lora, dora, projector or full
  # num_epochs: 3  # times that every clip is learnt from
  # held_out: 0.1  # share of the clips kept for testing, or a number of clips
  # audio:
  #   auto_resample: true  # convert recordings of another sample rate
  # sources:  # a folder of clips; the words of talk.wav stand in talk.txt beside it
  #   - path: ./corpus
  #     include: ["**/*.wav", "**/*.flac"]
---

<!-- Notes like this one are for you; the model never sees them. Everything else is learnt from.

     One clip and what is said in it: put your recording beside this file, then change both values.
     Inside a value write a quote as \\" and a backslash as \\\\. -->

::audio path="clips/your-clip.wav" transcript="Transcript of the audio clip."::

<!-- Write one such line for every clip. A question straight after a clip is about that clip:

::instruction::
### Q
What is the clip about?
### A
The first words of a new podcast.

     Several clips and several turns:

::conversation::
### User
<audio>clips/first.wav</audio> <audio>clips/second.wav</audio> Who speaks faster?
### Assistant
The second speaker.

     Other text is learnt as text. dlm check says what is missing; dlm train learns. -->
"""


def set_field(data: bytes, dotted: str, value: Value) -> bytes:
    """Set one field of the frontmatter, such as `training.lora_r`, and leave every other byte."""
    return _respliced(data, _steps(dotted), value)


def add_source(data: bytes, entry: Entry) -> bytes:
    """Add an entry at the end of `training.sources`, and leave every other byte."""
    parse(decode(data, NOWHERE), NOWHERE)
    try:
        return _respliced(data, SOURCES, More(entry))
    except DocumentError as error:  # of what was written, since the document itself can be read
        what = "one more entry cannot be written there"
        mend = "write it in the document by hand"
        raise DocumentError(what, where=".".join(SOURCES), mend=mend) from error


def append_section(data: bytes, text: str) -> bytes:
    """Add sections at the end of a document, a blank line before them."""
    whole = decode(data, NOWHERE)
    before = parse(whole, NOWHERE)
    line_end = line_end_of(whole)
    added = line_end.join(BREAK.split(text.strip("\r\n"))) + line_end
    breaks = len(before.source) - len(before.source.rstrip("\n"))
    changed = whole + line_end * max(0, 2 - breaks) + added
    after = parse(changed, NOWHERE)
    kept = len(before.sections)
    if after.sections[:kept] != before.sections or len(after.sections) == kept:
        what = "the text would become part of the section before it"
        raise DocumentError(what, where=shown(text), mend="begin it with a fence")
    return changed.encode("utf-8")


def audio_fence(path: str, transcript: str, **attributes: str | float) -> str:
    """The fence of one clip. Line breaks become blanks, since a fence is one line."""
    found = {"path": path, "transcript": transcript, **attributes}
    for key, value in found.items():
        if key not in ATTRIBUTES:
            what, known = f"unknown attribute {shown(key)}", ", ".join(ATTRIBUTES)
            raise DocumentError(what, where=path, mend=f"known are {known}")
        if not str(value).strip():
            what = EMPTY_TRANSCRIPT if key == "transcript" else f"'{key}' is empty"
            raise DocumentError(what, where=path, mend="fill it in")
    pairs = (f'{key}="{_escaped(str(value))}"' for key, value in found.items())
    return f"::audio {' '.join(pairs)}::"


def conversation(turns: Sequence[tuple[str, str]]) -> str:
    """The section of a conversation: roles, and what each says, sounds as tags in it."""
    said = (f"### {role.capitalize()}\n{text}" for role, text in turns)
    return "\n".join(["::conversation::", *said])


def path_from(folder: Path, path: Path) -> str:
    """A path as a document in `folder` writes it: relative, where that leads to the same place."""
    relative = os.path.relpath(path, folder)
    same = os.path.realpath(folder / relative) == os.path.realpath(path)
    return relative if same and relative[:1] != "~" else str(path.absolute())


def scaffold(base_key: str, adapter: str) -> str:
    """The document that `dlm init` writes: one sample clip, and notes on the rest."""
    return SCAFFOLD.format(dlm_id=new_ulid(), base_model=written(base_key), adapter=adapter)


def new_ulid() -> str:
    """A fresh ULID: 48 bits of time in milliseconds, then 80 random bits."""
    bits = (time.time_ns() // 1_000_000 & (1 << 48) - 1) << 80 | secrets.randbits(80)
    return "".join(CROCKFORD[bits >> shift & 31] for shift in range(125, -1, -5))


def _respliced(data: bytes, steps: tuple[str, ...], value: Value | More) -> bytes:
    """The document with one change in its frontmatter, read again to see that it is only that."""
    text = decode(data, NOWHERE)
    mark = BOM if text.startswith(BOM) else ""
    text = text.removeprefix(BOM)
    parse(text, NOWHERE)
    front = open_frontmatter(text, NOWHERE)
    changed = text[: front.start] + spliced(front, steps, value) + text[front.end :]
    parse(changed, NOWHERE)
    after = open_frontmatter(changed, NOWHERE)
    wanted = _with(values(front)[0], steps, value)
    if values(after)[0] != wanted or changed[after.end :] != text[front.end :]:
        what = "cannot be set without changing something else"
        raise DocumentError(what, where=".".join(steps), mend="change it in the document by hand")
    return (mark + changed).encode("utf-8")


def _escaped(value: str) -> str:
    return re.sub(r'(["\\])', r"\\\1", re.sub(r"[\r\n]+", " ", value))


def _steps(dotted: str) -> tuple[str, ...]:
    """The keys from the top of the frontmatter down to the field."""
    if dotted.startswith(RATES):
        return (*RATES.split(".")[:2], dotted.removeprefix(RATES))
    names = [name for name, _ in every_field() if not name.startswith("training.sources.")]
    if dotted not in names:
        near = get_close_matches(dotted, names, n=1)
        mend = f"did you mean '{near[0]}'?" if near else "name a field, such as training.lora_r"
        raise DocumentError(f"unknown key {shown(dotted)}", mend=mend)
    return tuple(dotted.split("."))


def _with(found: dict[str, Any], steps: tuple[str, ...], value: Value | More) -> dict[str, Any]:
    """The same values with one field set, or with more in one list."""
    if len(steps) == 1:
        if isinstance(value, More):
            listed = found.get(steps[0]) or []
            before = [listed] if isinstance(listed, str) else listed
            entry = {key: _plain(each) for key, each in value.entry.items()}
            return {**found, steps[0]: [*before, entry]}
        return {**found, steps[0]: _plain(value)}
    return {**found, steps[0]: _with(found.get(steps[0]) or {}, steps[1:], value)}


def _plain(value: Value) -> Any:
    """A value as it is read again."""
    if value is None or isinstance(value, str | int | float):
        return value
    return dict(value) if isinstance(value, Mapping) else list(value)
