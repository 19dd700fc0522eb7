"""Which clips a run trains on: held-out ones, weights, bad clips, test splits, stored copies."""

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
from tests.data.recordings import create_document, make_noise, save_audio
from tests.tiny_models import TRANSCRIPTS, write_tiny_model, write_tone

FRONTMATTER = (
    "---\ndlm_id: 01ARZ3NDEKTSV4RRFFQ69G5FAV\ndlm_version: 11\nbase_model: {}\ntraining:\n"
)


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_tones(name: str, count: int) -> None:
    """Write tones into a folder, each with a word as its transcript."""
    for number in range(count):
        path = write_tone(Path(name, f"{number:03}.wav"), hertz=200 + 30 * number + len(name))
        path.with_suffix(".txt").write_text(TRANSCRIPTS[number % 8])


def write_training_document(tiny_model: Path, *lines: str) -> Path:
    """Write a document with these lines under `training`."""
    settings = "".join(f"  {line}\n" for line in ("precision: fp32", *lines))
    Path("my.dlm").write_text(FRONTMATTER.format(tiny_model) + settings + "---\n")
    return Path("my.dlm")


def parse_table(done: CommandResult) -> dict[str, str]:
    assert done.code == 0, done.err
    return dict(re.findall(r"^(\w[\w ]*?)  +(.*)$", done.out, flags=re.MULTILINE))


def test_a_held_out_source_is_evaluated_on_and_not_trained_on(
    tiny_model: Path, folder: Path
) -> None:
    write_tones("corpus", 6)
    write_tones("dev", 2)
    document = write_training_document(tiny_model, "sources: [corpus]", "held_out: dev")
    done = dlm("train", document, "--steps", 1)
    rows = parse_table(done)
    assert rows["held out"] == "2 (not trained on)"
    assert "over 6 clips" in rows["steps"] and "2 clips held out: WER" in done.out
    recordings = json.loads(dlm("show", document, "--version", "v0001", "--json").out)[
        "train_recordings"
    ]
    assert {Path(each["path"]).parts[0] for each in recordings} == {"corpus"}
    assert json.loads(dlm("eval", document, "--json").out)["clips"] == 2
    write_training_document(tiny_model, "sources: [corpus, dev]", "held_out: dev")
    rows = parse_table(dlm("check", document, "--eval-count", "corpus"))
    assert rows["held out"].startswith("6 ") and "over 2 clips" in rows["steps"]


def test_clips_that_share_a_recording_with_held_out_ones_are_not_trained_on(
    tiny_model: Path, folder: Path
) -> None:
    write_tones("corpus/dev", 2)
    write_tones("corpus", 4)
    done = dlm(
        "check", write_training_document(tiny_model, "sources: [corpus]", "held_out: corpus/dev")
    )
    assert "over 4 clips" in parse_table(done)["steps"]
    assert "my.dlm: 2 clips share a recording with the source that is held out" in done.err


def test_holding_out_every_clip_is_refused(tiny_model: Path, folder: Path) -> None:
    write_tones("corpus", 4)
    document = write_training_document(tiny_model, "sources: [corpus]", "held_out: corpus")
    text = "my.dlm: every clip is held out; add a source to train on, or hold out another"
    dlm("train", document).refused(text, error="data.all_held_out")
    assert dlm("check", document).code == 1


def test_the_plan_has_the_weights_of_sources(tiny_model: Path, folder: Path) -> None:
    write_tones("much", 4)
    write_tones("little", 4)
    sources = "sources: [{path: much, weight: 2.5}, {path: little, weight: 0.5}]"
    document = write_training_document(tiny_model, sources, "held_out: 0")
    rows = parse_table(dlm("check", document))
    assert rows["weights"].startswith("4 at 2.5 come 10 times, 4 at 0.5 come 2 times")
    assert "over 12 clips" in rows["steps"]
    assert "weights" not in parse_table(
        dlm("check", write_training_document(tiny_model, "sources: [much, little]"))
    )


def test_a_weighted_run_is_resumed_to_the_same_bits(tiny_model: Path, folder: Path) -> None:
    write_tones("much", 4)
    write_tones("little", 3)
    sources = "sources: [{path: much, weight: 1.5}, {path: little, weight: 0.5}]"
    document = write_training_document(
        tiny_model, sources, "held_out: 0", "micro_batch_size: 2", "grad_accum: 1"
    )
    overrides = {"training.save_steps": 1}
    assert len(list(api.train(document, steps=9, overrides=overrides))) > 9
    answers = iter([False] * 5 + [True])
    list(api.train(document, steps=9, overrides=overrides, stop=lambda: next(answers)))
    list(api.train(document, steps=9, overrides=overrides, resume=True))
    first, second = (
        each.hashes["adapter_model.safetensors"] for each in api.show(document).versions
    )
    assert first == second


def test_a_run_with_another_weight_cannot_be_resumed(tiny_model: Path, folder: Path) -> None:
    write_tones("much", 4)
    document = write_training_document(
        tiny_model, "sources: [{path: much, weight: 2}]", "held_out: 0"
    )
    list(api.train(document, steps=3, stop=lambda: True))
    text = document.read_text()
    document.write_text(text.replace("weight: 2", "weight: 3"))
    dlm("train", document, "--steps", 3, "--resume").refused(
        "data_sha256", error="store.changed_run"
    )


def write_bad_clip(tiny_model: Path) -> Path:
    """Write a document of 24 clips, one of which is damaged."""
    write_tones("corpus", 24)
    Path("corpus/007.wav").write_bytes(b"RIFF")
    return write_training_document(
        tiny_model, "sources: [corpus]", "held_out: 4", "bad_clips: skip"
    )


