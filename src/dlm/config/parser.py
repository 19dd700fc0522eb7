r"""Reads a `.dlm` file into a Document: frontmatter, and sections of prose, clips, Q/A and turns.

    bytes -> UTF-8 text -> frontmatter -> DlmConfig
                        -> body -> lines -> fences -> Section, ...

A line is code (inside ``` or ~~~, where no fence, heading or comment is seen), or text. Comments,
`<!-- ... -->` outside code, are taken out. A fence is alone on its line:

    ::audio path="clips/a.wav" transcript="She said \"hi\"." start="2.5"::
    ::instruction::     then ### Q, ### A, ### Q, ### A, ...
    ::conversation::    then ### System (if any), ### User, ### Assistant, ...

Audio in a user turn is written `<audio>clips/a.wav</audio>`. A line that is nearly a fence, heading
or tag is an error at its line and column, so that no clip is ever trained on as prose.
"""

import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, cast

from dlm.config.schema import DlmConfig
from dlm.config.yaml_loader import (
    MAX_QUOTED_CHARS,
    locate_offset_in_text,
    parse_frontmatter,
    quote_value,
    validate_config,
)
from dlm.errors import DocumentError, make_name_hint, suggest_name

FenceKind = Literal["audio", "instruction", "conversation"]
MessageRole = Literal["system", "user", "assistant"]
FENCE_KINDS: tuple[FenceKind, ...] = ("audio", "instruction", "conversation")
AUDIO_ATTRIBUTES = ("path", "transcript", "language", "start", "end", "prompt")
BLOCK_HEADINGS = {"instruction": ("Q", "A"), "conversation": ("System", "User", "Assistant")}
EMPTY_TRANSCRIPT_ERROR = "AUDIO section has empty transcript"
AUDIO_TAG_EXAMPLE = "<audio>clips/a.wav</audio>"
UTF8_HINT = "save the document as UTF-8 text"
BOM = "\ufeff"
MAX_DOCUMENT_BYTES = 64 * 1024 * 1024

