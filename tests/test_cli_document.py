"""init, check, show, doctor and the help: what needs no model."""

import json
import re
from pathlib import Path

import pytest
import yaml

from dlm.cli.main import COMMANDS
from tests.cli_runner import dlm
from tests.tiny_models import write_document, write_tiny_model, write_tone

VERBS = [command.name for command in COMMANDS]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("base") / "tiny")


def front(path: str) -> dict:
    return yaml.safe_load(Path(path).read_text().split("---")[1])


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_fits_the_screen_and_is_never_cut(verb: str) -> None:
    done = dlm(*filter(None, [verb]), "--help")
    assert (done.code, done.err) == (0, "")
    assert all(len(line) <= 80 for line in done.out.splitlines())
    assert not re.search(r"\w\.\.\.$", done.out, re.MULTILINE), done.out


def test_dlm_alone_says_what_there_is() -> None:
    assert dlm() == dlm("--help")


def test_init_with_audio_pins_qwen2_audio() -> None:
    done = dlm("init", "my-audio.dlm", "--audio")
    assert (done.code, done.out) == (0, "")
    assert "wrote my-audio.dlm (qwen2-audio-7b-instruct)" in done.err
    assert "then `dlm check my-audio.dlm`" in done.err
    written = front("my-audio.dlm")
    assert written["base_model"] == "qwen2-audio-7b-instruct"
    assert written["dlm_version"] == 11
    assert written["training"]["adapter"] == "lora"
    assert re.fullmatch("[0-7][0-9A-HJKMNP-TV-Z]{25}", written["dlm_id"])
    text = Path("my-audio.dlm").read_text()
    assert '::audio path="clips/your-clip.wav" transcript="' in text


@pytest.mark.parametrize("words", [(), ("--base", "sparrow"), ("--audio", "--base", "sparrow")])
def test_init_with_sparrow(words: tuple[str, ...]) -> None:
    assert dlm("init", "a.dlm", *words).code == 0
    assert front("a.dlm")["base_model"] == "sparrow"
    assert front("a.dlm")["training"]["adapter"] == "full"


def test_init_with_a_folder(tiny: Path) -> None:
    assert dlm("init", "a.dlm", "--base", tiny).code == 0
    assert Path(front("a.dlm")["base_model"]).resolve() == tiny.resolve()
    done = dlm("check", "a.dlm")
    done_lines = done.err.splitlines()
    assert any("audio not found: clips/your-clip.wav" in line for line in done_lines)


def test_init_never_overwrites_unless_forced() -> None:
    Path("a.dlm").write_text("mine")
    done = dlm("init", "a.dlm", "--audio")
    done.refused("a.dlm already exists; re-run with --force to overwrite it", code=2)
    assert Path("a.dlm").read_text() == "mine"
    assert dlm("init", "a.dlm", "--force").code == 0
    first = front("a.dlm")["dlm_id"]
    assert dlm("init", "a.dlm", "--force").code == 0
    assert front("a.dlm")["dlm_id"] != first


def test_init_in_a_folder_that_is_not_there() -> None:
    done = dlm("init", "new/folder/a.dlm")
    assert done.code == 0, done.err
    assert front("new/folder/a.dlm")["base_model"] == "sparrow"


def test_the_placeholder_is_caught_before_anything_is_loaded() -> None:
    dlm("init", "a.dlm")
    line = 1 + Path("a.dlm").read_text().splitlines().index(
        '::audio path="clips/your-clip.wav" transcript="Transcript of the audio clip."::'
    )
    words = f"a.dlm:{line}: audio not found: clips/your-clip.wav; put the file there"
    dlm("train", "a.dlm").refused(words)


def corpus(document: Path) -> None:
    """A source with two clips, one recording without words, and a text file."""
    for name in "abc":
        write_tone(Path(f"corpus/{name}.wav"), hertz=400 + ord(name))
    for name in "ab":
        Path(f"corpus/{name}.txt").write_text(f"It says {name}.")
    Path("corpus/notes.md").write_text("not audio")
    text = document.read_text()
    document.write_text(text.replace("training:\n", "training:\n  sources:\n    - path: corpus\n"))


