"""Edits documents byte for byte and writes new ones: fields, sources, sections, template, ULIDs.

Every byte that an edit does not concern stays: comments, order of keys, line ends, byte order mark.
In the YAML:

    key: value      the value is replaced
    key:            the value is written after the colon, or its group below
    (no such key)   the key is written below the last one of its group
    key: [...]      an item is written after the last; a single value becomes the first of two

An edited document is parsed again, and refused where more than that changed.
"""

import os
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    extract_values,
    parse_frontmatter,
    parse_yaml_scalar,
    quote_value,
)
from dlm.errors import DocumentError, make_name_hint, suggest_name

YamlValue = str | int | float | bool | None | Sequence[str] | Mapping[str, str]
YamlEntry = Mapping[str, YamlValue]
KeyPath = tuple[str, ...]

PLAIN_SCALAR_RE = re.compile(r"[A-Za-z][\w./-]*", re.ASCII)
YAML11_BOOLEANS = ("yes", "no", "on", "off", "y", "n")  # quoted for readers of YAML 1.1
YAML_INDENT = 2
CROCKFORD_BASE32 = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
PLACEHOLDER_PATH = Path("document.dlm")
RATES_PREFIX = "training.rates."
SOURCES_KEY_PATH = ("training", "sources")

SAMPLE_AUDIO_PATH = "clips/your-clip.wav"
SAMPLE_FENCE = f'::audio path="{SAMPLE_AUDIO_PATH}" transcript="Transcript of the audio clip."::'
DOCUMENT_TEMPLATE = """\
---
# Settings. Only dlm_id and base_model are required; a line that begins with # is a comment.
dlm_id: {dlm_id}
dlm_version: 11
base_model: {base_model}  # the model to train: a name of the catalogue, or a folder
training:
  adapter: {adapter}  # what is trained: lora, dora, projector or full
  # num_epochs: 3  # passes over the clips
  # held_out: 0.1  # fraction of the clips held out to evaluate on, or a number of clips
  # audio:
  #   auto_resample: true  # convert recordings of another sample rate
  # sources:  # a folder of clips; the transcript of talk.wav is in talk.txt beside it
  #   - path: ./corpus
  #     include: ["**/*.{{wav,flac,mp3,m4a}}"]
---

<!-- Comments like this one are for you; the model never sees them. Everything else is trained on.

     One clip and its transcript: put your recording beside this file, then change both values.
     Inside a value write a quote as \\" and a backslash as \\\\. -->

{sample_fence}

<!-- Write one such line for every clip. A question directly after a clip is about that clip:

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

     Other text is trained on as text. dlm check says what is missing; dlm train trains. -->
"""


@dataclass(frozen=True)
class _AppendItem:
    """One more item of a list, in place of a value."""

    entry: YamlEntry

    def format_block(self, indent: int, line_end: str) -> str:
        """Format the item below its key, with a line for each of its values."""
        pairs = (
            f"{format_yaml_value(key)}: {format_yaml_value(value)}"
            for key, value in self.entry.items()
        )
        return " " * indent + "- " + f"{line_end}{' ' * (indent + YAML_INDENT)}".join(pairs)


@dataclass(frozen=True)
class _NestedKeys:
    """Keys, each inside the one before, and the value of the last; on one line if `is_flow`."""

    key_path: KeyPath
    value: YamlValue | _AppendItem
    is_flow: bool

    def format_text(self, indent: int, line_end: str) -> str:
        keys, value = [f"{format_yaml_value(key)}:" for key in self.key_path], self.value
        if isinstance(value, _AppendItem):
            flow_value = f"[{format_yaml_value(value.entry)}]"
        else:
            flow_value = format_yaml_value(value)
        if self.is_flow:
            return " {".join(keys) + f" {flow_value}" + "}" * (len(keys) - 1)
        lines = [f"{' ' * (indent + YAML_INDENT * depth)}{key}" for depth, key in enumerate(keys)]
        if isinstance(value, _AppendItem):
            item = value.format_block(indent + YAML_INDENT * len(keys), line_end)
            return line_end.join([*lines, item])
        return line_end.join(lines) + f" {flow_value}"


@dataclass(frozen=True)
class _TextEdit:
    """What replaces the characters of the YAML from `start` to `end`."""

    start: int
    end: int
    text: str


def set_field(data: bytes, field_name: str, value: YamlValue) -> bytes:
    """Set one field of the frontmatter, such as `training.lora_r`.

    Raises:
        DocumentError: the field is unknown, the value wrong, or the document (`document.*`).
    """
    return _edit_frontmatter(data, _split_field_name(field_name), value)


