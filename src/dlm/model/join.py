"""From a recipe to a base: each part with its own weights, and a fresh projector between them.

    source of a part    sparrow, or another stitched base    its tensors of that part
                        a released model                     as transformers loads it
                        ""                                   random, the same each time
"""

from importlib.resources import files
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from dlm.batches.words import words_for
from dlm.errors import BaseError
from dlm.model.adapters import read_tensors
from dlm.model.checkpoint import check_finite, placed
from dlm.model.encoder import load_encoder
from dlm.model.projector import calibrate
from dlm.model.stitched import WEIGHTS, Stitched, place_tensors, read_stitched
from dlm.plan.bases import FACTS, Base, Part, Recipe
from dlm.plan.hub import fetch, fetch_words, snapshot
from dlm.plan.weights import read_weights

EMBEDDED = "embedded:"
SEED = 0  # of what has no weights yet: the same recipe is the same base


def join(base: Base, recipe: Recipe, *, dtype: torch.dtype = torch.float32) -> Stitched:
    """The base that a recipe describes, in evaluation mode; a released LM is read in `dtype`.

    Raises BaseError naming what is missing, misshapen or not finite.
    """
    config = {
        "encoders": [{"config": part.config, "layer": part.layer} for part in recipe.encoders],
        "projector": {name: each for name, each in recipe.projector.items() if name != "source"},
        "lm": recipe.lm.config,
    }
    lm = _lm(recipe.lm, dtype)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = Stitched(base, config, words(base, recipe), lm)
    for ear, part in zip(model.ears, recipe.encoders, strict=True):
        _fill_encoder(ear, part)
    saved = recipe.projector.get("source")
    if saved:
        _fill(model.projector, Path(saved), "projector.")
    else:
        calibrate(model.projector, model.words.get_parameter("weight"))
    return model.eval()


def words(base: Base, recipe: Recipe) -> PreTrainedTokenizerBase:
    """The tokenizer of a recipe; no weights are fetched for it."""
    part = recipe.lm
    if recipe.tokenizer == "bytes":
        return words_for(base, None)
    return words_for(base, _here(part) or fetch_words(part.source, part.revision))


def place_of(source: str, revision: str | None) -> Path | None:
    """Where what a `source` names lies on this machine, if it does."""
    if source.startswith(EMBEDDED):
        return Path(str(files("dlm.model"))) / source.removeprefix(EMBEDDED)
    place = Path(source)
    return place if place.is_absolute() else snapshot(source, revision)


def _here(part: Part) -> Path | None:
    return place_of(part.source, part.revision)


def _fetched(part: Part) -> Path:
    """Where a part's weights lie, fetched when they are not here yet."""
    return _here(part) or fetch(part.source, part.revision)


def _lm(part: Part, dtype: torch.dtype) -> PreTrainedModel | None:
    """The language model with its weights; None for a random one."""
    if not part.source:
        return None
    folder = _fetched(part)
    if (folder / FACTS).is_file():
        lm: PreTrainedModel = AutoModelForCausalLM.from_config(AutoConfig.for_model(**part.config))
        _fill(lm, folder, "lm.")
        return lm
    check_finite(folder, read_weights(folder))
    return placed(AutoModelForCausalLM, folder, {"dtype": dtype})


def _fill_encoder(ear: nn.Module, part: Part) -> None:
    """Put an encoder's weights into it, where it has any."""
    if not part.source:
        return
    folder = _fetched(part)
    if (folder / FACTS).is_file():
        _fill(ear, folder, "encoder.")
    else:
        ear.load_state_dict(load_encoder(folder, part.config).state_dict())


def _fill(part: nn.Module, folder: Path, prefix: str) -> None:
    """The tensors of one part of a stitched base, or of a version that learned it."""
    whole = (folder / WEIGHTS).is_file()
    every = read_stitched(folder) if whole else read_tensors(folder)
    tensors = {
        name.removeprefix(prefix): each for name, each in every.items() if name.startswith(prefix)
    }
    if not tensors:
        raise BaseError(f"holds no {prefix[:-1]}", where=str(folder), mend="name another folder")
    place_tensors(part, tensors, str(folder))