def test_check_says_what_there_is(tiny: Path) -> None:
    document = write_document(Path(), base_model=tiny, training="  held_out: 2\n")
    corpus(document)
    done = dlm("check", document)
    assert done.code == 0, done.err
    rows = dict(re.split(r"  +", line, maxsplit=1) for line in done.out.splitlines())
    assert rows["clips"] == "8 (8 to transcribe)"
    assert re.fullmatch(r"4\.8 s \(0\.6 to 0\.6 s a clip, median 0\.6 s\)", rows["sound"])
    assert rows["held out"] == "2 (never learned from)"
    assert rows["source"] == "corpus: 2 clips, 1 without a transcript, 1 not audio"
    assert rows["base"] == "tiny, 60,320 parameters"
    assert "my.dlm:7: 1 without a transcript, skipped: corpus/c.wav; write corpus/c.txt" in done.err


def test_check_as_json(tiny: Path) -> None:
    document = write_document(Path(), base_model=tiny)
    corpus(document)
    Path("clips/1.wav").unlink()
    done = dlm("check", document, "--json")
    assert (done.code, done.err) == (1, "")
    told = json.loads(done.out)
    assert told["clips"] == 8 and told["base_model"] == "tiny"
    assert told["source_directives"][0]["skipped_audio_no_transcript"] == 1
    fatal = [problem for problem in told["problems"] if problem["fatal"]]
    assert [(each["where"], each["what"]) for each in fatal] == [
        ("my.dlm:13", "audio not found: clips/1.wav")
    ]
    assert told["facts"][0].keys() >= {
        "seconds",
        "sample_rate",
        "peak",
        "words_per_second",
        "sha256",
    }
    assert {line["name"] for line in told["plan"]} >= {"steps", "memory", "device"}


def test_check_warns_without_failing(tiny: Path) -> None:
    document = write_document(Path(), base_model=tiny, num_clips=4)
    Path("clips/3.wav").write_bytes(Path("clips/2.wav").read_bytes())
    done = dlm("check", document)
    assert done.code == 0
    assert "my.dlm:15: it is the same sound as my.dlm:13" in done.err


def test_show_tells_of_sources_before_any_training(tiny: Path, home: Path) -> None:
    document = write_document(Path(), base_model=tiny)
    corpus(document)
    told = json.loads(dlm("show", document, "--json").out)
    (source,) = told["source_directives"]
    assert (source["audio_count"], source["skipped_audio_no_transcript"]) == (2, 1)
    assert told["versions"] == told["exports"] == []
    assert told["clips"] == 8 and told["current"] is None and told["total_size_bytes"] == 0
    text = dlm("show", document).out
    assert re.search(r"^source +corpus: 2 clips, 1 without a transcript, 1 not audio$", text, re.M)
    assert re.search(r"^base +tiny, revision test$", text, re.MULTILINE)
    assert "no version yet: run `dlm train my.dlm`" in dlm("versions", document).err
    assert not home.exists()


def test_doctor_looks_at_the_machine() -> None:
    done = dlm("doctor")
    assert (done.code, done.err) == (0, "")
    rows = dict(re.split(r"  +", line, maxsplit=1) for line in done.out.splitlines())
    assert list(rows) == "cpu,gpu,memory,disk,decoder,resampler,hub cache".split(",")
    assert re.fullmatch(r"\d+ cores, bf16 (fast, by AMX|fast, by AVX-512|slow here)", rows["cpu"])
    assert re.fullmatch(r"[\d.]+ of [\d.]+ GiB free", rows["memory"])
    assert rows["decoder"].startswith("libsndfile ")
    assert rows["resampler"].startswith(("soxr ", "scipy ", "none"))
    assert json.loads(dlm("doctor", "--json").out)["machine"]["cores"] >= 1


def test_doctor_with_a_document_says_what_it_needs(tiny: Path) -> None:
    document = write_document(Path(), base_model=tiny)
    done = dlm("doctor", document)
    assert (done.code, done.err) == (0, "")
    assert "tiny, 60,320 parameters" in done.out
    assert re.search(r"memory +about \d+ MiB \(\d+ MiB stay, \d+ MiB learn, \d+ MiB for", done.out)
    Path("clips/1.wav").unlink()
    done = dlm("doctor", document)
    assert done.code == 1
    assert done.err.startswith("my.dlm:11: audio not found: clips/1.wav")


def test_doctor_refuses_what_does_not_fit(tiny: Path) -> None:
    document = write_document(Path(), base_model="qwen2-audio-7b-instruct")
    text = document.read_text().replace("precision: fp32", "adapter: full")
    document.write_text(text)
    done = dlm("doctor", document)
    assert done.code == 1
    assert "training needs about" in done.err and "what fits: adapter: lora (" in done.err
