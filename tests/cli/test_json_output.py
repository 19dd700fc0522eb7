"""The keys that `--json` prints, which scripts rely on."""

import json
from pathlib import Path

import pytest

from dlm.cli.json_output import dump_json, insight_to_dict
from dlm.commands.insight import InsightResult
from tests.cli_runner import dlm
from tests.tiny_models import write_document, write_tiny_model

ISSUE = "where what hint fatal code"
SOURCE = (
    "path audio_count audio_bytes skipped_audio_no_transcript skipped_rows_no_audio"
    " skipped_not_audio skipped_excluded skipped_over_max_files skipped_other_split audio_names"
    " skipped_names test_benchmarks held_out"
)
VERSION = (
    "name document_sha256 data_sha256 plan seed base base_revision train_recordings overrides"
    " audio_backends num_threads steps seconds scores run accepted comparison environment"
    " number created_at hashes path"
)
STATUS = (
    "dlm_id path base_model base_model_revision clips source_directives adapter_version"
    " training_runs last_trained_at versions current exports store total_size_bytes damaged"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A document with a version and an export."""
    folder = tmp_path_factory.mktemp("trained")
    tiny_model = write_tiny_model(folder / "tiny")
    document = write_document(folder, base_model=tiny_model, training="  held_out: 2\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DLM_HOME", str(folder / "home"))
        assert dlm("train", document, "--steps", 1).code == 0
        assert dlm("export", document, "--out", folder / "exported").code == 0
    return folder


@pytest.fixture(autouse=True)
def in_folder(folder: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLM_HOME", str(folder / "home"))
    monkeypatch.chdir(folder)


def load_json(*args: object) -> dict:
    done = dlm(*args, "--json")
    assert not done.err
    return json.loads(done.out)


def has_keys(value: dict, keys: str) -> bool:
    assert list(value) == keys.split()
    return True


def test_check() -> None:
    extra_source = "training.sources=[{path: clips}]"
    result = load_json("check", "my.dlm", "--show-labels", "--set", extra_source)
    assert has_keys(
        result,
        "document base_model clips hours seconds sounds heard rates tasks languages speakers"
        " lengths levels words_per_second transcripts_per_minute learn held_out source_directives"
        " problems left_out plan facts labels dictation page",
    )
    assert has_keys(result["seconds"], "min median max")
    assert has_keys(result["lengths"], "edges counts")
    assert has_keys(result["plan"][0], "name value why")
    assert has_keys(result["source_directives"][0], SOURCE)
    assert has_keys(result["problems"][0], ISSUE)
    assert has_keys(
        result["facts"][0],
        "location task seconds num_samples sample_rate num_channels peak rms silent_fraction"
        " clipped_fraction num_words words_per_second sha256 durations content_sha256",
    )
    assert has_keys(result["labels"], "location num_tokens num_label_tokens spans")
    assert has_keys(result["labels"]["spans"][0], "text num_tokens has_loss")


def test_check_with_transcripts_of_a_model() -> None:
    result = load_json("check", "my.dlm", "--listen", "--clips", 1)["dictation"]
    assert has_keys(result, "model_name transcripts num_candidates wer")
    keys = "location reference hypothesis wer better_match"
    assert has_keys(result["transcripts"][0], keys)


def test_import() -> None:
    Path("clips/0.txt").write_text("one")
    result = load_json("import", "clips", "--into", "my.dlm")
    assert has_keys(
        result,
        "document source format clips partly hours transcripts_per_minute words_per_minute rates"
        " languages speakers report first problems inline added written",
    )
    assert has_keys(result["report"], SOURCE)
    assert has_keys(result["first"][0], "location seconds text")


def test_transcribe() -> None:
    result = load_json("transcribe", "my.dlm", "clips/0.wav")
    assert has_keys(result, "path seconds segments text cut")
    assert has_keys(result["segments"][0], "start end text")


def test_prompt() -> None:
    result = load_json("prompt", "my.dlm", "--audio", "clips/0.wav", "--max-tokens", 2, "What?")
    assert has_keys(result, "answer")


def test_eval() -> None:
    keys = "clips wer cer substitutions deletions insertions words normaliser source_directives"
    result = load_json("eval", "my.dlm")
    assert has_keys(result, f"{keys} scores worst row cut")
    assert has_keys(result["worst"][0], "location reference hypothesis wer")
    result = load_json("eval", "my.dlm", "--manual-loss", "clips/0.wav")["row"]
    assert has_keys(result, "location token_losses recomputed_loss trainer_loss")
    assert has_keys(result["token_losses"][0], "token loss predicted_token")


def test_show_and_versions() -> None:
    result = load_json("show", "my.dlm")
    assert has_keys(result, STATUS)
    assert has_keys(result["exports"][0], "kind version created_at path hashes")
    assert has_keys(result["versions"][0], VERSION)
    assert has_keys(result["versions"][0]["train_recordings"][0], "path sha256")
    assert load_json("versions", "my.dlm") == result["versions"]
    result = load_json("show", "my.dlm", "--version", "v0001")
    assert has_keys(result, f"{STATUS} train_recordings")


def test_verify_and_gc() -> None:
    assert has_keys(load_json("verify", "exported"), "path files differences mended")
    result = load_json("gc", "my.dlm", "--dry-run")
    assert has_keys(result, "document unneeded removed")


def test_gc_lists_files(tmp_path: Path) -> None:
    leftover = next(Path("home/store").iterdir()) / "blobs" / ".pending-1-0"
    leftover.write_bytes(b"")
    result = load_json("gc", "my.dlm", "--dry-run")
    leftover.unlink()
    assert [has_keys(item, "kind path size_bytes name") for item in result["unneeded"]] == [True]


def test_doctor() -> None:
    result = load_json("doctor", "my.dlm", "--gpu", 24, "--weights", "my.dlm")
    assert has_keys(
        result, "machine decoder resampler cache cached home plan complaint fits weights"
    )
    assert has_keys(result["machine"], "cores memory free_memory free_disk bf16 amx gpus")
    assert has_keys(result["machine"]["gpus"][0], "name memory free_memory bf16")
    keys = "model_key mode min_bytes max_batch_size gradient_checkpointing"
    assert has_keys(result["fits"][0], keys)
    assert has_keys(result["weights"], "model_key dtype_counts non_finite_tensors")
    keys = "component dtype num_tensors size_bytes"
    assert has_keys(result["weights"]["dtype_counts"][0], keys)


def test_insight() -> None:
    page = Path("page.html")
    result = InsightResult(page, (Path("a.png"),), "v0001", 3, True, {"loss": float("nan")})
    assert json.loads(dump_json(insight_to_dict(result))) == {
        "page": "page.html",
        "pictures": ["a.png"],
        "version": "v0001",
        "clips": 3,
        "held_out": True,
        "scores": {"loss": None},
    }
