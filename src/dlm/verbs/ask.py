"""prompt, transcribe, eval: using what was learned."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from dlm.clips.clip import Sound
from dlm.errors import ClipError, StoreError, UsageError
from dlm.verbs.say import Bare, Device, DocumentPath, Progress, Say, VersionName, within

if TYPE_CHECKING:
    from dlm.clips.clip import Clip
    from dlm.clips.sources import Gathered
    from dlm.document.document import Document
    from dlm.plan.bases import Base
    from dlm.use.evaluate import Report
    from dlm.use.transcribe import Transcript

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".opus")


@dataclass(frozen=True)
class Opened:
    """A document with the version to use: None is the bare base."""

    document: "Document"
    base: "Base"
    version: Path | None
    device: str

    @property
    def auto_resample(self) -> bool:
        """Whether other sampling rates are accepted."""
        return self.document.settings.training.audio.auto_resample


def prompt(
    path: DocumentPath,
    question: Annotated[
        str | None, Say("What to ask; read from stdin when not said.", value="QUESTION")
    ] = None,
    *,
    audio: Annotated[tuple[Path, ...], Say("A recording; say it again for each of several.")] = (),
    max_tokens: Annotated[int, Say("The longest answer, in tokens.")] = 256,
    temperature: Annotated[float, Say("0 takes the likeliest word, more is livelier.")] = 0.0,
    top_p: Annotated[float, Say("Choose among the likeliest words up to this share.")] = 1.0,
    seed: Annotated[int, Say("The seed of a lively answer.")] = 0,
    version: VersionName = None,
    bare: Bare = False,
    device: Device = None,
) -> Iterator[str]:
    """Ask about one or more recordings; the answer is streamed."""
    if not audio:
        raise UsageError(
            "audio-language base requires at least one --audio PATH", mend="add --audio clip.wav"
        )
    _there(audio)
    if not question or not question.strip():
        raise UsageError("empty query", mend="pass a question, or pipe one on stdin")
    _sensible(max_tokens, temperature, top_p, seed)
    opened = _opened(path, version, bare=bare, device=device)
    _require([Sound(each) for each in audio], opened)

    from dlm.model.generate import Decoding
    from dlm.use.prompt import ask, turns_of
    from dlm.use.ready import ready

    system = opened.document.settings.system_prompt
    turns = turns_of(question, list(audio), opened.base, system)
    how = Decoding(max_tokens, temperature, top_p, seed)
    using = ready(
        opened.base, opened.version, device=opened.device, auto_resample=opened.auto_resample
    )
    yield from ask(using, turns, how)


def transcribe(
    path: DocumentPath,
    recordings: Annotated[list[Path], Say("Recordings, or folders of them.", value="FILE|DIR")],
    *,
    version: VersionName = None,
    bare: Bare = False,
    device: Device = None,
) -> "Iterator[Transcript]":
    """Write down what is said in recordings of any length."""
    _there(recordings)
    files = [file for recording in recordings for file in _files(recording)]
    opened = _opened(path, version, bare=bare, device=device)
    _require([Sound(each) for each in files], opened)

    from dlm.use.ready import ready
    from dlm.use.transcribe import transcribe as heard

    using = ready(
        opened.base, opened.version, device=opened.device, auto_resample=opened.auto_resample
    )
    yield from heard(using, files, auto_resample=opened.auto_resample)


def evaluate(
    path: DocumentPath,
    *,
    data: Annotated[Path | None, Say("Other clips: a folder, or a .jsonl file.")] = None,
    version: VersionName = None,
    bare: Bare = False,
    device: Device = None,
    progress: Progress | None = None,
) -> "Report":
    """Count the words it gets wrong on clips it did not learn from."""
    opened = _opened(path, version, bare=bare, device=device)
    clips = _clips(opened, data)
    _require([sound for clip in clips for sound in clip.sounds], opened)

    from dlm.use.evaluate import evaluate as scored
    from dlm.use.ready import ready

    using = ready(
        opened.base, opened.version, device=opened.device, auto_resample=opened.auto_resample
    )
    return scored(using, clips, progress=progress)


def _opened(path: Path, name: str | None, *, bare: bool, device: str | None) -> Opened:
    """The document, its base and the version to use, before anything heavy is loaded."""
    from dlm.plan.hardware import survey
    from dlm.plan.plan import device_of
    from dlm.store.layout import home
    from dlm.store.versions import open_store
    from dlm.verbs.prepare import opened

    document, base = opened(path)
    chosen = device_of(device, survey(home()))
    if bare:
        if name:
            raise UsageError("--base and --version exclude each other", mend="give one of them")
        return Opened(document, base, None, chosen)
    store = open_store(document.settings.dlm_id)
    version = store.find(name) if name else store.current()
    if version is None:
        mend = f"run `dlm train {path}`, or ask the bare base with --base"
        raise StoreError("nothing was learned yet", where=str(path), mend=mend)
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


def _sensible(max_tokens: int, temperature: float, top_p: float, seed: int) -> None:
    """Refuse a way of answering that cannot be."""
    if max_tokens < 1:
        raise UsageError(f"--max-tokens is {max_tokens}", mend="1 is the least")
    if not temperature >= 0:
        raise UsageError(f"--temperature is {temperature:g}", mend="0 is the least")
    if not 0 < top_p <= 1:
        raise UsageError(f"--top-p is {top_p:g}", mend="choose a share above 0, at most 1")
    within("--seed", seed, least=0)


def _require(sounds: "Iterable[Sound]", opened: Opened) -> None:
    """Refuse what cannot be heard, before the model is loaded."""
    from dlm.clips.audio import listen, rate_refusal, resampler

    rate = opened.base.strides.rate
    for sound in dict.fromkeys(sounds):
        with listen(sound) as span:
            native = span.header.rate
        if native != rate and not opened.auto_resample:
            raise rate_refusal(sound.name, native, rate)
        if native != rate:
            resampler()


def _files(recording: Path) -> list[Path]:
    """A recording itself, or those in a folder."""
    if not recording.is_dir():
        return [recording]
    found = sorted(each for each in recording.rglob("*") if each.suffix.lower() in SUFFIXES)
    if not found:
        raise ClipError("no recordings in this folder", where=str(recording), mend="name another")
    return found


def _clips(opened: Opened, data: Path | None) -> "list[Clip]":
    """The held-out clips of the document, or all those of a folder."""
    from dlm.clips.manifest import read_manifest
    from dlm.clips.sources import gather
    from dlm.clips.split import split

    asked = opened.document.settings.training
    if data is None:
        gathered = gather(opened.document)
        clips = list(split(gathered.clips, asked.held_out, seed=asked.seed)[1])
        mend = "set training.held_out, or give clips with --data FOLDER"
    else:
        if not data.exists():
            raise UsageError(f"clips not found: {data}", mend="name a folder or a .jsonl file")
        gathered = _all_in(opened.document, data) if data.is_dir() else read_manifest(data)
        clips = list(gathered.clips)
        mend = "put recordings and their .txt transcripts there"
    fatal = [problem for problem in gathered.problems if problem.fatal]
    if fatal:
        raise ClipError(fatal[0].what, where=fatal[0].where, mend=fatal[0].mend)
    if not clips:
        where = str(data or opened.document.path)
        raise ClipError("no clips to evaluate on", where=where, mend=mend)
    return clips


def _all_in(document: "Document", folder: Path) -> "Gathered":
    """The clips of a folder, as if the document named it and nothing else."""
    from dlm.clips.sources import gather
    from dlm.document.settings import Source

    sources = {"sources": (Source(path=str(folder.absolute())),), "sources_policy": "permissive"}
    training = document.settings.training.model_copy(update=sources)
    settings = document.settings.model_copy(update={"training": training})
    found = gather(replace(document, sections=(), settings=settings))
    told = tuple(each for each in found.problems if each.where != document.path.name)
    return replace(found, problems=told)
