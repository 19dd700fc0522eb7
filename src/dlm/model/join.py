"""From a recipe to a base: each part with its own weights, and a fresh projector between them.

    source of a part    sparrow, or another stitched base    its tensors of that part
                        a released model                     as transformers loads it
                        ""                                   random, the same each time

A projector may be a saved one, too: that of a base, or of a version that learned it.
"""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from dlm.batches.words import words_for
from dlm.errors import BaseError
from dlm.model.adapters import read_tensors
from dlm.model.checkpoint import check_finite, load_native, placed
from dlm.model.ears import load_encoder
from dlm.model.projector import calibrate
from dlm.model.stitched import WEIGHTS, Stitched, place_tensors, read_stitched
from dlm.plan.bases import FACTS, Base, Part, Recipe
from dlm.plan.derive import read_config, row_of
from dlm.plan.hub import fetch, fetch_words, place_of
from dlm.plan.minds import BYTES, OWN
from dlm.plan.parts import hears
from dlm.plan.weights import read_weights

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
        _fill(model.projector, _saved(saved), "projector.")
    else:
        calibrate(model.projector, model.words.get_parameter("weight"))
    return model.eval()


def words(base: Base, recipe: Recipe) -> PreTrainedTokenizerBase:
    """The tokenizer of a recipe; no weights are fetched for it."""
    part = recipe.lm
    if recipe.tokenizer == BYTES:
        return words_for(base, None)
    if recipe.tokenizer != OWN:
        return words_for(base, Path(recipe.tokenizer))
    return words_for(base, _here(part) or fetch_words(part.source, part.revision))


def _saved(source: str) -> Path:
    """The folder of a saved projector."""
    name, _, revision = (source, "", "") if Path(source).is_absolute() else source.partition("@")
    return place_of(name, revision or None) or fetch(name, revision or None)


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
    if hears(read_config(folder)):
        return _lm_of_native(folder, part, dtype)
    check_finite(folder, read_weights(folder))
    return placed(AutoModelForCausalLM, folder, {"dtype": dtype})


def _lm_of_native(folder: Path, part: Part, dtype: torch.dtype) -> PreTrainedModel:
    """The language model of a released model that hears, by itself."""
    whole = load_native(folder, row_of(read_config(folder), str(folder)), dtype=dtype)
    lm: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model(**part.config))
    lm.base_model.load_state_dict(whole.decoder.state_dict())
    lm.get_output_embeddings().load_state_dict(whole.head.state_dict())
    alone: PreTrainedModel = lm.to(dtype)
    return alone


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
