"""A training run opens a recording twice: once for the scan, once to encode and copy it."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from dlm.data.audio_io import load_audio, verify_recording
from dlm.data.audio_scan import (
    HashMethod,
    attach_recordings,
    fingerprint_recording,
    scan_audio,
)
from dlm.data.types import AudioSegment, Recording
from dlm.errors import AudioError
from dlm.features.extractor import AudioFeatureExtractor
from dlm.io import sha256_file
from dlm.models.audio_lm import AudioLanguageModel
from dlm.models.load import load_model
from dlm.plan.types import ModelPlan
from tests.cli_runner import dlm
from tests.data.recordings import RATE, make_audio_example, make_noise, save_audio
from tests.tiny_models import DLM_ID, make_tiny_spec, write_document, write_tiny_model

NUM_CLIPS = 12
PROGRAM = """
import json, os, sys
from collections import Counter
folder, counts = os.path.abspath("clips"), Counter()
def count(event, args):
    if event == "open" and os.path.dirname(os.path.abspath(str(args[0]))) == folder:
        counts[os.path.basename(str(args[0]))] += 1
sys.addaudithook(count)
from dlm.cli.main import main
sys.argv = ["dlm", *sys.argv[1:]]
try:
    main()
finally:
    with open("opens.json", "w") as file:
        json.dump(counts, file)
"""


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def document(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A document of twelve clips, two of them held out; features are cached."""
    monkeypatch.chdir(tmp_path)
    training = "  adapter: lora\n  held_out: 2\n"
    write_document(tmp_path, base_model=tiny_model, training=training, num_clips=NUM_CLIPS)
    return Path("my.dlm")


