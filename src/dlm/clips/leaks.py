"""What is in both the clips that are learned from and those held out: it makes scores too good.

A sentence that is read again, a voice, or a recording that lies there twice.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

from dlm.clips.beside import SENTENCE_WORDS, plain
from dlm.clips.clip import Clip, Problem
from dlm.clips.facts import Facts

APART = "keep them on one side with training.split_by: "


def leaks(learn: Sequence[Clip], held_out: Sequence[Clip], facts: Facts) -> Iterator[Problem]:
    """Each clip held out that was as good as learned, and each voice on both sides."""
    if not held_out:
        return
    content = facts.content_by_place()
    sounds = {content[clip.place]: clip.place for clip in reversed(learn) if clip.place in content}
    wanted = {_sentence(clip) for clip in held_out} - {""}
    said: dict[str, str] = {}
    for clip in learn:
        if (text := _sentence(clip)) in wanted:
            said.setdefault(text, clip.place)
    for clip in held_out:
        same, text = sounds.get(content.get(clip.place, "")), _sentence(clip)
        if same is not None:
            what = f"it is held out, and {same}, which is learned from, is the same sound"
            yield Problem(clip.place, what, f"{APART}content", fatal=False)
        elif text in said:
            what = f"it is held out, and {said[text]}, which is learned from, says the same"
            mend = "take one of them out, or hold out a source with sentences of its own"
            yield Problem(clip.place, what, mend, fatal=False)
    yield from _voices(learn, held_out)


def _voices(learn: Sequence[Clip], held_out: Sequence[Clip]) -> Iterator[Problem]:
    """Who is heard on both sides, as far as speakers are known."""
    known = Counter(clip.speaker for clip in learn)
    held: dict[str, list[Clip]] = {}
    for clip in held_out:
        if clip.speaker and clip.speaker in known:
            held.setdefault(clip.speaker, []).append(clip)
    for speaker, clips in held.items():
        what = f"speaker {speaker} is heard in {len(clips):,} held out and {known[speaker]:,} clips"
        yield Problem(clips[0].place, f"{what} learned from", f"{APART}speaker", fatal=False)


def _sentence(clip: Clip) -> str:
    """What a clip transcribes, if that is long enough to be said only once."""
    text = plain(clip.target) if clip.task == "transcribe" else ""
    return text if len(text.split()) >= SENTENCE_WORDS else ""
