"""init, train: from an empty document to a version."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from dlm.clips.clip import Problem, Sound
from dlm.errors import BaseError, StoreError, UsageError
from dlm.verbs.overrides import Overrides
from dlm.verbs.say import Device, DocumentPath, Progress, Say, within

if TYPE_CHECKING:
    from dlm.clips.clip import Clip
    from dlm.clips.heard import Recording as Recorded
    from dlm.document.document import Document
    from dlm.plan.plan import Plan
    from dlm.store.facts import RunFacts, Version
    from dlm.store.record import Run
    from dlm.store.versions import Store
    from dlm.training.events import Event
    from dlm.verbs.prepare import Prepared


def init(
    path: DocumentPath,
    *,
    audio: Annotated[bool, Say("Start from Qwen2-Audio 7B, a released model.")] = False,
    base: Annotated[
        str | None,
        Say("A key of the catalogue, hf:org/name, or a folder; else sparrow.", value="BASE"),
    ] = None,
    force: Annotated[bool, Say("Overwrite a document that is there.")] = False,
    multimodal: Annotated[bool, Say("Images are not heard.", hidden=True)] = False,
) -> "Document":
    """Write a new document to fill in, and make its store."""
    from dlm.document.edit import scaffold
    from dlm.document.parse import parse, read
    from dlm.files import write_atomic
    from dlm.plan.catalogue import DEFAULT, EMBEDDED
    from dlm.store.versions import open_store

    if multimodal:
        raise _no_images(audio)
    if path.exists() and not force:
        raise UsageError(f"{path} already exists", mend="re-run with --force to overwrite it")
    text = scaffold(*_base_for(base or (DEFAULT if audio else EMBEDDED), path, audio=audio))
    open_store(parse(text, path).settings.dlm_id).provision()
    write_atomic(path, text)
    return read(path)


def _no_images(audio: bool) -> UsageError:
    if audio:
        what = "--multimodal and --audio are mutually exclusive (each targets a different modality)"
        return UsageError(what, mend="drop --multimodal")
    return UsageError("--multimodal is about images, and dlm hears", mend="use --audio")


def _base_for(name: str, path: Path, *, audio: bool) -> tuple[str, str]:
    """The base as the document at `path` writes it, and the adapter it proposes."""
    from dlm.plan.catalogue import CATALOGUE, DEFAULT
    from dlm.plan.resolve import resolve

    try:
        facts = CATALOGUE.get(name) or resolve(name, Path())
    except BaseError as error:
        if not audio or name.startswith(("hf:", "ms:")):  # where much else may be wrong
            raise
        what = f"--audio requires an audio-language base: {error.what}"
        raise UsageError(what, mend=f"pick --base {DEFAULT} or drop --audio") from error
    if name not in CATALOGUE and Path(name).expanduser().is_dir():
        name = os.path.relpath(Path(name).expanduser(), path.parent)
    return name, facts.adapter


def train(
    path: DocumentPath,
    *,
    steps: Annotated[int | None, Say("Take this many steps.", ("--steps", "--max-steps"))] = None,
    seed: Annotated[int | None, Say("Another seed than the document's.")] = None,
    resume: Annotated[bool, Say("Go on with the run that was cut short.")] = False,
    fresh: Annotated[bool, Say("Give that run up and start over.")] = False,
    trace_nan: Annotated[bool, Say("Stop at the first number that is not finite.")] = False,
    device: Device = None,
    overrides: Overrides = None,
    stop: Callable[[], bool] = lambda: False,
    progress: Progress | None = None,
) -> "Iterator[Prepared | Event | Version]":
    """Learn from the document's clips, and keep it as a version."""
    from dlm.document.parse import read
    from dlm.plan.plan import Wishes
    from dlm.store.versions import open_store
    from dlm.training.events import Finished
    from dlm.verbs.lesson import Asked, teach
    from dlm.verbs.prepare import prepare

    if resume and fresh:
        raise UsageError("--resume and --fresh exclude each other", mend="give one of them")
    within("--steps", steps, least=1)
    within("--seed", seed, least=0)
    store = open_store(read(path).settings.dlm_id)
    if store.layout.lock.exists():
        with store.lock():  # another training is told before the clips are looked at
            pass
    wishes = Wishes(steps, seed, device)
    checked = prepare(path, wishes=wishes, overrides=overrides, progress=progress)
    facts = _facts(checked, checked.insist())
    with store.lock():
        run = _unfinished(store, facts, path, resume=resume, fresh=fresh)
        yield _with_word_of(run, checked) if resume else checked
        for event in teach(checked, store, facts, run=run, asked=Asked(stop, trace_nan)):
            yield event
            if isinstance(event, Finished) and event.reason == "done":
                yield run.version if run and run.version else store.versions()[-1]


