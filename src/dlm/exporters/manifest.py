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
from dlm.io import hash_tree
from dlm.plan.audio_lengths import count_audio_tokens
from dlm.plan.hub import MODELSCOPE_PREFIX
from dlm.plan.model_spec import ModelSpec
from dlm.store.records import Version, dump_record_json

EXPORT_MANIFEST_FILE = "snapshot_manifest.json"


class _Artifact(BaseModel):
    path: str
    sha256: str


class _ExportManifest(BaseModel):
    """The part of a manifest that is checked."""

    artifacts: list[_Artifact]


def get_export_name(spec: ModelSpec, version: Version) -> str:
    """What an export is called in the store."""
    return "hf-audio-snapshot" if spec.kind == "native" else f"{spec.key}-{version.name}"


def write_export_manifest(
    folder: Path, spec: ModelSpec, version: Version, *, target: str, architecture: str
) -> None:
    """Write down every file of the folder, and where it all comes from."""
    facts = {
        "export_target": target,
        "base_model": spec.key,
        "base_model_hf_id": spec.source if is_on_hub(spec) else None,
        "base_model_revision": spec.revision,
        "base_model_architecture": architecture,
        "base_model_license": spec.license,
        "modality": "audio-language",
        "audio_token": spec.placeholder,
        "num_audio_tokens": count_audio_tokens(spec.audio_spec.window_samples, spec.audio_spec),
        "sample_rate": spec.audio_spec.sample_rate,
        "max_length_seconds": spec.audio_spec.window_seconds,
        "adapter_version": version.number,
        "scores": version.scores,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "created_by": f"dlm {installed('dlm')}",
        "artifacts": [
            {"path": path, "sha256": sha256, "size_bytes": (folder / path).stat().st_size}
            for path, sha256 in hash_tree(folder).items()
        ],
    }
    (folder / EXPORT_MANIFEST_FILE).write_text(dump_record_json(facts), encoding="utf-8")


def is_on_hub(spec: ModelSpec) -> bool:
    """Whether the base's weights have a name on the hub."""
    elsewhere = spec.source.startswith(MODELSCOPE_PREFIX) or Path(spec.source).is_absolute()
    return spec.kind == "native" and not elsewhere


def verify_export(folder: Path) -> tuple[int, tuple[str, ...]]:
    """How many files the manifest lists, and one line for each that is not as it was written."""
    listed = _read_artifact_hashes(folder)
    there = hash_tree(folder)
    there.pop(EXPORT_MANIFEST_FILE)
    lines = []
    for name in sorted(listed.keys() | there.keys()):
        if name not in there:
            lines.append(f"{name}: is gone")
        elif name not in listed:
            lines.append(f"{name}: was added")
        elif there[name] != listed[name]:
            lines.append(f"{name}: was changed, its sha256 is {there[name]}, not {listed[name]}")
    return len(listed), tuple(lines)


def _read_artifact_hashes(folder: Path) -> dict[str, str]:
    """The sha256 of each file, as the manifest has it."""
    file = folder / EXPORT_MANIFEST_FILE
    try:
        found = _ExportManifest.model_validate_json(file.read_bytes())
    except FileNotFoundError as error:
        mend = "name a folder that `dlm export` wrote"
        raise StoreError(
            f"there is no {EXPORT_MANIFEST_FILE}", where=str(folder), hint=mend
        ) from error
    except (OSError, ValidationError) as error:
        raise StoreError("cannot be read", where=str(file), hint="export it again") from error
    return {each.path: each.sha256 for each in found.artifacts}
