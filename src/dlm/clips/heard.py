"""What is known of every sound: all of it where it was heard, or what its header says.

    few sounds    each is decoded and measured, each file hashed
    many          a sample is decoded; of the others the header is read, and nothing is hashed

Numbers stand in columns and what was measured in records, so a clip more costs a few dozen bytes.
"""

import hashlib
import os
import random
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from dlm.clips.audio import digest, listen
from dlm.clips.clip import Clip, Sound
from dlm.clips.disk import opened, unreadable
from dlm.clips.measure import SoundFacts, measure
from dlm.errors import ClipError

FULL_LISTEN = 2000  # sounds; of more, so many are heard and the others have their headers read
MOST_AT_ONCE = 8  # sounds; each holds one block
LOT = 64  # sounds handed to a thread together
ENDS_BYTES = 1 << 16  # of each end of a file, told of it where it is not hashed whole

Progress = Callable[[int, int], None]
Recording = tuple[Path, tuple[int, int] | None]


@dataclass(frozen=True, slots=True)
class Outline:
    """What a sound's header says of it. `samples` is per channel, at the recording's `rate`."""

    samples: int
    rate: int
    channels: int


Found = SoundFacts | Outline | ClipError
_Wanted = tuple[Sound, bool, bool]  # decode it, hash its recording
_Looked = tuple[Sound, Found, str]


@dataclass(frozen=True)
class Heard:
    """Every sound by its number, in the order that clips name them; 0 samples are not heard."""

    numbers: dict[Sound, int]
    samples: "array[int]" = field(default_factory=lambda: array("q"))
    rates: "array[int]" = field(default_factory=lambda: array("i"))
    channels: "array[int]" = field(default_factory=lambda: array("i"))
    facts: dict[int, SoundFacts] = field(default_factory=dict)  # of those that were decoded
    errors: dict[int, ClipError] = field(default_factory=dict)
    digests: dict[Recording, str] = field(default_factory=dict)  # empty where there are many

    def seconds(self, number: int) -> float:
        """How long a sound lasts; nothing if it cannot be heard."""
        return self.samples[number] / self.rates[number] if self.samples[number] else 0.0

    def within(self, clip: Clip) -> list[int] | None:
        """The numbers of a clip's sounds, or None if one of them cannot be heard."""
        found = [self.numbers[sound] for sound in clip.sounds]
        return found if all(self.samples[number] for number in found) else None

    def lasting(self, clip: Clip) -> float:
        """Seconds of a clip's sounds together; 0 if one of them cannot be heard."""
        return sum(map(self.seconds, self.within(clip) or ()))

    def take(self, number: int, found: Found) -> None:
        """Note what was found of the next sound."""
        if isinstance(found, ClipError):
            self.errors[number] = found
            found = Outline(0, 0, 0)
        elif isinstance(found, SoundFacts):
            self.facts[number] = found
        self.samples.append(found.samples)
        self.rates.append(found.rate)
        self.channels.append(found.channels)


def hear_all(clips: Sequence[Clip], *, full: bool, progress: Progress | None) -> Heard:
    """Look at each sound once, and hash each recording once, however many clips share it."""
    heard = Heard(_numbered(clips))
    count = len(heard.numbers)
    every = full or count <= FULL_LISTEN
    drawn = None if every else set(random.Random(0).sample(range(count), FULL_LISTEN))
    for number, (sound, found, sha256) in enumerate(_looked_at(heard.numbers, drawn)):
        heard.take(number, found)
        if sha256:
            heard.digests[sound.recording] = sha256
        if progress is not None:
            progress(number + 1, count)
    return heard


def identity(sound: Sound) -> str:
    """A sha256 that tells a recording from others without reading all of it.

    It is that of its size, when it was changed, and the first and last bytes. Where there are many
    recordings it stands for the sha256 of their bytes.
    """
    with opened(sound) as file:
        try:
            changed, size = sound.path.stat().st_mtime_ns, file.seek(0, os.SEEK_END)
            told = hashlib.sha256(f"{size} {changed}".encode())
            for start in (0, max(size - ENDS_BYTES, 0)):
                file.seek(start)
                told.update(file.read(ENDS_BYTES) or b"")
        except OSError as error:
            raise unreadable(sound.name, error) from error
    return told.hexdigest()


def _numbered(clips: Sequence[Clip]) -> dict[Sound, int]:
    numbers: dict[Sound, int] = {}
    for clip in clips:
        for sound in clip.sounds:
            numbers.setdefault(sound, len(numbers))
    return numbers


def _looked_at(sounds: dict[Sound, int], drawn: set[int] | None) -> Iterator[_Looked]:
    """Every sound, in order: those `drawn` are decoded, or all of them where that is None."""
    hashed: set[Recording] = set()

    def wanted(sound: Sound, number: int) -> _Wanted:
        fresh = drawn is None and sound.recording not in hashed
        if fresh:
            hashed.add(sound.recording)
        return sound, drawn is None or number in drawn, fresh

    rest = (wanted(sound, number) for sound, number in sounds.items())
    threads = min(MOST_AT_ONCE, os.cpu_count() or 1)
    most = max(1, min(LOT, len(sounds) // (4 * threads)))
    ahead: deque[Future[list[_Looked]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        while lot := list(islice(rest, most)):
            ahead.append(pool.submit(_look_at, lot))
            if len(ahead) > 2 * threads:
                yield from ahead.popleft().result()
        for looked in ahead:
            yield from looked.result()


def _look_at(lot: list[_Wanted]) -> list[_Looked]:
    return [(sound, *_look(sound, whole, fresh)) for sound, whole, fresh in lot]


def _look(sound: Sound, whole: bool, fresh: bool) -> tuple[Found, str]:
    """What is in a sound, and the sha256 of its recording if nobody has asked for it yet."""
    sha256 = ""
    try:
        sha256 = digest(sound) if fresh else ""
        if whole:
            return measure(sound), sha256
        with listen(sound) as span:
            return Outline(span.samples, span.header.rate, span.header.channels), sha256
    except ClipError as error:
        return ClipError(error.what, where=error.where, mend=error.mend), sha256  # without frames
