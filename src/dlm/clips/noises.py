"""Which recordings of noise a document mixes in: those below the folder it names, in order."""

from dataclasses import dataclass
from pathlib import Path

from dlm.clips.audio import listen
from dlm.clips.clip import Sound
from dlm.clips.origin import located
from dlm.clips.walk import escape, is_audio, lies_in, walk
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
    home = document.folder if asked.sources_policy == "strict" else None
    if home and not all(lies_in(home, path) for path in (folder, *files)):
        raise escape(written)
    return tuple(_noise(path, folder, written) for path in files)


def _noise(path: Path, folder: Path, written: str) -> Noise:
    name = path.relative_to(folder).as_posix() if path != folder else path.name
    sound = Sound(path, written=str(Path(written, name)) if path != folder else written)
    with listen(sound) as span:
        return Noise(name, sound, span.header.seconds, span.header.rate)
