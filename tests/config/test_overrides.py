"""Fields set for one run: options of fields, --set, resuming, and versions trained with them."""

import json
import re
from pathlib import Path

import pytest

import dlm as api
from dlm.config.overrides import apply_overrides, iter_config_options
from dlm.config.parser import read_document
from dlm.config.schema import iter_config_values
from dlm.errors import UsageError
from tests.cli_runner import CommandResult, dlm
from tests.tiny_models import write_document, write_tiny_model, write_tone


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def document(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A valid document in the working directory."""
    monkeypatch.chdir(tmp_path)
    write_document(tmp_path, base_model=tiny_model, num_clips=6, training="  held_out: 0\n")
    return Path("my.dlm")


def read_plan(result: CommandResult) -> dict[str, str]:
    """Return the lines of the plan that a command printed, by name."""
    assert result.code == 0, result
    return dict(re.findall(r"^(\w[\w ]*?)  +(.*)$", result.out, flags=re.MULTILINE))


PLAN_LINES = {  # arguments: name and text of the line in the plan
    "--lora-r 4 --adapter lora": ("learns", "lora, rank 4 on lm"),
    "--adapter projector": ("learns", "projector on projector"),
    "--freeze-audio-tower": ("learns", "full on projector, lm"),
    "--batch-size 2": ("batch", "2 clips a step"),
    "--batch-size 2 --grad-accum 3": ("batch", "6 clips a step (micro-batch 2 x 3)"),
    "--learning-rate 1e-5": ("rate", "1e-05"),
    "--epochs 7": ("steps", "7 (7.0 times over 6 clips)"),
    "--train-count 4": ("steps", "over 4 clips"),
    "--eval-count 2": ("held out", "2 (not trained on)"),
    "--precision bf16": ("device", "cpu, bf16"),
    "--set training.lr_scheduler=linear": ("rate", "linear"),
    "--set training.warmup_ratio=0 --set training.seed=7": ("seed", "7"),
}


@pytest.mark.parametrize("arguments", PLAN_LINES)
def test_an_option_changes_the_plan(arguments: str, document: Path) -> None:
    name, value = PLAN_LINES[arguments]
    plan = read_plan(dlm("check", document, *arguments.split()))
    assert value in plan[name], plan
    assert read_plan(dlm("check", document))[name] != plan[name]
    field = arguments.split()[1].partition("=")[0] if "--set" in arguments else "training."
    assert field in plan["asked for"] and "over the document" in plan["asked for"]


def test_options_of_fields_may_follow_options_of_dlm(document: Path, tmp_path: Path) -> None:
    result = dlm("--home", tmp_path / "other-home", "check", document, "--seed", 1)
    result.refused("No such option: --seed", code=2)
    result = dlm("--home", tmp_path / "other-home", "check", document, "--epochs", 7)
    assert read_plan(result)["asked for"].startswith("training.num_epochs = 7")


def test_every_field_can_be_set_except_the_id_and_the_version(document: Path) -> None:
    original = read_document(document)
    for name, info in iter_config_values():
        value = info.get_default(call_default_factory=True)
        if name in ("dlm_id", "dlm_version"):
            with pytest.raises(UsageError) as caught:
                apply_overrides(original, {name: value})
            assert caught.value.code == "usage.protected_field"
        elif not name.startswith(("base_model", "training.held_out.")):
            new_value = apply_overrides(original, {name: value}).config.model_dump()
            for key in name.split("."):
                new_value = new_value[key]
            assert new_value == value, name
    flags = [flag for option in iter_config_options() for flag in option.flags]
    assert len(flags) == len(set(flags))
    fields = {name for name, _ in iter_config_values()}
    assert {option.field for option in iter_config_options()} <= fields


REFUSED = {  # code of the error: arguments, message
    "usage.bad_value": {
        "--lora-r 0": "--lora-r: training.lora_r is 0; it must be greater than or equal to 1",
        "--lora-r many": "--lora-r: training.lora_r is 'many'; it must be a whole number",
        "--epochs 0": "--epochs: training.num_epochs is 0",
        "--adapter lorra": "--adapter: training.adapter is 'lorra'; it must be 'lora'",
        "--save-every 0": "--save-steps: training.save_steps is 0",
        "--learning-rate [": "--learning-rate: [: invalid YAML",
        "--set training.lora_r=": "--lora-r: training.lora_r is empty",
        "--set training.warmup_ratio=2": "--set: training.warmup_ratio is 2; it must be less",
        "--set training.lora.where=[ear]": "--set: training.lora.where[0] is 'ear'; it must be",
    },
    "usage.unknown_field": {
        "--set training.lora_rr=4": "unknown field 'training.lora_rr'; did you mean 'lora_r'?",
        "--set lora_r=4": "--set: unknown field 'lora_r'; did you mean 'training.lora_r'?",
        "--set nothing=4": "--set: unknown field 'nothing'; known here are dlm_id, dlm_version",
        "--set training.sources.path=x": "--set: unknown field 'training.sources.path'",
        "--set a.b.c.d=1": "--set: unknown field 'a.b.c.d'",
    },
    "usage.field_group": {
        "--set training.lora=4": "--set: training.lora is a group of fields; set one of its fields",
    },
    "usage.protected_field": {
        "--set dlm_id=x": "--set: dlm_id is the document's own; leave it as it is",
    },
    "usage.bad_set": {
        "--set training.lora_r": "--set: 'training.lora_r' has no '='; write it as --set",
    },
    "usage.repeated_field": {
        "--set training.seed=1 --set training.seed=2": "--set: training.seed is set twice",
        "--lora-r 4 --set training.lora_r=8": "--set: training.lora_r is set twice; give it once",
    },
}


@pytest.mark.parametrize(
    ("error", "arguments", "message"),
    [(code, *case) for code, cases in REFUSED.items() for case in cases.items()],
)
def test_a_field_that_cannot_be_set_is_an_error_with_its_option(
    error: str, arguments: str, message: str, document: Path, home: Path
) -> None:
    for command in ("check", "train"):
        result = dlm(command, document, *arguments.split())
        result.refused(message, "; ", error=error, code=2)
    assert not home.exists()


def test_a_run_that_would_train_nothing_is_an_error(document: Path) -> None:
    arguments = "--adapter lora --freeze-audio-tower --set training.lora.where=[encoder]".split()
    dlm("train", document, *arguments).refused("nothing would be trained", "freeze_encoder")


def test_a_run_resumes_only_with_the_overrides_it_started_with(document: Path) -> None:
    overrides = {"training.save_steps": 1, "training.learning_rate": 1e-4}
    for event in api.train(document, steps=4, overrides=overrides):
        if type(event).__name__ == "CheckpointSaved":
            break
    dlm("train", document, "--steps", 4, "--resume").refused(
        "started from another plan", "put that back", "--set training.learning_rate=0.0001"
    )
    result = dlm("train", document, "--steps", 4, "--resume", "--learning-rate", "1e-4")
    assert result.code == 0, result


def test_a_version_is_used_with_the_overrides_of_its_run(document: Path, tmp_path: Path) -> None:
    """Another base and other held-out clips stay those of the version."""
    other = write_tiny_model(tmp_path / "other", seed=1)
    spec = json.loads((other / "dlm_base.json").read_text())
    (other / "dlm_base.json").write_text(json.dumps(spec | {"key": "other"}))
    arguments = ["--model-checkpoint", "other", "--eval-count", 2, "--eval-batch-size", 1]
    result = dlm("train", document, "--steps", 1, *arguments)
    assert read_plan(result)["base"].startswith("other"), result
    assert "2 clips held out" in result.out
    scores = json.loads(dlm("eval", document, "--json").out)
    assert scores["clips"] == 2
    assert dlm("prompt", document, "--audio", "clips/0.wav", "--max-tokens", 2, "What?").code == 0
    assert dlm("export", document, "--out", "out").code == 0
    assert json.loads(Path("out/dlm_base.json").read_text())["key"].startswith("other")


def test_logging_steps_sets_the_steps_between_lines_of_the_log(document: Path) -> None:
    result = dlm("train", document, "--steps", 5, "--logging-steps", 2)
    assert re.findall(r"^step (\d)/5", result.err, flags=re.MULTILINE) == ["2", "4", "5"]


def test_save_steps_sets_the_steps_between_checkpoints(document: Path) -> None:
    overrides = {"training.save_steps": 2}
    events = [type(event).__name__ for event in api.train(document, steps=5, overrides=overrides)]
    assert events.count("CheckpointSaved") == 4  # after 2, after 4, before the scores, the version


@pytest.mark.parametrize(("policy", "seconds"), [("split", 8.0), ("truncate", 5.0)])
def test_a_long_clip_is_split_or_truncated(policy: str, seconds: float, document: Path) -> None:
    """Five tones of 0.6 s and one of 5 s, for an encoder with a window of two seconds."""
    write_tone(Path("clips/0.wav"), hertz=200, seconds=5.0)
    overrides = {"training.audio.long_clips": policy, "training.adapter": "projector"}
    events = list(api.train(document, steps=1, overrides=overrides))
    steps = [event for event in events if type(event).__name__ == "StepCompleted"]
    assert [step.audio_seconds for step in steps] == pytest.approx([seconds])
    messages = [issue.what for issue in events[0].issues]
    assert any(what.startswith("1 clip is longer than 2 s") for what in messages), messages


def test_a_list_on_the_command_line_is_relative_to_the_working_directory(
    document: Path, tmp_path: Path
) -> None:
    work = tmp_path / "elsewhere"
    write_tone(work / "a.wav", hertz=900)
    records = [{"audio_path": "a.wav", "text": "one"}]
    (work / "list.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    result = dlm("check", document, "--dataset-jsonl", "elsewhere/list.jsonl")
    assert result.code == 0 and "elsewhere/list.jsonl: 1 clip" in result.out
    nested = tmp_path / "deeper/mine.dlm"
    nested.parent.mkdir()
    nested.write_text(document.read_text().split("::audio")[0])
    result = dlm("check", nested, "--dataset-jsonl", "elsewhere/list.jsonl")
    assert result.code == 0 and "../elsewhere/list.jsonl: 1 clip" in result.out
    strict = "training.sources_policy=strict"
    result = dlm("check", nested, "--dataset-jsonl", "elsewhere/list.jsonl", "--set", strict)
    assert result.code == 1 and "lies outside the document's folder" in result.err


def test_a_list_trains_and_is_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    base_model = write_tiny_model(tmp_path / "base")
    training = "  held_out: 0\n  sources: data.jsonl\n"
    path = write_document(tmp_path, base_model=base_model, num_clips=0, training=training)
    for number in range(3):
        write_tone(tmp_path / f"{number}.wav", hertz=200 + 150 * number)
    records = [{"audio_path": f"{number}.wav", "text": "one"} for number in range(3)]
    Path("data.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    result = dlm("train", path, "--steps", 1)
    assert result.code == 0 and "data.jsonl: 3 clips" in result.out, result
    shown = json.loads(dlm("show", path, "--json").out)
    assert shown["source_directives"][0]["audio_count"] == 3
    Path("more").mkdir()
    write_tone(Path("more/x.wav"), hertz=300)
    Path("more/x.txt").write_text("two")
    write_tone(Path("more/y.wav"), hertz=400)
    result = dlm("eval", path, "--data", "more")
    assert result.code == 0 and "1 clip, 1 without a transcript" in result.out, result
    result = dlm("eval", path, "--data", "data.jsonl", "--json")
    assert json.loads(result.out)["clips"] == 3
    assert json.loads(result.out)["source_directives"][0]["audio_count"] == 3
    Path("data.jsonl").write_text('{"audio": "no.wav", "text": "one"}\n')
    dlm("eval", path, "--data", "data.jsonl").refused("audio not found: no.wav")
    dlm("train", path).refused("data.jsonl:1: audio not found: no.wav")
