"""Mistakes of users: one line with location, hint and code, and nothing in the store changes."""

import os
import re
import resource
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile

import dlm as api
from tests.cli_runner import dlm, hash_files
from tests.tiny_models import write_document, write_tiny_model, write_tone

RECORDING = "clips/0.wav"


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def document(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A document without mistakes, in the working directory."""
    monkeypatch.chdir(tmp_path)
    write_document(tmp_path, base_model=tiny_model, num_clips=4, training="  held_out: 0\n")
    return Path("my.dlm")


def replace_text(document: Path, old: str, new: str) -> None:
    text = document.read_text()
    assert old in text
    document.write_text(text.replace(old, new, 1))


def write_waveform(path: Path, waveform: np.ndarray) -> None:
    soundfile.write(path, waveform, 16_000, subtype="FLOAT")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def write_nan(path: Path) -> None:
    write_waveform(path, np.where(np.arange(8000) == 4000, np.nan, 0.1))


BAD_RECORDINGS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "missing": (Path.unlink, "audio not found: clips/0.wav", "audio.not_found"),
    "text": (
        lambda path: path.write_text("not sound\n"),
        "it holds text, not audio",
        "audio.not_audio",
    ),
    "truncated": (truncate, "it is cut short: its header promises", "audio.truncated"),
    "empty file": (lambda path: path.write_bytes(b""), "the file is empty (0 b", "audio.empty"),
    "no samples": (
        lambda path: write_waveform(path, np.zeros((0, 1))),
        "it holds no samples",
        "audio.empty",
    ),
    "nan": (
        write_nan,
        "it holds samples that are not finite (NaN or infinite)",
        "audio.not_finite",
    ),
    "folder": (replace_by_folder, "it is a directory, not a recording", "audio.not_a_file"),
    "noise": (
        lambda path: path.write_bytes(bytes(range(256)) * 9),
        "not audio that can be",
        "audio.not_audio",
    ),
}


@pytest.mark.parametrize("kind", BAD_RECORDINGS)
def test_a_bad_recording_is_refused_with_its_location(
    kind: str, document: Path, home: Path
) -> None:
    damage, text, error = BAD_RECORDINGS[kind]
    damage(Path(RECORDING))
    done = dlm("train", document, "--steps", 1)
    done.refused("my.dlm:10: ", text, RECORDING, "; ", error=error)
    assert not home.exists()
    check = dlm("check", document)
    assert check.code == 1
    assert done.err.strip() in check.err
    assert "1 problem would stop training" in check.err
    assert not home.exists()


@pytest.mark.parametrize("transcript", ["", "   ", "\t"])
def test_an_empty_transcript_is_refused(transcript: str, document: Path, home: Path) -> None:
    replace_text(document, 'transcript="one"', f'transcript="{transcript}"')
    text = "AUDIO section has empty transcript"
    dlm("train", document).refused(text, "my.dlm:10", error="data.empty_transcript")
    assert not home.exists()


def test_an_empty_sidecar_is_refused(document: Path, home: Path) -> None:
    write_tone(Path("corpus/a.wav"), hertz=300)
    Path("corpus/a.txt").write_text(" \n")
    replace_text(document, "training:\n", "training:\n  sources:\n    - path: corpus\n")
    text = "AUDIO section has empty transcript"
    dlm("train", document).refused("corpus/a", text, error="data.empty_transcript")
    assert not home.exists()


def test_train_names_the_first_of_several_issues(document: Path) -> None:
    for number in range(3):
        Path(f"clips/{number}.wav").unlink()
    done = dlm("train", document)
    texts = ("my.dlm:10: audio not found", "and 2 more: dlm check my.dlm")
    done.refused(*texts, error="audio.not_found")
    check = dlm("check", document)
    assert len(re.findall("audio not found", check.err)) == 3
    assert "3 problems would stop training" in check.err


@contextmanager
def run_as_nobody(folder: Path) -> Iterator[None]:
    """Read as a user without rights, when the tests run as root."""
    if os.geteuid():
        yield
        return
    for path in (folder, *folder.rglob("*")):
        os.chown(path, 65534, 65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_unreadable_files_are_refused(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(tempfile.mkdtemp(prefix="dlm-"))  # other users cannot enter tmp_path
    try:
        shutil.copytree(tiny_model, folder / "tiny")
        write_document(folder, base_model="tiny", num_clips=4)
        monkeypatch.chdir(folder)
        monkeypatch.setenv("DLM_HOME", str(folder / "home"))
        Path(RECORDING).chmod(0)
        with run_as_nobody(folder):
            done = dlm("train", "my.dlm")
        text = "my.dlm:9: clips/0.wav: it cannot be read (permission denied)"
        done.refused(text, "allow it", error="audio.unreadable")
        assert not Path("home").exists()
        Path("my.dlm").chmod(0)
        with run_as_nobody(folder):
            done = dlm("train", "my.dlm")
        text = "my.dlm: the document cannot be read (Permission"
        done.refused(text, error="document.not_readable")
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize("sample_rate", [44_100, 192_000])
def test_training_refuses_another_sample_rate_unless_resampling_is_on(
    sample_rate: int, document: Path, home: Path
) -> None:
    write_tone(Path(RECORDING), hertz=200, sample_rate=sample_rate)
    texts = (
        f"native sample_rate={sample_rate} Hz does not match pinned 16000 Hz",
        "training.audio.auto_resample: true",
        "ffmpeg -i in.wav -ar 16000 out.wav",
    )
    done = dlm("train", document)
    done.refused(f"my.dlm:10: {RECORDING}", *texts, error="audio.sample_rate_mismatch")
    assert not home.exists()
    prompt = ("prompt", document, "--max-tokens", 2, "--audio", RECORDING, "What?")
    assert dlm(*prompt, "--base").code == 0
    assert dlm("transcribe", document, "--base", RECORDING).code == 0
    resample = "  held_out: 0\n  audio:\n    auto_resample: true\n"
    replace_text(document, "  held_out: 0\n", resample)
    assert dlm("train", document, "--steps", 1).code == 0
    assert dlm(*prompt).code == 0


def test_a_missing_resampler_names_what_to_install(
    document: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tone(Path(RECORDING), hertz=200, sample_rate=44_100)
    replace_text(document, "  held_out: 0\n", "  audio:\n    auto_resample: true\n")
    for library in ("soxr", "scipy", "scipy.signal"):
        monkeypatch.setitem(__import__("sys").modules, library, None)
    prompt = ("prompt", document, "--base", "--audio", RECORDING, "What?")
    for args in (("train", document), prompt):
        text = "AudioResampleUnavailable: requires either soxr or scipy"
        dlm(*args).refused(text, "pip install soxr", "scipy", error="audio.no_resampler")


def test_audio_longer_than_a_window_is_refused_where_the_document_says(
    document: Path, home: Path
) -> None:
    write_tone(Path(RECORDING), hertz=200, seconds=5.0)
    text = "clips/0.wav: it lasts 5.0 s, and the model takes 2 s at once"
    long_clips = "  held_out: 0\n  audio:\n    long_clips: error\n"
    replace_text(document, "  held_out: 0\n", long_clips)
    done = dlm("train", document)
    texts = (f"my.dlm:12: {text}; give spans", "training.audio.long_clips: split")
    done.refused(*texts, error="audio.too_long")
    assert not home.exists()
    prompt = ("prompt", document, "--base", "--max-tokens", 2, "--audio", RECORDING, "What?")
    dlm(*prompt).refused(text, error="audio.too_long")
    done = dlm("eval", document, "--base", "--data", RECORDING)
    done.refused("clips/0.wav: no clips to evaluate", error="data.nothing_to_evaluate")
    Path("list.jsonl").write_text('{"audio": "clips/0.wav", "text": "one"}\n')
    done = dlm("eval", document, "--base", "--data", "list.jsonl")
    done.refused("it lasts 5.0 s, and the model", error="audio.too_long")
    assert dlm("transcribe", document, "--base", RECORDING).code == 0


def test_more_audio_than_the_context_length_is_refused(document: Path) -> None:
    write_tone(Path(RECORDING), hertz=200, seconds=9.0)
    audio = [arg for _ in range(5) for arg in ("--audio", RECORDING)]
    text = "the audio takes 565 tokens, and tiny has a context of 512; give fewer or shorter"
    done = dlm("prompt", document, "--base", *audio, "What?")
    done.refused(text, error="usage.too_much_audio", code=2)


def test_eight_channels_are_mixed_down(document: Path) -> None:
    write_waveform(Path(RECORDING), np.random.default_rng(0).normal(0, 0.1, (8000, 8)))
    assert dlm("check", document).code == 0
    assert dlm("train", document, "--steps", 1).code == 0


BAD_DOCUMENTS = {
    "broken yaml": ("training:", "training: [", "my.dlm:", "document.invalid_yaml"),
    "unknown key": ("  held_out: 0", "  held_uot: 0", "held_out", "document.unknown_key"),
    "wrong value": ("  held_out: 0", "  held_out: 1.5", "my.dlm:7", "document.bad_value"),
    "unknown section": ("::audio", "::video", "my.dlm:10:1", "document.unknown_section"),
    "wrong case": ("::audio", "::Audio", "my.dlm:10:1", "document.unknown_section"),
    "no frontmatter": ("---\n", "", "my.dlm:1", "document.no_frontmatter"),
}


@pytest.mark.parametrize("kind", BAD_DOCUMENTS)
@pytest.mark.parametrize("command", ["check", "train", "show"])
def test_a_bad_document_is_refused_with_its_line(
    kind: str, command: str, document: Path, home: Path
) -> None:
    old, new, text, error = BAD_DOCUMENTS[kind]
    replace_text(document, old, new)
    dlm(command, document).refused(text, "; ", error=error)
    assert not home.exists()


def test_a_misspelled_base_gets_a_suggestion(document: Path, tiny_model: Path, home: Path) -> None:
    replace_text(document, str(tiny_model), "sparow")
    for command in ("check", "train", "show", "export", "doctor"):
        done = dlm(command, document)
        assert (done.code, done.error) == (1, "model.unknown")
        assert done.err.strip().endswith("unknown base 'sparow'; did you mean sparrow?")
    done = dlm("init", "new.dlm", "--base", "sparow")
    done.refused("unknown base 'sparow'", "sparrow", error="model.unknown")
    assert not Path("new.dlm").exists()
    assert not home.exists()


def test_a_document_without_clips_is_refused(document: Path, home: Path) -> None:
    document.write_text(document.read_text().split("::audio")[0])
    text = "my.dlm: the document has nothing to train on"
    dlm("train", document).refused(text, "::audio::", error="data.no_examples")
    assert dlm("check", document).code == 1
    assert not home.exists()


def test_a_missing_document_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = "no.dlm: there is no such document; dlm init no.dlm writes one"
    for command in ("check", "train", "eval", "show", "versions", "export", "doctor"):
        dlm(command, "no.dlm").refused(text, error="document.not_found")
    dlm("check", ".").refused("this is a directory", error="document.is_directory")


def test_a_damaged_base_is_refused(
    document: Path, tiny_model: Path, tmp_path: Path, home: Path
) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "mine")
    replace_text(document, str(tiny_model), "mine")
    (folder / "dlm_base.json").write_text("{")
    texts = ("mine/dlm_base.json", "is not the spec of a model")
    dlm("train", document).refused(*texts, error="model.bad_spec_file")
    shutil.copy(tiny_model / "dlm_base.json", folder)
    (folder / "model.safetensors").write_bytes(b"\0" * 100)
    done = dlm("train", document)
    assert done.code == 1
    assert "Traceback" not in done.err
    assert "mine" in done.err.splitlines()[-1]
    assert not list(home.rglob("v0001"))


WRONG_COMMAND_LINES = {
    "train --steps 0": ("--steps is 0; choose 1 or more", "usage.out_of_range"),
    "train --max-steps -1": ("--steps is -1", "usage.out_of_range"),
    "train --epochs 0": (
        "--epochs: training.num_epochs is 0; it must be greater than or equal to 1",
        "usage.bad_value",
    ),
    "train --save-every 0": ("--save-steps: training.save_steps is 0", "usage.bad_value"),
    "train --seed -1": ("--seed is -1; choose 0 or more", "usage.out_of_range"),
    "train --seed 99999999999999999999": ("--seed is 9999999999999999", "usage.out_of_range"),
    "train --resume --fresh": ("--resume and --fresh exclude", "usage.exclusive_options"),
    "train --steps many": ("Invalid value for '--steps'", "usage.arguments"),
    "train --bogus": ("No such option: --bogus; see `dlm train --help`", "usage.arguments"),
    "prompt": ("audio-language base requires at least one --audio", "usage.audio_missing"),
    "prompt what": ("audio-language base requires at least one --aud", "usage.audio_missing"),
    "prompt --audio clips/no.wav what": ("not found: clips/no.wav", "usage.audio_not_found"),
    "prompt --audio clips/0.wav": ("empty query", "usage.empty_question"),
    "prompt --audio clips/0.wav --image a.png what": (
        "--image and --audio cannot be combined",
        "usage.no_images",
    ),
    "prompt --audio clips/0.wav --temperature -1 what": (
        "--temperature is -1",
        "usage.out_of_range",
    ),
    "prompt --audio clips/0.wav --temperature nan what": (
        "--temperature is nan",
        "usage.out_of_range",
    ),
    "prompt --audio clips/0.wav --top-p 0 what": ("--top-p is 0", "usage.out_of_range"),
    "prompt --audio clips/0.wav --top-p 2 what": ("--top-p is 2", "usage.out_of_range"),
    "prompt --audio clips/0.wav --top-k 0 what": ("--top-k is 0", "usage.out_of_range"),
    "prompt --audio clips/0.wav --max-tokens 0 what": ("--max-tokens is 0", "usage.out_of_range"),
    "prompt --audio clips/0.wav --seed -1 what": ("--seed is -1", "usage.out_of_range"),
    "prompt --audio clips/0.wav --base --version v0001 what": (
        "--base and --version exclude",
        "usage.exclusive_options",
    ),
    "prompt --base --audio clips/0.wav <|audio|><|audio|>": (
        "2 <|audio|>, and there are 1 --audio",
        "usage.placeholder_count",
    ),
    "transcribe --base clips/no.wav": ("not found: clips/no.wav", "usage.audio_not_found"),
    "transcribe --base clips --srt --vtt": ("--srt and --vtt exclude", "usage.exclusive_options"),
    "transcribe --base clips --language english": ("not a language", "usage.bad_language"),
    "transcribe --base clips --segment words": ("--segment is words", "usage.unknown_choice"),
    "transcribe": ("no recording to transcribe; name a", "usage.audio_missing"),
    "eval --base --data nowhere": ("clips not found: nowhere", "usage.data_not_found"),
}


@pytest.mark.parametrize("command_line", WRONG_COMMAND_LINES)
def test_a_wrong_command_line_is_refused(command_line: str, document: Path, home: Path) -> None:
    command, *args = command_line.split()
    text, error = WRONG_COMMAND_LINES[command_line]
    dlm(command, document, *args).refused(text, error=error, code=2)
    assert not home.exists()


@pytest.mark.parametrize("question", [b"", b"  \n", b"\xff"])
def test_a_question_on_stdin_may_be_any_bytes(question: bytes, document: Path) -> None:
    done = dlm("prompt", document, "--audio", RECORDING, stdin=question)
    if question.strip():
        done.refused("nothing was learned yet", error="store.no_version")
    else:
        done.refused("empty query", error="usage.empty_question", code=2)


def test_a_document_without_a_version_names_the_next_command(document: Path, home: Path) -> None:
    text = "my.dlm: nothing was learned yet; run `dlm train my.dlm`"
    for args in (
        ("eval", document, "--data", "clips"),
        ("transcribe", document, "clips"),
        ("export", document),
        ("verify", document),
        ("prompt", document, "--audio", RECORDING, "What?"),
    ):
        dlm(*args).refused(text, error="store.no_version")
    text = "no version 'v0001'; `dlm train` makes the first"
    dlm("use", document, "v0001").refused(text, error="store.unknown_version")
    assert not list(home.rglob("*.json"))


def test_a_source_without_clips_cannot_be_evaluated_on(document: Path) -> None:
    done = dlm("eval", document, "--base")
    text = "my.dlm: no clips to evaluate on"
    done.refused(text, "--data FOLDER", error="data.nothing_to_evaluate")
    evaluate = ("eval", document, "--base", "--data")
    Path("nothing").mkdir()
    text = "nothing: no clips to evaluate on"
    dlm(*evaluate, "nothing").refused(text, error="data.nothing_to_evaluate")
    Path("list.jsonl").write_text("{}\n")
    dlm(*evaluate, "list.jsonl").refused("list.jsonl:1: no audio", error="data.no_audio_path")
    Path("list.jsonl").write_text('{"audio": "no.wav", "text": "one"}\n')
    text = "audio not found: no.wav"
    dlm(*evaluate, "list.jsonl").refused(text, error="audio.not_found")
    done = dlm("transcribe", document, "--base", "nothing")
    done.refused("no recordings in this folder", error="data.no_recordings")


def test_an_unavailable_device_is_refused(document: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(document.parent))  # without nvidia-smi
    done = dlm("train", document, "--device", "cuda")
    done.refused("no CUDA device", "--device cpu", error="plan.no_cuda")
    done = dlm("train", document, "--device", "tpu")
    done.refused("unknown device 'tpu'", "cpu or cuda", error="plan.unknown_device")


@contextmanager
def limit_file_size(num_bytes: int) -> Iterator[None]:
    """Let the kernel refuse larger files, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    "num_bytes, options", [(8_000, []), (100_000, []), (100_000, ["--save-every", 1])]
)
def test_a_full_disk_leaves_every_version(
    num_bytes: int, options: list[object], document: Path, home: Path
) -> None:
    assert dlm("train", document, "--steps", 1).code == 0
    (store,) = (home / "store").iterdir()
    if num_bytes < 10_000:
        shutil.rmtree(store / "blobs")
    hashes_before = hash_files(store / "adapter")
    manifest = (store / "manifest.json").read_bytes()
    with limit_file_size(num_bytes):
        done = dlm("train", document, "--steps", 3, *options)
    assert (done.code, done.error) == (1, "store.disk_full")
    last = done.err.splitlines()[-1]
    assert "limit" in last and "free" in last and "DLM_HOME" in last, last
    assert "Traceback" not in done.err
    assert hash_files(store / "adapter") == hashes_before
    assert (store / "manifest.json").read_bytes() == manifest
    assert not list(store.rglob(".pending-*"))
    assert dlm("train", document, "--fresh", "--steps", 1).code == 0
    assert len(list((store / "adapter" / "versions").iterdir())) == 2


