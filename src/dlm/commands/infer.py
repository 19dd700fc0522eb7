"""prompt, transcribe, eval: using what was learned."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from dlm.commands.options import (
    BaseOnlyOption,
    DeviceOption,
    DocumentArg,
    ParamInfo,
    ProgressFn,
    VersionOption,
    require_range,
)
from dlm.data.types import LANGUAGE_CODE_HINT, LANGUAGE_CODE_RE, AudioSegment
from dlm.errors import DataError, UsageError

if TYPE_CHECKING:
    from dlm.config.parser import Document
    from dlm.config.schema import TrainingConfig
    from dlm.data.load import SourceReport
    from dlm.data.types import Example
    from dlm.inference.evaluate import EvaluationReport
    from dlm.inference.transcribe import Transcript
    from dlm.plan.model_spec import ModelSpec


@dataclass(frozen=True)
class InferenceTarget:
    """A document with the version to use: None is the bare base."""

    document: "Document"
    spec: "ModelSpec"
    version_dir: Path | None
    device: str

    @property
    def training_config(self) -> "TrainingConfig":
        """What the document asks of training, and so of everything that comes after it."""
        return self.document.config.training


def prompt(
    path: DocumentArg,
    question: Annotated[
        str | None, ParamInfo("What to ask; read from stdin when not said.", metavar="QUESTION")
    ] = None,
    *,
    audio: Annotated[
        tuple[Path, ...], ParamInfo("A recording; say it again for each of several.")
    ] = (),
    max_tokens: Annotated[int, ParamInfo("The longest answer, in tokens.")] = 256,
    temperature: Annotated[
        float,
        ParamInfo(
            "0 takes the likeliest word, 1 draws words by their shares, more is livelier.",
            ("--temperature", "--temp"),
        ),
    ] = 0.0,
    top_p: Annotated[float, ParamInfo("Draw from the likeliest words up to this share.")] = 1.0,
    top_k: Annotated[
        int | None, ParamInfo("Draw from so many of the likeliest words; from all when not said.")
    ] = None,
    seed: Annotated[int, ParamInfo("The seed of what is drawn.")] = 0,
    version: VersionOption = None,
    bare: BaseOnlyOption = False,
    device: DeviceOption = None,
    image: Annotated[tuple[Path, ...], ParamInfo("Images are not seen.", hidden=True)] = (),
) -> Iterator[str]:
    """Ask about one or more recordings; the answer is streamed."""
    if image and audio:
        what = "--image and --audio cannot be combined (each targets a different modality)"
        raise UsageError(what, hint="drop --image")
    if not audio:
        raise UsageError(
            "audio-language base requires at least one --audio PATH", hint="add --audio clip.wav"
        )
    _require_files(audio)
    if not question or not question.strip():
        raise UsageError("empty query", hint="pass a question, or pipe one on stdin")
    _validate_sampling(max_tokens, temperature, top_p)
    require_range("--top-k", top_k, minimum=1)
    require_range("--seed", seed, minimum=0)
    opened = _resolve_target(path, version, base_only=bare, device=device)
    heard = [AudioSegment(each) for each in audio]
    validate_audio_inputs(heard, opened)
    _check_context_length(heard, opened)

    from dlm.inference.engine import build_prompt_messages, load_engine, stream_answer
    from dlm.models.generate import GenerationConfig

    system = opened.document.config.system_prompt
    turns = build_prompt_messages(question, list(audio), opened.spec, system)
    how = GenerationConfig(max_tokens, temperature, top_p, top_k, seed)
    using = load_engine(
        opened.spec, opened.version_dir, device=opened.device, config=opened.training_config
    )
    yield from stream_answer(using, turns, how)


def transcribe(
    path: DocumentArg,
    recordings: Annotated[
        list[Path], ParamInfo("Recordings, or folders of them.", metavar="FILE|DIR")
    ],
    *,
    language: Annotated[
        str | None,
        ParamInfo(
            "Spoken in them, such as fr, for a base that is told it; detected when not said."
        ),
    ] = None,
    segment: Annotated[
        str,
        ParamInfo(
            "Cut a long recording where it is quiet, where nobody speaks, or every so often.",
            metavar="energy|silero|none",
        ),
    ] = "energy",
    version: VersionOption = None,
    bare: BaseOnlyOption = False,
    device: DeviceOption = None,
) -> "Iterator[Transcript]":
    """Write down what is said in recordings of any length."""
    from dlm.data.segmentation import SEGMENTATION_METHODS, find_vad_weights

    _require_files(recordings)
    if language is not None and not LANGUAGE_CODE_RE.fullmatch(language):
        what = f"'{language}' is not a language code of ISO 639-1"
        raise UsageError(what, hint=LANGUAGE_CODE_HINT)
    if segment not in SEGMENTATION_METHODS:
        raise UsageError(
            f"--segment is {segment}", hint=f"choose {' or '.join(SEGMENTATION_METHODS)}"
        )
    if segment == "silero":
        find_vad_weights()
    files = [file for recording in recordings for file in _list_audio_files(recording)]
    opened = _resolve_target(path, version, base_only=bare, device=device)
    validate_audio_inputs([AudioSegment(each) for each in files], opened, any_length=True)

    from dlm.inference.engine import load_engine
    from dlm.inference.transcribe import transcribe_files as heard

    using = load_engine(
        opened.spec, opened.version_dir, device=opened.device, config=opened.training_config
    )
    yield from heard(using, files, segmentation=segment, language=language)


def evaluate(
    path: DocumentArg,
    *,
    data: Annotated[
        Path | None, ParamInfo("Other clips: a folder, or a file that lists them.")
    ] = None,
    manual_loss: Annotated[
        str | None,
        ParamInfo(
            "Tell the loss of each token of one clip: its place or recording.", metavar="CLIP"
        ),
    ] = None,
    version: VersionOption = None,
    bare: BaseOnlyOption = False,
    device: DeviceOption = None,
    progress: ProgressFn | None = None,
) -> "EvaluationReport":
    """Count the words it gets wrong on clips it did not learn from."""
    opened = _resolve_target(path, version, base_only=bare, device=device)
    clips, sources = _load_eval_examples(opened, data, example_name=manual_loss)
    validate_audio_inputs([sound for clip in clips for sound in clip.audio_segments], opened)

    from dlm.inference.engine import load_engine
    from dlm.inference.evaluate import EvaluationReport
    from dlm.inference.evaluate import compute_token_losses as by_hand
    from dlm.inference.evaluate import evaluate_model as scored

    using = load_engine(
        opened.spec, opened.version_dir, device=opened.device, config=opened.training_config
    )
    if manual_loss:
        row = by_hand(using, clips[0])
        return EvaluationReport(
            1, None, None, (), {"loss": row.trainer_loss}, sources, example_loss=row
        )
    return replace(scored(using, clips, progress=progress), sources=sources)


def _resolve_target(
    path: Path, version_name: str | None, *, base_only: bool, device: str | None
) -> InferenceTarget:
    """The document, its base and the version to use, before anything heavy is loaded."""
    from dlm.commands.preflight import resolve_document, resolve_version
    from dlm.plan.hardware import choose_device, detect_hardware
    from dlm.store.layout import get_dlm_home

    chosen = choose_device(device, detect_hardware(get_dlm_home()))
    if base_only:
        if version_name:
            raise UsageError("--base and --version exclude each other", hint="give one of them")
        return InferenceTarget(*resolve_document(path), None, chosen)
    document, base, version = resolve_version(
        path, version_name, hint_suffix=", or ask the bare base with --base"
    )
    return InferenceTarget(document, base, version.path, chosen)


def _require_files(recordings: Iterable[Path]) -> None:
    """Refuse recordings that are not there: the command line is mistaken."""
    for recording in recordings:
        try:
            recording.stat()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise UsageError(f"audio not found: {recording}", hint="check the path") from error
        except OSError:
            continue  # it is told when the recording is opened


def _validate_sampling(max_tokens: int, temperature: float, top_p: float) -> None:
    """Refuse a way of answering that cannot be."""
    if max_tokens < 1:
        raise UsageError(f"--max-tokens is {max_tokens}", hint="1 is the least")
    if not temperature >= 0:
        raise UsageError(f"--temperature is {temperature:g}", hint="0 is the least")
    if not 0 < top_p <= 1:
        raise UsageError(f"--top-p is {top_p:g}", hint="choose a share above 0, at most 1")


def validate_audio_inputs(
    segments: "Iterable[AudioSegment]", target: InferenceTarget, *, any_length: bool = False
) -> None:
    """Refuse what cannot be heard, before the model is loaded; a `whole` sound has any length."""
    from dlm.data.audio_io import choose_resampler, make_sample_rate_error, open_audio
    from dlm.data.quality_checks import describe_long_audio

    rate, longest = target.spec.audio_spec.sample_rate, target.spec.audio_spec.window_seconds
    policy = target.training_config.audio.long_clips
    for sound in dict.fromkeys(segments):
        with open_audio(sound) as span:
            native, seconds = span.info.sample_rate, span.num_samples / span.info.sample_rate
        if policy == "error" and seconds > longest and not any_length:
            what, mend = describe_long_audio(seconds, longest, policy)
            raise DataError(what, where=sound.name, hint=mend)
        if native != rate and not target.training_config.audio.auto_resample:
            raise make_sample_rate_error(sound.name, native, rate)
        if native != rate:
            choose_resampler()


def _check_context_length(segments: "Sequence[AudioSegment]", target: InferenceTarget) -> None:
    """Refuse more sound than the base can think of at once."""
    from dlm.data.audio_io import open_audio
    from dlm.plan.audio_lengths import count_audio_tokens

    base, most = target.spec, target.training_config.audio.max_windows
    count = 0
    for sound in segments:
        with open_audio(sound) as span:
            samples = round(span.num_samples / span.info.sample_rate * base.audio_spec.sample_rate)
        count += count_audio_tokens(samples, base.audio_spec, most)
    if count > base.context_length:
        what = f"the sound takes {count:,} tokens, and {base.key} thinks of {base.context_length:,}"
        raise UsageError(what, hint="give fewer or shorter recordings")


def _list_audio_files(path: Path) -> list[Path]:
    """A recording itself, or those in a folder."""
    if not path.is_dir():
        return [path]
    from dlm.data.file_globs import is_audio_file, list_files

    found = [each for each in list_files(path).files if is_audio_file(each)]
    if not found:
        raise DataError("no recordings in this folder", where=str(path), hint="name another")
    return found


def _load_eval_examples(
    target: InferenceTarget, data: Path | None, *, example_name: str | None = None
) -> "tuple[list[Example], tuple[SourceReport, ...]]":
    """The held-out clips of the document, or all those of a source and what it left out.

    Or, of all of them, the `one` that is named.
    """
    from dlm.commands.preflight import filter_usable_examples
    from dlm.config.data_schema import SourceConfig
    from dlm.config.overrides import apply_overrides
    from dlm.data.load import load_examples, load_source_examples
    from dlm.data.split import select_examples, train_eval_split

    if data is None:
        gathered = load_examples(target.document)
        clips = (
            gathered.examples
            if example_name
            else train_eval_split(gathered, target.training_config)[1]
        )
        mend = "set training.held_out, or give clips with --data FOLDER"
    else:
        if not data.exists():
            raise UsageError(f"clips not found: {data}", hint="name a folder or a list of clips")
        document = apply_overrides(target.document, {"training.sources_policy": "permissive"})
        gathered = load_source_examples(document, SourceConfig(path=str(data.absolute())))
        clips = gathered.examples
        mend = "put recordings and their .txt transcripts there"
    if example_name:  # what is wrong with it is told when it is opened
        filter_usable_examples(target.document, target.spec, gathered, ())
        clips = select_examples(clips, [example_name])[:1]
        mend = "name a clip's place, such as my.dlm:12, or its recording"
    else:
        clips = filter_usable_examples(target.document, target.spec, gathered, clips)
    if not clips:
        where = str(data or target.document.path)
        raise DataError("no clips to evaluate on", where=where, hint=mend)
    return list(clips), gathered.sources if data else ()
