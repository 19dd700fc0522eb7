"""The commands init and train: a new document, and from a document to a version in its store.

    load      tokenizer, encoded examples, model
    build     feature extractors, batches of every stage, callbacks
    train     events of training/trainer.py
    compare   with the version in use and the base, on the same held-out clips
    persist   store/runs.py; a version that is clearly worse is kept, and not put in use

The output of a frozen encoder is cached on disk. A stage after the encoder was trained, augmented
audio and streams are encoded in every step; what streams give is never stored.
"""

import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from dlm.commands.options import (
    DeviceOption,
    DocumentArg,
    OverridesOption,
    ParamInfo,
    ProgressFn,
    require_range,
)
from dlm.data.types import AudioSegment, Example, Issue
from dlm.errors import DataError, DlmError, ModelError, StoreError, UsageError

if TYPE_CHECKING:
    from dlm.batching.chat_template import ChatEncoder
    from dlm.batching.collator import FeatureFn
    from dlm.batching.staged_loader import StagedLoader
    from dlm.commands.preflight import Preflight
    from dlm.config.parser import Document
    from dlm.config.schema import TrainingConfig
    from dlm.data.audio_file import BinaryFile
    from dlm.data.audio_io import RecordingFn
    from dlm.data.bad_examples import BadExampleCounter
    from dlm.data.types import Recording, RecordingKey
    from dlm.features.extractor import AugmentedExtractor, EncodeFn
    from dlm.inference.engine import InferenceEngine
    from dlm.inference.evaluate import EvaluationReport
    from dlm.plan.types import Plan, TrainingPlan
    from dlm.store.records import ClipScores, RecordingHash, RunRecord, Version
    from dlm.store.runs import Run
    from dlm.store.versions import Store
    from dlm.training.events import TrainingEvent

_logger = logging.getLogger(__name__)

MAX_FALLBACK_EVAL_EXAMPLES = 32  # training examples to measure on where none are held out
MAX_AUDIO_GAP_EXAMPLES = 16  # of each measurement of the listening gap during training

ExamplesFn = Callable[[], "list[Example]"]  # the examples to measure on that can be decoded
# stage number from 0, whether encoder output is cached -> features of a segment (in an epoch)
StageFeatureFn = Callable[[int, bool], "FeatureFn | AugmentedExtractor"]


@dataclass(frozen=True)
class RunOptions:
    """What the command line gives a run besides its plan.

    Attributes:
        stop_fn: is called after every step; whether the run stops with a checkpoint.
        trace_nan: whether the first non-finite number ends the run.
    """

    stop_fn: Callable[[], bool]
    trace_nan: bool = False


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
    multimodal: Annotated[bool, ParamInfo("Images are not supported.", hidden=True)] = False,
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
        hint = "re-run with --force to overwrite it"
        raise UsageError(f"{path} already exists", hint=hint, code="usage.file_exists")
    base_model = base or (DEFAULT_AUDIO_MODEL if audio else BUNDLED_MODEL)
    text = render_new_document(*_resolve_base_option(base_model, path, audio=audio))
    open_store(parse_document(text, path).config.dlm_id).initialize()
    write_atomic(path, text)
    return read_document(path)


def _image_option_error(audio: bool) -> UsageError:
    if audio:
        what = "--multimodal and --audio are mutually exclusive (each targets a different modality)"
        return UsageError(what, hint="drop --multimodal", code="usage.exclusive_options")
    what = "--multimodal is for images, and dlm takes audio"
    return UsageError(what, hint="use --audio", code="usage.no_images")


