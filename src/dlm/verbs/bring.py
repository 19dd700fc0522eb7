"""import, export-data: clips brought into a document, and handed on as a folder of data."""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from dlm.clips.clip import Clip, Problem, Sound
from dlm.errors import ClipError, StoreError, UsageError
from dlm.verbs.make import NewFolder, insist_on_room
from dlm.verbs.say import DocumentPath, Progress, Say, within

if TYPE_CHECKING:
    from dlm.clips.handed import Handed
    from dlm.clips.preview import Preview
    from dlm.document.document import Document
    from dlm.document.sources import Source
    from dlm.document.splice import Entry, Value

HUB = "hf:"
PARTS = ("all", "learn", "held-out")

SourceName = Annotated[
    str, Say("A folder, a list, an archive, or hf:org/name of the Hub.", value="SOURCE")
]
Into = Annotated[Path, Say("The document to write it into.", value="DOCUMENT")]
FormatName = Annotated[
    str | None, Say("How the clips are kept; found out by looking when not said.")
]
Split = Annotated[str | None, Say("The part to take, such as train.")]
Language = Annotated[str | None, Say("Language spoken in the clips, such as fr.")]
Task = Annotated[str | None, Say("What its clips are for.", value="transcribe|answer")]
Prompt = Annotated[str | None, Say("What the model is asked about each clip.")]
Renamed = Annotated[
    tuple[str, ...],
    Say("What it calls a column of ours: text=sentence; say it again.", value="OURS=THEIRS"),
]
Recordings = Annotated[
    Path | None, Say("Folder of the recordings, where they lie elsewhere.", value="DIR")
]
Included = Annotated[tuple[str, ...], Say("Take files like this, such as **/*.wav; say it again.")]
Excluded = Annotated[tuple[str, ...], Say("Leave files like this out; say it again.")]
MaxFiles = Annotated[int | None, Say("Take at most so many clips.")]
Weight = Annotated[float | None, Say("How often its clips come in a pass.")]
Streamed = Annotated[bool, Say("Read it row by row as it is learned.")]
Inline = Annotated[bool, Say("Write its clips out as sections, in place of an entry.")]
Yes = Annotated[bool, Say("Write without asking.", ("--yes", "-y"))]
FormOfData = Annotated[str, Say("How the data is kept.", value="audiofolder|jsonl|webdataset")]
Part = Annotated[str, Say("Which clips.", value="all|learn|held-out")]


@dataclass(frozen=True)
class Import:
    """What a source gives, and the document as it would be with it."""

    path: Path
    entry: "Entry"  # as the document would write it
    preview: "Preview"
    inline: bool
    before: bytes = field(repr=False)  # the document
    after: bytes = field(default=b"", repr=False)
    added: int = 0  # clips that the document gains
    refused: tuple[Problem, ...] = ()  # why a clip can be no section
    written: bool = False

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Everything that is wrong with the source or its clips."""
        return self.preview.problems + self.refused

    @property
    def text(self) -> str:
        """The entry in a line, as YAML."""
        from dlm.document.splice import written

        return written(self.entry)

    def write(self) -> None:
        """Write the document. Raises StoreError where it is no longer the one looked at."""
        from dlm.files import write_atomic

        where = str(self.path)
        if not self.added:
            what = f"{self.preview.source.path} gives no clip"
            raise ClipError(what, where=where, mend="mend it, or name another source")
        if self.path.read_bytes() != self.before:
            raise StoreError("changed meanwhile", where=where, mend="import it again")
        write_atomic(self.path.resolve(), self.after)


def import_source(
    source: SourceName,
    *,
    into: Into,
    format: FormatName = None,
    split: Split = None,
    language: Language = None,
    task: Task = None,
    prompt: Prompt = None,
    column: Renamed = (),
    audio: Recordings = None,
    include: Included = (),
    exclude: Excluded = (),
    max_files: MaxFiles = None,
    weight: Weight = None,
    stream: Streamed = False,
    inline: Inline = False,
    yes: Yes = False,
    progress: Progress | None = None,
) -> Import:
    """Look at what a source gives, and write it into a document."""
    from dlm.clips.preview import look_over
    from dlm.document.parse import read

    within("--max-files", max_files, least=1)
    if inline and stream:
        mend = "leave one of them out"
        raise UsageError("--inline and --stream exclude each other", mend=mend)
    document, before = read(into), into.read_bytes()
    said: dict[str, Value] = {
        "path": source if source.startswith(HUB) else _seen_from(document, Path(source)),
        "format": format,
        "split": split,
        "language": language,
        "task": task,
        "prompt": prompt,
        "columns": _columns(column),
        "audio": _seen_from(document, audio) if audio else None,
        "include": include,
        "exclude": exclude,
        "max_files": max_files,
        "weight": weight,
        "stream": stream,
    }
    entry = {name: value for name, value in said.items() if value or isinstance(value, float)}
    asked = _source(entry)
    if not inline:
        _refuse_again(document, asked)
    preview = look_over(document, asked, progress=progress)
    found = Import(into, entry, preview, inline=inline, before=before)
    found = _with_sections(found, document) if inline else _with_entry(found)
    if yes and found.added:
        found.write()
        return replace(found, written=True)
    return found


def export_data(
    path: DocumentPath,
    folder: NewFolder,
    *,
    form: FormOfData = "jsonl",
    part: Part = "all",
    progress: Progress | None = None,
) -> "Handed":
    """Write the document's clips as a folder of data: recordings, and what is said in them."""
    from dlm.clips.handed import FORMS, hand_on
    from dlm.store.folders import replace_folder

    kind = next((each for each in FORMS if each == form), None)
    if kind is None:
        raise UsageError(f"--form is '{form}'", mend=f"choose one of {', '.join(FORMS)}")
    if part not in PARTS:
        raise UsageError(f"--part is '{part}'", mend=f"choose one of {', '.join(PARTS)}")
    insist_on_room(folder)
    clips, unusable = _part(path, part)
    written: list[Handed] = []
    replace_folder(
        folder.absolute(),
        lambda new: written.append(hand_on(new, clips, kind, progress=progress)),
    )
    return replace(written[0], path=folder, unusable=unusable)


