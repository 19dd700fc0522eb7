"""The paths of the store, the `DLM_HOME` variable, and which names may become a path.

$DLM_HOME/store/<dlm_id>/          default ~/.dlm
├── manifest.json                  list of versions for people; rebuilt from the versions
├── adapter/
│   ├── versions/v0001/            never modified after the commit; version.json is its record
│   └── current.txt                the version in use: "v0001"
├── blobs/<sha256>                 copies of recordings, where they are not too large
├── features/                      cached features
├── evaluations/                   scores of versions and the base on each held-out clip
├── runs/<id>/
│   ├── run.json  log.jsonl        what it started from; its events
│   └── state/                     checkpoint to resume from, while the run is unfinished
├── exports/                       exported folders, and a record of each export
└── lock                           held by the one process that writes
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from dlm.errors import StoreError

SAFE_NAME_RE = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]*")


def get_dlm_home() -> Path:
    """Return the folder of everything dlm stores: `DLM_HOME`, or `~/.dlm`."""
    return Path(os.environ.get("DLM_HOME") or "~/.dlm").expanduser().absolute()


def set_home_env(folder: Path) -> None:
    """Set `DLM_HOME` for this process and those it starts."""
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
        """The folder of the copies of recordings."""
        return self.root / "blobs"

    @property
    def features_dir(self) -> Path:
        """The folder of the cached features."""
        return self.root / "features"

    @property
    def evaluations_dir(self) -> Path:
        """The folder of the scores on each held-out clip."""
        return self.root / "evaluations"

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
        """The folder of a run. Raises StoreError (`store.bad_name`)."""
        return self.runs_dir / require_safe_name(run_id)

    def blob_path(self, sha256: str) -> Path:
        """The copy of a recording. Raises StoreError (`store.bad_name`)."""
        return self.blobs_dir / require_safe_name(sha256)

    def require_inside(self, path: Path) -> Path:
        """Return `path`, refused when it leads out of this store (`store.outside`)."""
        if not path.resolve().is_relative_to(self.root.resolve()):
            raise StoreError(
                "leads out of the store",
                where=str(path),
                hint="remove the link that leads out of it",
                code="store.outside",
            )
        return path


def get_store_layout(dlm_id: str, home_folder: Path | None = None) -> StoreLayout:
    """Return the layout of a document's store. Raises StoreError (`store.bad_name`)."""
    return StoreLayout((home_folder or get_dlm_home()) / "store" / require_safe_name(dlm_id))


def require_safe_name(name: str) -> str:
    """Return a name that is one component of a path. Raises StoreError (`store.bad_name`)."""
    if not SAFE_NAME_RE.fullmatch(name):
        raise StoreError(
            f"{name!r} cannot name a folder",
            hint="use letters and digits only",
            code="store.bad_name",
        )
    return name


def make_safe_name(text: str) -> str:
    """Turn any text into a name that is one component of a path."""
    return re.sub(r"[^0-9A-Za-z._-]+", "-", text).lstrip("._-") or "unnamed"