def _resolve_base_option(base_model: str, path: Path, *, audio: bool) -> tuple[str, str]:
    """The base model as the document at `path` writes it, and its default adapter."""
    from dlm.plan.model_spec import DEFAULT_AUDIO_MODEL, MODEL_CATALOG
    from dlm.plan.resolve import resolve_model_spec

    try:
        spec = MODEL_CATALOG.get(base_model) or resolve_model_spec(base_model, Path())
    except ModelError as error:
        if not audio or base_model.startswith(("hf:", "ms:")):  # where much else may be wrong
            raise
        what = f"--audio requires an audio-language base: {error.what}"
        hint = f"pick --base {DEFAULT_AUDIO_MODEL} or drop --audio"
        raise UsageError(what, hint=hint, code="usage.base_without_audio") from error
    if base_model not in MODEL_CATALOG and Path(base_model).expanduser().is_dir():
        base_model = os.path.relpath(Path(base_model).expanduser(), path.parent)
    return base_model, spec.default_adapter


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
    """Train on the document's clips, and save a version."""
    from dlm.commands.preflight import run_preflight
    from dlm.config.parser import read_document
    from dlm.plan.types import CliOverrides
    from dlm.store.damage import require_readable
    from dlm.store.versions import open_store
    from dlm.training.events import TrainingFinished

    path = Path(path)
    if resume and fresh:
        what = "--resume and --fresh exclude each other"
        raise UsageError(what, hint="give one of them", code="usage.exclusive_options")
    require_range("--steps", steps, minimum=1)
    require_range("--seed", seed, minimum=0)
    store = open_store(read_document(path).config.dlm_id)
    if store.layout.lock_path.exists():
        with store.lock():  # another run is reported before the audio is scanned
            pass
    require_readable(store)
    cli_overrides = CliOverrides(steps, seed, device)
    preflight = run_preflight(
        path,
        cli_overrides=cli_overrides,
        overrides=overrides,
        progress=progress,
        hash_recordings=True,
        resume=resume,
    )
    plan = preflight.require_plan()
    if plan.copy_recordings:
        preflight = _hash_train_recordings(preflight)
    run_record = _make_run_record(preflight, plan)
    with store.lock():
        run = _find_unfinished_run(store, run_record, path, resume=resume, fresh=fresh)
        yield _add_resume_note(run, preflight) if resume else preflight
        from dlm.models.load import get_num_threads

        run_record = replace(run_record, num_threads=get_num_threads())
        options = RunOptions(stop, trace_nan)
        for event in run_training(preflight, store, run_record, run=run, options=options):
            yield event
            if isinstance(event, TrainingFinished) and event.reason == "done":
                yield run.version if run and run.version else store.list_versions()[-1]


def run_training(
    preflight: "Preflight",
    store: "Store",
    run_record: "RunRecord",
    *,
    run: "Run | None",
    options: RunOptions,
) -> "Iterator[TrainingEvent]":
    """Train and persist; a run that has its version already is only reported.

    Args:
        preflight: the examples and the plan.
        store: is locked by the caller.
        run_record: what the run starts from.
        run: the run to resume; None starts one.
        options: when to stop.

    Raises:
        DataError: an example cannot be encoded or decoded, unless the plan skips such.
        TrainingError: too many consecutive steps are skipped, or the checkpoint does not fit.
    """
    from dlm.store.runs import persist_events
    from dlm.training.events import TrainingFinished

    if run and run.version:
        yield from persist_events(iter(()), store, record=run_record, run=run)
        return

    from dlm.batching.mistral_chat import build_chat_encoder
    from dlm.data.bad_examples import BadExampleCounter
    from dlm.inference.engine import InferenceEngine
    from dlm.models.load import load_model, load_tokenizer
    from dlm.training.ctc import CtcLoss, collect_transcript_token_ids
    from dlm.training.distillation import DistillationTeacher
    from dlm.training.trainer import TrainerCallbacks, train_model

    # load
    plan, features_dir = preflight.require_plan(), store.layout.features_dir
    chat_encoder = build_chat_encoder(load_tokenizer(preflight.spec), preflight.spec)
    bad_examples = BadExampleCounter(
        len(preflight.train_examples) + len(preflight.held_out_examples),
        skip_bad_examples=plan.batches.skip_bad_examples,
    )
    held_out = _filter_encodable(preflight.held_out_examples, chat_encoder, bad_examples)
    get_model = cache(partial(load_model, plan.model))  # after all examples are encoded

    # build
    copied_segments = _get_recordings(preflight.train_examples) if plan.copy_recordings else {}
    copier = _RecordingCopier(copied_segments, store)
    extractors = _StageExtractors(
        plan,
        preflight.document,
        lambda values, num_frames: get_model().encode_single(values, num_frames),
        features_dir,
        copier,
    )
    loader = build_staged_loader(preflight, plan, chat_encoder, extractors.get_feature_fn)
    copier.copy_cached()
    comparer = _VersionComparer(store, preflight, run_record, held_out, bad_examples)
    comparer.score_current_version(plan.model.device)  # before the model that is trained is loaded
    model = get_model()
    engine = InferenceEngine(model, chat_encoder, extractors.eval_extractor, plan.eval_batch_size)
    eval_examples = held_out or preflight.train_examples
    fallback_examples = held_out or preflight.train_examples[:MAX_FALLBACK_EVAL_EXAMPLES]
    gap_examples = [example for example in eval_examples if example.audio_segments]
    comparer.score_base(engine)
    filter_decodable = partial(_filter_decodable, engine, bad_examples)
    distillation = plan.training.distillation
    callbacks = TrainerCallbacks(
        save_version_fn=partial(_save_final_adapter, engine, plan, copier),
        evaluate_fn=partial(
            _score_held_out, engine, partial(filter_decodable, fallback_examples), comparer
        ),
        audio_gap_fn=partial(
            _measure_audio_gap,
            engine,
            partial(filter_decodable, gap_examples[:MAX_AUDIO_GAP_EXAMPLES]),
        ),
        resume_dir=run.checkpoint_dir if run and run.step is not None else None,
        stop_fn=options.stop_fn,
        teacher=DistillationTeacher(model, distillation, features_dir) if distillation else None,
        ctc=CtcLoss(model, collect_transcript_token_ids(loader.iter_examples())),
        trace_nan=options.trace_nan,
    )

    # train, persist
    events = train_model(model, loader, plan.training, callbacks)
    events = comparer.add_comparison(events)
    events = _add_skip_events(events, preflight, loader, bad_examples)
    for event in persist_events(events, store, record=run_record, run=run):
        if isinstance(event, TrainingFinished) and event.reason == "done":
            comparer.save_scores()
        yield event


