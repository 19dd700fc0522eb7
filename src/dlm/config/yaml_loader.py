"""The YAML between the `---` lines: its nodes, plain values, and the checked DlmConfig.

    text -> parse_frontmatter -> nodes -> extract_values -> plain values -> validate_config

Every mistake is a DocumentError at its line and column: YAML syntax, aliases, tags, duplicate,
unknown and missing keys, bad values. Mappings, lists and the scalars of YAML 1.2's core schema are
read, so that `yes` is text. pydantic's messages become plain English here.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from dlm.config.schema import LATEST_FORMAT_VERSION, DlmConfig, iter_config_fields
from dlm.errors import DocumentError, make_name_hint, suggest_name

LINE_RE = re.compile(r"([^\r\n]*)(\r\n|\r|\n|\Z)")
LINE_BREAK_RE = re.compile(r"\r\n|\r|\n")
MAX_FRONTMATTER_CHARS = 256 * 1024
MAX_YAML_DEPTH = 16
MAX_QUOTED_CHARS = 40
YAML_KEYWORDS = {"": None, "~": None, "null": None, "true": True, "false": False}
INTEGER_RE = re.compile(r"[-+]?[0-9]{1,30}")
FLOAT_RE = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
ALLOWED_YAML_TAGS = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:seq", "tag:yaml.org,2002:map")

PYDANTIC_PHRASES = (  # pattern in pydantic's message, replacement
    (r"valid dictionary or instance of \w+", "group of 'key: value' lines"),
    ("valid tuple", "list, such as [a, b]"),
    ("a valid string", "text, in quotes"),
    ("a valid boolean", "true or false"),
    ("valid integer", "whole number"),
    ("valid number", "number"),
)

YamlPath = tuple[str | int, ...]


@dataclass(frozen=True)
class YamlSpan:
    """The YAML in the text of a document, from character `start` to `end`."""

    path: Path
    text: str
    start: int
    end: int

    def make_error(self, what: str, offset: int, *, hint: str, code: str) -> DocumentError:
        """Make the error of a mistake at an offset from `start`."""
        where = locate_offset_in_text(self.path, self.text, self.start + offset)
        return DocumentError(what, where=where, hint=hint, code=code)


@dataclass(frozen=True)
class Frontmatter(YamlSpan):
    """The YAML of a document and its nodes, whose marks count from `start`."""

    root: yaml.MappingNode


def locate_offset_in_text(path: Path, text: str, offset: int) -> str:
    """Return `path:line:column` of an offset in a document, in characters."""
    breaks = list(LINE_BREAK_RE.finditer(text, 0, offset))
    column = offset - (breaks[-1].end() if breaks else 0) + 1
    return f"{path}:{len(breaks) + 1}:{column}"


def parse_frontmatter(text: str, path: Path) -> Frontmatter:
    """Find the YAML at the head of a document and compose its nodes.

    Raises:
        DocumentError: there is none, or it cannot be read (`document.*`).
    """
    span = _find_yaml_span(text, path)
    if span.end - span.start > MAX_FRONTMATTER_CHARS:
        what = "the frontmatter is longer than 256 KiB"
        raise span.make_error(what, 0, hint="shorten it", code="document.frontmatter_too_long")
    return Frontmatter(path, text, span.start, span.end, root=_compose_yaml(span))


def _find_yaml_span(text: str, path: Path) -> YamlSpan:
    """Find the YAML between the two `---` lines."""
    start, document = 0, YamlSpan(path, text, 0, len(text))
    for line in LINE_RE.finditer(text):
        content = line[1]
        if content == "---" and start:
            return YamlSpan(path, text, start, line.start())
        if content == "---":
            start = line.end()
        elif content.rstrip() == "---":
            what, hint = "there are blanks after '---'", "remove them"
            raise document.make_error(what, line.start(), hint=hint, code="document.stray_blanks")
        elif not start:
            quoted = quote_value(content)
            what = f"a document begins with '---' alone on its first line, not {quoted}"
            hint = "dlm init writes a document to start from"
            raise document.make_error(what, 0, hint=hint, code="document.no_frontmatter")
    what, hint = "the frontmatter is never closed", "put '---' alone on a line below it"
    raise document.make_error(what, 0, hint=hint, code="document.frontmatter_not_closed")


class _StrictLoader(yaml.BaseLoader):
    """Composes nodes; refuses aliases, which grow without bound, and nesting beyond any field."""

    peek_event: Callable[[], Any]  # PyYAML has no types for it

    def __init__(self, span: YamlSpan) -> None:
        super().__init__(span.text[span.start : span.end])
        self._span, self._depth = span, 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()
        offset = event.start_mark.index
        if isinstance(event, yaml.AliasEvent):
            what, hint = f"aliases such as *{event.anchor} are not read", "write the value out"
            raise self._span.make_error(what, offset, hint=hint, code="document.yaml_alias")
        if isinstance(event, yaml.CollectionStartEvent) and self._depth == MAX_YAML_DEPTH:
            what, hint = "nested too deep", "no field is this deep"
            raise self._span.make_error(what, offset, hint=hint, code="document.yaml_too_deep")
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


def _compose_yaml(span: YamlSpan) -> yaml.MappingNode:
    """Compose the nodes of the YAML, without values."""
    try:
        root = _StrictLoader(span).get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        offset = mark.index if mark else 0
        what = f"invalid YAML: {' '.join(str(error.problem or error.context).split())}"
        hint = "check the colons, quotes and indentation here and in the line above"
        line_start = span.text.rfind("\n", 0, span.start + offset) + 1
        if "\t" in span.text[line_start : span.start + offset + 1]:
            hint = "indent with blanks, not tabs"
        raise span.make_error(what, offset, hint=hint, code="document.invalid_yaml") from error
    except yaml.reader.ReaderError as error:
        what = f"invalid YAML: the character {quote_value(chr(error.character))} is not allowed"
        raise span.make_error(
            what, error.position, hint="remove it", code="document.invalid_yaml"
        ) from error
    except (ValueError, OverflowError) as error:
        what, hint = "invalid YAML: an escape names no character", "correct the \\U escape"
        raise span.make_error(what, 0, hint=hint, code="document.invalid_yaml") from error
    if root is None:
        return yaml.MappingNode(ALLOWED_YAML_TAGS[2], [])
    if not isinstance(root, yaml.MappingNode):
        what = "the frontmatter holds no keys"
        raise span.make_error(what, 0, hint="write 'key: value'", code="document.no_keys")
    return root


def extract_values(front: Frontmatter) -> tuple[dict[str, Any], dict[YamlPath, int]]:
    """Return the frontmatter as plain values, and the offset of each key and list item.

    Raises:
        DocumentError: it has a tag, a duplicate key or a key that is not text (`document.*`).
    """
    positions: dict[YamlPath, int] = {(): 0}
    return _convert_mapping(front, front.root, (), positions), positions


def _convert_node(
    front: Frontmatter, node: yaml.Node, key_path: YamlPath, positions: dict[YamlPath, int]
) -> Any:
    if node.tag not in ALLOWED_YAML_TAGS:
        what, offset = f"tags such as {quote_value(node.tag)} are not read", node.start_mark.index
        raise front.make_error(what, offset, hint="remove the tag", code="document.yaml_tag")
    if isinstance(node, yaml.MappingNode):
        return _convert_mapping(front, node, key_path, positions)
    if isinstance(node, yaml.SequenceNode):
        items = []
        for index, item in enumerate(node.value):
            positions[(*key_path, index)] = item.start_mark.index
            items.append(_convert_node(front, item, (*key_path, index), positions))
        return items
    is_plain = isinstance(node, yaml.ScalarNode) and node.style is None
    return parse_yaml_scalar(node.value) if is_plain else node.value


def _convert_mapping(
    front: Frontmatter, node: yaml.MappingNode, key_path: YamlPath, positions: dict[YamlPath, int]
) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    for key, value in node.value:
        offset = key.start_mark.index
        if not isinstance(key, yaml.ScalarNode):
            what, hint = "a list or mapping cannot be a key", "write 'key: value'"
            raise front.make_error(what, offset, hint=hint, code="document.bad_key")
        if key.value in mapping:
            what, hint = f"{quote_value(key.value)} is written twice", "remove one"
            raise front.make_error(what, offset, hint=hint, code="document.duplicate_key")
        positions[(*key_path, key.value)] = offset
        mapping[key.value] = _convert_node(front, value, (*key_path, key.value), positions)
    return mapping


def parse_yaml_scalar(text: str) -> Any:
    """Return what unquoted text means: None, a bool, a number, or the text."""
    if text.lower() in YAML_KEYWORDS and text in (text.lower(), text.upper(), text.capitalize()):
        return YAML_KEYWORDS[text.lower()]
    if INTEGER_RE.fullmatch(text):
        return int(text)
    return float(text) if FLOAT_RE.fullmatch(text) else text


def validate_config(front: Frontmatter) -> DlmConfig:
    """Check the values against the schema.

    Raises:
        DocumentError: the first mistake in the file, and how many follow (`document.*`).
    """
    values, positions = extract_values(front)
    version = values.get("dlm_version")
    if type(version) is int and version > LATEST_FORMAT_VERSION:
        newest = f"{LATEST_FORMAT_VERSION}, the newest this dlm knows"
        what, offset = f"dlm_version {version} is newer than {newest}", positions["dlm_version",]
        raise front.make_error(what, offset, hint="upgrade dlm", code="document.newer_version")
    try:
        return DlmConfig.model_validate(values)
    except ValidationError as error:
        first, *others = sorted(
            error.errors(),
            key=lambda item: (_find_position(item["loc"], positions), item["type"] == "missing"),
        )
        what, hint = describe_validation_error(first)
        if others:
            hint += f" ({len(others)} more mistake{'s' * (len(others) > 1)} below)"
        raise front.make_error(
            what,
            _find_position(first["loc"], positions),
            hint=hint,
            code={"extra_forbidden": "document.unknown_key", "missing": "document.missing_key"}.get(
                first["type"], "document.bad_value"
            ),
        ) from error


def _find_position(key_path: YamlPath, positions: dict[YamlPath, int]) -> int:
    """Return the offset of a key, or of the nearest group around it that is written."""
    while key_path not in positions:
        key_path = key_path[:-1]
    return positions[key_path]


def describe_validation_error(error: Any) -> tuple[str, str]:
    """Describe one item of pydantic's `ValidationError.errors()`: what is wrong, and a hint."""
    *parents, last = error["loc"]
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in error["loc"])
    name = "".join(steps).removeprefix(".")
    if error["type"] == "extra_forbidden":
        hint = suggest_key(".".join(map(str, parents)), str(last))
        return f"unknown key {quote_value(str(last))}", hint
    if error["type"] == "missing":
        return f"{name} is missing", f"add '{last}: ...'"
    if error["type"] == "value_error":
        rule = str(error["ctx"]["error"])
    elif error["type"] == "string_pattern_mismatch":
        rule = "must be 26 letters and digits" if last == "dlm_id" else "must be named"
    else:
        rule = re.sub(r"^[A-Z]\w* should ", "must ", error["msg"])
    for pattern, replacement in PYDANTIC_PHRASES:
        rule = re.sub(pattern, replacement, rule)
    return f"{name} is {_format_value(error['input'])}", f"it {rule}"


def _format_value(value: object) -> str:
    if isinstance(value, str):
        return quote_value(value)
    if value is None or isinstance(value, bool):
        return {None: "empty", True: "true", False: "false"}[value]
    return "a list" if isinstance(value, list) else quote_value(str(value)).strip("'\"")


def suggest_key(parent: str, key: str) -> str:
    """Return the hint for an unknown key: a known key of this group, or the same key elsewhere."""
    prefix = re.sub(r"\.[0-9]+", "", parent) + "." if parent else ""
    names = [name for name, _ in iter_config_fields()]
    inside = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    known_here = [name for name in inside if "." not in name]
    elsewhere = next((name for name in names if name.rpartition(".")[2] == key), None)
    if elsewhere and not suggest_name(key, known_here):
        return f"did you mean '{elsewhere}'?"
    return make_name_hint(key, known_here, known="known here are")


def quote_value(value: str) -> str:
    """Quote what the author wrote, short enough for a message of one line."""
    return repr(value if len(value) <= MAX_QUOTED_CHARS else value[: MAX_QUOTED_CHARS - 3] + "...")
