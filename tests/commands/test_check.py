"""`dlm check`: summary, issues, transcripts checked by a model, and the page of the results."""

import io
import json
import re
import shutil
import signal
import sys
from base64 import b64decode
from html.parser import HTMLParser
from pathlib import Path

import pytest
import soundfile

from dlm.cli.render import MAX_ISSUES_PER_HINT
from tests.browser import open_page
from tests.cli_runner import TerminalStream, dlm, hash_files, parse_rows
from tests.tiny_models import write_document, write_tiny_model, write_tone

VOICE_CLIPS = Path(__file__).parent.parent.parent / "examples" / "voice" / "clips"
HOSTILE_TEXT = "<script>alert(1)</script> & <img src=http://outside.example/a.png>"
EXCHANGED = ("001", "017")


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def document(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_document(Path(), base_model=tiny_model, training="  held_out: 2\n")


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """The folder and the JSON of a check by sparrow of ten clips, two transcripts exchanged."""
    folder = tmp_path_factory.mktemp("voice")
    (folder / "clips").mkdir()
    for name in ("001", "004", "005", "008", "012", "017", "018", "023", "036", "038"):
        for suffix in (".flac", ".txt"):
            shutil.copy(VOICE_CLIPS / f"{name}{suffix}", folder / "clips")
    one, two = (folder / "clips" / f"{name}.txt" for name in EXCHANGED)
    texts = one.read_text(), two.read_text()
    two.write_text(texts[0])
    one.write_text(texts[1])
    hostile = folder / "clips" / "036.txt"
    hostile.write_text(f"{hostile.read_text()} {HOSTILE_TEXT}")
    path = folder / "voice.dlm"
    path.write_text(
        "---\ndlm_id: 01ARZ3NDEKTSV4RRFFQ69G5FAV\ndlm_version: 11\nbase_model: sparrow\n"
        "training:\n  sources:\n    - path: clips\n      language: en\n---\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DLM_HOME", str(folder / "home"))
        done = dlm("check", path, "--listen", "--json", "--page", folder / "page.html")
    assert done.code == 0, done.err
    assert not (folder / "home").exists()
    return folder, json.loads(done.out)


def test_the_summary_has_lengths_levels_pace_and_languages(document: Path) -> None:
    write_tone(Path("clips/long.wav"), hertz=300, seconds=3.0)
    write_tone(Path("clips/more.wav"), hertz=350, seconds=1.9)
    for name, language in (("long", "fr"), ("more", "de")):
        fence = (
            f'::audio path="clips/{name}.wav" transcript="un deux trois" language="{language}"::'
        )
        document.write_text(f"{document.read_text()}\n{fence}\n")
    result = parse_rows(dlm("check", document).out)
    assert result["lengths"] == "0.5 █▂▂ 4 s, most of them 0.5 to 1 s (6)"
    assert result["levels"] == "-15 █ -10 dBFS, most of them -15 to -10 dBFS (8)"
    assert result["pace"] == "1.7 words per second, 56.5 transcripts a minute"
    assert result["languages"] == "fr 1 (3.0 s), de 1 (1.9 s)"
    assert "heard" not in result and "rates" not in result and "speakers" not in result


def test_the_summary_has_sample_rates_and_speakers(document: Path) -> None:
    lines = []
    for number, rate in enumerate([16_000, 8_000, 8_000]):
        write_tone(Path(f"more/{number}.wav"), hertz=300 + number, sample_rate=rate)
        lines.append({"audio": f"{number}.wav", "text": f"{number}", "speaker": f"s{number % 2}"})
    Path("more/list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    text = document.read_text()
    extra = "  audio:\n    auto_resample: true\n  sources:\n    - path: more/list.jsonl\n"
    document.write_text(text.replace("training:\n", f"training:\n{extra}"))
    done = dlm("check", document)
    assert done.code == 0, done.err
    result = parse_rows(done.out)
    assert result["rates"] == "16,000 Hz 7, 8,000 Hz 2"
    assert result["speakers"] == "s0 2 (1.2 s), s1 1 (0.6 s)"


def test_json_has_the_counts_of_the_summary(document: Path) -> None:
    result = json.loads(dlm("check", document, "--json").out)
    assert (result["sounds"], result["heard"], result["dictation"], result["page"]) == (
        6,
        6,
        None,
        None,
    )
    assert sum(result["lengths"]["counts"]) == sum(result["levels"]["counts"]) == 6
    assert result["lengths"]["edges"][-1] is None and result["levels"]["edges"][0] is None
    assert result["languages"] == result["speakers"] == {}
    assert result["transcripts_per_minute"] == pytest.approx(100.0)
    assert len(result["facts"]) == 6


def test_a_transcript_that_is_trained_on_and_held_out_is_reported(document: Path) -> None:
    text = document.read_text()
    document.write_text(re.sub('transcript=".*?"', 'transcript="we meet again at nine"', text))
    done = dlm("check", document)
    assert done.code == 0
    assert len(re.findall("it is held out, and my.dlm:.* has the same transcript", done.err)) == 2
    assert "my.dlm:10: its transcript is that of 6 recordings; check" in done.err


def test_issues_with_the_same_hint_are_counted_above_a_limit(document: Path) -> None:
    body = "".join(
        f'::audio path="gone/{n}.wav" transcript="{n}"::\n' for n in range(MAX_ISSUES_PER_HINT + 5)
    )
    document.write_text(f"{document.read_text()}\n{body}")
    done = dlm("check", document, "--set", "training.bad_clips=error")
    assert done.code == 1
    assert done.err.count("audio not found") == MAX_ISSUES_PER_HINT
    assert (
        "and 5 more (put the file there or correct the path): `dlm check --json` lists" in done.err
    )
    assert f"{MAX_ISSUES_PER_HINT + 5} problems would stop training" in done.err
    done = dlm("check", document, "--json", "--set", "training.bad_clips=error")
    num_fatal = sum(issue["fatal"] for issue in json.loads(done.out)["problems"])
    assert num_fatal == MAX_ISSUES_PER_HINT + 5


def test_the_summary_says_how_many_recordings_were_decoded(
    tiny_model: Path, home: Path, tmp_path: Path
) -> None:
    document = write_document(
        tmp_path, base_model=tiny_model, num_clips=0, training="  sources: list.jsonl\n"
    )
    write_tone(tmp_path / "long.wav", hertz=300, seconds=201)
    record = {"audio": "long.wav", "text": "word"}
    lines = (json.dumps({**record, "start": n / 10, "end": n / 10 + 0.1}) for n in range(2005))
    (tmp_path / "list.jsonl").write_text("\n".join(lines))
    done = dlm("check", document)
    assert done.code == 0, done.err[-500:]
    text = (
        "2,000 of 2,005 recordings in full, the others by their headers (check --full decodes all)"
    )
    assert parse_rows(done.out)["decoded"] == text
    assert "decoded" not in parse_rows(dlm("check", document, "--full").out)


def test_exchanged_transcripts_are_found_and_come_first(voice: tuple[Path, dict]) -> None:
    check = voice[1]["dictation"]
    first = {each["location"]: each["better_match"] for each in check["transcripts"][:2]}
    one, two = (f"clips/{name}.flac" for name in EXCHANGED)
    assert first == {one: two, two: one}
    assert all(each["better_match"] is None for each in check["transcripts"][2:])
    worst = [each["wer"] for each in check["transcripts"][2:]]
    assert worst == sorted(worst, reverse=True) and min(worst) < 1
    assert (check["num_candidates"], len(check["transcripts"])) == (10, 10)
    assert check["model_name"] == "sparrow as it was released" and 0.3 < check["wer"] < 1
    result = {each["where"]: each["what"] for each in voice[1]["problems"]}
    assert result[one] == f"its transcript fits the audio of {two} better than its own"


def test_the_page_opens_in_a_browser_without_requests(
    voice: tuple[Path, dict], tmp_path: Path
) -> None:
    folder, result = voice
    assert result["page"] == str(folder / "page.html")
    window = open_page(folder / "page.html", tmp_path, width=420, height=2000)
    assert window.requests == () and window.console == ()
    assert len(window.screenshot.read_bytes()) > 50_000, "the page is all but empty"


class Page(HTMLParser):
    """The tags and the text of a page, and the sources of its audio players."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags, self.text, self.audio_sources = set(), "", []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.audio_sources += [value for name, value in attrs if tag == "audio" and name == "src"]
        loads = [value for name, value in attrs if name in ("src", "href")]
        assert not any(str(value).startswith(("http", "//", "file")) for value in loads)

    def handle_data(self, data: str) -> None:
        self.text += " ".join(data.split()) + " "


def test_the_page_shows_issues_and_plays_each_clip_once(voice: tuple[Path, dict]) -> None:
    page = Page(voice[0] / "page.html")
    assert {"svg", "rect", "audio"} <= page.tags and not {"script", "img"} & page.tags
    assert HOSTILE_TEXT in page.text
    assert "its transcript seems to be of clips/017.flac" in page.text
    assert "check which transcript belongs to which recording" in page.text
    assert (
        len(page.audio_sources) == len(set(page.audio_sources)) >= 9
    )  # each clip that is named, once
    samples, rate = soundfile.read(io.BytesIO(b64decode(page.audio_sources[0].split(",", 1)[1])))
    assert rate == 16_000 and 1 < len(samples) / rate <= 10


def test_the_page_shows_what_would_stop_training(document: Path, tmp_path: Path) -> None:
    Path("clips/0.wav").unlink()
    shutil.copy("clips/1.wav", "clips/2.wav")
    options = ("--set", "training.held_out=0")
    done = dlm("check", document, "--page", "out/page.html", *options)
    assert done.code == 1 and "open out/page.html in a browser" in done.err
    page = Page(Path("out/page.html"))
    assert "Training would stop: 1 kind of problem must be corrected first." in page.text
    assert "1 stop training: put the file there or correct the path" in page.text
    assert "my.dlm:10 audio not found: clips/0.wav" in page.text
    assert len(page.audio_sources) == 1  # of the copy: a missing recording has no player


def test_the_version_in_use_transcribes_unless_base_is_given(document: Path, home: Path) -> None:
    assert dlm("train", document, "--steps", 1).code == 0
    hashes_before = hash_files(home)
    done = dlm("check", document, "--listen", "--clips", 3)
    assert done.code == 0, done.err
    assert "\nv0001 of tiny transcribed 3 of 6 clips: " in done.out
    worst = done.out.split("\n\n")[1].splitlines()
    assert worst[1].split() == ["WER", "clip", "reference", "hypothesis"] and len(worst) == 5
    bare = dlm("check", document, "--listen", "--clips", 3, "--base")
    assert "\ntiny as it was released transcribed 3 of 6 clips: " in bare.out
    assert hash_files(home) == hashes_before


def test_progress_is_printed_in_a_terminal(document: Path) -> None:
    done = dlm("check", document, "--listen", terminal=True)
    assert done.err.count("\r6 of 6 clips\n") == 2  # decoded, then transcribed


class InterruptingTerminal(TerminalStream):
    """A terminal where Ctrl-C is pressed when it shows `text` for the `count`th time."""

    def __init__(self, text: str, count: int) -> None:
        super().__init__()
        self.text, self.remaining = text, count

    def write(self, text: str) -> int:
        self.remaining -= self.text in text
        if self.text in text and self.remaining == 0:
            signal.raise_signal(signal.SIGINT)
        return super().write(text)


@pytest.mark.parametrize("count", [1, 2], ids=["decoding", "transcribing"])
def test_ctrl_c_ends_a_check_without_a_page(document: Path, count: int) -> None:
    terminal = InterruptingTerminal("2 of 6 clips", count)
    done = dlm("check", document, "--listen", "--page", "page.html", stderr=terminal)
    assert done.code == 130
    assert terminal.remaining == 0 and "Traceback" not in done.err
    assert not Path("page.html").exists()


def test_wrong_options_are_refused_and_change_nothing(
    document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashes_before = hash_files(tmp_path)

    def assert_refused(*options: object, text: str, error: str, code: int = 2) -> None:
        dlm("check", document, *options).refused(text, error=error, code=code)

    text = "options of --listen; add --listen"
    assert_refused("--clips", 3, text=text, error="usage.listen_missing")
    assert_refused("--base", text=text, error="usage.listen_missing")
    assert_refused("--listen", "--clips", 0, text="--clips is 0", error="usage.out_of_range")
    options = ("--listen", "--version", "v0001", "--base")
    assert_refused(*options, text="exclude each other", error="usage.exclusive_options")
    no_html = "--page my.dlm is not an .html file"
    assert_refused("--page", document, text=no_html, error="usage.not_html")
    options, no_version = ("--listen", "--version", "v0009"), "no version 'v0009'"
    assert_refused(*options, text=no_version, error="store.unknown_version", code=1)
    (tmp_path / "taken").write_text("a file")
    done = dlm("check", document, "--page", "taken/page.html")
    assert done.code == 1 and "taken" in done.err.splitlines()[-1]
    (tmp_path / "taken").unlink()
    monkeypatch.setitem(sys.modules, "jinja2", None)
    text = "jinja2 is not installed; pip install 'dlm[insight]'"
    assert_refused("--page", "p.html", text=text, error="extra.missing", code=1)
    assert hash_files(tmp_path) == hashes_before


def test_listen_needs_a_clip_that_can_be_transcribed(document: Path) -> None:
    for path in Path("clips").iterdir():
        path.unlink()
    done = dlm("check", document, "--listen")
    text = "my.dlm: no clip to transcribe; correct what is wrong"
    done.refused(text, error="data.nothing_to_transcribe")


def add_corpus(document: Path) -> None:
    """Add a source: two clips, a recording without a transcript, and a text file."""
    for name in "abc":
        write_tone(Path(f"corpus/{name}.wav"), hertz=400 + ord(name))
    for name in "ab":
        Path(f"corpus/{name}.txt").write_text(f"It says {name}.")
    Path("corpus/notes.md").write_text("not audio")
    text = document.read_text()
    document.write_text(text.replace("training:\n", "training:\n  sources:\n    - path: corpus\n"))


def test_the_summary_has_clips_sources_and_the_plan(document: Path) -> None:
    add_corpus(document)
    done = dlm("check", document)
    assert done.code == 0, done.err
    rows = parse_rows(done.out)
    assert rows["clips"] == "8 (8 to transcribe)"
    assert re.fullmatch(r"4\.8 s \(0\.6 to 0\.6 s a clip, median 0\.6 s\)", rows["audio"])
    assert rows["held out"] == "2 (not trained on)"
    assert rows["source"] == "corpus: 2 clips, 1 without a transcript, 1 not audio"
    assert rows["base"] == "tiny, 60,320 parameters"
    assert "my.dlm:7: 1 without a transcript, skipped: corpus/c.wav; write corpus/c.txt" in done.err


def test_json_has_issues_and_the_plan(document: Path) -> None:
    add_corpus(document)
    Path("clips/1.wav").unlink()
    done = dlm("check", document, "--json")
    assert (done.code, done.err) == (1, "")
    result = json.loads(done.out)
    assert result["clips"] == 8 and result["base_model"] == "tiny"
    assert result["source_directives"][0]["skipped_audio_no_transcript"] == 1
    fatal = [issue for issue in result["problems"] if issue["fatal"]]
    assert [(issue["where"], issue["code"]) for issue in fatal] == [
        ("my.dlm:14", "audio.not_found")
    ]
    assert {line["name"] for line in result["plan"]} >= {"steps", "memory", "device"}


def test_a_warning_does_not_fail_the_check(document: Path) -> None:
    Path("clips/3.wav").write_bytes(Path("clips/2.wav").read_bytes())
    done = dlm("check", document)
    assert done.code == 0
    assert "my.dlm:16: it is the same audio as my.dlm:14" in done.err
