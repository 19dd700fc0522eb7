"""What the command line asks for over the document: every option does what it says, once."""

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
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def document(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A document that is fine, in the working directory."""
    monkeypatch.chdir(tmp_path)
    write_document(tmp_path, base_model=tiny, num_clips=6, training="  held_out: 0\n")
    return Path("my.dlm")


def plan(done: CommandResult) -> dict[str, str]:
    """The lines of the plan that a command printed, by name."""
    assert done.code == 0, done
    rows = re.findall(r"^(\w[\w ]*?)  +(.*)$", done.out, flags=re.MULTILINE)
    return dict(rows)


DOES = {  # option: what the plan then says, and where
    "--lora-r 4 --adapter lora": ("learns", "lora, rank 4 on lm"),
    "--adapter projector": ("learns", "projector on projector"),
    "--freeze-audio-tower": ("learns", "full on projector, lm"),
    "--batch-size 2": ("batch", "2 clips a step"),
    "--batch-size 2 --grad-accum 3": ("batch", "6 clips a step (micro-batch 2 x 3)"),
    "--learning-rate 1e-5": ("rate", "1e-05"),
    "--epochs 7": ("steps", "7 (7.0 times over 6 clips)"),
    "--train-count 4": ("steps", "over 4 clips"),
    "--eval-count 2": ("held out", "2 (never learned from)"),
    "--precision bf16": ("device", "cpu, bf16"),
    "--set training.lr_scheduler=linear": ("rate", "linear"),
    "--set training.warmup_ratio=0 --set training.seed=7": ("seed", "7"),
}


@pytest.mark.parametrize("words", DOES)
def test_an_option_changes_the_plan(words: str, document: Path) -> None:
    name, value = DOES[words]
    done = dlm("check", document, *words.split())
    told = plan(done)
    assert value in told[name], told
    assert plan(dlm("check", document))[name] != told[name]
    field = "training." if "--set" not in words else words.split()[1].partition("=")[0]
    assert field in told["asked for"] and "over the document" in told["asked for"]


def test_options_are_known_after_options_of_dlm_itself(document: Path, tmp_path: Path) -> None:
    done = dlm("--home", tmp_path / "kept", "check", document, "--seed", 1)
    done.refused("No such option: --seed", code=2)
    done = dlm("--home", tmp_path / "kept", "check", document, "--epochs", 7)
    assert plan(done)["asked for"].startswith("training.num_epochs = 7")


def test_every_field_can_be_set_but_the_documents_own(document: Path) -> None:
    written = read_document(document)
    for name, info in iter_config_values():
        value = info.get_default(call_default_factory=True)
        if name in ("dlm_id", "dlm_version"):
            with pytest.raises(UsageError, match="is the document's own"):
                apply_overrides(written, {name: value})
        elif not name.startswith(("base_model", "training.held_out.")):
            settings = apply_overrides(written, {name: value}).config.model_dump()
            for step in name.split("."):
                settings = settings[step]
            assert settings == value, name
    flags = [flag for each in iter_config_options() for flag in each.flags]
    assert len(flags) == len(set(flags))
    assert {each.field for each in iter_config_options()} <= {
        name for name, _ in iter_config_values()
    }


REFUSED = {
    "--lora-r 0": "--lora-r: training.lora_r is 0; it must be greater than or equal to 1",
    "--lora-r many": "--lora-r: training.lora_r is 'many'; it must be a whole number",
    "--epochs 0": "--epochs: training.num_epochs is 0",
    "--adapter lorra": "--adapter: training.adapter is 'lorra'; it must be 'lora'",
    "--save-every 0": "--save-steps: training.save_steps is 0",
    "--learning-rate [": "--learning-rate: [: invalid YAML",
    "--set training.lora_rr=4": "--set: unknown field 'training.lora_rr'; did you mean 'lora_r'?",
    "--set lora_r=4": "--set: unknown field 'lora_r'; did you mean 'training.lora_r'?",
    "--set nothing=4": "--set: unknown field 'nothing'; known here are dlm_id, dlm_version",
    "--set training.lora_r": "--set: 'training.lora_r' has no '='; write it as --set",
    "--set training.lora_r=": "--lora-r: training.lora_r is empty",
    "--set training.lora=4": "--set: training.lora is a group of fields; set one of its fields",
    "--set training.sources.path=x": "--set: unknown field 'training.sources.path'",
    "--set training.warmup_ratio=2": "--set: training.warmup_ratio is 2; it must be less",
    "--set dlm_id=x": "--set: dlm_id is the document's own; leave it as it is",
    "--set training.seed=1 --set training.seed=2": "--set: training.seed is set twice",
    "--lora-r 4 --set training.lora_r=8": "--set: training.lora_r is set twice; give it once",
    "--set training.lora.where=[ear]": "--set: training.lora.where[0] is 'ear'; it must be 'lm'",
    "--set a.b.c.d=1": "--set: unknown field 'a.b.c.d'",
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_cannot_be_set_is_told_with_its_option(words: str, document: Path, home: Path) -> None:
    for verb in ("check", "train"):
        dlm(verb, document, *words.split()).refused(REFUSED[words], "; ", code=2)
    assert not home.exists()


def test_nothing_would_learn(document: Path) -> None:
    words = "--adapter lora --freeze-audio-tower --set training.lora.where=[encoder]".split()
    dlm("train", document, *words).refused("nothing would be trained", "freeze_encoder")


def test_a_run_goes_on_only_as_it_was_asked(document: Path) -> None:
    asked = {"training.save_steps": 1, "training.learning_rate": 1e-4}
    for event in api.train(document, steps=4, overrides=asked):
        if type(event).__name__ == "CheckpointSaved":
            break
    dlm("train", document, "--steps", 4, "--resume").refused(
        "started from another plan", "put that back", "--set training.learning_rate=0.0001"
    )
    done = dlm("train", document, "--steps", 4, "--resume", "--learning-rate", "1e-4")
    assert done.code == 0, done


def test_a_version_is_used_as_it_was_made(document: Path, tmp_path: Path) -> None:
    """Another base, other clips held out: what is asked once holds for the version it made."""
    other = write_tiny_model(tmp_path / "other", seed=1)
    facts = json.loads((other / "dlm_base.json").read_text())
    (other / "dlm_base.json").write_text(json.dumps(facts | {"key": "other"}))
    words = ["--model-checkpoint", "other", "--eval-count", 2, "--eval-batch-size", 1]
    done = dlm("train", document, "--steps", 1, *words)
    assert plan(done)["base"].startswith("other"), done
    assert "2 clips held out" in done.out
    scored = json.loads(dlm("eval", document, "--json").out)
    assert scored["clips"] == 2
    assert dlm("prompt", document, "--audio", "clips/0.wav", "--max-tokens", 2, "What?").code == 0
    assert dlm("export", document, "--out", "out").code == 0
    assert json.loads(Path("out/dlm_base.json").read_text())["key"].startswith("other")


def test_a_log_has_a_line_for_so_many_steps(document: Path) -> None:
    done = dlm("train", document, "--steps", 5, "--logging-steps", 2)
    assert re.findall(r"^step (\d)/5", done.err, flags=re.MULTILINE) == ["2", "4", "5"]


def test_a_state_is_saved_for_so_many_steps(document: Path) -> None:
    asked = {"training.save_steps": 2}
    events = [type(each).__name__ for each in api.train(document, steps=5, overrides=asked)]
    assert events.count("CheckpointSaved") == 3  # after 2, after 4, and the last


@pytest.mark.parametrize(("policy", "seconds"), [("split", 8.0), ("truncate", 5.0)])
def test_what_is_heard_of_a_long_clip(policy: str, seconds: float, document: Path) -> None:
    """Five tones of 0.6 s and one of 5 s, for a base that hears two seconds at once."""
    write_tone(Path("clips/0.wav"), hertz=200, seconds=5.0)
    asked = {"training.audio.long_clips": policy, "training.adapter": "projector"}
    events = list(api.train(document, steps=1, overrides=asked))
    heard = [each.audio_seconds for each in events if type(each).__name__ == "StepCompleted"]
    assert heard == pytest.approx([seconds])
    told = [problem.what for problem in events[0].issues]
    assert any(what.startswith("1 clip is longer than 2 s") for what in told), told


def test_a_list_of_clips_is_given(document: Path, tmp_path: Path) -> None:
    """A path on the command line is seen from where the command is given."""
    work = tmp_path / "elsewhere"
    write_tone(work / "a.wav", hertz=900)
    rows = [{"audio_path": "a.wav", "text": "one"}]
    (work / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = dlm("check", document, "--dataset-jsonl", "elsewhere/list.jsonl")
    assert done.code == 0 and "elsewhere/list.jsonl: 1 clips" in done.out
    nested = tmp_path / "deeper/mine.dlm"
    nested.parent.mkdir()
    nested.write_text(document.read_text().split("::audio")[0])
    done = dlm("check", nested, "--dataset-jsonl", "elsewhere/list.jsonl")
    assert done.code == 0 and "../elsewhere/list.jsonl: 1 clips" in done.out
    strict = "training.sources_policy=strict"
    done = dlm("check", nested, "--dataset-jsonl", "elsewhere/list.jsonl", "--set", strict)
    assert done.code == 1 and "lies outside the document's folder" in done.err


def test_a_list_trains_and_is_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    base = write_tiny_model(tmp_path / "base")
    training = "  held_out: 0\n  sources: data.jsonl\n"
    path = write_document(tmp_path, base_model=base, num_clips=0, training=training)
    for number in range(3):
        write_tone(tmp_path / f"{number}.wav", hertz=200 + 150 * number)
    rows = [{"audio_path": f"{number}.wav", "text": "one"} for number in range(3)]
    Path("data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = dlm("train", path, "--steps", 1)
    assert done.code == 0 and "data.jsonl: 3 clips" in done.out, done
    shown = json.loads(dlm("show", path, "--json").out)
    assert shown["source_directives"][0]["audio_count"] == 3
    Path("more").mkdir()
    write_tone(Path("more/x.wav"), hertz=300)
    Path("more/x.txt").write_text("two")
    write_tone(Path("more/y.wav"), hertz=400)
    scored = dlm("eval", path, "--data", "more")
    assert scored.code == 0 and "1 clips, 1 without a transcript" in scored.out, scored
    scored = dlm("eval", path, "--data", "data.jsonl", "--json")
    assert json.loads(scored.out)["clips"] == 3
    assert json.loads(scored.out)["source_directives"][0]["audio_count"] == 3
    Path("data.jsonl").write_text('{"audio": "no.wav", "text": "one"}\n')
    dlm("eval", path, "--data", "data.jsonl").refused("audio not found: no.wav")
    dlm("train", path).refused("data.jsonl:1: audio not found: no.wav")
