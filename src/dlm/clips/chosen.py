"""Which clips a pattern chooses: by their place, by their recordings, or by what is asked of them.

my.dlm:*            a place, as messages name it
corpus/*.wav        a recording, as the author wrote it
transcribe          a task: transcribe, answer or text
"""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import get_args

from dlm.clips.clip import Clip, Task

TASKS = get_args(Task)


def chosen(clips: Iterable[Clip], patterns: Sequence[str]) -> tuple[Clip, ...]:
    """The clips that any of `patterns` fits, in the order given; without patterns, all."""
    return tuple(
        clip for clip in clips if not patterns or any(_fits(clip, each) for each in patterns)
    )


def _fits(clip: Clip, pattern: str) -> bool:
    if pattern in TASKS:
        return clip.task == pattern
    names = (clip.place, *(sound.name for sound in clip.sounds))
    return any(fnmatchcase(name, pattern) for name in names)
