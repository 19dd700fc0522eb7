"""`dlm import`: the preview of a source, the question, the entry or sections it writes."""

import json
import os
import pty
import re
import subprocess
from pathlib import Path

import pytest

import dlm as api
from dlm.config.parser import read_document
from dlm.data.load import load_examples
from dlm.errors import StoreError
from tests.cli_runner import DLM_COMMAND, dlm, parse_rows
from tests.commands.corpora import FRONTMATTER, write_corpus


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my.dlm").write_text(FRONTMATTER)


def test_a_source_is_previewed_and_written_as_an_entry() -> None:
    write_corpus()
    write_corpus("corpus/deep", 1, sample_rate=8000)
    Path("corpus/lost.wav").write_bytes(b"")
    Path("corpus/lost.txt").write_text("Lost.")
    Path("corpus/0.txt").unlink()
    done = dlm("import", "corpus", "--into", "my.dlm", "--language", "fr", "--yes")
    assert done.code == 0, done
    rows = parse_rows(done.out)
    assert rows["source"] == "{path: corpus, language: fr}"
    assert rows["format"].startswith("folder (")
    assert (rows["clips"], rows["audio"]) == ("3", "1.5 s")
    assert (rows["rates"], rows["languages"]) == ("16,000 Hz 2, 8,000 Hz 1", "fr 3")
    assert rows["transcripts"] == "120.0 a minute of audio, 480 words a minute"
    assert rows["left out"] == "1 without a transcript"
    assert rows["problems"] == "3, 2 of them fatal"
    assert "native sample_rate=8000 Hz does not match pinned 16000 Hz" in done.err
    assert re.search(r'^corpus/1.wav  +0.50  +Number "1" it is.$', done.out, re.MULTILINE)
    assert "corpus/lost.wav: the file is empty (0 bytes)" in done.err
    assert "wrote the source into my.dlm\nnext: `dlm check my.dlm`" in done.err
    entry = "training:\n  sources:\n    - path: corpus\n      language: fr\n---\n"
    assert Path("my.dlm").read_text() == FRONTMATTER.removesuffix("---\n") + entry


def test_problems_of_one_kind_are_one_line() -> None:
    """Of the kind: what an import calls right and a check then refuses, in a line for each clip."""
    write_corpus(num_clips=23, sample_rate=8000)
    done = dlm("import", "corpus", "--into", "my.dlm", "--yes")
    assert parse_rows(done.out)["problems"] == "23, 23 of them fatal"
    names = "corpus/0.wav, corpus/1.wav, corpus/10.wav and 20 more: native sample_rate=8000 Hz"
    (line,) = (line for line in done.err.splitlines() if "sample_rate" in line)
    assert line.startswith(names) and "auto_resample: true" in line
    assert [line for line in dlm("check", "my.dlm").err.splitlines() if "sample_rate" in line] == [
        line
    ]
    text = Path("my.dlm").read_text()
    Path("my.dlm").write_text(
        text.replace("training:", "training:\n  audio: {auto_resample: true}")
    )
    write_corpus("other", num_clips=4, sample_rate=8000)
    assert parse_rows(dlm("import", "other", "--into", "my.dlm").out)["problems"] == "none"


@pytest.mark.parametrize("options", [(), ("--inline",)])
def test_the_sample_clip_goes_when_clips_come(options: tuple[str, ...]) -> None:
    """Of the kind: what a scaffold leaves stops the first check. Neighbours: sections, a sample
    that was recorded, a sample that was changed."""
    write_corpus()
    for name, has_file, change, is_removed in (
        ("new.dlm", False, "", True),
        ("recorded.dlm", True, "", False),
        ("changed.dlm", False, " two", False),
    ):
        assert dlm("init", name).code == 0
        text = Path(name).read_text().replace("of the audio clip.", f"of the audio clip.{change}")
        Path(name).write_text(text)
        if has_file:
            write_corpus("clips", 1)
            Path("clips/0.wav").rename("clips/your-clip.wav")
        done = dlm("import", "corpus", "--into", name, "--yes", *options)
        assert done.code == 0 and ("took the sample clip out" in done.err) == is_removed
        assert ("clips/your-clip.wav" in Path(name).read_text()) != is_removed
        Path("clips/your-clip.wav").unlink(missing_ok=True)
    assert dlm("check", "new.dlm").code == 0