def build_staged_loader(
    preflight: "Preflight",
    plan: "Plan",
    chat_encoder: "ChatEncoder",
    get_feature_fn: StageFeatureFn,
) -> "StagedLoader":
    """Build the batches of every stage, of listed or streamed examples.

    Args:
        preflight: the examples, or the sources that are streamed.
        plan: a run without stages is one stage.
        chat_encoder: of the model.
        get_feature_fn: the features of a stage.

    Raises:
        DataError: a listed example cannot be encoded, unless the plan skips such.
    """
    from dlm.batching.samplers import BucketBatchSampler, build_batches
    from dlm.batching.staged_loader import StagedLoader
    from dlm.batching.stream_sampler import StreamBatchSampler, build_stream_batches
    from dlm.data.split import select_examples
    from dlm.data.streaming import open_stream_sources

    config = preflight.document.config.training
    sources = open_stream_sources(preflight.document) if config.uses_streaming else ()
    stages = [
        (stage.example_patterns, stage.use_cached_features, stage.num_steps)
        for stage in plan.training.stages
    ] or [((), plan.batches.use_cached_features, plan.training.num_steps)]
    samplers: list[tuple[BucketBatchSampler | StreamBatchSampler, int]] = []
    for number, (patterns, use_cached_features, num_steps) in enumerate(stages):
        batch_plan = replace(plan.batches, use_cached_features=use_cached_features)
        feature_fn = get_feature_fn(number, use_cached_features)
        sampler: BucketBatchSampler | StreamBatchSampler
        if config.uses_streaming:
            filter_fn = _make_stream_filter(config, preflight.held_out_examples, patterns)
            sampler = build_stream_batches(sources, batch_plan, chat_encoder, feature_fn, filter_fn)
        else:
            examples = list(select_examples(preflight.train_examples, patterns))
            sampler = build_batches(examples, batch_plan, chat_encoder, feature_fn)
        samplers.append((sampler, num_steps))
    return StagedLoader(samplers)