def add_source(data: bytes, entry: YamlEntry) -> bytes:
    """Add an entry at the end of `training.sources`.

    Raises:
        DocumentError: the document has a mistake, or no place for it (`document.not_editable`).
    """
    parse_document(decode_document(data, PLACEHOLDER_PATH), PLACEHOLDER_PATH)
    try:
        return _edit_frontmatter(data, SOURCES_KEY_PATH, _AppendItem(entry))
    except DocumentError as error:  # about what was written: the document itself can be read
        what, where = "one more entry cannot be written there", ".".join(SOURCES_KEY_PATH)
        hint = "write it in the document yourself"
        raise DocumentError(what, where=where, hint=hint, code="document.not_editable") from error


def append_section(data: bytes, text: str) -> bytes:
    """Add sections at the end of a document, after a blank line.

    Raises:
        DocumentError: the document or the text has a mistake (`document.*`).
    """
    old_text = decode_document(data, PLACEHOLDER_PATH)
    before = parse_document(old_text, PLACEHOLDER_PATH)
    line_end = _detect_line_ending(old_text)
    added = line_end.join(LINE_BREAK_RE.split(text.strip("\r\n"))) + line_end
    num_breaks = len(before.text) - len(before.text.rstrip("\n"))
    new_text = old_text + line_end * max(0, 2 - num_breaks) + added
    after = parse_document(new_text, PLACEHOLDER_PATH)
    num_before = len(before.sections)
    if after.sections[:num_before] != before.sections or len(after.sections) == num_before:
        what, hint = "the text would become part of the section before it", "begin it with a fence"
        raise DocumentError(
            what, where=quote_value(text), hint=hint, code="document.section_not_separate"
        )
    return new_text.encode("utf-8")


def format_audio_fence(path: str, transcript: str, **attributes: str | float) -> str:
    """Format the fence of a clip; line breaks become blanks.

    Raises:
        DocumentError: an attribute is unknown or empty (`document.*`, `data.empty_transcript`).
    """
    values = {"path": path, "transcript": transcript, **attributes}
    for key, value in values.items():
        if key not in AUDIO_ATTRIBUTES:
            what, hint = (
                f"unknown attribute {quote_value(key)}",
                make_name_hint(key, AUDIO_ATTRIBUTES),
            )
            raise DocumentError(what, where=path, hint=hint, code="document.unknown_attribute")
        if not str(value).strip() and key == "transcript":
            what = EMPTY_TRANSCRIPT_ERROR
            raise DocumentError(what, where=path, hint="fill it in", code="data.empty_transcript")
        if not str(value).strip():
            what = f"'{key}' is empty"
            raise DocumentError(
                what, where=path, hint="fill it in", code="document.empty_attribute"
            )
    pairs = (f'{key}="{_escape_attribute(str(value))}"' for key, value in values.items())
    return f"::audio {' '.join(pairs)}::"


def _escape_attribute(value: str) -> str:
    return re.sub(r'(["\\])', r"\\\1", re.sub(r"[\r\n]+", " ", value))


def format_conversation(messages: Sequence[tuple[str, str]]) -> str:
    """Format the section of a conversation: roles, and texts with audio tags in them."""
    turns = (f"### {role.capitalize()}\n{text}" for role, text in messages)
    return "\n".join(["::conversation::", *turns])


def make_document_path(folder: Path, path: Path) -> str:
    """Return a path for a document in `folder`: relative, where that leads to the same file."""
    relative = os.path.relpath(path, folder)
    is_same = os.path.realpath(folder / relative) == os.path.realpath(path)
    return relative if is_same and relative[:1] != "~" else str(path.absolute())


def render_new_document(base_model: str, adapter: str) -> str:
    """Return the text that `dlm init` writes: one sample clip, and comments on the rest."""
    return DOCUMENT_TEMPLATE.format(
        dlm_id=generate_ulid(),
        base_model=format_yaml_value(base_model),
        adapter=adapter,
        sample_fence=SAMPLE_FENCE,
    )


def remove_sample_clip(data: bytes) -> bytes:
    """Take out the line of the sample clip, if the document has it as `dlm init` writes it."""
    lines = data.splitlines(keepends=True)
    return b"".join(line for line in lines if line.strip() != SAMPLE_FENCE.encode())


