"""One change in YAML that leaves all else as it stands.

key: value      the value is written over
key:            the value is written after the colon, or its group below
(no such key)   the key is written below the last one of its group
key: [...]      one more entry is written behind the last; a single value becomes the first of two

Writing documents: byte-exact changes to one that exists, and the first text of a new one.

Every byte that a change does not speak of stays: comments, key order, line ends, byte order mark.
"""

import os
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from dlm.config.parser import (
    AUDIO_ATTRIBUTES,
    BOM,
    EMPTY_TRANSCRIPT_ERROR,
    decode_document,
    parse_document,
)
from dlm.config.schema import iter_config_fields
from dlm.config.yaml_loader import (
    LINE_BREAK_RE,
    Frontmatter,
    extract_values,
    parse_frontmatter,
    parse_yaml_scalar,
    quote_value,
)
from dlm.errors import DocumentError

YamlValue = str | int | float | bool | None | Sequence[str] | Mapping[str, str]
YamlEntry = Mapping[str, YamlValue]
KeyPath = tuple[str, ...]

PLAIN_SCALAR_RE = re.compile(r"[A-Za-z][\w./-]*", re.ASCII)
YAML11_BOOLEANS = ("yes", "no", "on", "off", "y", "n")  # to readers of older YAML
YAML_INDENT = 2


@dataclass(frozen=True)
class AppendItem:
    """One more entry of a list."""

    entry: YamlEntry

    def format_item(self, indent: int, line_end: str) -> str:
        """The entry as an item below its key, a line for each of its values."""
        pairs = (
            f"{format_yaml_value(key)}: {format_yaml_value(value)}"
            for key, value in self.entry.items()
        )
        return " " * indent + "- " + f"{line_end}{' ' * (indent + YAML_INDENT)}".join(pairs)


@dataclass(frozen=True)
class TextEdit:
    """What is written between two characters of the YAML."""

    start: int
    end: int
    text: str


def apply_yaml_edit(front: Frontmatter, key_path: KeyPath, value: YamlValue | AppendItem) -> str:
    """The YAML of the document with one field set, or with more in one list."""
    source = front.text[front.start : front.end]
    change = _make_edit(source, front.root, key_path, value)
    return source[: change.start] + change.text + source[change.end :]


def format_yaml_value(value: YamlValue | YamlEntry) -> str:
    """A value as YAML on one line."""
    if isinstance(value, Mapping):
        pairs = (f"{format_yaml_value(key)}: {format_yaml_value(of)}" for key, of in value.items())
        return f"{{{', '.join(pairs)}}}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        word = PLAIN_SCALAR_RE.fullmatch(value) and parse_yaml_scalar(value) == value
        return value if word and value.lower() not in YAML11_BOOLEANS else _quote_yaml(value)
    if isinstance(value, float):
        digits = repr(value)
        return digits if "." in digits else digits.replace("e", ".0e")
    if isinstance(value, int):
        return str(value)
    return f"[{', '.join(format_yaml_value(item) for item in value)}]"


def detect_line_ending(text: str) -> str:
    """How lines end in this text."""
    found = LINE_BREAK_RE.search(text)
    return found[0] if found else "\n"


def _quote_yaml(value: str) -> str:
    dumped: str = yaml.dump(value, default_style='"', allow_unicode=True, width=float("inf"))
    return dumped.rstrip("\n")


def _make_edit(
    source: str, parent: yaml.MappingNode, key_path: KeyPath, value: YamlValue | AppendItem
) -> TextEdit:
    """Walk down to the field, or to where it is missing."""
    for key, node in parent.value:
        if key.value != key_path[0]:
            continue
        if len(key_path) == 1 and isinstance(value, AppendItem):
            return _append_item(source, key, node, item=value, is_flow=bool(parent.flow_style))
        if len(key_path) == 1 and not isinstance(value, AppendItem):
            return _replace_value(source, key, node, value)
        if isinstance(node, yaml.MappingNode):
            return _make_edit(source, node, key_path[1:], value)
        inline = bool(parent.flow_style)
        return _fill_empty_key(source, key, node, _NestedKey(key_path[1:], value, inline))
    return _add_key(source, parent, _NestedKey(key_path, value, bool(parent.flow_style)))


