"""`dlm train`: plan, progress, scores, version; stopping and resuming."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest

import dlm as api
from tests.cli_runner import CommandResult, dlm
from tests.tiny_models import write_document, write_tiny_model, write_tone


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def document(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_document(tmp_path, base_model=tiny_model, training="  held_out: 2\n")
    return Path("my.dlm")


def list_versions(document: Path) -> list[dict]:
    return json.loads(dlm("versions", document, "--json").out)


def get_adapter_hash(version: dict) -> str:
    return version["hashes"]["adapter_model.safetensors"]


def train_until_interrupted(
    document: Path, monkeypatch: pytest.MonkeyPatch, *arguments: object
) -> CommandResult:
    """Train, with Ctrl-C pressed during the first step."""
    with monkeypatch.context() as patch:
        patch.setattr("dlm.cli.progress.stop_on_interrupt", lambda: lambda: True)
        return dlm("train", document, *arguments)


def test_plan_is_printed_first_and_the_version_last(document: Path) -> None:
    result = dlm("train", document, "--steps", 3)
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert [line.split("  ")[0] for line in lines[:-2]] == (
        "clips,audio,held out,base,learns,device,memory,batch,steps,rate,seed".split(",")
    )
    assert re.search(r"^steps +3 \(3\.0 times over 4 clips\)$", result.out, re.MULTILINE)
    score = r"2 clips held out: WER [\d.]+%, CER [\d.]+%, loss \d\.\d{3}, listening gap -?\d\.\d{3}"
    assert re.fullmatch(score, lines[-2])
    assert re.fullmatch(r"v0001 is saved: /.*/adapter/versions/v0001", lines[-1])
    assert Path(lines[-1].split(": ")[1], "adapter_model.safetensors").is_file()


def test_progress_is_printed_in_lines_without_a_terminal(document: Path) -> None:
    stderr = dlm("train", document, "--steps", 3).err
    number, loss = r"\d+\.\d", r"loss \d\.\d{3}"
    line = rf"^step 3/3  {loss}  {number} clips/s  \d+ s of audio/s  0\.0 s left$"
    assert re.search(line, stderr, re.MULTILINE), stderr
    assert re.search(r"^[\d,]+ of [\d,]+ parameters are trained$", stderr, re.MULTILINE)
    assert re.search(r"^done after step 3 of 3, \d+\.\d s$", stderr, re.MULTILINE)


def test_model_that_ignores_the_audio_is_reported(document: Path) -> None:
    stderr = dlm("train", document, "--steps", 1).err
    assert "the model ignores the audio" in stderr


def test_scores_on_training_clips_are_named_as_such(document: Path) -> None:
    document.write_text(document.read_text().replace("held_out: 2", "held_out: 0"))
    result = dlm("train", document, "--steps", 1)
    assert "6 clips it was trained on, none were held out: WER" in result.out


def test_options_for_steps_and_epochs(document: Path) -> None:
    assert dlm("train", document, "--steps", 2).code == 0
    assert dlm("train", document, "--max-steps", 3).code == 0
    assert dlm("train", document, "--epochs", 4, "--device", "cpu").code == 0
    assert [version["steps"] for version in list_versions(document)] == [2, 3, 4]
    assert [version["name"] for version in list_versions(document)] == ["v0001", "v0002", "v0003"]


def test_seed_decides_the_version(document: Path) -> None:
    training = "held_out: 2\n  micro_batch_size: 1\n  grad_accum: 1"
    document.write_text(document.read_text().replace("held_out: 2", training))
    for seed in (7, 7, 8):
        assert dlm("train", document, "--steps", 4, "--seed", seed).code == 0
    first, second, third = map(get_adapter_hash, list_versions(document))
    assert first == second != third


def test_resumed_run_makes_the_same_version(
    document: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert dlm("train", document, "--steps", 4).code == 0
    result = train_until_interrupted(document, monkeypatch, "--steps", 4)
    assert result.code == 130
    assert re.search("^stopped after step 1 of 4, .* s; continue with --resume$", result.err, re.M)
    assert len(list_versions(document)) == 1
    hint = "was cut short after 1 step; continue with --resume, or start over with --fresh"
    dlm("train", document, "--steps", 4).refused("my.dlm: run ", hint)
    result = dlm("train", document, "--steps", 4, "--resume")
    assert result.code == 0
    assert "continuing after step 1" in result.err
    first, second = map(get_adapter_hash, list_versions(document))
    assert first == second


def test_run_resumes_from_another_folder(document: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    absolute_document = document.absolute()
    train_until_interrupted(document, monkeypatch, "--steps", 2)
    monkeypatch.chdir("/")
    result = dlm("train", absolute_document, "--steps", 2, "--resume")
    assert result.code == 0, result.err
    assert "continuing after step 1" in result.err


@pytest.mark.parametrize("change", ["--steps 3", "--seed 9", "words", "sound"])
def test_changed_run_is_not_resumed(
    change: str, document: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_until_interrupted(document, monkeypatch, "--steps", 2)
    if change == "words":
        document.write_text(document.read_text().replace('"one"', '"won"'))
    if change == "sound":
        for number in range(6):
            write_tone(Path(f"clips/{number}.wav"), hertz=1000 + number)
    options = change.split() if change.startswith("--") else []
    result = dlm("train", document, "--steps", 2, *options, "--resume")
    result.refused(
        "started from another",
        "put that back, or start over with --fresh",
        error="store.changed_run",
    )
    result = dlm("train", document, "--steps", 2, *options, "--fresh")
    assert result.code == 0
    assert "going on" not in result.err


def test_every_recording_of_a_clip_counts(document: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conversation = (
        "\n::conversation::\n### User\n<audio>clips/0.wav</audio> <audio>clips/1.wav</audio> Which?"
        "\n### Assistant\nThe first.\n"
    )
    document.write_text(document.read_text().split("::audio")[0] + conversation)
    train_until_interrupted(document, monkeypatch, "--steps", 2)
    shutil.copy("clips/2.wav", "clips/1.wav")
    result = dlm("train", document, "--steps", 2, "--resume")
    result.refused("started from another data", error="store.changed_run")


def test_resume_without_a_checkpoint_starts_over(document: Path) -> None:
    result = dlm("train", document, "--steps", 1, "--resume")
    assert result.code == 0
    assert "my.dlm: nothing was saved of an earlier run; starting over" in result.err
    assert len(list_versions(document)) == 1


def test_resume_of_a_finished_run_reports_its_version(document: Path) -> None:
    first = dlm("train", document, "--steps", 1)
    result = dlm("train", document, "--steps", 1, "--resume")
    assert result.code == 0
    assert "my.dlm: the last run came to its end; its version is v0001" in result.err
    assert result.out.splitlines()[-1] == first.out.splitlines()[-1]
    assert len(list_versions(document)) == 1


def test_save_interval_does_not_change_the_version(document: Path) -> None:
    assert dlm("train", document, "--steps", 3).code == 0
    assert dlm("train", document, "--steps", 3, "--save-every", 1).code == 0
    first, second = list_versions(document)
    assert get_adapter_hash(first) == get_adapter_hash(second)
    runs = Path(first["path"]).parents[2] / "runs"
    assert not list(runs.glob("*/state*")), "a finished run has no checkpoint"


def test_version_names_its_recordings(document: Path) -> None:
    assert dlm("train", document, "--steps", 1).code == 0
    (version,) = list_versions(document)
    paths = {item["path"] for item in version["train_recordings"]}
    assert len(paths) == 4
    assert paths < {f"clips/{number}.wav" for number in range(6)}
    assert version["base"] == "tiny"
    assert version["scores"].keys() == {"loss", "shuffled_loss", "gap", "wer", "cer"}
    blobs = Path(version["path"]).parents[2] / "blobs"
    assert {item["sha256"] for item in version["train_recordings"]} == {
        blob.name for blob in blobs.iterdir()
    }


def test_every_kind_of_section_is_trained_on(document: Path, tiny_model: Path) -> None:
    write_document(
        Path(),
        base_model=tiny_model,
        training="  held_out: 1\n",
        body="\n::instruction::\n### Q\nHow high?\n### A\nHigh.\n\n::conversation::\n### User\n"
        "<audio>clips/0.wav</audio> Which?\n### Assistant\nThat.\n\n::instruction::\n"
        "### Q\nWhat is one?\n### A\nA number.\n",
    )
    result = dlm("train", document, "--steps", 2)
    assert result.code == 0, result.err
    assert "9 (6 to transcribe, 2 to answer, 1 of text)" in result.out


def test_progress_bar_in_a_terminal(document: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    result = dlm("train", document, "--steps", 3, terminal=True)
    assert result.code == 0
    assert "3/3" in result.err and "clips/s" in result.err and "s left" in result.err
    assert "6 of 6 clips" in result.err
    assert "preparing the first step" in result.err and "scoring the version" in result.err
    assert result.out.splitlines()[-1].startswith("v0001 is saved")


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"no sound")])
@pytest.mark.parametrize("num_damaged", [1, 2])
def test_a_held_out_clip_that_is_lost_costs_its_score_alone(
    num_damaged: int, damage, document: Path
) -> None:
    """Lost work: a clip to score on is gone, or no audio, when the steps are done."""
    from dlm.commands.preflight import Preflight
    from dlm.training.events import Evaluated, ExamplesSkipped

    num_scored, skipped = [], []
    for event in api.train(document, steps=2):
        if isinstance(event, Preflight):
            for example in event.held_out_examples[:num_damaged]:
                damage(example.audio_segments[0].path)
        elif isinstance(event, Evaluated):
            num_scored.append(event.num_examples)
        elif isinstance(event, ExamplesSkipped):
            skipped.append(event.num_skipped)
    assert num_scored == [1] * (num_damaged == 1) and skipped == [num_damaged]
    (version,) = list_versions(document)
    assert bool(version["scores"]) == (num_damaged == 1)


@pytest.mark.parametrize("error", [RuntimeError("CUDA out of memory"), MemoryError("no memory")])
def test_whatever_goes_wrong_with_the_scores_costs_the_scores_alone(
    error: Exception, document: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("dlm.inference.evaluate.evaluate_model", fail)
        done = dlm("train", document, "--steps", 2)
    assert done.code == 0 and f"not scored: {error}" in done.err, done.err
    assert [version["scores"] for version in list_versions(document)] == [{}]


def test_a_run_that_is_killed_while_it_is_scored_resumes_there(
    document: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lost work: no step is taken again, although none was due to be saved; clips may be away."""
    with monkeypatch.context() as patch:
        patch.setattr("dlm.inference.evaluate.evaluate_model", interrupt)
        with pytest.raises(KeyboardInterrupt):
            list(api.train(document, steps=2))
    preflight = next(api.train(document, steps=2, resume=True))
    lost = preflight.held_out_examples[0].audio_segments[0].path
    away = lost.rename("away")
    done = dlm("train", document, "--steps", 2, "--resume")
    assert done.code == 0 and "continuing after step 2" in done.err, done.err
    assert "it is left out of the scores" in done.err and "1 clip held out" in done.out
    away.rename(lost)
    (resumed,) = list_versions(document)
    assert dlm("train", document, "--steps", 2).code == 0
    uninterrupted = list_versions(document)[1]
    assert get_adapter_hash(uninterrupted) == get_adapter_hash(resumed)