@pytest.mark.parametrize("character", ["\x1b[31m", "\x07", "\x9b", "\u202e"])
def test_no_control_character_is_written_into_a_document(character: str) -> None:
    """Of the kind: what a stranger wrote is obeyed by the terminal that shows the document."""
    write_corpus(num_clips=2)
    Path("corpus/0.txt").write_text(f"one {character} two", encoding="utf-8")
    done = dlm("import", "corpus", "--into", "my.dlm", "--inline", "--yes")
    assert done.code == 0 and "corpus/0.wav: it holds control characters" in done.err
    assert (
        character not in Path("my.dlm").read_text() and "corpus/1.wav" in Path("my.dlm").read_text()
    )
    assert character not in done.out + done.err


def test_a_source_is_added_once_for_each_split() -> None:
    write_corpus()
    assert dlm("import", "corpus", "--into", "my.dlm", "--yes").code == 0
    again = dlm("import", "corpus/../corpus", "--into", "my.dlm", "--yes")
    text = "my.dlm: corpus is a source of it already; change its entry"
    again.refused(text, error="usage.repeated_source", code=2)
    assert dlm("import", "corpus", "--into", "my.dlm", "--split", "x", "--yes").code == 0


def test_every_field_of_an_entry_has_an_option() -> None:
    write_corpus("data/clips")
    Path("data/list.tsv").write_text("say\tit\n0.wav\tone\n1.wav\ttwo\n9.wav\tno\n")
    Path("deep").mkdir()
    Path("my.dlm").rename("deep/my.dlm")
    options = "--column audio=say --column text=it --audio data/clips --format table --max-files 5"
    options += " --include **/{0,1}.* --include **/3.* --exclude **/3.* --weight 0.5"
    options += " --task answer --prompt What?"
    done = dlm("import", "data/list.tsv", "--into", "deep/my.dlm", "--yes", *options.split())
    assert done.code == 0, done
    (source,) = read_document(Path("deep/my.dlm")).config.training.sources
    assert source.model_dump(exclude_unset=True) == {
        "path": "../data/list.tsv",
        "format": "table",
        "task": "answer",
        "prompt": "What?",
        "columns": {"audio": "say", "text": "it"},
        "audio": "../data/clips",
        "include": ("**/{0,1}.*", "**/3.*"),
        "exclude": ("**/3.*",),
        "max_files": 5,
        "weight": 0.5,
    }
    examples = load_examples(read_document(Path("deep/my.dlm"))).examples
    assert [example.target for example in examples] == ["one", "two"]


def test_nothing_is_written_without_yes() -> None:
    write_corpus()
    done = dlm("import", "corpus", "--into", "my.dlm")
    assert (done.code, done.err) == (1, "nothing is written: check the preview and pass --yes\n")
    assert Path("my.dlm").read_text() == FRONTMATTER


def test_an_import_in_python_is_written_later() -> None:
    write_corpus()
    source_import = api.import_source("corpus", into="my.dlm")
    assert (source_import.written, source_import.num_added) == (False, 3)
    assert source_import.preview.hours == 1.5 / 3600
    Path("my.dlm").write_text(FRONTMATTER + "More.\n")
    with pytest.raises(StoreError) as caught:
        source_import.write()
    assert caught.value.code == "store.changed"
    Path("link.dlm").symlink_to("my.dlm")
    api.import_source(Path("corpus"), into=Path("link.dlm")).write()
    assert Path("link.dlm").is_symlink()
    assert read_document(Path("my.dlm")).config.training.sources[0].path == "corpus"


