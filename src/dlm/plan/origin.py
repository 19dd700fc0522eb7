"""What lies at a source, before any of it is fetched: its class, its revision, its licence.

sparrow                  a key of the catalogue
hf:org/name[@revision]   a model on the hub
ms:org/name[@revision]   a model on ModelScope
./folder                 on this machine
"""

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from dlm.errors import BaseError
from dlm.plan.bases import FACTS, Base, read_facts
from dlm.plan.catalogue import CATALOGUE
from dlm.plan.derive import Config, licence_of, read_config
from dlm.plan.hub import SCHEME, file_if_any, file_on_hub, place_of, settle, weights_on_hub
from dlm.plan.recipes import RECIPES
from dlm.plan.scope import SCOPE
from dlm.plan.weights import Weights, fingerprint, read_weights


@dataclass(frozen=True)
class Origin:
    """What a source names: `named` as it was written, `key` in short, `config` beside its weights.

    `source` is as a Part has it. `facts` are those of a stitched base.
    """

    named: str
    key: str
    source: str
    revision: str
    config: Config
    license: str
    facts: Base | None = None

    @property
    def weights(self) -> Weights:
        """Its tensors; of what is not here yet, only the heads of the files are fetched."""
        place = place_of(self.source, self.revision)
        return read_weights(place) if place else weights_on_hub(self.source, self.revision)

    def file(self, name: str) -> Path | None:
        """One small file of it, if it has one."""
        place = place_of(self.source, self.revision)
        if place is None:
            return file_if_any(self.source, self.revision, name)
        return place / name if (place / name).is_file() else None


def find(name: str) -> Base:
    """The row called `name`. Raises BaseError with the nearest key when there is none."""
    if name in CATALOGUE:
        return CATALOGUE[name]
    near = get_close_matches(name, CATALOGUE, n=1)
    known = ", ".join(sorted(CATALOGUE))
    mend = f"known bases: {known}, {SCHEME}org/name, {SCOPE}org/name, or a local folder"
    if near:
        mend = f"did you mean {near[0]}?"
    elif name.count("/") == 1 and name[0].isalnum():
        mend = f"did you mean {SCHEME}{name}?"
    raise BaseError(f"unknown base '{name}'", mend=mend)


def origin_of(name: str, folder: Path) -> Origin:
    """What `name` names; a path is relative to `folder`. Raises BaseError where it is nothing."""
    if name.startswith((SCHEME, SCOPE)):
        repository, _, revision = name.removeprefix(SCHEME).partition("@")
        return _on_hub(name, repository, revision or None)
    if name in CATALOGUE:
        return _of_row(CATALOGUE[name])
    place = (folder / Path(name).expanduser()).absolute()
    return _in_folder(name, place) if place.is_dir() else _of_row(find(name))


def is_stitched(config: Config) -> bool:
    """Whether a config is that of a stitched base."""
    return "model_type" not in config and "encoders" in config


def _on_hub(name: str, repository: str, asked: str | None) -> Origin:
    folder = settle(repository, asked)
    revision, config = folder.name, read_config(folder)
    facts = None
    if is_stitched(config):
        facts = read_facts(file_on_hub(repository, revision, FACTS).parent)
    return Origin(
        named=name,
        key=repository.rsplit("/", 1)[-1].lower(),
        source=repository,
        revision=revision,
        config=config,
        license=facts.license if facts else licence_of(folder),
        facts=facts,
    )


def _of_row(row: Base) -> Origin:
    if row.key in RECIPES:
        mend = "name its parts, or begin with it: like: " + row.key
        raise BaseError(f"{row.key} is stitched from parts as it is loaded", mend=mend)
    embedded = row.kind == "stitched"
    place = place_of(row.source, None) if embedded else settle(row.source, row.revision)
    return Origin(
        named=row.key,
        key=row.key,
        source=row.source,
        revision=str(row.revision),
        config=read_config(place) if place else {},
        license=row.license,
        facts=row if embedded else None,
    )


def _in_folder(name: str, place: Path) -> Origin:
    config = read_config(place)
    facts = read_facts(place) if is_stitched(config) else None
    return Origin(
        named=name,
        key=place.resolve().name.lower(),
        source=str(place),
        revision=fingerprint(place, read_weights(place)),
        config=config,
        license=facts.license if facts else licence_of(place),
        facts=facts,
    )