def interrupt(*args: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_a_store_is_private_and_an_export_follows_the_umask(
    umask: int, document: Path, home: Path
) -> None:
    """Modes: weights, records, copies, features, checkpoints and the lock; all files alike."""
    before = os.umask(umask)
    try:
        done = dlm("train", document, "--steps", 2, "--save-every", 1)
        assert done.code == 0, done.err
        for options in ([], ["--out", "exported"]):
            assert dlm("export", document, *options).code == 0
    finally:
        os.umask(before)
    (store,) = (home / "store").iterdir()
    assert {get_mode(path) for path in (store, *store.rglob("*"))} == {0o700, 0o600}
    exported = {get_mode(path) for path in (Path("exported"), *Path("exported").rglob("*"))}
    assert exported == {0o777 & ~umask, 0o666 & ~umask}
    for path in (store, *store.rglob("*")):
        path.chmod(0o755)
    assert dlm("versions", document).code == 0
    assert {get_mode(path) for path in (store, *store.rglob("*"))} == {0o700, 0o600}


def get_mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_other_threads_are_said_on_resume(document: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    now = torch.get_num_threads()
    torch.set_num_threads(now + 1)
    try:
        train_until_interrupted(document, monkeypatch, "--steps", 2)
    finally:
        torch.set_num_threads(now)
    done = dlm("train", document, "--steps", 2, "--resume")
    assert f"began with {now + 1} CPU threads, and now there are {now}" in done.err
    assert [version["num_threads"] for version in list_versions(document)] == [now]
    assert "CPU threads" not in dlm("train", document, "--steps", 2).err
