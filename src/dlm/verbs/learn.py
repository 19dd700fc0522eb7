"""init, check, train: from an empty document to a version."""

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from dlm.clips.clip import Problem, Sound
from dlm.errors import BaseError, StoreError, UsageError
from dlm.verbs.overrides import Overrides
from dlm.verbs.say import Device, DocumentPath, Progress, Say, within

if TYPE_CHECKING:
    from dlm.batches.show import ShownRow
    from dlm.clips.clip import Clip
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


def check(
    path: DocumentPath,
    *,
    show_labels: Annotated[bool, Say("Decode one clip's row: what of it is learned.")] = False,
    overrides: Overrides = None,
    progress: Progress | None = None,
) -> "Prepared":
    """Find every problem that can be known without the model."""
    from dlm.verbs.prepare import prepare

    checked = prepare(path, overrides=overrides, progress=progress)
    return replace(checked, row=_shown(checked)) if show_labels else checked


def _shown(checked: "Prepared") -> "ShownRow | None":
    """The first row with sound as it is learned, through the base's tokenizer alone."""
    from dlm.batches.forms import chat_of
    from dlm.batches.show import show_row
    from dlm.model.load import tokenizer_of

    bad = {problem.where for problem in checked.fatal}
    fine = [clip for clip in checked.learn if clip.place not in bad]
    clip = next((clip for clip in fine if clip.sounds), fine[0] if fine else None)
    if clip is None:
        return None
    base, taken_in = checked.base, checked.document.settings.training.audio
    chat = chat_of(tokenizer_of(base), base)
    return show_row(clip, chat, base.strides, taken_in.most_windows)


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
    from dlm.store.facts import Recording, RunFacts

    first = {clip.place: clip.sounds[0] for clip in checked.learn if clip.sounds}
    heard = [
        (first[each.place], each.sha256) for each in checked.audit.facts if each.place in first
    ]
    known = {sound.path: sha256 for sound, sha256 in heard}
    # Where the base lies, and how much of it was here when the plan was drawn, change nothing.
    base = {**asdict(plan.model.base), "source": None, "sizes": None, "megabytes": None}
    return RunFacts(
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
        learned_from=tuple(Recording(sound.name, sha256) for sound, sha256 in heard),
        overrides=dict(checked.overrides),
    )


def _data_sha256(clips: "tuple[Clip, ...]", known: dict[Path, str]) -> str:
    """One hash of all words and sounds. `known` are the hashes of recordings, as far as known."""
    from dlm.clips.audio import digest

    data = hashlib.sha256()
    for clip in clips:
        turns = [part for turn in clip.turns for part in (turn.role, *turn.parts)]
        for part in (clip.language or "", *turns):
            if isinstance(part, Sound):
                if part.path not in known:
                    known[part.path] = digest(part)
                part = f"{known[part.path]} {part.start} {part.end} {part.said or ''}"
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
