"""prompt, transcribe, eval: using what was learned."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from dlm.clips.clip import LANGUAGE, LANGUAGE_MEND, Sound
from dlm.errors import ClipError, UsageError
from dlm.verbs.say import Bare, Device, DocumentPath, Progress, Say, VersionName, within

if TYPE_CHECKING:
    from dlm.clips.clip import Clip
    from dlm.clips.haul import SourceReport
    from dlm.document.document import Document
    from dlm.document.settings import Training
    from dlm.plan.bases import Base
    from dlm.use.evaluate import Report
    from dlm.use.transcribe import Transcript


@dataclass(frozen=True)
class Opened:
    """A document with the version to use: None is the bare base."""

    document: "Document"
    base: "Base"
    version: Path | None
    device: str

    @property
    def asked(self) -> "Training":
        """What the document asks of training, and so of everything that comes after it."""
        return self.document.settings.training


def prompt(
    path: DocumentPath,
    question: Annotated[
        str | None, Say("What to ask; read from stdin when not said.", value="QUESTION")
    ] = None,
    *,
    audio: Annotated[tuple[Path, ...], Say("A recording; say it again for each of several.")] = (),
    max_tokens: Annotated[int, Say("The longest answer, in tokens.")] = 256,
    temperature: Annotated[
        float,
        Say(
            "0 takes the likeliest word, 1 draws words by their shares, more is livelier.",
            ("--temperature", "--temp"),
        ),
    ] = 0.0,
    top_p: Annotated[float, Say("Draw from the likeliest words up to this share.")] = 1.0,
    top_k: Annotated[
        int | None, Say("Draw from so many of the likeliest words; from all when not said.")
    ] = None,
    seed: Annotated[int, Say("The seed of what is drawn.")] = 0,
    version: VersionName = None,
    bare: Bare = False,
    device: Device = None,
    image: Annotated[tuple[Path, ...], Say("Images are not seen.", hidden=True)] = (),
) -> Iterator[str]:
    """Ask about one or more recordings; the answer is streamed."""
    if image and audio:
        what = "--image and --audio cannot be combined (each targets a different modality)"
        raise UsageError(what, mend="drop --image")
    if not audio:
        raise UsageError(
            "audio-language base requires at least one --audio PATH", mend="add --audio clip.wav"
        )
    _there(audio)
    if not question or not question.strip():
        raise UsageError("empty query", mend="pass a question, or pipe one on stdin")
    _sensible(max_tokens, temperature, top_p)
    within("--top-k", top_k, least=1)
    within("--seed", seed, least=0)
    opened = _opened(path, version, bare=bare, device=device)
    heard = [Sound(each) for each in audio]
    require_sound(heard, opened)
    _together(heard, opened)

    from dlm.model.generate import Decoding
    from dlm.use.prompt import ask, turns_of
    from dlm.use.ready import ready

    system = opened.document.settings.system_prompt
    turns = turns_of(question, list(audio), opened.base, system)
    how = Decoding(max_tokens, temperature, top_p, top_k, seed)
    using = ready(opened.base, opened.version, device=opened.device, asked=opened.asked)
    yield from ask(using, turns, how)


def transcribe(
    path: DocumentPath,
    recordings: Annotated[list[Path], Say("Recordings, or folders of them.", value="FILE|DIR")],
    *,
    language: Annotated[
        str | None,
        Say("Spoken in them, such as fr, for a base that is told it; detected when not said."),
    ] = None,
    segment: Annotated[
        str,
        Say(
            "Cut a long recording where it is quiet, where nobody speaks, or every so often.",
            value="energy|silero|none",
        ),
    ] = "energy",
    version: VersionName = None,
    bare: Bare = False,
    device: Device = None,
) -> "Iterator[Transcript]":
    """Write down what is said in recordings of any length."""
    from dlm.clips.segment import WAYS, voice_weights

    _there(recordings)
    if language is not None and not LANGUAGE.fullmatch(language):
        what = f"'{language}' is not a language code of ISO 639-1"
        raise UsageError(what, mend=LANGUAGE_MEND)
    if segment not in WAYS:
        raise UsageError(f"--segment is {segment}", mend=f"choose {' or '.join(WAYS)}")
    if segment == "silero":
        voice_weights()
    files = [file for recording in recordings for file in _files(recording)]
    opened = _opened(path, version, bare=bare, device=device)
    require_sound([Sound(each) for each in files], opened, whole=True)

    from dlm.use.ready import ready
    from dlm.use.transcribe import transcribe as heard

    using = ready(opened.base, opened.version, device=opened.device, asked=opened.asked)
    yield from heard(using, files, segment=segment, language=language)


def evaluate(
    path: DocumentPath,
    *,
    data: Annotated[Path | None, Say("Other clips: a folder, or a file that lists them.")] = None,
    manual_loss: Annotated[
        str | None,
        Say("Tell the loss of each token of one clip: its place or recording.", value="CLIP"),
    ] = None,
    version: VersionName = None,
    bare: Bare = False,
    device: Device = None,
    progress: Progress | None = None,
) -> "Report":
    """Count the words it gets wrong on clips it did not learn from."""
    opened = _opened(path, version, bare=bare, device=device)
    clips, sources = _clips(opened, data, one=manual_loss)
    require_sound([sound for clip in clips for sound in clip.sounds], opened)

    from dlm.use.evaluate import Report
    from dlm.use.evaluate import evaluate as scored
    from dlm.use.manual import manual_loss as by_hand
    from dlm.use.ready import ready

    using = ready(opened.base, opened.version, device=opened.device, asked=opened.asked)
    if manual_loss:
        row = by_hand(using, clips[0])
        return Report(1, None, None, (), {"loss": row.trained}, sources, row=row)
    return replace(scored(using, clips, progress=progress), sources=sources)


def _opened(path: Path, name: str | None, *, bare: bool, device: str | None) -> Opened:
    """The document, its base and the version to use, before anything heavy is loaded."""
    from dlm.plan.hardware import device_of, survey
    from dlm.store.layout import home
    from dlm.verbs.prepare import learned, opened

    chosen = device_of(device, survey(home()))
    if bare:
        if name:
            raise UsageError("--base and --version exclude each other", mend="give one of them")
        return Opened(*opened(path), None, chosen)
    document, base, version = learned(path, name, otherwise=", or ask the bare base with --base")
    return Opened(document, base, version.path, chosen)


def _there(recordings: Iterable[Path]) -> None:
    """Refuse recordings that are not there: the command line is mistaken."""
    for recording in recordings:
        try:
            recording.stat()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise UsageError(f"audio not found: {recording}", mend="check the path") from error
        except OSError:
            continue  # it is told when the recording is opened


def _sensible(max_tokens: int, temperature: float, top_p: float) -> None:
    """Refuse a way of answering that cannot be."""
    if max_tokens < 1:
        raise UsageError(f"--max-tokens is {max_tokens}", mend="1 is the least")
    if not temperature >= 0:
        raise UsageError(f"--temperature is {temperature:g}", mend="0 is the least")
    if not 0 < top_p <= 1:
        raise UsageError(f"--top-p is {top_p:g}", mend="choose a share above 0, at most 1")


def require_sound(sounds: "Iterable[Sound]", opened: Opened, *, whole: bool = False) -> None:
    """Refuse what cannot be heard, before the model is loaded; a `whole` sound has any length."""
    from dlm.clips.audio import listen, rate_refusal, resampler
    from dlm.clips.remarks import long_remark

    rate, longest = opened.base.strides.rate, opened.base.strides.window_seconds
    policy = opened.asked.audio.long_clips
    for sound in dict.fromkeys(sounds):
        with listen(sound) as span:
            native, seconds = span.header.rate, span.samples / span.header.rate
        if policy == "error" and seconds > longest and not whole:
            what, mend = long_remark(seconds, longest, policy)
            raise ClipError(what, where=sound.name, mend=mend)
        if native != rate and not opened.asked.audio.auto_resample:
            raise rate_refusal(sound.name, native, rate)
        if native != rate:
            resampler()


def _together(sounds: "Sequence[Sound]", opened: Opened) -> None:
    """Refuse more sound than the base can think of at once."""
    from dlm.clips.audio import listen
    from dlm.plan.frames import tokens

    base, most = opened.base, opened.asked.audio.most_windows
    count = 0
    for sound in sounds:
        with listen(sound) as span:
            samples = round(span.samples / span.header.rate * base.strides.rate)
        count += tokens(samples, base.strides, most)
    if count > base.context:
        what = f"the sound takes {count:,} tokens, and {base.key} thinks of {base.context:,}"
        raise UsageError(what, mend="give fewer or shorter recordings")


def _files(recording: Path) -> list[Path]:
    """A recording itself, or those in a folder."""
    if not recording.is_dir():
        return [recording]
    from dlm.clips.walk import is_audio, walk

    found = [each for each in walk(recording).files if is_audio(each)]
    if not found:
        raise ClipError("no recordings in this folder", where=str(recording), mend="name another")
    return found


def _clips(
    opened: Opened, data: Path | None, *, one: str | None = None
) -> "tuple[list[Clip], tuple[SourceReport, ...]]":
    """The held-out clips of the document, or all those of a source and what it left out.

    Or, of all of them, the `one` that is named.
    """
    from dlm.clips.chosen import chosen
    from dlm.clips.sources import gather, gather_source
    from dlm.clips.split import sides
    from dlm.document.override import overridden
    from dlm.document.sources import Source
    from dlm.verbs.prepare import usable

    if data is None:
        gathered = gather(opened.document)
        clips = gathered.clips if one else sides(gathered, opened.asked)[1]
        mend = "set training.held_out, or give clips with --data FOLDER"
    else:
        if not data.exists():
            raise UsageError(f"clips not found: {data}", mend="name a folder or a list of clips")
        document = overridden(opened.document, {"training.sources_policy": "permissive"})
        gathered = gather_source(document, Source(path=str(data.absolute())))
        clips = gathered.clips
        mend = "put recordings and their .txt transcripts there"
    if one:  # what is wrong with it is told when it is opened
        usable(opened.document, opened.base, gathered, ())
        clips = chosen(clips, [one])[:1]
        mend = "name a clip's place, such as my.dlm:12, or its recording"
    else:
        clips = usable(opened.document, opened.base, gathered, clips)
    if not clips:
        where = str(data or opened.document.path)
        raise ClipError("no clips to evaluate on", where=where, mend=mend)
    return list(clips), gathered.sources if data else ()
