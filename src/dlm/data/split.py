"""The train / held-out split of examples (`held_out`, `split_by`, `seed`), and pattern filters.

    split_by   recording   the examples of one recording stay on one side
               speaker     and those of one speaker; of an unknown speaker, of one recording
               content     and those of recordings with equal samples, in whatever format

Groups that share an example are merged. A group is ranked by a hash of the seed and of its
transcripts and file names, its speaker, or its samples: adding, moving or converting other
recordings never moves it to the other side.

A pattern of a stage or of `--clip` selects examples by location (my.dlm:*), by recording
(corpus/*.wav) or by task (transcribe, answer, text).
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
from dlm.data.audio_scan import compute_audio_stats
from dlm.data.load import LoadedData
from dlm.data.types import AudioSegment, Example, RecordingKey, Task
from dlm.errors import DataError

EXAMPLE_TASKS = get_args(Task)
MIN_EXAMPLES_FOR_HELD_OUT = 10  # from here on, a fraction above zero holds out at least one group
NUM_HASH_RANKS = 1 << 64

ExampleTuple = tuple[Example, ...]
ExampleGroup = list[Example]
HashRank = tuple[int, str]
ContentHashes = Mapping[RecordingKey, str]  # sha256 of the samples of a recording


def select_examples(examples: Iterable[Example], patterns: Sequence[str]) -> ExampleTuple:
    """Select the examples that match any of the patterns, in order; all, without patterns."""
    return tuple(
        example
        for example in examples
        if not patterns or any(_matches_example(example, pattern) for pattern in patterns)
    )


def _matches_example(example: Example, pattern: str) -> bool:
    if pattern in EXAMPLE_TASKS:
        return example.task == pattern
    names = (example.location, *(segment.name for segment in example.audio_segments))
    return any(fnmatchcase(name, pattern) for name in names)


@dataclass(frozen=True)
class SplitKeyer:
    """What examples are grouped by, and the hash that ranks a group.

    Attributes:
        split_by: recording, speaker or content.
        seed: the seed of the split.
        content_hashes: with `content`, the hash of every recording.
    """

    split_by: SplitBy
    seed: int
    content_hashes: ContentHashes = field(default_factory=dict)

    def get_group_keys(self, example: Example) -> list[Hashable]:
        """Return the keys of an example; examples that share a key are in one group."""
        recordings = [segment.recording_key for segment in example.audio_segments]
        if self.split_by == "content":
            return [self.content_hashes[recording] for recording in recordings]
        if self.split_by == "speaker":
            # a question about a segment has no speaker, and belongs to that of its transcript
            speaker_keys = [example.speaker] if example.speaker else recordings
            return [*speaker_keys, *example.audio_segments]
        return [*recordings]

    def compute_hash_rank(self, example: Example) -> int:
        """Compute the rank of an example, 0 to 2**64 - 1."""
        if self.split_by == "content":
            return min(
                self._hash_values(self.content_hashes[segment.recording_key])
                for segment in example.audio_segments
            )
        if self.split_by == "speaker" and example.speaker:
            return self._hash_values(example.speaker)
        spans = [
            (_get_file_name(segment), segment.start, segment.end)
            for segment in example.audio_segments
        ]
        texts = [message.text for message in example.messages if message.role != "system"]
        return self._hash_values(spans, texts)

    def _hash_values(self, *values: object) -> int:
        content = json.dumps([self.seed, *values]).encode()
        return int.from_bytes(hashlib.sha256(content).digest()[:8], "big")


def train_eval_split(
    data: LoadedData, config: TrainingConfig, known_hashes: ContentHashes | None = None
) -> tuple[ExampleTuple, ExampleTuple]:
    """Split the examples of a document into train and held-out, each in order.

    If a whole source is held out, examples of other sources in its groups are in neither.

    Args:
        data: the loaded examples.
        config: `held_out`, `split_by` and `seed`.
        known_hashes: content hashes that are known already; the rest is computed.
    """
    examples = data.examples
    content_hashes: ContentHashes = {}
    if config.split_by == "content":
        content_hashes = hash_contents(examples, known_hashes or {})
    keyer = SplitKeyer(config.split_by, config.seed, content_hashes)
    if isinstance(config.held_out, SourceConfig):
        held_out = data.held_out_examples
        return _exclude_related(examples, held_out, keyer), held_out
    return split_by_group(examples, config.held_out, keyer)


def split_by_group(
    examples: Sequence[Example], held_out: float | int, keyer: SplitKeyer
) -> tuple[ExampleTuple, ExampleTuple]:
    """Split examples into train and held-out, each in order; text is always trained on.

    Args:
        examples: the examples.
        held_out: a number of examples, met as nearly as whole groups allow, or a fraction. At
            least one group stays to be trained on.
        keyer: how examples are grouped and ranked.
    """
    ranked_groups = sorted(
        ((_rank_group(group, keyer), group) for group in _group_examples(examples, keyer)),
        key=lambda ranked: ranked[0],
    )
    selected = (
        _select_groups_by_count([group for _, group in ranked_groups], int(held_out))
        if held_out >= 1
        else _select_groups_by_fraction(ranked_groups, held_out)
    )
    held_out_ids = {id(example) for group in selected for example in group}
    train = tuple(example for example in examples if id(example) not in held_out_ids)
    return train, tuple(example for example in examples if id(example) in held_out_ids)


def _exclude_related(
    examples: Sequence[Example], held_out_examples: Sequence[Example], keyer: SplitKeyer
) -> ExampleTuple:
    """The examples that share no group with a held-out one."""
    excluded_ids = {id(example) for example in held_out_examples}
    for group in _group_examples(examples, keyer):
        if any(id(example) in excluded_ids for example in group):
            excluded_ids.update(map(id, group))
    return tuple(example for example in examples if id(example) not in excluded_ids)


def _select_groups_by_count(groups: list[ExampleGroup], num_examples: int) -> list[ExampleGroup]:
    """The first groups that make up `num_examples`; one too large for what is left is skipped."""
    selected: list[ExampleGroup] = []
    for group in groups:
        if len(group) <= num_examples and len(selected) < len(groups) - 1:
            selected.append(group)
            num_examples -= len(group)
    return selected or sorted(groups[: len(groups) - 1], key=len)[:1]


def _select_groups_by_fraction(
    ranked_groups: list[tuple[HashRank, ExampleGroup]], fraction: float
) -> list[ExampleGroup]:
    """The groups ranked below `fraction`: a decision on each alone, whatever the others are."""
    selected = [group for (rank, _), group in ranked_groups if rank < fraction * NUM_HASH_RANKS]
    num_examples = sum(len(group) for _, group in ranked_groups)
    if not selected and fraction > 0 and num_examples >= MIN_EXAMPLES_FOR_HELD_OUT:
        selected = [ranked_groups[0][1]]
    return selected[: len(ranked_groups) - 1]


def _group_examples(examples: Iterable[Example], keyer: SplitKeyer) -> list[ExampleGroup]:
    """Group the examples that have audio and share a key, directly or not (union-find)."""
    key_ids: dict[int, int] = {}  # by the hash of a key, which takes less memory than the key
    parent: list[int] = []
    keyed_examples: list[tuple[int, Example]] = []

    def find_root(key_id: int) -> int:
        while parent[key_id] != key_id:
            parent[key_id] = key_id = parent[parent[key_id]]
        return key_id

    for example in examples:
        if not example.audio_segments:
            continue
        ids = [key_ids.setdefault(hash(key), len(key_ids)) for key in keyer.get_group_keys(example)]
        parent += range(len(parent), len(key_ids))
        keyed_examples.append((ids[0], example))
        for other in ids[1:]:
            parent[find_root(other)] = find_root(ids[0])
    groups: dict[int, ExampleGroup] = {}
    for key_id, example in keyed_examples:
        groups.setdefault(find_root(key_id), []).append(example)
    return list(groups.values())


def _rank_group(group: ExampleGroup, keyer: SplitKeyer) -> HashRank:
    """Rank a group by its transcripts, so that a new question about it does not move it.

    The name of a recording orders equal ranks: files of one name with one transcript.
    """
    ranked = [example for example in group if example.task == "transcribe"] or group
    return min(
        (keyer.compute_hash_rank(example), example.audio_segments[0].name) for example in ranked
    )


def _get_file_name(segment: AudioSegment) -> str:
    """The name of a recording without its folders, in an archive too."""
    return Path(segment.name).name if segment.byte_range else segment.path.name


def hash_contents(examples: Iterable[Example], known_hashes: ContentHashes) -> ContentHashes:
    """Hash the samples of every recording; one that cannot be decoded is known by its name."""
    segments = {
        segment.recording_key: segment for example in examples for segment in example.audio_segments
    }
    unknown = {key: segment for key, segment in segments.items() if key not in known_hashes}
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        computed = pool.map(_hash_content, unknown.values())
        return {**known_hashes, **dict(zip(unknown, computed, strict=True))}


def _hash_content(segment: AudioSegment) -> str:
    whole = AudioSegment(segment.path, byte_range=segment.byte_range)
    try:
        return compute_audio_stats(whole).content_sha256
    except DataError:
        return segment.name