def _facts(checked: "Prepared", plan: "Plan") -> "RunFacts":
    """What the run starts from; the same facts make the same version."""
    from dlm.clips.audio import heard_with
    from dlm.store.facts import Recording, RunFacts
    from dlm.verbs.streamed import of_shards

    sounds = {each.recording: each for clip in checked.learn for each in clip.sounds}
    known = _known(checked, sounds.values())
    # Where the base lies, and how much of it was here when the plan was drawn, change nothing.
    base = {**asdict(plan.model.base), "source": None, "sizes": None, "megabytes": None}
    facts = RunFacts(
        document_sha256=checked.document.sha256,
        data_sha256=_data_sha256(checked.learn, known),
        plan={
            "model": {**asdict(plan.model), "base": base},
            "batches": {**asdict(plan.batches), "base": plan.batches.base.key},
            "training": {**asdict(plan.training), "save_steps": None, "listen_steps": None},
        },
        seed=plan.model.seed,
        base=plan.model.base.key,
        base_revision=plan.model.base.revision,
        learned_from=tuple(Recording(each.name, known[each.recording]) for each in sounds.values()),
        overrides=dict(checked.overrides),
        heard_with=heard_with(),
    )
    streamed = checked.document.settings.training.streamed
    return of_shards(facts, checked.document) if streamed else facts


def _known(checked: "Prepared", sounds: Iterable[Sound]) -> "dict[Recorded, str]":
    """The hash of every recording's bytes, or what stands for it where they are not copied."""
    from dlm.clips.audio import digest
    from dlm.clips.heard import identity

    known = dict(checked.audit.facts.heard.digests)
    hashed = digest if checked.copied else identity
    return known | {
        sound.recording: hashed(sound) for sound in sounds if sound.recording not in known
    }


def _data_sha256(clips: "tuple[Clip, ...]", known: "Mapping[Recorded, str]") -> str:
    """One hash of all words and sounds. `known` are the hashes of recordings."""
    data = hashlib.sha256()
    for clip in clips:
        weight = () if clip.weight == 1 else (f"{clip.weight:g}",)
        turns = [part for turn in clip.turns for part in (turn.role, *turn.parts)]
        for part in (clip.language or "", *weight, *turns):
            if isinstance(part, Sound):
                part = f"{known[part.recording]} {part.start} {part.end} {part.said or ''}"
            data.update(f"{len(part)} {part}".encode())
    return data.hexdigest()


def _unfinished(
    store: "Store", facts: "RunFacts", path: Path, *, resume: bool, fresh: bool
) -> "Run | None":
    """The run to go on with. Raises StoreError rather than lose it or mix it with another plan."""
    from dlm.store.record import abandon, find_resumable, runs

    run = find_resumable(store)
    if run is None:
        over = [each for each in runs(store) if resume and each.version]
        return over[-1] if over and not over[-1].facts.differences(facts) else None
    if fresh:
        abandon(store, run)
        return None
    where = f"{path}: run {run.id}"
    if not resume:
        what = f"was cut short after {run.step or 0} steps"
        raise StoreError(what, where=where, mend="go on with --resume, or start over with --fresh")
    different = run.facts.differences(facts)
    if different:
        what = f"started from another {' and '.join(different)}"
        asked = "".join(f" --set {name}={said}" for name, said in run.facts.overrides.items())
        back = f"put that back ({asked[1:]})" if asked else "put that back"
        raise StoreError(what, where=where, mend=f"{back}, or start over with --fresh")
    return run


def _with_word_of(run: "Run | None", checked: "Prepared") -> "Prepared":
    """What --resume found, said among the remarks, when there is nothing to go on with."""
    if run and not run.version:
        return checked
    told = ("nothing was saved of an earlier run", "starting over")
    if run and run.version:
        told = ("the last run came to its end", f"its version is {run.version.name}")
    remark = Problem(str(checked.document.path), *told, fatal=False)
    return replace(checked, problems=(*checked.problems, remark))
