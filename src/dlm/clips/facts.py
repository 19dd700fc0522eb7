"""What is known of each clip, put together from its sounds when it is asked for.

Nothing is kept for a clip but the columns of `Heard`, so a hundred thousand clips are a few
megabytes; a ClipFacts is made anew each time one goes through them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from dlm.clips.clip import Clip, Task
from dlm.clips.heard import Heard, Recording
from dlm.clips.measure import SoundFacts


@dataclass(frozen=True, slots=True)
class ClipFacts:
    """One clip, measured: levels are shares of full scale, None where only headers were read.

    Several sounds count together; `rate`, `channels` and `sha256` (of the recording, empty where
    there are too many to hash) are of the first. `lasting` is how many seconds each of them lasts,
    `content` the sha256 of what is heard in all of them. A text clip has no sound: zeros.
    """

    place: str
    task: Task
    seconds: float
    samples: int
    rate: int
    channels: int
    peak: float | None
    rms: float | None
    silent_share: float | None
    clipped_share: float | None
    words: int
    words_per_second: float
    sha256: str
    lasting: tuple[float, ...]
    content: str


@dataclass(frozen=True)
class Facts:
    """The facts of every clip whose sounds can all be heard, in order."""

    clips: Sequence[Clip]
    heard: Heard

    def __iter__(self) -> Iterator[ClipFacts]:
        for clip in self.clips:
            numbers = self.heard.within(clip)
            if numbers is not None:
                yield _facts(clip, numbers, self.heard)

    @property
    def contents(self) -> dict[Recording, str]:
        """The sha256 of the samples of every recording that was heard from end to end."""
        heard = self.heard
        return {
            sound.recording: heard.facts[number].content
            for sound, number in heard.numbers.items()
            if number in heard.facts and sound.start is None and sound.end is None
        }

    def __len__(self) -> int:
        return sum(self.heard.within(clip) is not None for clip in self.clips)

    def lasting(self) -> dict[str, tuple[float, ...]]:
        """How many seconds each sound of a clip lasts, by the clip's place."""
        both = ((clip, self.heard.within(clip)) for clip in self.clips)
        return {
            clip.place: tuple(map(self.heard.seconds, numbers))
            for clip, numbers in both
            if numbers is not None
        }

    def content_by_place(self) -> dict[str, str]:
        """What is heard in each clip whose sounds were decoded, as a hash, by its place."""
        return {
            clip.place: _content(numbers, self.heard)
            for clip in self.clips
            if (numbers := self.heard.within(clip)) and self.heard.facts.keys() >= set(numbers)
        }


def _facts(clip: Clip, numbers: list[int], heard: Heard) -> ClipFacts:
    """The sounds of a clip taken together."""
    lasting = tuple(map(heard.seconds, numbers))
    seconds, words = sum(lasting), len(clip.target.split())
    found = [heard.facts[number] for number in numbers if number in heard.facts]
    whole = len(found) == len(numbers)
    recording = clip.sounds[0].recording if numbers else None
    return ClipFacts(
        place=clip.place,
        task=clip.task,
        seconds=seconds,
        samples=sum(heard.samples[number] for number in numbers),
        rate=heard.rates[numbers[0]] if numbers else 0,
        channels=heard.channels[numbers[0]] if numbers else 0,
        peak=max((sound.peak for sound in found), default=0.0) if whole else None,
        rms=_share(found, lambda sound: sound.rms**2) ** 0.5 if whole else None,
        silent_share=_share(found, lambda sound: sound.silent_share) if whole else None,
        clipped_share=_share(found, lambda sound: sound.clipped_share) if whole else None,
        words=words,
        words_per_second=words / seconds if seconds else 0.0,
        sha256=heard.digests.get(recording, "") if recording else "",
        lasting=lasting,
        content=_content(numbers, heard) if whole else "",
    )


def _content(numbers: list[int], heard: Heard) -> str:
    """One hash of the samples of several sounds; of a single one, its own."""
    return " ".join(heard.facts[number].content for number in numbers)


def _share(sounds: list[SoundFacts], of: Callable[[SoundFacts], float]) -> float:
    """A measure of several sounds, weighted by how long they last."""
    seconds = sum(sound.seconds for sound in sounds)
    return sum(of(sound) * sound.seconds for sound in sounds) / seconds if seconds else 0.0