@pytest.mark.parametrize(
    ("answer", "code"), [("y\n", 0), ("\n", 1), ("maybe\nn\n", 1), ("\x04", 1)]
)
def test_a_terminal_is_asked_before_writing(answer: str, code: int) -> None:
    write_corpus(num_clips=1)
    ours, theirs = pty.openpty()
    command = [*DLM_COMMAND, "import", "corpus", "--into", "my.dlm"]
    with subprocess.Popen(
        command, stdin=theirs, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        os.write(ours, answer.encode())
        _, err = process.communicate(timeout=60)
    os.close(ours)
    os.close(theirs)
    assert err.startswith("write this into my.dlm? [y/N]")
    assert ("Error: invalid input" in err) == answer.startswith("maybe")
    assert "Traceback" not in err and process.returncode == code
    assert (Path("my.dlm").read_text() == FRONTMATTER) == bool(code)


def test_json_has_the_counts_of_the_preview() -> None:
    write_corpus()
    done = dlm("import", "corpus", "--into", "my.dlm", "--json", "--stream")
    assert (done.code, done.err, Path("my.dlm").read_text()) == (0, "", FRONTMATTER)
    result = json.loads(done.out)
    assert result["source"] == {"path": "corpus", "stream": True}
    assert (result["clips"], result["rates"], result["partly"]) == (3, {"16000": 3}, True)
    assert (result["transcripts_per_minute"], result["words_per_minute"]) == (120, 480)
    first = {"location": "corpus/0.wav", "seconds": 0.5, "text": 'Number "0" it is.'}
    assert result["first"][0] == first
    assert (result["added"], result["written"], result["problems"]) == (3, False, [])


def make_messages(*texts: str) -> list[dict[str, str]]:
    roles = ("user", "assistant")
    return [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]


def test_inline_writes_sections() -> None:
    write_corpus()
    span = {"start": 0.1, "end": 0.25}
    records = [
        {"audio": "corpus/0.wav", "text": 'Say "no".', "language": "en", **span},
        {"messages": make_messages("<audio> Who?", "Me."), "audios": ["corpus/1.wav"]},
        {"messages": make_messages("<audio>", "```"), "audios": ["corpus/2.wav"]},
    ]
    Path("list.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    done = dlm("import", "list.jsonl", "--into", "my.dlm", "--inline", "--yes")
    assert done.code == 0, done
    assert [line for line in done.err.splitlines() if line.startswith("list.jsonl")] == [
        "list.jsonl:3: this code block is never closed; import the source without --inline"
    ]
    assert "wrote 2 sections into my.dlm" in done.err
    assert Path("my.dlm").read_text() == (
        FRONTMATTER
        + '\n::audio path="corpus/0.wav" transcript="Say \\"no\\"." start="0.1" end="0.25"'
        ' language="en"::\n\n::conversation::\n### User\n<audio>corpus/1.wav</audio> Who?\n'
        "### Assistant\nMe.\n"
    )
    examples = load_examples(read_document(Path("my.dlm"))).examples
    assert [example.target for example in examples] == ['Say "no".', "Me."]
    again = dlm("import", "list.jsonl", "--into", "my.dlm", "--inline", "--yes")
    text = "my.dlm: corpus/0.wav has a section of it already"
    again.refused(text, error="usage.repeated_section", code=2)


@pytest.mark.parametrize(
    ("args", "text", "error", "code"),
    [
        ("nowhere", "source not found: nowhere; make the folder or", "source.not_found", 1),
        ("a\udcff", "SOURCE: path is 'a\\udcff'; it must be text", "usage.bad_value", 2),
        ("corpus --format foo", "--format: format is 'foo'; it must be", "usage.bad_value", 2),
        ("corpus --column text", "--column: 'text' names no column", "usage.bad_column", 2),
        ("corpus --weight 0", "--weight: weight is 0.0; it must be gr", "usage.bad_value", 2),
        ("corpus --max-files 0", "--max-files is 0; choose 1 or more", "usage.out_of_range", 2),
        ("corpus --inline --stream", "exclude each other", "usage.exclusive_options", 2),
    ],
)
def test_a_wrong_source_or_option_is_refused(args: str, text: str, error: str, code: int) -> None:
    write_corpus()
    dlm("import", *args.split(), "--into", "my.dlm").refused(text, error=error, code=code)
    assert Path("my.dlm").read_text() == FRONTMATTER


def test_the_document_must_be_there() -> None:
    write_corpus()
    done = dlm("import", "corpus", "--into", "no.dlm")
    text = "no.dlm: there is no such document; dlm init no.dlm"
    done.refused(text, error="document.not_found")
    dlm("import", "corpus").refused("Missing option '--into'", error="usage.arguments", code=2)


def test_a_source_that_gives_no_clip_is_not_written() -> None:
    write_corpus()
    for path in Path("corpus").glob("*.txt"):
        path.unlink()
    done = dlm("import", "corpus", "--into", "my.dlm", "--yes")
    assert done.code == 1 and parse_rows(done.out)["clips"] == "0"
    assert "nothing is written: the source gives no clip" in done.err
    assert Path("my.dlm").read_text() == FRONTMATTER
