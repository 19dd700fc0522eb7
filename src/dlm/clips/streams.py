"""Clips too many to list: dealt out to hands, and read row by row from any place on.

    Feed     a source as it is read: its shards, and how much of what is drawn comes from it
    pass     all of its shards, in an order that the seed draws; every clip comes once
    Hand     one reader of several: every so-manieth shard of the pass is its own, or, where there
             are fewer shards than hands, every so-manieth row of each
    Tap      a feed in one process: its hands go through a pass side by side, and begin the next
             one together
    Place    where a tap stands: all before it was given in this pass, all after it comes

What is held is the row at hand of each shard that is open, whatever their number.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Generic, TypeVar

from dlm.clips.clip import Clip, Problem
from dlm.clips.formats.every import format_of
from dlm.clips.origin import Given, Shard
from dlm.clips.sections import clips_in
from dlm.clips.sources import every_source, rooted, taken
from dlm.document.document import Document
from dlm.errors import ClipError

END = -1  # no shard: the pass is over

Made = TypeVar("Made")
Make = Callable[[Clip], Made | None]  # None passes a clip over, ClipError says what is wrong


@dataclass(frozen=True)
class Hand:
    """Which reader, of how many."""

    number: int
    of: int


@dataclass(frozen=True)
class Spot:
    """Where a hand stands in its pass."""

    shard: int = 0  # of those that it reads, or END
    row: int = 0  # the first that was not read
    clips: int = 0  # given so far


@dataclass(frozen=True)
class Place:
    """Where a tap stands: its pass, and the spot of each hand."""

    turn: int
    spots: tuple[Spot, ...]

    @property
    def numbers(self) -> tuple[int, ...]:
        """The same, for a state that is kept."""
        return (self.turn, *(each for spot in self.spots for each in vars(spot).values()))

    @classmethod
    def of(cls, numbers: Sequence[int]) -> "Place":
        """What `numbers` said."""
        turn, *rest = numbers
        return cls(turn, tuple(Spot(*rest[at : at + 3]) for at in range(0, len(rest), 3)))


@dataclass(frozen=True)
class Feed:
    """A source as it is read.

    `take` is what the source makes of a row; at most so many clips of a pass are given.
    """

    name: str
    shards: tuple[Shard, ...]
    take: Callable[[Given], Given]
    weight: float = 1.0
    most: int | None = None

    def read(
        self, hand: Hand, *, turn: int = 0, seed: int = 0, spot: Spot | None = None
    ) -> Iterator[tuple[Spot, Given]]:
        """What a hand has of a pass, from a spot on; with each, the spot after it."""
        spot = spot or Spot()
        order = self._order(turn, seed)
        whole = len(order) >= hand.of
        mine = order[hand.number :: hand.of] if whole else order
        most = None if self.most is None else len(range(hand.number, self.most, hand.of))
        clips = spot.clips
        for at in range(spot.shard, len(mine)):
            first = spot.row if at == spot.shard else 0
            for row, given in _rows(self.shards[mine[at]], first):
                if most is not None and clips >= most:
                    return
                if whole or (row + mine[at]) % hand.of == hand.number:
                    one = self.take(given)
                    clips += isinstance(one, Clip)
                    yield Spot(at, row + 1, clips), one

    def _order(self, turn: int, seed: int) -> list[int]:
        """Its shards as they come in a pass; as they are where only the first clips are asked."""
        order = list(range(len(self.shards)))
        if self.most is None:
            random.Random(f"{seed}/{self.name}/{turn}").shuffle(order)
        return order


@dataclass
class Drawn(Generic[Made]):
    """What came of some rows: what was made of them, and of how many clips; what was wrong."""

    made: list[Made] = field(default_factory=list)
    seen: int = 0
    problems: list[Problem] = field(default_factory=list)

    def add(self, other: "Drawn[Made]") -> None:
        """Take in what another hand has drawn."""
        self.made += other.made
        self.seen += other.seen
        self.problems += other.problems


class Tap:
    """One feed, as the hands of one process read it."""

    def __init__(
        self, feed: Feed, hands: Sequence[Hand], *, seed: int, place: Place | None = None
    ) -> None:
        """`place` is where it stood when it was left."""
        self._feed, self._hands, self._seed = feed, hands, seed
        self.weight, self.dry = feed.weight, False
        self._open(place or Place(0, (Spot(),) * len(hands)))

    @property
    def place(self) -> Place:
        """Where it stands."""
        return Place(self._turn, tuple(each.spot for each in self._readers))

    def draw(self, wanted: int, make: Make[Made]) -> Drawn[Made]:
        """The next so many of what can be made of its clips, fewer where its pass ends.

        A clip never comes twice in what is drawn at once. It is `dry` once a pass gave nothing.
        """
        drawn = self._draw(wanted, make)
        if not drawn.made and wanted and not self.dry:
            self._open(Place(self._turn + 1, (Spot(),) * len(self._hands)))
            drawn.add(self._draw(wanted, make))
            self.dry = not drawn.made
        return drawn

    def _draw(self, wanted: int, make: Make[Made]) -> Drawn[Made]:
        drawn: Drawn[Made] = Drawn()
        with ThreadPoolExecutor(len(self._hands)) as pool:
            while left := wanted - len(drawn.made):
                ready = [each for each in self._readers if not each.over]
                if not ready:
                    break
                shares = [len(range(at, left, len(ready))) for at in range(len(ready))]
                for found in pool.map(partial(_read, make=make), ready, shares):
                    drawn.add(found)
        return drawn

    def _open(self, place: Place) -> None:
        self._turn = place.turn
        self._readers = [
            _Reader(self._feed.read(hand, turn=place.turn, seed=self._seed, spot=spot), spot)
            for hand, spot in zip(self._hands, place.spots, strict=True)
        ]


@dataclass
class _Reader:
    """A hand in the middle of its pass."""

    rows: Iterator[tuple[Spot, Given]]
    spot: Spot

    @property
    def over(self) -> bool:
        """Whether its pass has ended."""
        return self.spot.shard == END


def feeds(document: Document) -> tuple[Feed, ...]:
    """Everything the document gives, each source a feed, its own clips the first.

    Raises ClipError for a source that cannot be read at all.
    """
    own = Shard.of(document.path.name, partial(clips_in, document))
    found = [Feed(document.path.name, (own,), lambda given: given)] if any(own.read(0)) else []
    for source, tested in every_source(document.settings.training):
        if tested:
            continue
        origin = rooted(document, source)
        shards = tuple(format_of(origin).shards(origin))
        take = partial(taken, document, origin)
        found.append(Feed(origin.name, shards, take, source.weight, source.max_files))
    return tuple(found)


def _rows(shard: Shard, first: int) -> Iterator[tuple[int, Given]]:
    """The rows of a shard with their numbers; why it cannot be read is a row too."""
    row = first
    try:
        for given in shard.read(first):
            yield row, given
            row += 1
    except ClipError as error:
        yield row, Problem.of(error, shard.name)


def _read(reader: _Reader, wanted: int, make: Make[Made]) -> Drawn[Made]:
    """The next so many of what can be made of a reader's clips."""
    drawn: Drawn[Made] = Drawn()
    while len(drawn.made) < wanted:
        found = next(reader.rows, None)
        if found is None:
            reader.spot = replace(reader.spot, shard=END)
            break
        reader.spot, given = found
        made = _made(given, make)
        if isinstance(made, Problem):
            drawn.problems.append(made)
        elif made is not None:
            drawn.made.append(made)
    drawn.seen = len(drawn.made) + len(drawn.problems)
    return drawn


def _made(given: Given, make: Make[Made]) -> Made | Problem | None:
    """What is made of a row, or what is wrong with it; None where it is passed over."""
    if isinstance(given, Problem):
        return given if given.fatal else None
    if not isinstance(given, Clip):
        return None
    try:
        return make(given)
    except ClipError as error:
        return Problem.of(error, given.place)
