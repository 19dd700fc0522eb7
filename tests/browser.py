"""Opens a page in headless Chromium, which reaches nothing but this machine's files."""

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
QUIET_OPTIONS = ("--no-first-run", "--disable-background-networking", "--disable-component-update")
NO_NETWORK_OPTION = "--host-resolver-rules=MAP * ~NOTFOUND"
NO_INITIATOR = "not an origin"  # of requests by the browser itself, and not by a page


@dataclass(frozen=True)
class PageVisit:
    """What came of opening a page.

    Attributes:
        screenshot: PNG file.
        requests: URLs that the page requested; files and data within it are none.
        console: messages on its console.
    """

    screenshot: Path
    requests: tuple[str, ...]
    console: tuple[str, ...]


def open_page(page: Path, folder: Path, *, width: int = 900, height: int = 1200) -> PageVisit:
    """Open a page; screenshot and log are written into `folder`."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    assert browser, "no browser to open the page in; on Debian: apt-get install chromium"
    log, screenshot = folder / "net.json", folder / "page.png"
    done = subprocess.run(
        [
            *(browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
            *(*QUIET_OPTIONS, NO_NETWORK_OPTION, f"--user-data-dir={folder / 'profile'}"),
            *("--enable-logging=stderr", f"--log-net-log={log}", f"--screenshot={screenshot}"),
            *(f"--window-size={width},{height}", "--virtual-time-budget=3000", page.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0 and screenshot.is_file(), done.stderr
    events = [event.get("params", {}) for event in json.loads(log.read_text())["events"]]
    requests = [
        params["url"] for params in events if params.get("initiator", NO_INITIATOR) != NO_INITIATOR
    ]
    console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    return PageVisit(screenshot, tuple(requests), tuple(console))
