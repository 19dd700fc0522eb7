"""`dlm train` as a user meets it: the plan, the steps, the scores, the version, and going on."""

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.cli_runner import CommandResult, dlm
from tests.tiny_models import write_document, write_tiny_model, write_tone


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def document(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_document(tmp_path, base_model=tiny, training="  held_out: 2\n")
    return Path("my.dlm")


def kept(document: Path) -> list[dict]:
    return json.loads(dlm("versions", document, "--json").out)


def adapter(version: dict) -> str:
    return version["hashes"]["adapter_model.safetensors"]


def stopped(document: Path, monkeypatch: pytest.MonkeyPatch, *words: object) -> CommandResult:
    """Train until Ctrl-C is pressed at once."""
    with monkeypatch.context() as patch:
        patch.setattr("dlm.cli.progress.stop_on_interrupt", lambda: lambda: True)
        return dlm("train", document, *words)


def test_the_plan_comes_first_and_the_version_last(document: Path) -> None:
    done = dlm("train", document, "--steps", 3)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert [line.split("  ")[0] for line in lines[:-2]] == (
        "clips,sound,held out,base,learns,device,memory,batch,steps,rate,seed".split(",")
    )
    assert re.search(r"^steps +3 \(3\.0 times over 4 clips\)$", done.out, re.MULTILINE)
    score = r"2 clips held out: WER [\d.]+%, CER [\d.]+%, loss \d\.\d{3}, listening gap -?\d\.\d{3}"
    assert re.fullmatch(score, lines[-2])
    assert re.fullmatch(r"v0001 is kept: /.*/adapter/versions/v0001", lines[-1])
    assert Path(lines[-1].split(": ")[1], "adapter_model.safetensors").is_file()


def test_progress_is_told_in_lines_in_a_log(document: Path) -> None:
    told = dlm("train", document, "--steps", 3).err
    number, rate = r"\d+\.\d", r"loss \d\.\d{3}"
    line = rf"^step 3/3  {rate}  {number} clips/s  \d+ s of sound/s  0\.0 s left$"
    assert re.search(line, told, re.MULTILINE), told
    assert re.search(r"^[\d,]+ of [\d,]+ parameters learn$", told, re.MULTILINE)
    assert re.search(r"^done after step 3 of 3, \d+\.\d s$", told, re.MULTILINE)


def test_a_deaf_model_is_told_of(document: Path) -> None:
    told = dlm("train", document, "--steps", 1).err
    assert "the model ignores the audio" in told


def test_scores_of_clips_it_learned_from_are_called_so(document: Path) -> None:
    document.write_text(document.read_text().replace("held_out: 2", "held_out: 0"))
    done = dlm("train", document, "--steps", 1)
    assert "6 clips it learned from, none were held out: WER" in done.out


def test_two_ways_to_say_steps_and_one_for_epochs(document: Path) -> None:
    assert dlm("train", document, "--steps", 2).code == 0
    assert dlm("train", document, "--max-steps", 3).code == 0
    assert dlm("train", document, "--epochs", 4, "--device", "cpu").code == 0
    assert [version["steps"] for version in kept(document)] == [2, 3, 4]
    assert [version["name"] for version in kept(document)] == ["v0001", "v0002", "v0003"]


def test_the_seed_makes_the_version(document: Path) -> None:
    one_by_one = "held_out: 2\n  micro_batch_size: 1\n  grad_accum: 1"
    document.write_text(document.read_text().replace("held_out: 2", one_by_one))
    for seed in (7, 7, 8):
        assert dlm("train", document, "--steps", 4, "--seed", seed).code == 0
    first, second, third = map(adapter, kept(document))
    assert first == second != third


def test_a_stopped_run_goes_on_to_the_same_bits(
    document: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert dlm("train", document, "--steps", 4).code == 0
    done = stopped(document, monkeypatch, "--steps", 4)
    assert done.code == 130
    assert "stopped, to go on with --resume, after step 1 of 4" in done.err
    assert len(kept(document)) == 1
    words = "was cut short after 1 steps; go on with --resume, or start over with --fresh"
    dlm("train", document, "--steps", 4).refused("my.dlm: run ", words)
    done = dlm("train", document, "--steps", 4, "--resume")
    assert done.code == 0
    assert "going on after step 1" in done.err
    first, second = map(adapter, kept(document))
    assert first == second


def test_it_goes_on_from_another_folder(document: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = document.absolute()
    stopped(document, monkeypatch, "--steps", 2)
    monkeypatch.chdir("/")
    done = dlm("train", whole, "--steps", 2, "--resume")
    assert done.code == 0, done.err
    assert "going on after step 1" in done.err


@pytest.mark.parametrize("change", ["--steps 3", "--seed 9", "words", "sound"])
def test_it_does_not_go_on_with_something_else(
    change: str, document: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(document, monkeypatch, "--steps", 2)
    if change == "words":
        document.write_text(document.read_text().replace('"one"', '"won"'))
    if change == "sound":
        for number in range(6):
            write_tone(Path(f"clips/{number}.wav"), hertz=1000 + number)
    options = change.split() if change.startswith("--") else []
    done = dlm("train", document, "--steps", 2, *options, "--resume")
    done.refused("started from another", "put that back, or start over with --fresh")
    done = dlm("train", document, "--steps", 2, *options, "--fresh")
    assert done.code == 0
    assert "going on" not in done.err


def test_a_second_recording_in_a_clip_counts(
    document: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = (
        "\n::conversation::\n### User\n<audio>clips/0.wav</audio> <audio>clips/1.wav</audio> Which?"
        "\n### Assistant\nThe first.\n"
    )
    document.write_text(document.read_text().split("::audio")[0] + talk)
    stopped(document, monkeypatch, "--steps", 2)
    shutil.copy("clips/2.wav", "clips/1.wav")
    done = dlm("train", document, "--steps", 2, "--resume")
    done.refused("started from another data")


def test_resuming_with_nothing_saved_starts_over_and_says_so(document: Path) -> None:
    done = dlm("train", document, "--steps", 1, "--resume")
    assert done.code == 0
    assert "my.dlm: nothing was saved of an earlier run; starting over" in done.err
    assert len(kept(document)) == 1


def test_resuming_what_is_over_reports_it(document: Path) -> None:
    first = dlm("train", document, "--steps", 1)
    done = dlm("train", document, "--steps", 1, "--resume")
    assert done.code == 0
    assert "my.dlm: the last run came to its end; its version is v0001" in done.err
    assert done.out.splitlines()[-1] == first.out.splitlines()[-1]
    assert len(kept(document)) == 1


def test_saving_often_changes_nothing(document: Path) -> None:
    assert dlm("train", document, "--steps", 3).code == 0
    assert dlm("train", document, "--steps", 3, "--save-every", 1).code == 0
    first, second = kept(document)
    assert adapter(first) == adapter(second)
    runs = Path(first["path"]).parents[2] / "runs"
    assert not list(runs.glob("*/state*")), "a run that is over needs no state"


def test_a_version_says_what_it_learned_from(document: Path) -> None:
    assert dlm("train", document, "--steps", 1).code == 0
    (version,) = kept(document)
    paths = {each["path"] for each in version["train_recordings"]}
    assert len(paths) == 4
    assert paths < {f"clips/{number}.wav" for number in range(6)}
    assert version["base"] == "tiny"
    assert version["scores"].keys() == {"loss", "shuffled_loss", "gap", "wer", "cer"}
    blobs = Path(version["path"]).parents[2] / "blobs"
    assert {each["sha256"] for each in version["train_recordings"]} == {
        blob.name for blob in blobs.iterdir()
    }


def test_every_kind_of_section_is_learned(document: Path, tiny: Path) -> None:
    write_document(
        Path(),
        base_model=tiny,
        training="  held_out: 1\n",
        body="\n::instruction::\n### Q\nHow high?\n### A\nHigh.\n\n::conversation::\n### User\n"
        "<audio>clips/0.wav</audio> Which?\n### Assistant\nThat.\n\n::instruction::\n"
        "### Q\nWhat is one?\n### A\nA number.\n",
    )
    done = dlm("train", document, "--steps", 2)
    assert done.code == 0, done.err
    assert "9 (6 to transcribe, 2 to answer, 1 of text)" in done.out


def test_a_bar_in_a_terminal(document: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    done = dlm("train", document, "--steps", 3, terminal=True)
    assert done.code == 0
    assert "3/3" in done.err and "clips/s" in done.err and "s left" in done.err
    assert "6 of 6 clips" in done.err
    assert done.out.splitlines()[-1].startswith("v0001 is kept")