def test_a_store_that_cannot_be_written_is_refused(document: Path, home: Path) -> None:
    home.write_text("a file")
    done = dlm("train", document)
    assert done.code == 1
    assert "Traceback" not in done.err and str(home) in done.err


def test_mistakes_leave_the_store_as_it_was(document: Path, home: Path) -> None:
    assert dlm("train", document, "--steps", 1).code == 0
    hashes_before = hash_files(home)
    Path(RECORDING).unlink()
    for args in (
        ["train", document],
        ["check", document],
        ["prompt", document, "--audio", RECORDING, "What?"],
        ["transcribe", document, RECORDING],
        ["use", document, "v0009"],
        ["export", document, "--version", "v0009"],
        ["eval", document, "--version", "v0009"],
    ):
        assert dlm(*args).code in (1, 2)
    assert hash_files(home) == hashes_before


def flip_last_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["weights.safetensors", "moments.safetensors", "state.json"])
@pytest.mark.parametrize("damage", [flip_last_byte, truncate, Path.unlink])
def test_a_checkpoint_of_which_a_byte_has_changed_is_not_resumed(
    damage: Callable[[Path], object], name: str, document: Path, home: Path
) -> None:
    """Wrong weights: a run would go on from other weights, moments or another step."""
    for event in api.train(document, steps=3, overrides={"training.save_steps": 1}):
        if type(event).__name__ == "CheckpointSaved":
            break
    (path,) = home.glob(f"store/*/runs/*/state/{name}")
    damage(path)
    if damage is truncate and name == "state.json":
        path.write_text("")
    done = dlm("train", document, "--steps", 3, "--resume", "--save-every", 1)
    done.refused(name, "--fresh", error="store.changed_state")
    assert dlm("train", document, "--steps", 1, "--fresh").code == 0


