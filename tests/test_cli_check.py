"""`dlm check`: what it tells of the clips, what a model hears in them, and the page of it all."""

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
from tests.cli_runner import TerminalStream, dlm, hash_files
from tests.tiny_models import write_document, write_tiny_model, write_tone

VOICE = Path(__file__).parent.parent / "examples" / "voice" / "clips"
EVIL = "<script>alert(1)</script> & <img src=http://outside.example/a.png>"
SWAPPED = ("005", "017")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def document(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_document(Path(), base_model=tiny, training="  held_out: 2\n")


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """Ten spoken clips, the transcripts of two of them exchanged, listened to by sparrow."""
    folder = tmp_path_factory.mktemp("voice")
    (folder / "clips").mkdir()
    for name in ("001", "004", "005", "008", "012", "017", "018", "023", "036", "038"):
        for suffix in (".flac", ".txt"):
            shutil.copy(VOICE / f"{name}{suffix}", folder / "clips")
    one, two = (folder / "clips" / f"{name}.txt" for name in SWAPPED)
    texts = one.read_text(), two.read_text()
    two.write_text(texts[0])
    one.write_text(texts[1])
    evil = folder / "clips" / "036.txt"
    evil.write_text(f"{evil.read_text()} {EVIL}")
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


def rows(out: str) -> dict[str, str]:
    return dict(re.split(r"  +", line, maxsplit=1) for line in out.splitlines() if "  " in line)


def test_what_the_clips_are_together(document: Path) -> None:
    write_tone(Path("clips/long.wav"), hertz=300, seconds=3.0)
    write_tone(Path("clips/more.wav"), hertz=350, seconds=1.9)
    for name, language in (("long", "fr"), ("more", "de")):
        fence = (
            f'::audio path="clips/{name}.wav" transcript="un deux trois" language="{language}"::'
        )
        document.write_text(f"{document.read_text()}\n{fence}\n")
    told = rows(dlm("check", document).out)
    assert told["lengths"] == "0.5 █▂▂ 4 s, most of them 0.5 to 1 s (6)"
    assert told["levels"] == "-15 █ -10 dBFS, most of them -15 to -10 dBFS (8)"
    assert told["pace"] == "1.7 words per second, 56.5 transcripts a minute"
    assert told["languages"] == "fr 1 (3.0 s), de 1 (1.9 s)"
    assert "heard" not in told and "rates" not in told and "speakers" not in told


def test_rates_and_speakers(document: Path) -> None:
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
    told = rows(done.out)
    assert told["rates"] == "16,000 Hz 7, 8,000 Hz 2"
    assert told["speakers"] == "s0 2 (1.2 s), s1 1 (0.6 s)"


def test_all_of_it_is_in_json(document: Path) -> None:
    told = json.loads(dlm("check", document, "--json").out)
    assert (told["sounds"], told["heard"], told["dictation"], told["page"]) == (6, 6, None, None)
    assert sum(told["lengths"]["counts"]) == sum(told["levels"]["counts"]) == 6
    assert told["lengths"]["edges"][-1] is None and told["levels"]["edges"][0] is None
    assert told["languages"] == told["speakers"] == {}
    assert told["transcripts_per_minute"] == pytest.approx(100.0)
    assert len(told["facts"]) == 6


def test_what_is_held_out_and_learned_is_told(document: Path) -> None:
    text = document.read_text()
    document.write_text(re.sub('transcript=".*?"', 'transcript="we meet again at nine"', text))
    done = dlm("check", document)
    assert done.code == 0
    assert len(re.findall("it is held out, and my.dlm:.* has the same transcript", done.err)) == 2
    assert "my.dlm:10: its transcript is that of 6 recordings; check" in done.err


def test_very_many_problems_are_counted(document: Path) -> None:
    body = "".join(
        f'::audio path="gone/{n}.wav" transcript="{n}"::\n' for n in range(MAX_ISSUES_PER_HINT + 5)
    )
    document.write_text(f"{document.read_text()}\n{body}")
    done = dlm("check", document, "--set", "training.bad_clips=error")
    assert done.code == 1
    assert done.err.count("audio not found") == MAX_ISSUES_PER_HINT
    assert (
        "and 5 more (put the file there or correct the path): `dlm check --json` names" in done.err
    )
    assert f"{MAX_ISSUES_PER_HINT + 5} problems would stop training" in done.err
    told = dlm("check", document, "--json", "--set", "training.bad_clips=error")
    assert (
        sum(each["fatal"] for each in json.loads(told.out)["problems"]) == MAX_ISSUES_PER_HINT + 5
    )


def test_a_sample_of_very_many_is_told(tiny: Path, home: Path, tmp_path: Path) -> None:
    document = write_document(
        tmp_path, base_model=tiny, num_clips=0, training="  sources: list.jsonl\n"
    )
    write_tone(tmp_path / "long.wav", hertz=300, seconds=201)
    row = {"audio": "long.wav", "text": "word"}
    lines = (json.dumps({**row, "start": n / 10, "end": n / 10 + 0.1}) for n in range(2005))
    (tmp_path / "list.jsonl").write_text("\n".join(lines))
    done = dlm("check", document)
    assert done.code == 0, done.err[-500:]
    told = "2,000 of 2,005 sounds in full, the others by their headers (check --full hears all)"
    assert rows(done.out)["heard"] == told
    assert "heard" not in rows(dlm("check", document, "--full").out)


def test_exchanged_transcripts_come_first(voice: tuple[Path, dict]) -> None:
    heard = voice[1]["dictation"]
    first = {each["location"]: each["better_match"] for each in heard["transcripts"][:2]}
    one, two = (f"clips/{name}.flac" for name in SWAPPED)
    assert first == {one: two, two: one}
    assert all(each["better_match"] is None for each in heard["transcripts"][2:])
    worst = [each["wer"] for each in heard["transcripts"][2:]]
    assert worst == sorted(worst, reverse=True) and min(worst) < 1
    assert (heard["num_candidates"], len(heard["transcripts"])) == (10, 10)
    assert heard["model_name"] == "sparrow as it was released" and 0.3 < heard["wer"] < 1
    told = {each["where"]: each["what"] for each in voice[1]["problems"]}
    assert told[one] == f"its transcript fits what is heard in {two} better than its own sound"


def test_the_page_opens_in_a_browser_and_asks_nothing(
    voice: tuple[Path, dict], tmp_path: Path
) -> None:
    folder, told = voice
    assert told["page"] == str(folder / "page.html")
    seen = open_page(folder / "page.html", tmp_path, width=420, height=2000)
    assert seen.requests == () and seen.console == ()
    assert len(seen.screenshot.read_bytes()) > 50_000, "the page is all but empty"


class Page(HTMLParser):
    """The tags of a page, its text, and what its players play."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags, self.text, self.played = set(), "", []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.played += [value for name, value in attrs if tag == "audio" and name == "src"]
        loads = [value for name, value in attrs if name in ("src", "href")]
        assert not any(str(value).startswith(("http", "//", "file")) for value in loads)

    def handle_data(self, data: str) -> None:
        self.text += " ".join(data.split()) + " "


def test_the_page_shows_what_was_found(voice: tuple[Path, dict]) -> None:
    page = Page(voice[0] / "page.html")
    assert {"svg", "rect", "audio"} <= page.tags and not {"script", "img"} & page.tags
    assert EVIL in page.text
    assert "its transcript seems to be of clips/017.flac" in page.text
    assert "check which transcript belongs to which recording" in page.text
    assert len(page.played) == len(set(page.played)) >= 9  # each clip that is named, once
    samples, rate = soundfile.read(io.BytesIO(b64decode(page.played[0].split(",", 1)[1])))
    assert rate == 16_000 and 1 < len(samples) / rate <= 10


def test_a_page_of_a_set_with_problems(document: Path, tmp_path: Path) -> None:
    Path("clips/0.wav").unlink()
    shutil.copy("clips/1.wav", "clips/2.wav")
    alone = ("--set", "training.held_out=0")
    done = dlm("check", document, "--page", "out/page.html", *alone)
    assert done.code == 1 and "open out/page.html in a browser" in done.err
    page = Page(Path("out/page.html"))
    assert "Training would stop: 1 kind of problem must be corrected first." in page.text
    assert "1 stop training: put the file there or correct the path" in page.text
    assert "my.dlm:10 audio not found: clips/0.wav" in page.text
    assert len(page.played) == 1  # of the copy; nothing can be played of what is not there


def test_a_version_in_use_hears_unless_the_base_is_asked(document: Path, home: Path) -> None:
    assert dlm("train", document, "--steps", 1).code == 0
    kept = hash_files(home)
    done = dlm("check", document, "--listen", "--clips", 3)
    assert done.code == 0, done.err
    assert "\nv0001 of tiny heard 3 of 6 clips: " in done.out
    worst = done.out.split("\n\n")[1].splitlines()
    assert worst[1].split() == ["WER", "clip", "written", "heard"] and len(worst) == 5
    bare = dlm("check", document, "--listen", "--clips", 3, "--base")
    assert "\ntiny as it was released heard 3 of 6 clips: " in bare.out
    assert hash_files(home) == kept


def test_progress_is_shown_in_a_terminal(document: Path) -> None:
    done = dlm("check", document, "--listen", terminal=True)
    assert done.err.count("\r6 of 6 clips\n") == 2  # looked at, and listened to


class Impatient(TerminalStream):
    """A terminal at which Ctrl-C is pressed when it shows some words for the `time`th time."""

    def __init__(self, words: str, time: int) -> None:
        super().__init__()
        self.words, self.left = words, time

    def write(self, text: str) -> int:
        self.left -= self.words in text
        if self.words in text and self.left == 0:
            signal.raise_signal(signal.SIGINT)
        return super().write(text)


@pytest.mark.parametrize("time", [1, 2], ids=["looking", "listening"])
def test_an_interrupt_ends_it_without_a_page(document: Path, time: int) -> None:
    shown = Impatient("2 of 6 clips", time)
    done = dlm("check", document, "--listen", "--page", "page.html", stderr=shown)
    assert done.code == 130
    assert shown.left == 0 and "Traceback" not in done.err
    assert not Path("page.html").exists()


def test_mistakes(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = hash_files(tmp_path)
    dlm("check", document, "--clips", 3).refused("--listen hears; add --listen", code=2)
    dlm("check", document, "--base").refused("add --listen", code=2)
    dlm("check", document, "--listen", "--clips", 0).refused("--clips is 0", code=2)
    dlm("check", document, "--listen", "--version", "v0009").refused("no version 'v0009'")
    both = ("--version", "v0001", "--base")
    dlm("check", document, "--listen", *both).refused("exclude each other", code=2)
    dlm("check", document, "--page", document).refused("--page my.dlm is no .html file", code=2)
    (tmp_path / "taken").write_text("a file")
    refused = dlm("check", document, "--page", "taken/page.html")
    assert refused.code == 1 and "taken" in refused.err.splitlines()[-1]
    (tmp_path / "taken").unlink()
    monkeypatch.setitem(sys.modules, "jinja2", None)
    dlm("check", document, "--page", "p.html").refused("jinja2 is not installed", "dlm[insight]")
    assert hash_files(tmp_path) == before


def test_there_must_be_something_to_listen_to(document: Path) -> None:
    for path in Path("clips").iterdir():
        path.unlink()
    dlm("check", document, "--listen").refused("my.dlm: no clip to listen to; mend what is wrong")
