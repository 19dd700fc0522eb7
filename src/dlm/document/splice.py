"""One change in YAML that leaves all else as it stands.

key: value      the value is written over
key:            the value is written after the colon, or its group below
(no such key)   the key is written below the last one of its group
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import yaml

from dlm.document.frontmatter import BREAK, Frontmatter, scalar

Value = str | int | float | bool | None | Sequence[str]
Steps = tuple[str, ...]

WORD = re.compile(r"[A-Za-z][\w./-]*", re.ASCII)
OTHER_BOOLEANS = ("yes", "no", "on", "off", "y", "n")  # to readers of older YAML
INDENT = 2


@dataclass(frozen=True)
class Splice:
    """What is written between two characters of the YAML."""

    start: int
    stop: int
    text: str


def spliced(front: Frontmatter, steps: Steps, value: Value) -> str:
    """The YAML of the document with one field set."""
    source = front.text[front.start : front.end]
    change = _change(source, front.root, steps, value)
    return source[: change.start] + change.text + source[change.stop :]


def written(value: Value) -> str:
    """A value as YAML on one line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        word = WORD.fullmatch(value) and scalar(value) == value
        return value if word and value.lower() not in OTHER_BOOLEANS else _quoted(value)
    if isinstance(value, float):
        digits = repr(value)
        return digits if "." in digits else digits.replace("e", ".0e")
    if isinstance(value, int):
        return str(value)
    return f"[{', '.join(written(item) for item in value)}]"


def line_end_of(text: str) -> str:
    """How lines end in this text."""
    found = BREAK.search(text)
    return found[0] if found else "\n"


def _quoted(value: str) -> str:
    dumped: str = yaml.dump(value, default_style='"', allow_unicode=True, width=float("inf"))
    return dumped.rstrip("\n")


def _change(source: str, parent: yaml.MappingNode, steps: Steps, value: Value) -> Splice:
    """Walk down to the field, or to where it is missing."""
    for key, node in parent.value:
        if key.value != steps[0]:
            continue
        if len(steps) == 1:
            return _over(source, key, node, value)
        if isinstance(node, yaml.MappingNode):
            return _change(source, node, steps[1:], value)
        inline = bool(parent.flow_style)
        return _below_empty(source, key, node, _Group(steps[1:], value, inline))
    return _added(source, parent, _Group(steps, value, bool(parent.flow_style)))


@dataclass(frozen=True)
class _Group:
    """Keys, each inside the one before, and the value of the last; on one line or on many."""

    steps: Steps
    value: Value
    inline: bool

    def text(self, indent: int, line_end: str) -> str:
        keys = [f"{written(step)}:" for step in self.steps]
        if self.inline:
            return " {".join(keys) + f" {written(self.value)}" + "}" * (len(keys) - 1)
        deeper = (f"{' ' * (indent + INDENT * depth)}{key}" for depth, key in enumerate(keys))
        return line_end.join(deeper) + f" {written(self.value)}"


def _over(source: str, key: yaml.Node, node: yaml.Node, value: Value) -> Splice:
    """Write the value where the old one stands."""
    start, stop = node.start_mark.index, _stop(source, node)
    column = node.start_mark.column
    listed = isinstance(value, Sequence) and not isinstance(value, str) and list(value)
    if listed and isinstance(node, yaml.SequenceNode) and not node.flow_style:
        between = line_end_of(source) + " " * column + "- "
        return Splice(start, stop, "- " + between.join(map(written, listed)))
    if node.start_mark.line > key.start_mark.line:
        blanks = max(0, key.start_mark.column + INDENT - column)
    else:
        blanks = 1 if start == stop else 0
    return Splice(start, stop, " " * blanks + written(value))


def _below_empty(source: str, key: yaml.Node, node: yaml.Node, group: _Group) -> Splice:
    """Give an empty key its group."""
    start, stop = node.start_mark.index, _stop(source, node)
    if group.inline:
        return Splice(start, stop, f" {{{group.text(0, '')}}}")
    line_end, line_stop = line_end_of(source), _line_stop(source, stop)
    block = group.text(key.start_mark.column + INDENT, line_end)
    return Splice(start, line_stop, source[stop:line_stop] + line_end + block)


def _added(source: str, parent: yaml.MappingNode, group: _Group) -> Splice:
    """Write the keys after the last of the mapping they belong to."""
    if not parent.value:
        at = parent.start_mark.index + len("{")
        return Splice(at, at, group.text(0, ""))
    key, node = parent.value[-1]
    stop = max(key.end_mark.index, _stop(source, node))
    if group.inline:
        return Splice(stop, stop, f", {group.text(0, '')}")
    line_end = line_end_of(source)
    block = group.text(parent.start_mark.column, line_end)
    last = _last(node)
    if isinstance(last, yaml.ScalarNode) and last.style in ("|", ">"):
        at = last.end_mark.index
        return Splice(at, at, block + line_end)
    at = _line_stop(source, stop)
    return Splice(at, at, line_end + block)


def _last(node: yaml.Node) -> yaml.Node:
    """What stands last in a node; YAML's own mark of its end may be lines further on."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _last(last[1] if isinstance(last, tuple) else last)
    return node


def _stop(source: str, node: yaml.Node) -> int:
    last = _last(node)
    start, end = last.start_mark.index, last.end_mark.index
    return start + len(source[start:end].rstrip())


def _line_stop(source: str, at: int) -> int:
    found = BREAK.search(source, at)
    return found.start() if found else len(source)
