"""Sources that are streamed, as a user meets them: the plan, what is refused, what is kept."""

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
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def folder(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A document of one clip, and lists of a few more."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base").symlink_to(tiny)
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


def write(folder: Path, training: str = "", *, shards: int = SHARDS, more: str = "") -> Path:
    """The document, that learns from the lists as they are read."""
    sources = "".join(
        f"    - {{path: {shard}.jsonl, stream: {str(shard == 0).lower()}{more}}}\n"
        for shard in range(shards)
    )
    asked = f"  micro_batch_size: 2\n{training}  sources:\n{sources}"
    return write_document(folder, base_model="base", training=asked, num_clips=1).relative_to(
        folder
    )


def streamed(document: Path) -> StagedLoader:
    """What a run learns from."""
    checked = run_preflight(document)
    plan = checked.require_plan()
    model = load_model(plan.model)
    ear = AudioFeatureExtractor(plan.batches.spec, auto_resample=False, memory_bytes=0)
    chat = ChatEncoder(model.tokenizer, model.spec)
    return build_staged_loader(checked, plan, chat, lambda stage, use_cached: ear)


def seen(document: Path, steps: int) -> list[str]:
    batches = [each for step in streamed(document).iter_batches(0, steps) for each in step]
    return [place for batch in batches for place in batch.locations]


def test_the_plan_says_that_it_streams(folder: Path) -> None:
    done = dlm("check", write(folder, "  steps: 3\n  held_out: 4\n", more=", weight: 2"))
    assert done.code == 0, done.err
    lines = {line.split("  ")[0]: line for line in done.out.splitlines()}
    assert lines["stream"].endswith(
        "the first 21 clips looked at (the rest is read during training; "
        "neither it nor its features are stored)"
    )
    assert "0.jsonl 2, 1.jsonl 2, 2.jsonl 2, 3.jsonl 2" in lines["drawn"]
    assert "3 (6 clips of a stream)" in lines["steps"]
    assert "weights" not in lines and "recordings" not in lines


STAGES = "  stages: [{train: [projector], steps: 2}, {train: [lm, projector]%s}]\n"


@pytest.mark.parametrize(
    ("training", "told"),
    [
        ("", "a stream has no known number of clips; set training.steps, or give --steps"),
        ("  steps: 2\n  train_count: 5\n", "train_count counts listed clips"),
        ("  steps: 2\n  split_by: content\n", "split_by is content, and a stream is not read"),
        (STAGES % "", "stage 2 has no steps, and a stream has no known number of clips"),
        ("  steps: 5\n" + STAGES % ", steps: 2", "training.steps is for a run without stages"),
    ],
)
def test_what_a_stream_cannot_do_is_refused(folder: Path, training: str, told: str) -> None:
    dlm("train", write(folder, training)).refused(told)


def test_steps_may_be_said_on_the_command_line_and_in_stages(folder: Path) -> None:
    assert dlm("train", write(folder), "--steps", 2).code == 0
    done = dlm("train", write(folder, STAGES % ", steps: 2"))
    assert done.code == 0, done.err
    assert [each["steps"] for each in json.loads(dlm("versions", "my.dlm", "--json").out)] == [2, 4]


def test_a_version_names_the_shards_and_no_recording_is_copied(folder: Path, home: Path) -> None:
    assert dlm("train", write(folder, "  steps: 2\n  held_out: 0\n")).code == 0
    (version,) = json.loads(dlm("versions", "my.dlm", "--json").out)
    names = [each["path"] for each in version["train_recordings"]]
    assert names == ["clips/0.wav", *(f"{shard}.jsonl" for shard in range(SHARDS))]
    (store,) = (home / "store").iterdir()
    assert not [*store.glob("blobs/*")] and not [*store.glob("features/*")]


def test_a_shard_that_changed_is_another_run(folder: Path) -> None:
    document = write(folder, "  steps: 9\n")
    (*_, last) = train(document, stop=lambda: True)
    assert (last.reason, last.step) == ("stopped", 1)
    kept = Path("3.jsonl").read_text()
    Path("3.jsonl").write_text(kept.replace("one", "two"))
    dlm("train", document, "--resume").refused("started from another data_sha256", "--fresh")


