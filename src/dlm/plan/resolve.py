"""From `base_model` to a ModelSpec: what each form of the field names.

    sparrow                  a key of the catalog
    hf:org/name[@revision]   a released model, or one that `dlm export` wrote, on the hub
    ms:org/name[@revision]   the same, on ModelScope
    ./folder                 the same, on this machine; relative to the document
    {encoder: ..., ...}      components, which plan/components.py puts together

Sizes are those of the config and the weight files where these can be read, so that the plan is
right before anything is loaded.
"""

from dataclasses import replace
from pathlib import Path

from dlm.config.model_schema import ComposedModelConfig
from dlm.plan.components import TOKENIZER_CONFIG_FILE, compose_model_spec
from dlm.plan.hub import find_cached_model
from dlm.plan.model_ref import (
    derive_spec_from_checkpoint,
    find_family_spec,
    is_hub_model_name,
    read_hf_config,
    read_languages,
    resolve_model_ref,
)
from dlm.plan.model_spec import (
    COMPOSED_MODEL_CONFIGS,
    MODEL_CATALOG,
    MODEL_SPEC_FILE,
    ModelSpec,
    make_end_placeholder_error,
    read_model_spec,
)
from dlm.plan.safetensors_index import (
    HF_CONFIG_FILE,
    WEIGHTS_FILE,
    read_json_object,
    read_tensor_index,
)


def resolve_model_spec(name: str | ComposedModelConfig, folder: Path) -> ModelSpec:
    """Return the spec of what `base_model` names.

    Args:
        name: the field of the document.
        folder: what a path is relative to.

    Raises:
        ModelError: there is no such model, it cannot be read, or its components do not fit
            (`model.*`); a hub does not give it (`hub.*`).
    """
    if isinstance(name, ComposedModelConfig):
        return compose_model_spec(name, folder)
    if name in COMPOSED_MODEL_CONFIGS:
        return replace(compose_model_spec(COMPOSED_MODEL_CONFIGS[name], folder), key=name)
    if name in MODEL_CATALOG:
        return _resolve_catalog_spec(MODEL_CATALOG[name])
    on_hub, path = is_hub_model_name(name), (folder / Path(name).expanduser()).absolute()
    if not on_hub and (path / MODEL_SPEC_FILE).is_file():
        spec = read_model_spec(path)
        _check_composed_folder(path, spec)
        return spec
    model_ref = resolve_model_ref(name, folder)
    source, revision = model_ref.source, model_ref.revision
    if model_ref.spec is not None:
        return replace(model_ref.spec, source=source, revision=revision)
    where = name.partition("@")[0] if on_hub else source
    family_spec = find_family_spec(model_ref.config, where, source)
    spec = derive_spec_from_checkpoint(family_spec, model_ref.config, model_ref.tensor_index)
    if spec.is_encoder_decoder:
        spec = replace(spec, languages=read_languages(model_ref, spec))
    return replace(
        spec,
        key=source.rsplit("/", 1)[-1] if on_hub else path.resolve().name,
        source=source,
        revision=revision,
        license=model_ref.license,
    )


def _check_composed_folder(folder: Path, spec: ModelSpec) -> None:
    """Refuse what loading a composed model would fail on, from the headers of its files.

    Raises:
        ModelError: a file is damaged (`model.damaged_checkpoint`), or its placeholder ends a turn
            (`model.no_placeholder`).
    """
    if (folder / WEIGHTS_FILE).exists():  # cached features need no weights
        read_tensor_index(folder)
    if (folder / HF_CONFIG_FILE).exists():
        read_json_object(folder / HF_CONFIG_FILE)
    if not (folder / TOKENIZER_CONFIG_FILE).exists():
        return
    end_token = read_json_object(folder / TOKENIZER_CONFIG_FILE).get("eos_token")
    if isinstance(end_token, dict):
        end_token = end_token.get("content")
    if end_token == spec.placeholder:
        raise make_end_placeholder_error(spec, str(folder))


def _resolve_catalog_spec(spec: ModelSpec) -> ModelSpec:
    """A spec of the catalog, with the sizes of the weight files where the cache has them."""
    folder = find_cached_model(spec.source, spec.revision) if spec.kind == "native" else None
    if folder is None:
        return spec
    return derive_spec_from_checkpoint(spec, read_hf_config(folder), read_tensor_index(folder))
