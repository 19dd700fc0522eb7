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
from dlm.training.events import Skipped, Step
from dlm.use.export import write_base
from dlm.verbs.prepare import opened
from tests.command import dlm as command
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
    *events, version = dlm.train(path, steps=2)
    assert isinstance(version, Version)
    learned = [event for event in events if isinstance(event, Step | Skipped)]
    assert [type(event) for event in learned] == [Step, Step]
    document, base = opened(path)
    model = load_version(base, version.path, device="cpu")
    batch = batch_of(model, list(gather(document).clips))
    before = logits_of(model, batch)
    write_base(cast(Stitched, model), version, tmp_path / "out")
    again = load_base(read_facts(tmp_path / "out"))
    assert torch.equal(logits_of(again, batch), before)
    assert isinstance(
        "".join(dlm.prompt(path, "what?", audio=(tmp_path / "clips/0.wav",), max_tokens=3)), str
    )
    assert chat_of(again.tokenizer, again.base).placeholder == model.placeholder


def test_a_stitched_folder_is_the_base_it_was_stitched_from(tmp_path: Path) -> None:
    path = write_stitched(tmp_path, recipe("wavlm", "qformer", "gpt2"))
    done = command("stitch", path, "--out", tmp_path / "base")
    assert done.code == 0 and done.out.strip() == str(tmp_path / "base")
    document, base = opened(path)
    folder = read_facts(tmp_path / "base")
    assert (folder.key, folder.revision, folder.strides) == (base.key, base.revision, base.strides)
    model, again = load_base(base), load_base(folder)
    batch = batch_of(model, list(gather(document).clips))
    assert torch.equal(logits_of(again, batch), logits_of(model, batch))
    command("stitch", path, "--out", tmp_path / "base").refused("not empty")
    other = write_stitched(tmp_path / "other", str(tmp_path / "base"), adapter="projector")
    command("stitch", other, "--out", tmp_path / "more").refused("is a base already", code=2)
    *_, version = dlm.train(other, steps=1)
    assert load_version(base, version.path, device="cpu").base.recipe


def test_what_was_learned_over_the_document_is_shown_so(tmp_path: Path) -> None:
    missing = {**recipe(), "encoder": str(tmp_path / "nowhere")}
    path = write_stitched(tmp_path, missing, adapter="projector")
    asked = {"base_model.encoder": {"from_scratch": ENCODERS["whisper"]}}
    *_, version = dlm.train(path, steps=1, overrides=asked)
    assert dlm.show(path).base.key == version.base
