"""The page of `dlm check --page`: what audio is in it, what is linked, and that text is escaped."""

import math
import re
import subprocess
import sys
from base64 import b64decode
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import soundfile

from dlm.config.data_schema import AudioConfig
from dlm.data.load import LoadedData
from dlm.data.stats import Histogram
from dlm.data.types import AudioSegment, Example, Issue, Message
from dlm.data.validate import ValidationReport, validate_examples
from dlm.reports.data_report import (
    MAX_EMBEDDED_EXAMPLES,
    ReportHeader,
    make_histogram_bars,
    write_data_report,
)
from tests.tiny_models import SAMPLE_RATE, make_example

HEADER = ReportHeader("my.dlm", "tiny", "2026-01-01 00:00")


def write_noise(
    path: Path, seconds: float, *, seed: int = 0, sample_rate: int = SAMPLE_RATE
) -> Path:
    noise = np.random.default_rng(seed).normal(0, 0.05, round(seconds * sample_rate))
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, noise, sample_rate)
    return path


def validate(*examples: Example) -> ValidationReport:
    return validate_examples(
        LoadedData(examples, (), ()),
        sample_rate=SAMPLE_RATE,
        window_seconds=30.0,
        audio_config=AudioConfig(auto_resample=True),
    )


def write_page(page: Path, report: ValidationReport, *issues: Issue) -> str:
    write_data_report(page, HEADER, report, issues=issues, transcription_check=None)
    return page.read_text(encoding="utf-8")


def list_audio_urls(page: Path, report: ValidationReport, *locations: str) -> list[str]:
    """The URLs of the players of a page, on which every location has an issue."""
    issues = [
        Issue(location, "it is odd", "change it", fatal=False, code="data.test")
        for location in locations
    ]
    return re.findall(r'<audio [^>]*src="([^"]*)"', write_page(page, report, *issues))


def test_some_audio_is_embedded_and_the_rest_is_linked(tmp_path: Path) -> None:
    num_examples = MAX_EMBEDDED_EXAMPLES + 3
    examples = [
        make_example(write_noise(tmp_path / "clips" / f"{n} #1 ü.wav", 0.2, seed=n), f"text {n}")
        for n in range(num_examples)
    ]
    report, locations = validate(*examples), [example.location for example in examples]
    urls = list_audio_urls(tmp_path / "page.html", report, *locations)
    embedded = [url for url in urls if url.startswith("data:audio/ogg;base64,")]
    assert len(embedded) == MAX_EMBEDDED_EXAMPLES
    linked = urls[MAX_EMBEDDED_EXAMPLES:]
    assert list(map(unquote, linked)) == [
        f"clips/{n} #1 ü.wav" for n in range(MAX_EMBEDDED_EXAMPLES, num_examples)
    ]
    assert not any(set(url) & set(" #ü") for url in linked)
    elsewhere = list_audio_urls(tmp_path / "other" / "page.html", report, *locations)
    assert len(elsewhere) == MAX_EMBEDDED_EXAMPLES, "no path leads out of the page's folder"


def test_a_linked_player_plays_its_span(tmp_path: Path) -> None:
    path = write_noise(tmp_path / "a.wav", 60.0)
    examples = [
        Example(make_example(path, f"{n}", start=n, end=n + 0.5).messages, f"a:{n}", "transcribe")
        for n in map(float, range(MAX_EMBEDDED_EXAMPLES + 1))
    ]
    locations = [example.location for example in examples]
    urls = list_audio_urls(tmp_path / "page.html", validate(*examples), *locations)
    assert urls[-1] == f"a.wav#t={MAX_EMBEDDED_EXAMPLES},{MAX_EMBEDDED_EXAMPLES + 0.5}"


def test_audio_in_an_archive_is_embedded_and_never_linked(tmp_path: Path) -> None:
    recording = write_noise(tmp_path / "a.wav", 0.2).read_bytes()
    (tmp_path / "all.tar").write_bytes(b"x" * 512 + recording)
    segment = AudioSegment(tmp_path / "all.tar", byte_range=(512, len(recording)))
    examples = []
    for n in range(MAX_EMBEDDED_EXAMPLES + 1):
        messages = (Message("user", (segment, f"{n}?")), Message("assistant", (f"{n}",)))
        examples.append(Example(messages, f"all:{n}", "answer"))
    locations = [example.location for example in examples]
    urls = list_audio_urls(tmp_path / "page.html", validate(*examples), *locations)
    assert len(urls) == MAX_EMBEDDED_EXAMPLES


def test_only_the_beginning_of_a_long_recording_is_embedded(tmp_path: Path) -> None:
    example = make_example(write_noise(tmp_path / "a.wav", 40.0, sample_rate=44_100), "noise")
    (url,) = list_audio_urls(tmp_path / "page.html", validate(example), example.location)
    assert len(b64decode(url.split(",", 1)[1])) < 120_000
    assert "the first 10 s of 40.0 s" in (tmp_path / "page.html").read_text()


def test_what_cannot_be_decoded_has_no_player(tmp_path: Path) -> None:
    prose = Example((Message("assistant", ("Prose.",)),), "p", "text")
    report = validate(make_example(tmp_path / "gone.wav", "gone"), prose)
    assert list_audio_urls(tmp_path / "page.html", report, "gone.wav", "p", "my.dlm:1") == []


@pytest.mark.parametrize("field", ["where", "what", "hint"])
def test_text_of_others_is_escaped(tmp_path: Path, field: str) -> None:
    html = '"><script>alert(1)</script><img src=x onerror=alert(1)>'
    fields = {"where": "a.wav", "what": "odd", "hint": "change it"} | {field: html}
    page = write_page(
        tmp_path / "page.html", validate(), Issue(**fields, fatal=True, code="data.test")
    )
    assert "<script" not in page and "<img" not in page and "&lt;script&gt;" in page
    assert "default-src 'none'" in page


def test_histograms_have_bars_from_the_first_count_to_the_last() -> None:
    histogram = Histogram((-math.inf, 1.0, 2.0, 4.0, math.inf), (0, 2, 0, 4))
    bars = [(bar.label, bar.count, bar.height) for bar in make_histogram_bars(histogram, "s")]
    assert bars == [("1 to 2 s", 2, 0.5), ("2 to 4 s", 0, 0.0), ("above 4 s", 4, 1.0)]
    assert next(make_histogram_bars(Histogram((-math.inf, 1.0), (1,)), "dB")).label == "below 1 dB"
    assert list(make_histogram_bars(Histogram((0.0, 1.0), (0,)), "s")) == []


def test_a_page_without_examples_says_so(tmp_path: Path) -> None:
    page = write_page(tmp_path / "page.html", validate())
    assert "Nothing is wrong that can be known without training." in page
    assert "No audio could be measured." in page


def test_the_page_is_written_without_torch() -> None:
    program = (
        "import sys, dlm.reports.data_report; print({'torch', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"


def test_a_clip_with_two_issues_is_played_once(tmp_path: Path) -> None:
    example = make_example(write_noise(tmp_path / "a.wav", 0.6), "noise")
    urls = list_audio_urls(tmp_path / "page.html", validate(example), "a.wav", "a.wav")
    assert len(urls) == 1
