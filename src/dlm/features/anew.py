"""What is heard of another version of each sound in every pass over the clips.

    Sound --decode--> samples --augment(pass)--> samples --> mel or wave --augment(pass)--> Heard
              kept in memory                                             masks

The encoder hears every version itself, batch by batch: nothing that it heard is kept.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from dlm.clips.clip import Sound
from dlm.clips.reader import Wave
from dlm.features.augment import Augment
from dlm.features.ear import Ear, Heard, Memory, identity

Recordings = Memory[tuple[str, Wave]]  # whose samples they are, and the samples


class Anew:
    """An ear that hears each pass over the clips otherwise."""

    def __init__(self, ear: Ear, augment: Augment, kept: Recordings) -> None:
        """`ear` says what a base hears of samples; they are `kept` as they were recorded."""
        self._ear, self._augment, self._kept = ear, augment, kept

    def at(self, epoch: int) -> Callable[[Sound], tuple[Heard, ...]]:
        """How the pass `epoch` listens, counted from 0."""
        return partial(self._listen, epoch)

    def _listen(self, epoch: int, sound: Sound) -> tuple[Heard, ...]:
        """The windows of the version of `sound`. Raises ClipError where it cannot be decoded."""
        who, samples = self._recorded(sound)
        changed = self._augment.wave(samples, who, epoch)
        masked = partial(self._augment.mel, who=who, epoch=epoch)
        return tuple(
            replace(each, values=masked(each.values, each.frames, number))
            for number, each in enumerate(self._ear.taken(changed))
        )

    def _recorded(self, sound: Sound) -> tuple[str, Wave]:
        """Whose samples they are, and the samples."""
        kept = self._kept.get(sound)
        if kept is None:
            samples = self._ear.decoded(sound)
            kept = (identity(sound), samples)
            self._kept.keep(sound, kept, samples.nbytes)
        return kept
