"""Random sources for the readers: the fixture of each format with one of its files mutated."""

import gzip
import os
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from dlm.config.data_schema import SOURCE_COLUMNS, SourceConfig
from dlm.config.parser import Document, parse_document
from dlm.data.audio_io import open_audio
from dlm.data.load import load_source_examples
from dlm.data.types import Example, Issue
from dlm.errors import DataError
from tests.data.readers.format_fixtures import FORMAT_FIXTURES
from tests.fuzz.documents import REQUIRED_FIELDS
from tests.fuzz.mutations import PIECES, mutate_bytes, mutate_json_lines, mutate_text

AUDIO_SUFFIXES = {".wav", ".flac", ".ogg", ".mp3", ".opus"}
BINARY_SUFFIXES = {".tar", ".parquet", ".arrow", ".gz"}
JSON_SUFFIXES = {".json", ".jsonl"}
NUM_OPENED = 3  # clips of a case whose recordings are opened
STRICT = "strict"  # not a field: the document has sources_policy strict
GLOB = ["**/", "*", "?", "{a,b}", "{", ",", "}", "a", ".wav", "/", "[", "**", "..", "\\", "(?i)"]
NAMES = ["text", "audio", "speaker", "language", "start", "end", "id", "a.wav", "duration", ""]
TEXTS = [",", "\t", '"', "\n", "a.wav", "a", "1", "-1", "|", "cat a.wav |", "../a.wav", "/dev/zero"]


@dataclass(frozen=True)
class FormatFixture:
    """The fixture of one format.

    Attributes:
        document: what it is a source of.
        strict: a document with sources_policy strict.
        source: fields of the source.
        files: files to mutate.
    """

    document: Document
    strict: Document
    source: dict[str, Any]
    files: tuple[Path, ...]


def write_fixture(name: str, folder: Path) -> FormatFixture:
    """Write the fixture of a format, with a pipe and a loop of links beside its lists."""
    source = FORMAT_FIXTURES[name](folder)
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    lists = [path for path in paths if path.suffix.lower() not in AUDIO_SUFFIXES]
    for parent in {path.parent for path in lists}:
        os.mkfifo(parent / "pipe")
        (parent / "loop").symlink_to(parent / "loop")
    heads = (REQUIRED_FIELDS, f"{REQUIRED_FIELDS}training: {{sources_policy: strict}}\n")
    documents = (parse_document(f"---\n{head}---\n", folder / "my.dlm") for head in heads)
    return FormatFixture(*documents, source, tuple(lists))


def make_source_fields(random: Random) -> dict[str, Any]:
    """Return random fields of a source, which may fit its format or not."""
    pattern = "".join(random.choices(GLOB, k=random.choice((2, 5, 25)))) or "*"
    fields = {
        "include": [pattern],
        "exclude": [pattern],
        "split": random.choice(("train", "test", "validation", "../x", "\ufeff")),
        "columns": {random.choice(SOURCE_COLUMNS): random.choice(NAMES) or "text"},
        "audio": random.choice((".", "data", "/nowhere", "pipe", "loop", "../..", "\u202e")),
        "max_files": random.choice((1, 2, 10**9)),
        "task": random.choice(("transcribe", "answer")),
        "language": "fr",
        STRICT: True,
        "prompt": random.choice((" ", "<audio>", "What?")),
    }
    names = random.sample(sorted(fields), random.choice((0, 0, 1, 2)))
    return {name: fields[name] for name in names}


def mutate_file(path: Path, data: bytes, random: Random) -> bytes:
    """Return the bytes of a file with some of its lines or values mutated."""
    if path.suffix == ".gz" and random.random() < 0.9:
        return gzip.compress(mutate_file(path.with_suffix(""), gzip.decompress(data), random))
    choice = random.random()
    if path.suffix in BINARY_SUFFIXES or choice < 0.1:
        return mutate_bytes(data, random)
    text = data.decode()
    if path.suffix in JSON_SUFFIXES and choice < 0.7:
        return mutate_json_lines(text, random).encode("utf-8", "surrogatepass")
    if choice < 0.8:
        lines = text.split("\n")
        index = random.randrange(len(lines))
        lines[index] = mutate_text(lines[index], random, random.choice(([*TEXTS], PIECES)))
        return "\n".join(lines).encode("utf-8", "surrogatepass")
    return mutate_text(text, random).encode("utf-8", "surrogatepass")


def check_source(document: Document, source: SourceConfig) -> bool:
    """Load a source and open its first recordings; return whether it has no issue.

    Every issue is one line with location, hint and code.
    """
    loaded = load_source_examples(document, source)
    for issue in loaded.issues:
        line = str(issue)
        assert len(line.splitlines()) == 1 and issue.where and issue.hint and issue.code, repr(line)
    for example in loaded.examples:
        assert example.audio_segments and example.target.strip() and example.location, example
    return not loaded.issues and all(map(can_open_audio, loaded.examples[:NUM_OPENED]))


def can_open_audio(example: Example) -> bool:
    """Return whether the recordings of an example open; check the error where one does not."""
    try:
        for segment in example.audio_segments:
            with open_audio(segment):
                pass
    except DataError as error:
        line = str(Issue.from_error(error, example.location))
        assert len(line.splitlines()) == 1 and error.hint, repr(line)
        return False
    return True
