"""Any encoder, any projector, any language model: trained, saved, loaded and asked."""

from pathlib import Path
from typing import cast

import pytest
import torch

import dlm
from dlm.batching.mistral_chat import build_chat_encoder
from dlm.commands.preflight import resolve_document
from dlm.data.load import load_examples
from dlm.exporters.merged import write_merged_model
from dlm.models.composed import ComposedAudioLM
from dlm.models.load import load_base_model, load_version
from dlm.plan.model_spec import read_model_spec
from dlm.store.records import Version
from dlm.training.events import StepCompleted, StepSkipped
from tests.cli_runner import dlm as command
from tests.composed_models import (
    ENCODERS,
    LMS,
    PROJECTORS,
    make_base_model_field,
    write_composed_document,
)
from tests.models.batches import compute_all_logits, make_batch

pytestmark = pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("projector", PROJECTORS)
@pytest.mark.parametrize("lm", LMS)
def test_every_pairing_learns_and_stays_itself(
    encoder: str, projector: str, lm: str, tmp_path: Path
) -> None:
    path = write_composed_document(
        tmp_path, make_base_model_field(encoder, projector, lm), adapter="projector"
    )
    *events, version = dlm.train(path, steps=2)
    assert isinstance(version, Version)
    learned = [event for event in events if isinstance(event, StepCompleted | StepSkipped)]
    assert [type(event) for event in learned] == [StepCompleted, StepCompleted]
    document, base = resolve_document(path)
    model = load_version(base, version.path, device="cpu")
    batch = make_batch(model, list(load_examples(document).examples))
    before = compute_all_logits(model, batch)
    write_merged_model(cast(ComposedAudioLM, model), version, tmp_path / "out")
    again = load_base_model(read_model_spec(tmp_path / "out"))
    assert torch.equal(compute_all_logits(again, batch), before)
    assert isinstance(
        "".join(dlm.prompt(path, "what?", audio=(tmp_path / "clips/0.wav",), max_tokens=3)), str
    )
    assert build_chat_encoder(again.tokenizer, again.spec).audio_token_id == model.audio_token_id


def test_a_stitched_folder_is_the_base_it_was_stitched_from(tmp_path: Path) -> None:
    path = write_composed_document(tmp_path, make_base_model_field("wavlm", "qformer", "gpt2"))
    done = command("stitch", path, "--out", tmp_path / "base")
    assert done.code == 0 and done.out.strip() == str(tmp_path / "base")
    document, base = resolve_document(path)
    folder = read_model_spec(tmp_path / "base")
    assert (folder.key, folder.revision, folder.audio_spec) == (
        base.key,
        base.revision,
        base.audio_spec,
    )
    model, again = load_base_model(base), load_base_model(folder)
    batch = make_batch(model, list(load_examples(document).examples))
    assert torch.equal(compute_all_logits(again, batch), compute_all_logits(model, batch))
    command("stitch", path, "--out", tmp_path / "base").refused("not empty")
    other = write_composed_document(tmp_path / "other", str(tmp_path / "base"), adapter="projector")
    command("stitch", other, "--out", tmp_path / "more").refused("is a base already", code=2)
    *_, version = dlm.train(other, steps=1)
    assert load_version(base, version.path, device="cpu").spec.composition


def test_what_was_learned_over_the_document_is_shown_so(tmp_path: Path) -> None:
    missing = {**make_base_model_field(), "encoder": str(tmp_path / "nowhere")}
    path = write_composed_document(tmp_path, missing, adapter="projector")
    asked = {"base_model.encoder": {"from_scratch": ENCODERS["whisper"]}}
    *_, version = dlm.train(path, steps=1, overrides=asked)
    assert dlm.show(path).spec.key == version.base
