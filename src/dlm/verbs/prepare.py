"""The walk that check, train and eval share: document, clips, audit, split, plan."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlm.clips.audit import Audit, audit
from dlm.clips.chosen import chosen
from dlm.clips.clip import Clip, Problem
from dlm.clips.haul import SourceReport
from dlm.clips.sources import gather
from dlm.clips.split import split
from dlm.clips.spoken import with_transcripts, without_transcript
from dlm.document.document import Document
from dlm.document.override import overridden
from dlm.document.parse import read
from dlm.document.settings import Training
from dlm.errors import ClipError, PlanError, StoreError
from dlm.plan.bases import Base
from dlm.plan.draw import check_disk, draw_up
from dlm.plan.frames import tokens
from dlm.plan.hardware import Machine, survey
from dlm.plan.plan import LONG_ROW, Line, Plan, Wishes
from dlm.plan.resolve import resolve
from dlm.plan.rows import row_of
from dlm.plan.stages import in_stages
from dlm.store.facts import Version
from dlm.store.layout import home
from dlm.store.versions import open_store

if TYPE_CHECKING:
    from dlm.batches.show import ShownRow


@dataclass(frozen=True)
class Prepared:
    """All that can be known before any weights are loaded."""

    document: Document
    base: Base
    audit: Audit
    sources: tuple[SourceReport, ...]
    problems: tuple[Problem, ...]  # every one, the audit's among them
    learn: tuple[Clip, ...]
    held_out: tuple[Clip, ...]
    plan: Plan | None  # None where there is nothing to learn from, or it does not fit
    overrides: Mapping[str, Any] = field(default_factory=dict)  # what was asked over the document
    row: "ShownRow | None" = None  # one row as it is learned, where that was asked for

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
) -> Prepared:
    """Look at everything that can be known without weights, on this machine or on another."""
    document, base = opened(path, overrides)
    gathered = gather(document)
    heard = audit(
        gathered,
        rate=base.strides.rate,
        window_seconds=base.strides.window_seconds,
        taken_in=document.settings.training.audio,
        progress=progress,
    )
    asked = document.settings.training
    learn, held_out = split(gathered.clips, asked.held_out, seed=asked.seed)
    learn = learn[: asked.train_count]
    if asked.teacher.weight:
        learn = with_transcripts(learn, gathered.clips)
    machine = machine or survey(home())
    plan, problems = _plan(document, base, heard, learn, machine=machine, wishes=wishes)
    if plan and overrides:
        told = ", ".join(f"{name} = {value}" for name, value in overrides.items())
        plan = replace(plan, lines=(*plan.lines, Line("asked for", told, "over the document")))
    return Prepared(
        document=document,
        base=base,
        audit=heard,
        sources=gathered.sources,
        problems=(*heard.problems, *_rows(base, asked, learn, heard), *problems),
        learn=learn,
        held_out=held_out,
        plan=plan,
        overrides=overrides or {},
    )


def opened(path: Path, overrides: Mapping[str, Any] | None = None) -> tuple[Document, Base]:
    """The document, with what is asked over it, and the base it names."""
    document = overridden(read(path), overrides or {})
    return document, resolve(document.settings.base_model, document.folder)


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
    lasting = {facts.place: facts.lasting for facts in heard.facts}
    most = asked.audio.most_windows
    for clip in clips:
        if base.placeholder and any(base.placeholder in turn.text for turn in clip.turns):
            what = f"the text holds the special token {base.placeholder}"
            yield Problem(clip.place, what, "write it another way", fatal=True)
        samples = (round(each * base.strides.rate) for each in lasting.get(clip.place, ()))
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
) -> tuple[Plan | None, tuple[Problem, ...]]:
    where, lasting = str(document.path), {each.place: each.lasting for each in heard.facts}
    asked = document.settings.training
    row = row_of(base, asked.sequence_len, clips, lasting)
    try:
        plan = draw_up(document, base, len(clips), machine, wishes=wishes, row=row)
        counts = [len(chosen(clips, stage.clips)) for stage in asked.stages]
        plan = in_stages(plan, asked, counts, wishes or Wishes())
        check_disk(plan, audio_bytes(heard), machine)
    except PlanError as error:
        return None, (Problem(where, error.what, error.mend or "", True),)
    return (plan, ()) if clips else (None, ())


def audio_bytes(heard: Audit) -> int:
    """Bytes of the recordings, each counted once; a sample takes at most four."""
    recordings = {each.sha256: each.samples * each.channels * 4 for each in heard.facts}
    return sum(recordings.values())