def _make_stream_filter(
    config: "TrainingConfig", held_out: Sequence[Example], patterns: Sequence[str]
) -> Callable[[Example], Example | None]:
    """What is trained on of a stream: examples of the stage that are not related to held-out ones.

    With a teacher they get their transcripts.
    """
    from dlm.data.load import attach_transcripts, find_missing_transcripts
    from dlm.data.split import select_examples

    recordings = {
        segment.recording_key for example in held_out for segment in example.audio_segments
    }
    speakers = {example.speaker for example in held_out} - {None}

    def filter_example(example: Example) -> Example | None:
        if any(segment.recording_key in recordings for segment in example.audio_segments):
            return None
        if config.split_by == "speaker" and example.speaker in speakers:
            return None
        if not select_examples((example,), patterns):
            return None
        if not config.teacher.weight:
            return example
        (example,) = attach_transcripts((example,), (example,))
        for issue in find_missing_transcripts((example,)):
            raise DataError(issue.what, where=issue.where, hint=issue.hint, code=issue.code)
        return example

    return filter_example


class _RecordingCopier:
    """Copies training recordings into the store when they are opened for features.

    A recording is opened twice in all: by the scan, and here.
    """

    def __init__(self, segments: "Mapping[RecordingKey, AudioSegment]", store: "Store") -> None:
        self._segments, self._store = segments, store

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


class _StageExtractors:
    """The feature extractors of a run.

    Attributes:
        eval_extractor: for held-out examples: cached as long as the encoder is not trained.
    """

    def __init__(
        self,
        plan: "Plan",
        document: "Document",
        encode_fn: "EncodeFn",
        cache_dir: Path,
        on_open: "RecordingFn",
    ) -> None:
        from dlm.data.synthetic import list_noise_recordings
        from dlm.features.extractor import (
            FEATURE_MEMORY_BYTES,
            AudioFeatureExtractor,
            WaveformCache,
        )

        memory_bytes = 0 if document.config.training.uses_streaming else FEATURE_MEMORY_BYTES
        self._plan = plan
        make_extractor = partial(
            AudioFeatureExtractor,
            plan.batches.spec,
            auto_resample=plan.batches.auto_resample,
            max_windows=plan.batches.max_windows,
            on_open=on_open,
        )
        self._encoding = make_extractor(encode_fn=encode_fn, cache_dir=cache_dir)
        self._plain = make_extractor(memory_bytes=memory_bytes)
        self._waveform_cache = WaveformCache(memory_bytes)
        self._noise = list_noise_recordings(document) if plan.batches.augmentation else ()
        encoder_trained = plan.model.adapter.is_trainable("encoder")
        self.eval_extractor = self._plain if encoder_trained else self._encoding

    def get_feature_fn(
        self, stage: int, use_cached_features: bool
    ) -> "FeatureFn | AugmentedExtractor":
        """Return the features of a stage: augmented in every epoch, cached, or neither."""
        from dlm.features.augment import Augmenter
        from dlm.features.extractor import AugmentedExtractor

        augmentation = self._plan.batches.augmentation
        if augmentation is None:
            return self._encoding if use_cached_features else self._plain
        seed, audio_spec = f"{self._plan.model.seed}/{stage}", self._plan.batches.spec.audio_spec
        augmenter = Augmenter(augmentation, audio_spec, seed, self._noise)
        return AugmentedExtractor(self._plain, augmenter, self._waveform_cache)


def _filter_encodable(
    examples: Sequence[Example], chat_encoder: "ChatEncoder", bad_examples: "BadExampleCounter"
) -> tuple[Example, ...]:
    """The held-out examples that can be encoded: what is wrong shows before the run, not after."""
    encodable = []
    for example in examples:
        try:
            chat_encoder.encode_example(example)
            encodable.append(example)
        except DataError as error:
            bad_examples.record_error(error, example.location)
    return tuple(encodable)


def _filter_decodable(
    engine: "InferenceEngine", bad_examples: "BadExampleCounter", examples: Sequence[Example]
) -> list[Example]:
    """The examples whose audio can be decoded now; the others are counted, and not scored."""
    decodable = []
    for example in examples:
        try:
            for segment in example.audio_segments:
                engine.extractor(segment)
            decodable.append(example)
        except DataError as error:
            bad_examples.leave_unscored(error, example.location)
    return decodable


