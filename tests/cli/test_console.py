"""Control characters never reach a terminal; tables wrap in a terminal and stay whole in a pipe."""

import json
import os
import re
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from dlm.cli.console import escape_controls, print_line, print_table
from tests.cli_runner import TerminalStream, dlm
from tests.tiny_models import write_document, write_tiny_model, write_tone

RED, TITLE, RIGHT_TO_LEFT = "\x1b[31m", "\x1b]0;title\x07", "\u202e"
HOSTILE = f"{RED}one{TITLE}\x9b2J{RIGHT_TO_LEFT}"
CONTROL_RE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def document(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_document(Path(), base_model=tiny_model, num_clips=2)


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("Grüße, 你好 🎧 नमस्ते", "Grüße, 你好 🎧 नमस्ते"),
        ("\x1b[31mred", "\\u001b[31mred"),
        ("a\rb\tc\nd\x7f\x9b", "a\\u000db\\u0009c\\u000ad\\u007f\\u009b"),
        ("\u202egnp.wav\u2066", "\\u202egnp.wav\\u2066"),
        ("\udcff.wav", "\\udcff.wav"),
    ],
)
def test_control_characters_are_replaced_by_their_code(text: str, escaped: str) -> None:
    assert escape_controls(text) == escaped


def test_characters_to_keep_are_left() -> None:
    assert escape_controls("a\tb\nc\r", keep="\n\t") == "a\tb\nc\\u000d"


def write_hostile_names(folder: Path) -> list[str]:
    """Recordings in `folder`, which is made; one name is not UTF-8."""
    names = (f"{RED}a{RIGHT_TO_LEFT}.wav", os.fsdecode(b"b\xff.wav"), "c\nd.wav")
    return [str(write_tone(folder / "x.wav", hertz=300).rename(folder / name)) for name in names]


@pytest.mark.parametrize("terminal", [False, True])
def test_hostile_file_names_are_escaped(document: Path, terminal: bool) -> None:
    write_hostile_names(Path("hostile"))
    done = dlm("transcribe", document, "hostile", "--base", terminal=terminal)
    assert done.code == 0, done.err
    assert not CONTROL_RE.search(done.out + done.err)
    assert "hostile/\\u001b[31ma\\u202e.wav: " in done.out
    assert "hostile/b\\udcff.wav: " in done.out and "hostile/c\\u000ad.wav: " in done.out


def test_hostile_file_names_survive_in_json(document: Path) -> None:
    paths = write_hostile_names(Path("hostile"))
    done = dlm("transcribe", document, *paths, "--base", "--json")
    assert not CONTROL_RE.search(done.out)
    assert [json.loads(line)["path"] for line in done.out.splitlines()] == paths


def test_missing_files_with_hostile_names_are_escaped_in_errors(document: Path) -> None:
    done = dlm("transcribe", document, f"{HOSTILE}.wav", "--base")
    done.refused("audio not found: \\u001b[31mone", error="usage.audio_not_found", code=2)
    assert not CONTROL_RE.search(done.err)
    text = "No such command '\\x1b[31mcheck'"
    dlm(f"{RED}check").refused(text, error="usage.arguments", code=2)


@pytest.mark.parametrize("terminal", [False, True])
def test_hostile_transcripts_are_escaped(document: Path, terminal: bool) -> None:
    write_tone(Path("clips/a.wav"), hertz=300)
    Path("clips/a.txt").write_text(f"{HOSTILE} [bold]x[/bold]")
    Path("source.dlm").write_text(document.read_text().split("::audio")[0])
    done = dlm("import", "clips/", "--into", "source.dlm", "--language", "en", terminal=terminal)
    assert "\\u001b[31mone\\u001b]0;title\\u0007\\u009b2J\\u202e" in "".join(done.out.split())
    assert "[bold]x[/bold]" in done.out, "brackets of a transcript are no markup"
    assert not CONTROL_RE.search(done.out)
    done = dlm("check", document, "--show-labels", terminal=False)
    assert not CONTROL_RE.search(done.out)


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_hostile_model_output_is_escaped(
    document: Path, options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks = ["one\n", HOSTILE, "\ttwo"]
    monkeypatch.setattr("dlm.inference.engine.stream_answer", lambda *_: iter(chunks))
    done = dlm("prompt", document, "--base", "--audio", "clips/0.wav", "What?", *options)
    assert done.code == 0, done.err
    assert not CONTROL_RE.search(done.out.replace("\t", ""))
    if options:
        assert json.loads(done.out) == {"answer": "".join(chunks)}
    else:
        assert done.out.startswith("one\n\\u001b[31mone") and done.out.endswith("\ttwo\n")


def test_colors_are_for_terminals(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    print_line("green \x1b[0m", color="green")
    assert capsys.readouterr().out == "green \\u001b[0m\n"
    terminal = TerminalStream()
    monkeypatch.setattr("sys.stdout", terminal)
    print_line("green", color="green")
    assert terminal.getvalue() == "\x1b[32mgreen\x1b[0m\n"


ROWS = [("80%", "clips/a.wav", "word " * 40), ("7%", "clips/longer-name.wav", "日本語")]


def test_a_table_in_a_pipe_has_a_line_for_each_row(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    print_table(ROWS, header=("WER", "clip", "said"))
    header, first, second = capsys.readouterr().out.splitlines()
    assert header == "WER  clip                   said"
    assert first == f"80%  clips/a.wav            {'word ' * 40}".rstrip()
    assert second == "7%   clips/longer-name.wav  日本語"


def test_a_table_in_a_terminal_is_wrapped_and_never_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    terminal = TerminalStream()
    monkeypatch.setattr("sys.stdout", terminal)
    print_table(ROWS, header=("WER", "clip", "said"))
    text = terminal.getvalue()
    assert max(map(len, text.splitlines())) <= 40
    assert text.count("word") == 40 and "…" not in text
    assert "clips/longer-na" in text and "me.wav" in text


def test_rows_may_be_of_different_lengths(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([("WER", "50%", "of 2"), ("source", "corpus")])
    print_table([])
    assert capsys.readouterr().out == "WER     50%     of 2\nsource  corpus\n"


def test_names_and_numbers_stay_whole_in_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of the kind: a table that breaks within a name. Neighbours: numbers, dates, texts."""
    monkeypatch.setenv("COLUMNS", "60")
    rows = [("whisper-medium.en", "12.5%", "2026-12-01 04:21", "what is said in it " * 4)]
    with redirect_stdout(TerminalStream()) as out:
        print_table(rows, header=("base", "WER", "date", "reference"))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 60
    assert re.match(r"whisper-medium.en +12.5% ", lines[1]) and len(lines) > 4
