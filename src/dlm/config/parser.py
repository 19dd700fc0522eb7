"""What the author wrote, read and checked.

Document
├── settings   the frontmatter (settings.py)
└── sections   prose, audio, instruction, conversation, each with its line

The body of a document as lines: what is code, and what is a note that nobody trains on.

text   a line to read: prose, a fence, a heading, an answer
code   a line inside ``` or ~~~, kept as it is; no fence, heading or note is seen in it
note   <!-- ... -->, one line or many, outside code; taken out

What a fence is: `::instruction::`, `::conversation::`, `::audio path="..." transcript="..."::`.

A fence stands alone on its line. A line that was meant as one but is not quite right is an error
with its place and the mend, so that no clip is ever trained on as prose.

    ::audio path="clips/a.wav" transcript="She said \"hi\"." start="2.5"::
    |  |    |                                                            |
    |  kind attributes: values in straight double quotes, \" and \\ inside the end
    two colons

What stands under `::instruction::` and `::conversation::`: headings, and the text below each.

    ::instruction::     ### Q   ### A   ### Q   ### A   ...
    ::conversation::    ### System?   ### User   ### Assistant   ...

Sound in a user's turn is written `<audio>clips/a.wav</audio>`.

From a file to a Document: the one way in.

bytes ──UTF-8──> text ──┬── frontmatter ──> Settings
                        └── body ── lines ── fences ──> Section, Section, ...
"""

import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, cast

from dlm.config.schema import DlmConfig
from dlm.config.yaml_loader import MAX_QUOTED_CHARS, parse_frontmatter, quote_value, validate_config
from dlm.errors import DocumentError

SectionKind = Literal["prose", "audio", "instruction", "conversation"]


@dataclass(frozen=True)
class QAPair:
    """One question and its answer under `::instruction::`; `line` is that of `### Q`."""

    question: str
    answer: str
    line: int


@dataclass(frozen=True)
class MessageBlock:
    """One turn under `::conversation::`.

    Parts are text (str) and sounds (Path as written, relative to the document), in order;
    a sound is written `<audio>clips/a.wav</audio>`.
    """

    role: Literal["system", "user", "assistant"]
    content: tuple[str | Path, ...]
    line: int


@dataclass(frozen=True)
class Section:
    """One fenced part of the document. Only the field that fits its kind is filled."""

    kind: SectionKind
    line: int  # of the fence; of the first prose line
    text: str = ""  # prose: its text
    attributes: dict[str, str] = field(default_factory=dict)  # audio: path, transcript, ...
    qa_pairs: tuple[QAPair, ...] = ()  # instruction
    messages: tuple[MessageBlock, ...] = ()  # conversation


@dataclass(frozen=True)
class Document:
    """A `.dlm` file. `source` is its text with LF line ends; `sha256` is of its bytes on disk."""

    path: Path
    config: DlmConfig
    sections: tuple[Section, ...]
    text: str
    sha256: str

    @property
    def folder(self) -> Path:
        """What the paths in the document are relative to."""
        return self.path.parent


CODE_FENCE_RE = re.compile(r"\s*(`{3,}|~{3,})(.*)")
CODE_SPAN_PATTERN = r"(?<!`)(?P<ticks>`+)(?!`).*?(?<!`)(?P=ticks)(?!`)"
COMMENT_OR_CODE_RE = re.compile(rf"{CODE_SPAN_PATTERN}|(?P<note><!--)")
FENCE_START_RE = re.compile(r"\s*::[A-Za-z]")


@dataclass(frozen=True)
class SourceLine:
    """One line of the document, which knows its place."""

    path: Path
    number: int
    text: str
    is_code: bool = False

    def make_error(self, what: str, *, hint: str, column: int = 1) -> DocumentError:
        """The error that says what is wrong on this line."""
        return DocumentError(what, where=f"{self.path}:{self.number}:{column}", hint=hint)