class _VersionComparer:
    """Compares the version that a run makes with the one in use, and with the base.

    All are scored on the same held-out clips, the others before the first step, when no second
    model is in memory. What one scored is kept in the store, and used again while the clips and
    the normalizer are the same.
    """

    def __init__(
        self,
        store: "Store",
        preflight: "Preflight",
        run_record: "RunRecord",
        held_out: Sequence[Example],
        bad_examples: "BadExampleCounter",
    ) -> None:
        self._store, self._path, self._record = store, preflight.document.path, run_record
        self._bad_examples = bad_examples
        self._audio_config = preflight.document.config.training.audio
        self._current = store.get_current_version()
        self._clips = _name_examples(held_out)
        self._references: dict[str, ClipScores | str] = {}
        self._new: ClipScores | None = None
        model_plan, revision = preflight.require_plan().model, run_record.base_model_revision
        # without a revision, a projector may begin with random weights, those of the run's seed
        weights = (
            run_record.base_model,
            revision,
            model_plan.weights_dtype,
            model_plan.adapter.bits,
        )
        digest = hashlib.sha256(repr(weights).encode()).hexdigest()
        self._base_name = f"base-{digest}" if revision else None

    def score_current_version(self, device: str) -> None:
        """Score the version in use, if there is one and it is not known."""
        if self._current is None or not self._clips:
            return
        current = self._current
        scores = self._read_scores(current.sha256)
        is_other_base = current.base_model != self._record.base_model
        if is_other_base and (scores is None or scores.metric == "loss"):
            self._references[current.name] = f"{current.name} is of another base"
        elif scores:
            self._references[current.name] = scores
        else:
            try:
                self._references[current.name] = self._score_version(current, device)
            except DlmError as error:  # a damaged version is no reason not to train
                self._references[current.name] = f"{current.name} cannot be scored: {error.what}"

    def score_base(self, engine: "InferenceEngine") -> None:
        """Score the base, which the model still is before its first step."""
        if self._current is None or not self._clips:
            return
        scores = self._read_scores(self._base_name) if self._base_name else None
        if scores is None:
            scores = self._score_clips(self._pad_to_window(engine), "the base")
            if self._base_name:
                self._store.save_clip_scores(self._base_name, scores)
        self._references["base"] = scores

    def _pad_to_window(self, engine: "InferenceEngine") -> "InferenceEngine":
        """The engine for an untuned base; of a Whisper, clips are completed to its window."""
        from dlm.features.extractor import AudioFeatureExtractor
        from dlm.plan.languages import set_padding

        spec = engine.model.spec
        if spec.audio_spec.pad_mode != "none" or not spec.is_encoder_decoder:
            return engine
        audio_config = self._audio_config
        extractor = AudioFeatureExtractor(
            set_padding(spec, pad_to_window=True),
            auto_resample=audio_config.auto_resample,
            max_windows=audio_config.max_windows,
        )
        return replace(engine, extractor=extractor)

    def score_new_version(
        self, engine: "InferenceEngine", examples: Sequence[Example], report: "EvaluationReport"
    ) -> None:
        """Score the trained model by its evaluation at the end of the run."""
        from dlm.inference.comparison import score_clips

        spoken = [id(example) for example in examples if example.task == "transcribe"]
        utterances = dict(zip(spoken, report.utterances, strict=True))
        evaluated = {id(example) for example in examples}
        clips = {name: each for name, each in self._clips.items() if id(each) in evaluated}
        if clips:
            scored = [utterances[id(each)] for each in clips.values() if id(each) in utterances]
            self._new = score_clips(engine, clips, scored)

    def add_comparison(self, events: "Iterator[TrainingEvent]") -> "Iterator[TrainingEvent]":
        """The events, the last one with the comparison where there is a version in use."""
        from dlm.inference.comparison import compare_scores
        from dlm.training.events import TrainingFinished, VersionComparison

        for event in events:
            if isinstance(event, TrainingFinished) and event.reason == "done" and self._current:
                name = self._current.name
                comparison = VersionComparison(name, "", reason="no clips are held out")
                if self._new:
                    comparison = compare_scores(self._new, self._references, current_name=name)
                event = replace(event, comparison=comparison)
            yield event

    def save_scores(self) -> None:
        """Keep the scores of the new version, which is committed, for the next comparison."""
        if self._new:
            self._store.save_clip_scores(self._store.list_versions()[-1].sha256, self._new)

    def _score_version(self, version: "Version", device: str) -> "ClipScores":
        from dlm.commands.preflight import resolve_version
        from dlm.inference.engine import load_engine

        document, spec, _ = resolve_version(self._path, version.name)
        config = document.config.training
        engine = load_engine(spec, version.path, device=device, config=config)
        scores = self._score_clips(engine, version.name)
        self._store.save_clip_scores(version.sha256, scores)
        return scores

    def _score_clips(self, engine: "InferenceEngine", name: str) -> "ClipScores":
        from dlm.inference.comparison import score_clips

        _logger.info("scoring %s on %d held-out clips", name, len(self._clips))
        examples = _filter_decodable(engine, self._bad_examples, list(self._clips.values()))
        decodable = {id(example) for example in examples}
        clips = {key: each for key, each in self._clips.items() if id(each) in decodable}
        return score_clips(engine, clips)

    def _read_scores(self, name: str) -> "ClipScores | None":
        """The scores that were kept, if they are of all clips, by the same normalizer."""
        from dlm.inference.metrics import NORMALIZER_NAME

        scores = self._store.read_clip_scores(name)
        is_usable = scores and scores.normalizer in ("", NORMALIZER_NAME)
        return (
            scores if is_usable and scores and self._clips.keys() <= scores.scores.keys() else None
        )


