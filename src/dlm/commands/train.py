"""From a plan to a version: load, pack, fit, record.

What the encoder hears is cached as long as it is the released one; a stage in which it has learned,
and the tests of such a run, hear every clip afresh.

init, train: from an empty document to a version.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from dlm.commands.options import (
    DeviceOption,
    DocumentArg,
    OverridesOption,
    ParamInfo,
    ProgressFn,
    require_range,
)
from dlm.commands.preflight import make_stream_loader
from dlm.data.bad_examples import BadExampleCounter
from dlm.data.split import select_examples
from dlm.data.types import AudioSegment, Issue
from dlm.errors import DataError, ModelError, StoreError, UsageError

if TYPE_CHECKING:
    from dlm.batching.chat_template import ChatEncoder
    from dlm.batching.staged_loader import StagedLoader
    from dlm.commands.preflight import Preflight
    from dlm.config.parser import Document
    from dlm.data.audio_file import BinaryFile
    from dlm.data.audio_io import RecordingFn
    from dlm.data.types import Example, Recording
    from dlm.data.types import RecordingKey as Recorded
    from dlm.features.extractor import (
        AudioFeatureExtractor,
        AudioFeatures,
        AugmentedExtractor,
        EncodeFn,
    )
    from dlm.inference.engine import InferenceEngine
    from dlm.plan.types import Plan
    from dlm.store.records import RunRecord, Version
    from dlm.store.runs import Run
    from dlm.store.versions import Store
    from dlm.training.events import TrainingEvent


MAX_FALLBACK_EVAL_EXAMPLES = 32  # clips the listening gap is measured on when none are held out
MAX_AUDIO_GAP_EXAMPLES = 16  # and on the way, where it is measured again and again

ExamplesFn = Callable[[], "list[Example]"]  # what the model is tried on, as far as it can be heard


@dataclass(frozen=True)
class RunOptions:
    """What the command line asks of a run besides its plan."""

    stop_fn: Callable[[], bool]
    trace_nan: bool = False


def run_training(
    preflight: "Preflight",
    store: "Store",
    run_record: "RunRecord",
    *,
    run: "Run | None",
    options: RunOptions,
) -> "Iterator[TrainingEvent]":
    """Load, pack, fit, record; a run that is over is only reported."""
    from dlm.store.runs import persist_events

    if run and run.version:
        yield from persist_events(iter(()), store, record=run_record, run=run)
        return

    from dlm.batching.mistral_chat import build_chat_encoder
    from dlm.inference.engine import InferenceEngine
    from dlm.models.load import load_model, load_tokenizer
    from dlm.training.distillation import DistillationTeacher
    from dlm.training.trainer import TrainerCallbacks, train_model

    plan, base = preflight.require_plan(), preflight.spec
    chat = build_chat_encoder(load_tokenizer(base), base)
    tally = BadExampleCounter(
        len(preflight.train_examples) + len(preflight.held_out_examples),
        skip_bad_examples=plan.batches.skip_bad_examples,
    )
    held_out = _filter_encodable(preflight.held_out_examples, chat, tally)
    ears: dict[bool, AudioFeatureExtractor] = {}
    recordings = _RecordingCopier(preflight, store)
    anew = _make_augmented_extractor_fn(plan, preflight.document, recordings)
    document = preflight.document
    if document.config.training.uses_streaming:
        listen = anew or partial(_make_uncached_extractor, plan)
        batches = make_stream_loader(
            document, preflight.held_out_examples, plan=plan, chat_encoder=chat, extractor_fn=listen
        )
    else:
        batches = _make_staged_loader(preflight.train_examples, plan, chat, ears, anew)
    recordings.copy_cached()
    model = load_model(plan.model)
    ears |= _make_extractors(plan, model.encode_single, store.layout.features_dir, recordings)
    using = InferenceEngine(
        model,
        chat,
        ears[plan.batches.use_cached_features or plan.model.encode_every_step],
        plan.eval_batch_size,
    )
    taught, kept = plan.training.distillation, store.layout.features_dir
    audible = partial(_filter_decodable, using, tally)
    tried = [clip for clip in held_out or preflight.train_examples if clip.audio_segments][
        :MAX_AUDIO_GAP_EXAMPLES
    ]
    hooks = TrainerCallbacks(
        save_version_fn=partial(_save_final_adapter, using, plan, recordings),
        evaluate_fn=partial(
            _score_held_out,
            using,
            partial(audible, held_out or preflight.train_examples[:MAX_FALLBACK_EVAL_EXAMPLES]),
        ),
        audio_gap_fn=partial(_measure_audio_gap, using, partial(audible, tried)),
        resume_dir=run.checkpoint_dir if run and run.step is not None else None,
        stop_fn=options.stop_fn,
        teacher=DistillationTeacher(model, taught, kept) if taught else None,
        trace_nan=options.trace_nan,
    )
    events = train_model(model, batches, plan.training, hooks)
    told = _add_skip_events(events, preflight, batches, tally)
    yield from persist_events(told, store, record=run_record, run=run)


class _RecordingCopier:
    """Copies training recordings into the store as they are opened for features, and verifies them.

    A recording is therefore read once, by the scan, before it is opened here.
    """

    def __init__(self, preflight: "Preflight", store: "Store") -> None:
        self._store = store
        self._segments: dict[Recorded, AudioSegment] = {}
        if preflight.copy_recordings:
            for example in preflight.train_examples:
                for segment in example.audio_segments:
                    self._segments.setdefault(segment.recording_key, segment)

    def __call__(self, segment: AudioSegment, file: "BinaryFile") -> None:
        """Copy an open recording, unless it is in the store, or is not trained on.

        Raises:
            AudioError: it was changed since the scan (`audio.changed`).
        """
        from dlm.data.audio_io import make_changed_audio_error, verify_recording

        if segment.recording_key not in self._segments or self._is_copied(segment):
            verify_recording(segment, file)
        elif self._store.add_blob(file, segment.sha256) != segment.sha256:
            raise make_changed_audio_error(segment.name)

    def copy_cached(self) -> None:
        """Copy those whose features are on disk already, since they will not be opened again."""
        cached = {path.name[:64] for path in self._store.layout.features_dir.glob("*")}
        for segment in self._segments.values():
            if segment.sha256 in cached:
                self._copy(segment)

    def copy_rest(self) -> None:
        """Copy those that were never opened; one that is gone was not trained on."""
        for segment in self._segments.values():
            with suppress(DataError):
                self._copy(segment)

    def _copy(self, segment: AudioSegment) -> None:
        from dlm.data.audio_file import open_recording

        if not self._is_copied(segment):
            with open_recording(segment) as file:
                self(segment, file)

    def _is_copied(self, segment: AudioSegment) -> bool:
        return self._store.layout.blob_path(segment.sha256).exists()


def _add_skip_events(
    events: "Iterator[TrainingEvent]",
    preflight: "Preflight",
    loader: "StagedLoader",
    bad_examples: BadExampleCounter,
) -> "Iterator[TrainingEvent]":
    """The events, and which clips were left out: before the first step, and on the way."""
    from dlm.training.events import ExamplesSkipped, TrainingFinished, TrainingStarted

    before, many = (
        preflight.skipped_issues,
        len(preflight.train_examples) + len(preflight.held_out_examples),
    )
    for event in events:
        if isinstance(event, TrainingFinished) and (
            bad := {**loader.skipped_issues, **bad_examples.issues}
        ):
            out, of = loader.num_bad_and_seen
            told = tuple(map(str, bad.values()))
            yield ExamplesSkipped(
                event.step, max(out + len(bad_examples.issues), len(bad)), of or many, told
            )
        yield event
        if isinstance(event, TrainingStarted) and before:
            yield ExamplesSkipped(0, len(before), many + len(before), tuple(map(str, before)))


def _filter_encodable(
    examples: "Sequence[Example]", chat_encoder: "ChatEncoder", bad_examples: BadExampleCounter
) -> "tuple[Example, ...]":
    """The clips that rows can be made of: what is wrong is told now, not at the end of the run."""
    kept = []
    for clip in examples:
        try:
            chat_encoder.encode_example(clip)
            kept.append(clip)
        except DataError as error:
            bad_examples.record_error(error, clip.location)
    return tuple(kept)


def _filter_decodable(
    engine: "InferenceEngine", bad_examples: BadExampleCounter, examples: "Sequence[Example]"
) -> "list[Example]":
    """The clips that can be heard now."""
    kept = []
    for clip in examples:
        try:
            for sound in clip.audio_segments:
                engine.extractor(sound)
            kept.append(clip)
        except DataError as error:
            bad_examples.record_error(error, clip.location)
    return kept


def _make_staged_loader(
    examples: "Sequence[Example]",
    plan: "Plan",
    chat_encoder: "ChatEncoder",
    extractors: "dict[bool, AudioFeatureExtractor]",
    augmented_extractor_fn: "Callable[[int], AugmentedExtractor] | None",
) -> "StagedLoader":
    """The batches of every stage; a run without stages is one. `ears` are there once it begins.

    `anew` gives what hears another version of each clip in every pass of a stage, by its number.
    """
    from dlm.batching.samplers import build_batches
    from dlm.batching.staged_loader import StagedLoader

    stages = [
        (stage.example_patterns, stage.use_cached_features, stage.num_steps)
        for stage in plan.training.stages
    ]
    parts = []
    stages = stages or [((), plan.batches.use_cached_features, plan.training.num_steps)]
    for number, (patterns, heard, steps) in enumerate(stages):
        batches = replace(plan.batches, use_cached_features=heard)
        listen = (
            augmented_extractor_fn(number)
            if augmented_extractor_fn
            else partial(_extract_features, extractors, heard)
        )
        parts.append(
            (
                build_batches(
                    list(select_examples(examples, patterns)), batches, chat_encoder, listen
                ),
                steps,
            )
        )
    return StagedLoader(parts)


def _make_augmented_extractor_fn(
    plan: "Plan", document: "Document", on_open: "RecordingFn"
) -> "Callable[[int], AugmentedExtractor] | None":
    """What hears each pass of a stage otherwise; None where nothing is changed."""
    from dlm.data.synthetic import list_noise_recordings
    from dlm.features.augment import Augmenter
    from dlm.features.extractor import FEATURE_MEMORY_BYTES, AugmentedExtractor, WaveformCache

    changes, base = plan.batches.augmentation, plan.batches.spec
    if changes is None:
        return None
    kept = WaveformCache(0 if document.config.training.uses_streaming else FEATURE_MEMORY_BYTES)
    found = list_noise_recordings(document)

    def anew(stage: int) -> AugmentedExtractor:
        seed = f"{plan.model.seed}/{stage}"
        return AugmentedExtractor(
            _make_extractor(plan, on_open=on_open),
            Augmenter(changes, base.audio_spec, seed, found),
            kept,
        )

    return anew


def _make_extractors(
    plan: "Plan", encode_fn: "EncodeFn", cache_dir: Path, on_open: "RecordingFn"
) -> "dict[bool, AudioFeatureExtractor]":
    """What is heard by the encoder as it was released, and kept; and what is not."""
    return {
        True: _make_extractor(plan, encode_fn=encode_fn, cache_dir=cache_dir, on_open=on_open),
        False: _make_extractor(plan, on_open=on_open),
    }


def _make_extractor(
    plan: "Plan",
    *,
    encode_fn: "EncodeFn | None" = None,
    cache_dir: Path | None = None,
    use_memory_cache: bool = True,
    on_open: "RecordingFn | None" = None,
) -> "AudioFeatureExtractor":
    """An ear of the base, as the plan has it, that remembers what is `kept`."""
    from dlm.features.extractor import FEATURE_MEMORY_BYTES, AudioFeatureExtractor

    batches = plan.batches
    return AudioFeatureExtractor(
        batches.spec,
        auto_resample=batches.auto_resample,
        max_windows=batches.max_windows,
        encode_fn=encode_fn,
        cache_dir=cache_dir,
        memory_bytes=FEATURE_MEMORY_BYTES if use_memory_cache else 0,
        on_open=on_open,
    )


def _make_uncached_extractor(plan: "Plan", stage: int) -> "AudioFeatureExtractor":
    """What hears every clip of a stage of a stream, and remembers none."""
    return _make_extractor(plan, use_memory_cache=False)


def _extract_features(
    extractors: "dict[bool, AudioFeatureExtractor]", use_cached: bool, segment: "AudioSegment"
) -> "tuple[AudioFeatures, ...]":
    return extractors[use_cached](segment)


def _score_held_out(
    engine: "InferenceEngine", examples_fn: ExamplesFn
) -> tuple[dict[str, float], int]:
    """What the trainer asks at the end: how well held-out clips are heard."""
    from dlm.inference.evaluate import evaluate_model

    clips = examples_fn()
    return evaluate_model(engine, clips).scores if clips else {}, len(clips)


def _measure_audio_gap(
    engine: "InferenceEngine", examples_fn: ExamplesFn
) -> tuple[float, float, int] | None:
    """What the trainer asks on the way: whether the model listens; None with a single recording."""
    from dlm.inference.evaluate import compute_losses

    clips = examples_fn()
    if not clips:
        return None
    scores = compute_losses(engine, clips)
    return (scores["loss"], scores["shuffled_loss"], len(clips)) if "gap" in scores else None


def _save_final_adapter(
    engine: "InferenceEngine", plan: "Plan", recordings: "_RecordingCopier", folder: Path
) -> None:
    """Write the version, and copy the recordings that no step used."""
    from dlm.models.adapters import save_adapter

    recordings.copy_rest()
    save_adapter(engine.model, plan.model.adapter, folder)


def init(
    path: DocumentArg,
    *,
    audio: Annotated[bool, ParamInfo("Start from Qwen2-Audio 7B, a released model.")] = False,
    base: Annotated[
        str | None,
        ParamInfo(
            "A key of the catalogue, hf:org/name, or a folder; else sparrow.", metavar="BASE"
        ),
    ] = None,
    force: Annotated[bool, ParamInfo("Overwrite a document that is there.")] = False,
    multimodal: Annotated[bool, ParamInfo("Images are not heard.", hidden=True)] = False,
) -> "Document":
    """Write a new document to fill in, and make its store."""
    from dlm.config.editor import render_new_document
    from dlm.config.parser import parse_document, read_document
    from dlm.io import write_atomic
    from dlm.plan.model_spec import BUNDLED_MODEL, DEFAULT_AUDIO_MODEL
    from dlm.store.versions import open_store

    path = Path(path)
    if multimodal:
        raise _image_option_error(audio)
    if path.exists() and not force:
        raise UsageError(f"{path} already exists", hint="re-run with --force to overwrite it")
    text = render_new_document(
        *_resolve_base_option(
            base or (DEFAULT_AUDIO_MODEL if audio else BUNDLED_MODEL), path, audio=audio
        )
    )
    open_store(parse_document(text, path).config.dlm_id).initialize()
    write_atomic(path, text)
    return read_document(path)


def _image_option_error(audio: bool) -> UsageError:
    if audio:
        what = "--multimodal and --audio are mutually exclusive (each targets a different modality)"
        return UsageError(what, hint="drop --multimodal")
    return UsageError("--multimodal is about images, and dlm hears", hint="use --audio")


def _resolve_base_option(base_model: str, path: Path, *, audio: bool) -> tuple[str, str]:
    """The base as the document at `path` writes it, and the adapter it proposes."""
    from dlm.plan.model_spec import DEFAULT_AUDIO_MODEL, MODEL_CATALOG
    from dlm.plan.resolve import resolve_model_spec

    try:
        facts = MODEL_CATALOG.get(base_model) or resolve_model_spec(base_model, Path())
    except ModelError as error:
        if not audio or base_model.startswith(("hf:", "ms:")):  # where much else may be wrong
            raise
        what = f"--audio requires an audio-language base: {error.what}"
        raise UsageError(what, hint=f"pick --base {DEFAULT_AUDIO_MODEL} or drop --audio") from error
    if base_model not in MODEL_CATALOG and Path(base_model).expanduser().is_dir():
        base_model = os.path.relpath(Path(base_model).expanduser(), path.parent)
    return base_model, facts.default_adapter


def train(
    path: DocumentArg,
    *,
    steps: Annotated[
        int | None, ParamInfo("Take this many steps.", ("--steps", "--max-steps"))
    ] = None,
    seed: Annotated[int | None, ParamInfo("Another seed than the document's.")] = None,
    resume: Annotated[bool, ParamInfo("Go on with the run that was cut short.")] = False,
    fresh: Annotated[bool, ParamInfo("Give that run up and start over.")] = False,
    trace_nan: Annotated[bool, ParamInfo("Stop at the first number that is not finite.")] = False,
    device: DeviceOption = None,
    overrides: OverridesOption = None,
    stop: Callable[[], bool] = lambda: False,
    progress: ProgressFn | None = None,
) -> "Iterator[Preflight | TrainingEvent | Version]":
    """Learn from the document's clips, and keep it as a version."""
    from dlm.commands.preflight import run_preflight
    from dlm.config.parser import read_document
    from dlm.plan.types import CliOverrides
    from dlm.store.versions import open_store
    from dlm.training.events import TrainingFinished

    path = Path(path)
    if resume and fresh:
        raise UsageError("--resume and --fresh exclude each other", hint="give one of them")
    require_range("--steps", steps, minimum=1)
    require_range("--seed", seed, minimum=0)
    store = open_store(read_document(path).config.dlm_id)
    if store.layout.lock_path.exists():
        with store.lock():  # another training is told before the clips are looked at
            pass
    wishes = CliOverrides(steps, seed, device)
    checked = run_preflight(path, cli_overrides=wishes, overrides=overrides, progress=progress)
    plan = checked.require_plan()
    checked = _hash_train_recordings(checked)
    facts = _make_run_record(checked, plan)
    with store.lock():
        run = _find_unfinished_run(store, facts, path, resume=resume, fresh=fresh)
        yield _add_resume_note(run, checked) if resume else checked
        for event in run_training(
            checked, store, facts, run=run, options=RunOptions(stop, trace_nan)
        ):
            yield event
            if isinstance(event, TrainingFinished) and event.reason == "done":
                yield run.version if run and run.version else store.list_versions()[-1]