@dataclass(frozen=True)
class _NestedKey:
    """Keys, each inside the one before, and the value of the last; on one line or on many."""

    key_path: KeyPath
    value: YamlValue | AppendItem
    is_flow: bool

    def format_text(self, indent: int, line_end: str) -> str:
        keys, more = [f"{format_yaml_value(step)}:" for step in self.key_path], self.value
        line = (
            f"[{format_yaml_value(more.entry)}]"
            if isinstance(more, AppendItem)
            else format_yaml_value(more)
        )
        if self.is_flow:
            return " {".join(keys) + f" {line}" + "}" * (len(keys) - 1)
        deeper = [f"{' ' * (indent + YAML_INDENT * depth)}{key}" for depth, key in enumerate(keys)]
        if isinstance(more, AppendItem):
            return line_end.join(
                [*deeper, more.format_item(indent + YAML_INDENT * len(keys), line_end)]
            )
        return line_end.join(deeper) + f" {line}"


def _replace_value(source: str, key: yaml.Node, node: yaml.Node, value: YamlValue) -> TextEdit:
    """Write the value where the old one stands."""
    start, stop = node.start_mark.index, _find_node_end(source, node)
    column = node.start_mark.column
    listed = isinstance(value, Sequence) and not isinstance(value, str) and list(value)
    if listed and isinstance(node, yaml.SequenceNode) and not node.flow_style:
        between = detect_line_ending(source) + " " * column + "- "
        return TextEdit(start, stop, "- " + between.join(map(format_yaml_value, listed)))
    if node.start_mark.line > key.start_mark.line:
        blanks = max(0, key.start_mark.column + YAML_INDENT - column)
    else:
        blanks = 1 if start == stop else 0
    return TextEdit(start, stop, " " * blanks + format_yaml_value(value))


def _append_item(
    source: str, key: yaml.Node, node: yaml.Node, *, item: AppendItem, is_flow: bool
) -> TextEdit:
    """Write one more entry behind those of a list, which may be empty or a single value."""
    start, stop, line_end = (
        node.start_mark.index,
        _find_node_end(source, node),
        detect_line_ending(source),
    )
    if isinstance(node, yaml.SequenceNode):
        if not node.flow_style:
            return _insert_below(source, node, item.format_item(node.start_mark.column, line_end))
        at = _find_node_end(source, node.value[-1]) if node.value else start + len("[")
        return TextEdit(at, at, ", " * bool(node.value) + format_yaml_value(item.entry))
    plain = isinstance(node, yaml.ScalarNode) and node.style is None
    empty = plain and parse_yaml_scalar(node.value) is None
    if is_flow:
        first = "" if empty else f"{source[start:stop]}, "
        return TextEdit(
            start, stop, f"{' ' * (start == stop)}[{first}{format_yaml_value(item.entry)}]"
        )
    line_stop = _find_line_end(source, stop)
    indent, first = key.start_mark.column + YAML_INDENT, source[stop:line_stop]
    if node.start_mark.line > key.start_mark.line:
        indent, first = node.start_mark.column, f"- {source[start:line_stop]}"
    elif not empty:
        first = f"{line_end}{' ' * indent}- {source[start:line_stop]}"
        start = len(source[:start].rstrip())
    return TextEdit(start, line_stop, first + line_end + item.format_item(indent, line_end))


def _fill_empty_key(
    source: str, key: yaml.Node, node: yaml.Node, nested_key: _NestedKey
) -> TextEdit:
    """Give an empty key its group."""
    start, stop = node.start_mark.index, _find_node_end(source, node)
    if nested_key.is_flow:
        return TextEdit(start, stop, f" {{{nested_key.format_text(0, '')}}}")
    line_end, line_stop = detect_line_ending(source), _find_line_end(source, stop)
    block = nested_key.format_text(key.start_mark.column + YAML_INDENT, line_end)
    return TextEdit(start, line_stop, source[stop:line_stop] + line_end + block)


