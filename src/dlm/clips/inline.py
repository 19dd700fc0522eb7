"""A clip as a section of a document: ::audio:: for a transcript, ::conversation:: for the rest.

What is written is read again, and a clip that would not come back as it is, but for its line
breaks and blanks, is refused.
"""

import os
from dataclasses import replace
from pathlib import Path

from dlm.clips.clip import Clip, Part, Sound, Turn
from dlm.clips.sections import clips_in, opening
from dlm.document.document import Document
from dlm.document.edit import audio_fence, conversation, path_from
from dlm.document.parse import parse
from dlm.errors import ClipError, DocumentError

ROUNDING = 6  # decimals of a second that two spans may differ behind
AS_SOURCE = "import the source without --inline"


def section_of(clip: Clip, document: Document) -> str:
    """The text of a section that gives this clip. Raises ClipError where none can."""
    if any(sound.inside for sound in clip.sounds):
        what = "its recording lies in an archive, which no section can name"
        raise ClipError(what, where=clip.place, mend=AS_SOURCE)
    own = own_turns(clip, document)
    plain = clip.task == "transcribe" and is_plain(own)
    try:
        text = _audio(clip, own, document) if plain else _turns(clip, own, document)
        back = _read(text, document)
    except DocumentError as error:
        raise ClipError(error.what, where=clip.place, mend=AS_SOURCE) from error
    if [_gist(each) for each in back] != [_gist(clip)]:
        what = "no section says just what it says"
        raise ClipError(what, where=clip.place, mend=AS_SOURCE)
    return text


def own_turns(clip: Clip, document: Document) -> tuple[Turn, ...]:
    """The turns of a clip, without what the document tells the model before every conversation."""
    told = opening(document)
    return clip.turns[len(told) :] if clip.turns[: len(told)] == told else clip.turns


def is_plain(turns: tuple[Turn, ...]) -> bool:
    """Whether they are a sound, perhaps a question about it, and what is said in it."""
    kinds = [[type(part) for part in turn.parts] for turn in turns]
    return kinds in ([[Sound], [str]], [[Sound, str], [str]])


def _audio(clip: Clip, turns: tuple[Turn, ...], document: Document) -> str:
    (sound,) = clip.sounds
    given: dict[str, str] = {}
    for name, seconds in (("start", sound.start), ("end", sound.end)):
        if seconds is not None:
            given[name] = f"{seconds:.9f}".rstrip("0").rstrip(".")
    if clip.language:
        given["language"] = clip.language
    if asked := turns[0].text:
        given["prompt"] = asked
    return audio_fence(path_from(document.folder, sound.path), turns[-1].text, **given)


def _turns(clip: Clip, turns: tuple[Turn, ...], document: Document) -> str:
    if any(sound.start is not None or sound.end is not None for sound in clip.sounds):
        what = "it hears a span of a recording, which no conversation can name"
        raise ClipError(what, where=clip.place, mend=f"cut the recording, or {AS_SOURCE}")
    folder = document.folder
    return conversation(
        [(turn.role, "".join(_tagged(part, folder) for part in turn.parts)) for turn in turns]
    )


def _tagged(part: Part, folder: Path) -> str:
    return part if isinstance(part, str) else f"<audio>{path_from(folder, part.path)}</audio>"


def _read(text: str, document: Document) -> list[Clip]:
    """The clips of a section, were it in the document."""
    front = f"dlm_id: {document.settings.dlm_id}\nbase_model: any\n"
    written = parse(f"---\n{front}---\n{text}\n", document.path)
    found = list(clips_in(replace(document, sections=written.sections)))
    return [each for each in found if isinstance(each, Clip)]


def _gist(clip: Clip) -> list[object]:
    """What a clip teaches: who says what of which sound."""
    gist: list[object] = [clip.task]
    for turn in clip.turns:
        gist.append(turn.role)
        for part in turn.parts:
            if isinstance(part, Sound):
                span = (
                    None if at is None else round(at, ROUNDING) for at in (part.start, part.end)
                )
                gist.append((os.path.realpath(part.path), *span))
            else:
                gist.append(" ".join(part.split()))
    return gist