def iter_source_lines(body: str, path: Path, first_line_number: int) -> Iterator[SourceLine]:
    """The lines of the body without the author's notes; `first` is the file's line number."""
    raw = [
        SourceLine(path, first_line_number + at, text) for at, text in enumerate(body.split("\n"))
    ]
    at = 0
    while at < len(raw):
        if end := _find_code_end(raw, at):
            yield from (replace(line, is_code=True) for line in raw[at:end])
            at = end
            continue
        opened = _find_comment_start(raw[at])
        if opened is None:
            yield raw[at]
            at += 1
            continue
        end, after = _find_comment_end(raw, at, opened)
        before = raw[at].text[:opened]
        if end == at:
            after = before + after
        elif before.strip():
            yield replace(raw[at], text=before.rstrip())
        raw[end] = replace(raw[end], text=after)
        at = end if after.strip() else end + 1


def join_lines(lines: Sequence[SourceLine]) -> str:
    """The text of some lines, without the blank ones around it."""
    kept = trim_blank_lines(lines)
    return "\n".join(line.text for line in kept).rstrip()


def trim_blank_lines(lines: Sequence[SourceLine]) -> Sequence[SourceLine]:
    """The lines from the first to the last that is not blank."""
    written = [at for at, line in enumerate(lines) if line.text.strip()]
    return lines[written[0] : written[-1] + 1] if written else ()


def _find_code_end(raw: list[SourceLine], index: int) -> int | None:
    """Where the code block that opens on this line ends; None when none opens."""
    opening = CODE_FENCE_RE.fullmatch(raw[index].text)
    if opening is None or (opening[1][0] == "`" and "`" in opening[2]):
        return None
    closing = re.compile(rf"\s*{opening[1][0]}{{{len(opening[1])},}}\s*")
    for end in range(index + 1, len(raw)):
        if closing.fullmatch(raw[end].text):
            return end + 1
    raise raw[index].make_error(
        "this code block is never closed", hint=f"close it with {opening[1][:MAX_QUOTED_CHARS]}"
    )


def _find_comment_start(line: SourceLine) -> int | None:
    """Where a note opens on this line. A fence is left alone, its transcript may hold anything."""
    if "<!--" not in line.text or FENCE_START_RE.match(line.text):
        return None
    for found in COMMENT_OR_CODE_RE.finditer(line.text):
        if found["note"]:
            return found.start()
    return None


def _find_comment_end(raw: list[SourceLine], index: int, column: int) -> tuple[int, str]:
    """The line on which the note closes, and what stands after it there."""
    start = column + len("<!")  # so that <!--> is a whole note
    for end in range(index, len(raw)):
        close = raw[end].text.find("-->", start)
        if close >= 0:
            return end, raw[end].text[close + len("-->") :]
        start = 0
    raise raw[index].make_error(
        "this note is never closed",
        hint="end it with -->, or put <!-- in backticks",
        column=column + 1,
    )


FenceKind = Literal["audio", "instruction", "conversation"]
FENCE_KINDS: tuple[FenceKind, ...] = ("audio", "instruction", "conversation")
AUDIO_ATTRIBUTES = ("path", "transcript", "language", "start", "end", "prompt")
EMPTY_TRANSCRIPT_ERROR = "AUDIO section has empty transcript"

FENCE_LIKE_RE = re.compile(
    r"(?P<prefix>[^\w:`]*)(?:(?P<colons>:+)(?P<gap>\s*))?(?P<name>[A-Za-z][\w-]*)(?P<rest>.*)"
)
ATTRIBUTE_START_RE = re.compile(r"\s+\w+\s*=")
INLINE_FENCE_RE = re.compile(r"::\s*audio\s+\w+\s*=", re.IGNORECASE)
BACKTICK_SPAN_RE = re.compile(r"(`+).*?\1")
ATTRIBUTE_RE = re.compile(r'[ \t]+([\w-]+)="((?:[^"\\]|\\.)*)"')
SECONDS_RE = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


