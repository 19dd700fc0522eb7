"""import and export-data as people meet them: a preview, a question, a document, a folder."""

import json
import os
import pty
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

import dlm
from dlm.config.parser import read_document
from dlm.data.load import load_examples
from dlm.errors import StoreError
from tests.cli_runner import DLM_COMMAND
from tests.cli_runner import dlm as run

HEAD = "---\ndlm_id: 01J9Z3K4M5N6P7Q8R9S0T1V2W3\nbase_model: sparrow # the bird\n---\n"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my.dlm").write_text(HEAD)


def corpus(folder: str = "corpus", count: int = 3, *, rate: int = 16_000) -> Path:
    """Recordings of half a second, each with its words."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        noise = np.random.default_rng(number).normal(0, 0.1, rate // 2)
        soundfile.write(f"{folder}/{number}.wav", noise, rate)
        Path(folder, f"{number}.txt").write_text(f'Number "{number}" it is.')
    return Path(folder)


def rows(text: str) -> dict[str, str]:
    return dict(re.split(r"  +", line, maxsplit=1) for line in text.splitlines() if "  " in line)


def test_a_preview_and_an_entry() -> None:
    corpus()
    corpus("corpus/deep", 1, rate=8000)
    Path("corpus/lost.wav").write_bytes(b"")
    Path("corpus/lost.txt").write_text("Lost.")
    Path("corpus/0.txt").unlink()
    done = run("import", "corpus", "--into", "my.dlm", "--language", "fr", "--yes")
    assert done.code == 0, done
    told = rows(done.out)
    assert told["source"] == "{path: corpus, language: fr}"
    assert told["format"].startswith("folder (")
    assert (told["clips"], told["sound"]) == ("3", "1.5 s")
    assert (told["rates"], told["languages"]) == ("16,000 Hz 2, 8,000 Hz 1", "fr 3")
    assert told["transcripts"] == "120.0 a minute of sound, 480 words a minute"
    assert told["left out"] == "1 without a transcript"
    assert told["problems"] == "2, 1 of them fatal"
    assert re.search(r'^corpus/1.wav  +0.50  +Number "1" it is.$', done.out, re.MULTILINE)
    assert "corpus/lost.wav: the file is empty (0 bytes)" in done.err
    assert "wrote the source into my.dlm\nnext: `dlm check my.dlm`" in done.err
    entry = "training:\n  sources:\n    - path: corpus\n      language: fr\n---\n"
    assert Path("my.dlm").read_text() == HEAD.removesuffix("---\n") + entry
    again = run("import", "corpus/../corpus", "--into", "my.dlm", "--yes")
    again.refused("my.dlm: corpus is a source of it already; change its entry", code=2)
    assert run("import", "corpus", "--into", "my.dlm", "--split", "x", "--yes").code == 0


def test_all_that_an_entry_may_say() -> None:
    corpus("data/clips")
    Path("data/list.tsv").write_text("say\tit\n0.wav\tone\n1.wav\ttwo\n9.wav\tno\n")
    Path("deep").mkdir()
    Path("my.dlm").rename("deep/my.dlm")
    given = "--column audio=say --column text=it --audio data/clips --format table --max-files 5"
    given += " --include **/{0,1}.* --include **/3.* --exclude **/3.* --weight 0.5"
    given += " --task answer --prompt What?"
    done = run("import", "data/list.tsv", "--into", "deep/my.dlm", "--yes", *given.split())
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
    assert [clip.target for clip in load_examples(read_document(Path("deep/my.dlm"))).examples] == [
        "one",
        "two",
    ]


def test_nothing_is_written_unless_it_is_said() -> None:
    corpus()
    done = run("import", "corpus", "--into", "my.dlm")
    assert (done.code, done.err) == (1, "nothing is written: look at the above and say --yes\n")
    assert Path("my.dlm").read_text() == HEAD
    found = dlm.import_source("corpus", into=Path("my.dlm"))
    assert (found.written, found.num_added, found.preview.hours) == (False, 3, 1.5 / 3600)
    Path("my.dlm").write_text(HEAD + "More.\n")
    with pytest.raises(StoreError, match="my.dlm: changed meanwhile; import it again"):
        found.write()
    Path("link.dlm").symlink_to("my.dlm")
    dlm.import_source("corpus", into=Path("link.dlm")).write()
    assert read_document(Path("my.dlm")).config.training.sources[0].path == "corpus"


@pytest.mark.parametrize(("said", "code"), [("y\n", 0), ("\n", 1)])
def test_in_a_terminal_it_asks(said: str, code: int) -> None:
    corpus()
    ours, theirs = pty.openpty()
    command = [*DLM_COMMAND, "import", "corpus", "--into", "my.dlm"]
    with subprocess.Popen(command, stdin=theirs, stderr=subprocess.PIPE, text=True) as child:
        os.write(ours, said.encode())
        _, told = child.communicate(timeout=60)
    os.close(ours)
    os.close(theirs)
    assert told.startswith("write this into my.dlm? [y/N]")
    assert child.returncode == code
    assert (Path("my.dlm").read_text() == HEAD) == bool(code)


def test_as_json() -> None:
    corpus()
    done = run("import", "corpus", "--into", "my.dlm", "--json", "--stream")
    assert (done.code, done.err, Path("my.dlm").read_text()) == (0, "", HEAD)
    told = json.loads(done.out)
    assert told["source"] == {"path": "corpus", "stream": True}
    assert (told["clips"], told["rates"], told["partly"]) == (3, {"16000": 3}, True)
    assert (told["transcripts_per_minute"], told["words_per_minute"]) == (120, 480)
    row = {"location": "corpus/0.wav", "seconds": 0.5, "text": 'Number "0" it is.'}
    assert told["first"][0] == row
    assert (told["added"], told["written"], told["problems"]) == (3, False, [])


def turns(*said: str) -> list[dict[str, str]]:
    roles = ("user", "assistant")
    return [{"role": role, "content": text} for role, text in zip(roles, said, strict=True)]


def test_inline() -> None:
    corpus()
    span = {"start": 0.1, "end": 0.25}
    rows = [
        {"audio": "corpus/0.wav", "text": 'Say "no".', "language": "en", **span},
        {"messages": turns("<audio> Who?", "Me."), "audios": ["corpus/1.wav"]},
        {"messages": turns("<audio>", "```"), "audios": ["corpus/2.wav"]},
    ]
    Path("list.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    done = run("import", "list.jsonl", "--into", "my.dlm", "--inline", "--yes")
    assert done.code == 0, done
    assert rows_of_problems(done.err) == [
        "list.jsonl:3: this code block is never closed; import the source without --inline"
    ]
    assert "wrote 2 sections into my.dlm" in done.err
    assert Path("my.dlm").read_text() == (
        HEAD + '\n::audio path="corpus/0.wav" transcript="Say \\"no\\"." start="0.1" end="0.25"'
        ' language="en"::\n\n::conversation::\n### User\n<audio>corpus/1.wav</audio> Who?\n'
        "### Assistant\nMe.\n"
    )
    assert [clip.target for clip in load_examples(read_document(Path("my.dlm"))).examples] == [
        'Say "no".',
        "Me.",
    ]
    again = run("import", "list.jsonl", "--into", "my.dlm", "--inline", "--yes")
    again.refused("my.dlm: corpus/0.wav has a section of it already", code=2)


def rows_of_problems(err: str) -> list[str]:
    return [line for line in err.splitlines() if line.startswith("list.jsonl")]


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ("import nowhere --into my.dlm", 1, "source not found: nowhere; make the folder or"),
        ("import a\udcff --into my.dlm", 2, "SOURCE: path is 'a\\udcff'; it must be text"),
        ("import corpus --into no.dlm", 1, "no.dlm: there is no such document; dlm init no.dlm"),
        ("import corpus", 2, "Missing option '--into'"),
        ("import corpus --into my.dlm --format foo", 2, "--format: format is 'foo'; it must be"),
        ("import corpus --into my.dlm --column text", 2, "--column: 'text' names no column"),
        (
            "import corpus --into my.dlm --weight 0",
            2,
            "--weight: weight is 0.0; it must be greater",
        ),
        ("import corpus --into my.dlm --max-files 0", 2, "--max-files is 0; choose 1 or more"),
        ("import corpus --into my.dlm --inline --stream", 2, "--inline and --stream exclude each"),
        ("export-data my.dlm out --form zip", 2, "--form is 'zip'; choose one of audiofolder, js"),
        ("export-data my.dlm out --part some", 2, "--part is 'some'; choose one of all, learn, "),
        ("export-data my.dlm corpus", 1, "corpus: not empty; name an empty folder"),
        ("export-data my.dlm out", 1, "my.dlm: the document has nothing to train on; add an"),
    ],
)
def test_mistakes(words: str, code: int, told: str) -> None:
    corpus()
    run(*words.split()).refused(told, code=code)
    assert Path("my.dlm").read_text() == HEAD and not Path("out").exists()


def test_bad_clips_are_left_out_where_the_document_says_so() -> None:
    corpus(count=4)
    Path("my.dlm").write_text(HEAD[:-4] + "training: {bad_clips: skip}\n---\nOnly text.\n")
    run("import", "corpus", "--into", "my.dlm", "--yes")
    Path("corpus/1.wav").write_bytes(b"RIFF")
    Path("corpus/2.txt").write_text("")
    done = run("export-data", "my.dlm", "out", "--form", "audiofolder")
    assert (done.code, done.out) == (0, "out: 2 clips, 2 recordings, 1.0 s\n")
    left = "left out, since they have no sound: 1\nleft out, since they cannot be used: 1; `dlm"
    assert done.err.startswith(left)


def test_a_stream_is_not_handed_on() -> None:
    corpus()
    run("import", "corpus", "--into", "my.dlm", "--yes", "--stream")
    words = "my.dlm: only the first 256 clips of each source would be written: it streams"
    run("export-data", "my.dlm", "out").refused(words, code=2)
    assert not Path("out").exists()


def test_a_source_that_gives_no_clip_is_not_written() -> None:
    corpus()
    for path in Path("corpus").glob("*.txt"):
        path.unlink()
    done = run("import", "corpus", "--into", "my.dlm", "--yes")
    assert done.code == 1 and rows(done.out)["clips"] == "0"
    assert "nothing is written: the source gives no clip" in done.err
    assert Path("my.dlm").read_text() == HEAD


@pytest.mark.parametrize("form", ["audiofolder", "jsonl", "webdataset"])
def test_data_goes_out_and_comes_back(form: str) -> None:
    corpus(count=12)
    run("import", "corpus", "--into", "my.dlm", "--yes", "--language", "en")
    counts = []
    for part in ("all", "learn", "held-out"):
        done = run("export-data", "my.dlm", f"out/{part}", "--form", form, "--part", part)
        assert done.code == 0, done
        counts.append(int(re.match(rf"out/{part}: (\d+) clip", done.out)[1]))
    assert counts[0] == counts[1] + counts[2] == 12 and counts[2]
    command = re.search(r"`dlm (import \S+) ", done.err)[1]
    Path("other.dlm").write_text(HEAD)
    assert run(*command.split(), "--into", "other.dlm", "--yes").code == 0
    held = load_examples(read_document(Path("other.dlm"))).examples
    assert len(held) == counts[2] and {clip.language for clip in held} == {"en"}


def test_a_part_without_clips_and_a_broken_document_give_no_folder() -> None:
    corpus(count=2)
    Path("my.dlm").write_text(HEAD[:-4] + "training: {held_out: 0}\n---\n")
    run("import", "corpus", "--into", "my.dlm", "--yes")
    done = run("export-data", "my.dlm", "out", "--part", "held-out")
    done.refused("my.dlm: no clip with sound in this part")
    Path("corpus/1.wav").write_bytes(b"RIFF")
    run("export-data", "my.dlm", "out").refused("corpus/1.wav: ")
    Path("corpus/1.txt").write_text("")
    words = "corpus/1.txt: AUDIO section has empty transcript"
    run("export-data", "my.dlm", "out").refused(words)
    assert not Path("out").exists()