def test_what_is_only_looked_at_is_not_taken_for_all_there_is(folder: Path) -> None:
    document = write(folder, "  steps: 2\n  held_out: 3.jsonl\n")
    assert "21 looked at, of a stream" in dlm("show", document).out
    told = ("only the first 256 clips of each source would be written", "take `stream: true` out")
    dlm("export-data", document, "all").refused(*told, code=2)
    done = dlm("export-data", document, "held", "--part", "held-out")
    assert done.code == 0, done.err
    assert len(list(Path("held/audio").iterdir())) == CLIPS


def test_what_is_held_out_is_never_learned(folder: Path) -> None:
    training = "  steps: 30\n  held_out: 6\n"
    document = write(folder, training)
    held = {each.location for each in run_preflight(document).held_out_examples}
    learned = seen(document, 30)
    assert len(held) == 6 and not held & set(learned)
    assert len(set(learned)) == 1 + SHARDS * CLIPS - 6
    speakers = write(folder, training + "  split_by: speaker\n")
    held = {each.speaker for each in run_preflight(speakers).held_out_examples}
    rows = {f"{shard}.jsonl:{row + 1}": f"s{row}" for shard in range(4) for row in range(CLIPS)}
    assert held and not held & {rows.get(place) for place in seen(speakers, 30)}


def test_a_source_may_be_held_out_whole(folder: Path) -> None:
    document = write(folder, "  steps: 30\n  held_out: 3.jsonl\n")
    assert len(run_preflight(document).held_out_examples) == CLIPS
    learned = seen(document, 30)
    assert not [place for place in learned if place.startswith("3.jsonl")]
    assert len(set(learned)) == 1 + 3 * CLIPS


def many(folder: Path, *broken: int) -> Path:
    """A list of 300 rows, of which some cannot be read."""
    write_tone(folder / "wav/a.wav", hertz=300)
    row = {"audio": "wav/a.wav", "text": "one"}
    write_list(folder / "0.jsonl", [[] if at in broken else row for at in range(300)])
    size = "  steps: 3\n  held_out: 0\n  eval_batch_size: 32\n  grad_accum: 60\n"
    return write(folder, size, shards=1)


def test_rows_that_cannot_be_used_are_told_at_the_end(folder: Path, home: Path) -> None:
    done = dlm("train", many(folder, 270, 280))
    assert done.code == 0, done.err
    assert "2 of 301 clips" in done.err
    (log,) = (home / "store").glob("*/runs/*/log.jsonl")
    lines = map(json.loads, log.read_text().splitlines())
    (told,) = (each for each in lines if each["event"] == "ExamplesSkipped")
    assert (told["num_skipped"], told["num_examples"]) == (2, 301)
    assert told["issues"][0].startswith("0.jsonl:271: not an object; write")


def test_one_of_them_ends_the_run_where_none_is_to_be_left_out(folder: Path) -> None:
    done = dlm("train", many(folder, 270), "--set", "training.bad_clips=error")
    assert done.code == 1 and "0.jsonl:271: not an object; write" in done.err.splitlines()[-1]
    assert "Traceback" not in done.err


def test_sound_is_changed_in_a_stream_too(folder: Path) -> None:
    frozen = "  steps: 3\n  adapter: projector\n"
    document = write(folder, f"{frozen}  audio: {{augment: {{gain: [-6, 6]}}}}\n")
    assert dlm("train", document).code == dlm("train", document).code == 0
    assert dlm("train", write(folder, frozen)).code == 0
    one, same, other = adapters(document)
    assert one == same != other


def test_a_run_in_stages_goes_on_to_the_same_bits(folder: Path) -> None:
    document = write(folder, STAGES.replace("2}", "3}") % ", steps: 3")
    list(train(document))
    for resume, more in ((False, 2), (True, 1), (True, 2), (True, 9)):
        stops = iter([False] * (more - 1) + [True] * 9)
        list(train(document, resume=resume, stop=lambda stops=stops: next(stops)))
    one, same = adapters(document)
    assert one == same


def adapters(document: Path) -> list[str]:
    """The hash of each version's adapter."""
    told = json.loads(dlm("versions", document, "--json").out)
    return [each["hashes"]["adapter_model.safetensors"] for each in told]