@pytest.fixture
def opens(document: Path, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each clip was opened in this process."""
    counts: Counter[str] = Counter()
    open_path = Path.open

    def count(path: Path, *args: object, **options: object) -> object:
        if path.parent.name == "clips":
            counts[path.name] += 1
        return open_path(path, *args, **options)

    monkeypatch.setattr(Path, "open", count)
    return counts


def list_blobs(home: Path) -> set[str]:
    return {path.name for path in (home / "store" / DLM_ID / "blobs").iterdir()}


def test_training_opens_each_clip_twice(document: Path) -> None:
    """As Python itself reports it, in a process of its own."""
    command = [sys.executable, "-c", PROGRAM, "train", str(document), "--steps", "12"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    counts = json.loads(Path("opens.json").read_text())
    assert counts == {f"{number}.wav": 2 for number in range(NUM_CLIPS)}


def test_with_cached_features_and_copies_each_clip_is_opened_once(
    document: Path, opens: Counter[str], home: Path
) -> None:
    assert dlm("train", document, "--steps", 6).code == 0
    assert set(opens.values()) == {2}
    blobs = list_blobs(home)
    assert len(blobs) == NUM_CLIPS - 2, "those held out are not copied"
    assert blobs < {sha256_file(path) for path in Path("clips").iterdir()}
    opens.clear()
    assert dlm("train", document, "--steps", 7).code == 0
    assert set(opens.values()) == {1}


def test_clips_that_no_step_used_are_copied_too(
    document: Path, opens: Counter[str], home: Path
) -> None:
    assert dlm("train", document, "--steps", 1).code == 0
    assert max(opens.values()) == 2 and len(list_blobs(home)) == NUM_CLIPS - 2


def test_of_very_many_clips_only_those_trained_on_are_hashed_and_copied(
    document: Path, opens: Counter[str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dlm.data.audio_scan.MAX_FULL_SCAN_SEGMENTS", 4)
    assert dlm("train", document, "--steps", 6).code == 0
    assert len(opens) == NUM_CLIPS and max(opens.values()) <= 2, "header and hash, then features"
    blobs = list_blobs(home)
    assert len(blobs) == NUM_CLIPS - 2
    assert blobs < {sha256_file(path) for path in Path("clips").iterdir()}


def test_a_recording_that_is_not_copied_is_hashed_and_decoded_from_one_open_file(
    tmp_path: Path, opens: Counter[str]
) -> None:
    path = save_audio(tmp_path / "clips" / "one.wav")

    def extract(*spans: tuple[float, float]) -> int:
        opens.clear()
        extractor = AudioFeatureExtractor(
            make_tiny_spec(),
            auto_resample=False,
            encode_fn=lambda values, num_frames: values[:, :num_frames].T,
            cache_dir=tmp_path / "features",
        )
        for start, end in spans:
            extractor(AudioSegment(path, start, end))
        return opens["one.wav"]

    assert extract((0.0, 0.4)) == 1, "hashed and decoded"
    assert extract((0.0, 0.4)) == 0, "the hash is remembered, and the features are on disk"
    assert extract((0.0, 0.4), (0.4, 0.8)) == 1, "only another span is decoded"
    save_audio(path, make_noise(2.0))
    assert extract((0.0, 0.4)) == 1, "another recording by its time and size"


@pytest.mark.parametrize("method", ["sha256", "fingerprint", None])
def test_the_scan_of_very_many_hashes_recordings_by_the_given_method(
    tmp_path: Path,
    opens: Counter[str],
    monkeypatch: pytest.MonkeyPatch,
    method: HashMethod | None,
) -> None:
    monkeypatch.setattr("dlm.data.audio_scan.MAX_FULL_SCAN_SEGMENTS", 1)
    path = save_audio(tmp_path / "clips" / "one.wav")
    examples = [make_audio_example(path), make_audio_example(path, start=0.5)]
    expected = {"sha256": sha256_file, "fingerprint": lambda _: fingerprint_recording(segment)}
    (segment,) = examples[0].audio_segments
    value = expected[method](path) if method else ""
    opens.clear()
    recordings = scan_audio(examples, hash_method_fn=lambda _: method).recordings
    assert opens["one.wav"] == len(examples)
    for recording in recordings:
        assert recording is not None
        hashes = {"sha256": recording.sha256, "fingerprint": recording.fingerprint}
        assert hashes == {"sha256": "", "fingerprint": "", **({method: value} if method else {})}


def test_checking_opens_each_clip_once(document: Path, opens: Counter[str]) -> None:
    assert dlm("check", document).code == 0
    assert opens == {f"{number}.wav": 1 for number in range(NUM_CLIPS)}


def test_segments_carry_what_the_scan_read(tmp_path: Path) -> None:
    path = save_audio(tmp_path / "a.wav", make_noise(2.0))
    outside = make_audio_example(path, start=3.0)
    examples = [outside, make_audio_example(path), make_audio_example(path, start=0.5, end=1.0)]
    scan = scan_audio(examples)
    attached = attach_recordings(examples, lambda each: scan.recordings[scan.segment_numbers[each]])
    assert attached[1:] == tuple(examples[1:])
    expected = Recording(RATE, 1, 2 * RATE, sha256_file(path))
    assert [example.audio_segments[0].recording for example in attached] == [
        None,
        expected,
        expected,
    ]


def test_a_recording_changed_after_the_scan_is_refused(tmp_path: Path) -> None:
    path = save_audio(tmp_path / "a.wav")
    recording = Recording(RATE, 1, RATE, sha256_file(path))
    segment = AudioSegment(path, display_path="a.wav", recording=recording)
    load = {"sample_rate": RATE, "resample": False, "on_open": verify_recording}
    assert len(load_audio(segment, **load)) == RATE
    save_audio(path, make_noise(seed=1))
    with pytest.raises(AudioError) as caught:
        load_audio(segment, **load)
    assert caught.value.code == "audio.changed" and caught.value.where == "a.wav"


def test_a_clip_changed_after_the_check_stops_the_run(
    document: Path, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    def load_after_change(plan: ModelPlan) -> AudioLanguageModel:
        for path in Path("clips").iterdir():
            save_audio(path, make_noise(seed=3))
        return load_model(plan)

    monkeypatch.setattr("dlm.models.load.load_model", load_after_change)
    done = dlm("train", document, "--steps", 12)
    assert (done.code, done.error) == (1, "audio.changed") and "clips/" in done.err
    assert not list_blobs(home)
