"""Documents that nobody would write: examples with slips, and fields and sections at random."""

import json
from functools import cache
from os.path import commonprefix
from pathlib import Path
from random import Random

from pydantic.fields import FieldInfo

from dlm.config.editor import add_source
from dlm.config.parser import Document, decode_document, parse_document
from dlm.config.schema import iter_config_fields
from dlm.data.load import iter_document_examples
from dlm.errors import DlmError, DocumentError
from tests.fuzz.letters import PIECES, VALUES, changed_bytes, changed_text

ROOT = Path(__file__).parent.parent.parent
HEAD = "dlm_id: 01HZ4X7TGZM3J1A2B3C4D5E6F7\nbase_model: sparrow\n"
WORDS = ["lora", "auto", "0.1", "8", "[lm]", "[a, b]", "corpus", "{path: a}", "bf16", "", "~", "{}"]
SECTIONS = [
    '::audio path="a.wav" transcript="Hi."::\n',
    '::audio path="a.wav" transcript="Hi." start="1" end="2.5" language="fr" prompt="What?"::\n',
    "::instruction::\n### Q\nWhat?\n### A\nThis.\n",
    "::conversation::\n### User\n<audio>a.wav</audio> What?\n### Assistant\nThis.\n",
    "Prose, `code` and <!-- a note -->.\n",
    "```\n::audio\n```\n",
]


@cache
def examples() -> tuple[str, ...]:
    """The documents that are shipped, and one that names many sources."""
    shipped = [path.read_text("utf-8") for path in sorted((ROOT / "examples").glob("*.dlm"))]
    sources = ("sources: a", "sources: [a, {path: b}]", "sources:\n  - path: a\n    split: x")
    many = [f"---\n{HEAD}training:\n  {each}\n---\n{''.join(SECTIONS)}" for each in sources]
    return (*shipped, *many)


def document(random: Random) -> bytes:
    """The bytes of a document, perhaps."""
    text = random.choice(examples()) if random.random() < 0.5 else made(random)
    if random.random() < 0.6:
        text = changed_text(text, random)
    data = text.encode("utf-8", "surrogatepass")
    return changed_bytes(data, random) if random.random() < 0.1 else data


def made(random: Random) -> str:
    """Frontmatter of fields that there are, with values of any kind, and any sections."""
    lines = [HEAD] if random.random() < 0.9 else []
    fields = {tuple(name.split(".")): info for name, info in iter_config_fields()}
    above: tuple[str, ...] = ()
    for name in sorted(random.sample(sorted(fields), random.randint(0, 6))):
        for depth, key in enumerate(name):
            if above[: depth + 1] != name[: depth + 1]:
                value = _value(fields[name], random) if depth == len(name) - 1 else ""
                lines.append(f"{'  ' * depth}{key}: {value}".rstrip() + "\n")
                above = name[: depth + 1]
    body = [random.choice(SECTIONS) for _ in range(random.randint(0, 4))]
    end = random.choice(("\n", "\n", "\r\n", "\r"))
    return f"---\n{''.join(lines)}---\n{''.join(body)}".replace("\n", end)


def _value(info: FieldInfo, random: Random) -> str:
    """A value for a field: what it is anyway, a word of some other, or anything."""
    default = info.get_default(call_default_factory=True)
    if random.random() < 0.8 and isinstance(default, str | int | float):
        return json.dumps(default)
    if random.random() < 0.6:
        return random.choice(WORDS)
    value = random.choice([each for each in VALUES if not isinstance(each, int) or each < 10**40])
    return random.choice((str(value), repr(value), random.choice(PIECES)))


def check_document(data: bytes) -> bool:
    """Read it, all the way to its clips: whether it is a document. A mistake is one line."""
    path = Path("my.dlm")
    try:
        found = parse_document(decode_document(data, path), path)
    except DlmError as error:
        line = str(error)
        assert isinstance(error, DocumentError) and len(line.splitlines()) == 1, repr(line)
        assert line.startswith("my.dlm:") and error.hint, repr(line)
        return False
    for each in iter_document_examples(found):
        assert str(each)
    check_edit(data, found)
    return True


def check_edit(data: bytes, before: Document) -> None:
    """A source more is that, and no other byte changes; or it is refused."""
    entry = {"path": "new folder/a.csv", "language": "fr", "columns": {"text": "no"}}
    try:
        changed = add_source(data, entry)
    except DocumentError as error:
        assert error.where == "training.sources", repr(str(error))
        return
    after = parse_document(changed.decode(), before.path)
    *kept, new = after.config.training.sources
    assert tuple(kept) == before.config.training.sources
    assert new.path == entry["path"] and new.columns == entry["columns"]
    assert len(after.sections) == len(before.sections)
    first = len(commonprefix([data, changed]))
    rest = len(commonprefix([data[first:][::-1], changed[first:][::-1]]))
    lost, put = (each[first : len(each) - rest].strip() for each in (data, changed))
    assert lost.lower() in (b"", b"~", b"null") or lost in put, (lost, put)
