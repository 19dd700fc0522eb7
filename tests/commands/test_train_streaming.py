"""`dlm train` with streamed sources: plan, refusals, held-out examples, shards, bad rows."""

import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from dlm.batching.chat_template import ChatEncoder
from dlm.batching.staged_loader import StagedLoader
from dlm.commands.preflight import run_preflight
from dlm.commands.train import build_staged_loader, train
from dlm.features.extractor import AudioFeatureExtractor
from dlm.models.load import load_model
from tests.cli_runner import dlm
from tests.tiny_models import TRANSCRIPTS, write_document, write_tiny_model, write_tone

SHARDS, CLIPS = 4, 5


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A document of one clip, and lists of a few more."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base").symlink_to(tiny_model)
    for shard in range(SHARDS):
        rows = []
        for row in range(CLIPS):
            wav = write_tone(tmp_path / f"wav/{shard}{row}.wav", hertz=300 + 90 * shard + 9 * row)
            text, speaker = f"{TRANSCRIPTS[shard]} {TRANSCRIPTS[row]}", f"s{row}"
            rows.append({"audio": f"wav/{wav.name}", "text": text, "speaker": speaker})
        write_list(tmp_path / f"{shard}.jsonl", rows)
    return tmp_path


def write_list(path: Path, rows: Iterable[object]) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def write_streaming_document(
    folder: Path, training: str = "", *, shards: int = SHARDS, source_fields: str = ""
) -> Path:
    """A document that streams the lists."""
    sources = "".join(
        f"    - {{path: {shard}.jsonl, stream: {str(shard == 0).lower()}{source_fields}}}\n"
        for shard in range(shards)
    )
    training_fields = f"  micro_batch_size: 2\n{training}  sources:\n{sources}"
    return write_document(
        folder, base_model="base", training=training_fields, num_clips=1
    ).relative_to(folder)


def build_loader(document: Path) -> StagedLoader:
    """The batches of a run."""
    preflight = run_preflight(document)
    plan = preflight.require_plan()
    model = load_model(plan.model)
    extractor = AudioFeatureExtractor(plan.batches.spec, auto_resample=False, memory_bytes=0)
    chat_encoder = ChatEncoder(model.tokenizer, model.spec)
    return build_staged_loader(preflight, plan, chat_encoder, lambda stage, use_cached: extractor)


def list_trained_locations(document: Path, steps: int) -> list[str]:
    batches = [batch for step in build_loader(document).iter_batches(0, steps) for batch in step]
    return [location for batch in batches for location in batch.locations]


def test_plan_of_a_stream(folder: Path) -> None:
    result = dlm(
        "check",
        write_streaming_document(
            folder, "  steps: 3\n  held_out: 4\n", source_fields=", weight: 2"
        ),
    )
    assert result.code == 0, result.err
    lines = {line.split("  ")[0]: line for line in result.out.splitlines()}
    assert lines["stream"].endswith(
        "the first 21 clips read (the others are read during training; "
        "neither they nor their features are stored)"
    )
    assert "0.jsonl 2, 1.jsonl 2, 2.jsonl 2, 3.jsonl 2" in lines["drawn"]
    assert "3 (6 clips of a stream)" in lines["steps"]
    assert "weights" not in lines and "recordings" not in lines


STAGES = "  stages: [{train: [projector], steps: 2}, {train: [lm, projector]%s}]\n"


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ("", "a stream has no known number of clips; set training.steps, or give --steps"),
        ("  steps: 2\n  train_count: 5\n", "train_count counts listed clips"),
        ("  steps: 2\n  split_by: content\n", "split_by is content, and a stream is not read"),
        (STAGES % "", "stage 2 has no steps, and a stream has no known number of clips"),
        ("  steps: 5\n" + STAGES % ", steps: 2", "training.steps is for a run without stages"),
    ],
)
def test_impossible_options_of_a_stream_are_refused(
    folder: Path, training: str, message: str
) -> None:
    dlm("train", write_streaming_document(folder, training)).refused(message)


def test_steps_on_the_command_line_and_in_stages(folder: Path) -> None:
    assert dlm("train", write_streaming_document(folder), "--steps", 2).code == 0
    result = dlm("train", write_streaming_document(folder, STAGES % ", steps: 2"))
    assert result.code == 0, result.err
    assert [item["steps"] for item in json.loads(dlm("versions", "my.dlm", "--json").out)] == [2, 4]


def test_version_names_shards_and_no_recording_is_copied(folder: Path, home: Path) -> None:
    assert dlm("train", write_streaming_document(folder, "  steps: 2\n  held_out: 0\n")).code == 0
    (version,) = json.loads(dlm("versions", "my.dlm", "--json").out)
    names = [item["path"] for item in version["train_recordings"]]
    assert names == ["clips/0.wav", *(f"{shard}.jsonl" for shard in range(SHARDS))]
    (store,) = (home / "store").iterdir()
    assert not [*store.glob("blobs/*")] and not [*store.glob("features/*")]


