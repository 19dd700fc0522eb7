"""What `base_model` names, and the facts of it.

    sparrow                  a key of the catalogue
    hf:org/name[@revision]   a released model, or a base that `dlm export` wrote, on the hub
    ms:org/name[@revision]   the same, on ModelScope
    ./folder                 the same, on this machine; the path is relative to the document
    {encoder: ..., ...}      parts, which plan/stitch.py joins

What lies on this machine tells its own sizes, so that a plan is true before anything is loaded.
"""

from dataclasses import replace
from pathlib import Path

from dlm.config.model_schema import ComposedModelConfig
from dlm.plan.components import compose_model_spec
from dlm.plan.hub import (
    HF_PREFIX,
    MODELSCOPE_PREFIX,
    download_hub_file,
    fetch_tensor_index,
    find_cached_model,
    fingerprint_checkpoint,
    read_tensor_index,
    resolve_snapshot_dir,
)
from dlm.plan.model_ref import (
    derive_spec_from_checkpoint,
    find_catalog_spec,
    find_family_spec,
    is_composed_config,
    read_hf_config,
    read_license,
)
from dlm.plan.model_spec import (
    COMPOSED_MODEL_CONFIGS,
    MODEL_CATALOG,
    MODEL_SPEC_FILE,
    ModelSpec,
    read_model_spec,
)


def resolve_model_spec(name: str | ComposedModelConfig, folder: Path) -> ModelSpec:
    """The facts of what `base_model` names; a folder is relative to `folder`."""
    if isinstance(name, ComposedModelConfig):
        return compose_model_spec(name, folder)
    if name.startswith((HF_PREFIX, MODELSCOPE_PREFIX)):
        repository, _, revision = name.removeprefix(HF_PREFIX).partition("@")
        return _resolve_hub_spec(repository, revision or None)
    if name in COMPOSED_MODEL_CONFIGS:
        return replace(compose_model_spec(COMPOSED_MODEL_CONFIGS[name], folder), key=name)
    if name in MODEL_CATALOG:
        return _resolve_catalog_spec(MODEL_CATALOG[name])
    place = (folder / Path(name).expanduser()).absolute()
    if (place / MODEL_SPEC_FILE).is_file():
        return read_model_spec(place)
    return _resolve_local_spec(place) if place.is_dir() else find_catalog_spec(name)


def _resolve_catalog_spec(spec: ModelSpec) -> ModelSpec:
    """A row of the catalogue, with the sizes of the files where they lie in the cache."""
    folder = find_cached_model(spec.source, spec.revision) if spec.kind == "native" else None
    return (
        derive_spec_from_checkpoint(spec, read_hf_config(folder), read_tensor_index(folder))
        if folder
        else spec
    )


def _resolve_local_spec(path: Path) -> ModelSpec:
    config, weights = read_hf_config(path), read_tensor_index(path)
    base = derive_spec_from_checkpoint(find_family_spec(config, str(path)), config, weights)
    return replace(
        base,
        key=path.resolve().name,
        source=str(path),
        revision=fingerprint_checkpoint(path, weights),
        license=read_license(path),
    )


def _resolve_hub_spec(repository: str, requested: str | None) -> ModelSpec:
    folder = resolve_snapshot_dir(repository, requested)
    revision, config = folder.name, read_hf_config(folder)
    if is_composed_config(config):
        facts = read_model_spec(download_hub_file(repository, revision, MODEL_SPEC_FILE).parent)
        return replace(facts, source=repository, revision=revision)
    named = repository if repository.startswith(MODELSCOPE_PREFIX) else f"{HF_PREFIX}{repository}"
    row = find_family_spec(config, named, repository)
    complete = find_cached_model(repository, revision)
    weights = read_tensor_index(complete) if complete else fetch_tensor_index(repository, revision)
    return replace(
        derive_spec_from_checkpoint(row, config, weights),
        key=repository.rsplit("/", 1)[-1],
        source=repository,
        revision=revision,
        license=read_license(folder),
    )
