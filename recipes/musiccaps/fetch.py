"""Fetch the clips of a MusicCaps table, by yt-dlp: only the spans, as far as they still exist.

    pip install 'dlm[fetch]'
    python recipes/musiccaps/fetch.py musiccaps-public.csv recordings

writes `<ytid>_<start>_<end>.flac` for each row into the folder, at 16 kHz and mono, the names that
`dlm` looks for. What is there is passed over, so the same command continues where it was stopped.
What is gone is counted, and written into `gone.txt`; `--retry` asks for it again. Fetch what you
may: the recordings belong to their makers.
"""

import argparse
import csv
import sys
from collections import Counter
from http import HTTPStatus
from pathlib import Path
from urllib.request import Request, urlopen

import av
import numpy as np
import soundfile
import yt_dlp

SAMPLE_RATE = 16_000
DEFAULT_URL = "https://www.youtube.com/watch?v={ytid}"
GONE_FILE = "gone.txt"
OPTIONS = {"format": "bestaudio/best", "quiet": True, "no_warnings": True, "noprogress": True}


def fetch_table(table: Path, folder: Path, *, url: str, retry: bool) -> Counter[str]:
    """Fetch every row that is not there; return how many were fetched, there, and gone."""
    folder.mkdir(parents=True, exist_ok=True)
    gone_file = folder / GONE_FILE
    gone = set() if retry or not gone_file.exists() else set(gone_file.read_text().split())
    counts: Counter[str] = Counter()
    with table.open(encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file):
            ytid, start, end = row["ytid"], float(row["start_s"]), float(row["end_s"])
            path = folder / f"{Path(ytid).name}_{start:g}_{end:g}.flac"
            if path.exists():
                outcome = "there"
            elif ytid in gone or not fetch_span(url.format(ytid=ytid), start, end, path):
                outcome = "gone"
                gone.add(ytid)
                gone_file.write_text("".join(f"{each}\n" for each in sorted(gone)))
            else:
                outcome = "fetched"
            counts[outcome] += 1
            print(f"{path.name}: {outcome}", flush=True)
    return counts


def fetch_span(url: str, start: float, end: float, path: Path) -> bool:
    """Fetch the seconds from `start` to `end` of a page's audio; False where it is gone."""
    try:
        with yt_dlp.YoutubeDL(OPTIONS) as downloader:
            info = downloader.extract_info(url, download=False)
        headers = "".join(f"{name}: {value}\r\n" for name, value in info["http_headers"].items())
        waveform = read_span(info["url"], headers, start, end)
    except (yt_dlp.utils.DownloadError, av.FFmpegError) as error:
        print(f"{url}: {' '.join(str(error).split())}", file=sys.stderr)
        return False
    if not len(waveform):
        return False
    pending = path.with_suffix(".pending")
    soundfile.write(pending, waveform, SAMPLE_RATE, format="FLAC")
    pending.replace(path)
    return True


def answers_ranges(url: str, headers: str) -> bool:
    """Tell whether a site sends part of a file: elsewhere a seek ends at another time than it says.

    A recording of such a site is decoded from its beginning.
    """
    lines = (line.partition(": ") for line in headers.splitlines())
    request = Request(url, headers={name: value for name, _, value in lines})
    request.add_header("Range", "bytes=0-0")
    try:
        with urlopen(request, timeout=60) as response:
            return bool(response.status == HTTPStatus.PARTIAL_CONTENT)
    except OSError:
        return False


def read_span(url: str, headers: str, start: float, end: float) -> np.ndarray:
    """Decode a span of a remote recording to mono, without what comes after it: (samples,)."""
    blocks: list[np.ndarray] = []
    first_time = None
    is_seekable = answers_ranges(url, headers)
    with av.open(url, options={"headers": headers}, timeout=60) as container:
        stream = container.streams.audio[0]
        resampler = av.AudioResampler("flt", "mono", SAMPLE_RATE)
        if is_seekable:
            container.seek(int(start * av.time_base))
        for frame in container.decode(stream):
            if frame.time >= end:
                break
            first_time = frame.time if first_time is None else first_time
            blocks += [each.to_ndarray()[0] for each in resampler.resample(frame)]
        blocks += [each.to_ndarray()[0] for each in resampler.resample(None)]
    waveform = np.concatenate([np.zeros(0, np.float32), *blocks])
    skipped = round((start - (first_time or 0.0)) * SAMPLE_RATE)
    return waveform[max(skipped, 0) :][: round((end - start) * SAMPLE_RATE)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("table", type=Path, help="musiccaps-public.csv")
    parser.add_argument("folder", type=Path, help="where the recordings go")
    parser.add_argument("--url", default=DEFAULT_URL, help="page of a row; {ytid} is its id")
    parser.add_argument("--retry", action="store_true", help="ask again for what was gone")
    args = parser.parse_args()
    counts = fetch_table(args.table, args.folder, url=args.url, retry=args.retry)
    print(", ".join(f"{counts[name]:,} {name}" for name in ("fetched", "there", "gone")))


if __name__ == "__main__":
    main()
