"""Which clips a pattern chooses: by their place, by their recordings, or by what is asked of them.

my.dlm:*            a place, as messages name it
corpus/*.wav        a recording, as the author wrote it
transcribe          a task: transcribe, answer or text

Which clips are learned from and which are kept to be tested on.

    split_by   recording   all clips of one recording stay together
               speaker     and all of one speaker; where none is known, of one recording
               content     and all of recordings with the same samples, in whatever format

A group draws its lot from the seed and from what it is of: what its clips say and its file's name,
its speaker, or its samples. So adding, moving or re-encoding other clips leaves it on its side.
Groups that meet in one clip are one: nothing tested on has been heard in training.
"""

import hashlib
import json
import os
from collections.abc import Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import get_args

from dlm.config.data_schema import SourceConfig
from dlm.config.schema import SplitBy, TrainingConfig
from dlm.data.audio_scan import RecordingKey, compute_audio_stats
from dlm.data.load import LoadedData
from dlm.data.types import AudioSegment, Example, Task
from dlm.errors import DataError

EXAMPLE_TASKS = get_args(Task)


def select_examples(examples: Iterable[Example], patterns: Sequence[str]) -> tuple[Example, ...]:
    """The clips that any of `patterns` fits, in the order given; without patterns, all."""
    return tuple(
        clip
        for clip in examples
        if not patterns or any(_matches_example(clip, each) for each in patterns)
    )


def _matches_example(example: Example, pattern: str) -> bool:
    if pattern in EXAMPLE_TASKS:
        return example.task == pattern
    names = (example.location, *(sound.name for sound in example.audio_segments))
    return any(fnmatchcase(name, pattern) for name in names)


MIN_EXAMPLES_FOR_HELD_OUT = 10  # from here on a share above zero keeps at least one recording
NUM_HASH_RANKS = 1 << 64

ExampleTuple = tuple[Example, ...]
ExampleGroup = list[Example]
HashRank = tuple[int, str]
ContentHashes = Mapping[RecordingKey, str]  # the sha256 of a recording's samples


@dataclass(frozen=True)
class SplitKeyer:
    """What clips are of, and how that draws its lot."""

    split_by: SplitBy
    seed: int
    content_hashes: ContentHashes = field(default_factory=dict)

    def get_group_keys(self, example: Example) -> list[Hashable]:
        """All that a clip is of; what is asked about a speaker's span stays with the speaker."""
        recordings = [sound.recording for sound in example.audio_segments]
        if self.split_by == "content":
            return [self.content_hashes[each] for each in recordings]
        if self.split_by == "speaker":
            return [
                *([example.speaker] if example.speaker else recordings),
                *example.audio_segments,
            ]
        return [*recordings]

    def compute_hash_rank(self, example: Example) -> int:
        """The lot of one clip."""
        if self.split_by == "content":
            return min(
                self._hash_values(self.content_hashes[each.recording])
                for each in example.audio_segments
            )
        if self.split_by == "speaker" and example.speaker:
            return self._hash_values(example.speaker)
        sounds = [
            (_get_file_name(sound), sound.start, sound.end) for sound in example.audio_segments
        ]
        return self._hash_values(
            sounds, [turn.text for turn in example.messages if turn.role != "system"]
        )

    def _hash_values(self, *values: object) -> int:
        content = json.dumps([self.seed, *values]).encode()
        return int.from_bytes(hashlib.sha256(content).digest()[:8], "big")


def train_eval_split(
    data: LoadedData, config: TrainingConfig, known_hashes: ContentHashes | None = None
) -> tuple[ExampleTuple, ExampleTuple]:
    """What is learned from and what is kept, each in the order given, as a document asks.

    Of a source that is kept every clip is, and what belongs to them in other sources is in neither.
    `known` are contents that need not be read again.
    """
    clips, by = data.examples, config.split_by
    of = SplitKeyer(
        by, config.seed, hash_contents(clips, known_hashes or {}) if by == "content" else {}
    )
    if isinstance(config.held_out, SourceConfig):
        return _exclude_related(clips, data.held_out_examples, of), data.held_out_examples
    return split_by_group(clips, config.held_out, of)