def _make_run_record(preflight: "Preflight", plan: "Plan") -> "RunRecord":
    """What the run starts from; the same facts make the same version."""
    from dlm.commands.preflight import record_shard_fingerprints
    from dlm.data.audio_io import get_audio_backends
    from dlm.data.audio_scan import fingerprint_recording
    from dlm.store.records import RecordingHash, RunRecord

    sounds = {
        each.recording_key: each
        for clip in preflight.train_examples
        for each in clip.audio_segments
    }
    known = {
        key: segment.sha256 or fingerprint_recording(segment) for key, segment in sounds.items()
    }
    # Where the base lies, and how much of it was here when the plan was drawn, change nothing.
    base = {**asdict(plan.model.spec), "source": None, "sizes": None, "megabytes": None}
    facts = RunRecord(
        document_sha256=preflight.document.sha256,
        data_sha256=_hash_examples(preflight.train_examples, known),
        plan={
            "model": {**asdict(plan.model), "spec": base},
            "batches": {**asdict(plan.batches), "spec": plan.batches.spec.key},
            "training": {**asdict(plan.training), "save_steps": None, "audio_gap_steps": None},
        },
        seed=plan.model.seed,
        base_model=plan.model.spec.key,
        base_model_revision=plan.model.spec.revision,
        train_recordings=tuple(
            RecordingHash(each.name, known[each.recording_key]) for each in sounds.values()
        ),
        overrides=dict(preflight.overrides),
        audio_backends=get_audio_backends(),
    )
    streamed = preflight.document.config.training.uses_streaming
    return record_shard_fingerprints(facts, preflight.document) if streamed else facts


