"""prompt, transcribe, eval: using what was learned."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from dlm.errors import ClipError, StoreError, UsageError
from dlm.verbs.say import Bare, Device, DocumentPath, Progress, Say, VersionName

if TYPE_CHECKING:
    from dlm.clips.clip import Clip
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
    question: Annotated[str | None, Say("What to ask; read from stdin when not said.")] = None,
    *,
    audio: Annotated[tuple[Path, ...], Say("A recording; repeat it for several.")] = (),
    max_tokens: Annotated[int, Say("The longest answer, in tokens.")] = 256,
    temperature: Annotated[float, Say("0 takes the likeliest word, more is livelier.")] = 0.0,
    top_p: Annotated[float, Say("Choose among the likeliest words up to this share.")] = 1.0,
    seed: Annotated[int, Say("The seed of a lively answer.")] = 0,
    version: VersionName = None,
    bare: Bare = False,
    device: Device = None,
) -> Iterator[str]:
    """Ask the model about recordings; the answer comes piece by piece."""
    opened = _opened(path, version, bare=bare, device=device)
    if not audio:
        raise UsageError(
            "audio-language base requires at least one --audio PATH", mend="add --audio clip.wav"
        )
    if not question or not question.strip():
        raise UsageError("empty query", mend="pass a question, or pipe one on stdin")
    if not 0 < top_p <= 1 or temperature < 0 or max_tokens < 1:
        raise UsageError(
            "--temperature must be 0 or more, --top-p above 0 and at most 1, --max-tokens 1 or more"
        )
    _require(audio, opened)

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
    recordings: Annotated[list[Path], Say("Recordings, or folders of them.")],
    *,
    version: VersionName = None,
    bare: Bare = False,
    device: Device = None,
) -> "Iterator[Transcript]":
    """Write down what is said in recordings of any length."""
    opened = _opened(path, version, bare=bare, device=device)
    files = [file for recording in recordings for file in _files(recording)]
    _require(tuple(files), opened)

    from dlm.use.ready import ready
    from dlm.use.transcribe import transcribe as heard

    using = ready(
        opened.base, opened.version, device=opened.device, auto_resample=opened.auto_resample
    )
    yield from heard(using, files, auto_resample=opened.auto_resample)


def evaluate(
    path: DocumentPath,
    *,
    data: Annotated[Path | None, Say("A folder or a .jsonl of other clips.")] = None,
    version: VersionName = None,
    bare: Bare = False,
    device: Device = None,
    progress: Progress | None = None,
) -> "Report":
    """Count the words the model gets wrong on clips it did not learn from."""
    opened = _opened(path, version, bare=bare, device=device)
    clips = _clips(opened, data)

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


def _require(recordings: tuple[Path, ...], opened: Opened) -> None:
    """Refuse what cannot be heard, before the model is loaded."""
    from dlm.clips.audio import probe, rate_refusal

    rate = opened.base.strides.rate
    for recording in recordings:
        native = probe(recording).rate
        if native != rate and not opened.auto_resample:
            raise rate_refusal(str(recording), native, rate)


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
        gathered = gather(_only(opened.document, data)) if data.is_dir() else read_manifest(data)
        clips = list(gathered.clips)
        mend = "put recordings and their .txt transcripts there"
    fatal = [problem for problem in gathered.problems if problem.fatal]
    if fatal:
        raise ClipError(fatal[0].what, where=fatal[0].where, mend=fatal[0].mend)
    if not clips:
        where = str(data or opened.document.path)
        raise ClipError("no clips to evaluate on", where=where, mend=mend)
    return clips


def _only(document: "Document", folder: Path) -> "Document":
    """The document with one source folder in place of everything it names."""
    from dlm.document.settings import Source

    sources = {"sources": (Source(path=str(folder.absolute())),), "sources_policy": "permissive"}
    training = document.settings.training.model_copy(update=sources)
    settings = document.settings.model_copy(update={"training": training})
    return replace(document, sections=(), settings=settings)
