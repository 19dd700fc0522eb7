"""Features as shards: what webdataset reads is what training learns from, in the same bytes."""

import json
import tarfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from webdataset.tariterators import group_by_keys, tar_file_expander

from dlm.commands.preflight import run_preflight
from dlm.exporters.feature_shards import ShardLimits, write_feature_shards
from dlm.features.extractor import AudioFeatureExtractor
from dlm.io import sha256_file
from dlm.models.load import load_model
from tests.cli_runner import CommandResult, dlm, hash_files
from tests.tiny_models import TRANSCRIPTS, write_document, write_tiny_model

TRAINING = "  adapter: projector\n  held_out: 2\n"
TALK = """
::conversation::
### User
<audio>clips/0.wav</audio> Or <audio>clips/1.wav</audio>?
### Assistant
Neither.

::instruction::
### Q
And without sound?
### A
Nothing is kept.
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("base") / "tiny")


def written(path: Path, folder: Path, *words: object) -> CommandResult:
    done = dlm("shards", path, folder, *words)
    assert done.code == 0, done.err
    return done


def read(folder: Path, part: str) -> list[dict]:
    """Every sample of a part, through the library that shards are for."""
    samples = []
    for path in sorted(folder.glob(f"{part}-*.tar")):
        with path.open("rb") as stream:  # which WebDataset itself leaves to the collector
            files = tar_file_expander([{"url": path.name, "stream": stream}])
            samples += webdataset.decode()(group_by_keys(files))
    return samples


def test_webdataset_reads_what_the_encoder_heard(base: Path, tmp_path: Path) -> None:
    path = write_document(tmp_path, base_model=base, training=TRAINING, body=TALK)
    done = written(path, tmp_path / "out")
    learn, held_out = read(tmp_path / "out", "learn"), read(tmp_path / "out", "held-out")
    assert len(learn) + len(held_out) == 7 and len(held_out) >= 2
    assert "learn-000000.tar" in done.out and "1 clips without sound" in done.err
    checked = run_preflight(path)
    model = load_model(checked.require_plan().model)
    ear = AudioFeatureExtractor(checked.spec, auto_resample=False, encode_fn=model.encode_single)
    for clip, each in zip(
        [clip for clip in checked.train_examples if clip.audio_segments], learn, strict=True
    ):
        heard = [window.values for sound in clip.audio_segments for window in ear(sound)]
        assert np.array_equal(each["npy"], torch.cat(heard)) and each["txt"] == clip.target
    assert {each["txt"] for each in held_out} <= {*TRANSCRIPTS, "Neither."}
    for each in learn + held_out:
        features, facts = each["npy"], each["json"]
        assert features.dtype == np.float32 and features.shape[1] == 32
        assert features.shape[0] == sum(window["frames"] for window in facts["windows"])
        assert len(facts["sounds"]) == len({window["sound"] for window in facts["windows"]})
    talk = next(each["json"] for each in learn + held_out if each["txt"] == "Neither.")
    assert talk["turns"][0]["parts"] == [{"sound": 0}, " Or ", {"sound": 1}, "?"]
    assert talk["sounds"][1] == {"path": "clips/1.wav", "start": None, "end": None}
    (alone,) = (each for each in learn + held_out if each["txt"] == TRANSCRIPTS[0])
    both = next(each["npy"] for each in learn + held_out if each["txt"] == "Neither.")
    assert np.array_equal(both[: len(alone["npy"])], alone["npy"])


def test_shards_are_cut_and_indexed_and_the_same_again(base: Path, tmp_path: Path) -> None:
    path = write_document(tmp_path, base_model=base, training=TRAINING)
    out = tmp_path / "out"
    written(path, out, "--samples", 3)
    index = json.loads((out / "index.json").read_text())
    counts = [each["samples"] for each in index["shards"]]
    assert counts == [3, 1, 2] and index["samples"] == 6 and index["left_out"] == 0
    keys = [Path(each["__key__"]).name for each in read(out, "learn")]
    assert keys == ["000000", "000001", "000002", "000003"]
    for each in index["shards"]:
        shard = out / each["name"]
        assert (each["bytes"], each["sha256"]) == (shard.stat().st_size, sha256_file(shard))
        with tarfile.open(shard) as tar:
            assert {(about.mtime, about.uid, about.uname) for about in tar} == {(0, 0, "")}
    written(path, tmp_path / "again", "--samples", 3)
    assert hash_files(tmp_path / "again") == hash_files(out)


class Told:
    """What was told of the progress."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, int]] = []

    def __call__(self, done: int, total: int) -> None:
        self.lines.append((done, total))


def test_a_shard_takes_no_more_than_its_bytes_and_one_sample_at_least(
    base: Path, tmp_path: Path
) -> None:
    checked = run_preflight(write_document(tmp_path, base_model=base, training=TRAINING))
    model = load_model(checked.require_plan().model)
    ear = AudioFeatureExtractor(checked.spec, auto_resample=False, encode_fn=model.encode_single)
    for most, wanted in ((1, [1] * 4), (9_000, [2, 2]), (1_000_000, [4])):
        folder = tmp_path / str(most)
        folder.mkdir()
        told = Told()
        done = write_feature_shards(
            folder,
            {"learn": checked.train_examples},
            checked.spec,
            extractor=ear,
            limits=ShardLimits(100, most),
            progress=told,
        )
        assert [shard.samples for shard in done.shards] == wanted
        assert told.lines == [(number, 4) for number in range(1, 5)]
        assert all(one.name < two.name for one, two in pairwise(done.shards))


def test_what_was_heard_before_is_not_heard_again(base: Path, tmp_path: Path) -> None:
    path = write_document(tmp_path, base_model=base, training=TRAINING)
    written(path, tmp_path / "out")
    (base / "model.safetensors").rename(base / "gone")
    try:
        written(path, tmp_path / "again")  # from the features kept, without any weights
    finally:
        (base / "gone").rename(base / "model.safetensors")
    assert hash_files(tmp_path / "again") == hash_files(tmp_path / "out")


def test_shards_refuse_what_cannot_be(base: Path, tmp_path: Path) -> None:
    path = write_document(tmp_path, base_model=base, training="  adapter: full\n")
    dlm("shards", path, tmp_path / "out").refused("its encoder learns", "training.freeze_encoder")
    dlm("shards", path, tmp_path / "clips").refused("not empty")
    dlm("shards", path, tmp_path / "out", "--samples", 0).refused("--samples", code=2)
    (tmp_path / "clips/3.wav").unlink()
    dlm("shards", path, tmp_path / "out").refused("audio not found")
    assert not (tmp_path / "out").exists()
