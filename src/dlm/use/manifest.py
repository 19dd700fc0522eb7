"""What an exported folder says of its files, so that whoever gets it can see that it is whole.

    snapshot_manifest.json    what was exported, from what; artifacts: path, sha256 and size of
                              every other file

Only names that are in the folder are opened, whatever a manifest says.
"""

from datetime import UTC, datetime
from importlib.metadata import version as installed
from pathlib import Path

from pydantic import BaseModel, ValidationError

from dlm.errors import StoreError
from dlm.files import hash_tree
from dlm.plan.bases import Base
from dlm.plan.frames import tokens
from dlm.plan.scope import SCOPE
from dlm.store.facts import Version, to_json

MANIFEST = "snapshot_manifest.json"


class _Artifact(BaseModel):
    path: str
    sha256: str


class _Listed(BaseModel):
    """The part of a manifest that is checked."""

    artifacts: list[_Artifact]


def folder_name(base: Base, version: Version) -> str:
    """What an export is called in the store."""
    return "hf-audio-snapshot" if base.kind == "native" else f"{base.key}-{version.name}"


def write_manifest(
    folder: Path, base: Base, version: Version, *, target: str, architecture: str
) -> None:
    """Write down every file of the folder, and where it all comes from."""
    facts = {
        "export_target": target,
        "base_model": base.key,
        "base_model_hf_id": base.source if on_hub(base) else None,
        "base_model_revision": base.revision,
        "base_model_architecture": architecture,
        "base_model_license": base.license,
        "modality": "audio-language",
        "audio_token": base.placeholder,
        "num_audio_tokens": tokens(base.strides.window, base.strides),
        "sample_rate": base.strides.rate,
        "max_length_seconds": base.strides.window_seconds,
        "adapter_version": version.number,
        "scores": version.scores,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "created_by": f"dlm {installed('dlm')}",
        "artifacts": [
            {"path": path, "sha256": sha256, "size_bytes": (folder / path).stat().st_size}
            for path, sha256 in hash_tree(folder).items()
        ],
    }
    (folder / MANIFEST).write_text(to_json(facts), encoding="utf-8")


def on_hub(base: Base) -> bool:
    """Whether the base's weights have a name on the hub."""
    elsewhere = base.source.startswith(SCOPE) or Path(base.source).is_absolute()
    return base.kind == "native" and not elsewhere


def differences(folder: Path) -> tuple[int, tuple[str, ...]]:
    """How many files the manifest lists, and one line for each that is not as it was written."""
    listed = _listed(folder)
    there = hash_tree(folder)
    there.pop(MANIFEST)
    lines = []
    for name in sorted(listed.keys() | there.keys()):
        if name not in there:
            lines.append(f"{name}: is gone")
        elif name not in listed:
            lines.append(f"{name}: was added")
        elif there[name] != listed[name]:
            lines.append(f"{name}: was changed, its sha256 is {there[name]}, not {listed[name]}")
    return len(listed), tuple(lines)


def _listed(folder: Path) -> dict[str, str]:
    """The sha256 of each file, as the manifest has it."""
    file = folder / MANIFEST
    try:
        found = _Listed.model_validate_json(file.read_bytes())
    except FileNotFoundError as error:
        mend = "name a folder that `dlm export` wrote"
        raise StoreError(f"there is no {MANIFEST}", where=str(folder), mend=mend) from error
    except (OSError, ValidationError) as error:
        raise StoreError("cannot be read", where=str(file), mend="export it again") from error
    return {each.path: each.sha256 for each in found.artifacts}
