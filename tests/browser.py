"""A page in a real browser: headless Chromium, which reaches nothing but this machine's files."""

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome")
QUIET = ("--no-first-run", "--disable-background-networking", "--disable-component-update")
NOWHERE = "--host-resolver-rules=MAP * ~NOTFOUND"
ITS_OWN = "not an origin"  # who asks, where it is the browser itself and no page


@dataclass(frozen=True)
class Visit:
    """What came of opening a page: its picture, what it asked of a network, what its console said.

    Files and data within the page are no requests of a network.
    """

    screenshot: Path
    requests: tuple[str, ...]
    console: tuple[str, ...]


def visit(page: Path, folder: Path, *, width: int = 900, height: int = 1200) -> Visit:
    """Open a page, and keep what it looks like in `folder`."""
    browser = next(filter(None, map(shutil.which, NAMES)), None)
    assert browser, "no browser to open the page in; on Debian: apt-get install chromium"
    log, screenshot = folder / "net.json", folder / "page.png"
    done = subprocess.run(
        [
            *(browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
            *(*QUIET, NOWHERE, f"--user-data-dir={folder / 'profile'}"),
            *("--enable-logging=stderr", f"--log-net-log={log}", f"--screenshot={screenshot}"),
            *(f"--window-size={width},{height}", "--virtual-time-budget=3000", page.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0 and screenshot.is_file(), done.stderr
    told = [event.get("params", {}) for event in json.loads(log.read_text())["events"]]
    asked = [each["url"] for each in told if each.get("initiator", ITS_OWN) != ITS_OWN]
    said = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    return Visit(screenshot, tuple(asked), tuple(said))
