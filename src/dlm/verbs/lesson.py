"""From a plan to a version: load, pack, fit, record.

What the encoder hears is cached as long as it is the released one; a stage in which it has learned,
and the tests of such a run, hear every clip afresh.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dlm.clips.chosen import chosen

if TYPE_CHECKING:
    from dlm.batches.chat import Chat
    from dlm.batches.course import Course
    from dlm.clips.clip import Clip, Sound
    from dlm.features.ear import Ear, Hear, Heard
    from dlm.plan.plan import Plan
    from dlm.store.facts import RunFacts
    from dlm.store.record import Run
    from dlm.store.versions import Store
    from dlm.training.events import Event
    from dlm.use.ready import Ready
    from dlm.verbs.prepare import Prepared

GAP_CLIPS = 32  # clips the listening gap is measured on when none are held out
LISTEN_CLIPS = 16  # and on the way, where it is measured again and again


@dataclass(frozen=True)
class Asked:
    """What the command line asks of a run besides its plan."""

    stop: Callable[[], bool]
    trace_nan: bool = False


def teach(
    checked: "Prepared", store: "Store", facts: "RunFacts", *, run: "Run | None", asked: Asked
) -> "Iterator[Event]":
    """Load, pack, fit, record; a run that is over is only reported."""
    from dlm.store.record import record

    if run and run.version:
        yield from record(iter(()), store, facts=facts, run=run)
        return

    from dlm.batches.forms import chat_of
    from dlm.model.load import load, tokenizer_of
    from dlm.training.fit import Hooks, fit
    from dlm.training.teacher import Teacher
    from dlm.use.ready import Ready

    plan, base = checked.insist(), checked.base
    chat = chat_of(tokenizer_of(base), base)
    for clip in checked.held_out:
        chat.row(clip)  # what is wrong with one is told now, not at the end of the run
    ears: dict[bool, Ear] = {}
    batches = _course(checked.learn, plan, chat, ears)
    for sound in {sound.path for clip in checked.learn for sound in clip.sounds}:
        store.add_blob(sound)
    model = load(plan.model)
    ears |= _ears(plan, model.hear_one, store.layout.features)
    using = Ready(model, chat, ears[plan.batches.heard], plan.together)
    taught, kept = plan.training.teacher, store.layout.features
    tried = checked.held_out or checked.learn
    hooks = Hooks(
        finish=partial(_finish, using, plan),
        check=partial(_score, using, checked.held_out or checked.learn[:GAP_CLIPS]),
        listen=partial(_gap, using, [clip for clip in tried if clip.sounds][:LISTEN_CLIPS]),
        resume=run.state if run and run.step is not None else None,
        stop=asked.stop,
        teacher=Teacher(model, taught, kept) if taught else None,
        trace_nan=asked.trace_nan,
    )
    yield from record(fit(model, batches, plan.training, hooks), store, facts=facts, run=run)


def _course(
    clips: "Sequence[Clip]", plan: "Plan", chat: "Chat", ears: "dict[bool, Ear]"
) -> "Course":
    """The batches of every stage; a run without stages is one. `ears` are there once it begins."""
    from dlm.batches.bucket import pack
    from dlm.batches.course import Course

    stages = [(stage.clips, stage.heard, stage.steps) for stage in plan.training.stages]
    parts = []
    for patterns, heard, steps in stages or [((), plan.batches.heard, plan.training.steps)]:
        batches = replace(plan.batches, heard=heard)
        listen = partial(_hear, ears, heard)
        parts.append((pack(list(chosen(clips, patterns)), batches, chat, listen), steps))
    return Course(parts)


def _ears(plan: "Plan", hear: "Hear", folder: Path) -> "dict[bool, Ear]":
    """What is heard by the encoder as it was released, and kept; and what is not."""
    from dlm.features.ear import Ear

    batches = plan.batches
    make = partial(
        Ear, batches.base, auto_resample=batches.auto_resample, most_windows=batches.most_windows
    )
    return {True: make(hear=hear, folder=folder), False: make()}


def _hear(ears: "dict[bool, Ear]", heard: bool, sound: "Sound") -> "tuple[Heard, ...]":
    return ears[heard](sound)


def _score(using: "Ready", clips: "tuple[Clip, ...]") -> tuple[dict[str, float], int]:
    """What the trainer asks at the end: how well held-out clips are heard."""
    from dlm.use.evaluate import evaluate

    return evaluate(using, list(clips)).scores, len(clips)


def _gap(using: "Ready", clips: "list[Clip]") -> tuple[float, float, int] | None:
    """What the trainer asks on the way: whether the model listens; None with a single recording."""
    from dlm.use.evaluate import losses

    scores = losses(using, clips)
    return (scores["loss"], scores["shuffled_loss"], len(clips)) if "gap" in scores else None


def _finish(using: "Ready", plan: "Plan", folder: Path) -> None:
    """Write the version."""
    from dlm.model.adapters import save_adapter

    save_adapter(using.model, plan.model.adapter, folder)