def _add_key(source: str, parent: yaml.MappingNode, nested_key: _NestedKey) -> TextEdit:
    """Write the keys after the last of the mapping they belong to."""
    if not parent.value:
        at = parent.start_mark.index + len("{")
        return TextEdit(at, at, nested_key.format_text(0, ""))
    key, node = parent.value[-1]
    stop = max(key.end_mark.index, _find_node_end(source, node))
    if nested_key.is_flow:
        return TextEdit(stop, stop, f", {nested_key.format_text(0, '')}")
    return _insert_below(
        source,
        node,
        nested_key.format_text(parent.start_mark.column, detect_line_ending(source)),
        stop,
    )


def _insert_below(source: str, node: yaml.Node, block: str, end: int | None = None) -> TextEdit:
    """Write lines below a node, or below where it is known to stop."""
    line_end, last = detect_line_ending(source), _find_last_node(node)
    if isinstance(last, yaml.ScalarNode) and last.style in ("|", ">"):
        at = last.end_mark.index
        return TextEdit(at, at, block + line_end)
    at = _find_line_end(source, _find_node_end(source, node) if end is None else end)
    return TextEdit(at, at, line_end + block)


def _find_last_node(node: yaml.Node) -> yaml.Node:
    """What stands last in a node; YAML's own mark of its end may be lines further on."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _find_last_node(last[1] if isinstance(last, tuple) else last)
    return node


def _find_node_end(source: str, node: yaml.Node) -> int:
    last = _find_last_node(node)
    start, end = last.start_mark.index, last.end_mark.index
    return start + len(source[start:end].rstrip())


def _find_line_end(source: str, offset: int) -> int:
    found = LINE_BREAK_RE.search(source, offset)
    return found.start() if found else len(source)


CROCKFORD_BASE32 = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
PLACEHOLDER_PATH = Path("document.dlm")
RATES_PREFIX = "training.rates."
SOURCES_KEY_PATH = ("training", "sources")

DOCUMENT_TEMPLATE = """\
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


def set_field(data: bytes, field_name: str, value: YamlValue) -> bytes:
    """Set one field of the frontmatter, such as `training.lora_r`, and leave every other byte."""
    return _edit_frontmatter(data, _split_field_name(field_name), value)


def add_source(data: bytes, entry: YamlEntry) -> bytes:
    """Add an entry at the end of `training.sources`, and leave every other byte."""
    parse_document(decode_document(data, PLACEHOLDER_PATH), PLACEHOLDER_PATH)
    try:
        return _edit_frontmatter(data, SOURCES_KEY_PATH, AppendItem(entry))
    except DocumentError as error:  # of what was written, since the document itself can be read
        what = "one more entry cannot be written there"
        mend = "write it in the document by hand"
        raise DocumentError(what, where=".".join(SOURCES_KEY_PATH), hint=mend) from error


def append_section(data: bytes, text: str) -> bytes:
    """Add sections at the end of a document, a blank line before them."""
    whole = decode_document(data, PLACEHOLDER_PATH)
    before = parse_document(whole, PLACEHOLDER_PATH)
    line_end = detect_line_ending(whole)
    added = line_end.join(LINE_BREAK_RE.split(text.strip("\r\n"))) + line_end
    breaks = len(before.text) - len(before.text.rstrip("\n"))
    changed = whole + line_end * max(0, 2 - breaks) + added
    after = parse_document(changed, PLACEHOLDER_PATH)
    kept = len(before.sections)
    if after.sections[:kept] != before.sections or len(after.sections) == kept:
        what = "the text would become part of the section before it"
        raise DocumentError(what, where=quote_value(text), hint="begin it with a fence")
    return changed.encode("utf-8")


def format_audio_fence(path: str, transcript: str, **attributes: str | float) -> str:
    """The fence of one clip. Line breaks become blanks, since a fence is one line."""
    found = {"path": path, "transcript": transcript, **attributes}
    for key, value in found.items():
        if key not in AUDIO_ATTRIBUTES:
            what, known = f"unknown attribute {quote_value(key)}", ", ".join(AUDIO_ATTRIBUTES)
            raise DocumentError(what, where=path, hint=f"known are {known}")
        if not str(value).strip():
            what = EMPTY_TRANSCRIPT_ERROR if key == "transcript" else f"'{key}' is empty"
            raise DocumentError(what, where=path, hint="fill it in")
    pairs = (f'{key}="{_escape_value(str(value))}"' for key, value in found.items())
    return f"::audio {' '.join(pairs)}::"