def _name_examples(examples: Sequence[Example]) -> dict[str, Example]:
    """The examples by a hash of their text and audio; without those whose audio is gone."""
    from dlm.data.audio_scan import fingerprint_recording

    named = {}
    for example in examples:
        with suppress(DataError):
            hashes = {
                segment.recording_key: (
                    segment.sha256 or segment.fingerprint or fingerprint_recording(segment)
                )
                for segment in example.audio_segments
            }
            named[_hash_examples((example,), hashes)] = example
    return named


def _score_held_out(
    engine: "InferenceEngine", examples_fn: ExamplesFn, comparer: _VersionComparer
) -> tuple[dict[str, float], int]:
    """Scores at the end of a run, and the number of examples.

    Whatever goes wrong here costs the scores, and not the version.
    """
    from dlm.inference.evaluate import evaluate_model

    try:
        examples = examples_fn()
        if not examples:
            _logger.warning("not scored: no clip to score it on can be read")
            return {}, 0
        report = evaluate_model(engine, examples)
        comparer.score_new_version(engine, examples, report)
    except (DlmError, RuntimeError, MemoryError) as error:  # RuntimeError: a GPU without memory
        reason = error.what if isinstance(error, DlmError) else error
        _logger.warning("not scored: %s; `dlm eval` scores the version", reason)
        return {}, 0
    return report.scores, len(examples)


def _measure_audio_gap(
    engine: "InferenceEngine", examples_fn: ExamplesFn
) -> tuple[float, float, int] | None:
    """Loss, loss with shuffled audio and number of examples; None with a single recording."""
    from dlm.inference.evaluate import compute_losses

    examples = examples_fn()
    if not examples:
        return None
    scores = compute_losses(engine, examples)
    return (scores["loss"], scores["shuffled_loss"], len(examples)) if "gap" in scores else None


def _save_final_adapter(
    engine: "InferenceEngine", plan: "Plan", copier: _RecordingCopier, folder: Path
) -> None:
    from dlm.models.adapters import save_adapter

    copier.copy_rest()
    save_adapter(engine.model, plan.model.adapter, folder)


def _add_skip_events(
    events: "Iterator[TrainingEvent]",
    preflight: "Preflight",
    loader: "StagedLoader",
    bad_examples: "BadExampleCounter",
) -> "Iterator[TrainingEvent]":
    """The events, with which examples were skipped: before the first step, and up to the last."""
    from dlm.training.events import ExamplesSkipped, TrainingFinished, TrainingStarted

    skipped_before = tuple(map(str, preflight.skipped_issues))
    num_examples = len(preflight.train_examples) + len(preflight.held_out_examples)
    for event in events:
        skipped = {**loader.skipped_issues, **bad_examples.issues}
        if isinstance(event, TrainingFinished) and skipped:
            num_bad, num_seen = loader.num_bad_and_seen
            yield ExamplesSkipped(
                event.step,
                max(num_bad + len(bad_examples.issues), len(skipped)),
                num_seen or num_examples,
                tuple(map(str, skipped.values())),
            )
        yield event
        if isinstance(event, TrainingStarted) and skipped_before:
            total = num_examples + len(skipped_before)
            yield ExamplesSkipped(0, len(skipped_before), total, skipped_before)


