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
from dlm.clips.unusable import Tally
from dlm.errors import ClipError
from dlm.verbs.streamed import course

if TYPE_CHECKING:
    from dlm.batches.chat import Chat
    from dlm.batches.course import Course
    from dlm.clips.clip import Clip, Sound
    from dlm.document.document import Document
    from dlm.features.anew import Anew
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

Tried = Callable[[], "list[Clip]"]  # what the model is tried on, as far as it can be heard


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
    tally = Tally(len(checked.learn) + len(checked.held_out), skips=plan.batches.skips)
    held_out = _readable(checked.held_out, chat, tally)
    ears: dict[bool, Ear] = {}
    anew = _anew(plan, checked.document)
    document = checked.document
    if document.settings.training.streamed:
        listen = anew or partial(_once, plan)
        batches = course(document, checked.held_out, plan=plan, chat=chat, listen=listen)
    else:
        batches = _course(checked.learn, plan, chat, ears, anew)
    if checked.copied:
        for path, inside in {each.recording for clip in checked.learn for each in clip.sounds}:
            store.add_blob(path, inside)
    model = load(plan.model)
    ears |= _ears(plan, model.hear_one, store.layout.features)
    using = Ready(model, chat, ears[plan.batches.heard or plan.model.afresh], plan.together)
    taught, kept = plan.training.teacher, store.layout.features
    audible = partial(_audible, using, tally)
    tried = [clip for clip in held_out or checked.learn if clip.sounds][:LISTEN_CLIPS]
    hooks = Hooks(
        finish=partial(_finish, using, plan),
        check=partial(_score, using, partial(audible, held_out or checked.learn[:GAP_CLIPS])),
        listen=partial(_gap, using, partial(audible, tried)),
        resume=run.state if run and run.step is not None else None,
        stop=asked.stop,
        teacher=Teacher(model, taught, kept) if taught else None,
        trace_nan=asked.trace_nan,
    )
    events = fit(model, batches, plan.training, hooks)
    told = _with_left_out(events, checked, batches, tally)
    yield from record(told, store, facts=facts, run=run)


def _with_left_out(
    events: "Iterator[Event]", checked: "Prepared", batches: "Course", tally: Tally
) -> "Iterator[Event]":
    """The events, and which clips were left out: before the first step, and on the way."""
    from dlm.training.events import Finished, LeftOut, Started

    before, many = checked.left_out, len(checked.learn) + len(checked.held_out)
    for event in events:
        if isinstance(event, Finished) and (bad := {**batches.left_out, **tally.problems}):
            out, of = batches.came
            told = tuple(map(str, bad.values()))
            yield LeftOut(event.step, max(out + len(tally.problems), len(bad)), of or many, told)
        yield event
        if isinstance(event, Started) and before:
            yield LeftOut(0, len(before), many + len(before), tuple(map(str, before)))


def _readable(clips: "Sequence[Clip]", chat: "Chat", tally: Tally) -> "tuple[Clip, ...]":
    """The clips that rows can be made of: what is wrong is told now, not at the end of the run."""
    kept = []
    for clip in clips:
        try:
            chat.row(clip)
            kept.append(clip)
        except ClipError as error:
            tally.take(error, clip.place)
    return tuple(kept)


def _audible(using: "Ready", tally: Tally, clips: "Sequence[Clip]") -> "list[Clip]":
    """The clips that can be heard now."""
    kept = []
    for clip in clips:
        try:
            for sound in clip.sounds:
                using.ear(sound)
            kept.append(clip)
        except ClipError as error:
            tally.take(error, clip.place)
    return kept


def _course(
    clips: "Sequence[Clip]",
    plan: "Plan",
    chat: "Chat",
    ears: "dict[bool, Ear]",
    anew: "Callable[[int], Anew] | None",
) -> "Course":
    """The batches of every stage; a run without stages is one. `ears` are there once it begins.

    `anew` gives what hears another version of each clip in every pass of a stage, by its number.
    """
    from dlm.batches.bucket import pack
    from dlm.batches.course import Course

    stages = [(stage.clips, stage.heard, stage.steps) for stage in plan.training.stages]
    parts = []
    stages = stages or [((), plan.batches.heard, plan.training.steps)]
    for number, (patterns, heard, steps) in enumerate(stages):
        batches = replace(plan.batches, heard=heard)
        listen = anew(number) if anew else partial(_hear, ears, heard)
        parts.append((pack(list(chosen(clips, patterns)), batches, chat, listen), steps))
    return Course(parts)


def _anew(plan: "Plan", document: "Document") -> "Callable[[int], Anew] | None":
    """What hears each pass of a stage otherwise; None where nothing is changed."""
    from dlm.clips.noises import noises
    from dlm.features.anew import Anew, Recordings
    from dlm.features.augment import Augment
    from dlm.features.ear import MEMORY_BYTES

    changes, base = plan.batches.changes, plan.batches.base
    if changes is None:
        return None
    kept = Recordings(0 if document.settings.training.streamed else MEMORY_BYTES)
    found = noises(document)

    def anew(stage: int) -> Anew:
        seed = f"{plan.model.seed}/{stage}"
        return Anew(_ear(plan), Augment(changes, base.strides, seed, found), kept)

    return anew


def _ears(plan: "Plan", hear: "Hear", folder: Path) -> "dict[bool, Ear]":
    """What is heard by the encoder as it was released, and kept; and what is not."""
    return {True: _ear(plan, hear=hear, folder=folder), False: _ear(plan)}


def _ear(
    plan: "Plan", *, hear: "Hear | None" = None, folder: Path | None = None, kept: bool = True
) -> "Ear":
    """An ear of the base, as the plan has it, that remembers what is `kept`."""
    from dlm.features.ear import MEMORY_BYTES, Ear

    batches = plan.batches
    return Ear(
        batches.base,
        auto_resample=batches.auto_resample,
        most_windows=batches.most_windows,
        hear=hear,
        folder=folder,
        memory_bytes=MEMORY_BYTES if kept else 0,
    )


def _once(plan: "Plan", stage: int) -> "Ear":
    """What hears every clip of a stage of a stream, and remembers none."""
    return _ear(plan, kept=False)


def _hear(ears: "dict[bool, Ear]", heard: bool, sound: "Sound") -> "tuple[Heard, ...]":
    return ears[heard](sound)


def _score(using: "Ready", audible: Tried) -> tuple[dict[str, float], int]:
    """What the trainer asks at the end: how well held-out clips are heard."""
    from dlm.use.evaluate import evaluate

    clips = audible()
    return evaluate(using, clips).scores if clips else {}, len(clips)


def _gap(using: "Ready", audible: Tried) -> tuple[float, float, int] | None:
    """What the trainer asks on the way: whether the model listens; None with a single recording."""
    from dlm.use.evaluate import losses

    clips = audible()
    if not clips:
        return None
    scores = losses(using, clips)
    return (scores["loss"], scores["shuffled_loss"], len(clips)) if "gap" in scores else None


def _finish(using: "Ready", plan: "Plan", folder: Path) -> None:
    """Write the version."""
    from dlm.model.adapters import save_adapter

    save_adapter(using.model, plan.model.adapter, folder)
