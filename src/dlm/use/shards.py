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

from dlm.clips.clip import Clip, Sound, Turn
from dlm.features.ear import Ear, Hear
from dlm.files import sha256_file
from dlm.model.face import Model
from dlm.model.load import load
from dlm.plan.bases import Base
from dlm.plan.plan import ModelPlan

INDEX = "index.json"

Sample = tuple[tuple[str, bytes], ...]  # its files: how each is named after its key, and its bytes
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Limits:
    """How much goes into a shard; it has one sample at least."""

    samples: int
    bytes: int


@dataclass(frozen=True)
class Shard:
    """One file of samples."""

    name: str
    samples: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Shards:
    """What was written: features of `base`, in order; `left_out` clips have no sound."""

    base: str
    base_revision: str | None
    samples: int
    left_out: int
    shards: tuple[Shard, ...]


def hearing(plan: ModelPlan) -> Hear:
    """The frozen encoder of a plan, loaded once a clip comes that was never heard before."""

    @cache
    def model() -> Model:
        return load(plan)

    return lambda mel, frames: model().hear_one(mel, frames)


def write_shards(
    folder: Path,
    parts: Mapping[str, tuple[Clip, ...]],
    base: Base,
    *,
    ear: Ear,
    limits: Limits,
    progress: Progress | None = None,
) -> Shards:
    """Write the clips of each part, by its name, into an empty folder, then the index.

    `ear` has to hear with a frozen encoder. Raises ClipError where a clip cannot be decoded.
    """
    heard = {part: tuple(clip for clip in clips if clip.sounds) for part, clips in parts.items()}
    total = sum(map(len, heard.values()))
    shards: list[Shard] = []
    numbers = count(1)

    def sample(clip: Clip) -> Sample:
        made = _sample(clip, ear)
        if progress:
            progress(next(numbers), total)
        return made

    for part, clips in heard.items():
        shards += _fill(folder, part, map(sample, clips), limits)
    index = Shards(
        base=base.key,
        base_revision=base.revision,
        samples=total,
        left_out=sum(map(len, parts.values())) - total,
        shards=tuple(shards),
    )
    (folder / INDEX).write_bytes(_json(asdict(index)))
    return index


def _fill(folder: Path, part: str, samples: Iterator[Sample], limits: Limits) -> Iterator[Shard]:
    """Write samples to one shard after the other; their keys count through all of them."""
    done, number, sample = 0, 0, next(samples, None)
    while sample is not None:
        path, first, taken = folder / f"{part}-{number:06}.tar", done, 0
        with tarfile.open(path, "x", format=tarfile.USTAR_FORMAT) as shard:
            while sample is not None:
                size = sum(len(data) for _, data in sample)
                full = done - first == limits.samples or taken + size > limits.bytes
                if full and done > first:
                    break
                for suffix, data in sample:
                    _add(shard, f"{done:06}.{suffix}", data)
                done, taken, sample = done + 1, taken + size, next(samples, None)
        yield Shard(path.name, done - first, path.stat().st_size, sha256_file(path))
        number += 1


def _add(shard: tarfile.TarFile, name: str, data: bytes) -> None:
    """Add a file of no time and no owner: a TarInfo says so by itself."""
    about = tarfile.TarInfo(name)
    about.size = len(data)
    shard.addfile(about, io.BytesIO(data))


def _sample(clip: Clip, ear: Ear) -> Sample:
    windows = [(at, heard) for at, sound in enumerate(clip.sounds) for heard in ear(sound)]
    features = torch.cat([heard.values for _, heard in windows])
    facts = {
        "place": clip.place,
        "task": clip.task,
        "language": clip.language,
        "turns": _turns(clip.turns),
        "sounds": [
            {"path": each.name, "start": each.start, "end": each.end} for each in clip.sounds
        ],
        "windows": [
            {"sound": at, "frames": heard.frames, "samples": heard.samples} for at, heard in windows
        ],
    }
    return ("npy", _npy(features)), ("txt", clip.target.encode()), ("json", _json(facts))


def _turns(turns: tuple[Turn, ...]) -> list[dict[str, object]]:
    """Who says what; a sound is its number among the clip's."""
    told: list[dict[str, object]] = []
    sounds = 0
    for turn in turns:
        parts: list[object] = []
        for part in turn.parts:
            parts.append({"sound": sounds} if isinstance(part, Sound) else part)
            sounds += isinstance(part, Sound)
        told.append({"role": turn.role, "parts": parts})
    return told


def _npy(features: torch.Tensor) -> bytes:
    """Features (frames, width) in numpy's own form, which has no bfloat16."""
    values = features.float() if features.dtype == torch.bfloat16 else features
    data = io.BytesIO()
    np.save(data, values.numpy(), allow_pickle=False)
    return data.getvalue()


def _json(value: object) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=2) + "\n").encode()