CODE_FENCE_RE = re.compile(r"\s*(`{3,}|~{3,})(.*)")
CODE_SPAN_PATTERN = r"(?<!`)(?P<ticks>`+)(?!`).*?(?<!`)(?P=ticks)(?!`)"
COMMENT_OR_CODE_RE = re.compile(rf"{CODE_SPAN_PATTERN}|(?P<comment><!--)")
FENCE_START_RE = re.compile(r"\s*::[A-Za-z]")
FENCE_LIKE_RE = re.compile(
    r"(?P<prefix>[^\w:`]*)(?:(?P<colons>:+)(?P<gap>\s*))?(?P<name>[A-Za-z][\w-]*)(?P<rest>.*)"
)
ATTRIBUTE_START_RE = re.compile(r"\s+\w+\s*=")
INLINE_FENCE_RE = re.compile(r"::\s*audio\s+\w+\s*=", re.IGNORECASE)
BACKTICK_SPAN_RE = re.compile(r"(`+).*?\1")
ATTRIBUTE_RE = re.compile(r'[ \t]+([\w-]+)="((?:[^"\\]|\\.)*)"')
SECONDS_RE = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
HEADING_LIKE_RE = re.compile(
    r"\s*(#{1,6})\s*(q|a|question|answer|system|user|assistant)\s*[:.]?\s*(!\S*)?\s*", re.IGNORECASE
)
AUDIO_TAG_RE = re.compile(
    rf"{CODE_SPAN_PATTERN}|<audio>(?P<path>[^<>]*)</audio>|(?P<malformed></?audio\b[^<>]*>?)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class QAPair:
    """One question and its answer under `::instruction::`; `line` is that of `### Q`."""

    question: str
    answer: str
    line: int


@dataclass(frozen=True)
class MessageBlock:
    """One turn under `::conversation::`.

    Attributes:
        role: who says it.
        content: text (str) and audio (Path as written, relative to the document), in order.
        line: of the heading.
    """

    role: MessageRole
    content: tuple[str | Path, ...]
    line: int


@dataclass(frozen=True)
class Section:
    """One section of the body; only the field of its kind is filled.

    Attributes:
        kind: prose, or the name of its fence.
        line: of the fence, or of the first line of prose.
        text: prose.
        attributes: of `::audio::`: path, transcript, ...
        qa_pairs: of `::instruction::`.
        messages: of `::conversation::`.
    """

    kind: Literal["prose"] | FenceKind
    line: int
    text: str = ""
    attributes: dict[str, str] = field(default_factory=dict)
    qa_pairs: tuple[QAPair, ...] = ()
    messages: tuple[MessageBlock, ...] = ()


@dataclass(frozen=True)
class Document:
    """A `.dlm` file.

    Attributes:
        path: where it lies, or would lie.
        config: the frontmatter.
        sections: the body.
        text: the file's text with LF line ends and without a byte order mark.
        sha256: of the file's bytes.
    """

    path: Path
    config: DlmConfig
    sections: tuple[Section, ...]
    text: str
    sha256: str

    @property
    def folder(self) -> Path:
        """The folder that paths in the document are relative to."""
        return self.path.parent


def read_document(path: Path) -> Document:
    """Read a document.

    Raises:
        DocumentError: it cannot be read, or has a mistake, named with line and column.
    """
    where = str(path)
    try:
        if path.is_dir():
            what, hint = "this is a directory", "name a .dlm file in it"
            raise DocumentError(what, where=where, hint=hint, code="document.is_directory")
        num_bytes = path.stat().st_size
        if not path.is_file() or num_bytes > MAX_DOCUMENT_BYTES:
            what, hint = "this is not a document", "name a .dlm file"
            raise DocumentError(what, where=where, hint=hint, code="document.not_a_document")
        return parse_document(decode_document(path.read_bytes(), path), path)
    except FileNotFoundError as error:
        what, hint = "there is no such document", f"dlm init {path} writes one"
        raise DocumentError(what, where=where, hint=hint, code="document.not_found") from error
    except OSError as error:
        what = f"the document cannot be read ({error.strerror})"
        hint = "check the path and its permissions"
        raise DocumentError(what, where=where, hint=hint, code="document.not_readable") from error


def decode_document(data: bytes, path: Path) -> str:
    """Decode UTF-8, with its byte order mark. Raises DocumentError (`document.not_utf8`)."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DocumentError(
            f"invalid UTF-8 at byte {error.start}",
            where=_locate_end(path, data[: error.start].decode("utf-8")),
            hint=UTF8_HINT,
            code="document.not_utf8",
        ) from error


def parse_document(text: str, path: Path) -> Document:
    """Parse the text of a document.

    Args:
        path: where it lies, or would lie; named in errors.

    Raises:
        DocumentError: it has a mistake, named with line and column.
    """
    try:
        sha256 = hashlib.sha256(text.encode("utf-8")).hexdigest()
    except UnicodeEncodeError as error:
        raise DocumentError(
            "half a character (a lone surrogate)",
            where=_locate_end(path, text[: error.start]),
            hint=UTF8_HINT,
            code="document.not_utf8",
        ) from error
    source = text.removeprefix(BOM).replace("\r\n", "\n").replace("\r", "\n")
    before, null_byte, _ = source.partition("\0")
    if null_byte:
        what, hint = "a zero byte: this is not text", "name a .dlm file"
        raise DocumentError(
            what, where=_locate_end(path, before), hint=hint, code="document.not_a_document"
        )
    front = parse_frontmatter(source, path)
    config = validate_config(front)
    _, _, body = source[front.end :].partition("\n")
    first_line_number = source.count("\n", 0, front.end) + 2
    sections = tuple(_build_sections(_iter_source_lines(body, path, first_line_number)))
    return Document(path, config, sections, source, sha256)


def _locate_end(path: Path, text: str) -> str:
    """Return `path:line:column` of what follows `text`, the head of a file."""
    text = text.removeprefix(BOM)
    return locate_offset_in_text(path, text, len(text))


@dataclass(frozen=True)
class _SourceLine:
    """One line of a document."""

    path: Path
    number: int
    text: str
    is_code: bool = False

    def make_error(self, what: str, *, hint: str, code: str, column: int = 1) -> DocumentError:
        """Make the error of a mistake in this line; columns count from 1."""
        where = f"{self.path}:{self.number}:{column}"
        return DocumentError(what, where=where, hint=hint, code=code)


@dataclass(frozen=True)
class _Fence:
    """A fence; `attributes` only for audio."""

    kind: FenceKind
    line: _SourceLine
    attributes: dict[str, str]


@dataclass(frozen=True)
class _HeadingBlock:
    """A heading and the lines below it."""

    name: str
    line: _SourceLine
    body: tuple[_SourceLine, ...]


def _build_sections(lines: Iterable[_SourceLine]) -> Iterator[Section]:
    for fence, body in _split_at_fences(lines):
        if fence is None:
            prose = _trim_blank_lines(body)
            if prose:
                yield Section("prose", prose[0].number, text=_join_lines(prose))
        elif fence.kind == "audio":
            yield Section("audio", fence.line.number, attributes=fence.attributes)
        elif fence.kind == "instruction":
            yield Section("instruction", fence.line.number, qa_pairs=_parse_qa_pairs(fence, body))
        else:
            messages = _parse_message_blocks(fence, body)
            yield Section("conversation", fence.line.number, messages=messages)


def _split_at_fences(
    lines: Iterable[_SourceLine],
) -> Iterator[tuple[_Fence | None, list[_SourceLine]]]:
    """Yield each fence with the lines up to the next; lines after `::audio::` are prose."""
    fence: _Fence | None = None
    body: list[_SourceLine] = []
    for line in lines:
        next_fence = _parse_fence(line)
        if next_fence is None:
            body.append(line)
            continue
        yield fence, body
        fence, body = next_fence, []
        if next_fence.kind == "audio":
            yield next_fence, []
            fence = None
    yield fence, body


# lines: code blocks and comments


def _iter_source_lines(body: str, path: Path, first_line_number: int) -> Iterator[_SourceLine]:
    """Yield the lines of the body without comments, numbered as in the file."""
    lines = [
        _SourceLine(path, first_line_number + index, text)
        for index, text in enumerate(body.split("\n"))
    ]
    index = 0
    while index < len(lines):
        if end := _find_code_end(lines, index):
            yield from (replace(line, is_code=True) for line in lines[index:end])
            index = end
            continue
        column = _find_comment_start(lines[index])
        if column is None:
            yield lines[index]
            index += 1
            continue
        end, after = _find_comment_end(lines, index, column)
        before = lines[index].text[:column]
        if end == index:
            after = before + after
        elif before.strip():
            yield replace(lines[index], text=before.rstrip())
        lines[end] = replace(lines[end], text=after)
        index = end if after.strip() else end + 1


def _join_lines(lines: Sequence[_SourceLine]) -> str:
    return "\n".join(line.text for line in _trim_blank_lines(lines)).rstrip()


def _trim_blank_lines(lines: Sequence[_SourceLine]) -> Sequence[_SourceLine]:
    filled = [index for index, line in enumerate(lines) if line.text.strip()]
    return lines[filled[0] : filled[-1] + 1] if filled else ()


def _find_code_end(lines: list[_SourceLine], index: int) -> int | None:
    """Return where the code block that opens on this line ends; None where none opens."""
    opening = CODE_FENCE_RE.fullmatch(lines[index].text)
    if opening is None or (opening[1][0] == "`" and "`" in opening[2]):
        return None
    closing = re.compile(rf"\s*{opening[1][0]}{{{len(opening[1])},}}\s*")
    for end in range(index + 1, len(lines)):
        if closing.fullmatch(lines[end].text):
            return end + 1
    what, hint = "this code block is never closed", f"close it with {opening[1][:MAX_QUOTED_CHARS]}"
    raise lines[index].make_error(what, hint=hint, code="document.code_not_closed")


def _find_comment_start(line: _SourceLine) -> int | None:
    """Return where a comment opens; not in a fence, whose transcript may hold anything."""
    if "<!--" not in line.text or FENCE_START_RE.match(line.text):
        return None
    matches = COMMENT_OR_CODE_RE.finditer(line.text)
    return next((match.start() for match in matches if match["comment"]), None)


def _find_comment_end(lines: list[_SourceLine], index: int, column: int) -> tuple[int, str]:
    """Return the index of the line on which the comment closes, and the text after it there."""
    start = column + len("<!")  # so that <!--> is a whole comment
    for end in range(index, len(lines)):
        close = lines[end].text.find("-->", start)
        if close >= 0:
            return end, lines[end].text[close + len("-->") :]
        start = 0
    what, hint = "this comment is never closed", "end it with -->, or put <!-- in backticks"
    raise lines[index].make_error(
        what, hint=hint, column=column + 1, code="document.comment_not_closed"
    )


# fences


def _parse_fence(line: _SourceLine) -> _Fence | None:
    """Return the fence on this line, None for text; refuse what is nearly a fence."""
    if line.is_code:
        return None
    match = FENCE_LIKE_RE.fullmatch(line.text)
    if match is None or not _looks_like_fence(match):
        _reject_inline_fence(line)
        return None
    kind = _parse_fence_kind(line, match)
    offset = match.start("rest")
    if kind == "audio":
        return _Fence(kind, line, _parse_audio_attributes(line, offset))
    if ATTRIBUTE_START_RE.match(match["rest"]):
        what, hint = f"::{kind}:: takes no attributes", f"write ::{kind}::"
        raise line.make_error(what, hint=hint, column=offset + 1, code="document.fence_attributes")
    _check_fence_end(line, offset, kind)
    return _Fence(kind, line, {})


def _looks_like_fence(match: re.Match[str]) -> bool:
    """Whether the author meant a fence: `::Audio path=` yes, `::std::move(x)` no."""
    colons, name, rest = match["colons"] or "", match["name"], match["rest"].rstrip()
    has_attributes = ATTRIBUTE_START_RE.match(rest) is not None
    is_closed = re.fullmatch(r"(#[\w-]*)?\s*:+\s*", rest) is not None
    if len(colons) >= 2:
        is_code = re.match(r"[^\s:#]|::\w", rest) is not None
        is_kind = name in FENCE_KINDS or (_suggest_kind(name) is not None and not is_code)
        return has_attributes or is_closed or is_kind
    if colons:
        return _suggest_kind(name) is not None and (has_attributes or is_closed)
    has_path = re.match(r"\s+(path|transcript)\s*=", rest) is not None
    has_end = rest.endswith("::") and (is_closed or has_attributes)
    return name.casefold() in FENCE_KINDS and (has_path or has_end)


def _suggest_kind(name: str) -> str | None:
    return suggest_name(name.casefold(), FENCE_KINDS, cutoff=0.75)


def _reject_inline_fence(line: _SourceLine) -> None:
    """Refuse a fence in the middle of a line, which would be trained on as text."""
    if INLINE_FENCE_RE.search(line.text) is None:
        return
    without_code = BACKTICK_SPAN_RE.sub(lambda span: " " * len(span[0]), line.text)
    if match := INLINE_FENCE_RE.search(without_code):
        what = "a fence stands alone on its line"
        hint = "move it to a line of its own, or put it in backticks"
        raise line.make_error(
            what, hint=hint, column=match.start() + 1, code="document.fence_not_alone"
        )


def _parse_fence_kind(line: _SourceLine, match: re.Match[str]) -> FenceKind:
    """Return the kind that the fence names; refuse what is wrong up to its name."""
    prefix, name = match["prefix"], match["name"]
    column = len(prefix) + 1
    if prefix.strip():
        what, hint = "a fence stands alone on its line", f"remove {quote_value(prefix)} before it"
        raise line.make_error(what, hint=hint, code="document.fence_not_alone")
    if prefix:
        raise line.make_error(
            "there are blanks before this fence", hint="remove them", code="document.stray_blanks"
        )
    closest = _suggest_kind(name)
    if match["colons"] != "::" or match["gap"]:
        what, hint = "a fence opens with two colons and its name", f"write ::{closest or name}"
        raise line.make_error(what, hint=hint, column=column, code="document.bad_fence")
    if name not in FENCE_KINDS:
        known = f"write one of {', '.join(FENCE_KINDS)}, or put it in backticks"
        what = f"unknown section {quote_value(name)}"
        hint = f"did you mean '{closest}'?" if closest else known
        raise line.make_error(what, hint=hint, column=column, code="document.unknown_section")
    if suffix := re.match(r"#[\w-]*", match["rest"]):
        what, hint = f"named adapters ('{suffix[0]}') are not supported", f"write ::{name}"
        raise line.make_error(
            what, hint=hint, column=match.start("rest") + 1, code="document.named_adapter"
        )
    return cast(FenceKind, name)


def _check_fence_end(line: _SourceLine, offset: int, kind: FenceKind) -> None:
    """Refuse anything but two colons from `offset` on."""
    rest, column = line.text[offset:], offset + 1
    end = r"[ \t]*::" if kind == "audio" else r"::"
    if re.fullmatch(end, rest):
        return
    ending = re.match(rf"{end}(?!:)", rest)
    if ending is None:
        what, hint = f"this ::{kind}:: fence is not closed", "end it with two colons, '::'"
        raise line.make_error(what, hint=hint, column=column, code="document.fence_not_closed")
    if not rest[ending.end() :].strip():
        what = "there are blanks after this fence"
        raise line.make_error(what, hint="remove them", column=column, code="document.stray_blanks")
    what = "a fence stands alone on its line"
    hint = "move what follows it to the next line"
    raise line.make_error(what, hint=hint, column=column, code="document.fence_not_alone")


# attributes of ::audio::


def _parse_audio_attributes(line: _SourceLine, offset: int) -> dict[str, str]:
    """Return the attributes of an `::audio` fence; refuse those unknown, repeated or impossible."""
    attributes: dict[str, str] = {}
    columns: dict[str, int] = {}
    while match := ATTRIBUTE_RE.match(line.text, offset):
        key, column = match[1], match.start(1) + 1
        if key not in AUDIO_ATTRIBUTES:
            what = f"unknown attribute {quote_value(key)}"
            hint = make_name_hint(key.casefold(), AUDIO_ATTRIBUTES)
            raise line.make_error(what, hint=hint, column=column, code="document.unknown_attribute")
        if key in attributes:
            what, hint = f"'{key}' is written twice", "remove one"
            raise line.make_error(
                what, hint=hint, column=column, code="document.duplicate_attribute"
            )
        attributes[key] = _unescape_value(line, match)
        columns[key] = column
        offset = match.end()
    _check_after_attributes(line, offset, attributes)
    _check_attribute_values(line, attributes, columns)
    return attributes


def _unescape_value(line: _SourceLine, match: re.Match[str]) -> str:
    for escape in re.finditer(r"\\(.)", match[2]):
        if escape[1] not in '"\\':
            raise line.make_error(
                f"a backslash before {quote_value(escape[1])}",
                hint=r"write a backslash as \\",
                column=match.start(2) + escape.start() + 1,
                code="document.bad_escape",
            )
    return re.sub(r"\\(.)", r"\1", match[2])


def _check_after_attributes(line: _SourceLine, offset: int, attributes: dict[str, str]) -> None:
    """Refuse anything but the end of the fence after the last attribute that could be read."""
    rest, column = line.text[offset:], offset + 1
    pair = re.match(r"\s+(?P<key>[\w-]+)(?P<before>\s*)=(?P<after>\s*)(?P<quote>.?)", rest)
    if pair:
        raise _make_attribute_error(line, pair, offset + pair.start("key") + 1)
    if not attributes and rest.strip(" \t:") == "":
        what = "::audio:: needs a path and a transcript"
        hint = 'write ::audio path="clips/a.wav" transcript="..."::'
        raise line.make_error(what, hint=hint, code="document.missing_attribute")
    if attributes and re.match(r"[^\s:]", rest):
        what = f"text right after the value of '{list(attributes)[-1]}'"
        hint = r"write a quote inside a value as \", and a blank between attributes"
        raise line.make_error(what, hint=hint, column=column, code="document.bad_attribute")
    if re.match(r"\s+[^\s:]", rest):
        what = f"cannot read {quote_value(rest.strip())}"
        hint = 'attributes are written name="value", and the fence ends with ::'
        raise line.make_error(what, hint=hint, column=column, code="document.bad_attribute")
    _check_fence_end(line, offset, "audio")


def _make_attribute_error(line: _SourceLine, pair: re.Match[str], column: int) -> DocumentError:
    """Make the error that says why an attribute could not be read."""
    key = pair["key"]
    what, hint = f"the value of '{key}' is not in straight double quotes", f'write {key}="..."'
    if pair["before"] or pair["after"]:
        what = f"there are blanks around the = of '{key}'"
    elif pair["quote"] == '"':
        what = f"the value of '{key}' has no closing quote"
        hint = r'end it with ", and write a quote inside as \"'
    return line.make_error(what, hint=hint, column=column, code="document.bad_attribute")


def _check_attribute_values(
    line: _SourceLine, attributes: dict[str, str], columns: dict[str, int]
) -> None:
    """Refuse attributes that are missing, blank or impossible."""
    for key in ("path", "transcript"):
        if key not in attributes:
            what = f"::audio:: has no {key}"
            raise line.make_error(what, hint=f'add {key}="..."', code="document.missing_attribute")
    for key, value in attributes.items():
        if not value.strip() and key == "transcript":
            hint = "write what is said"
            raise line.make_error(
                EMPTY_TRANSCRIPT_ERROR, hint=hint, column=columns[key], code="data.empty_transcript"
            )
        if not value.strip():
            what, hint = f"'{key}' is empty", "fill it in or remove it"
            raise line.make_error(
                what, hint=hint, column=columns[key], code="document.empty_attribute"
            )
    span = {"start": 0.0, "end": math.inf}
    for key in [key for key in span if key in attributes]:
        if not SECONDS_RE.fullmatch(attributes[key]):
            what = f"'{key}' is {quote_value(attributes[key])}"
            hint = f'write seconds, such as {key}="12.5"'
            raise line.make_error(what, hint=hint, column=columns[key], code="data.bad_seconds")
        span[key] = float(attributes[key])
    if span["end"] <= span["start"]:
        start, end = attributes.get("start", "0"), attributes.get("end", "")
        raise line.make_error(
            f"'end' {end} is not after 'start' {start}",
            hint="write the seconds where the span ends",
            column=columns["end" if "end" in attributes else "start"],
            code="audio.span_empty",
        )


# ::instruction:: and ::conversation::


def _parse_qa_pairs(fence: _Fence, body: Sequence[_SourceLine]) -> tuple[QAPair, ...]:
    blocks = list(_split_at_headings(fence, body))
    for index, block in enumerate(blocks):
        if block.name != BLOCK_HEADINGS["instruction"][index % 2]:
            is_answer = block.name == "A"
            mistake = "answers no ### Q" if is_answer else "follows a ### Q without its ### A"
            what, hint = f"this ### {block.name} {mistake}", "write ### Q and ### A in turn"
            raise block.line.make_error(what, hint=hint, code="document.heading_order")
        _reject_audio_in_question(block)
    if len(blocks) % 2:
        what, hint = "this ### Q has no ### A", "write ### A and the answer below it"
        raise blocks[-1].line.make_error(what, hint=hint, code="document.heading_order")
    return tuple(
        QAPair(_join_lines(question.body), _join_lines(answer.body), question.line.number)
        for question, answer in zip(blocks[::2], blocks[1::2], strict=True)
    )


def _parse_message_blocks(fence: _Fence, body: Sequence[_SourceLine]) -> tuple[MessageBlock, ...]:
    blocks = list(_split_at_headings(fence, body))
    if blocks[0].name == "Assistant":
        what = "a conversation cannot begin with ### Assistant"
        hint = "begin with ### User or ### System"
        raise blocks[0].line.make_error(what, hint=hint, code="document.heading_order")
    if blocks[-1].name != "Assistant":
        what = f"the conversation ends with ### {blocks[-1].name}"
        hint = "write ### Assistant and what the model should answer"
        raise blocks[-1].line.make_error(what, hint=hint, code="document.heading_order")
    return tuple(
        MessageBlock(
            cast(MessageRole, block.name.lower()),
            tuple(_split_text_and_audio(block)),
            block.line.number,
        )
        for block in blocks
    )


def _split_at_headings(fence: _Fence, body: Sequence[_SourceLine]) -> Iterator[_HeadingBlock]:
    """Yield the headings with the lines below each; refuse empty ones and text before the first."""
    headings = [
        (index, name) for index, line in enumerate(body) if (name := _match_heading(fence, line))
    ]
    known = " and ".join(f"### {name}" for name in BLOCK_HEADINGS[fence.kind])
    first = headings[0][0] if headings else len(body)
    for line in _trim_blank_lines(body[:first])[:1]:
        what = f"text before the first heading of ::{fence.kind}::"
        hint = f"write {known} above what belongs to each"
        raise line.make_error(what, hint=hint, code="document.text_before_heading")
    if not headings:
        what, hint = f"this ::{fence.kind}:: is empty", f"write {known} below it"
        raise fence.line.make_error(what, hint=hint, code="document.empty_section")
    ends = [index for index, _ in headings[1:]] + [len(body)]
    for (index, name), end in zip(headings, ends, strict=True):
        block = _HeadingBlock(name, body[index], tuple(_trim_blank_lines(body[index + 1 : end])))
        if not block.body:
            what, hint = f"there is no text under this ### {name}", "write its text below"
            raise block.line.make_error(what, hint=hint, code="document.empty_heading")
        yield block


def _match_heading(fence: _Fence, line: _SourceLine) -> str | None:
    """Return the name of the heading on this line, None for text; refuse what is nearly one."""
    match = None if line.is_code else HEADING_LIKE_RE.fullmatch(line.text)
    if match is None:
        return None
    names = BLOCK_HEADINGS[fence.kind]
    written = line.text.rstrip().removeprefix("### ")
    name = "Q" if written == "Q !probe" else written
    if name in names and line.text.startswith("### "):
        return name
    if match[2].capitalize() not in names and len(match[1]) != 3:
        return None
    hint = f"write {' or '.join(f'### {known}' for known in names)}, or put it in a code block"
    if line.text[0].isspace():
        raise line.make_error(
            "there are blanks before this heading", hint=hint, code="document.stray_blanks"
        )
    what = f"{quote_value(line.text.strip())} is not a heading of ::{fence.kind}::"
    raise line.make_error(what, hint=hint, code="document.unknown_heading")


# audio tags in turns


def _reject_audio_in_question(block: _HeadingBlock) -> None:
    if block.name == "Q":
        for line, tag in _find_audio_tags(block):
            what = "a question of ::instruction:: holds no audio"
            hint = "put the fence after an ::audio:: fence, or write a ::conversation::"
            raise line.make_error(
                what, hint=hint, column=tag.start() + 1, code="document.audio_not_allowed"
            )


def _find_audio_tags(block: _HeadingBlock) -> Iterator[tuple[_SourceLine, re.Match[str]]]:
    """Yield every audio tag outside code, also malformed ones."""
    for line in block.body:
        if not line.is_code:
            tags = AUDIO_TAG_RE.finditer(line.text)
            yield from ((line, tag) for tag in tags if not tag["ticks"])


def _split_text_and_audio(block: _HeadingBlock) -> Iterator[str | Path]:
    """Yield the text and the audio paths of a turn in order; blanks between paths are dropped."""
    tags_by_line: dict[int, list[re.Match[str]]] = {}
    for line, tag in _find_audio_tags(block):
        _check_audio_tag(block, line, tag)
        tags_by_line.setdefault(line.number, []).append(tag)
    text: list[str] = []
    for line in block.body:
        offset = 0
        for tag in tags_by_line.get(line.number, ()):
            text.append(line.text[offset : tag.start()])
            if "".join(text).strip():
                yield "".join(text)
            yield Path(tag["path"].strip())
            text, offset = [], tag.end()
        text.append(line.text[offset:] + "\n")
    if "".join(text).strip():
        yield "".join(text).rstrip()


def _check_audio_tag(block: _HeadingBlock, line: _SourceLine, tag: re.Match[str]) -> None:
    column = tag.start() + 1
    if block.name != "User":
        what = f"audio in a ### {block.name} turn"
        hint = "only ### User turns hold audio; put the tag in backticks if it is text"
        raise line.make_error(what, hint=hint, column=column, code="document.audio_not_allowed")
    is_lower_case = tag[0].startswith("<audio>") and tag[0].endswith("</audio>")
    if tag["malformed"] or not is_lower_case:
        what = f"cannot read the tag {quote_value(tag[0])}"
    elif not tag["path"].strip():
        what = "this <audio> tag is empty"
    else:
        return
    hint = f"write {AUDIO_TAG_EXAMPLE}"
    raise line.make_error(what, hint=hint, column=column, code="document.bad_audio_tag")
