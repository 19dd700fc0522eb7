"""The frontmatter, from characters to Settings, every mistake at its own line and column.

    text ──span──> YAML ──compose──> nodes ──values──> plain values ──settings──> Settings

Of YAML: mappings, lists, the scalars of its core schema. No alias, no tag, no key written twice.
"""

import re
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from dlm.config.schema import LATEST_FORMAT_VERSION, DlmConfig, iter_config_fields
from dlm.errors import DocumentError

LINE_RE = re.compile(r"([^\r\n]*)(\r\n|\r|\n|\Z)")
LINE_BREAK_RE = re.compile(r"\r\n|\r|\n")
MAX_FRONTMATTER_CHARS = 256 * 1024
MAX_YAML_DEPTH = 16
YAML_KEYWORDS = {"": None, "~": None, "null": None, "true": True, "false": False}
INTEGER_RE = re.compile(r"[-+]?[0-9]{1,30}")
FLOAT_RE = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
ALLOWED_YAML_TAGS = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:seq", "tag:yaml.org,2002:map")

PYDANTIC_PHRASES = (  # pydantic's words, and ours
    (r"valid dictionary or instance of \w+", "group of 'key: value' lines"),
    ("valid tuple", "list, such as [a, b]"),
    ("a valid string", "text, in quotes"),
    ("a valid boolean", "true or false"),
    ("valid integer", "whole number"),
    ("valid number", "number"),
)

YamlKey = str | int
YamlPath = tuple[YamlKey, ...]


@dataclass(frozen=True)
class Frontmatter:
    """Where the YAML stands in the text, and its nodes."""

    path: Path
    text: str
    start: int
    end: int
    root: yaml.MappingNode

    def make_error(self, offset: int, what: str, hint: str) -> DocumentError:
        """The error at a place in the YAML, counted in characters from its start."""
        return _make_error_at(self.path, self.text, self.start + offset, what=what, hint=hint)


def _make_error_at(path: Path, text: str, offset: int, *, what: str, hint: str) -> DocumentError:
    breaks = list(LINE_BREAK_RE.finditer(text, 0, offset))
    column = offset - (breaks[-1].end() if breaks else 0) + 1
    return DocumentError(what, where=f"{path}:{len(breaks) + 1}:{column}", hint=hint)


def parse_frontmatter(text: str, path: Path) -> Frontmatter:
    """Find the YAML at the head of a document and read its nodes."""
    start, end = _find_yaml_span(text, path)
    if end - start > MAX_FRONTMATTER_CHARS:
        raise _make_error_at(
            path, text, start, what="the frontmatter is longer than 256 KiB", hint="shorten it"
        )
    return Frontmatter(path, text, start, end, _compose_yaml(text, path, start=start, end=end))


def _find_yaml_span(text: str, path: Path) -> tuple[int, int]:
    """Where the YAML between the two `---` lines begins and ends."""
    start = 0
    for line in LINE_RE.finditer(text):
        content = line[1]
        if content == "---" and start:
            return start, line.start()
        if content == "---":
            start = line.end()
        elif content.rstrip() == "---":
            mend = "remove them"
            raise _make_error_at(
                path, text, line.start(), what="there are blanks after '---'", hint=mend
            )
        elif not start:
            what = (
                f"a document begins with '---' alone on its first line, not {quote_value(content)}"
            )
            raise _make_error_at(
                path, text, 0, what=what, hint="dlm init writes a document to start from"
            )
    what = "the frontmatter is never closed"
    raise _make_error_at(path, text, 0, what=what, hint="put '---' alone on a line below it")


def _compose_yaml(text: str, path: Path, *, start: int, end: int) -> yaml.MappingNode:
    """The nodes of the YAML; nothing is built from them yet."""
    source = text[start:end]
    try:
        _reject_aliases_and_depth(text, path, start=start, end=end)
        root = yaml.compose(source, Loader=yaml.BaseLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = f"invalid YAML: {' '.join(str(error.problem or error.context).split())}"
        at = start + (mark.index if mark else 0)
        raise _make_error_at(path, text, at, what=what, hint=_suggest_yaml_fix(text, at)) from error
    except yaml.reader.ReaderError as error:
        what = f"invalid YAML: the character {quote_value(chr(error.character))} is not allowed"
        raise _make_error_at(
            path, text, start + error.position, what=what, hint="remove it"
        ) from error
    except (ValueError, OverflowError) as error:
        what = "invalid YAML: an escape names no character"
        raise _make_error_at(path, text, start, what=what, hint="correct the \\U escape") from error
    if root is None:
        root = yaml.MappingNode(ALLOWED_YAML_TAGS[2], [])
    if not isinstance(root, yaml.MappingNode):
        raise _make_error_at(
            path, text, start, what="the frontmatter holds no keys", hint="write 'key: value'"
        )
    return root


def _suggest_yaml_fix(text: str, offset: int) -> str:
    line = text[text.rfind("\n", 0, offset) + 1 : offset + 1]
    if "\t" in line:
        return "indent with blanks, not tabs"
    return "check the colons, quotes and indentation here and in the line above"


def _reject_aliases_and_depth(text: str, path: Path, *, start: int, end: int) -> None:
    """Refuse aliases, which can grow without bound, and nesting deeper than any field."""
    depth = 0
    for event in yaml.parse(text[start:end], Loader=yaml.BaseLoader):
        at = start + (event.start_mark.index if event.start_mark else 0)
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent):
            what = f"aliases such as *{event.anchor} are not read"
            raise _make_error_at(path, text, at, what=what, hint="write the value out")
        if depth > MAX_YAML_DEPTH:
            raise _make_error_at(
                path, text, at, what="nested too deep", hint="no field is this deep"
            )


