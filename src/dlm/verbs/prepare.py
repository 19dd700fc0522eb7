"""The walk that check, train and eval share: document, clips, audit, split, plan."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dlm.clips.audit import Audit, audit
from dlm.clips.clip import Clip, Problem
from dlm.clips.sources import SourceReport, gather
from dlm.clips.split import split
from dlm.document.document import Document
from dlm.document.parse import read
from dlm.errors import ClipError, PlanError
from dlm.plan.bases import Base
from dlm.plan.hardware import survey
from dlm.plan.plan import Plan, Wishes, check_disk, draw_up
from dlm.plan.resolve import resolve
from dlm.store.layout import home


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
    path: Path, *, wishes: Wishes | None = None, progress: Callable[[int, int], None] | None = None
) -> Prepared:
    """Look at everything that can be known without weights."""
    document, base = opened(path)
    gathered = gather(document)
    heard = audit(
        gathered,
        rate=base.strides.rate,
        window_seconds=base.strides.window_seconds,
        auto_resample=document.settings.training.audio.auto_resample,
        progress=progress,
    )
    asked = document.settings.training
    learn, held_out = split(gathered.clips, asked.held_out, seed=asked.seed)
    plan, problems = _plan(document, base, heard, len(learn), wishes)
    return Prepared(
        document=document,
        base=base,
        audit=heard,
        sources=gathered.sources,
        problems=(*heard.problems, *problems),
        learn=learn,
        held_out=held_out,
        plan=plan,
    )


def opened(path: Path) -> tuple[Document, Base]:
    """The document and the base it names."""
    document = read(path)
    return document, resolve(document.settings.base_model, document.folder)


def _plan(
    document: Document, base: Base, heard: Audit, clips: int, wishes: Wishes | None
) -> tuple[Plan | None, tuple[Problem, ...]]:
    machine, where = survey(home()), str(document.path)
    try:
        plan = draw_up(document, base, clips, machine, wishes=wishes)
        check_disk(plan, audio_bytes(heard), machine)
    except PlanError as error:
        return None, (Problem(where, error.what, error.mend or "", True),)
    return (plan, ()) if clips else (None, ())


def audio_bytes(heard: Audit) -> int:
    """Bytes of the recordings, each counted once; a sample takes at most four."""
    recordings = {each.sha256: each.samples * each.channels * 4 for each in heard.facts}
    return sum(recordings.values())
