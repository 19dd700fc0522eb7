"""The page of `dlm insight`: in a real browser, with true numbers, and nothing from outside."""

import io
import json
import resource
import shutil
import sys
from base64 import b64decode
from html.parser import HTMLParser
from pathlib import Path

import pytest
import soundfile

from tests.browser import visit
from tests.cli_runner import CommandResult, dlm, hash_files
from tests.tiny_models import write_document, write_tiny_model

EVIL = "<script>alert(1)</script> & $x_{$ 語 <img src=http://outside.example/a.png>"
ARTIFACT = Path(__file__).parents[2] / ".work" / "insight.png"  # what the last run saw
DRAWN = {"alignment", "attention", "changes", "gap", "gradients", "loss", "rates"}
FROM_LOG = {"changes", "gap", "gradients", "loss", "rates"}


class Page(HTMLParser):
    """The text of a page by section, and what its elements load."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.section, self.text, self.loaded, self.tags = "", {}, [], set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        self.tags.add(tag)
        self.section = known["id"] if tag == "section" else self.section
        self.loaded += [
            (tag, value) for name, value in attrs if name in ("src", "srcset", "href", "data")
        ]

    def handle_data(self, data: str) -> None:
        self.text[self.section] = f"{self.text.get(self.section, '')} {' '.join(data.split())}"

    def held(self, tag: str) -> list[bytes]:
        """What elements of one kind load, which is within the page."""
        return [b64decode(address.split(",", 1)[1]) for name, address in self.loaded if name == tag]


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A document with a version, whose transcripts are what a page must not take at their word."""
    folder = tmp_path_factory.mktemp("learned")
    base = write_tiny_model(folder / "tiny")
    document = write_document(folder, base_model=base, num_clips=8, training="  held_out: 5\n")
    text = document.read_text().replace('transcript="', f'transcript="{EVIL} ')
    document.write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DLM_HOME", str(folder / "home"))
        done = dlm("train", document, "--steps", 3)
        assert done.code == 0, done.err
    return folder