@dataclass(frozen=True)
class Fence:
    """A fence as written; `attributes` only for audio."""

    kind: FenceKind
    line: SourceLine
    attributes: dict[str, str]


def parse_fence(line: SourceLine) -> Fence | None:
    """The fence on this line, None when the line is text; a near miss is an error."""
    if line.is_code:
        return None
    like = FENCE_LIKE_RE.fullmatch(line.text)
    if like is None or not _looks_like_fence(like):
        _reject_inline_fence(line)
        return None
    kind = _parse_fence_kind(line, like)
    at = like.start("rest")
    if kind == "audio":
        return Fence(kind, line, _parse_audio_attributes(line, at))
    if ATTRIBUTE_START_RE.match(like["rest"]):
        raise line.make_error(
            f"::{kind}:: takes no attributes", hint=f"write ::{kind}::", column=at + 1
        )
    _check_fence_end(line, at, kind)
    return Fence(kind, line, {})


def _looks_like_fence(match: re.Match[str]) -> bool:
    """Whether the author meant a fence: `::Audio path=` yes, `::std::move(x)` no."""
    colons, name, rest = match["colons"] or "", match["name"], match["rest"].rstrip()
    known = name in FENCE_KINDS
    pairs = ATTRIBUTE_START_RE.match(rest) is not None
    closed = re.fullmatch(r"(#[\w-]*)?\s*:+\s*", rest) is not None
    if len(colons) >= 2:
        glued = re.match(r"[^\s:#]|::\w", rest) is not None
        return known or pairs or closed or (_suggest_kind(name) is not None and not glued)
    if colons:
        return _suggest_kind(name) is not None and (pairs or closed)
    spoken = re.match(r"\s+(path|transcript)\s*=", rest) is not None or rest.endswith("::")
    return spoken and name.casefold() in FENCE_KINDS and (closed or pairs)


def _suggest_kind(name: str) -> str | None:
    close = get_close_matches(name.casefold(), FENCE_KINDS, n=1, cutoff=0.75)
    return close[0] if close else None


def _reject_inline_fence(line: SourceLine) -> None:
    """A fence in the middle of a line would be trained as text."""
    if INLINE_FENCE_RE.search(line.text) is None:
        return
    found = INLINE_FENCE_RE.search(BACKTICK_SPAN_RE.sub(lambda span: " " * len(span[0]), line.text))
    if found:
        raise line.make_error(
            "a fence stands alone on its line",
            hint="move it to a line of its own, or put it in backticks",
            column=found.start() + 1,
        )


def _parse_fence_kind(line: SourceLine, match: re.Match[str]) -> FenceKind:
    """The kind the fence names, once all before its name is as it must be."""
    prefix, colons, name = match["prefix"], match["colons"], match["name"]
    column = len(prefix) + 1
    if prefix.strip():
        mend = f"remove {quote_value(prefix)} before it"
        raise line.make_error("a fence stands alone on its line", hint=mend)
    if prefix:
        raise line.make_error("there are blanks before this fence", hint="remove them")
    if colons != "::" or match["gap"]:
        what = "a fence opens with two colons and its name"
        raise line.make_error(what, hint=f"write ::{_suggest_kind(name) or name}", column=column)
    if name not in FENCE_KINDS:
        known = f"write one of {', '.join(FENCE_KINDS)}, or put it in backticks"
        mend = f"did you mean '{near}'?" if (near := _suggest_kind(name)) else known
        raise line.make_error(f"unknown section {quote_value(name)}", hint=mend, column=column)
    suffix = re.match(r"#[\w-]*", match["rest"])
    if suffix:
        what = f"named adapters ('{suffix[0]}') are not part of dlm"
        raise line.make_error(what, hint=f"write ::{name}", column=match.start("rest") + 1)
    return cast(FenceKind, name)