def test_a_bad_clip_is_skipped_where_the_document_says_so(
    tiny_model: Path, folder: Path, home: Path
) -> None:
    document = write_bad_clip(tiny_model)
    done = dlm("train", document, "--steps", 2)
    assert done.code == 0, done.err
    text = "my.dlm: 1 of 24 clips cannot be used and is left out: corpus/007.wav; nothing to do"
    assert text in done.err and done.err.count("007") == 1
    status = json.loads(dlm("show", document, "--version", "v0001", "--json").out)
    names = {each["path"] for each in status["train_recordings"]}
    assert "corpus/007.wav" not in names and len(names) in (19, 20)
    (log,) = home.glob("store/*/runs/*/log.jsonl")
    events = map(json.loads, log.read_text().splitlines())
    (event,) = [each for each in events if each["event"] == "ExamplesSkipped"]
    assert (event["step"], event["num_skipped"]) == (0, 1)
    assert event["issues"][0].startswith("corpus/007.wav: ")
    assert dlm("eval", document).code == 0
    result = json.loads(dlm("check", document, "--json").out)
    assert [each["where"] for each in result["left_out"]] == ["corpus/007.wav"]


def test_a_bad_clip_is_refused_by_default(tiny_model: Path, folder: Path, home: Path) -> None:
    document = write_bad_clip(tiny_model)
    document.write_text(document.read_text().replace("  bad_clips: skip\n", ""))
    dlm("train", document, "--steps", 2).refused("corpus/007.wav: ", error="audio.not_audio")


def test_too_many_bad_clips_are_refused(tiny_model: Path, folder: Path) -> None:
    document = write_bad_clip(tiny_model)
    Path("corpus/008.wav").write_bytes(b"")
    text = "my.dlm: 2 of 24 clips cannot be used, more than 5%: corpus/007.wav, corpus/008.wav; "
    done = dlm("train", document, "--steps", 2)
    done.refused(text, "(and 2 more: dlm check my.dlm)", error="data.too_many_bad")


@pytest.mark.parametrize("split_name", ["learn", "held_out"])
def test_a_recording_removed_during_training_is_reported_as_skipped(
    split_name: str, tiny_model: Path, folder: Path
) -> None:
    write_tones("corpus", 24)
    document = write_training_document(
        tiny_model, "sources: [corpus]", "held_out: 4", "bad_clips: skip"
    )
    skipped: list[ExamplesSkipped] = []
    for event in api.train(document, steps=4):
        if isinstance(event, Preflight):
            clips = {"learn": event.train_examples, "held_out": event.held_out_examples}[split_name]
        elif isinstance(event, TrainingStarted):
            removed = clips[0].audio_segments[0].path
            removed.unlink()
        elif isinstance(event, ExamplesSkipped):
            skipped.append(event)
    (event,) = skipped
    assert (event.step, event.num_skipped, event.num_examples) == (4, 1, 24)
    assert event.issues[0].startswith(f"corpus/{removed.name}: audio not found")


def test_training_on_a_test_split_is_refused_unless_allowed(tiny_model: Path, folder: Path) -> None:
    write_tones("corpus", 4)
    record = '{{"audio": "corpus/00{}.wav", "text": "x", "split": "test"}}\n'
    Path("mine.jsonl").write_text("".join(map(record.format, range(4))))
    document = write_training_document(
        tiny_model, "sources: [{path: mine.jsonl, split: test}]", "held_out: 0"
    )
    text = "split test of mine.jsonl is for tests, not for training"
    done = dlm("train", document, "--steps", 1)
    done.refused(text, "--allow-test-split", error="data.test_split")
    assert dlm("train", document, "--steps", 1, "--allow-test-split").code == 0
    assert dlm("gc", document).code == 0


def test_recordings_are_copied_into_the_store_as_the_plan_says(
    tiny_model: Path, folder: Path, home: Path
) -> None:
    write_tones("corpus", 4)
    preflight = run_preflight(
        write_training_document(tiny_model, "sources: [corpus]", "held_out: 0"),
        cli_overrides=CliOverrides(steps=1),
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


def test_a_recording_of_several_clips_is_counted_once(tiny_model: Path, folder: Path) -> None:
    tone = write_tone(Path("long.wav"), hertz=300, seconds=2.0)
    document = write_training_document(tiny_model, "held_out: 0")
    spans = ('start="0" end="1"', 'start="1" end="2"')
    sections = (f'\n::audio path="long.wav" transcript="one" {span}::\n' for span in spans)
    document.write_text(document.read_text() + "".join(sections))
    plan = run_preflight(document, cli_overrides=CliOverrides(steps=1)).require_plan()
    assert plan.train_set.num_examples == 2
    assert plan.train_set.recording_bytes == tone.stat().st_size


def test_another_split_of_a_source_can_be_held_out(tmp_path: Path) -> None:
    for split, names in (("train", "abc"), ("test", "de")):
        folder = tmp_path / "data" / split
        rows = [f"{name}.wav,What {name} says." for name in names]
        for name in names:
            save_audio(folder / f"{name}.wav", make_noise(seed=ord(name)))
        (folder / "metadata.csv").write_text("\n".join(["file_name,text", *rows]) + "\n")
    head = "training:\n  sources: [{path: data, split: train}]\n"
    written = create_document(tmp_path, head=head + "  held_out: {path: data, split: test}\n")
    result = json.loads(dlm("check", written.path, "--json").out)
    assert (result["clips"], result["held_out"]) == (5, 2)
    with pytest.raises(DocumentError, match="my.dlm:7:26: ") as caught:
        create_document(tmp_path, head=head + "  held_out: {path: data, splt: test}\n")
    assert caught.value.code == "document.unknown_key"
