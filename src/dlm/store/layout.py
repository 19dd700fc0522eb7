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

MAX_BLOB_BYTES = 4 << 30  # recordings that take more in all are not copied
SAFE_NAME_RE = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]*")


def get_dlm_home() -> Path:
    """The folder of everything dlm keeps."""
    return Path(os.environ.get("DLM_HOME") or "~/.dlm").expanduser().absolute()


def set_home_env(folder: Path) -> None:
    """Keep everything in `folder` from now on, this process and those it starts."""
    os.environ["DLM_HOME"] = str(folder)


@dataclass(frozen=True)
class StoreLayout:
    """The paths of one document's store."""

    root: Path

    @property
    def manifest_path(self) -> Path:
        """The list of versions, for people."""
        return self.root / "manifest.json"

    @property
    def versions_dir(self) -> Path:
        """The folder of the versions."""
        return self.root / "adapter" / "versions"

    @property
    def current_path(self) -> Path:
        """The file that names the version in use."""
        return self.root / "adapter" / "current.txt"

    @property
    def blobs_dir(self) -> Path:
        """The folder of the audio bytes."""
        return self.root / "blobs"

    @property
    def features_dir(self) -> Path:
        """The folder of the cached features."""
        return self.root / "features"

    @property
    def runs_dir(self) -> Path:
        """The folder of the runs."""
        return self.root / "runs"

    @property
    def exports_dir(self) -> Path:
        """The folder of the exports and their records."""
        return self.root / "exports"

    @property
    def lock_path(self) -> Path:
        """The file whose lock a writer holds."""
        return self.root / "lock"

    def version_dir(self, number: int) -> Path:
        """The folder of a version, `v0001`."""
        return self.versions_dir / f"v{number:04d}"

    def run_dir(self, run_id: str) -> Path:
        """The folder of a run."""
        return self.runs_dir / _require_safe_name(run_id)

    def blob_path(self, sha256: str) -> Path:
        """The file of some audio bytes."""
        return self.blobs_dir / _require_safe_name(sha256)

    def require_inside(self, path: Path) -> Path:
        """`path`, refused when it leads out of this store."""
        if not path.resolve().is_relative_to(self.root.resolve()):
            raise StoreError(
                "leads out of the store", where=str(path), hint="remove what was put there by hand"
            )
        return path


def get_store_layout(dlm_id: str, home_folder: Path | None = None) -> StoreLayout:
    """The layout of the document `dlm_id`'s store."""
    return StoreLayout((home_folder or get_dlm_home()) / "store" / _require_safe_name(dlm_id))


def _require_safe_name(name: str) -> str:
    if not SAFE_NAME_RE.fullmatch(name):
        raise StoreError(f"{name!r} cannot name a folder", hint="use letters and digits only")
    return name
