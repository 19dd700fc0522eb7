"""Sources as no program writes them: the fixture of each format, with some of its rows changed."""

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
from tests.data.keepers import KEEPERS
from tests.fuzz.documents import HEAD
from tests.fuzz.letters import PIECES, changed_bytes, changed_json, changed_text

SOUNDS = {".wav", ".flac", ".ogg", ".mp3", ".opus"}
BINARY = {".tar", ".parquet", ".arrow", ".gz"}
JSON = {".json", ".jsonl"}
HEARD = 3  # of the clips of a case
STRICT = "strict"  # a wish of the document
GLOB = ["**/", "*", "?", "{a,b}", "{", ",", "}", "a", ".wav", "/", "[", "**", "..", "\\", "(?i)"]
NAMES = ["text", "audio", "speaker", "language", "start", "end", "id", "a.wav", "duration", ""]
TEXTS = [",", "\t", '"', "\n", "a.wav", "a", "1", "-1", "|", "cat a.wav |", "../a.wav", "/dev/zero"]


@dataclass(frozen=True)
class Shelf:
    """The fixture of one format, in a document or a strict one, and the files of it to change."""

    document: Document
    strict: Document
    source: dict[str, Any]
    files: tuple[Path, ...]


def shelf(name: str, folder: Path) -> Shelf:
    """Write the fixture of a format, with a pipe and a loop of links beside its lists."""
    source = KEEPERS[name](folder)
    found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    lists = [path for path in found if path.suffix.lower() not in SOUNDS]
    for beside in {path.parent for path in lists}:
        os.mkfifo(beside / "pipe")
        (beside / "loop").symlink_to(beside / "loop")
    heads = (HEAD, f"{HEAD}training: {{sources_policy: strict}}\n")
    documents = (parse_document(f"---\n{head}---\n", folder / "my.dlm") for head in heads)
    return Shelf(*documents, source, tuple(lists))


def asked_otherwise(random: Random) -> dict[str, Any]:
    """Other wishes of a source, which may fit its format or not."""
    pattern = "".join(random.choices(GLOB, k=random.choice((2, 5, 25)))) or "*"
    wishes = {
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
    few = random.sample(sorted(wishes), random.choice((0, 0, 1, 2)))
    return {name: wishes[name] for name in few}


def changed(path: Path, data: bytes, random: Random) -> bytes:
    """A file with some of its rows changed, as its kind is."""
    if path.suffix == ".gz" and random.random() < 0.9:
        return gzip.compress(changed(path.with_suffix(""), gzip.decompress(data), random))
    draw = random.random()
    if path.suffix in BINARY or draw < 0.1:
        return changed_bytes(data, random)
    text = data.decode()
    if path.suffix in JSON and draw < 0.7:
        return changed_json(text, random).encode("utf-8", "surrogatepass")
    if draw < 0.8:
        lines = text.split("\n")
        at = random.randrange(len(lines))
        lines[at] = changed_text(lines[at], random, random.choice(([*TEXTS], PIECES)))
        return "\n".join(lines).encode("utf-8", "surrogatepass")
    return changed_text(text, random).encode("utf-8", "surrogatepass")


def check_source(document: Document, source: SourceConfig) -> bool:
    """Read it and open what is heard first: whether nothing is wrong. A problem is one line."""
    found = load_source_examples(document, source)
    for problem in found.issues:
        line = str(problem)
        assert len(line.splitlines()) == 1 and problem.where and problem.hint, repr(line)
    for clip in found.examples:
        assert clip.audio_segments and clip.target.strip() and clip.location, clip
    return not found.issues and all(map(can_be_heard, found.examples[:HEARD]))


def can_be_heard(clip: Example) -> bool:
    """Whether its recordings open; where they do not, that is told."""
    try:
        for sound in clip.audio_segments:
            with open_audio(sound):
                pass
    except DataError as error:
        line = str(Issue.from_error(error, clip.location))
        assert len(line.splitlines()) == 1 and error.hint, repr(line)
        return False
    return True
