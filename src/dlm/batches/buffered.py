"""Which clips of a stream ride together: a window of rows at a time, sorted as it comes.

    feeds --draw by weight--> window of rows --> shuffle it --> sort it by length
                              --> cut into steps --> shuffle the steps --> cut into batches

A window is a function of the seed, its number and the places where it begins. The cursor of a run
says so much of the window it is in: a run that goes on reads that window again, passes over the
steps it has taken, and sees exactly what it would have seen.

    cursor    clips that could not be decoded, then a mark
    mark      window, its first step, clips seen and bad before it, the place of every feed
"""

import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import repeat

from dlm.batches.ahead import ahead, spare_hands
from dlm.batches.bucket import MULTIPLE, WHOLE, Cursor, Share, fitting
from dlm.batches.chat import IGNORE, Chat, Row
from dlm.batches.collate import Batch, Listen, Padding, collate
from dlm.clips.clip import Clip, Problem, Sound
from dlm.clips.streams import Drawn, Feed, Hand, Make, Place, Tap
from dlm.clips.unusable import MANY_CLIPS, Tally, refused, too_many
from dlm.errors import ClipError, TrainingError
from dlm.features.anew import Anew
from dlm.features.ear import Heard
from dlm.plan.frames import ceil_div
from dlm.plan.plan import BatchPlan

WORKERS = 2  # that read, in each process: one while the other waits for the disk
WINDOW_STEPS, WINDOW_CLIPS = 16, 512  # at least so many of both in a window
SPOT = 3  # numbers of a hand's spot
MOST_TOLD = 100  # clips that could not be used are named, the rest are counted

Sized = tuple[Row, int]  # a row, and its length in tokens
Wanted = Callable[[Clip], Clip | None]  # a clip as it is learned, None for one that is not


@dataclass(frozen=True)
class Mark:
    """Where a window begins."""

    window: int
    step: int
    seen: int
    bad: int
    places: tuple[Place, ...]

    @property
    def numbers(self) -> Cursor:
        """The same, for a state that is kept."""
        places = (each for place in self.places for each in place.numbers)
        return (self.window, self.step, self.seen, self.bad, *places)

    @classmethod
    def of(cls, numbers: Cursor, workers: int) -> "Mark":
        """What `numbers` said."""
        window, step, seen, bad, *rest = numbers
        size = 1 + SPOT * workers
        cuts = (rest[at : at + size] for at in range(0, len(rest), size))
        return cls(window, step, seen, bad, tuple(map(Place.of, cuts)))


@dataclass(frozen=True)
class _Window:
    """The steps of a window, where the next one begins in each feed, and what came up."""

    steps: list[list[Row]]
    places: tuple[Place, ...]
    seen: int
    problems: list[Problem]


class Buffered:
    """The batches of a run that streams, by step."""

    def __init__(
        self,
        feeds: Sequence[Feed],
        plan: BatchPlan,
        make: Make[Sized],
        *,
        listen: Listen | Anew,
        pad: Padding,
        workers: int = WORKERS,
    ) -> None:
        """`make` gives the row of a clip, and raises ClipError for one that cannot be learned."""
        self._feeds, self._plan, self._make = feeds, plan, make
        self._listen, self._pad, self._workers = listen, pad, workers
        self._marks: deque[Mark] = deque()  # of the windows that steps are taken from
        self._came = (0, 0)  # clips that were seen in them, and those that were bad
        self._lost = 0  # clips that could not be decoded
        self.left_out = Tally(0, skips=plan.skips)  # the first few

    def stream(
        self, start: int, stop: int, share: Share = WHOLE, cursor: Cursor = ()
    ) -> Iterator[list[Batch]]:
        """Steps `start` to `stop`, made ready while those before them are learned.

        `cursor` is that of `start`; without it all that comes before is read and passed over.
        """
        self._marks.clear()
        mark = self._mark(cursor)
        self._lost = cursor[0] if cursor else 0
        draw = _Draw(self._taps(share, mark), self._plan, self._make, share=share, mark=mark)
        with closing(ahead(repeat(draw.window))) as windows:
            steps = self._steps(windows, mark, start, stop)
            tasks = (partial(self._batches, window, rows) for window, rows in steps)
            with closing(ahead(tasks, spare_hands())) as ready:
                for batches, problems in ready:
                    self._lost += len(problems)
                    self._note(problems)
                    yield batches

    def cursor(self, done: int) -> Cursor:
        """Where the data stand after so many steps."""
        while len(self._marks) > 1 and self._marks[1].step <= done:
            self._marks.popleft()
        return (self._lost, *self._marks[0].numbers)

    @property
    def counts(self) -> tuple[int, int]:
        """The clips that could not be used, and all that came."""
        seen, bad = self._came
        return bad + self._lost, seen

    def _mark(self, cursor: Cursor) -> Mark:
        """The mark that a cursor holds, or the beginning. Raises TrainingError for another's."""
        size = 5 + len(self._feeds) * (1 + SPOT * self._workers)
        if cursor and len(cursor) != size:
            what = "the state is of a stream of other sources"
            raise TrainingError(what, mend="start over with --fresh")
        none = (0,) * (size - 1)
        return Mark.of(cursor[1:] or none, self._workers)

    def _taps(self, share: Share, mark: Mark) -> list[Tap]:
        """Every feed as this rank reads it."""
        rank, ranks = share
        of = ranks * self._workers
        hands = [Hand(rank * self._workers + each, of) for each in range(self._workers)]
        return [
            Tap(feed, hands, seed=self._plan.seed, place=place)
            for feed, place in zip(self._feeds, mark.places, strict=True)
        ]

    def _steps(
        self, windows: Iterator[_Window], mark: Mark, start: int, stop: int
    ) -> Iterator[tuple[int, list[Row]]]:
        """The rows of each step from `start` on, and their window."""
        while mark.step < stop:
            window = next(windows)
            self._marks.append(mark)
            self._came = mark.seen + window.seen, mark.bad + len(window.problems)
            self._note(window.problems)
            for number, rows in enumerate(window.steps, mark.step):
                if start <= number < stop:
                    yield mark.window, rows
            step = mark.step + len(window.steps)
            mark = Mark(mark.window + 1, step, *self._came, window.places)

    def _note(self, problems: list[Problem]) -> None:
        """Remember what could not be used. Raises ClipError where that ends the run."""
        if problems and not self._plan.skips:
            raise _error(problems[0])
        told = self.left_out.problems
        told |= {each.where: each for each in problems[: MOST_TOLD - len(told)]}
        bad, seen = self.counts
        if seen >= MANY_CLIPS and too_many(bad, seen):
            raise _error(refused(told.values(), bad, seen, where=_names(self._feeds)))

    def _batches(self, window: int, rows: list[Row]) -> tuple[list[Batch], list[Problem]]:
        """The batches of a step, without the clips that cannot be decoded."""
        listen = self._listen.at(window) if isinstance(self._listen, Anew) else self._listen
        heard: dict[Sound, tuple[Heard, ...]] = {}
        fine, problems = [], []
        for row in rows:
            try:
                heard.update((sound, listen(sound)) for sound in row.sounds)
                fine.append(row)
            except ClipError as error:
                problems.append(Problem.of(error, row.place))
        fine = fine or [_silent(rows[0], self._pad)]
        size = self._plan.clips_per_batch
        cuts = (fine[at : at + size] for at in range(0, len(fine), size))
        return [collate(each, heard.__getitem__, self._pad) for each in cuts], problems