def split_by_group(
    examples: Sequence[Example], held_out: float | int, keyer: SplitKeyer
) -> tuple[ExampleTuple, ExampleTuple]:
    """Part `clips` into (learn, held), each in the order given. Text clips always learn.

    A whole number keeps as many clips, as near as whole groups come to it; a share keeps about as
    much. At least one group is left to learn from.
    """
    lots = [(_rank_group(group, keyer), group) for group in _group_examples(examples, keyer)]
    lots.sort(key=lambda each: each[0])
    kept = (
        _select_groups_by_count(lots, int(held_out))
        if held_out >= 1
        else _select_groups_by_fraction(lots, held_out)
    )
    held = {id(clip) for group in kept for clip in group}
    learn = tuple(clip for clip in examples if id(clip) not in held)
    return learn, tuple(clip for clip in examples if id(clip) in held)


def _exclude_related(
    examples: Sequence[Example], held_out_examples: Sequence[Example], keyer: SplitKeyer
) -> ExampleTuple:
    """The clips that have nothing in common with those that are kept."""
    held = {id(clip) for clip in held_out_examples}
    for group in _group_examples(examples, keyer):
        if any(id(clip) in held for clip in group):
            held.update(map(id, group))
    return tuple(clip for clip in examples if id(clip) not in held)


def _select_groups_by_count(
    ranked_groups: list[tuple[HashRank, ExampleGroup]], num_examples: int
) -> list[ExampleGroup]:
    """The first groups that make up `wanted` clips; one too large for the rest is passed over."""
    groups = [group for _, group in ranked_groups]
    kept: list[ExampleGroup] = []
    for group in groups:
        if len(group) <= num_examples and len(kept) < len(groups) - 1:
            kept.append(group)
            num_examples -= len(group)
    return kept or sorted(groups[: len(groups) - 1], key=len)[:1]


def _select_groups_by_fraction(
    ranked_groups: list[tuple[HashRank, ExampleGroup]], fraction: float
) -> list[ExampleGroup]:
    """The groups whose lot falls below `share`: each on its own, whatever the others are."""
    kept = [group for (lot, _), group in ranked_groups if lot < fraction * NUM_HASH_RANKS]
    if (
        not kept
        and fraction > 0
        and sum(len(group) for _, group in ranked_groups) >= MIN_EXAMPLES_FOR_HELD_OUT
    ):
        kept = [ranked_groups[0][1]]
    return kept[: len(ranked_groups) - 1]


def _group_examples(examples: Iterable[Example], keyer: SplitKeyer) -> list[ExampleGroup]:
    """Clips with sound, those that are of one thing together."""
    numbers: dict[int, int] = {}  # by the hash of what clips are of, which takes less than that
    leader: list[int] = []
    heard: list[tuple[int, Example]] = []

    def lead(number: int) -> int:
        while leader[number] != number:
            leader[number] = number = leader[leader[number]]
        return number

    for clip in examples:
        if clip.audio_segments:
            found = [
                numbers.setdefault(hash(key), len(numbers)) for key in keyer.get_group_keys(clip)
            ]
            leader += range(len(leader), len(numbers))
            heard.append((found[0], clip))
            for other in found[1:]:
                leader[lead(other)] = lead(found[0])
    groups: dict[int, ExampleGroup] = {}
    for number, clip in heard:
        groups.setdefault(lead(number), []).append(clip)
    return list(groups.values())


def _rank_group(group: ExampleGroup, keyer: SplitKeyer) -> HashRank:
    """Where a group stands in the draw: by its transcripts, so that a new question moves nothing.

    The second part orders equal lots, those of files with one name and one transcript.
    """
    spoken = [clip for clip in group if clip.task == "transcribe"] or group
    return min((keyer.compute_hash_rank(clip), clip.audio_segments[0].name) for clip in spoken)


def _get_file_name(segment: AudioSegment) -> str:
    """A recording's name without its folders, in an archive too."""
    return Path(segment.name).name if segment.byte_range else segment.path.name


def hash_contents(examples: Iterable[Example], known_hashes: ContentHashes) -> ContentHashes:
    """The content of every recording; one that cannot be heard is told by its name alone."""
    recordings = {sound.recording: sound for clip in examples for sound in clip.audio_segments}
    left = [sound for recording, sound in recordings.items() if recording not in known_hashes]
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        found = zip(left, pool.map(_hash_content, left), strict=True)
        return {**known_hashes, **{sound.recording: content for sound, content in found}}


def _hash_content(segment: AudioSegment) -> str:
    try:
        return compute_audio_stats(
            AudioSegment(segment.path, byte_range=segment.byte_range)
        ).content_sha256
    except DataError:
        return segment.name
