"""The page of `dlm check`: which sounds are in it, which are played from where they lie."""

import math
import re
import subprocess
import sys
from base64 import b64decode
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest

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
from tests.data.sounds import RATE, noise, save, spoken

ABOUT = ReportHeader("my.dlm", "tiny", "2026-01-01 00:00")


def looked_at(*clips: Example) -> ValidationReport:
    given = {
        "sample_rate": RATE,
        "window_seconds": 30.0,
        "audio_config": AudioConfig(auto_resample=True),
    }
    return validate_examples(LoadedData(clips, (), ()), **given)


def played(page: Path, found: ValidationReport, *places: str) -> list[str]:
    """The addresses of what is played of clips that have a problem."""
    problems = [Issue(place, "it is odd", "mend it", fatal=False) for place in places]
    write_data_report(page, ABOUT, found, issues=problems, transcription_check=None)
    return re.findall(r'<audio [^>]*src="([^"]*)"', page.read_text(encoding="utf-8"))


def test_a_few_sounds_are_within_and_the_rest_lies_beside_it(tmp_path: Path) -> None:
    clips = [
        spoken(save(tmp_path / "clips" / f"{n} #1 ü.wav", noise(0.2, seed=n)), f"text {n}")
        for n in range(MAX_EMBEDDED_EXAMPLES + 3)
    ]
    found, places = looked_at(*clips), [clip.location for clip in clips]
    addresses = played(tmp_path / "page.html", found, *places)
    within = [address for address in addresses if address.startswith("data:audio/ogg;base64,")]
    assert len(within) == MAX_EMBEDDED_EXAMPLES
    beside = [unquote(address) for address in addresses[MAX_EMBEDDED_EXAMPLES:]]
    assert beside == [
        f"clips/{n} #1 ü.wav" for n in range(MAX_EMBEDDED_EXAMPLES, MAX_EMBEDDED_EXAMPLES + 3)
    ]
    assert not any(set(address) & set(" #ü") for address in addresses[MAX_EMBEDDED_EXAMPLES:])
    elsewhere = played(tmp_path / "other" / "page.html", found, *places)
    assert len(elsewhere) == MAX_EMBEDDED_EXAMPLES  # and no path that leaves the folder of the page


def test_spans_play_their_part(tmp_path: Path) -> None:
    path = save(tmp_path / "a.wav", noise(60.0))
    clips = [
        spoken(path, f"{n}", start=float(n), end=n + 0.5) for n in range(MAX_EMBEDDED_EXAMPLES + 1)
    ]
    named = [Example(clip.messages, f"a:{n}", "transcribe") for n, clip in enumerate(clips)]
    addresses = played(
        tmp_path / "page.html", looked_at(*named), *(clip.location for clip in named)
    )
    assert addresses[-1] == f"a.wav#t={MAX_EMBEDDED_EXAMPLES},{MAX_EMBEDDED_EXAMPLES + 0.5}"


def test_a_sound_in_an_archive_is_played_within_or_not_at_all(tmp_path: Path) -> None:
    whole = save(tmp_path / "a.wav", noise(0.2)).read_bytes()
    (tmp_path / "all.tar").write_bytes(b"x" * 512 + whole)
    sound = AudioSegment(tmp_path / "all.tar", byte_range=(512, len(whole)))
    clips = [
        Example(
            (Message("user", (sound, f"{n}?")), Message("assistant", (f"{n}",))),
            f"all:{n}",
            "answer",
        )
        for n in range(MAX_EMBEDDED_EXAMPLES + 1)
    ]
    addresses = played(
        tmp_path / "page.html", looked_at(*clips), *(clip.location for clip in clips)
    )
    assert len(addresses) == MAX_EMBEDDED_EXAMPLES


def test_the_beginning_of_a_long_sound_is_small(tmp_path: Path) -> None:
    clip = spoken(save(tmp_path / "a.wav", noise(40.0, rate=44_100), rate=44_100))
    (address,) = played(tmp_path / "page.html", looked_at(clip), clip.location)
    assert len(b64decode(address.split(",", 1)[1])) < 120_000
    assert "the first 10 s of 40.0 s" in (tmp_path / "page.html").read_text()


def test_what_cannot_be_played_has_no_player(tmp_path: Path) -> None:
    clips = [
        spoken(tmp_path / "gone.wav"),
        Example((Message("assistant", ("Prose.",)),), "p", "text"),
    ]
    assert played(tmp_path / "page.html", looked_at(*clips), "gone.wav", "p", "my.dlm:1") == []


@pytest.mark.parametrize("where", ["place", "text", "mend"])
def test_what_others_wrote_is_text(tmp_path: Path, where: str) -> None:
    evil = '"><script>alert(1)</script><img src=x onerror=alert(1)>'
    said = {"place": "a.wav", "text": "odd", "mend": "mend it"} | {where: evil}
    problem = Issue(said["place"], said["text"], said["mend"], fatal=True)
    page = tmp_path / "page.html"
    write_data_report(page, ABOUT, looked_at(), issues=[problem], transcription_check=None)
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text and "<img" not in text and "&lt;script&gt;" in text
    assert "default-src 'none'" in text


def test_bars_from_the_first_to_the_last() -> None:
    found = Histogram((-math.inf, 1.0, 2.0, 4.0, math.inf), (0, 2, 0, 4))
    told = [(bar.label, bar.count, bar.height) for bar in make_histogram_bars(found, "s")]
    assert told == [("1 to 2 s", 2, 0.5), ("2 to 4 s", 0, 0.0), ("above 4 s", 4, 1.0)]
    assert next(make_histogram_bars(Histogram((-math.inf, 1.0), (1,)), "dB")).label == "below 1 dB"
    assert list(make_histogram_bars(Histogram((0.0, 1.0), (0,)), "s")) == []


def test_a_page_of_nothing(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    write_data_report(page, ABOUT, looked_at(), issues=[], transcription_check=None)
    text = page.read_text()
    assert "Nothing is wrong that can be known without training." in text
    assert "No sound was heard." in text


def test_it_needs_no_torch() -> None:
    told = (
        "import sys, dlm.reports.data_report; print({'torch', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_the_same_clip_is_played_once(tmp_path: Path) -> None:
    clip = spoken(save(tmp_path / "a.wav", np.tile(noise(0.2), (3, 1))))
    assert len(played(tmp_path / "page.html", looked_at(clip), "a.wav", "a.wav")) == 1
