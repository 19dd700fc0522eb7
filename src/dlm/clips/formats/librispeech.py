"""The tree of LibriSpeech, and of what is laid out as it is.

    LibriSpeech/
    ├── train-clean-100/                          a subset: `split` names one, or train for all
    │   └── 84/121123/                            speaker, chapter
    │       ├── 84-121123.trans.txt               84-121123-0000 GO DO YOU HEAR
    │       └── 84-121123-0000.flac
    └── test-clean/                               for tests: models are compared on it

A line of a .trans.txt without a recording beside it, and the reverse, are skipped and counted.
"""

from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from dlm.clips.benchmarks import test_of
from dlm.clips.clip import Problem, Sound
from dlm.clips.formats.parts import part_of, parted
from dlm.clips.origin import Given, Ids, Origin, Shard, Skipped
from dlm.clips.walk import is_audio
from dlm.errors import ClipError

NAME = "LibriSpeech"
TRANSCRIPT = ".trans.txt"


def librispeech(origin: Origin) -> list[Shard]:
    """A shard for each speaker of each subset."""
    shards = {
        subset.name: [
            Shard.of(
                origin.named(speaker),
                partial(_rows, origin, speaker),
                test_of=test_of(NAME, subset.name),
            )
            for speaker in _folders(subset)
        ]
        for subset in _subsets(origin.root)
    }
    return parted(origin, shards)


def is_librispeech(root: Path) -> bool:
    """A folder of subsets, or one subset, with a transcript where they have it."""
    subsets = [subset for subset in _subsets(root) if part_of(subset.name)]
    pattern = f"*/*/*{TRANSCRIPT}"
    return any(next(subset.glob(pattern), None) is not None for subset in subsets)


def _subsets(root: Path) -> list[Path]:
    """The subsets: below the folder, below LibriSpeech in it, or the folder itself."""
    for base in (root, root / NAME):
        with suppress(OSError):
            below = sorted(path for path in base.iterdir() if part_of(path.name))
            if found := [path for path in below if path.is_dir()]:
                return found
    return [root] if root.is_dir() else []


def _folders(root: Path) -> list[Path]:
    """The folders in a folder; none where it cannot be listed."""
    with suppress(OSError):
        return sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] != ".")
    return []


def _rows(origin: Origin, speaker: Path) -> Iterator[Given]:
    for chapter in _folders(speaker):
        try:
            files = sorted(path for path in chapter.iterdir() if path.name[0] != ".")
        except OSError:
            mend = "allow it to be read, or exclude it"
            name = origin.named(chapter)
            yield Problem(name, "the folder cannot be listed", mend, fatal=False)
            continue
        heard = {path.stem: path for path in files if is_audio(path)}
        for transcript in (path for path in files if path.name.endswith(TRANSCRIPT)):
            yield from _chapter(origin, transcript, heard)
        yield from (Skipped(origin.named(path), "no transcript") for path in heard.values())


def _chapter(origin: Origin, transcript: Path, heard: dict[str, Path]) -> Iterator[Given]:
    """What is said in the recordings of a chapter, which are taken out of `heard`."""
    name, ids = origin.named(transcript), Ids()
    try:
        lines = transcript.read_bytes().splitlines() if transcript.is_file() else []
    except OSError:
        yield Problem(name, "it cannot be read", "allow it to be read", fatal=True)
        return
    for number, line in enumerate(lines, start=1):
        if line.strip():
            place = f"{name}:{number}"
            try:
                utterance, words = _words(line)
                ids.take(utterance)
                file = heard.pop(utterance, None)
                if file is None:
                    yield Skipped(utterance, "no recording")
                    continue
                sound = Sound(file, written=origin.named(file))
                yield origin.clip(sound, words, place, speaker=transcript.parent.parent.name)
            except ClipError as error:
                yield Problem.of(error, place)


def _words(line: bytes) -> tuple[str, str]:
    """The name of an utterance, and what is said in it."""
    try:
        words = line.decode("utf-8-sig").split(None, 1)
    except UnicodeDecodeError as error:
        raise ClipError("the line is not UTF-8", mend="save it as UTF-8") from error
    if not words:  # but blanks that are none to bytes
        raise ClipError("the line names no recording", mend="take it out")
    return words[0], "".join(words[1:])