def format_conversation(messages: Sequence[tuple[str, str]]) -> str:
    """The section of a conversation: roles, and what each says, sounds as tags in it."""
    said = (f"### {role.capitalize()}\n{text}" for role, text in messages)
    return "\n".join(["::conversation::", *said])


def make_document_path(folder: Path, path: Path) -> str:
    """A path as a document in `folder` writes it: relative, where that leads to the same place."""
    relative = os.path.relpath(path, folder)
    same = os.path.realpath(folder / relative) == os.path.realpath(path)
    return relative if same and relative[:1] != "~" else str(path.absolute())


def render_new_document(base_model: str, adapter: str) -> str:
    """The document that `dlm init` writes: one sample clip, and notes on the rest."""
    return DOCUMENT_TEMPLATE.format(
        dlm_id=generate_ulid(), base_model=format_yaml_value(base_model), adapter=adapter
    )


def generate_ulid() -> str:
    """A fresh ULID: 48 bits of time in milliseconds, then 80 random bits."""
    bits = (time.time_ns() // 1_000_000 & (1 << 48) - 1) << 80 | secrets.randbits(80)
    return "".join(CROCKFORD_BASE32[bits >> shift & 31] for shift in range(125, -1, -5))


def _edit_frontmatter(
    data: bytes, key_path: tuple[str, ...], value: YamlValue | AppendItem
) -> bytes:
    """The document with one change in its frontmatter, read again to see that it is only that."""
    text = decode_document(data, PLACEHOLDER_PATH)
    mark = BOM if text.startswith(BOM) else ""
    text = text.removeprefix(BOM)
    parse_document(text, PLACEHOLDER_PATH)
    front = parse_frontmatter(text, PLACEHOLDER_PATH)
    changed = text[: front.start] + apply_yaml_edit(front, key_path, value) + text[front.end :]
    parse_document(changed, PLACEHOLDER_PATH)
    after = parse_frontmatter(changed, PLACEHOLDER_PATH)
    wanted = _with_value(extract_values(front)[0], key_path, value)
    if extract_values(after)[0] != wanted or changed[after.end :] != text[front.end :]:
        what = "cannot be set without changing something else"
        raise DocumentError(
            what, where=".".join(key_path), hint="change it in the document by hand"
        )
    return (mark + changed).encode("utf-8")


def _escape_value(value: str) -> str:
    return re.sub(r'(["\\])', r"\\\1", re.sub(r"[\r\n]+", " ", value))


def _split_field_name(field_name: str) -> tuple[str, ...]:
    """The keys from the top of the frontmatter down to the field."""
    if field_name.startswith(RATES_PREFIX):
        return (*RATES_PREFIX.split(".")[:2], field_name.removeprefix(RATES_PREFIX))
    names = [name for name, _ in iter_config_fields() if not name.startswith("training.sources.")]
    if field_name not in names:
        near = get_close_matches(field_name, names, n=1)
        mend = f"did you mean '{near[0]}'?" if near else "name a field, such as training.lora_r"
        raise DocumentError(f"unknown key {quote_value(field_name)}", hint=mend)
    return tuple(field_name.split("."))


def _with_value(
    mapping: dict[str, Any], key_path: tuple[str, ...], value: YamlValue | AppendItem
) -> dict[str, Any]:
    """The same values with one field set, or with more in one list."""
    if len(key_path) == 1:
        if isinstance(value, AppendItem):
            listed = mapping.get(key_path[0]) or []
            before = [listed] if isinstance(listed, str) else listed
            entry = {key: _to_plain_value(each) for key, each in value.entry.items()}
            return {**mapping, key_path[0]: [*before, entry]}
        return {**mapping, key_path[0]: _to_plain_value(value)}
    return {
        **mapping,
        key_path[0]: _with_value(mapping.get(key_path[0]) or {}, key_path[1:], value),
    }


def _to_plain_value(value: YamlValue) -> Any:
    """A value as it is read again."""
    if value is None or isinstance(value, str | int | float):
        return value
    return dict(value) if isinstance(value, Mapping) else list(value)