def _hash_train_recordings(preflight: "Preflight") -> "Preflight":
    """Hash the recordings that the store copies, where the scan did not: there are too many."""
    from dlm.data.audio_io import hash_recording
    from dlm.data.audio_scan import attach_recordings

    segments = (each for example in preflight.train_examples for each in example.audio_segments)
    unhashed = {each.recording_key: each for each in segments if not each.sha256}
    if not preflight.copy_recordings or not unhashed:
        return preflight
    hashes = {key: hash_recording(segment) for key, segment in unhashed.items()}

    def add_hash(segment: AudioSegment) -> "Recording | None":
        sha256 = hashes.get(segment.recording_key, segment.sha256)
        return replace(segment.recording, sha256=sha256) if segment.recording else None

    return replace(preflight, train_examples=attach_recordings(preflight.train_examples, add_hash))


def _hash_examples(
    examples: "tuple[Example, ...]", recording_hashes: "Mapping[Recorded, str]"
) -> str:
    """One hash of all words and sounds. `known` are the hashes of recordings."""
    data = hashlib.sha256()
    for clip in examples:
        weight = () if clip.weight == 1 else (f"{clip.weight:g}",)
        turns = [part for turn in clip.messages for part in (turn.role, *turn.content)]
        for part in (clip.language or "", *weight, *turns):
            if isinstance(part, AudioSegment):
                part = (
                    f"{recording_hashes[part.recording_key]} "
                    f"{part.start} {part.end} {part.transcript or ''}"
                )
            data.update(f"{len(part)} {part}".encode())
    return data.hexdigest()