@pytest.fixture
def document(learned: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DLM_HOME", str(learned / "home"))
    monkeypatch.chdir(learned)
    return Path("my.dlm")


@pytest.fixture(scope="module")
def made(learned: Path) -> tuple[Path, dict]:
    """The folder of a page that looks at three clips, and what `--json` said of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DLM_HOME", str(learned / "home"))
        into = learned.parent / "page"
        done = insight(learned / "my.dlm", "--into", into, "--clips", 3, "--json")
    return into, json.loads(done.out)


def insight(document: Path, *words: object) -> CommandResult:
    done = dlm("insight", document, *words)
    assert done.code == 0, done.err
    return done


def test_it_opens_in_a_browser_and_asks_nothing_of_a_network(
    made: tuple[Path, dict], tmp_path: Path
) -> None:
    seen = visit(made[0] / "insight.html", tmp_path, width=420, height=4000)
    assert seen.requests == () and seen.console == ()
    ARTIFACT.parent.mkdir(exist_ok=True)
    shutil.copy(seen.screenshot, ARTIFACT)
    drawn = seen.screenshot.read_bytes()
    assert int.from_bytes(drawn[16:20]) == 420  # of a PNG's header
    assert len(drawn) > 100_000, "the page is all but empty"


def test_the_browser_would_tell_of_requests_and_faults(tmp_path: Path) -> None:
    """What the test above hears nothing of is heard."""
    page = tmp_path / "other.html"
    page.write_text('<img src="http://outside.example/a.png"><script>nothing()</script>')
    seen = visit(page, tmp_path)
    assert seen.requests == ("http://outside.example/a.png",)
    assert len(seen.console) == 1 and "nothing is not defined" in seen.console[0]


def test_the_page_holds_all_it_shows(made: tuple[Path, dict], document: Path) -> None:
    folder, _ = made
    page = Page(folder / "insight.html")
    assert {path.name for path in folder.iterdir()} == {
        "insight.html",
        *(f"{name}.png" for name in DRAWN),
    }
    assert all(address.startswith("data:") for _, address in page.loaded)
    assert "script" not in page.tags
    assert set(page.held("img")) == {(folder / f"{name}.png").read_bytes() for name in DRAWN}
    assert len(set(page.held("source"))) == len(DRAWN)  # for dark pages
    sounds = page.held("audio")
    assert len(sounds) == 3
    original = {
        soundfile.read(path, dtype="int16")[0].tobytes() for path in Path("clips").iterdir()
    }
    for sound in sounds:
        samples, rate = soundfile.read(io.BytesIO(sound), dtype="int16")
        assert rate == 16_000 and samples.tobytes() in original


def test_what_transcripts_say_is_text(made: tuple[Path, dict]) -> None:
    page = Page(made[0] / "insight.html")
    assert page.text["clips"].count(EVIL) == 3
    assert len(page.held("img")) == len(DRAWN)  # and no image that a transcript names


def test_the_numbers_are_those_of_eval(made: tuple[Path, dict], document: Path) -> None:
    folder, told = made
    scored = json.loads(dlm("eval", document, "--json").out)
    assert told["scores"] == pytest.approx(scored["scores"], abs=1e-4)
    assert (told["version"], told["clips"], told["held_out"]) == ("v0001", 5, True)
    assert {Path(each).stem for each in told["pictures"]} == DRAWN
    page = Page(folder / "insight.html")
    scores = page.text["scores"]
    for name in ("loss", "shuffled_loss", "gap"):
        assert f" {told['scores'][name]:.3f} " in scores, name
    for name in ("wer", "cer"):
        assert f" {told['scores'][name]:.1%} " in scores, name
    assert "No: another clip's sound serves it as well" in page.text[""]
    worst = {f"{each['wer']:.0%} wrong" for each in scored["worst"][:3]}
    assert all(each in page.text["clips"] for each in worst)


def test_clips_it_learned_from_where_none_are_held_out(
    learned: Path, home: Path, tmp_path: Path
) -> None:
    document = write_document(
        tmp_path, base_model=learned / "tiny", num_clips=2, training="  held_out: 0\n"
    )
    assert dlm("train", document, "--steps", 1).code == 0
    done = insight(document)
    assert done.out.strip() == str(tmp_path / "my-insight-v0001" / "insight.html")
    assert "2 clips it learned from, none were held out" in done.err
    page = Page(tmp_path / "my-insight-v0001" / "insight.html")
    assert "prove less than on clips held out" in page.text["scores"]
    insight(document)  # over the earlier page


def test_without_a_log_the_page_says_so(learned: Path, home: Path, tmp_path: Path) -> None:
    shutil.copytree(learned / "home", home)
    for log in home.rglob("log.jsonl"):
        log.unlink()
    insight(learned / "my.dlm", "--into", tmp_path / "page")
    page = Page(tmp_path / "page" / "insight.html")
    assert not {path.stem for path in (tmp_path / "page").iterdir()} & FROM_LOG
    for name in FROM_LOG - {"changes"}:
        assert "left no log of it" in page.text[name], name
    assert "does not have it" in page.text["changes"]


def test_prose_alone_has_no_sound_to_look_at(learned: Path, home: Path, tmp_path: Path) -> None:
    document = write_document(
        tmp_path,
        base_model=learned / "tiny",
        num_clips=0,
        body="Once upon a time.\n",
        training="  held_out: 0\n",
    )
    assert dlm("train", document, "--steps", 1).code == 0
    insight(document, "--into", tmp_path / "page")
    page = Page(tmp_path / "page" / "insight.html")
    assert "None of these clips has a sound." in page.text["clips"]
    assert "None of these clips has both a sound and words." in page.text["alignment"]
    assert "These clips cannot tell" in page.text[""]


def test_mistakes(
    document: Path, learned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = hash_files(learned)
    into = ("--into", tmp_path / "page")
    dlm("insight", document, "--version", "v0009", *into).refused("no version 'v0009'", "v0001")
    dlm("insight", document, "--clips", 0, *into).refused("--clips is 0", code=2)
    dlm("insight", "other.dlm", *into).refused("other.dlm")
    dlm("insight", document, "--into", learned).refused("not empty", "--into")
    (tmp_path / "taken").write_text("a file")
    dlm("insight", document, "--into", tmp_path / "taken").refused("cannot be written", "taken")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    dlm("insight", document, *into).refused("matplotlib is not installed", "dlm[insight]")
    assert hash_files(learned) == before and not (tmp_path / "page").exists()


def test_nothing_was_learned_yet(learned: Path, home: Path, tmp_path: Path) -> None:
    document = write_document(tmp_path, base_model=learned / "tiny")
    dlm("insight", document).refused("nothing was learned yet", "dlm train")
    assert not list(tmp_path.glob("my-insight*"))


def test_clips_that_are_gone(learned: Path, home: Path, tmp_path: Path) -> None:
    document = write_document(
        tmp_path, base_model=learned / "tiny", num_clips=2, training="  held_out: 0\n"
    )
    assert dlm("train", document, "--steps", 1).code == 0
    (tmp_path / "clips" / "1.wav").unlink()
    dlm("insight", document).refused("1.wav")
    text = document.read_text()
    document.write_text(text[: text.index("::audio")])
    dlm("insight", document).refused("nothing to train on")


def test_a_disk_without_room(document: Path, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        done = dlm("insight", document, "--into", tmp_path / "page")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert done.code == 1 and not done.out
    last = done.err.splitlines()[-1]
    assert "limit" in last and "free" in last and "insight.html" in last, last
    assert "Traceback" not in done.err
