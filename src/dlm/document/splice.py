"""One change in YAML that leaves all else as it stands.

key: value      the value is written over
key:            the value is written after the colon, or its group below
(no such key)   the key is written below the last one of its group
key: [...]      one more entry is written behind the last; a single value becomes the first of two
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import yaml

from dlm.document.frontmatter import BREAK, Frontmatter, scalar

Value = str | int | float | bool | None | Sequence[str] | Mapping[str, str]
Entry = Mapping[str, Value]
Steps = tuple[str, ...]

WORD = re.compile(r"[A-Za-z][\w./-]*", re.ASCII)
OTHER_BOOLEANS = ("yes", "no", "on", "off", "y", "n")  # to readers of older YAML
INDENT = 2


@dataclass(frozen=True)
class More:
    """One more entry of a list."""

    entry: Entry

    def lines(self, indent: int, line_end: str) -> str:
        """The entry as an item below its key, a line for each of its values."""
        pairs = (f"{written(key)}: {written(value)}" for key, value in self.entry.items())
        return " " * indent + "- " + f"{line_end}{' ' * (indent + INDENT)}".join(pairs)


@dataclass(frozen=True)
class Splice:
    """What is written between two characters of the YAML."""

    start: int
    stop: int
    text: str


def spliced(front: Frontmatter, steps: Steps, value: Value | More) -> str:
    """The YAML of the document with one field set, or with more in one list."""
    source = front.text[front.start : front.end]
    change = _change(source, front.root, steps, value)
    return source[: change.start] + change.text + source[change.stop :]


def written(value: Value | Entry) -> str:
    """A value as YAML on one line."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{written(key)}: {written(of)}' for key, of in value.items())}}}"
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


def _change(source: str, parent: yaml.MappingNode, steps: Steps, value: Value | More) -> Splice:
    """Walk down to the field, or to where it is missing."""
    for key, node in parent.value:
        if key.value != steps[0]:
            continue
        if len(steps) == 1 and isinstance(value, More):
            return _further(source, key, node, more=value, inline=bool(parent.flow_style))
        if len(steps) == 1 and not isinstance(value, More):
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
    value: Value | More
    inline: bool

    def text(self, indent: int, line_end: str) -> str:
        keys, more = [f"{written(step)}:" for step in self.steps], self.value
        line = f"[{written(more.entry)}]" if isinstance(more, More) else written(more)
        if self.inline:
            return " {".join(keys) + f" {line}" + "}" * (len(keys) - 1)
        deeper = [f"{' ' * (indent + INDENT * depth)}{key}" for depth, key in enumerate(keys)]
        if isinstance(more, More):
            return line_end.join([*deeper, more.lines(indent + INDENT * len(keys), line_end)])
        return line_end.join(deeper) + f" {line}"


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


def _further(source: str, key: yaml.Node, node: yaml.Node, *, more: More, inline: bool) -> Splice:
    """Write one more entry behind those of a list, which may be empty or a single value."""
    start, stop, line_end = node.start_mark.index, _stop(source, node), line_end_of(source)
    if isinstance(node, yaml.SequenceNode):
        if not node.flow_style:
            return _below(source, node, more.lines(node.start_mark.column, line_end))
        at = _stop(source, node.value[-1]) if node.value else start + len("[")
        return Splice(at, at, ", " * bool(node.value) + written(more.entry))
    plain = isinstance(node, yaml.ScalarNode) and node.style is None
    empty = plain and scalar(node.value) is None
    if inline:
        first = "" if empty else f"{source[start:stop]}, "
        return Splice(start, stop, f"{' ' * (start == stop)}[{first}{written(more.entry)}]")
    line_stop = _line_stop(source, stop)
    indent, first = key.start_mark.column + INDENT, source[stop:line_stop]
    if node.start_mark.line > key.start_mark.line:
        indent, first = node.start_mark.column, f"- {source[start:line_stop]}"
    elif not empty:
        first = f"{line_end}{' ' * indent}- {source[start:line_stop]}"
        start = len(source[:start].rstrip())
    return Splice(start, line_stop, first + line_end + more.lines(indent, line_end))


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
    return _below(source, node, group.text(parent.start_mark.column, line_end_of(source)), stop)


def _below(source: str, node: yaml.Node, block: str, stop: int | None = None) -> Splice:
    """Write lines below a node, or below where it is known to stop."""
    line_end, last = line_end_of(source), _last(node)
    if isinstance(last, yaml.ScalarNode) and last.style in ("|", ">"):
        at = last.end_mark.index
        return Splice(at, at, block + line_end)
    at = _line_stop(source, _stop(source, node) if stop is None else stop)
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