def generate_ulid() -> str:
    """Return a new ULID: 48 bits of time in milliseconds, then 80 random bits."""
    bits = (time.time_ns() // 1_000_000 & (1 << 48) - 1) << 80 | secrets.randbits(80)
    return "".join(CROCKFORD_BASE32[bits >> shift & 31] for shift in range(125, -1, -5))


def format_yaml_value(value: YamlValue | YamlEntry) -> str:
    """Format a value as YAML on one line."""
    if isinstance(value, Mapping):
        pairs = (
            f"{format_yaml_value(key)}: {format_yaml_value(item)}" for key, item in value.items()
        )
        return f"{{{', '.join(pairs)}}}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        is_plain = PLAIN_SCALAR_RE.fullmatch(value) and parse_yaml_scalar(value) == value
        if is_plain and value.lower() not in YAML11_BOOLEANS:
            return value
        dumped: str = yaml.dump(value, default_style='"', allow_unicode=True, width=float("inf"))
        return dumped.rstrip("\n")
    if isinstance(value, float):
        digits = repr(value)
        return digits if "." in digits else digits.replace("e", ".0e")
    if isinstance(value, int):
        return str(value)
    return f"[{', '.join(format_yaml_value(item) for item in value)}]"


def _split_field_name(field_name: str) -> KeyPath:
    """Return the keys from the top of the frontmatter down to the field."""
    if field_name.startswith(RATES_PREFIX):
        return (*RATES_PREFIX.split(".")[:2], field_name.removeprefix(RATES_PREFIX))
    names = [name for name, _ in iter_config_fields() if not name.startswith("training.sources.")]
    if field_name not in names:
        closest = suggest_name(field_name, names)
        hint = f"did you mean '{closest}'?" if closest else "name a field, such as training.lora_r"
        what = f"unknown key {quote_value(field_name)}"
        raise DocumentError(what, hint=hint, code="document.unknown_key")
    return tuple(field_name.split("."))


def _edit_frontmatter(data: bytes, key_path: KeyPath, value: YamlValue | _AppendItem) -> bytes:
    """Return the document with one change in its frontmatter, checked to be the only one."""
    text = decode_document(data, PLACEHOLDER_PATH)
    bom = BOM if text.startswith(BOM) else ""
    text = text.removeprefix(BOM)
    parse_document(text, PLACEHOLDER_PATH)
    front = parse_frontmatter(text, PLACEHOLDER_PATH)
    source = front.text[front.start : front.end]
    edit = _make_edit(source, front.root, key_path, value)
    new_source = source[: edit.start] + edit.text + source[edit.end :]
    new_text = text[: front.start] + new_source + text[front.end :]
    parse_document(new_text, PLACEHOLDER_PATH)
    new_front = parse_frontmatter(new_text, PLACEHOLDER_PATH)
    expected = _with_value(extract_values(front)[0], key_path, value)
    if extract_values(new_front)[0] != expected or new_text[new_front.end :] != text[front.end :]:
        what, hint = (
            "cannot be set without changing something else",
            "change it in the document yourself",
        )
        where = ".".join(key_path)
        raise DocumentError(what, where=where, hint=hint, code="document.not_editable")
    return (bom + new_text).encode("utf-8")


def _with_value(
    mapping: dict[str, Any], key_path: KeyPath, value: YamlValue | _AppendItem
) -> dict[str, Any]:
    """Return the same values with one field set, or with one more item in a list."""
    key, *rest = key_path
    new: Any
    if rest:
        new = _with_value(mapping.get(key) or {}, tuple(rest), value)
    elif isinstance(value, _AppendItem):
        items = mapping.get(key) or []
        entry = {name: _to_plain_value(item) for name, item in value.entry.items()}
        new = [*([items] if isinstance(items, str) else items), entry]
    else:
        new = _to_plain_value(value)
    return {**mapping, key: new}


def _to_plain_value(value: YamlValue) -> Any:
    """Return a value as the loader reads it."""
    if value is None or isinstance(value, str | int | float):
        return value
    return dict(value) if isinstance(value, Mapping) else list(value)


def _make_edit(
    source: str, parent: yaml.MappingNode, key_path: KeyPath, value: YamlValue | _AppendItem
) -> _TextEdit:
    """Go down to the field, or to where it is missing, and make the edit there."""
    is_flow = bool(parent.flow_style)
    for key, node in parent.value:
        if key.value != key_path[0]:
            continue
        if len(key_path) == 1 and isinstance(value, _AppendItem):
            return _append_item(source, key, node, item=value, is_flow=is_flow)
        if len(key_path) == 1 and not isinstance(value, _AppendItem):
            return _replace_value(source, key, node, value)
        if isinstance(node, yaml.MappingNode):
            return _make_edit(source, node, key_path[1:], value)
        return _fill_empty_key(source, key, node, _NestedKeys(key_path[1:], value, is_flow))
    return _add_key(source, parent, _NestedKeys(key_path, value, is_flow))


def _replace_value(source: str, key: yaml.Node, node: yaml.Node, value: YamlValue) -> _TextEdit:
    start, stop = node.start_mark.index, _find_node_end(source, node)
    column = node.start_mark.column
    items = isinstance(value, Sequence) and not isinstance(value, str) and list(value)
    if items and isinstance(node, yaml.SequenceNode) and not node.flow_style:
        separator = _detect_line_ending(source) + " " * column + "- "
        return _TextEdit(start, stop, "- " + separator.join(map(format_yaml_value, items)))
    if node.start_mark.line > key.start_mark.line:
        num_blanks = max(0, key.start_mark.column + YAML_INDENT - column)
    else:
        num_blanks = 1 if start == stop else 0
    return _TextEdit(start, stop, " " * num_blanks + format_yaml_value(value))


def _append_item(
    source: str, key: yaml.Node, node: yaml.Node, *, item: _AppendItem, is_flow: bool
) -> _TextEdit:
    """Write one more item after those of a list, which may be empty or a single value."""
    start, stop = node.start_mark.index, _find_node_end(source, node)
    line_end = _detect_line_ending(source)
    if isinstance(node, yaml.SequenceNode):
        if not node.flow_style:
            block = item.format_block(node.start_mark.column, line_end)
            return _insert_below(source, node, block, stop)
        offset = _find_node_end(source, node.value[-1]) if node.value else start + len("[")
        return _TextEdit(offset, offset, ", " * bool(node.value) + format_yaml_value(item.entry))
    is_plain = isinstance(node, yaml.ScalarNode) and node.style is None
    is_empty = is_plain and parse_yaml_scalar(node.value) is None
    if is_flow:
        first = "" if is_empty else f"{source[start:stop]}, "
        blank = " " * (start == stop)
        return _TextEdit(start, stop, f"{blank}[{first}{format_yaml_value(item.entry)}]")
    line_stop = _find_line_end(source, stop)
    indent, first = key.start_mark.column + YAML_INDENT, source[stop:line_stop]
    if node.start_mark.line > key.start_mark.line:
        indent, first = node.start_mark.column, f"- {source[start:line_stop]}"
    elif not is_empty:
        first = f"{line_end}{' ' * indent}- {source[start:line_stop]}"
        start = len(source[:start].rstrip())
    return _TextEdit(start, line_stop, first + line_end + item.format_block(indent, line_end))


def _fill_empty_key(source: str, key: yaml.Node, node: yaml.Node, nested: _NestedKeys) -> _TextEdit:
    start, stop = node.start_mark.index, _find_node_end(source, node)
    if nested.is_flow:
        return _TextEdit(start, stop, f" {{{nested.format_text(0, '')}}}")
    line_end, line_stop = _detect_line_ending(source), _find_line_end(source, stop)
    block = nested.format_text(key.start_mark.column + YAML_INDENT, line_end)
    return _TextEdit(start, line_stop, source[stop:line_stop] + line_end + block)


def _add_key(source: str, parent: yaml.MappingNode, nested: _NestedKeys) -> _TextEdit:
    """Write the keys after the last one of the mapping they belong to."""
    if not parent.value:
        offset = parent.start_mark.index + len("{")
        return _TextEdit(offset, offset, nested.format_text(0, ""))
    key, node = parent.value[-1]
    stop = max(key.end_mark.index, _find_node_end(source, node))
    if nested.is_flow:
        return _TextEdit(stop, stop, f", {nested.format_text(0, '')}")
    block = nested.format_text(parent.start_mark.column, _detect_line_ending(source))
    return _insert_below(source, node, block, stop)


def _insert_below(source: str, node: yaml.Node, block: str, stop: int) -> _TextEdit:
    """Write lines below a node that ends at `stop`."""
    line_end, last = _detect_line_ending(source), _find_last_node(node)
    if isinstance(last, yaml.ScalarNode) and last.style in ("|", ">"):
        offset = last.end_mark.index
        return _TextEdit(offset, offset, block + line_end)
    offset = _find_line_end(source, stop)
    return _TextEdit(offset, offset, line_end + block)


def _find_last_node(node: yaml.Node) -> yaml.Node:
    """Return the last node inside a node; the node's own end mark may be lines further on."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _find_last_node(last[1] if isinstance(last, tuple) else last)
    return node


def _find_node_end(source: str, node: yaml.Node) -> int:
    last = _find_last_node(node)
    start, end = last.start_mark.index, last.end_mark.index
    return start + len(source[start:end].rstrip())


def _find_line_end(source: str, offset: int) -> int:
    match = LINE_BREAK_RE.search(source, offset)
    return match.start() if match else len(source)


def _detect_line_ending(text: str) -> str:
    match = LINE_BREAK_RE.search(text)
    return match[0] if match else "\n"
