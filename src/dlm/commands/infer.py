"""The commands `prompt`, `transcribe` and `eval`: a version, or the base alone, used on recordings.

    prompt [mine.dlm] "What is said?" --audio a.m4a     transcribe [mine.dlm] a.m4a b.wav talks/
                                                        transcribe talks/ --srt --out subtitles/

Without a document, `prompt` and `transcribe` use the base inside the package. They take recordings
at any rate, with any channels. Audio, options and context length are checked before any weights are
loaded.
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

from dlm.commands.options import (
    AnyPath,
    BaseOnlyOption,
    DeviceOption,
    DocumentArg,
    ParamInfo,
    ProgressFn,
    VersionOption,
    is_document_path,
    make_exclusive_error,
    require_range,
    to_paths,
)
from dlm.data.types import LANGUAGE_CODE_HINT, LANGUAGE_CODE_RE, AudioSegment
from dlm.errors import AudioError, DataError, UsageError
from dlm.io import make_folder, wrap_write_errors, write_atomic

if TYPE_CHECKING:
    from dlm.config.parser import Document
    from dlm.config.schema import TrainingConfig
    from dlm.data.load import SourceReport
    from dlm.data.types import Example
    from dlm.inference.engine import InferenceEngine
    from dlm.inference.evaluate import EvaluationReport
    from dlm.inference.transcribe import Transcript
    from dlm.plan.model_spec import ModelSpec
    from dlm.store.records import Version

STDIN_PATH = Path("-")
LINE_LOCATION_RE = re.compile(r"(?P<file>.+):(?P<line>\d+)")


@dataclass(frozen=True)
class InferenceTarget:
    """The model that a command uses.

    Attributes:
        document: as it was when the version was trained.
        spec: the base.
        version: None for the base alone.
        device: "cpu" or "cuda".
    """

    document: "Document"
    spec: "ModelSpec"
    version: "Version | None"
    device: str

    @property
    def training_config(self) -> "TrainingConfig":
        """The training settings, which hold for inference too."""
        return self.document.config.training

    @property
    def version_dir(self) -> Path | None:
        """The folder of the version."""
        return self.version.path if self.version else None

    def load_engine(self, *, cache_encoder_output: bool = False) -> "InferenceEngine":
        """Load the model. Raises ModelError."""
        from dlm.inference.engine import load_engine

        return load_engine(
            self.spec,
            self.version_dir,
            device=self.device,
            config=self.training_config,
            cache_encoder_output=cache_encoder_output,
        )


def prompt(
    path: Annotated[
        AnyPath | None,
        ParamInfo(
            "A document, whose version in use answers. Left out, the base inside the package"
            " does: a single argument that does not end in .dlm is the question.",
            metavar="DOCUMENT",
        ),
    ] = None,
    question: Annotated[
        str | None, ParamInfo("The question; read from stdin by default.", metavar="QUESTION")
    ] = None,
    *,
    audio: Annotated[AnyPath | Sequence[AnyPath], ParamInfo("A recording, or several.")] = (),
    max_tokens: Annotated[int, ParamInfo("Maximum length of the answer, in tokens.")] = 256,
    temperature: Annotated[
        float,
        ParamInfo(
            "0 takes the most likely token, 1 samples from the model's probabilities, more"
            " flattens them.",
            ("--temperature", "--temp"),
        ),
    ] = 0.0,
    top_p: Annotated[
        float, ParamInfo("Sample from the most likely tokens of this total probability.")
    ] = 1.0,
    top_k: Annotated[
        int | None, ParamInfo("Sample from this many most likely tokens; from all by default.")
    ] = None,
    seed: Annotated[int, ParamInfo("Random seed of sampling.")] = 0,
    version: VersionOption = None,
    bare: BaseOnlyOption = False,
    device: DeviceOption = None,
    image: Annotated[
        AnyPath | Sequence[AnyPath], ParamInfo("Images are not supported.", hidden=True)
    ] = (),
    read_stdin: Callable[[], str | None] = lambda: None,
) -> Iterator[str]:
    """Ask about one or more recordings; the answer is streamed."""
    audio_paths = to_paths(audio)
    if path is not None and question is None and not is_document_path(path):
        path, question = None, str(path)
    if to_paths(image) and audio_paths:
        what = "--image and --audio cannot be combined (each targets a different modality)"
        raise UsageError(what, hint="drop --image", code="usage.no_images")
    if not audio_paths:
        what = "audio-language base requires at least one --audio PATH"
        raise UsageError(what, hint="add --audio clip.wav", code="usage.audio_missing")
    _require_audio_files(audio_paths)
    if question is None:
        question = read_stdin()
    if not question or not question.strip():
        hint = "pass a question, or pipe one on stdin"
        raise UsageError("empty query", hint=hint, code="usage.empty_question")
    _validate_sampling(max_tokens, temperature, top_p)
    require_range("--top-k", top_k, minimum=1)
    require_range("--seed", seed, minimum=0)
    target = _resolve_recording_target(path, version, base_only=bare, device=device)
    segments = [AudioSegment(audio_path) for audio_path in audio_paths]
    validate_audio_inputs(segments, target)
    _check_context_length(segments, target)

    from dlm.inference.engine import build_prompt_messages, stream_answer
    from dlm.models.generate import GenerationConfig

    messages = build_prompt_messages(
        question, audio_paths, target.spec, target.document.config.system_prompt
    )
    generation_config = GenerationConfig(max_tokens, temperature, top_p, top_k, seed)
    language = target.training_config.audio.language
    yield from stream_answer(target.load_engine(), messages, generation_config, language)


def transcribe(
    path: Annotated[
        AnyPath | None,
        ParamInfo(
            "A document, whose version in use transcribes: it ends in .dlm. Left out, the base"
            " inside the package does.",
            metavar="DOCUMENT",
        ),
    ] = None,
    recordings: Annotated[
        AnyPath | Sequence[AnyPath],
        ParamInfo("Recordings, or folders of them; - is one on stdin.", metavar="FILE|DIR"),
    ] = (),
    *,
    language: Annotated[
        str | None,
        ParamInfo(
            "Language spoken in them, such as fr, for a base that takes one; by default"
            " training.audio.language, or detected."
        ),
    ] = None,
    segment: Annotated[
        str,
        ParamInfo(
            "Cut long recordings at low energy, where silero finds no speech, or evenly.",
            metavar="energy|silero|none",
        ),
    ] = "energy",
    timestamps: Annotated[
        bool, ParamInfo("Also the times of phrases within a segment, which a Whisper writes.")
    ] = False,
    out: Annotated[
        AnyPath | None,
        ParamInfo(
            "Write a file for each recording into this folder: .txt, or as --srt and --vtt say.",
            metavar="FOLDER",
        ),
    ] = None,
    beside: Annotated[
        bool, ParamInfo("Write that file beside its recording; none that exists is replaced.")
    ] = False,
    version: VersionOption = None,
    bare: BaseOnlyOption = False,
    device: DeviceOption = None,
    output_format: Annotated[
        str, ParamInfo("text, srt or vtt, in the files that are written.")
    ] = "text",
    read_stdin_bytes: Annotated[
        Callable[[], bytes], ParamInfo("Returns the bytes of the recording that - stands for.")
    ] = lambda: b"",
) -> "Iterator[Transcript]":
    """Write down what is said in recordings of any length."""
    from dlm.data.segmentation import SEGMENTATION_METHODS
    from dlm.plan.languages import make_other_language_error

    paths = to_paths(recordings)
    document_path = path if path is not None and is_document_path(path) else None
    if path is not None and document_path is None:
        paths = [Path(path), *paths]
    if not paths:
        what, hint = "there is no recording to transcribe", "name a recording, or a folder"
        raise UsageError(what, hint=hint, code="usage.audio_missing")
    _require_audio_files(path for path in paths if path != STDIN_PATH)
    if language is not None and not LANGUAGE_CODE_RE.fullmatch(language):
        what = f"'{language}' is not a language code of ISO 639-1"
        raise UsageError(what, hint=LANGUAGE_CODE_HINT, code="usage.bad_language")
    if segment not in SEGMENTATION_METHODS:
        hint = f"choose {' or '.join(SEGMENTATION_METHODS)}"
        raise UsageError(f"--segment is {segment}", hint=hint, code="usage.unknown_choice")
    if segment == "silero":
        from dlm.inference.vad import require_vad_extra

        require_vad_extra()
    outputs = _plan_outputs(paths, Path(out) if out else None, output_format, beside=beside)
    target = _resolve_recording_target(document_path, version, base_only=bare, device=device)
    language = language or target.training_config.audio.language
    if language and (error := make_other_language_error(target.spec, language, "--language")):
        raise error
    if timestamps and not target.spec.is_encoder_decoder:
        hint = "take --timestamps out, or use a Whisper, such as whisper-base"
        what = f"{target.spec.key} writes no timestamps"
        raise UsageError(what, hint=hint, code="usage.no_timestamps")
    with TemporaryDirectory(prefix="dlm-") as folder:
        stdin_file = Path(folder, str(STDIN_PATH))
        if STDIN_PATH in outputs:
            stdin_file.write_bytes(read_stdin_bytes())
        names = {stdin_file if name == STDIN_PATH else name: name for name in outputs}
        segments = (AudioSegment(file, display_path=str(name)) for file, name in names.items())
        validate_audio_inputs(segments, target, any_length=True)
        if out is not None:
            with wrap_write_errors(Path(out)):
                make_folder(Path(out))

        from dlm.inference.transcribe import transcribe_files

        engine = target.load_engine()
        for transcript in transcribe_files(
            engine,
            list(names),
            segmentation=segment,
            language=language,
            timestamps=timestamps,
        ):
            name = names[transcript.path]
            output = outputs[name]
            if output is not None:
                write_atomic(output, transcript.format_file(output_format))
            yield replace(transcript, path=name, output=output)


def evaluate(
    path: DocumentArg,
    *,
    data: Annotated[
        AnyPath | None, ParamInfo("Other clips: a folder, or a file that lists them.")
    ] = None,
    manual_loss: Annotated[
        str | None,
        ParamInfo(
            "Print the loss of each token of one clip, named by its location or recording.",
            metavar="CLIP",
        ),
    ] = None,
    version: VersionOption = None,
    bare: BaseOnlyOption = False,
    device: DeviceOption = None,
    progress: ProgressFn | None = None,
) -> "EvaluationReport":
    """Measure word errors and losses on held-out clips."""
    from dlm.plan.languages import make_language_error

    target = resolve_inference_target(Path(path), version, base_only=bare, device=device)
    data_path = Path(data) if data is not None else None
    examples, sources = _load_eval_examples(target, data_path, example_name=manual_loss)
    for example in examples:
        if error := make_language_error(target.spec, example):
            raise error
    validate_audio_inputs((each for example in examples for each in example.audio_segments), target)

    from dlm.inference.evaluate import EvaluationReport, compute_token_losses, evaluate_model

    engine = target.load_engine()
    if not manual_loss:
        return replace(evaluate_model(engine, examples, progress=progress), sources=sources)
    example_loss = compute_token_losses(engine, examples[0])
    scores = {"loss": example_loss.trainer_loss}
    return EvaluationReport(1, None, None, (), scores, sources, example_loss=example_loss)


def resolve_inference_target(
    path: Path,
    version_name: str | None,
    *,
    base_only: bool,
    device: str | None,
    base_is_fallback: bool = False,
) -> InferenceTarget:
    """Find the version or base to use, before any weights are loaded.

    Args:
        path: the document.
        version_name: None for the version in use.
        base_only: use the base alone.
        device: None for the fastest one.
        base_is_fallback: use the base alone where there is no version yet.

    Raises:
        UsageError: both a version and the base were asked for (`usage.exclusive_options`).
        StoreError: there is no such version.
    """
    from dlm.commands.preflight import resolve_document, resolve_version
    from dlm.config.parser import read_document
    from dlm.plan.hardware import choose_device, detect_hardware
    from dlm.plan.languages import set_padding
    from dlm.store.layout import get_dlm_home
    from dlm.store.versions import open_store

    if base_only and version_name:
        raise make_exclusive_error("--base", "--version")
    chosen_device = choose_device(device, detect_hardware(get_dlm_home()))
    if base_is_fallback and not version_name:
        store = open_store(read_document(path).config.dlm_id)
        base_only = base_only or store.get_current_version() is None
    if base_only:
        document, spec = resolve_document(path)
        if spec.is_encoder_decoder:
            spec = set_padding(spec, pad_to_window=True)
        return InferenceTarget(document, spec, None, chosen_device)
    document, spec, version = resolve_version(
        path, version_name, hint_suffix=", or use the base without an adapter with --base"
    )
    return InferenceTarget(document, spec, version, chosen_device)


def _resolve_recording_target(
    path: AnyPath | None, version_name: str | None, *, base_only: bool, device: str | None
) -> InferenceTarget:
    """What `prompt` and `transcribe` use, with recordings at any rate resampled.

    Refusing another rate belongs to training, where it hides mistakes in the data. Without a
    document the base inside the package is used, with the settings that `dlm init` writes.
    """
    from dlm.config.editor import PLACEHOLDER_PATH, render_new_document
    from dlm.config.overrides import apply_overrides
    from dlm.config.parser import parse_document
    from dlm.plan.hardware import choose_device, detect_hardware
    from dlm.plan.model_spec import BUNDLED_MODEL
    from dlm.plan.resolve import resolve_model_spec
    from dlm.store.layout import get_dlm_home

    if path is not None:
        target = resolve_inference_target(
            Path(path), version_name, base_only=base_only, device=device
        )
    elif version_name:
        what, hint = "--version needs a document", "name it first: mine.dlm"
        raise UsageError(what, hint=hint, code="usage.document_missing")
    else:
        spec = resolve_model_spec(BUNDLED_MODEL, Path())
        text = render_new_document(BUNDLED_MODEL, spec.default_adapter)
        chosen_device = choose_device(device, detect_hardware(get_dlm_home()))
        document = parse_document(text, PLACEHOLDER_PATH)
        target = InferenceTarget(document, spec, None, chosen_device)
    document = apply_overrides(target.document, {"training.audio.auto_resample": True})
    return replace(target, document=document)


def validate_audio_inputs(
    segments: Iterable[AudioSegment], target: InferenceTarget, *, any_length: bool = False
) -> None:
    """Refuse audio that the model cannot take, before its weights are loaded.

    Args:
        segments: spans of recordings.
        target: the model.
        any_length: whether audio longer than a window is cut later.

    Raises:
        AudioError: it cannot be opened, is at another sample rate, or is too long
            (`audio.too_long`).
    """
    from dlm.data.audio_io import choose_resampler, make_sample_rate_error, open_audio
    from dlm.data.quality_checks import describe_long_audio
    from dlm.plan.types import ONE_WINDOW_HINT

    audio_spec, audio_config = target.spec.audio_spec, target.training_config.audio
    for segment in dict.fromkeys(segments):
        with open_audio(segment) as stream:
            sample_rate = stream.info.sample_rate
            seconds = stream.num_samples / sample_rate
        too_long = seconds > audio_spec.window_seconds and not any_length
        if too_long and target.spec.is_encoder_decoder and audio_config.max_windows is None:
            what = f"it lasts {seconds:.1f} s, and {target.spec.key} takes "
            what += f"{audio_spec.window_seconds:g} s at once"
            raise DataError(
                what, where=segment.name, hint=ONE_WINDOW_HINT, code="data.not_one_window"
            )
        if audio_config.long_clips == "error" and too_long:
            what, hint, code = describe_long_audio(
                seconds, audio_spec.window_seconds, audio_config.long_clips
            )
            raise AudioError(what, where=segment.name, hint=hint, code=code)
        if sample_rate != audio_spec.sample_rate:
            if not audio_config.auto_resample:
                raise make_sample_rate_error(segment.name, sample_rate, audio_spec.sample_rate)
            choose_resampler()  # raises where no library resamples


def _require_audio_files(paths: Iterable[Path]) -> None:
    """Refuse recordings that are not there (`usage.audio_not_found`)."""
    for path in paths:
        try:
            path.stat()
        except (FileNotFoundError, NotADirectoryError) as error:
            what = f"audio not found: {path}"
            raise UsageError(what, hint="check the path", code="usage.audio_not_found") from error
        except OSError:
            continue  # opening it raises the reason


def _validate_sampling(max_tokens: int, temperature: float, top_p: float) -> None:
    """Refuse values that no sampling can use, NaN among them (`usage.out_of_range`)."""
    for flag, value, is_valid, hint in (
        ("--max-tokens", max_tokens, max_tokens >= 1, "1 is the least"),
        ("--temperature", temperature, temperature >= 0, "0 is the least"),
        ("--top-p", top_p, 0 < top_p <= 1, "choose a share above 0, at most 1"),
    ):
        if not is_valid:
            raise UsageError(f"{flag} is {value:g}", hint=hint, code="usage.out_of_range")


def _check_context_length(segments: Sequence[AudioSegment], target: InferenceTarget) -> None:
    """Refuse more audio than the model's context holds (`usage.too_much_audio`)."""
    from dlm.data.audio_io import open_audio
    from dlm.plan.audio_lengths import count_audio_tokens

    spec, max_windows = target.spec, target.training_config.audio.max_windows
    num_tokens = 0
    for segment in segments:
        with open_audio(segment) as stream:
            seconds = stream.num_samples / stream.info.sample_rate
        num_samples = round(seconds * spec.audio_spec.sample_rate)
        num_tokens += count_audio_tokens(num_samples, spec.audio_spec, max_windows)
    if num_tokens > spec.context_length:
        what = f"the audio takes {num_tokens:,} tokens"
        what += f", and {spec.key} has a context of {spec.context_length:,}"
        hint = "give fewer or shorter recordings"
        raise UsageError(what, hint=hint, code="usage.too_much_audio")


