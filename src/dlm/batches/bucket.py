"""Which clips ride together: every step a pure function of the seed and its number.

    draw the epoch by the clips' weights
                      --> shuffle it --> windows of 8 to 24 steps --> sort each window by length
                      --> cut into steps --> shuffle the steps --> cut into batches

A run that goes on from step n therefore sees exactly what it would have seen.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from dlm.batches.ahead import ahead, spare_hands
from dlm.batches.chat import IGNORE, Chat, Row
from dlm.batches.collate import Batch, Listen, Padding, collate
from dlm.clips.audio import probe
from dlm.clips.clip import Clip, Sound
from dlm.clips.unusable import Tally
from dlm.clips.weights import drawn, in_a_pass
from dlm.errors import ClipError
from dlm.features.anew import Anew
from dlm.plan.changes import Changes
from dlm.plan.frames import Strides, ceil_div, tokens
from dlm.plan.plan import LONG_ROW, BatchPlan

WINDOW_STEPS = (8, 24)  # sorted together: under 5 % padding in a large set, chance in a small one
MULTIPLE = 16  # tokens: a processor compiles its products anew for every length it meets

Share = tuple[int, int]  # which rank, of how many
WHOLE: Share = (0, 1)
Cursor = tuple[int, ...]  # where the data stand, beyond what the step says


class Batches:
    """The batches of a run, by step. What cannot be heard is left out, if the plan says so."""

    def __init__(
        self,
        rows: list[Row],
        lengths: list[int],
        plan: BatchPlan,
        *,
        listen: Listen | Anew,
        pad: Padding,
        weights: Sequence[float] = (),
    ) -> None:
        """`lengths`: tokens per row, placeholders spread; `weights`: how often each row comes."""
        self._rows, self._lengths, self._plan = rows, lengths, plan
        self._listen, self._pad = listen, pad
        self._weights = weights or [1.0] * len(rows)
        self._epoch = (-1, [[0]])
        self.steps_per_epoch = ceil_div(in_a_pass(self._weights), plan.clips_per_step)
        self.left_out = Tally(len(rows), skips=plan.skips)

    def step(self, number: int, share: Share = WHOLE) -> list[Batch]:
        """The batches of step `number`, counted from 0."""
        return self._step(number, self.rows(number, share))

    def _step(self, number: int, rows: list[list[Row]]) -> list[Batch]:
        listen = self._listen
        if isinstance(listen, Anew):
            listen = listen.at(number // self.steps_per_epoch)
        made = [self._batch(each, listen) for each in rows]
        return [batch for batch in made if batch] or [self._empty(listen)]

    def _batch(self, rows: list[Row], listen: Listen) -> Batch | None:
        """A batch of the rows that can be heard, if there are any."""
        try:
            return collate(rows, listen, self._pad)
        except ClipError:
            heard = [row for row in rows if self._hears(row, listen)]
        return collate(heard, listen, self._pad) if heard else None

    def _hears(self, row: Row, listen: Listen) -> bool:
        """Whether a row can be heard; one that cannot is left out, or ends the run."""
        try:
            for sound in row.sounds:
                listen(sound)
        except ClipError as error:
            self.left_out.take(error, row.place)
            return False
        return True

    def _empty(self, listen: Listen) -> Batch:
        """A batch that carries no loss, of the first row that can be heard."""
        batches = (self._batch([_mute(row)], listen) for row in self._rows)
        return next(batch for batch in batches if batch)

    def rows(self, number: int, share: Share = WHOLE) -> list[list[Row]]:
        """The rows of step `number` that fall to one rank, cut into batches of like length.

        They come by their length, so the last of a batch is as long as all are padded to.
        """
        epoch, place = divmod(number, self.steps_per_epoch)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, self._order(epoch))
        rank, ranks = share
        chosen = self._epoch[1][place]
        if rank >= len(chosen):  # every rank takes part in every step
            return [[_mute(self._rows[chosen[0]])]]
        cut: list[list[Row]] = [[]]
        labels = 0
        for index in chosen[rank::ranks]:
            row = self._rows[index]
            labels += len(row.learned)
            if cut[-1] and not self._takes(len(cut[-1]) + 1, self._lengths[index], labels):
                cut.append([])
                labels = len(row.learned)
            cut[-1].append(row)
        return cut

    def _takes(self, rows: int, longest: int, labels: int) -> bool:
        """Whether a batch may have so many rows: as many as planned, or more that are short."""
        plan = self._plan
        if rows <= plan.clips_per_batch:
            return True
        tokens = rows * ceil_div(longest, MULTIPLE) * MULTIPLE
        return tokens <= plan.tokens_per_batch and labels <= plan.labels_per_batch

    def stream(
        self, start: int, stop: int, share: Share = WHOLE, cursor: Cursor = ()
    ) -> Iterator[list[Batch]]:
        """Steps `start` to `stop`, made ready while those before them are learned."""
        numbers = range(start, stop)
        tasks = (partial(self._step, number, self.rows(number, share)) for number in numbers)
        yield from ahead(tasks, 1 if self._plan.heard else spare_hands())

    def cursor(self, done: int) -> Cursor:
        """Nothing: the step alone says where the data stand."""
        return ()

    def _order(self, epoch: int) -> list[list[int]]:
        """The indices of an epoch, step by step."""
        chance = random.Random(f"{self._plan.seed}/{epoch}")
        shuffled = drawn(self._weights, epoch, self._plan.seed)
        chance.shuffle(shuffled)
        size, steps = self._plan.clips_per_step, []
        least, most = WINDOW_STEPS
        wide = min(max(self.steps_per_epoch // 4, least), most)
        for window in _cut(shuffled, size * wide):
            steps += _cut(sorted(window, key=self._lengths.__getitem__), size)
        chance.shuffle(steps)
        return steps


def pack(clips: list[Clip], plan: BatchPlan, chat: Chat, listen: Listen | Anew) -> Batches:
    """Render every clip and make the batches ready.

    Raises ClipError for a row too long, or one of which no token is learned, unless the plan leaves
    such out.
    """
    tally = Tally(len(clips), skips=plan.skips)
    kept: list[tuple[Row, int, float]] = []
    for clip in clips:
        try:
            kept.append((*fitting(clip, plan, chat), clip.weight))
        except ClipError as error:
            tally.take(error, clip.place)
    rows, lengths, weights = (list(each) for each in zip(*kept, strict=True))
    pad = Padding(chat.pad, chat.placeholder, multiple=MULTIPLE, longest=plan.longest)
    batches = Batches(rows, lengths, plan, listen=listen, pad=pad, weights=weights)
    batches.left_out = tally
    return batches


def fitting(clip: Clip, plan: BatchPlan, chat: Chat) -> tuple[Row, int]:
    """The row of a clip and its tokens, placeholders spread. Raises ClipError where it is none."""
    row = chat.taught(clip) if plan.read else chat.row(clip)
    sounds = (
        sound_tokens(each, plan.base.strides, plan.most_windows, plan.changes)
        for each in row.sounds
    )
    length = len(row.ids) + sum(each - 1 for each in sounds)
    length = max(length, len(row.read.ids) if row.read else 0)
    if not row.learned:
        mend = "write what is to be said, or take it out"
        raise ClipError("no token of it would be learned", where=row.place, mend=mend)
    if length > plan.longest:
        what = f"{length} tokens, and training.sequence_len is {plan.longest}"
        raise ClipError(what, where=row.place, mend=LONG_ROW)
    return row, length


def sound_tokens(
    sound: Sound, strides: Strides, most: int | None, changes: Changes | None = None
) -> int:
    """Tokens that a sound takes, by its header, when at most so many windows of it are heard.

    With `changes`, those of its longest version.
    """
    header = probe(*sound.recording)
    end = header.samples / header.rate if sound.end is None else sound.end
    seconds = end - (sound.start or 0.0)
    samples = round(seconds * strides.rate)
    longest = changes.longest(samples, strides.window) if changes else samples
    return tokens(longest, strides, most)


def _mute(row: Row) -> Row:
    """A row that carries no loss, for a rank without one of its own."""
    return replace(row, labels=(IGNORE,) * len(row.ids), read=None)


def _cut(items: list[int], size: int) -> list[list[int]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
