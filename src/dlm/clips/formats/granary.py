"""Granary and its like: rows of text that come without sound, joined with the recordings here.

    {"utt_id": "20190117-PLENARY-7", "text": "...", "duration": 9.1, "audio_filepath": "de/..."}

The recordings lie where the source says, or beside the list, in any folders. A row's recording is
the one at its audio_filepath, or else the one of that name, or of the name that one of its columns
of names has (audio, path, file, utt or id in it). A row without one is skipped and counted.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from dlm.clips.clip import Sound
from dlm.clips.formats.columns import TEXTS
from dlm.clips.formats.conversations import FORMS
from dlm.clips.formats.listed import given, one_shard, take_id
from dlm.clips.formats.manifest import KNOWN, recordings_of
from dlm.clips.formats.nemo import clip_of
from dlm.clips.formats.rows import LISTS, Fields, first_row, name_of, suffix_of, text_of
from dlm.clips.origin import Given, Ids, Origin, Shard, Skipped
from dlm.clips.walk import is_audio, walk
from dlm.errors import ClipError

FIRST = "audio_filepath"
NAMES = re.compile("audio|path|file|utt|^id$|_id$", re.IGNORECASE)  # columns with a name
OTHERS = re.compile("source|speaker|text|shard|lang|duration|format", re.IGNORECASE)  # of others
SOUND = {*KNOWN["audio"], *FORMS} - {FIRST}
SHOWN = 8  # columns in a message


def granary(origin: Origin) -> list[Shard]:
    """One shard, in the order of its rows."""
    return one_shard(origin, _rows)


def is_granary(root: Path) -> bool:
    """A list in JSON whose rows have a text and a name, and no recording."""
    if suffix_of(root) not in LISTS or not root.is_file():
        return False
    row = first_row(root)
    return bool(_names(row) and SOUND.isdisjoint(row) and not row.keys().isdisjoint(TEXTS))


@dataclass(frozen=True)
class _Recordings:
    """What lies below a folder, by path and by name."""

    folder: Path
    paths: frozenset[str]
    by_stem: dict[str, list[str]]

    @classmethod
    def below(cls, folder: Path) -> "_Recordings":
        files = [path for path in walk(folder).files if is_audio(path)]
        paths = [path.relative_to(folder).as_posix() for path in files]
        by_stem: dict[str, list[str]] = {}
        for path in paths:
            by_stem.setdefault(PurePosixPath(path).stem, []).append(path)
        return cls(folder, frozenset(paths), by_stem)

    def of(self, name: str) -> str | None:
        """The recording at a path, or else of that name. Raises ClipError where there are two."""
        if name in self.paths:
            return name
        path = Path(name)
        found = self.by_stem.get(path.stem if is_audio(path) else path.name, [])
        if len(found) > 1:
            what = f"{found[0]} and {found[1]} have the name of its recording"
            raise ClipError(what, mend="rename one, or write its path as audio_filepath")
        return found[0] if found else None


def _rows(origin: Origin) -> Iterator[Given]:
    recordings = _Recordings.below(recordings_of(origin))
    return given(origin, partial(_given, origin, recordings, Ids()))


def _given(
    origin: Origin, recordings: _Recordings, ids: Ids, row: Fields, place: str
) -> Iterator[Given]:
    said = origin.source.columns.get("audio")
    names = [name for key in ([said] if said else _names(row)) if (name := _name(row, key))]
    if not names:
        seen = ", ".join(map(name_of, list(row)[:SHOWN])) or "nothing"
        what = f"nothing in it names a recording: it has {seen}"
        raise ClipError(what, mend="say which column does with columns: {audio: ...}")
    take_id(ids, row, "utt_id" if "utt_id" in row else "id")
    found = next((path for name in names if (path := recordings.of(name))), None)
    if found is None:
        yield Skipped(names[0], "no recording")
        return
    yield clip_of(origin, row, Sound(recordings.folder / found, written=found), place)


def _names(row: Fields) -> list[str]:
    """The columns of a row that may name its recording, the likeliest first."""
    found = [key for key in row if NAMES.search(key) and not OTHERS.search(key)]
    return sorted(found, key=lambda key: key != FIRST)


def _name(row: Fields, key: str) -> str | None:
    """What a column names; a number is a name where it is an id."""
    value = row.get(key)
    if isinstance(value, int) and key.endswith("id"):
        return str(value)
    return text_of(row, key) if isinstance(value, str) else None