def _check_fence_end(line: SourceLine, offset: int, kind: FenceKind) -> None:
    """The fence must end with two colons and nothing more."""
    rest = line.text[offset:]
    end = r"[ \t]*::" if kind == "audio" else r"::"
    if re.fullmatch(end, rest):
        return
    ending = re.match(rf"{end}(?!:)", rest)
    if ending is None:
        what, mend = f"this ::{kind}:: fence is not closed", "end it with two colons, '::'"
    elif not rest[ending.end() :].strip():
        what, mend = "there are blanks after this fence", "remove them"
    else:
        what, mend = "a fence stands alone on its line", "move what follows it to the next line"
    raise line.make_error(what, hint=mend, column=offset + 1)


def _parse_audio_attributes(line: SourceLine, offset: int) -> dict[str, str]:
    """The attributes of an `::audio` fence, each known, written once and possible."""
    found: dict[str, str] = {}
    columns: dict[str, int] = {}
    while match := ATTRIBUTE_RE.match(line.text, offset):
        key, column = match[1], match.start(1) + 1
        if key not in AUDIO_ATTRIBUTES:
            near = get_close_matches(key.casefold(), AUDIO_ATTRIBUTES, n=1)
            mend = (
                f"did you mean '{near[0]}'?" if near else f"known are {', '.join(AUDIO_ATTRIBUTES)}"
            )
            raise line.make_error(f"unknown attribute {quote_value(key)}", hint=mend, column=column)
        if key in found:
            raise line.make_error(f"'{key}' is written twice", hint="remove one", column=column)
        found[key] = _unescape_value(line, match)
        columns[key] = column
        offset = match.end()
    _check_after_attributes(line, offset, found)
    _check_attribute_values(line, found, columns)
    return found


def _unescape_value(line: SourceLine, match: re.Match[str]) -> str:
    value = match[2]
    for escape in re.finditer(r"\\(.)", value):
        if escape[1] not in '"\\':
            column = match.start(2) + escape.start() + 1
            what = f"a backslash before {quote_value(escape[1])}"
            raise line.make_error(what, hint=r"write a backslash as \\", column=column)
    return re.sub(r"\\(.)", r"\1", value)


def _check_after_attributes(line: SourceLine, offset: int, attributes: dict[str, str]) -> None:
    """What stands after the last good attribute must be the end of the fence."""
    rest, column = line.text[offset:], offset + 1
    pair = re.match(r"\s+(?P<key>[\w-]+)(?P<before>\s*)=(?P<after>\s*)(?P<quote>.?)", rest)
    if pair:
        raise _make_attribute_error(line, pair, offset + pair.start("key") + 1)
    if not attributes and rest.strip(" \t:") == "":
        mend = 'write ::audio path="clips/a.wav" transcript="..."::'
        raise line.make_error("::audio:: needs a path and a transcript", hint=mend)
    if attributes and re.match(r"[^\s:]", rest):
        what = f"text right after the value of '{list(attributes)[-1]}'"
        mend = r"write a quote inside a value as \", and a blank between attributes"
        raise line.make_error(what, hint=mend, column=column)
    if re.match(r"\s+[^\s:]", rest):
        mend = 'attributes are written name="value", and the fence ends with ::'
        raise line.make_error(f"cannot read {quote_value(rest.strip())}", hint=mend, column=column)
    _check_fence_end(line, offset, "audio")


def _make_attribute_error(line: SourceLine, pair: re.Match[str], column: int) -> DocumentError:
    """Why an attribute could not be read."""
    key = pair["key"]
    what, mend = f"the value of '{key}' is not in straight double quotes", f'write {key}="..."'
    if pair["before"] or pair["after"]:
        what = f"there are blanks around the = of '{key}'"
    elif pair["quote"] == '"':
        what = f"the value of '{key}' has no closing quote"
        mend = r'end it with ", and write a quote inside as \"'
    return line.make_error(what, hint=mend, column=column)


