"""What the sections of a document teach: each becomes clips, or a problem with its line.

audio          transcribe: its sound, then its transcript
instruction    straight after audio: answer, one clip for each question about that sound
               elsewhere: text
conversation   answer if anything is heard in it, else text
prose          text: one assistant turn
"""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from dlm.clips.clip import Clip, Part, Problem, Sound, Task, Turn
from dlm.clips.origin import EMPTY_TRANSCRIPT, located
from dlm.document.document import Document, Section
from dlm.errors import ClipError


def clips_in(document: Document) -> Iterator[Clip | Problem]:
    """The clips of every section, in order, and what is wrong with those that give none."""
    for before, section in pairwise((None, *document.sections)):
        if section is None:
            continue
        try:
            yield from _clips_of(document, section, before)
        except ClipError as error:
            yield Problem.of(error, place_of(document, section.line))


def place_of(document: Document, line: int) -> str:
    """A line of the document, for messages."""
    return f"{document.path.name}:{line}"


def opening(document: Document) -> tuple[Turn, ...]:
    """The system turn, if the document has one."""
    prompt = document.settings.system_prompt
    return (Turn("system", (prompt,)),) if prompt and prompt.strip() else ()


def transcription(
    document: Document, sound: Sound, transcript: str, *, prompt: str | None
) -> tuple[Turn, ...]:
    """The turns of a sound and its transcript. Without a prompt the base puts its own later."""
    asked: tuple[Part, ...] = (sound, prompt) if prompt and prompt.strip() else (sound,)
    return (*opening(document), Turn("user", asked), Turn("assistant", (transcript,)))


def check_end(turns: tuple[Turn, ...]) -> None:
    """Refuse a conversation in which nothing is left to learn at its end."""
    if not turns or turns[-1].role != "assistant" or not turns[-1].text.strip():
        what = "the conversation does not end with words of the assistant"
        raise ClipError(what, mend="add the assistant turn that is to be learned")


def _clips_of(document: Document, section: Section, before: Section | None) -> Iterator[Clip]:
    match section.kind:
        case "audio":
            yield _transcribe(document, section)
        case "instruction":
            heard = before if before is not None and before.kind == "audio" else None
            yield from _answers(document, section, heard)
        case "conversation":
            yield _conversation(document, section)
        case "prose" if section.text.strip():
            spoken = Turn("assistant", (section.text.strip(),))
            yield Clip((spoken,), place_of(document, section.line), "text")


def _transcribe(document: Document, section: Section) -> Clip:
    sound, attributes = _sound(document, section), section.attributes
    transcript = attributes.get("transcript", "").strip()
    if not transcript:
        raise ClipError(EMPTY_TRANSCRIPT, mend=f"write what is said in {sound.name}")
    turns = transcription(document, sound, transcript, prompt=attributes.get("prompt"))
    place = place_of(document, section.line)
    return Clip(turns, place, "transcribe", attributes.get("language"))


def _answers(document: Document, section: Section, heard: Section | None) -> Iterator[Clip]:
    """One clip for each question, about the sound of the section before if that is audio."""
    sounds = () if heard is None else (_sound(document, heard),)
    language = None if heard is None else heard.attributes.get("language")
    for pair in section.pairs:
        asked = Turn("user", (*sounds, pair.question))
        turns = (*opening(document), asked, Turn("assistant", (pair.answer,)))
        task: Task = "answer" if sounds else "text"
        yield Clip(turns, place_of(document, pair.line), task, language)


def _conversation(document: Document, section: Section) -> Clip:
    turns = tuple(
        Turn(written.role, tuple(_part(document, part) for part in written.parts))
        for written in section.turns
    )
    check_end(turns)
    if turns[0].role != "system":
        turns = (*opening(document), *turns)
    clip = Clip(turns, place_of(document, section.line), "answer")
    return clip if clip.sounds else Clip(turns, clip.place, "text")


def _part(document: Document, part: str | Path) -> Part:
    return part if isinstance(part, str) else Sound(located(document, part), written=str(part))


def _sound(document: Document, section: Section) -> Sound:
    """The sound an audio section names."""
    written = section.attributes.get("path", "")
    if not written.strip():
        raise ClipError("AUDIO section has no path", mend='write path="clips/your-clip.wav"')
    start, end = (_seconds(section, name) for name in ("start", "end"))
    return Sound(located(document, written), start, end, written)


def _seconds(section: Section, name: str) -> float | None:
    written = section.attributes.get(name)
    try:
        return None if written is None else float(written)
    except ValueError as error:
        what = f'{name}="{written}" is not a number of seconds'
        raise ClipError(what, mend=f'write {name}="1.5"') from error