def _seen_from(document: "Document", path: Path) -> str:
    from dlm.document.edit import path_from

    return path_from(document.folder, path.expanduser())


def _columns(said: tuple[str, ...]) -> dict[str, str]:
    """What `--column` said, by our names."""
    columns: dict[str, str] = {}
    for each in said:
        ours, _, theirs = each.partition("=")
        if not ours or not theirs:
            mend = "write it as --column text=sentence"
            raise UsageError(f"'{each}' names no column", where="--column", mend=mend)
        columns[ours] = theirs
    return columns


def _source(given: "Entry") -> "Source":
    """The entry as a document reads it. Raises UsageError for a value that cannot be."""
    from pydantic import ValidationError

    from dlm.document.frontmatter import describe
    from dlm.document.sources import Source

    try:
        return Source.model_validate(given)
    except ValidationError as error:
        mistake = error.errors()[0]
        name = str(mistake["loc"][0]).replace("_", "-")
        flag = "SOURCE" if name == "path" else f"--{name}"
        what, mend = describe(mistake)
        raise UsageError(what, where=flag, mend=mend) from error


def _refuse_again(document: "Document", asked: "Source") -> None:
    """Refuse a source that the document names already."""
    from dlm.clips.origin import located

    there = {
        (os.path.realpath(located(document, each.path)), each.split)
        for each in document.settings.training.sources
    }
    if (os.path.realpath(located(document, asked.path)), asked.split) in there:
        what = f"{asked.path} is a source of it already"
        mend = "change its entry in the document, or name another"
        raise UsageError(what, where=str(document.path), mend=mend)


def _with_entry(found: Import) -> Import:
    """What is to be written: one more entry."""
    from dlm.document.edit import add_source

    added = len(found.preview.clips)
    return replace(found, after=add_source(found.before, found.entry), added=added)


def _with_sections(found: Import, document: "Document") -> Import:
    """What is to be written: a section for each clip that one can hold."""
    from dlm.clips.inline import section_of
    from dlm.document.edit import append_section

    sections: list[str] = []
    refused: list[Problem] = []
    _refuse_same(document, found.preview.clips)
    for clip in found.preview.clips:
        try:
            sections.append(section_of(clip, document))
        except ClipError as error:
            refused.append(Problem.of(error, clip.place))
    after = append_section(found.before, "\n\n".join(sections)) if sections else found.before
    return replace(found, after=after, added=len(sections), refused=tuple(refused))


def _refuse_same(document: "Document", clips: tuple[Clip, ...]) -> None:
    """Refuse a recording that has a section already."""
    from dlm.clips.sections import clips_in

    own = [clip for clip in clips_in(document) if isinstance(clip, Clip)]
    there = {_heard(sound) for clip in own for sound in clip.sounds}
    again = [each for clip in clips for each in clip.sounds if _heard(each) in there]
    if again:
        what = f"{again[0].name} has a section of it already"
        mend = "take that out first, or name another source"
        raise UsageError(what, where=str(document.path), mend=mend)


def _heard(sound: Sound) -> tuple[str, float | None, float | None]:
    return os.path.realpath(sound.path), sound.start, sound.end


def _part(path: Path, part: str) -> tuple[list[Clip], int]:
    """The clips of a part that can be used, as their sources have them, and how many cannot."""
    from dlm.clips.inline import own_turns
    from dlm.clips.preview import lasting
    from dlm.clips.sources import SAMPLE, gather
    from dlm.clips.split import sides
    from dlm.clips.unusable import skips
    from dlm.document.parse import read

    document = read(path)
    gathered, asked = gather(document), document.settings.training
    if asked.streamed and part != "held-out":
        what = f"only the first {SAMPLE} clips of each source would be written: it streams"
        raise UsageError(what, where=str(path), mend="take `stream: true` out of its sources")
    skipped = skips(asked, gathered)
    passed = gathered.broken if skipped else ()
    fatal = [each for each in gathered.problems if each.fatal and each not in passed]
    if fatal:
        more = f" (and {len(fatal) - 1} more: dlm check {path})" if fatal[1:] else ""
        raise ClipError(fatal[0].what, where=fatal[0].where, mend=fatal[0].mend + more)
    learn, held_out = sides(gathered, asked)
    chosen = {"all": gathered.clips, "learn": learn, "held-out": held_out}[part]
    usable: list[Clip] = []
    for clip in chosen:
        try:
            lasting(clip)
        except ClipError:
            if not skipped:
                raise
            continue
        usable.append(replace(clip, turns=own_turns(clip, document)))
    if not any(clip.sounds for clip in usable):
        mend = "take --part all, or add clips to the document"
        raise ClipError("no clip with sound in this part", where=str(path), mend=mend)
    return usable, len(chosen) - len(usable)