def _check_attribute_values(
    line: SourceLine, attributes: dict[str, str], columns: dict[str, int]
) -> None:
    """Attributes that are missing, blank or impossible."""
    for key in ("path", "transcript"):
        if key not in attributes:
            raise line.make_error(f"::audio:: has no {key}", hint=f'add {key}="..."')
    for key, value in attributes.items():
        if not value.strip():
            what = EMPTY_TRANSCRIPT_ERROR if key == "transcript" else f"'{key}' is empty"
            mend = "write what is said" if key == "transcript" else "fill it in or remove it"
            raise line.make_error(what, hint=mend, column=columns[key])
    span = {"start": 0.0, "end": math.inf}
    for key in [key for key in span if key in attributes]:
        if not SECONDS_RE.fullmatch(attributes[key]):
            what = f"'{key}' is {quote_value(attributes[key])}"
            raise line.make_error(
                what, hint=f'write seconds, such as {key}="12.5"', column=columns[key]
            )
        span[key] = float(attributes[key])
    if span["end"] <= span["start"]:
        what = (
            f"'end' {attributes.get('end', '')} is not after 'start' {attributes.get('start', '0')}"
        )
        key = "end" if "end" in attributes else "start"
        raise line.make_error(
            what, hint="write the seconds where the span ends", column=columns[key]
        )


BLOCK_HEADINGS = {"instruction": ("Q", "A"), "conversation": ("System", "User", "Assistant")}
HEADING_LIKE_RE = re.compile(
    r"\s*(#{1,6})\s*(q|a|question|answer|system|user|assistant)\s*[:.]?\s*(!\S*)?\s*", re.IGNORECASE
)
AUDIO_TAG_RE = re.compile(
    rf"{CODE_SPAN_PATTERN}|<audio>(?P<path>[^<>]*)</audio>|(?P<odd></?audio\b[^<>]*>?)",
    re.IGNORECASE,
)
AUDIO_TAG_EXAMPLE = "<audio>clips/a.wav</audio>"


@dataclass(frozen=True)
class HeadingBlock:
    """A heading and the lines below it."""

    name: str
    line: SourceLine
    body: tuple[SourceLine, ...]


def parse_qa_pairs(fence: Fence, body: Sequence[SourceLine]) -> tuple[QAPair, ...]:
    """The questions and answers under an `::instruction::` fence."""
    parts = list(_split_at_headings(fence, body))
    for at, part in enumerate(parts):
        if part.name != BLOCK_HEADINGS["instruction"][at % 2]:
            what = "answers no ### Q" if part.name == "A" else "follows a ### Q without its ### A"
            mend = "write ### Q and ### A in turn"
            raise part.line.make_error(f"this ### {part.name} {what}", hint=mend)
        _reject_audio_in_question(part)
    if len(parts) % 2:
        mend = "write ### A and the answer below it"
        raise parts[-1].line.make_error("this ### Q has no ### A", hint=mend)
    return tuple(
        QAPair(join_lines(question.body), join_lines(answer.body), question.line.number)
        for question, answer in zip(parts[::2], parts[1::2], strict=True)
    )


def parse_message_blocks(fence: Fence, body: Sequence[SourceLine]) -> tuple[MessageBlock, ...]:
    """The turns under a `::conversation::` fence."""
    parts = list(_split_at_headings(fence, body))
    if parts[0].name == "Assistant":
        mend = "begin with ### User or ### System"
        raise parts[0].line.make_error("a conversation cannot begin with ### Assistant", hint=mend)
    if parts[-1].name != "Assistant":
        mend = "write ### Assistant and what the model should say"
        raise parts[-1].line.make_error(
            f"the conversation ends with ### {parts[-1].name}", hint=mend
        )
    return tuple(
        MessageBlock(
            cast(Literal["system", "user", "assistant"], part.name.lower()),
            tuple(_split_text_and_audio(part)),
            part.line.number,
        )
        for part in parts
    )


