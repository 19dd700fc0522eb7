"""Which clips ride together: every step a pure function of the seed and its number.

    shuffle the epoch --> windows of 8 to 24 steps --> sort each window by length
                      --> cut into steps --> shuffle the steps --> cut into batches

A run that goes on from step n therefore sees exactly what it would have seen.
"""

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import torch

from dlm.batches.chat import IGNORE, Chat, Row
from dlm.batches.collate import Batch, Listen, Padding, collate
from dlm.clips.audio import probe
from dlm.clips.clip import Clip, Sound
from dlm.errors import ClipError
from dlm.plan.frames import Strides, ceil_div, tokens
from dlm.plan.plan import LONG_ROW, BatchPlan

WINDOW_STEPS = (8, 24)  # sorted together: under 5 % padding in a large set, chance in a small one
MULTIPLE = 16  # tokens: a processor compiles its products anew for every length it meets

Share = tuple[int, int]  # which rank, of how many
WHOLE: Share = (0, 1)


class Batches:
    """The batches of a run, by step."""

    def __init__(
        self, rows: list[Row], lengths: list[int], plan: BatchPlan, *, listen: Listen, pad: Padding
    ) -> None:
        """`lengths`: tokens per row, placeholders spread.

        Raises ClipError for a row too long, or one of which no token is learned.
        """
        for row, length in zip(rows, lengths, strict=True):
            if not row.learned:
                mend = "write what is to be said, or take it out"
                raise ClipError("no token of it would be learned", where=row.place, mend=mend)
            if length > plan.longest:
                raise ClipError(
                    f"{length} tokens, and training.sequence_len is {plan.longest}",
                    where=row.place,
                    mend=LONG_ROW,
                )
        self._rows, self._lengths, self._plan = rows, lengths, plan
        self._listen, self._pad = listen, pad
        self._epoch = (-1, [[0]])
        self.steps_per_epoch = ceil_div(len(rows), plan.clips_per_step)

    def step(self, number: int, share: Share = WHOLE) -> list[Batch]:
        """The batches of step `number`, counted from 0."""
        return [collate(rows, self._listen, self._pad) for rows in self.rows(number, share)]

    def rows(self, number: int, share: Share = WHOLE) -> list[list[Row]]:
        """The rows of step `number` that fall to one rank, cut into batches of like length."""
        epoch, place = divmod(number, self.steps_per_epoch)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, self._order(epoch))
        rank, ranks = share
        chosen = [self._rows[index] for index in self._epoch[1][place]]
        mine = chosen[rank::ranks] or [_mute(chosen[0])]  # every rank takes part in every step
        size = self._plan.clips_per_batch
        return [mine[start : start + size] for start in range(0, len(mine), size)]

    def stream(self, start: int, stop: int, share: Share = WHOLE) -> Iterator[list[Batch]]:
        """Steps `start` to `stop`, each made ready while the one before it is learned."""
        with ThreadPoolExecutor(1, initializer=_alone) as hands:
            ahead = hands.submit(self.step, start, share)
            for number in range(start + 1, stop + 1):
                ready = ahead.result()
                if number < stop:
                    ahead = hands.submit(self.step, number, share)
                yield ready

    def _order(self, epoch: int) -> list[list[int]]:
        """The indices of an epoch, step by step."""
        chance = random.Random(f"{self._plan.seed}/{epoch}")
        shuffled = list(range(len(self._rows)))
        chance.shuffle(shuffled)
        size, steps = self._plan.clips_per_step, []
        least, most = WINDOW_STEPS
        wide = min(max(self.steps_per_epoch // 4, least), most)
        for window in _cut(shuffled, size * wide):
            steps += _cut(sorted(window, key=self._lengths.__getitem__), size)
        chance.shuffle(steps)
        return steps


def pack(clips: list[Clip], plan: BatchPlan, chat: Chat, listen: Listen) -> Batches:
    """Render every clip and make the batches ready. Raises ClipError for a row too long."""
    rows = [chat.taught(clip) if plan.read else chat.row(clip) for clip in clips]
    counted = partial(sound_tokens, strides=plan.base.strides, most=plan.most_windows)
    lengths = [
        max(
            len(row.ids) + sum(counted(each) - 1 for each in row.sounds),
            len(row.read.ids) if row.read else 0,
        )
        for row in rows
    ]
    pad = Padding(chat.pad, chat.placeholder, multiple=MULTIPLE, longest=plan.longest)
    return Batches(rows, lengths, plan, listen=listen, pad=pad)


def sound_tokens(sound: Sound, strides: Strides, most: int | None) -> int:
    """Tokens that a sound takes, by its header, when at most so many windows of it are heard."""
    header = probe(sound.path)
    end = header.samples / header.rate if sound.end is None else sound.end
    seconds = end - (sound.start or 0.0)
    return tokens(round(seconds * strides.rate), strides, most)


def _alone() -> None:
    """Make batches on one core: a second team of threads would stand in the way of the first."""
    torch.set_num_threads(1)


def _mute(row: Row) -> Row:
    """A row that carries no loss, for a rank without one of its own."""
    return replace(row, labels=(IGNORE,) * len(row.ids), read=None)


def _cut(items: list[int], size: int) -> list[list[int]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
