"""recipes/musiccaps/fetch.py on a site of this machine: spans, resumed, what is gone."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.data.readers.source_loading import load_source

SCRIPT = Path(__file__).parents[2] / "recipes" / "musiccaps" / "fetch.py"
COLUMNS = "ytid,start_s,end_s,caption,is_audioset_eval\n"


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    """A site with a recording whose second n is a tone of 100 (n + 1) Hz."""
    folder = tmp_path / "site"
    folder.mkdir()
    time = np.arange(16_000) / 16_000
    tones = [0.3 * np.sin(2 * np.pi * 100 * (second + 1) * time) for second in range(12)]
    soundfile.write(folder / "AAAAAAAAAAA.wav", np.concatenate(tones), 16_000)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/{{ytid}}.wav"
    server.shutdown()
    server.server_close()


def fetch(folder: Path, site: str, *options: str) -> str:
    arguments = [folder / "musiccaps.csv", folder / "recordings", "--url", site, *options]
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]


def test_spans_are_fetched_resumed_and_counted(tmp_path: Path, site: str) -> None:
    rows = "AAAAAAAAAAA,3,5,low notes,False\nAAAAAAAAAAA,7,9,high notes,False\n"
    rows += "BBBBBBBBBBB,0,10,what is gone,False\n"
    (tmp_path / "musiccaps.csv").write_text(COLUMNS + rows)
    assert fetch(tmp_path, site) == "2 fetched, 0 there, 1 gone"
    for start in (3, 7):
        path = tmp_path / f"recordings/AAAAAAAAAAA_{start}_{start + 2}.flac"
        samples, rate = soundfile.read(path)
        assert (len(samples), rate) == (32_000, 16_000)
        for second in (0, 1):
            spectrum = np.abs(np.fft.rfft(samples[second * 16_000 :][:16_000]))
            assert spectrum.argmax() == pytest.approx(100 * (start + second + 1), abs=2)
    (tmp_path / "recordings/AAAAAAAAAAA_7_9.flac").unlink()
    assert fetch(tmp_path, site) == "1 fetched, 1 there, 1 gone"
    assert fetch(tmp_path, site, "--retry") == "0 fetched, 2 there, 1 gone"
    assert (tmp_path / "recordings/gone.txt").read_text() == "BBBBBBBBBBB\n"
    data = load_source(tmp_path, {"path": "musiccaps.csv", "audio": "recordings"})
    assert [example.target for example in data.examples] == ["low notes", "high notes"]
    assert data.sources[0].skipped_rows_no_audio == 1
