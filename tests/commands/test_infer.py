"""A version in use: `prompt`, `transcribe`, `eval`, `versions`, `use` and `export`."""

import json
import re
from pathlib import Path

import pytest

from dlm.plan.model_spec import MODEL_SPEC_FILE
from tests.cli_runner import dlm, hash_files
from tests.tiny_models import write_document, write_tiny_model, write_tone


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a document, its store, and two versions, of 40 steps and of one."""
    folder = tmp_path_factory.mktemp("trained")
    document = write_document(
        folder, base_model=write_tiny_model(folder / "tiny"), training="  held_out: 2\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DLM_HOME", str(folder / "home"))
        for num_steps in (40, 1):
            done = dlm("train", document, "--steps", num_steps)
            assert done.code == 0, done.err
        assert dlm("use", document, "v0001").code == 0
    return folder


@pytest.fixture
def document(trained: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DLM_HOME", str(trained / "home"))
    monkeypatch.chdir(trained)
    return Path("my.dlm")


def prompt(document: Path, *args: object, stdin: str = "") -> str:
    """What `dlm prompt` prints, which is all that it prints."""
    options = ("--audio", "clips/1.wav", "--max-tokens", 12)
    done = dlm("prompt", document, *options, *args, stdin=stdin)
    assert done.code == 0, done.err
    assert not done.err
    return done.out


def load_json(*args: object) -> dict:
    done = dlm(*args, "--json")
    assert done.code == 0, done.err
    return json.loads(done.out)


def test_an_answer_is_printed_as_one_line_or_as_json(document: Path) -> None:
    answer = prompt(document, "What?")
    assert answer.endswith("\n") and answer.strip()
    assert prompt(document, stdin="What?\n\n") != ""
    assert json.loads(prompt(document, "What?", "--json")) == {"answer": answer.removesuffix("\n")}


def test_an_answer_is_streamed(document: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chunks: list[str] = []
    monkeypatch.setattr("dlm.cli.render.print_text", chunks.append)
    prompt(document, "What?")
    assert len([chunk for chunk in chunks if chunk]) > 2


def test_several_recordings_come_first_or_at_their_placeholders(document: Path) -> None:
    second = ("--audio", "clips/2.wav")
    answer = prompt(document, *second, "What?")
    assert prompt(document, *second, "<|audio|><|audio|>What?") == answer
    assert prompt(document, *second, "First <|audio|> then <|audio|>?")


def test_sampling_follows_its_seed(document: Path) -> None:
    options = ("What?", "--temperature", 5, "--top-p", 0.99)
    first = prompt(document, *options, "--seed", 1)
    assert first == prompt(document, *options, "--seed", 1)
    assert first != prompt(document, *options, "--seed", 2)
    greedy = prompt(document, "What?")
    assert greedy == prompt(document, "What?", "--temperature", 5, "--top-p", 1e-9)
    assert greedy == prompt(document, "What?", "--temperature", 5, "--top-k", 1)


def test_the_version_in_use_another_version_and_the_base_answer(document: Path) -> None:
    answer = prompt(document, "What?")
    assert answer == prompt(document, "What?", "--version", "v0001")
    others = {prompt(document, "What?", "--version", "v0002"), prompt(document, "What?", "--base")}
    assert answer not in others


def test_an_unknown_version_is_refused(document: Path) -> None:
    done = dlm("prompt", document, "--audio", "clips/1.wav", "--version", "v7", "What?")
    done.refused("no version 'v7'; known: v0001, v0002", error="store.unknown_version")


@pytest.mark.parametrize("command", ["prompt", "eval", "export"])
def test_a_version_whose_weights_changed_on_the_disk_is_refused(
    document: Path, trained: Path, tmp_path: Path, command: str
) -> None:
    (weights,) = trained.glob("home/store/*/adapter/versions/v0001/adapter_model.safetensors")
    committed = weights.read_bytes()
    weights.write_bytes(committed[:-1] + bytes([committed[-1] ^ 1]))
    options = {"prompt": ("What?", "--audio", "clips/1.wav"), "export": ("--out", tmp_path / "out")}
    try:
        done = dlm(command, document, *options.get(command, ()))
        done.refused("v0001/adapter_model.safetensors", error="store.version_changed")
        assert dlm("verify", document).code == 1
    finally:
        weights.write_bytes(committed)


def test_files_and_folders_are_transcribed(document: Path) -> None:
    done = dlm("transcribe", document, "clips")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    names = [f"clips/{number}.wav" for number in range(6)]
    assert [line.split(":")[0] for line in lines] == names
    two = dlm("transcribe", document, "clips/3.wav", "clips/1.wav").out.splitlines()
    assert two == [lines[3], lines[1]]


def test_transcripts_are_json_lines_or_subtitles(document: Path) -> None:
    done = dlm("transcribe", document, "clips/1.wav", "clips/2.wav", "--json")
    first, _ = map(json.loads, done.out.splitlines())
    assert first["path"] == "clips/1.wav" and first["seconds"] == pytest.approx(0.6)
    assert first["text"] == " ".join(segment["text"] for segment in first["segments"])
    srt = dlm("transcribe", document, "clips/1.wav", "--srt").out
    assert re.match(r"1\n00:00:00,000 --> 00:00:00,600\n.+\n$", srt)
    vtt = dlm("transcribe", document, "clips/1.wav", "--vtt").out
    assert re.match(r"WEBVTT\n\n00:00:00\.000 --> 00:00:00\.600\n.+\n$", vtt)


@pytest.mark.parametrize(("output_format", "suffix"), [("--srt", ".srt"), ("--vtt", ".vtt")])
def test_subtitles_of_several_recordings_are_a_file_each(
    document: Path, tmp_path: Path, output_format: str, suffix: str
) -> None:
    """Of the kind: outputs of several inputs run together. Neighbours: beside, names that differ
    in their suffix, a file that exists."""
    folder = tmp_path / "talks"
    for name in ("a.wav", "day/talk_11.708.wav", "day/b.wav", "day/b.flac"):
        write_tone(folder / name, hertz=500)
    done = dlm("transcribe", document, folder, output_format)
    done.refused("4 recordings need a file each", error="usage.output_missing", code=2)
    done = dlm("transcribe", document, folder, output_format, "--out", tmp_path / "out")
    names = ["a", "day/b.flac", "day/b.wav", "day/talk_11.708"]
    assert done.out.splitlines() == [str(tmp_path / f"out/{name}{suffix}") for name in names]
    one = dlm("transcribe", document, folder / "a.wav", output_format).out
    assert (tmp_path / f"out/a{suffix}").read_text() == one and "-->" in one
    assert dlm("transcribe", document, folder, output_format, "--beside").code == 0
    assert (folder / f"day/talk_11.708{suffix}").read_text().count("-->") == 1
    files = hash_files(tmp_path)
    done = dlm("transcribe", document, folder, output_format, "--beside")
    done.refused(f"a{suffix} exists", error="usage.output_exists", code=2)
    assert hash_files(tmp_path) == files


def test_texts_are_written_to_files_too(document: Path, tmp_path: Path) -> None:
    done = dlm("transcribe", document, "clips/1.wav", "clips/2.wav", "--out", tmp_path / "texts")
    assert sorted(path.name for path in (tmp_path / "texts").iterdir()) == ["1.txt", "2.txt"]
    text = dlm("transcribe", document, "clips/1.wav").out.removeprefix("clips/1.wav: ")
    assert (tmp_path / "texts/1.txt").read_text() == text
    for options in (("--json", "--out", "x"), ("--out", "x", "--beside"), ("--json", "--beside")):
        done = dlm("transcribe", document, "clips/1.wav", *options)
        done.refused("exclude each other", error="usage.exclusive_options", code=2)


def test_a_recording_on_stdin_is_transcribed(document: Path, tmp_path: Path) -> None:
    text = dlm("transcribe", document, "clips/1.wav").out.removeprefix("clips/1.wav: ")
    recording = Path("clips/1.wav").read_bytes()
    assert dlm("transcribe", document, "-", stdin=recording).out == f"-: {text}"
    done = dlm("transcribe", document, "-", "--srt", "--out", tmp_path, stdin=recording)
    assert done.out == f"{tmp_path}/stdin.srt\n"
    done = dlm("transcribe", document, "-", stdin=b"")
    done.refused("-: ", error="audio.empty")


def test_a_name_forges_no_line_of_a_transcription(document: Path, tmp_path: Path) -> None:
    """Of the kind: what a stranger named reaches the terminal as it is."""
    write_tone(tmp_path / "a.wav: yes\nb\x1b[31m.wav", hertz=500)
    done = dlm("transcribe", document, tmp_path)
    assert len(done.out.splitlines()) == 1 and "\x1b" not in done.out


def test_a_long_recording_is_segmented(document: Path, tmp_path: Path) -> None:
    recording = write_tone(tmp_path / "long.wav", hertz=500, seconds=5)
    transcript = load_json("transcribe", document, recording)
    assert transcript["seconds"] == pytest.approx(5)
    assert len(transcript["segments"]) >= 3


def test_eval_measures_held_out_clips(document: Path) -> None:
    done = dlm("eval", document)
    assert done.code == 0, done.err
    edits_re = r"\d+ substituted, \d+ deleted, \d+ inserted, of 2$"
    assert re.search(rf"^WER +[\d.]+%  {edits_re}", done.out, re.M)
    assert re.search(r"^CER +[\d.]+%", done.out, re.M)
    assert re.search(r"^listening gap +-?\d+\.\d{3}", done.out, re.M)
    assert re.search(r"^clips +2 +normaliser dlm-1", done.out, re.M)
    result = load_json("eval", document)
    assert result["clips"] == result["words"] == 2
    num_edits = result["substitutions"] + result["deletions"] + result["insertions"]
    assert result["wer"] == pytest.approx(num_edits / 2)
    assert result["scores"].keys() == {"loss", "shuffled_loss", "gap", "wer", "cer"}
    assert {"location", "reference", "hypothesis", "wer"} == result["worst"][0].keys()
    base_result = load_json("eval", document, "--base")
    assert base_result["scores"]["loss"] != result["scores"]["loss"]
    assert load_json("eval", document, "--version", "v0001") == result


def test_eval_measures_other_clips(document: Path, tmp_path: Path) -> None:
    for number in range(3):
        write_tone(tmp_path / f"other/{number}.wav", hertz=300 + number)
        (tmp_path / f"other/{number}.txt").write_text("three words here")
    result = load_json("eval", document, "--data", tmp_path / "other")
    assert (result["clips"], result["words"]) == (3, 9)
    records = tmp_path / "list.jsonl"
    record = {"audio": "other/0.wav", "text": "one two", "prompt": "Say it."}
    second = {**record, "audio": "other/1.wav"}
    records.write_text(json.dumps(record) + "\n\n" + json.dumps(second))
    result = load_json("eval", document, "--data", records)
    assert (result["clips"], result["words"]) == (2, 4)


def test_eval_of_answers_has_a_loss_and_no_word_errors(document: Path, trained: Path) -> None:
    folder = trained / "answers"
    folder.mkdir(exist_ok=True)
    path = write_document(
        folder, base_model=trained / "tiny", num_clips=0, training="  held_out: 1\n"
    )
    section = "::conversation::\n### User\n<audio>../clips/{}.wav</audio> Who?\n"
    section += "### Assistant\nI.\n\n"
    instruction = "::instruction::\n### Q\nWhat?\n### A\nIt.\n"
    path.write_text(path.read_text() + "".join(map(section.format, range(4))) + instruction)
    done = dlm("eval", path, "--base")
    assert done.code == 0, done.err
    assert "loss" in done.out and "WER" not in done.out


def test_another_version_can_be_put_in_use(document: Path) -> None:
    lines = dlm("versions", document).out.splitlines()
    assert [line[:7] for line in lines] == ["* v0001", "  v0002"]
    assert re.search(r"40 steps, WER [\d.]+%, CER [\d.]+%, loss \d\.\d{3}, listening gap", lines[0])
    assert "  1 step, " in lines[1]
    done = dlm("use", document, "v0002")
    assert (done.code, done.err) == (0, "v0002 is in use\n")
    assert [line[:7] for line in dlm("versions", document).out.splitlines()][1] == "* v0002"
    assert load_json("show", document)["current"] == "v0002"
    assert dlm("use", document, "v0001").code == 0
    done = dlm("use", document, "v3")
    done.refused("no version 'v3'; known: v0001, v0002", error="store.unknown_version")


def test_an_export_is_a_base(document: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    done = dlm("export", document, "--out", folder)
    assert done.code == 0, done.err
    assert done.out.strip() == str(folder)
    assert (folder / MODEL_SPEC_FILE).is_file()
    done = dlm("export", document, "--out", folder)
    done.refused("not empty", "--out", error="store.not_empty")
    path = write_document(tmp_path / "next", base_model=folder, num_clips=2)
    options = ("--base", "--audio", "clips/1.wav", "--max-tokens", 12)
    assert dlm("prompt", path, *options, "What?").out == prompt(document, "What?")
    exports = load_json("show", document)["exports"]
    assert str(folder) in [export["path"] for export in exports]
    assert f"v0001, {folder}" in dlm("show", document).out


def test_an_export_goes_into_the_store_by_default(document: Path, trained: Path) -> None:
    done = dlm("export", document, "--version", "v0002")
    assert done.code == 0, done.err
    folder = Path(done.out.strip())
    assert folder.is_relative_to(trained / "home" / "store")
    assert folder.name.endswith("v0002")


def test_using_a_version_does_not_change_the_store(document: Path, trained: Path) -> None:
    hashes_before = hash_files(trained / "home")
    prompt(document, "What?")
    dlm("transcribe", document, "clips/1.wav")
    dlm("eval", document)
    dlm("show", document)
    dlm("check", document)
    assert hash_files(trained / "home") == hashes_before