def _split_at_headings(fence: Fence, body: Sequence[SourceLine]) -> Iterator[HeadingBlock]:
    """The headings of a body with what stands below each; nothing may be empty."""
    headings = [(at, name) for at, line in enumerate(body) if (name := _match_heading(fence, line))]
    names = " and ".join(f"### {name}" for name in BLOCK_HEADINGS[fence.kind])
    first = headings[0][0] if headings else len(body)
    for line in trim_blank_lines(body[:first])[:1]:
        mend = f"write {names} above what belongs to each"
        raise line.make_error(f"text before the first heading of ::{fence.kind}::", hint=mend)
    if not headings:
        raise fence.line.make_error(
            f"this ::{fence.kind}:: is empty", hint=f"write {names} below it"
        )
    ends = [at for at, _ in headings[1:]] + [len(body)]
    for (at, name), end in zip(headings, ends, strict=True):
        part = HeadingBlock(name, body[at], tuple(trim_blank_lines(body[at + 1 : end])))
        if not part.body:
            mend = "write its text below"
            raise part.line.make_error(f"nothing stands under this ### {name}", hint=mend)
        yield part


def _match_heading(fence: Fence, line: SourceLine) -> str | None:
    """The name of the heading on this line, None for text; a look-alike is an error."""
    like = None if line.is_code else HEADING_LIKE_RE.fullmatch(line.text)
    if like is None:
        return None
    names = BLOCK_HEADINGS[fence.kind]
    written = line.text.rstrip().removeprefix("### ")
    name = "Q" if written == "Q !probe" else written
    if name in names and line.text.startswith("### "):
        return name
    if like[2].capitalize() not in names and len(like[1]) != 3:
        return None
    allowed = " or ".join(f"### {known}" for known in names)
    what = f"{quote_value(line.text.strip())} is not a heading of ::{fence.kind}::"
    if line.text[0].isspace():
        what = "there are blanks before this heading"
    raise line.make_error(what, hint=f"write {allowed}, or put it in a code block")


def _reject_audio_in_question(block: HeadingBlock) -> None:
    if block.name == "Q":
        for line, found in _find_audio_tags(block):
            mend = "put the fence after an ::audio:: fence, or write a ::conversation::"
            what = "a question of ::instruction:: holds no sound"
            raise line.make_error(what, hint=mend, column=found.start() + 1)


def _find_audio_tags(block: HeadingBlock) -> Iterator[tuple[SourceLine, re.Match[str]]]:
    """Every tag of sound, good or odd, outside code."""
    for line in block.body:
        if not line.is_code:
            yield from (
                (line, found) for found in AUDIO_TAG_RE.finditer(line.text) if not found["ticks"]
            )


def _split_text_and_audio(block: HeadingBlock) -> Iterator[str | Path]:
    """What a turn holds, in order; blanks between two sounds are dropped."""
    cuts: dict[int, list[re.Match[str]]] = {}
    for line, found in _find_audio_tags(block):
        _check_audio_tag(block, line, found)
        cuts.setdefault(line.number, []).append(found)
    text: list[str] = []
    for line in block.body:
        at = 0
        for found in cuts.get(line.number, ()):
            text.append(line.text[at : found.start()])
            if "".join(text).strip():
                yield "".join(text)
            yield Path(found["path"].strip())
            text, at = [], found.end()
        text.append(line.text[at:] + "\n")
    if "".join(text).strip():
        yield "".join(text).rstrip()


def _check_audio_tag(block: HeadingBlock, line: SourceLine, tag: re.Match[str]) -> None:
    written, mend = tag[0], f"write {AUDIO_TAG_EXAMPLE}"
    if block.name != "User":
        what = f"sound in a ### {block.name} turn"
        mend = "only ### User turns hold sound; put the tag in backticks if it is text"
    elif tag["odd"] or not (written.startswith("<audio>") and written.endswith("</audio>")):
        what = f"cannot read the tag {quote_value(written)}"
    elif not tag["path"].strip():
        what = "this <audio> tag is empty"
    else:
        return
    raise line.make_error(what, hint=mend, column=tag.start() + 1)