def _get_recordings(examples: Sequence[Example]) -> "dict[RecordingKey, AudioSegment]":
    """A segment of each recording."""
    return {
        segment.recording_key: segment for example in examples for segment in example.audio_segments
    }


def _make_run_record(preflight: "Preflight", plan: "Plan") -> "RunRecord":
    """What the run starts from: with the same record, it makes the same version."""
    from dlm.data.audio_io import get_audio_backends
    from dlm.data.audio_scan import fingerprint_recording
    from dlm.store.records import RecordingHash, RunRecord

    segments = _get_recordings(preflight.train_examples)
    recording_hashes = {
        key: segment.sha256 or segment.fingerprint or fingerprint_recording(segment)
        for key, segment in segments.items()
    }
    # where the model is stored, and how much of it was there for the plan, make no difference
    spec = {**asdict(plan.model.spec), "source": None, "sizes": None, "megabytes": None}
    if not spec["languages"]:
        del spec["languages"]  # runs of earlier versions, which have no such field, resume
    if spec["task"] == "transcribe":
        del spec["task"]  # the same
    data_sha256 = _hash_examples(preflight.train_examples, recording_hashes)
    recordings = tuple(
        RecordingHash(segment.name, recording_hashes[key]) for key, segment in segments.items()
    )
    if preflight.document.config.training.uses_streaming:
        data_sha256, recordings = _add_shards(preflight.document, data_sha256, recordings)
    return RunRecord(
        document_sha256=preflight.document.sha256,
        data_sha256=data_sha256,
        plan={
            "model": {**asdict(plan.model), "spec": spec},
            "batches": {**asdict(plan.batches), "spec": plan.batches.spec.key},
            "training": _describe_training(plan.training),
        },
        seed=plan.model.seed,
        base_model=plan.model.spec.key,
        base_model_revision=plan.model.spec.revision,
        train_recordings=recordings,
        overrides=dict(preflight.overrides),
        audio_backends=get_audio_backends(),
    )


def _describe_training(training_plan: "TrainingPlan") -> dict[str, Any]:
    """What of a training plan makes another version.

    CTC is left out where it is off: runs of earlier versions, which have no such field, resume.
    """
    described = {**asdict(training_plan), "save_steps": None, "audio_gap_steps": None}
    for part in (described, *described["stages"]):
        if not part["ctc_weight"]:
            del part["ctc_weight"]
    return described


def _hash_train_recordings(preflight: "Preflight") -> "Preflight":
    """Hash the recordings that are copied, where the scan could not know that they would be.

    That is so if all that might have been trained on is too large to be copied, and what is left
    once the examples are split by content and bad ones are dropped is not.
    """
    from dlm.data.audio_io import hash_recording
    from dlm.data.audio_scan import attach_recordings

    hashes = {
        key: hash_recording(segment)
        for key, segment in _get_recordings(preflight.train_examples).items()
        if not segment.sha256
    }
    if not hashes:
        return preflight

    def add_hash(segment: AudioSegment) -> "Recording | None":
        sha256 = hashes.get(segment.recording_key, segment.sha256)
        return replace(segment.recording, sha256=sha256) if segment.recording else None

    return replace(preflight, train_examples=attach_recordings(preflight.train_examples, add_hash))


def _hash_examples(
    examples: tuple[Example, ...], recording_hashes: "Mapping[RecordingKey, str]"
) -> str:
    """One hash of all text and audio."""
    digest = hashlib.sha256()
    for example in examples:
        weight = () if example.weight == 1 else (f"{example.weight:g}",)
        content = [
            part for message in example.messages for part in (message.role, *message.content)
        ]
        for part in (example.language or "", *weight, *content):
            if isinstance(part, AudioSegment):
                sha256 = recording_hashes[part.recording_key]
                part = f"{sha256} {part.start} {part.end} {part.transcript or ''}"
            digest.update(f"{len(part)} {part}".encode())
    return digest.hexdigest()