class _Draw:
    """Draws one window after the other for a rank."""

    def __init__(
        self, taps: list[Tap], plan: BatchPlan, make: Make[Sized], *, share: Share, mark: Mark
    ) -> None:
        rank, ranks = share
        self._taps, self._make, self._number = taps, make, mark.window
        self._size = len(range(rank, plan.clips_per_step, ranks)) or 1
        self._seed = f"{plan.seed}/{rank}"
        self._wanted = self._size * max(WINDOW_STEPS, ceil_div(WINDOW_CLIPS, self._size))

    def window(self) -> _Window:
        """The next one. Raises ClipError where there is nothing to learn."""
        chance = random.Random(f"{self._seed}/{self._number}")
        self._number += 1
        drawn: Drawn[Sized] = Drawn()
        whole = sum(tap.weight for tap in self._taps)
        for tap in self._taps:
            exact = self._wanted * tap.weight / whole
            drawn.add(tap.draw(int(exact) + (chance.random() < exact % 1), self._make))
        if all(tap.dry for tap in self._taps):
            raise _nothing(drawn.problems)
        chance.shuffle(drawn.made)
        rows = [row for row, _ in sorted(drawn.made, key=lambda each: each[1])]
        steps = [rows[at : at + self._size] for at in range(0, len(rows), self._size)]
        chance.shuffle(steps)
        places = tuple(tap.place for tap in self._taps)
        return _Window(steps, places, drawn.seen, drawn.problems)


def buffer(
    feeds: Sequence[Feed], plan: BatchPlan, chat: Chat, listen: Listen | Anew, wanted: Wanted
) -> Buffered:
    """The batches of all clips of a stream that are `wanted`."""
    pad = Padding(chat.pad, chat.placeholder, multiple=MULTIPLE, longest=plan.longest)
    return Buffered(feeds, plan, partial(_row, chat, plan, wanted), listen=listen, pad=pad)


def _row(chat: Chat, plan: BatchPlan, wanted: Wanted, clip: Clip) -> Sized | None:
    """The row of a clip and its length. Raises ClipError for one that cannot be learned."""
    learned = wanted(clip)
    return None if learned is None else fitting(learned, plan, chat)


def _silent(row: Row, pad: Padding) -> Row:
    """A row that stands for a step of which nothing can be heard."""
    return Row((pad.pad,) * 2, (IGNORE,) * 2, (), row.place)


def _nothing(problems: list[Problem]) -> ClipError:
    if problems:
        return _error(problems[0])
    return ClipError(
        "the stream gives this process no clip to learn from",
        mend="look at its sources with dlm check, and start no more processes than it has clips",
    )


def _error(problem: Problem) -> ClipError:
    return ClipError(problem.what, where=problem.where, mend=problem.mend)


def _names(feeds: Sequence[Feed]) -> str:
    return ", ".join(feed.name for feed in feeds)