def _plan_outputs(
    paths: Sequence[Path], out: Path | None, output_format: str, *, beside: bool
) -> dict[Path, Path | None]:
    """The file that each recording's transcript is written to; None for stdout.

    Recordings in folders keep their place below `out`; those that differ only in their suffix keep
    it before the new one.

    Raises:
        UsageError: options that exclude each other (`usage.exclusive_options`), subtitles of
            several recordings on stdout (`usage.output_missing`), two recordings with one file or
            a file that exists (`usage.output_exists`).
    """
    if out is not None and beside:
        raise make_exclusive_error("--out", "--beside")
    if output_format == "json" and (out is not None or beside):
        raise make_exclusive_error("--json", "--out" if out is not None else "--beside")
    if beside and STDIN_PATH in paths:
        raise make_exclusive_error("--beside", "-")
    places = {file: place for path in paths for file, place in _list_audio_files(path)}
    if out is None and not beside:
        if output_format in ("srt", "vtt") and len(places) > 1:
            what = f"the subtitles of {len(places):,} recordings need a file each"
            hint = "write them with --out FOLDER, or --beside their recordings"
            raise UsageError(what, hint=hint, code="usage.output_missing")
        return dict.fromkeys(places)
    suffix = ".txt" if output_format == "text" else f".{output_format}"
    targets = {file: out / place if out else file for file, place in places.items()}
    num_stems = Counter(target.with_suffix("") for target in targets.values())
    outputs: dict[Path, Path | None] = {
        file: Path(f"{target}{suffix}")
        if num_stems[target.with_suffix("")] > 1
        else target.with_suffix(suffix)
        for file, target in targets.items()
    }
    written: set[Path | None] = set()
    for file, output in outputs.items():
        if output in written or (output is not None and os.path.lexists(output)):
            what = f"{output} exists" if output not in written else f"{output} is of two recordings"
            hint = "choose another folder with --out, or take it away"
            raise UsageError(what, where=str(file), hint=hint, code="usage.output_exists")
        written.add(output)
    return outputs


