"""Writes a frozen encoder's output as tar shards that `webdataset` reads (`dlm shards`).

folder/
  learn-000000.tar       000000.npy   features (frames, hidden_size), one window after the other
                         000000.txt   the last text of the assistant
                         000000.json  messages, audio segments, and the windows of the features
  held-out-000000.tar    the clips that are not trained on
  index.json             the model, and samples, bytes and sha256 of every shard

The same clips make the same bytes. A clip without audio has no features and is left out.
"""

import io
import json
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from itertools import count
from pathlib import Path

import numpy as np
import torch

from dlm.data.types import AudioSegment, Example, Message
from dlm.features.extractor import AudioFeatureExtractor, EncodeFn
from dlm.io import sha256_file
from dlm.models.audio_lm import AudioLanguageModel
from dlm.models.load import load_model
from dlm.plan.model_spec import ModelSpec
from dlm.plan.types import ModelPlan
from dlm.store.layout import require_safe_name

SHARD_INDEX_FILE = "index.json"

ShardSample = dict[str, bytes]  # content of its files, by suffix
ShardProgressFn = Callable[[int, int], None]  # number of written samples, of all


@dataclass(frozen=True)
class ShardLimits:
    """The most that goes into a shard, which has one sample at least."""

    max_samples: int
    max_bytes: int


@dataclass(frozen=True)
class FeatureShard:
    """One tar file: its name, samples, bytes and sha256."""

    name: str
    samples: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class FeatureShardIndex:
    """What was written, as in `index.json`.

    Attributes:
        base: key of the model whose encoder the features are of.
        base_revision: of its weights.
        samples: in all shards.
        left_out: clips without audio.
        shards: in order.
    """

    base: str
    base_revision: str | None
    samples: int
    left_out: int
    shards: tuple[FeatureShard, ...]


def make_lazy_encode_fn(model_plan: ModelPlan) -> EncodeFn:
    """Make a function that loads the model when the first segment is not in the cache."""

    @cache
    def get_model() -> AudioLanguageModel:
        return load_model(model_plan)

    return lambda values, num_frames: get_model().encode_single(values, num_frames)


def write_feature_shards(
    folder: Path,
    splits: Mapping[str, tuple[Example, ...]],
    spec: ModelSpec,
    *,
    extractor: AudioFeatureExtractor,
    limits: ShardLimits,
    progress: ShardProgressFn | None = None,
) -> FeatureShardIndex:
    """Write the features of examples into an empty folder, then the index.

    Args:
        folder: where to write.
        splits: the examples of each split, whose name the shards have.
        spec: the model whose encoder the features are of.
        extractor: with a frozen encoder.
        limits: of a shard.
        progress: called for each sample.

    Raises:
        AudioError: a recording cannot be decoded (`audio.*`).
        StoreError: the name of a split is no file name (`store.bad_name`).
    """
    with_audio = {
        split: [example for example in examples if example.audio_segments]
        for split, examples in splits.items()
    }
    num_samples = sum(map(len, with_audio.values()))
    sample_numbers = count(1)

    def make_sample(example: Example) -> ShardSample:
        sample = _make_sample(example, extractor)
        if progress:
            progress(next(sample_numbers), num_samples)
        return sample

    shards: list[FeatureShard] = []
    for split, examples in with_audio.items():
        prefix = folder / require_safe_name(split)
        shards += _write_tar_shards(prefix, map(make_sample, examples), limits)
    index = FeatureShardIndex(
        base=spec.key,
        base_revision=spec.revision,
        samples=num_samples,
        left_out=sum(map(len, splits.values())) - num_samples,
        shards=tuple(shards),
    )
    (folder / SHARD_INDEX_FILE).write_bytes(_to_json_bytes(asdict(index)))
    return index


def _write_tar_shards(
    prefix: Path, samples: Iterator[ShardSample], limits: ShardLimits
) -> Iterator[FeatureShard]:
    """Write samples to one shard after the other; their keys count through all of them."""
    key, sample = 0, next(samples, None)
    for shard_number in count():
        if sample is None:
            return
        path, first_key, num_bytes = Path(f"{prefix}-{shard_number:06}.tar"), key, 0
        with tarfile.open(path, "x", format=tarfile.USTAR_FORMAT) as tar:
            while sample is not None:
                sample_bytes = sum(map(len, sample.values()))
                is_full = key - first_key == limits.max_samples
                if key > first_key and (is_full or num_bytes + sample_bytes > limits.max_bytes):
                    break
                for suffix, data in sample.items():
                    tar_info = tarfile.TarInfo(f"{key:06}.{suffix}")  # without time and owner
                    tar_info.size = len(data)
                    tar.addfile(tar_info, io.BytesIO(data))
                key, num_bytes, sample = key + 1, num_bytes + sample_bytes, next(samples, None)
        yield FeatureShard(path.name, key - first_key, path.stat().st_size, sha256_file(path))


def _make_sample(example: Example, extractor: AudioFeatureExtractor) -> ShardSample:
    windows = [
        (number, window)
        for number, segment in enumerate(example.audio_segments)
        for window in extractor(segment)
    ]
    metadata = {
        "place": example.location,
        "task": example.task,
        "language": example.language,
        "turns": _to_json_messages(example.messages),
        "sounds": [
            {"path": segment.name, "start": segment.start, "end": segment.end}
            for segment in example.audio_segments
        ],
        "windows": [
            {"sound": number, "frames": window.num_frames, "samples": window.num_samples}
            for number, window in windows
        ],
    }
    return {
        "npy": _to_npy_bytes(torch.cat([window.values for _, window in windows])),
        "txt": example.target.encode(),
        "json": _to_json_bytes(metadata),
    }


def _to_json_messages(messages: tuple[Message, ...]) -> list[dict[str, object]]:
    """Messages with the number of an audio segment in the example in its place."""
    numbers = count()
    return [
        {
            "role": message.role,
            "parts": [
                {"sound": next(numbers)} if isinstance(part, AudioSegment) else part
                for part in message.content
            ],
        }
        for message in messages
    ]


def _to_npy_bytes(features: torch.Tensor) -> bytes:
    """Features (frames, hidden_size) as an npy file; numpy has no bfloat16, which becomes fp32."""
    values = features.float() if features.dtype == torch.bfloat16 else features
    file = io.BytesIO()
    np.save(file, values.numpy(), allow_pickle=False)
    return file.getvalue()


def _to_json_bytes(value: object) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=2) + "\n").encode()
