"""Where everything is kept, and nothing else knows it.

$DLM_HOME/store/<dlm_id>/          default ~/.dlm
├── manifest.json                  what is kept, for people; made anew from the versions
├── adapter/
│   ├── versions/v0001/            never modified after commit; version.json is its record
│   └── current.txt                the version in use: "v0001"
├── blobs/<sha256>                 audio bytes as found, where they are not too many to copy
├── features/                      cached features
├── runs/<id>/
│   ├── run.json  log.jsonl        what it started from; what it said
│   └── state/                     what lets it go on, while it is unfinished
├── exports/                       folders, and a record of each export
└── lock                           held by the one process that writes
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from dlm.errors import StoreError

BLOB_BYTES = 4 << 30  # recordings that take more in all are not copied
NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]*")


def home() -> Path:
    """The folder of everything dlm keeps."""
    return Path(os.environ.get("DLM_HOME") or "~/.dlm").expanduser().absolute()


def keep_in(folder: Path) -> None:
    """Keep everything in `folder` from now on, this process and those it starts."""
    os.environ["DLM_HOME"] = str(folder)


@dataclass(frozen=True)
class Layout:
    """The paths of one document's store."""

    root: Path

    @property
    def manifest(self) -> Path:
        """The list of versions, for people."""
        return self.root / "manifest.json"

    @property
    def versions(self) -> Path:
        """The folder of the versions."""
        return self.root / "adapter" / "versions"

    @property
    def current(self) -> Path:
        """The file that names the version in use."""
        return self.root / "adapter" / "current.txt"

    @property
    def blobs(self) -> Path:
        """The folder of the audio bytes."""
        return self.root / "blobs"

    @property
    def features(self) -> Path:
        """The folder of the cached features."""
        return self.root / "features"

    @property
    def runs(self) -> Path:
        """The folder of the runs."""
        return self.root / "runs"

    @property
    def exports(self) -> Path:
        """The folder of the exports and their records."""
        return self.root / "exports"

    @property
    def lock(self) -> Path:
        """The file whose lock a writer holds."""
        return self.root / "lock"

    def version(self, number: int) -> Path:
        """The folder of a version, `v0001`."""
        return self.versions / f"v{number:04d}"

    def run(self, run: str) -> Path:
        """The folder of a run."""
        return self.runs / _one_name(run)

    def blob(self, sha256: str) -> Path:
        """The file of some audio bytes."""
        return self.blobs / _one_name(sha256)

    def inside(self, path: Path) -> Path:
        """`path`, refused when it leads out of this store."""
        if not path.resolve().is_relative_to(self.root.resolve()):
            raise StoreError(
                "leads out of the store", where=str(path), mend="remove what was put there by hand"
            )
        return path


def locate(dlm_id: str, home_folder: Path | None = None) -> Layout:
    """The layout of the document `dlm_id`'s store."""
    return Layout((home_folder or home()) / "store" / _one_name(dlm_id))


def _one_name(name: str) -> str:
    if not NAME.fullmatch(name):
        raise StoreError(f"{name!r} cannot name a folder", mend="use letters and digits only")
    return name
