"""The manifest of an export: its metadata and the hashes of its files, and their verification.

    snapshot_manifest.json    what was exported from what; artifacts: path, sha256 and size of
                              every other file

Only files that are in the folder are opened, whatever a manifest lists.
"""

from datetime import UTC, datetime
from importlib.metadata import version as get_package_version
from pathlib import Path

from pydantic import BaseModel, ValidationError

from dlm.errors import StoreError
from dlm.io import hash_tree, read_regular_file
from dlm.plan.audio_lengths import count_audio_tokens
from dlm.plan.hub import MODELSCOPE_PREFIX
from dlm.plan.model_spec import ModelSpec
from dlm.store.layout import make_safe_name
from dlm.store.records import Version, dump_record_json
from dlm.store.versions import compare_hashes

EXPORT_MANIFEST_FILE = "snapshot_manifest.json"


class _Artifact(BaseModel):
    path: str
    sha256: str


class _ExportManifest(BaseModel):
    """What is verified of a manifest."""

    artifacts: list[_Artifact]


def get_export_name(spec: ModelSpec, version: Version) -> str:
    """Return the name of an export's folder in the store."""
    if spec.kind == "native":
        return "hf-audio-snapshot"
    return make_safe_name(f"{spec.key}-{version.name}")


def write_export_manifest(
    folder: Path, spec: ModelSpec, version: Version, *, target: str, architecture: str
) -> None:
    """Write the manifest of a folder that holds everything else.

    Args:
        folder: the export.
        spec: the base model.
        version: that was exported.
        target: kind of export, "hf_snapshot" or "stitched".
        architecture: name of the model's class.
    """
    manifest = {
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
        "created_by": f"dlm {get_package_version('dlm')}",
        "artifacts": [
            {"path": path, "sha256": sha256, "size_bytes": (folder / path).stat().st_size}
            for path, sha256 in hash_tree(folder).items()
        ],
    }
    (folder / EXPORT_MANIFEST_FILE).write_text(dump_record_json(manifest), encoding="utf-8")


def is_on_hub(spec: ModelSpec) -> bool:
    """Return whether the model has a name on the Hugging Face hub."""
    elsewhere = spec.source.startswith(MODELSCOPE_PREFIX) or Path(spec.source).is_absolute()
    return spec.kind == "native" and not elsewhere


def verify_export(folder: Path) -> tuple[int, tuple[str, ...]]:
    """Hash the files of an export again.

    Returns:
        How many files the manifest lists, and a line for each that is not as it was written.

    Raises:
        StoreError: there is no manifest (`store.no_manifest`), or it cannot be read
            (`store.bad_manifest`).
    """
    listed = _read_artifact_hashes(folder)
    hashes = hash_tree(folder)
    hashes.pop(EXPORT_MANIFEST_FILE)
    lines = []
    for name, change in compare_hashes(listed, hashes):
        if change == "was changed":
            change += f", its sha256 is {hashes[name]}, not {listed[name]}"
        lines.append(f"{name}: {change}")
    return len(listed), tuple(lines)


def _read_artifact_hashes(folder: Path) -> dict[str, str]:
    path = folder / EXPORT_MANIFEST_FILE
    try:
        manifest = _ExportManifest.model_validate_json(read_regular_file(path))
    except FileNotFoundError as error:
        raise StoreError(
            f"there is no {EXPORT_MANIFEST_FILE}",
            where=str(folder),
            hint="name a folder that `dlm export` wrote",
            code="store.no_manifest",
        ) from error
    except (OSError, ValidationError) as error:
        hint = "export it again"
        raise StoreError(
            "cannot be read", where=str(path), hint=hint, code="store.bad_manifest"
        ) from error
    return {artifact.path: artifact.sha256 for artifact in manifest.artifacts}