def _add_shards(
    document: "Document", data_sha256: str, recordings: "tuple[RecordingHash, ...]"
) -> "tuple[str, tuple[RecordingHash, ...]]":
    """The data of a stream: the document's own recordings, and shards in place of all others."""
    from dlm.data.load import iter_document_examples
    from dlm.data.streaming import open_stream_sources
    from dlm.store.records import RecordingHash

    own_names = {
        segment.name
        for example in iter_document_examples(document)
        if isinstance(example, Example)
        for segment in example.audio_segments
    }
    names = [shard.name for source in open_stream_sources(document) for shard in source.shards]
    shards = tuple(
        RecordingHash(name, _fingerprint_shard(document, name))
        for name in names
        if name != document.path.name
    )
    # the text that released versions hashed: runs of theirs resume
    spelled = tuple(f"Recording(path={shard.path!r}, sha256={shard.sha256!r})" for shard in shards)
    tail = "," if len(spelled) == 1 else ""
    text = f"({data_sha256!r}, ({', '.join(spelled)}{tail}))"
    own_recordings = tuple(recording for recording in recordings if recording.path in own_names)
    return hashlib.sha256(text.encode()).hexdigest(), own_recordings + shards


def _fingerprint_shard(document: "Document", shard: str) -> str:
    """A sha256 of the size and the modification time of a shard; empty if it is not a file."""
    from dlm.data.readers.base import resolve_path

    path = resolve_path(document, shard)
    if not path.is_file():
        return ""
    stat = path.stat()
    return hashlib.sha256(f"{stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()


def _find_unfinished_run(
    store: "Store", run_record: "RunRecord", path: Path, *, resume: bool, fresh: bool
) -> "Run | None":
    """The run to resume; None for a new one.

    Raises StoreError rather than lose a run or mix it with another plan.
    """
    from dlm.store.runs import (
        abandon_run,
        find_resumable_run,
        list_runs,
        require_whole_checkpoint,
    )

    run = find_resumable_run(store)
    if run is None:
        finished = [other for other in list_runs(store) if resume and other.version]
        if finished and not finished[-1].record.find_changed_fields(run_record):
            return finished[-1]
        return None
    if fresh:
        abandon_run(store, run)
        return None
    where = f"{path}: run {run.id}"
    if not resume:
        num_steps = run.step or 0
        what = f"was cut short after {num_steps} step{'s' * (num_steps != 1)}"
        hint = "continue with --resume, or start over with --fresh"
        raise StoreError(what, where=where, hint=hint, code="store.unfinished_run")
    changed_fields = run.record.find_changed_fields(run_record)
    if changed_fields:
        what = f"started from another {' and '.join(changed_fields)}"
        options = " ".join(f"--set {name}={value}" for name, value in run.record.overrides.items())
        hint = f"put that back{f' ({options})' if options else ''}, or start over with --fresh"
        raise StoreError(what, where=where, hint=hint, code="store.changed_run")
    if not run.version:
        require_whole_checkpoint(run)
    return run


def _add_resume_note(run: "Run | None", preflight: "Preflight") -> "Preflight":
    """What --resume came to, as an issue: nothing to resume, or other numbers than without."""
    if run and not run.version:
        from dlm.models.load import get_num_threads

        before, now = run.record.num_threads, get_num_threads()
        if before in (None, now):
            return preflight
        what = f"the run began with {before} CPU threads, and now there are {now}"
        note = Issue(
            str(preflight.document.path),
            f"{what}: its weights are rounded otherwise",
            f"for the same to the bit, set OMP_NUM_THREADS={before}",
            fatal=False,
            code="training.other_threads",
        )
        return replace(preflight, issues=(*preflight.issues, note))
    what, hint = "nothing was saved of an earlier run", "starting over"
    if run and run.version:
        what, hint = "the last run came to its end", f"its version is {run.version.name}"
    note = Issue(
        str(preflight.document.path), what, hint, fatal=False, code="training.nothing_to_resume"
    )
    return replace(preflight, issues=(*preflight.issues, note))