def _find_unfinished_run(
    store: "Store", run_record: "RunRecord", path: Path, *, resume: bool, fresh: bool
) -> "Run | None":
    """The run to go on with. Raises StoreError rather than lose it or mix it with another plan."""
    from dlm.store.runs import abandon_run, find_resumable_run, list_runs

    run = find_resumable_run(store)
    if run is None:
        over = [each for each in list_runs(store) if resume and each.version]
        return over[-1] if over and not over[-1].record.find_changed_fields(run_record) else None
    if fresh:
        abandon_run(store, run)
        return None
    where = f"{path}: run {run.id}"
    if not resume:
        what = f"was cut short after {run.step or 0} steps"
        raise StoreError(what, where=where, hint="go on with --resume, or start over with --fresh")
    different = run.record.find_changed_fields(run_record)
    if different:
        what = f"started from another {' and '.join(different)}"
        asked = "".join(f" --set {name}={said}" for name, said in run.record.overrides.items())
        back = f"put that back ({asked[1:]})" if asked else "put that back"
        raise StoreError(what, where=where, hint=f"{back}, or start over with --fresh")
    return run


def _add_resume_note(run: "Run | None", preflight: "Preflight") -> "Preflight":
    """What --resume found, said among the remarks, when there is nothing to go on with."""
    if run and not run.version:
        return preflight
    told = ("nothing was saved of an earlier run", "starting over")
    if run and run.version:
        told = ("the last run came to its end", f"its version is {run.version.name}")
    remark = Issue(str(preflight.document.path), *told, fatal=False)
    return replace(preflight, issues=(*preflight.issues, remark))
