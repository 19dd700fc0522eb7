"""A folder of recordings, each with what is said in it beside it, or one recording.

corpus/a.wav  + corpus/a.txt    a clip: what is said in a.wav stands in a.txt
corpus/b.mp3  + corpus/b.srt    a clip for each cue; .vtt does as well (cues.py)
corpus/c.flac                   no transcript: skipped, counted and said
corpus/notes.md                 not audio: skipped and counted

Where a recording has subtitles and a .txt, the .txt is read only if there are no cues.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from dlm.clips.clip import Problem, Sound
from dlm.clips.formats.cues import cues
from dlm.clips.origin import EMPTY_TRANSCRIPT, Given, Origin, Shard, Skipped
from dlm.clips.walk import FOREIGN_SUFFIXES, is_audio, walk
from dlm.errors import ClipError

SUBTITLES = (".srt", ".vtt")
SIDECARS = (*SUBTITLES, ".txt")
OVERLAP_SECONDS = 0.1  # of two cues: what is cut a little late is no matter

Sidecars = dict[str, Path]  # what lies beside a recording, by its suffix


def folder(origin: Origin) -> list[Shard]:
    """All of it is one shard, in the order of the paths."""
    return [Shard.of(origin.name, lambda: _rows(origin))]


def is_folder(root: Path) -> bool:
    """A folder, or one recording."""
    return root.is_dir() or is_audio(root)


def _rows(origin: Origin) -> Iterator[Given]:
    found = walk(origin.root)
    for closed in found.closed:
        mend = "allow it to be read, or exclude it"
        what = "the folder cannot be listed"
        yield Problem(origin.named(closed), what, mend, fatal=False)
    beside = _beside(found.files)
    heard = {_stem(file) for file in found.files if is_audio(file)}
    for file in found.files:
        if is_audio(file):
            yield from _clips(origin, file, beside.get(_stem(file), {}))
        elif file.suffix.lower() not in SIDECARS or _stem(file) not in heard:
            foreign = file.suffix.lower() in FOREIGN_SUFFIXES
            yield Skipped(origin.named(file), "not read" if foreign else "not audio")


def _beside(files: tuple[Path, ...]) -> dict[str, Sidecars]:
    """Every sidecar, by the stem of its path."""
    if len(files) == 1:  # it may be the source itself
        named = (files[0].with_suffix(each) for low in SIDECARS for each in (low.upper(), low))
        files = tuple(each for each in named if os.path.lexists(each))
    beside: dict[str, Sidecars] = {}
    for file in files:
        if (suffix := file.suffix.lower()) in SIDECARS:
            beside.setdefault(_stem(file), {})[suffix] = file
    return beside


def _clips(origin: Origin, file: Path, sidecars: Sidecars) -> Iterator[Given]:
    """One audio file becomes clips, a skip or a problem."""
    name = origin.named(file)
    below = file.name if file == origin.root else file.relative_to(origin.root).as_posix()
    subtitle = next((sidecars[suffix] for suffix in SUBTITLES if suffix in sidecars), None)
    if not origin.means(below):
        yield Skipped(name, "excluded")
    elif not sidecars:
        yield Skipped(name, "no transcript")
    elif subtitle is not None:
        yield from _by_cue(origin, Sound(file, written=name), subtitle, sidecars.get(".txt"))
    else:
        yield _whole(origin, Sound(file, written=name), sidecars[".txt"])


def _whole(origin: Origin, sound: Sound, sidecar: Path) -> Given:
    """The recording, with the words of its sidecar."""
    try:
        text = _words(sidecar).strip()
        if not text:
            mend = "write what is said, or remove the file to skip it"
            raise ClipError(EMPTY_TRANSCRIPT, mend=mend)
        return origin.clip(sound, text, sound.name)
    except ClipError as error:
        return Problem.of(error, _named_beside(sound, sidecar))


def _by_cue(origin: Origin, whole: Sound, sidecar: Path, text: Path | None) -> Iterator[Given]:
    """A clip for each cue; all of the recording with its .txt where there are none."""
    name, until, none = _named_beside(whole, sidecar), 0.0, True
    try:
        for line, cue in cues(_words(sidecar)):
            place, none = f"{name}:{line}", False
            if isinstance(cue, ClipError):
                yield Problem.of(cue, place)
                continue
            if not cue.text:
                yield Problem(place, "the cue says nothing", "take it out", fatal=False)
                continue
            if cue.start < until - OVERLAP_SECONDS:
                what = f"the cue begins {until - cue.start:.1f} s before the last one ends"
                yield Problem(place, what, "check its times", fatal=False)
            until = max(until, cue.end)
            sound = Sound(whole.path, cue.start, cue.end, written=whole.name)
            yield origin.clip(sound, cue.text, place, speaker=cue.speaker)
        if none and text is not None:
            yield _whole(origin, whole, text)
        elif none:
            raise ClipError("no cues", mend="write what is said when, or remove the file")
    except ClipError as error:
        yield Problem.of(error, name)


def _stem(file: Path) -> str:
    return str(file).rpartition(".")[0]


def _named_beside(sound: Sound, sidecar: Path) -> str:
    return Path(sound.name).with_name(sidecar.name).as_posix()


def _words(sidecar: Path) -> str:
    """All that a sidecar holds."""
    try:
        if not sidecar.is_file():
            raise ClipError("the transcript is not a regular file", mend="write it in a text file")
        return sidecar.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        what = f"the transcript is not UTF-8 (byte {error.start + 1})"
        mend = "save it as UTF-8: `iconv -f latin1 -t utf-8 in.txt > out.txt`"
        raise ClipError(what, mend=mend) from error
    except OSError as error:
        mend = "allow it to be read"
        raise ClipError("the transcript cannot be read", mend=mend) from error
