"""Which recordings of noise a document mixes in: those below the folder it names, in order."""

import os
from dataclasses import dataclass
from pathlib import Path

from dlm.clips.audio import listen
from dlm.clips.clip import Sound
from dlm.clips.origin import located
from dlm.clips.walk import is_audio, walk
from dlm.document.augment import SYNTHETIC
from dlm.document.document import Document
from dlm.errors import ClipError


@dataclass(frozen=True)
class Noise:
    """A recording of noise by its name in the folder, how long it lasts, and its own rate."""

    name: str
    sound: Sound
    seconds: float
    rate: int


def noises(document: Document) -> tuple[Noise, ...]:
    """The recordings of noise, each looked at; none where noise is made up or not wanted.

    Raises ClipError for a folder without any, one out of bounds, and for what is no sound.
    """
    asked = document.settings.training
    written = asked.audio.augment.noise
    if written is None or written == SYNTHETIC or not asked.audio.augment.on:
        return ()
    folder = located(document, written)
    if not folder.exists():
        mend = "make the folder, mend its path, or write noise: synthetic"
        raise ClipError(f"noise not found: {written}", mend=mend)
    files = [path for path in walk(folder).files if is_audio(path)]
    if not files:
        mend = "put recordings of noise there, or write noise: synthetic"
        raise ClipError(f"no recordings of noise in {written}", mend=mend)
    if asked.sources_policy == "strict":
        _check_inside((folder, *files), document.folder, written)
    return tuple(_noise(path, folder, written) for path in files)


def _check_inside(paths: tuple[Path, ...], home: Path, written: str) -> None:
    """Refuse a folder outside the document's, and a link that leads there."""
    real = os.path.realpath(home)
    if not all(Path(os.path.realpath(path)).is_relative_to(real) for path in paths):
        what = f"{written} lies outside the document's folder, and sources_policy is strict"
        raise ClipError(what, mend="move it inside, or set `sources_policy: permissive`")


def _noise(path: Path, folder: Path, written: str) -> Noise:
    name = path.relative_to(folder).as_posix() if path != folder else path.name
    sound = Sound(path, written=str(Path(written, name)) if path != folder else written)
    with listen(sound) as span:
        return Noise(name, sound, span.header.seconds, span.header.rate)
