"""The page of `dlm insight` opens in a browser, loads nothing, and has the scores of `dlm eval`."""

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

from tests.browser import open_page
from tests.cli_runner import CommandResult, dlm, hash_files
from tests.tiny_models import write_document, write_tiny_model

HTML_TEXT = "<script>alert(1)</script> & $x_{$ 語 <img src=http://outside.example/a.png>"
SCREENSHOT = Path(__file__).parents[2] / ".work" / "insight.png"  # of the last run, to look at
PLOTS = {"alignment", "attention", "changes", "gap", "gradients", "loss", "rates"}
PLOTS_OF_LOG = {"changes", "gap", "gradients", "loss", "rates"}


class PageContent(HTMLParser):
    """The text of a page by section, and the URLs of its elements by tag."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.section, self.text, self.urls, self.tags = "", {}, [], set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.add(tag)
        self.section = attributes["id"] if tag == "section" else self.section
        self.urls += [
            (tag, value) for name, value in attrs if name in ("src", "srcset", "href", "data")
        ]

    def handle_data(self, data: str) -> None:
        self.text[self.section] = f"{self.text.get(self.section, '')} {' '.join(data.split())}"

    def decode_data(self, tag: str) -> list[bytes]:
        """The data within the page of all elements with a tag."""
        return [b64decode(url.split(",", 1)[1]) for name, url in self.urls if name == tag]


@pytest.fixture(scope="module")
def trained_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A document with a version, whose transcripts hold HTML that a page must escape."""
    folder = tmp_path_factory.mktemp("trained")
    base = write_tiny_model(folder / "tiny")
    document = write_document(folder, base_model=base, num_clips=8, training="  held_out: 5\n")
    text = document.read_text().replace('transcript="', f'transcript="{HTML_TEXT} ')
    document.write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DLM_HOME", str(folder / "home"))
        done = dlm("train", document, "--steps", 3)
        assert done.code == 0, done.err
    return folder


