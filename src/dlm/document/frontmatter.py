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

from dlm.document.lines import shown
from dlm.document.settings import NEWEST_VERSION, Settings, every_field
from dlm.errors import DocumentError

LINE = re.compile(r"([^\r\n]*)(\r\n|\r|\n|\Z)")
BREAK = re.compile(r"\r\n|\r|\n")
LONGEST = 256 * 1024
DEEPEST = 16
KEYWORDS = {"": None, "~": None, "null": None, "true": True, "false": False}
WHOLE = re.compile(r"[-+]?[0-9]{1,30}")
NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
PLAIN_TAGS = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:seq", "tag:yaml.org,2002:map")

RULES = (  # pydantic's words, and ours
    (r"valid dictionary or instance of \w+", "group of 'key: value' lines"),
    ("valid tuple", "list, such as [a, b]"),
    ("a valid string", "text, in quotes"),
    ("a valid boolean", "true or false"),
    ("valid integer", "whole number"),
    ("valid number", "number"),
)

Step = str | int
Place = tuple[Step, ...]


@dataclass(frozen=True)
class Frontmatter:
    """Where the YAML stands in the text, and its nodes."""

    path: Path
    text: str
    start: int
    end: int
    root: yaml.MappingNode

    def wrong(self, at: int, what: str, mend: str) -> DocumentError:
        """The error at a place in the YAML, counted in characters from its start."""
        return _wrong(self.path, self.text, self.start + at, what=what, mend=mend)


def _wrong(path: Path, text: str, at: int, *, what: str, mend: str) -> DocumentError:
    breaks = list(BREAK.finditer(text, 0, at))
    column = at - (breaks[-1].end() if breaks else 0) + 1
    return DocumentError(what, where=f"{path}:{len(breaks) + 1}:{column}", mend=mend)


def open_frontmatter(text: str, path: Path) -> Frontmatter:
    """Find the YAML at the head of a document and read its nodes."""
    start, end = _span(text, path)
    if end - start > LONGEST:
        raise _wrong(
            path, text, start, what="the frontmatter is longer than 256 KiB", mend="shorten it"
        )
    return Frontmatter(path, text, start, end, _compose(text, path, start=start, end=end))


def _span(text: str, path: Path) -> tuple[int, int]:
    """Where the YAML between the two `---` lines begins and ends."""
    start = 0
    for line in LINE.finditer(text):
        content = line[1]
        if content == "---" and start:
            return start, line.start()
        if content == "---":
            start = line.end()
        elif content.rstrip() == "---":
            mend = "remove them"
            raise _wrong(path, text, line.start(), what="there are blanks after '---'", mend=mend)
        elif not start:
            what = f"a document begins with '---' alone on its first line, not {shown(content)}"
            raise _wrong(path, text, 0, what=what, mend="dlm init writes a document to start from")
    what = "the frontmatter is never closed"
    raise _wrong(path, text, 0, what=what, mend="put '---' alone on a line below it")


def _compose(text: str, path: Path, *, start: int, end: int) -> yaml.MappingNode:
    """The nodes of the YAML; nothing is built from them yet."""
    source = text[start:end]
    try:
        _refuse_depth(text, path, start=start, end=end)
        root = yaml.compose(source, Loader=yaml.BaseLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = f"invalid YAML: {' '.join(str(error.problem or error.context).split())}"
        at = start + (mark.index if mark else 0)
        raise _wrong(path, text, at, what=what, mend=_yaml_mend(text, at)) from error
    except yaml.reader.ReaderError as error:
        what = f"invalid YAML: the character {shown(chr(error.character))} is not allowed"
        raise _wrong(path, text, start + error.position, what=what, mend="remove it") from error
    except (ValueError, OverflowError) as error:
        what = "invalid YAML: an escape names no character"
        raise _wrong(path, text, start, what=what, mend="correct the \\U escape") from error
    if root is None:
        root = yaml.MappingNode(PLAIN_TAGS[2], [])
    if not isinstance(root, yaml.MappingNode):
        raise _wrong(
            path, text, start, what="the frontmatter holds no keys", mend="write 'key: value'"
        )
    return root


def _yaml_mend(text: str, at: int) -> str:
    line = text[text.rfind("\n", 0, at) + 1 : at + 1]
    if "\t" in line:
        return "indent with blanks, not tabs"
    return "check the colons, quotes and indentation here and in the line above"


def _refuse_depth(text: str, path: Path, *, start: int, end: int) -> None:
    """Refuse aliases, which can grow without bound, and nesting deeper than any field."""
    depth = 0
    for event in yaml.parse(text[start:end], Loader=yaml.BaseLoader):
        at = start + (event.start_mark.index if event.start_mark else 0)
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent):
            what = f"aliases such as *{event.anchor} are not read"
            raise _wrong(path, text, at, what=what, mend="write the value out")
        if depth > DEEPEST:
            raise _wrong(path, text, at, what="nested too deep", mend="no field is this deep")