def _list_audio_files(path: Path) -> list[tuple[Path, Path]]:
    """A recording itself, or those in a folder; with their paths relative to its folder."""
    if path == STDIN_PATH:
        return [(path, Path("stdin"))]
    if not path.is_dir():
        return [(path, Path(path.name))]
    from dlm.data.file_globs import is_audio_file, list_files

    files = [file for file in list_files(path).files if is_audio_file(file)]
    if not files:
        what = "no recordings in this folder"
        raise DataError(what, where=str(path), hint="name another", code="data.no_recordings")
    return [(file, file.relative_to(path)) for file in files]


def _resolve_example_names(path: str, examples: "Sequence[Example]") -> Iterator[str]:
    """The names of what a path of the shell leads to: a recording, or a line of a file."""
    from glob import escape

    real_path = os.path.realpath(path)
    for example in examples:
        for segment in example.audio_segments:
            if os.path.realpath(segment.path) == real_path:
                yield escape(segment.name)
    if (match := LINE_LOCATION_RE.fullmatch(path)) and Path(match["file"]).is_file():
        yield escape(f"{Path(match['file']).name}:{match['line']}")


def _load_eval_examples(
    target: InferenceTarget, data: Path | None, *, example_name: str | None
) -> "tuple[list[Example], tuple[SourceReport, ...]]":
    """The held-out examples of the document, or all of `data` and its report.

    With `example_name`, the one of all examples that it names.
    """
    from dlm.commands.preflight import filter_usable_examples
    from dlm.config.data_schema import SourceConfig
    from dlm.config.overrides import apply_overrides
    from dlm.data.load import load_examples, load_source_examples
    from dlm.data.split import select_examples, train_eval_split

    if data is None:
        loaded = load_examples(target.document)
        examples = loaded.examples
        if not example_name:
            examples = train_eval_split(loaded, target.training_config)[1]
        hint = "set training.held_out, or give clips with --data FOLDER"
    else:
        if not data.exists():
            what, hint = f"clips not found: {data}", "name a folder or a list of clips"
            raise UsageError(what, hint=hint, code="usage.data_not_found")
        document = apply_overrides(target.document, {"training.sources_policy": "permissive"})
        loaded = load_source_examples(document, SourceConfig(path=str(data.absolute())))
        examples, hint = loaded.examples, "put recordings and their .txt transcripts there"
    if example_name:
        filter_usable_examples(target.document, target.spec, loaded, ())  # raises fatal issues
        names = (example_name, *_resolve_example_names(example_name, examples))
        examples = select_examples(examples, names)[:1]
        hint = "name a clip's location, such as my.dlm:12, or its recording"
    else:
        examples = filter_usable_examples(target.document, target.spec, loaded, examples)
    if not examples:
        raise DataError(
            "no clips to evaluate on",
            where=str(data or target.document.path),
            hint=hint,
            code="data.nothing_to_evaluate",
        )
    return list(examples), loaded.sources if data else ()
