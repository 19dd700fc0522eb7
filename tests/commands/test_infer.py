"""What is done with a version: prompt, transcribe, eval, versions, use, export, show."""

import json
import re
from pathlib import Path

import pytest

from dlm.plan.model_spec import MODEL_SPEC_FILE
from tests.cli_runner import dlm, hash_files
from tests.tiny_models import write_document, write_tiny_model, write_tone


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a document, two versions of it, and its store."""
    folder = tmp_path_factory.mktemp("learned")
    document = write_document(
        folder, base_model=write_tiny_model(folder / "tiny"), training="  held_out: 2\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DLM_HOME", str(folder / "home"))
        for steps in (40, 1):
            done = dlm("train", document, "--steps", steps)
            assert done.code == 0, done.err
        assert dlm("use", document, "v0001").code == 0
    return folder


@pytest.fixture
def document(learned: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DLM_HOME", str(learned / "home"))
    monkeypatch.chdir(learned)
    return Path("my.dlm")


def prompt(document: Path, *words: object, stdin: str = "") -> str:
    options = ("--audio", "clips/1.wav", "--max-tokens", 12)
    done = dlm("prompt", document, *options, *words, stdin=stdin)
    assert done.code == 0, done.err
    assert not done.err
    return done.out


def test_an_answer_is_on_stdout_and_ends_its_line(document: Path) -> None:
    answer = prompt(document, "What?")
    assert answer.endswith("\n") and answer.strip()
    assert prompt(document, stdin="What?\n\n") != ""
    assert json.loads(prompt(document, "What?", "--json")) == {"answer": answer.removesuffix("\n")}


def test_an_answer_is_streamed(document: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chunks: list[str] = []
    monkeypatch.setattr("dlm.cli.render.print_text", chunks.append)
    prompt(document, "What?")
    assert len([chunk for chunk in chunks if chunk]) > 2


def test_several_recordings_and_where_they_stand(document: Path) -> None:
    more = ("--audio", "clips/2.wav")
    plain = prompt(document, *more, "What?")
    assert prompt(document, *more, "<|audio|><|audio|>What?") == plain
    assert prompt(document, *more, "First <|audio|> then <|audio|>?")


def test_livelier_answers_follow_their_seed(document: Path) -> None:
    lively = ("What?", "--temperature", 5, "--top-p", 0.99)
    first = prompt(document, *lively, "--seed", 1)
    assert first == prompt(document, *lively, "--seed", 1)
    assert first != prompt(document, *lively, "--seed", 2)
    cold = prompt(document, "What?")
    assert cold == prompt(document, "What?", "--temperature", 5, "--top-p", 1e-9)
    assert cold == prompt(document, "What?", "--temperature", 5, "--top-k", 1)


def test_a_version_or_the_bare_base_answers(document: Path) -> None:
    current, first = prompt(document, "What?"), prompt(document, "What?", "--version", "v0001")
    assert current == first
    others = {prompt(document, "What?", "--version", "v0002"), prompt(document, "What?", "--base")}
    assert first not in others


def test_an_unknown_version(document: Path) -> None:
    done = dlm("prompt", document, "--audio", "clips/1.wav", "--version", "v7", "What?")
    done.refused("no version 'v7'; known: v0001, v0002")


def test_transcribing_files_and_folders(document: Path) -> None:
    done = dlm("transcribe", document, "clips")
    assert done.code == 0, done.err
    assert [line.split(":")[0] for line in done.out.splitlines()] == [
        f"clips/{number}.wav" for number in range(6)
    ]
    both = dlm("transcribe", document, "clips/3.wav", "clips/1.wav").out.splitlines()
    lines = done.out.splitlines()
    assert both == [lines[3], lines[1]]


def test_transcripts_as_json_lines_and_subtitles(document: Path) -> None:
    done = dlm("transcribe", document, "clips/1.wav", "clips/2.wav", "--json")
    first, _ = map(json.loads, done.out.splitlines())
    assert first["path"] == "clips/1.wav" and first["seconds"] == pytest.approx(0.6)
    assert first["text"] == " ".join(each["text"] for each in first["segments"])
    srt = dlm("transcribe", document, "clips/1.wav", "--srt").out
    assert re.match(r"1\n00:00:00,000 --> 00:00:00,600\n.+\n$", srt)
    vtt = dlm("transcribe", document, "clips/1.wav", "--vtt").out
    assert re.match(r"WEBVTT\n\n00:00:00\.000 --> 00:00:00\.600\n.+\n$", vtt)


def test_a_long_recording_is_cut(document: Path, tmp_path: Path) -> None:
    long = write_tone(tmp_path / "long.wav", hertz=500, seconds=5)
    (told,) = map(json.loads, dlm("transcribe", document, long, "--json").out.splitlines())
    assert told["seconds"] == pytest.approx(5)
    assert len(told["segments"]) >= 3


def test_eval_counts_held_out_clips(document: Path) -> None:
    done = dlm("eval", document)
    assert done.code == 0, done.err
    assert re.search(
        r"^WER +[\d.]+%  \d+ substituted, \d+ deleted, \d+ inserted, of 2$", done.out, re.M
    )
    assert re.search(r"^CER +[\d.]+%", done.out, re.M)
    assert re.search(r"^listening gap +-?\d+\.\d{3}", done.out, re.M)
    assert re.search(r"^clips +2 +normaliser dlm-1", done.out, re.M)
    told = json.loads(dlm("eval", document, "--json").out)
    assert told["clips"] == told["words"] == 2
    edits = told["substitutions"] + told["deletions"] + told["insertions"]
    assert told["wer"] == pytest.approx(edits / 2)
    assert told["scores"].keys() == {"loss", "shuffled_loss", "gap", "wer", "cer"}
    assert {"location", "reference", "hypothesis", "wer"} == told["worst"][0].keys()
    bare = json.loads(dlm("eval", document, "--json", "--base").out)
    assert bare["scores"]["loss"] != told["scores"]["loss"]
    assert json.loads(dlm("eval", document, "--json", "--version", "v0001").out) == told


def test_eval_on_other_clips(document: Path, tmp_path: Path) -> None:
    for number in range(3):
        write_tone(tmp_path / f"other/{number}.wav", hertz=300 + number)
        (tmp_path / f"other/{number}.txt").write_text("three words here")
    told = json.loads(dlm("eval", document, "--data", tmp_path / "other", "--json").out)
    assert (told["clips"], told["words"]) == (3, 9)
    listed = tmp_path / "list.jsonl"
    row = {"audio": "other/0.wav", "text": "one two", "prompt": "Say it."}
    listed.write_text(json.dumps(row) + "\n\n" + json.dumps({**row, "audio": "other/1.wav"}))
    told = json.loads(dlm("eval", document, "--data", listed, "--json").out)
    assert (told["clips"], told["words"]) == (2, 4)


def test_eval_without_anything_to_transcribe(document: Path, learned: Path) -> None:
    folder = learned / "asked"
    folder.mkdir(exist_ok=True)
    path = write_document(
        folder, base_model=learned / "tiny", num_clips=0, training="  held_out: 1\n"
    )
    asked = "::conversation::\n### User\n<audio>../clips/{}.wav</audio> Who?\n### Assistant\nI.\n\n"
    words = "::instruction::\n### Q\nWhat?\n### A\nIt.\n"
    path.write_text(path.read_text() + "".join(map(asked.format, range(4))) + words)
    done = dlm("eval", path, "--base")
    assert done.code == 0, done.err
    assert "loss" in done.out and "WER" not in done.out


def test_versions_and_rolling_back(document: Path) -> None:
    lines = dlm("versions", document).out.splitlines()
    assert [line[:7] for line in lines] == ["* v0001", "  v0002"]
    assert re.search(r"40 steps, WER [\d.]+%, CER [\d.]+%, loss \d\.\d{3}, listening gap", lines[0])
    assert "  1 step, " in lines[1]
    done = dlm("use", document, "v0002")
    assert (done.code, done.err) == (0, "v0002 is in use\n")
    assert [line[:7] for line in dlm("versions", document).out.splitlines()][1] == "* v0002"
    assert json.loads(dlm("show", document, "--json").out)["current"] == "v0002"
    assert dlm("use", document, "v0001").code == 0
    dlm("use", document, "v3").refused("no version 'v3'; known: v0001, v0002")


def test_an_export_is_a_base_of_its_own(document: Path, tmp_path: Path) -> None:
    done = dlm("export", document, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    assert done.out.strip() == str(tmp_path / "out")
    assert (tmp_path / "out" / MODEL_SPEC_FILE).is_file()
    dlm("export", document, "--out", tmp_path / "out").refused("not empty", "--out")
    path = write_document(tmp_path / "next", base_model=tmp_path / "out", num_clips=2)
    told = dlm("prompt", path, "--base", "--audio", "clips/1.wav", "--max-tokens", 12, "What?")
    assert told.out == prompt(document, "What?")
    exports = json.loads(dlm("show", document, "--json").out)["exports"]
    assert str(tmp_path / "out") in [each["path"] for each in exports]
    assert f"v0001, {tmp_path / 'out'}" in dlm("show", document).out


def test_an_export_goes_into_the_store_when_not_said(document: Path, learned: Path) -> None:
    done = dlm("export", document, "--version", "v0002")
    assert done.code == 0, done.err
    assert Path(done.out.strip()).is_relative_to(learned / "home" / "store")
    assert Path(done.out.strip()).name.endswith("v0002")


def test_using_a_version_leaves_it_as_it_was(document: Path, learned: Path) -> None:
    before = hash_files(learned / "home")
    prompt(document, "What?")
    dlm("transcribe", document, "clips/1.wav")
    dlm("eval", document)
    dlm("show", document)
    dlm("check", document)
    assert hash_files(learned / "home") == before
