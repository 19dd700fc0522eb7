"""What a run learns from whose sources are streamed: all they give, but for what it is tested on.

Neither the recordings of a stream nor what is heard of them is kept. Its shards stand for them in
the facts of a run.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from dlm.clips.chosen import chosen
from dlm.clips.clip import Clip, Problem, Sound
from dlm.clips.origin import located
from dlm.clips.sections import clips_in
from dlm.clips.spoken import with_transcripts, without_transcript
from dlm.clips.streams import feeds
from dlm.document.document import Document
from dlm.document.settings import Training
from dlm.errors import ClipError
from dlm.plan.plan import Line
from dlm.store.facts import Recording, RunFacts

if TYPE_CHECKING:
    from dlm.batches.chat import Chat
    from dlm.batches.collate import Listen
    from dlm.batches.course import Course
    from dlm.features.anew import Anew
    from dlm.plan.plan import Plan


def course(
    document: Document,
    held_out: Sequence[Clip],
    *,
    plan: "Plan",
    chat: "Chat",
    listen: "Callable[[int], Listen | Anew]",
) -> "Course":
    """The batches of every stage; a run without stages is one. `listen` is that of each stage."""
    from dlm.batches.buffered import buffer
    from dlm.batches.course import Course

    stages = [(stage.clips, stage.steps) for stage in plan.training.stages]
    found = feeds(document)
    parts = []
    for number, (patterns, steps) in enumerate(stages or [((), plan.training.steps)]):
        wanted = _wanted(document.settings.training, held_out, patterns)
        parts.append((buffer(found, plan.batches, chat, listen(number), wanted), steps))
    return Course(parts)


def refusals(asked: Training, name: str) -> tuple[Problem, ...]:
    """What cannot be asked of a stream; `name` is the document's."""
    told = []
    if asked.train_count is not None:
        what = "training.train_count counts listed clips, and a stream is not listed"
        told.append(Problem(name, what, "set max_files of its sources", fatal=True))
    if asked.split_by == "content":
        what = "training.split_by is content, and a stream is not read beforehand"
        told.append(Problem(name, what, "set it to recording or speaker", fatal=True))
    return tuple(told)


def aloud(asked: Training, looked_at: int) -> tuple[Line, ...]:
    """The lines of the plan about a stream."""
    why = "the rest is read as it is learned; neither it nor what is heard of it is kept"
    told = [Line("stream", f"the first {looked_at:,} clips looked at", why)]
    if len(asked.sources) > 1:
        weights = ", ".join(f"{source.path} {source.weight:g}" for source in asked.sources)
        told.append(Line("drawn", weights, "how much comes from each source, beside the others"))
    return tuple(told)


def of_shards(facts: RunFacts, document: Document) -> RunFacts:
    """The facts of a run, with the shards of its sources for their recordings."""
    own = {sound.name for clip in clips_in(document) for sound in _sounds(clip)}
    kept = tuple(each for each in facts.learned_from if each.path in own)
    names = (shard.name for feed in feeds(document) for shard in feed.shards)
    shards = tuple(
        Recording(name, _stands_for(document, name)) for name in names if name != document.path.name
    )
    data = hashlib.sha256(repr((facts.data_sha256, shards)).encode()).hexdigest()
    return replace(facts, data_sha256=data, learned_from=kept + shards)


def _wanted(
    asked: Training, held_out: Sequence[Clip], patterns: Sequence[str]
) -> Callable[[Clip], Clip | None]:
    """Which clips are learned: those of the stage that are not of what is held out."""
    recordings = {sound.recording for clip in held_out for sound in clip.sounds}
    speakers = {clip.speaker for clip in held_out} - {None}

    def wanted(clip: Clip) -> Clip | None:
        if any(sound.recording in recordings for sound in clip.sounds):
            return None
        if asked.split_by == "speaker" and clip.speaker in speakers:
            return None
        if not chosen((clip,), patterns):
            return None
        return _taught(clip) if asked.teacher.weight else clip

    return wanted


def _taught(clip: Clip) -> Clip:
    """A clip with what is said in it. Raises ClipError where it does not say so itself."""
    (told,) = with_transcripts((clip,), (clip,))
    for problem in without_transcript((told,)):
        raise ClipError(problem.what, where=problem.where, mend=problem.mend)
    return told


def _sounds(clip: Clip | Problem) -> tuple[Sound, ...]:
    return clip.sounds if isinstance(clip, Clip) else ()


def _stands_for(document: Document, shard: str) -> str:
    """A sha256 of the size of a shard and when it was changed; nothing for one that is no file."""
    path = located(document, shard)
    if not path.is_file():
        return ""
    found = path.stat()
    return hashlib.sha256(f"{found.st_size} {found.st_mtime_ns}".encode()).hexdigest()
