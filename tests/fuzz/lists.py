"""Sources as no program writes them: the fixture of each format, with some of its rows changed."""

import gzip
import os
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from dlm.clips.audio import listen
from dlm.clips.clip import Clip, Problem
from dlm.clips.sources import gather_source
from dlm.document.document import Document
from dlm.document.parse import parse
from dlm.document.sources import COLUMNS, Source
from dlm.errors import ClipError
from tests.clips.keepers import KEEPERS
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
    documents = (parse(f"---\n{head}---\n", folder / "my.dlm") for head in heads)
    return Shelf(*documents, source, tuple(lists))


def asked_otherwise(random: Random) -> dict[str, Any]:
    """Other wishes of a source, which may fit its format or not."""
    pattern = "".join(random.choices(GLOB, k=random.choice((2, 5, 25)))) or "*"
    wishes = {
        "include": [pattern],
        "exclude": [pattern],
        "split": random.choice(("train", "test", "validation", "../x", "\ufeff")),
        "columns": {random.choice(COLUMNS): random.choice(NAMES) or "text"},
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


def check_source(document: Document, source: Source) -> bool:
    """Read it and open what is heard first: whether nothing is wrong. A problem is one line."""
    found = gather_source(document, source)
    for problem in found.problems:
        line = str(problem)
        assert len(line.splitlines()) == 1 and problem.where and problem.mend, repr(line)
    for clip in found.clips:
        assert clip.sounds and clip.target.strip() and clip.place, clip
    return not found.problems and all(map(can_be_heard, found.clips[:HEARD]))


def can_be_heard(clip: Clip) -> bool:
    """Whether its recordings open; where they do not, that is told."""
    try:
        for sound in clip.sounds:
            with listen(sound):
                pass
    except ClipError as error:
        line = str(Problem.of(error, clip.place))
        assert len(line.splitlines()) == 1 and error.mend, repr(line)
        return False
    return True