def extract_values(front: Frontmatter) -> tuple[dict[str, Any], dict[YamlPath, int]]:
    """The frontmatter as plain values, and where each key and list item stands."""
    places: dict[YamlPath, int] = {(): 0}
    return _convert_mapping(front, front.root, (), places), places


def _convert_node(
    front: Frontmatter, node: yaml.Node, key_path: YamlPath, positions: dict[YamlPath, int]
) -> Any:
    if node.tag not in ALLOWED_YAML_TAGS:
        what = f"tags such as {quote_value(node.tag)} are not read"
        raise front.make_error(node.start_mark.index, what, "remove the tag")
    if isinstance(node, yaml.MappingNode):
        return _convert_mapping(front, node, key_path, positions)
    if isinstance(node, yaml.SequenceNode):
        items = []
        for at, item in enumerate(node.value):
            positions[(*key_path, at)] = item.start_mark.index
            items.append(_convert_node(front, item, (*key_path, at), positions))
        return items
    plain = isinstance(node, yaml.ScalarNode) and node.style is None
    return parse_yaml_scalar(node.value) if plain else node.value


def _convert_mapping(
    front: Frontmatter, node: yaml.MappingNode, key_path: YamlPath, positions: dict[YamlPath, int]
) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    for key, value in node.value:
        at = key.start_mark.index
        if not isinstance(key, yaml.ScalarNode):
            raise front.make_error(at, "a list or mapping cannot be a key", "write 'key: value'")
        if key.value in mapping:
            raise front.make_error(at, f"{quote_value(key.value)} is written twice", "remove one")
        positions[(*key_path, key.value)] = at
        mapping[key.value] = _convert_node(front, value, (*key_path, key.value), positions)
    return mapping


def parse_yaml_scalar(text: str) -> Any:
    """What an unquoted word means: nothing, true or false, a number, or itself."""
    if text.lower() in YAML_KEYWORDS and text in (text.lower(), text.upper(), text.capitalize()):
        return YAML_KEYWORDS[text.lower()]
    if INTEGER_RE.fullmatch(text):
        return int(text)
    return float(text) if FLOAT_RE.fullmatch(text) else text


def validate_config(front: Frontmatter) -> DlmConfig:
    """The checked settings; of several mistakes the first in the file is told."""
    found, places = extract_values(front)
    version = found.get("dlm_version")
    if type(version) is int and version > LATEST_FORMAT_VERSION:
        what = (
            f"dlm_version {version} is newer than "
            f"{LATEST_FORMAT_VERSION}, the newest this dlm knows"
        )
        raise front.make_error(places["dlm_version",], what, "upgrade dlm")
    try:
        return DlmConfig.model_validate(found)
    except ValidationError as error:
        mistakes = sorted(
            error.errors(),
            key=lambda one: (_find_position(one["loc"], places), one["type"] == "missing"),
        )
        what, mend = describe_validation_error(mistakes[0])
        more = len(mistakes) - 1
        counted = f" ({more} more mistake{'s' * (more > 1)} below)" if more else ""
        at = _find_position(mistakes[0]["loc"], places)
        raise front.make_error(at, what, mend + counted) from error


def _find_position(key_path: YamlPath, positions: dict[YamlPath, int]) -> int:
    while key_path not in positions:
        key_path = key_path[:-1]
    return positions[key_path]


def describe_validation_error(error: Any) -> tuple[str, str]:
    """What is wrong with one field, and the mend."""
    *above, last = error["loc"]
    name = _format_key_path(error["loc"])
    if error["type"] == "extra_forbidden":
        return f"unknown key {quote_value(str(last))}", suggest_key(
            ".".join(map(str, above)), str(last)
        )
    if error["type"] == "missing":
        return f"{name} is missing", f"add '{last}: ...'"
    if error["type"] == "value_error":
        rule = str(error["ctx"]["error"])
    elif error["type"] == "string_pattern_mismatch":
        rule = "must be 26 letters and digits" if last == "dlm_id" else "must be named"
    else:
        rule = re.sub(r"^[A-Z]\w* should ", "must ", error["msg"])
    for words, ours in PYDANTIC_PHRASES:
        rule = re.sub(words, ours, rule)
    return f"{name} is {_format_value(error['input'])}", f"it {rule}"


def _format_value(value: object) -> str:
    if isinstance(value, str):
        return quote_value(value)
    words = {None: "empty", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return words[value]
    return "a list" if isinstance(value, list) else quote_value(str(value)).strip("'\"")


def _format_key_path(key_path: YamlPath) -> str:
    steps = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in key_path)
    return steps.removeprefix(".")


def suggest_key(parent: str, key: str) -> str:
    """The known key an unknown one was meant to be, here or elsewhere in the frontmatter."""
    prefix = re.sub(r"\.[0-9]+", "", parent) + "." if parent else ""
    names = [name for name, _ in iter_config_fields()]
    here = [name[len(prefix) :] for name in names if name.startswith(prefix)]
    here = [name for name in here if "." not in name]
    elsewhere = [name for name in names if name.rpartition(".")[2] == key]
    near = get_close_matches(key, here, n=1) or elsewhere[:1]
    return f"did you mean '{near[0]}'?" if near else f"known here are {', '.join(here)}"


MAX_QUOTED_CHARS = 40


def quote_value(value: str) -> str:
    """A value the author wrote, quoted and short enough for a message of one line."""
    return repr(value if len(value) <= MAX_QUOTED_CHARS else value[: MAX_QUOTED_CHARS - 3] + "...")
