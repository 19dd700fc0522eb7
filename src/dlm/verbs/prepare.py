"""The walk that check, train and eval share: document, clips, audit, split, plan."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlm.clips.audit import Audit, audit
from dlm.clips.chosen import chosen
from dlm.clips.clip import Clip, Problem
from dlm.clips.haul import SourceReport
from dlm.clips.leaks import leaks
from dlm.clips.sources import Gathered, gather
from dlm.clips.split import sides
from dlm.clips.spoken import with_transcripts, without_transcript
from dlm.clips.unusable import Sifted, sift, skips
from dlm.clips.weights import in_a_pass, shares
from dlm.document.document import Document
from dlm.document.override import overridden
from dlm.document.parse import read
from dlm.document.settings import Training
from dlm.errors import ClipError, PlanError, StoreError
from dlm.plan.bases import Base
from dlm.plan.changes import played
from dlm.plan.draw import check_disk, draw_up
from dlm.plan.frames import tokens
from dlm.plan.hardware import Machine, survey
from dlm.plan.memory import size
from dlm.plan.plan import LONG_ROW, Line, Plan, Wishes
from dlm.plan.resolve import resolve
from dlm.plan.rows import row_of
from dlm.plan.stages import in_stages
from dlm.store.facts import Version
from dlm.store.layout import BLOB_BYTES, home
from dlm.store.versions import open_store
from dlm.verbs.streamed import aloud, refusals

if TYPE_CHECKING:
    from dlm.batches.show import ShownRow
    from dlm.use.dictation import Dictation


@dataclass(frozen=True)
class Prepared:
    """All that can be known before any weights are loaded."""

    document: Document
    base: Base
    audit: Audit
    sources: tuple[SourceReport, ...]
    problems: tuple[Problem, ...]  # every one, the audit's among them
    left_out: tuple[Problem, ...]  # what is wrong with the clips that are left out
    learn: tuple[Clip, ...]
    held_out: tuple[Clip, ...]
    plan: Plan | None  # None where there is nothing to learn from, or it does not fit
    overrides: Mapping[str, Any] = field(default_factory=dict)  # what was asked over the document
    row: "ShownRow | None" = None  # one row as it is learned, where that was asked for
    dictation: "Dictation | None" = None  # what a model hears in the clips, where that was asked
    page: Path | None = None  # that shows all this, where that was asked for
    copied: bool = True  # the recordings, into the store

    @property
    def fatal(self) -> tuple[Problem, ...]:
        """What training would fail on."""
        return tuple(problem for problem in self.problems if problem.fatal)

    def insist(self) -> Plan:
        """The plan, or ClipError for the first thing that training would fail on."""
        if not self.fatal and self.plan:
            return self.plan
        first = self.fatal[0]
        more = len(self.fatal) - 1
        others = f" (and {more} more: dlm check {self.document.path})" if more else ""
        raise ClipError(first.what, where=first.where, mend=first.mend + others)


def prepare(
    path: Path,
    *,
    wishes: Wishes | None = None,
    overrides: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
    machine: Machine | None = None,
    full: bool = False,
) -> Prepared:
    """Look at everything that can be known without weights, on this machine or on another.

    With `full` every sound is decoded, however many there are.
    """
    document, base = opened(path, overrides)
    gathered, asked = gather(document), document.settings.training
    heard = audit(
        gathered,
        rate=base.strides.rate,
        window_seconds=base.strides.window_seconds,
        taken_in=asked.audio,
        progress=progress,
        full=full,
    )
    learn, held_out = sides(gathered, asked, heard.facts.contents)
    apart = tuple(_apart(document, len(gathered.clips), learn=len(learn), held=len(held_out)))
    learn = learn[: asked.train_count]
    if asked.teacher.weight:
        learn = with_transcripts(learn, gathered.clips)
    told = (
        *heard.problems,
        *leaks(learn, held_out, heard.facts),
        *_rows(base, asked, learn, heard),
        *apart,
        *(refusals(asked, document.path.name) if asked.streamed else ()),
    )
    sifted = sift(asked, gathered, told, sounds=heard.unusable, where=document.path.name)
    learn, held_out = sifted.usable(learn), sifted.usable(held_out)
    machine, copies = machine or survey(home()), 0 if asked.streamed else recorded_bytes(learn)
    written = copies if copies <= BLOB_BYTES else 0
    plan, problems = _plan(
        document, base, heard, learn, machine=machine, wishes=wishes, copies=written
    )
    if plan:
        batches = replace(plan.batches, skips=skips(asked, gathered))
        about = aloud(asked, len(learn) + len(held_out)) if asked.streamed else _weights(learn)
        lines = (*about, *copies_aloud(copies), *_over(overrides or {}))
        plan = replace(plan, batches=batches, lines=(*plan.lines, *lines))
    return Prepared(
        document=document,
        base=base,
        audit=heard,
        sources=gathered.sources,
        problems=(*sifted.problems, *problems),
        left_out=sifted.left_out,
        learn=learn,
        held_out=held_out,
        plan=plan,
        overrides=overrides or {},
        copied=copies <= BLOB_BYTES and not asked.streamed,
    )


def opened(path: Path, overrides: Mapping[str, Any] | None = None) -> tuple[Document, Base]:
    """The document, with what is asked over it, and the base it names."""
    document = overridden(read(path), overrides or {})
    return document, resolve(document.settings.base_model, document.folder)


def usable(
    document: Document, base: Base, gathered: Gathered, clips: Sequence[Clip]
) -> tuple[Clip, ...]:
    """Those of the `clips` gathered that training would use.

    Raises ClipError for what would stop it, short of what is wrong with single clips.
    """
    asked, where = document.settings.training, document.path.name
    told = sift(asked, gathered, gathered.problems, where=where).problems
    first = next((problem for problem in told if problem.fatal), None)
    if first:
        raise ClipError(first.what, where=first.where, mend=first.mend)
    if not skips(asked, gathered):
        return tuple(clips)
    heard = audit(
        replace(gathered, clips=tuple(clips), problems=()),
        rate=base.strides.rate,
        window_seconds=base.strides.window_seconds,
        taken_in=asked.audio,
    )
    return Sifted((), heard.fatal, heard.unusable).usable(clips)


def learned(path: Path, name: str | None, *, otherwise: str = "") -> tuple[Document, Base, Version]:
    """A version, and the document as it was for its training: with what was asked over it."""
    document = read(path)
    store = open_store(document.settings.dlm_id)
    version = store.find(name) if name else store.current()
    document = overridden(document, version.overrides if version else {})
    base = resolve(document.settings.base_model, document.folder)
    if version is None:
        mend = f"run `dlm train {path}`{otherwise}"
        raise StoreError("nothing was learned yet", where=str(path), mend=mend)
    return document, base, version


def _rows(base: Base, asked: Training, clips: tuple[Clip, ...], heard: Audit) -> Iterator[Problem]:
    """Clips that no row can be made of, as far as that is known without a tokenizer."""
    if asked.teacher.weight:
        yield from without_transcript(clips)
    lasting = heard.facts.lasting()
    most, slowest = asked.audio.most_windows, asked.audio.augment.slowest_percent
    for clip in clips:
        if base.placeholder and any(base.placeholder in turn.text for turn in clip.turns):
            what = f"the text holds the special token {base.placeholder}"
            yield Problem(clip.place, what, "write it another way", fatal=True)
        lengths = (round(each * base.strides.rate) for each in lasting.get(clip.place, ()))
        samples = (played(each, slowest, base.strides.window) for each in lengths)
        count = sum(tokens(each, base.strides, most) for each in samples)
        what = f"its sound takes {count} tokens, and "
        if count > base.context:
            what += f"{base.key} thinks of {base.context} at once"
            yield Problem(clip.place, what, "cut the clip with start= and end=", fatal=True)
        elif count > asked.sequence_len:
            what += f"training.sequence_len is {asked.sequence_len}"
            yield Problem(clip.place, what, LONG_ROW, fatal=True)


def _plan(
    document: Document,
    base: Base,
    heard: Audit,
    clips: tuple[Clip, ...],
    *,
    machine: Machine,
    wishes: Wishes | None,
    copies: int,
) -> tuple[Plan | None, tuple[Problem, ...]]:
    where, lasting = str(document.path), heard.facts.lasting()
    asked = document.settings.training
    slowest = asked.audio.augment.slowest_percent
    row = row_of(base, asked.sequence_len, clips, lasting, slowest_percent=slowest)
    try:
        plan = draw_up(document, base, _passing(clips), machine, wishes=wishes, row=row)
        counts = [_passing(chosen(clips, stage.clips)) for stage in asked.stages]
        plan = in_stages(plan, asked, counts, wishes or Wishes())
        check_disk(plan, copies, machine)
    except PlanError as error:
        return None, (Problem(error.where or where, error.what, error.mend or "", True),)
    return (plan, ()) if clips else (None, ())


def _passing(clips: Iterable[Clip]) -> int:
    """How many clips come in a pass."""
    return in_a_pass(clip.weight for clip in clips)


def _apart(document: Document, clips: int, *, learn: int, held: int) -> Iterator[Problem]:
    """What is in neither part, as it belongs to a source that is held out; or that all of it is."""
    count = clips - learn - held
    if held and not learn:
        mend = "add a source to learn from, or hold out another"
        yield Problem(document.path.name, "every clip is held out", mend, fatal=True)
    elif count:
        by = document.settings.training.split_by
        what = f"{count:,} clip{'s share' if count > 1 else ' shares'} a {by} with the source that "
        what += f"is held out, and {'are' if count > 1 else 'is'} not learned from"
        yield Problem(document.path.name, what, "nothing to do if that is meant", fatal=False)


def _weights(clips: tuple[Clip, ...]) -> Iterator[Line]:
    """How often clips come in a pass, where that is not once."""
    found = shares(clip.weight for clip in clips)
    if any(weight != 1 for weight, _, _ in found):
        told = (f"{many:,} at {weight:g} come {much:,} times" for weight, many, much in found)
        yield Line("weights", ", ".join(told), "in a pass, by the weight of their source")


def copies_aloud(count: int) -> Iterator[Line]:
    """What the store does not keep."""
    if count > BLOB_BYTES:
        why = f"more than {size(BLOB_BYTES)}: a version names them by their sha256"
        yield Line("recordings", f"{size(count)}, not copied into the store", why)


def _over(overrides: Mapping[str, Any]) -> Iterator[Line]:
    """What is asked over the document."""
    if overrides:
        told = ", ".join(f"{name} = {value}" for name, value in overrides.items())
        yield Line("asked for", told, "over the document")


def recorded_bytes(clips: Iterable[Clip]) -> int:
    """Bytes of the recordings, each counted once; those that are not there count nothing."""
    found, told = 0, set[int]()
    for sound in (sound for clip in clips for sound in clip.sounds):
        key = hash(sound.recording)
        if key not in told:
            told.add(key)
            found += sound.inside[1] if sound.inside else _size(sound.path)
    return found


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