@pytest.fixture
def document(trained_dir: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DLM_HOME", str(trained_dir / "home"))
    monkeypatch.chdir(trained_dir)
    return Path("my.dlm")


@pytest.fixture(scope="module")
def page_dir(trained_dir: Path) -> tuple[Path, dict]:
    """The folder of a page with three clips, and the output of `--json`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DLM_HOME", str(trained_dir / "home"))
        into = trained_dir.parent / "page"
        done = write_insight(trained_dir / "my.dlm", "--into", into, "--clips", 3, "--json")
    return into, json.loads(done.out)


def write_insight(document: Path, *args: object) -> CommandResult:
    done = dlm("insight", document, *args)
    assert done.code == 0, done.err
    return done


def test_the_page_opens_in_a_browser_without_a_request(
    page_dir: tuple[Path, dict], tmp_path: Path
) -> None:
    visit = open_page(page_dir[0] / "insight.html", tmp_path, width=420, height=4000)
    assert visit.requests == () and visit.console == ()
    SCREENSHOT.parent.mkdir(exist_ok=True)
    shutil.copy(visit.screenshot, SCREENSHOT)
    png = visit.screenshot.read_bytes()
    assert int.from_bytes(png[16:20]) == 420, "the width in the header"
    assert len(png) > 100_000, "the page is all but empty"


def test_requests_and_errors_of_a_page_would_be_seen(tmp_path: Path) -> None:
    page = tmp_path / "other.html"
    page.write_text('<img src="http://outside.example/a.png"><script>nothing()</script>')
    visit = open_page(page, tmp_path)
    assert visit.requests == ("http://outside.example/a.png",)
    assert len(visit.console) == 1 and "nothing is not defined" in visit.console[0]


def test_plots_and_audio_are_within_the_page(page_dir: tuple[Path, dict], document: Path) -> None:
    folder, _ = page_dir
    page = PageContent(folder / "insight.html")
    assert {path.name for path in folder.iterdir()} == {
        "insight.html",
        *(f"{name}.png" for name in PLOTS),
    }
    assert all(url.startswith("data:") for _, url in page.urls)
    assert "script" not in page.tags
    assert set(page.decode_data("img")) == {(folder / f"{name}.png").read_bytes() for name in PLOTS}
    assert len(set(page.decode_data("source"))) == len(PLOTS)  # for dark pages
    recordings = page.decode_data("audio")
    assert len(recordings) == 3
    original = {
        soundfile.read(path, dtype="int16")[0].tobytes() for path in Path("clips").iterdir()
    }
    for recording in recordings:
        samples, sample_rate = soundfile.read(io.BytesIO(recording), dtype="int16")
        assert sample_rate == 16_000 and samples.tobytes() in original


def test_transcripts_are_escaped(page_dir: tuple[Path, dict]) -> None:
    page = PageContent(page_dir[0] / "insight.html")
    assert page.text["clips"].count(HTML_TEXT) == 3
    assert len(page.decode_data("img")) == len(PLOTS)  # none of a transcript


def test_the_scores_are_those_of_eval(page_dir: tuple[Path, dict], document: Path) -> None:
    folder, result = page_dir
    evaluated = json.loads(dlm("eval", document, "--json").out)
    assert result["scores"] == pytest.approx(evaluated["scores"], abs=1e-4)
    assert (result["version"], result["clips"], result["held_out"]) == ("v0001", 5, True)
    assert {Path(each).stem for each in result["pictures"]} == PLOTS
    page = PageContent(folder / "insight.html")
    scores = page.text["scores"]
    for name in ("loss", "shuffled_loss", "gap"):
        assert f" {result['scores'][name]:.3f} " in scores, name
    for name in ("wer", "cer"):
        assert f" {result['scores'][name]:.1%} " in scores, name
    assert "No: its loss is as low with another clip's audio" in page.text[""]
    worst = {f"{each['wer']:.0%} wrong" for each in evaluated["worst"][:3]}
    assert all(each in page.text["clips"] for each in worst)


def test_training_clips_are_evaluated_where_none_are_held_out(
    trained_dir: Path, home: Path, tmp_path: Path
) -> None:
    document = write_document(
        tmp_path, base_model=trained_dir / "tiny", num_clips=2, training="  held_out: 0\n"
    )
    assert dlm("train", document, "--steps", 1).code == 0
    done = write_insight(document)
    assert done.out.strip() == str(tmp_path / "my-insight-v0001" / "insight.html")
    assert "2 clips it was trained on, none were held out" in done.err
    page = PageContent(tmp_path / "my-insight-v0001" / "insight.html")
    assert "prove less than on clips held out" in page.text["scores"]
    write_insight(document)  # over the earlier page


def test_a_page_without_a_log_says_so(trained_dir: Path, home: Path, tmp_path: Path) -> None:
    shutil.copytree(trained_dir / "home", home)
    for log in home.rglob("log.jsonl"):
        log.unlink()
    write_insight(trained_dir / "my.dlm", "--into", tmp_path / "page")
    page = PageContent(tmp_path / "page" / "insight.html")
    assert not {path.stem for path in (tmp_path / "page").iterdir()} & PLOTS_OF_LOG
    for name in PLOTS_OF_LOG - {"changes"}:
        assert "The log of this version's run does not have it" in page.text[name], name
    assert "does not have it" in page.text["changes"]


def test_a_page_of_prose_says_that_there_is_no_audio(
    trained_dir: Path, home: Path, tmp_path: Path
) -> None:
    document = write_document(
        tmp_path,
        base_model=trained_dir / "tiny",
        num_clips=0,
        body="Once upon a time.\n",
        training="  held_out: 0\n",
    )
    assert dlm("train", document, "--steps", 1).code == 0
    write_insight(document, "--into", tmp_path / "page")
    page = PageContent(tmp_path / "page" / "insight.html")
    assert "None of these clips has audio." in page.text["clips"]
    assert "None of these clips has both audio and text." in page.text["alignment"]
    assert "These clips do not show it" in page.text[""]


def test_mistakes_are_refused_before_anything_is_written(
    document: Path, trained_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = hash_files(trained_dir)
    into = ("--into", tmp_path / "page")
    dlm("insight", document, "--version", "v0009", *into).refused(
        "no version 'v0009'", "v0001", error="store.unknown_version"
    )
    dlm("insight", document, "--clips", 0, *into).refused("--clips is 0", code=2)
    dlm("insight", "other.dlm", *into).refused("other.dlm")
    dlm("insight", document, "--into", trained_dir).refused(
        "not empty", "--into", error="store.not_empty"
    )
    (tmp_path / "taken").write_text("a file")
    dlm("insight", document, "--into", tmp_path / "taken").refused(
        "cannot be written", "taken", error="store.not_writable"
    )
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = dlm("insight", document, *into)
    done.refused("matplotlib is not installed", "dlm[insight]", error="extra.missing")
    assert hash_files(trained_dir) == before and not (tmp_path / "page").exists()


def test_a_document_without_a_version_is_refused(
    trained_dir: Path, home: Path, tmp_path: Path
) -> None:
    document = write_document(tmp_path, base_model=trained_dir / "tiny")
    dlm("insight", document).refused("nothing was learned yet", "dlm train")
    assert not list(tmp_path.glob("my-insight*"))


def test_missing_clips_are_refused(trained_dir: Path, home: Path, tmp_path: Path) -> None:
    document = write_document(
        tmp_path, base_model=trained_dir / "tiny", num_clips=2, training="  held_out: 0\n"
    )
    assert dlm("train", document, "--steps", 1).code == 0
    (tmp_path / "clips" / "1.wav").unlink()
    dlm("insight", document).refused("1.wav")
    text = document.read_text()
    document.write_text(text[: text.index("::audio")])
    dlm("insight", document).refused("nothing to train on")


def test_a_full_disk_is_one_line(document: Path, tmp_path: Path) -> None:
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
