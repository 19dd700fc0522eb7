"""What a frozen encoder heard of a document's clips, as shards that `webdataset` reads.

folder/
  learn-000000.tar       000000.npy   features (frames, width), all windows one after the other
                         000000.txt   what the assistant says last
                         000000.json  who says what, which sound each window is of, how long it is
  held-out-000000.tar    the clips that are not learned from
  index.json             the base, and samples, bytes and sha256 of every shard

The same clips make the same bytes. A clip without sound has no features and is left out.
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

SHARD_INDEX_FILE = "index.json"

ShardSample = tuple[
    tuple[str, bytes], ...
]  # its files: how each is named after its key, and its bytes
ShardProgressFn = Callable[[int, int], None]


@dataclass(frozen=True)
class ShardLimits:
    """How much goes into a shard; it has one sample at least."""

    max_samples: int
    max_bytes: int


@dataclass(frozen=True)
class FeatureShard:
    """One file of samples."""

    name: str
    samples: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class FeatureShardIndex:
    """What was written: features of `base`, in order; `left_out` clips have no sound."""

    base: str
    base_revision: str | None
    samples: int
    left_out: int
    shards: tuple[FeatureShard, ...]


def make_lazy_encode_fn(model_plan: ModelPlan) -> EncodeFn:
    """The frozen encoder of a plan, loaded once a clip comes that was never heard before."""

    @cache
    def model() -> AudioLanguageModel:
        return load_model(model_plan)

    return lambda mel, frames: model().encode_single(mel, frames)


def write_feature_shards(
    folder: Path,
    splits: Mapping[str, tuple[Example, ...]],
    spec: ModelSpec,
    *,
    extractor: AudioFeatureExtractor,
    limits: ShardLimits,
    progress: ShardProgressFn | None = None,
) -> FeatureShardIndex:
    """Write the clips of each part, by its name, into an empty folder, then the index.

    `ear` has to hear with a frozen encoder. Raises ClipError where a clip cannot be decoded.
    """
    heard = {
        part: tuple(clip for clip in clips if clip.audio_segments) for part, clips in splits.items()
    }
    total = sum(map(len, heard.values()))
    shards: list[FeatureShard] = []
    numbers = count(1)

    def sample(clip: Example) -> ShardSample:
        made = _make_sample(clip, extractor)
        if progress:
            progress(next(numbers), total)
        return made

    for part, clips in heard.items():
        shards += _write_tar_shards(folder, part, map(sample, clips), limits)
    index = FeatureShardIndex(
        base=spec.key,
        base_revision=spec.revision,
        samples=total,
        left_out=sum(map(len, splits.values())) - total,
        shards=tuple(shards),
    )
    (folder / SHARD_INDEX_FILE).write_bytes(_to_json_bytes(asdict(index)))
    return index


def _write_tar_shards(
    folder: Path, split: str, samples: Iterator[ShardSample], limits: ShardLimits
) -> Iterator[FeatureShard]:
    """Write samples to one shard after the other; their keys count through all of them."""
    done, number, sample = 0, 0, next(samples, None)
    while sample is not None:
        path, first, taken = folder / f"{split}-{number:06}.tar", done, 0
        with tarfile.open(path, "x", format=tarfile.USTAR_FORMAT) as shard:
            while sample is not None:
                size = sum(len(data) for _, data in sample)
                full = done - first == limits.max_samples or taken + size > limits.max_bytes
                if full and done > first:
                    break
                for suffix, data in sample:
                    _add_tar_file(shard, f"{done:06}.{suffix}", data)
                done, taken, sample = done + 1, taken + size, next(samples, None)
        yield FeatureShard(path.name, done - first, path.stat().st_size, sha256_file(path))
        number += 1


def _add_tar_file(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Add a file of no time and no owner: a TarInfo says so by itself."""
    about = tarfile.TarInfo(name)
    about.size = len(data)
    tar.addfile(about, io.BytesIO(data))


def _make_sample(example: Example, extractor: AudioFeatureExtractor) -> ShardSample:
    windows = [
        (at, heard) for at, sound in enumerate(example.audio_segments) for heard in extractor(sound)
    ]
    features = torch.cat([heard.values for _, heard in windows])
    facts = {
        "place": example.location,
        "task": example.task,
        "language": example.language,
        "turns": _messages_to_json(example.messages),
        "sounds": [
            {"path": each.name, "start": each.start, "end": each.end}
            for each in example.audio_segments
        ],
        "windows": [
            {"sound": at, "frames": heard.num_frames, "samples": heard.num_samples}
            for at, heard in windows
        ],
    }
    return (
        ("npy", _to_npy_bytes(features)),
        ("txt", example.target.encode()),
        ("json", _to_json_bytes(facts)),
    )


def _messages_to_json(messages: tuple[Message, ...]) -> list[dict[str, object]]:
    """Who says what; a sound is its number among the clip's."""
    told: list[dict[str, object]] = []
    sounds = 0
    for turn in messages:
        parts: list[object] = []
        for part in turn.content:
            parts.append({"sound": sounds} if isinstance(part, AudioSegment) else part)
            sounds += isinstance(part, AudioSegment)
        told.append({"role": turn.role, "parts": parts})
    return told


def _to_npy_bytes(features: torch.Tensor) -> bytes:
    """Features (frames, width) in numpy's own form, which has no bfloat16."""
    values = features.float() if features.dtype == torch.bfloat16 else features
    data = io.BytesIO()
    np.save(data, values.numpy(), allow_pickle=False)
    return data.getvalue()


def _to_json_bytes(value: object) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=2) + "\n").encode()