def test_changed_shard_is_not_resumed(folder: Path) -> None:
    document = write_streaming_document(folder, "  steps: 9\n")
    (*_, last) = train(document, stop=lambda: True)
    assert (last.reason, last.step) == ("stopped", 1)
    text = Path("3.jsonl").read_text()
    Path("3.jsonl").write_text(text.replace("one", "two"))
    dlm("train", document, "--resume").refused("started from another data_sha256", "--fresh")


def test_scanned_clips_of_a_stream_are_not_exported(folder: Path) -> None:
    document = write_streaming_document(folder, "  steps: 2\n  held_out: 3.jsonl\n")
    assert "21 read, of a stream" in dlm("show", document).out
    messages = (
        "only the first 256 clips of each source would be written",
        "take `stream: true` out",
    )
    dlm("export-data", document, "all").refused(*messages, code=2)
    result = dlm("export-data", document, "held", "--part", "held-out")
    assert result.code == 0, result.err
    assert len(list(Path("held/audio").iterdir())) == CLIPS


def test_held_out_examples_are_never_trained_on(folder: Path) -> None:
    training = "  steps: 30\n  held_out: 6\n"
    document = write_streaming_document(folder, training)
    held_out = {item.location for item in run_preflight(document).held_out_examples}
    trained = list_trained_locations(document, 30)
    assert len(held_out) == 6 and not held_out & set(trained)
    assert len(set(trained)) == 1 + SHARDS * CLIPS - 6
    speakers = write_streaming_document(folder, training + "  split_by: speaker\n")
    held_out = {item.speaker for item in run_preflight(speakers).held_out_examples}
    rows = {f"{shard}.jsonl:{row + 1}": f"s{row}" for shard in range(4) for row in range(CLIPS)}
    assert held_out and not held_out & {
        rows.get(location) for location in list_trained_locations(speakers, 30)
    }


def test_held_out_source(folder: Path) -> None:
    document = write_streaming_document(folder, "  steps: 30\n  held_out: 3.jsonl\n")
    assert len(run_preflight(document).held_out_examples) == CLIPS
    trained = list_trained_locations(document, 30)
    assert not [location for location in trained if location.startswith("3.jsonl")]
    assert len(set(trained)) == 1 + 3 * CLIPS


def write_long_list(folder: Path, *bad_rows: int) -> Path:
    """A document with a list of 300 rows, some of them bad."""
    write_tone(folder / "wav/a.wav", hertz=300)
    row = {"audio": "wav/a.wav", "text": "one"}
    write_list(folder / "0.jsonl", [[] if index in bad_rows else row for index in range(300)])
    training = "  steps: 3\n  held_out: 0\n  eval_batch_size: 32\n  grad_accum: 60\n"
    return write_streaming_document(folder, training, shards=1)


def test_bad_rows_are_reported_at_the_end(folder: Path, home: Path) -> None:
    result = dlm("train", write_long_list(folder, 270, 280))
    assert result.code == 0, result.err
    assert "2 of 301 clips" in result.err
    (log,) = (home / "store").glob("*/runs/*/log.jsonl")
    lines = map(json.loads, log.read_text().splitlines())
    (event,) = (event for event in lines if event["event"] == "ExamplesSkipped")
    assert (event["num_skipped"], event["num_examples"]) == (2, 301)
    assert event["issues"][0].startswith("0.jsonl:271: not an object; write")


def test_bad_row_ends_the_run_with_bad_clips_error(folder: Path) -> None:
    result = dlm("train", write_long_list(folder, 270), "--set", "training.bad_clips=error")
    assert result.code == 1 and "0.jsonl:271: not an object; write" in result.err.splitlines()[-1]
    assert "Traceback" not in result.err


def test_augmentation_in_a_stream(folder: Path) -> None:
    training = "  steps: 3\n  adapter: projector\n"
    document = write_streaming_document(
        folder, f"{training}  audio: {{augment: {{gain: [-6, 6]}}}}\n"
    )
    assert dlm("train", document).code == dlm("train", document).code == 0
    assert dlm("train", write_streaming_document(folder, training)).code == 0
    first, second, third = list_adapter_hashes(document)
    assert first == second != third


def test_resumed_run_in_stages_makes_the_same_version(folder: Path) -> None:
    document = write_streaming_document(folder, STAGES.replace("2}", "3}") % ", steps: 3")
    list(train(document))
    for resume, num_steps in ((False, 2), (True, 1), (True, 2), (True, 9)):
        stops = iter([False] * (num_steps - 1) + [True] * 9)
        list(train(document, resume=resume, stop=lambda stops=stops: next(stops)))
    first, second = list_adapter_hashes(document)
    assert first == second


def list_adapter_hashes(document: Path) -> list[str]:
    """The hash of each version's adapter."""
    versions = json.loads(dlm("versions", document, "--json").out)
    return [version["hashes"]["adapter_model.safetensors"] for version in versions]