@pytest.mark.parametrize("damage", [flip_last_byte, truncate, replace_by_folder])
def test_cached_features_that_changed_are_not_trained_on(
    damage: Callable[[Path], object], tiny_model: Path, document: Path, home: Path
) -> None:
    """Wrong weights: features are of another clip, incomplete, or not even a file."""
    replace_text(document, "training:\n", "training:\n  freeze_encoder: true\n")
    assert dlm("train", document, "--steps", 1).code == 0
    for path in home.glob("store/*/features/*.safetensors"):
        damage(path)
    done = dlm("train", document, "--steps", 1)
    if damage is replace_by_folder:
        assert (done.code, done.error) == (1, "store.not_writable") and "Traceback" not in done.err
        return
    assert done.code == 0, done.err
    first, second = (
        path.read_bytes() for path in sorted(home.glob("**/adapter_model.safetensors"))
    )
    assert first == second


@pytest.mark.parametrize(
    "command",
    [
        ["export", "my.dlm", "--out", "new/out"],
        ["export-data", "my.dlm", "new/out"],
        ["tones", "new/out"],
        ["insight", "my.dlm", "--into", "new/out"],
        ["import", "more", "--into", "my.dlm", "--inline", "--yes"],
        ["shards", "my.dlm", "new/out", "--set", "training.freeze_encoder=true"],
        ["init", "new.dlm"],
        ["check", "my.dlm", "--page", "new.html"],
    ],
    ids=lambda command: command[0],
)
def test_a_full_disk_is_one_line_and_leaves_no_half_results(
    command: list[str], document: Path, home: Path
) -> None:
    assert dlm("train", document, "--steps", 1).code == 0
    write_tone(Path("more/9.wav"), hertz=900).with_suffix(".txt").write_text("Words.")
    Path("new").mkdir()
    before = hash_files(Path())
    with limit_file_size(20):
        done = dlm(*command)
    assert (done.code, done.error) == (1, "store.disk_full"), done
    assert "Traceback" not in done.err and len(done.err.splitlines()[-1]) < 500
    assert hash_files(Path()) == before and not list(Path().rglob(".pending-*"))
    assert not Path("new/out").exists() or not list(Path("new/out").iterdir())


def test_an_export_elsewhere_needs_no_store_that_can_be_written(document: Path, home: Path) -> None:
    assert dlm("train", document, "--steps", 1).code == 0
    (store,) = (home / "store").iterdir()
    (store / "exports").write_text("no folder can be made here")
    done = dlm("export", document, "--out", "exported")
    assert done.code == 0 and "not listed in the store" in done.err, done.err
    assert dlm("verify", "exported").code == 0
