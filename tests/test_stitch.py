"""Any encoder, any projector, any language model: trained, saved, loaded and asked."""

from pathlib import Path
from typing import cast

import pytest
import torch

import dlm
from dlm.batches.forms import chat_of
from dlm.clips.sources import gather
from dlm.model.load import load_base, load_version
from dlm.model.stitched import Stitched
from dlm.plan.bases import read_facts
from dlm.store.facts import Version
from dlm.use.export import write_base
from dlm.verbs.prepare import opened
from tests.model.twin import batch_of, logits_of
from tests.stitched import ENCODERS, LMS, PROJECTORS, recipe, write_stitched

pytestmark = pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("projector", PROJECTORS)
@pytest.mark.parametrize("lm", LMS)
def test_every_pairing_learns_and_stays_itself(
    encoder: str, projector: str, lm: str, tmp_path: Path
) -> None:
    path = write_stitched(tmp_path, recipe(encoder, projector, lm), adapter="projector")
    *_, version = dlm.train(path, steps=2)
    assert isinstance(version, Version)
    document, base = opened(path)
    model = load_version(base, version.path, device="cpu")
    batch = batch_of(model, list(gather(document).clips))
    before = logits_of(model, batch)
    write_base(cast(Stitched, model), version, tmp_path / "out")
    again = load_base(read_facts(tmp_path / "out"))
    assert torch.equal(logits_of(again, batch), before)
    assert isinstance("".join(dlm.prompt(path, "what?", audio=(tmp_path / "clips/0.wav",), max_tokens=3)), str)
    assert chat_of(again.tokenizer, again.base).placeholder == model.placeholder