def values(front: Frontmatter) -> tuple[dict[str, Any], dict[Place, int]]:
    """The frontmatter as plain values, and where each key and list item stands."""
    places: dict[Place, int] = {(): 0}
    return _mapping(front, front.root, (), places), places


def _value(front: Frontmatter, node: yaml.Node, place: Place, places: dict[Place, int]) -> Any:
    if node.tag not in PLAIN_TAGS:
        what = f"tags such as {shown(node.tag)} are not read"
        raise front.wrong(node.start_mark.index, what, "remove the tag")
    if isinstance(node, yaml.MappingNode):
        return _mapping(front, node, place, places)
    if isinstance(node, yaml.SequenceNode):
        items = []
        for at, item in enumerate(node.value):
            places[(*place, at)] = item.start_mark.index
            items.append(_value(front, item, (*place, at), places))
        return items
    plain = isinstance(node, yaml.ScalarNode) and node.style is None
    return scalar(node.value) if plain else node.value


def _mapping(
    front: Frontmatter, node: yaml.MappingNode, place: Place, places: dict[Place, int]
) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    for key, value in node.value:
        at = key.start_mark.index
        if not isinstance(key, yaml.ScalarNode):
            raise front.wrong(at, "a list or mapping cannot be a key", "write 'key: value'")
        if key.value in mapping:
            raise front.wrong(at, f"{shown(key.value)} is written twice", "remove one")
        places[(*place, key.value)] = at
        mapping[key.value] = _value(front, value, (*place, key.value), places)
    return mapping


def scalar(text: str) -> Any:
    """What an unquoted word means: nothing, true or false, a number, or itself."""
    if text.lower() in KEYWORDS and text in (text.lower(), text.upper(), text.capitalize()):
        return KEYWORDS[text.lower()]
    if WHOLE.fullmatch(text):
        return int(text)
    return float(text) if NUMBER.fullmatch(text) else text


def settings(front: Frontmatter) -> Settings:
    """The checked settings; of several mistakes the first in the file is told."""
    found, places = values(front)
    version = found.get("dlm_version")
    if type(version) is int and version > NEWEST_VERSION:
        what = f"dlm_version {version} is newer than {NEWEST_VERSION}, the newest this dlm knows"
        raise front.wrong(places["dlm_version",], what, "upgrade dlm")
    try:
        return Settings.model_validate(found)
    except ValidationError as error:
        mistakes = sorted(
            error.errors(),
            key=lambda one: (_position(one["loc"], places), one["type"] == "missing"),
        )
        what, mend = describe(mistakes[0])
        more = len(mistakes) - 1
        counted = f" ({more} more mistake{'s' * (more > 1)} below)" if more else ""
        at = _position(mistakes[0]["loc"], places)
        raise front.wrong(at, what, mend + counted) from error


def _position(place: Place, places: dict[Place, int]) -> int:
    while place not in places:
        place = place[:-1]
    return places[place]


def describe(error: Any) -> tuple[str, str]:
    """What is wrong with one field, and the mend."""
    *above, last = error["loc"]
    name = _dotted(error["loc"])
    if error["type"] == "extra_forbidden":
        return f"unknown key {shown(str(last))}", nearest_key(".".join(map(str, above)), str(last))
    if error["type"] == "missing":
        return f"{name} is missing", f"add '{last}: ...'"
    if error["type"] == "value_error":
        rule = str(error["ctx"]["error"])
    elif error["type"] == "string_pattern_mismatch":
        rule = "must be 26 letters and digits" if last == "dlm_id" else "must be named"
    else:
        rule = re.sub(r"^[A-Z]\w* should ", "must ", error["msg"])
    for words, ours in RULES:
        rule = re.sub(words, ours, rule)
    return f"{name} is {_written(error['input'])}", f"it {rule}"


def _written(value: object) -> str:
    if isinstance(value, str):
        return shown(value)
    words = {None: "empty", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return words[value]
    return "a list" if isinstance(value, list) else shown(str(value)).strip("'\"")


def _dotted(place: Place) -> str:
    steps = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place)
    return steps.removeprefix(".")


def nearest_key(above: str, key: str) -> str:
    """The known key an unknown one was meant to be, here or elsewhere in the frontmatter."""
    prefix = re.sub(r"\.[0-9]+", "", above) + "." if above else ""
    names = [name for name, _ in every_field()]
    here = [name[len(prefix) :] for name in names if name.startswith(prefix)]
    here = [name for name in here if "." not in name]
    elsewhere = [name for name in names if name.rpartition(".")[2] == key]
    near = get_close_matches(key, here, n=1) or elsewhere[:1]
    return f"did you mean '{near[0]}'?" if near else f"known here are {', '.join(here)}"
