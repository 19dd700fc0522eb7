"""What is said in each sound, as far as the document knows: what a teacher reads in its place.

    ::audio path="a.wav" transcript="Half past."::      a.wav says "Half past."
    ::instruction:: about a.wav                         so it does here
    a conversation about b.wav alone                    nobody knows: a problem

Nothing here looks at a sound: it is words that a teacher is given.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from dlm.clips.clip import Clip, Part, Problem


def with_transcripts(clips: Iterable[Clip], known_from: Sequence[Clip]) -> tuple[Clip, ...]:
    """The clips, each of their sounds with its transcript where one of `known_from` has it.

    Of several that write down a sound, one that is not asked anything about it says best.
    """
    written = [clip for clip in known_from if clip.task == "transcribe"]
    written.sort(key=lambda clip: not clip.turns[-2].text.strip())
    known = {clip.sounds[0]: clip.target for clip in written}

    def told(part: Part) -> Part:
        if isinstance(part, str) or part.said is not None:
            return part
        return replace(part, said=known.get(part))

    return tuple(
        replace(
            clip,
            turns=tuple(replace(turn, parts=tuple(map(told, turn.parts))) for turn in clip.turns),
        )
        for clip in clips
    )


def without_transcript(clips: Iterable[Clip]) -> Iterator[Problem]:
    """The first sound of each clip of which nobody knows what is said."""
    for clip in clips:
        sound = next((sound for sound in clip.sounds if sound.said is None), None)
        if sound is not None:
            what = f"what is said in {sound.name} is not known, and training.teacher reads it"
            mend = "add an ::audio:: section with its transcript, or take training.teacher out"
            yield Problem(clip.place, what, mend, fatal=True)