BOM = "\ufeff"
MAX_DOCUMENT_BYTES = 64 * 1024 * 1024


def read_document(path: Path) -> Document:
    """Read the document at `path`; every mistake is a DocumentError with its place."""
    where = str(path)
    try:
        if path.is_dir():
            raise DocumentError("this is a directory", where=where, hint="name a .dlm file in it")
        size = path.stat().st_size
        if not path.is_file() or size > MAX_DOCUMENT_BYTES:
            raise DocumentError("this is not a document", where=where, hint="name a .dlm file")
        return parse_document(decode_document(path.read_bytes(), path), path)
    except FileNotFoundError as error:
        what = "there is no such document"
        raise DocumentError(what, where=where, hint=f"dlm init {path} writes one") from error
    except OSError as error:
        what = f"the document cannot be read ({error.strerror})"
        raise DocumentError(what, where=where, hint="check the path and its permissions") from error


def decode_document(data: bytes, path: Path) -> str:
    """The text of the bytes, which must be UTF-8; a byte order mark is kept."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = _normalize_newlines(data[: error.start].decode("utf-8"))
        what = f"invalid UTF-8 at byte {error.start}"
        raise _make_error_after(path, before, what, "save the document as UTF-8 text") from error


def parse_document(text: str, path: Path) -> Document:
    """Read the text of a document that stands, or would stand, at `path`."""
    try:
        sha256 = hashlib.sha256(text.encode("utf-8")).hexdigest()
    except UnicodeEncodeError as error:
        what, before = (
            "half a character (a lone surrogate)",
            _normalize_newlines(text[: error.start]),
        )
        raise _make_error_after(path, before, what, "save the document as UTF-8 text") from error
    source = _normalize_newlines(text)
    before, zero, _ = source.partition("\0")
    if zero:
        raise _make_error_after(path, before, "a zero byte: this is not text", "name a .dlm file")
    front = parse_frontmatter(source, path)
    checked = validate_config(front)
    _, _, body = source[front.end :].partition("\n")
    first = source.count("\n", 0, front.end) + 2
    sections = tuple(_build_sections(iter_source_lines(body, path, first)))
    return Document(path, checked, sections, source, sha256)


def _normalize_newlines(text: str) -> str:
    return text.removeprefix(BOM).replace("\r\n", "\n").replace("\r", "\n")


def _make_error_after(path: Path, preceding_text: str, what: str, hint: str) -> DocumentError:
    number, column = (
        preceding_text.count("\n") + 1,
        len(preceding_text) - preceding_text.rfind("\n"),
    )
    return DocumentError(what, where=f"{path}:{number}:{column}", hint=hint)


def _build_sections(lines: Iterable[SourceLine]) -> Iterator[Section]:
    """The sections in order. An `::audio::` fence is whole in itself; blank prose is none."""
    for fence, body in _split_at_fences(lines):
        if fence is None:
            written = trim_blank_lines(body)
            if written:
                yield Section("prose", written[0].number, text=join_lines(written))
        elif fence.kind == "audio":
            yield Section("audio", fence.line.number, attributes=fence.attributes)
        elif fence.kind == "instruction":
            yield Section("instruction", fence.line.number, qa_pairs=parse_qa_pairs(fence, body))
        else:
            yield Section(
                "conversation", fence.line.number, messages=parse_message_blocks(fence, body)
            )


def _split_at_fences(
    lines: Iterable[SourceLine],
) -> Iterator[tuple[Fence | None, list[SourceLine]]]:
    """Each fence with the lines up to the next; lines that no fence takes stand for themselves."""
    fence: Fence | None = None
    body: list[SourceLine] = []
    for line in lines:
        opened = parse_fence(line)
        if opened is None:
            body.append(line)
            continue
        yield fence, body
        fence, body = opened, []
        if opened.kind == "audio":
            yield opened, []
            fence = None
    yield fence, body
