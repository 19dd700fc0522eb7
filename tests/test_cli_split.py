"""Which clips a run learns from, as a user meets it: held out, weighted, left out, refused."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

import dlm as api
from dlm.commands.preflight import Preflight, run_preflight
from dlm.commands.train import RunOptions, run_training
from dlm.errors import DocumentError
from dlm.plan.types import CliOverrides
from dlm.store.records import RunRecord
from dlm.store.versions import open_store
from dlm.training.events import ExamplesSkipped, TrainingStarted
from tests.cli_runner import CommandResult, dlm
from tests.data.recordings import document, noise, save
from tests.tiny_models import TRANSCRIPTS, write_tiny_model, write_tone

FRONT = "---\ndlm_id: 01ARZ3NDEKTSV4RRFFQ69G5FAV\ndlm_version: 11\nbase_model: {}\ntraining:\n"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def corpus(name: str, count: int) -> None:
    """So many tones in a folder, each said to be a word."""
    for number in range(count):
        path = write_tone(Path(name, f"{number:03}.wav"), hertz=200 + 30 * number + len(name))
        path.with_suffix(".txt").write_text(TRANSCRIPTS[number % 8])


def written(tiny: Path, *lines: str) -> Path:
    """A document with these settings of its training."""
    settings = "".join(f"  {line}\n" for line in ("precision: fp32", *lines))
    Path("my.dlm").write_text(FRONT.format(tiny) + settings + "---\n")
    return Path("my.dlm")


def lines(done: CommandResult) -> dict[str, str]:
    assert done.code == 0, done.err
    return dict(re.findall(r"^(\w[\w ]*?)  +(.*)$", done.out, flags=re.MULTILINE))


def test_a_source_is_held_out_and_tested_on(tiny: Path, folder: Path) -> None:
    corpus("corpus", 6)
    corpus("dev", 2)
    document = written(tiny, "sources: [corpus]", "held_out: dev")
    done = dlm("train", document, "--steps", 1)
    told = lines(done)
    assert told["held out"] == "2 (never learned from)"
    assert "over 6 clips" in told["steps"] and "2 clips held out: WER" in done.out
    learned = json.loads(dlm("show", document, "--version", "v0001", "--json").out)[
        "train_recordings"
    ]
    assert {Path(each["path"]).parts[0] for each in learned} == {"corpus"}
    assert json.loads(dlm("eval", document, "--json").out)["clips"] == 2
    written(tiny, "sources: [corpus, dev]", "held_out: dev")
    told = lines(dlm("check", document, "--eval-count", "corpus"))
    assert told["held out"].startswith("6 ") and "over 2 clips" in told["steps"]


def test_what_meets_the_held_out_source_is_not_learned_from(tiny: Path, folder: Path) -> None:
    corpus("corpus/dev", 2)
    corpus("corpus", 4)
    done = dlm("check", written(tiny, "sources: [corpus]", "held_out: corpus/dev"))
    assert "over 4 clips" in lines(done)["steps"]
    assert "my.dlm: 2 clips share a recording with the source that is held out" in done.err


def test_something_is_left_to_learn_from(tiny: Path, folder: Path) -> None:
    corpus("corpus", 4)
    document = written(tiny, "sources: [corpus]", "held_out: corpus")
    told = "my.dlm: every clip is held out; add a source to train on, or hold out another"
    dlm("train", document).refused(told)
    assert dlm("check", document).code == 1


def test_weights_are_in_the_plan(tiny: Path, folder: Path) -> None:
    corpus("much", 4)
    corpus("little", 4)
    sources = "sources: [{path: much, weight: 2.5}, {path: little, weight: 0.5}]"
    document = written(tiny, sources, "held_out: 0")
    told = lines(dlm("check", document))
    assert told["weights"].startswith("4 at 2.5 come 10 times, 4 at 0.5 come 2 times")
    assert "over 12 clips" in told["steps"]
    assert "weights" not in lines(dlm("check", written(tiny, "sources: [much, little]")))


def test_a_weighted_run_goes_on_to_the_same_bits(tiny: Path, folder: Path) -> None:
    corpus("much", 4)
    corpus("little", 3)
    sources = "sources: [{path: much, weight: 1.5}, {path: little, weight: 0.5}]"
    document = written(tiny, sources, "held_out: 0", "micro_batch_size: 2", "grad_accum: 1")
    saved = {"training.save_steps": 1}
    assert len(list(api.train(document, steps=9, overrides=saved))) > 9
    asked = iter([False] * 5 + [True])
    list(api.train(document, steps=9, overrides=saved, stop=lambda: next(asked)))
    list(api.train(document, steps=9, overrides=saved, resume=True))
    first, second = (
        each.hashes["adapter_model.safetensors"] for each in api.show(document).versions
    )
    assert first == second


def test_another_weight_is_another_run(tiny: Path, folder: Path) -> None:
    corpus("much", 4)
    document = written(tiny, "sources: [{path: much, weight: 2}]", "held_out: 0")
    list(api.train(document, steps=3, stop=lambda: True))
    text = document.read_text()
    document.write_text(text.replace("weight: 2", "weight: 3"))
    dlm("train", document, "--steps", 3, "--resume").refused("data_sha256")


def bad(tiny: Path) -> Path:
    """A document of 24 clips of which one is damaged."""
    corpus("corpus", 24)
    Path("corpus/007.wav").write_bytes(b"RIFF")
    return written(tiny, "sources: [corpus]", "held_out: 4", "bad_clips: skip")


def test_a_run_goes_on_without_a_bad_clip(tiny: Path, folder: Path, home: Path) -> None:
    document = bad(tiny)
    done = dlm("train", document, "--steps", 2)
    assert done.code == 0, done.err
    told = "my.dlm: 1 of 24 clips cannot be used and is left out: corpus/007.wav; nothing to do"
    assert told in done.err and done.err.count("007") == 1
    shown = json.loads(dlm("show", document, "--version", "v0001", "--json").out)
    names = {each["path"] for each in shown["train_recordings"]}
    assert "corpus/007.wav" not in names and len(names) in (19, 20)
    (log,) = home.glob("store/*/runs/*/log.jsonl")
    events = map(json.loads, log.read_text().splitlines())
    (event,) = [each for each in events if each["event"] == "ExamplesSkipped"]
    assert (event["step"], event["num_skipped"]) == (0, 1)
    assert event["issues"][0].startswith("corpus/007.wav: ")
    assert dlm("eval", document).code == 0
    checked = json.loads(dlm("check", document, "--json").out)
    assert [each["where"] for each in checked["left_out"]] == ["corpus/007.wav"]


def test_a_bad_clip_ends_a_run_of_few(tiny: Path, folder: Path, home: Path) -> None:
    document = bad(tiny)
    document.write_text(document.read_text().replace("  bad_clips: skip\n", ""))
    dlm("train", document, "--steps", 2).refused("corpus/007.wav: ")


def test_too_many_bad_clips_end_a_run(tiny: Path, folder: Path) -> None:
    document = bad(tiny)
    Path("corpus/008.wav").write_bytes(b"")
    told = "my.dlm: 2 of 24 clips cannot be used, more than 5%: corpus/007.wav, corpus/008.wav; "
    dlm("train", document, "--steps", 2).refused(told, "(and 2 more: dlm check my.dlm)")


@pytest.mark.parametrize("side", ["learn", "held_out"])
def test_a_clip_that_vanishes_while_it_learns_is_told_of(
    side: str, tiny: Path, folder: Path
) -> None:
    corpus("corpus", 24)
    document = written(tiny, "sources: [corpus]", "held_out: 4", "bad_clips: skip")
    found: list[ExamplesSkipped] = []
    for event in api.train(document, steps=4):
        if isinstance(event, Preflight):
            clips = {"learn": event.train_examples, "held_out": event.held_out_examples}[side]
        elif isinstance(event, TrainingStarted):
            gone = clips[0].audio_segments[0].path
            gone.unlink()
        elif isinstance(event, ExamplesSkipped):
            found.append(event)
    (event,) = found
    assert (event.step, event.num_skipped, event.num_examples) == (4, 1, 24)
    assert event.issues[0].startswith(f"corpus/{gone.name}: audio not found")


def test_a_test_split_is_refused_before_anything_is_loaded(tiny: Path, folder: Path) -> None:
    corpus("corpus", 4)
    rows = (f'{{"audio": "corpus/00{n}.wav", "text": "x", "split": "test"}}\n' for n in range(4))
    Path("mine.jsonl").write_text("".join(rows))
    document = written(tiny, "sources: [{path: mine.jsonl, split: test}]", "held_out: 0")
    told = "split test of mine.jsonl is for tests, not for training"
    dlm("train", document, "--steps", 1).refused(told, "--allow-test-split")
    assert dlm("train", document, "--steps", 1, "--allow-test-split").code == 0
    assert dlm("gc", document).code == 0


def test_recordings_are_copied_into_the_store_as_the_plan_says(
    tiny: Path, folder: Path, home: Path
) -> None:
    corpus("corpus", 4)
    preflight = run_preflight(
        written(tiny, "sources: [corpus]", "held_out: 0"), cli_overrides=CliOverrides(steps=1)
    )
    num_bytes = sum(path.stat().st_size for path in Path("corpus").glob("*.wav"))
    assert preflight.require_plan().train_set.recording_bytes == num_bytes
    store = open_store(preflight.document.config.dlm_id)
    run_record = RunRecord(document_sha256="", data_sha256="", plan={}, seed=1, base_model="tiny")
    for copied in (False, True):
        plan = replace(preflight.require_plan(), copy_recordings=copied)
        options = RunOptions(stop_fn=lambda: False)
        list(
            run_training(
                replace(preflight, plan=plan), store, run_record, run=None, options=options
            )
        )
        assert len(list(home.glob("store/*/blobs/*"))) == 4 * copied


def test_a_recording_of_several_clips_is_counted_once(tiny: Path, folder: Path) -> None:
    tone = write_tone(Path("long.wav"), hertz=300, seconds=2.0)
    document = written(tiny, "held_out: 0")
    spans = ('start="0" end="1"', 'start="1" end="2"')
    sections = (f'\n::audio path="long.wav" transcript="one" {span}::\n' for span in spans)
    document.write_text(document.read_text() + "".join(sections))
    plan = run_preflight(document, cli_overrides=CliOverrides(steps=1)).require_plan()
    assert plan.train_set.num_examples == 2
    assert plan.train_set.recording_bytes == tone.stat().st_size


def test_what_is_held_out_may_be_another_split_of_a_source(tmp_path: Path) -> None:
    for split, names in (("train", "abc"), ("test", "de")):
        folder = tmp_path / "data" / split
        rows = [f"{name}.wav,What {name} says." for name in names]
        for name in names:
            save(folder / f"{name}.wav", noise(seed=ord(name)))
        (folder / "metadata.csv").write_text("\n".join(["file_name,text", *rows]) + "\n")
    head = "training:\n  sources: [{path: data, split: train}]\n"
    written = document(tmp_path, head=head + "  held_out: {path: data, split: test}\n")
    found = json.loads(dlm("check", written.path, "--json").out)
    assert (found["clips"], found["held_out"]) == (5, 2)
    with pytest.raises(DocumentError, match="my.dlm:7:26: unknown key"):
        document(tmp_path, head=head + "  held_out: {path: data, splt: test}\n")
