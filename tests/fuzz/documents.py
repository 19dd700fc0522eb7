"""Random documents for the parser: mutated examples, and random fields and sections."""

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
from tests.fuzz.mutations import PIECES, VALUES, mutate_bytes, mutate_text

ROOT = Path(__file__).parent.parent.parent
REQUIRED_FIELDS = "dlm_id: 01HZ4X7TGZM3J1A2B3C4D5E6F7\nbase_model: sparrow\n"
FIELD_VALUES = [
    "lora",
    "auto",
    "0.1",
    "8",
    "[lm]",
    "[a, b]",
    "corpus",
    "{path: a}",
    "bf16",
    "",
    "~",
    "{}",
]
SECTIONS = [
    '::audio path="a.wav" transcript="Hi."::\n',
    '::audio path="a.wav" transcript="Hi." start="1" end="2.5" language="fr" prompt="What?"::\n',
    "::instruction::\n### Q\nWhat?\n### A\nThis.\n",
    "::conversation::\n### User\n<audio>a.wav</audio> What?\n### Assistant\nThis.\n",
    "Prose, `code` and <!-- a note -->.\n",
    "```\n::audio\n```\n",
]


@cache
def load_examples() -> tuple[str, ...]:
    """Return the documents of examples/, and documents with sources and sections of every kind."""
    examples = [path.read_text("utf-8") for path in sorted((ROOT / "examples").glob("*.dlm"))]
    sources = ("sources: a", "sources: [a, {path: b}]", "sources:\n  - path: a\n    split: x")
    with_sources = [
        f"---\n{REQUIRED_FIELDS}training:\n  {source}\n---\n{''.join(SECTIONS)}"
        for source in sources
    ]
    return (*examples, *with_sources)


def make_document(random: Random) -> bytes:
    """Return the bytes of a random document, valid or not."""
    text = random.choice(load_examples()) if random.random() < 0.5 else make_random_document(random)
    if random.random() < 0.6:
        text = mutate_text(text, random)
    data = text.encode("utf-8", "surrogatepass")
    return mutate_bytes(data, random) if random.random() < 0.1 else data


def make_random_document(random: Random) -> str:
    """Return frontmatter of known fields with values of any kind, and random sections."""
    lines = [REQUIRED_FIELDS] if random.random() < 0.9 else []
    fields = {tuple(name.split(".")): info for name, info in iter_config_fields()}
    previous: tuple[str, ...] = ()
    for name in sorted(random.sample(sorted(fields), random.randint(0, 6))):
        for depth, key in enumerate(name):
            if previous[: depth + 1] != name[: depth + 1]:
                value = make_field_value(fields[name], random) if depth == len(name) - 1 else ""
                lines.append(f"{'  ' * depth}{key}: {value}".rstrip() + "\n")
                previous = name[: depth + 1]
    body = [random.choice(SECTIONS) for _ in range(random.randint(0, 4))]
    end = random.choice(("\n", "\n", "\r\n", "\r"))
    return f"---\n{''.join(lines)}---\n{''.join(body)}".replace("\n", end)


def make_field_value(info: FieldInfo, random: Random) -> str:
    """Return a value for a field: its default, a value of another field, or anything."""
    default = info.get_default(call_default_factory=True)
    if random.random() < 0.8 and isinstance(default, str | int | float):
        return json.dumps(default)
    if random.random() < 0.6:
        return random.choice(FIELD_VALUES)
    value = random.choice([item for item in VALUES if not isinstance(item, int) or item < 10**40])
    return random.choice((str(value), repr(value), random.choice(PIECES)))


def check_document(data: bytes) -> bool:
    """Parse a document and its clips, or check its error; return whether it is a document."""
    path = Path("my.dlm")
    try:
        document = parse_document(decode_document(data, path), path)
    except DlmError as error:
        line = str(error)
        assert isinstance(error, DocumentError) and len(line.splitlines()) == 1, repr(line)
        assert line.startswith("my.dlm:") and error.hint and error.code, repr(line)
        return False
    for example in iter_document_examples(document):
        assert str(example)
    check_edit(data, document)
    return True


def check_edit(data: bytes, before: Document) -> None:
    """Check that adding a source changes no other byte, or is refused."""
    entry = {"path": "new folder/a.csv", "language": "fr", "columns": {"text": "no"}}
    try:
        changed = add_source(data, entry)
    except DocumentError as error:
        assert error.code == "document.not_editable", repr(str(error))
        return
    after = parse_document(changed.decode(), before.path)
    *others, new = after.config.training.sources
    assert tuple(others) == before.config.training.sources
    assert new.path == entry["path"] and new.columns == entry["columns"]
    assert len(after.sections) == len(before.sections)
    start = len(commonprefix([data, changed]))
    end = len(commonprefix([data[start:][::-1], changed[start:][::-1]]))
    removed, added = (text[start : len(text) - end].strip() for text in (data, changed))
    assert removed.lower() in (b"", b"~", b"null") or removed in added, (removed, added)
