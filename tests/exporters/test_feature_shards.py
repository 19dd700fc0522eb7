"""Shards read by webdataset hold the features that training uses, byte for byte the same again."""

import json
import tarfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from webdataset.tariterators import group_by_keys, tar_file_expander

from dlm.commands.preflight import Preflight, run_preflight
from dlm.errors import StoreError
from dlm.exporters.feature_shards import ShardLimits, write_feature_shards
from dlm.features.extractor import AudioFeatureExtractor
from dlm.io import sha256_file
from dlm.models.load import load_model
from tests.cli_runner import CommandResult, dlm, hash_files
from tests.tiny_models import TRANSCRIPTS, write_document, write_tiny_model

TRAINING = "  adapter: projector\n  held_out: 2\n"
CONVERSATIONS = """
::conversation::
### User
<audio>clips/0.wav</audio> Or <audio>clips/1.wav</audio>?
### Assistant
Neither.

::instruction::
### Q
And without audio?
### A
Nothing is written.
"""


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("base") / "tiny")


def write_shards(document: Path, folder: Path, *args: object) -> CommandResult:
    done = dlm("shards", document, folder, *args)
    assert done.code == 0, done.err
    return done


def read_samples(folder: Path, split: str) -> list[dict]:
    """All samples of a split, read by webdataset."""
    samples = []
    for path in sorted(folder.glob(f"{split}-*.tar")):
        with path.open("rb") as stream:  # which WebDataset itself leaves to the collector
            files = tar_file_expander([{"url": path.name, "stream": stream}])
            samples += webdataset.decode()(group_by_keys(files))
    return samples


def make_extractor(preflight: Preflight) -> AudioFeatureExtractor:
    model = load_model(preflight.require_plan().model)
    return AudioFeatureExtractor(preflight.spec, auto_resample=False, encode_fn=model.encode_single)


def test_webdataset_reads_the_encoder_output(model_dir: Path, tmp_path: Path) -> None:
    document = write_document(tmp_path, base_model=model_dir, training=TRAINING, body=CONVERSATIONS)
    done = write_shards(document, tmp_path / "out")
    train, held_out = (read_samples(tmp_path / "out", split) for split in ("learn", "held-out"))
    assert len(train) + len(held_out) == 7 and len(held_out) >= 2
    assert "learn-000000.tar" in done.out and "1 clip without audio is left out" in done.err
    preflight = run_preflight(document)
    extractor = make_extractor(preflight)
    with_audio = [example for example in preflight.train_examples if example.audio_segments]
    for example, sample in zip(with_audio, train, strict=True):
        features = [
            window.values for segment in example.audio_segments for window in extractor(segment)
        ]
        assert np.array_equal(sample["npy"], torch.cat(features))
        assert sample["txt"] == example.target
    assert {sample["txt"] for sample in held_out} <= {*TRANSCRIPTS, "Neither."}
    for sample in train + held_out:
        features, metadata = sample["npy"], sample["json"]
        assert features.dtype == np.float32 and features.shape[1] == 32
        assert features.shape[0] == sum(window["frames"] for window in metadata["windows"])
        segment_numbers = {window["sound"] for window in metadata["windows"]}
        assert len(metadata["sounds"]) == len(segment_numbers)


def test_a_sample_of_two_recordings_holds_both_in_order(model_dir: Path, tmp_path: Path) -> None:
    document = write_document(tmp_path, base_model=model_dir, training=TRAINING, body=CONVERSATIONS)
    write_shards(document, tmp_path / "out")
    samples = {
        sample["txt"]: sample
        for split in ("learn", "held-out")
        for sample in read_samples(tmp_path / "out", split)
    }
    conversation = samples["Neither."]["json"]
    assert conversation["turns"][0]["parts"] == [{"sound": 0}, " Or ", {"sound": 1}, "?"]
    assert conversation["sounds"][1] == {"path": "clips/1.wav", "start": None, "end": None}
    first, both = samples[TRANSCRIPTS[0]]["npy"], samples["Neither."]["npy"]
    assert np.array_equal(both[: len(first)], first)


def test_shards_are_indexed_and_reproducible(model_dir: Path, tmp_path: Path) -> None:
    document = write_document(tmp_path, base_model=model_dir, training=TRAINING)
    out = tmp_path / "out"
    write_shards(document, out, "--samples", 3)
    index = json.loads((out / "index.json").read_text())
    assert [shard["samples"] for shard in index["shards"]] == [3, 1, 2]
    assert (index["samples"], index["left_out"]) == (6, 0)
    keys = [Path(sample["__key__"]).name for sample in read_samples(out, "learn")]
    assert keys == ["000000", "000001", "000002", "000003"]
    for shard in index["shards"]:
        path = out / shard["name"]
        assert (shard["bytes"], shard["sha256"]) == (path.stat().st_size, sha256_file(path))
        with tarfile.open(path) as tar:
            assert {(info.mtime, info.uid, info.uname) for info in tar} == {(0, 0, "")}
    write_shards(document, tmp_path / "again", "--samples", 3)
    assert hash_files(tmp_path / "again") == hash_files(out)


def test_a_shard_has_one_sample_at_least_and_no_more_than_its_bytes(
    model_dir: Path, tmp_path: Path
) -> None:
    preflight = run_preflight(write_document(tmp_path, base_model=model_dir, training=TRAINING))
    extractor = make_extractor(preflight)
    for max_bytes, expected in ((1, [1] * 4), (9_000, [2, 2]), (1_000_000, [4])):
        folder = tmp_path / str(max_bytes)
        folder.mkdir()
        progress: list[tuple[int, int]] = []
        index = write_feature_shards(
            folder,
            {"learn": preflight.train_examples},
            preflight.spec,
            extractor=extractor,
            limits=ShardLimits(100, max_bytes),
            progress=lambda done, total, calls=progress: calls.append((done, total)),
        )
        assert [shard.samples for shard in index.shards] == expected
        assert progress == [(number, 4) for number in range(1, 5)]
        assert all(one.name < two.name for one, two in pairwise(index.shards))
    with pytest.raises(StoreError) as caught:
        write_feature_shards(
            tmp_path,
            {"../learn": preflight.train_examples},
            preflight.spec,
            extractor=extractor,
            limits=ShardLimits(100, 1),
        )
    assert caught.value.code == "store.bad_name"


def test_cached_features_are_written_without_loading_weights(
    model_dir: Path, tmp_path: Path
) -> None:
    document = write_document(tmp_path, base_model=model_dir, training=TRAINING)
    write_shards(document, tmp_path / "out")
    (model_dir / "model.safetensors").rename(model_dir / "gone")
    try:
        write_shards(document, tmp_path / "again")
    finally:
        (model_dir / "gone").rename(model_dir / "model.safetensors")
    assert hash_files(tmp_path / "again") == hash_files(tmp_path / "out")


def test_mistakes_are_refused_before_anything_is_written(model_dir: Path, tmp_path: Path) -> None:
    document = write_document(tmp_path, base_model=model_dir, training="  adapter: full\n")
    out = tmp_path / "out"
    done = dlm("shards", document, out)
    done.refused(
        "its encoder is trained", "training.freeze_encoder", error="training.features_change"
    )
    dlm("shards", document, tmp_path / "clips").refused("not empty", error="store.not_empty")
    dlm("shards", document, out, "--samples", 0).refused("--samples", code=2)
    (tmp_path / "clips/3.wav").unlink()
    dlm("shards", document, out).refused("audio not found")
    assert not out.exists()
