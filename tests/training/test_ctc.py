"""CTC: its loss is that of its formula, and it teaches a projector without the language model."""

from pathlib import Path

import pytest
import torch
from torch.nn.functional import ctc_loss, pad

import dlm
from dlm.batching.mistral_chat import build_chat_encoder
from dlm.commands.preflight import resolve_document
from dlm.data.load import load_examples
from dlm.models.load import load_base_model
from dlm.training.ctc import SELF_LOGIT, CtcLoss, collect_transcript_token_ids
from dlm.training.events import StepCompleted
from dlm.training.loss import AudioLMLoss
from tests.cli_runner import dlm as run_command
from tests.composed_models import make_base_model_field, write_composed_document
from tests.models.batches import make_batch
from tests.tiny_models import write_document, write_tiny_model

BASE = {**make_base_model_field(), "projector": {"kind": "mlp", "stride": 1, "hidden": 32}}


def test_the_loss_is_that_of_its_formula(tmp_path: Path) -> None:
    """Each example by itself, with its own audio and the classes of all transcripts."""
    path = write_composed_document(tmp_path, BASE)
    document, spec = resolve_document(path)
    model, examples = load_base_model(spec), list(load_examples(document).examples)
    torch.nn.init.normal_(model.projector.leave.weight)
    chat_encoder = build_chat_encoder(model.tokenizer, model.spec)
    encoded = [chat_encoder.encode_example(example) for example in examples]
    token_ids = collect_transcript_token_ids(encoded)
    classes = {token_id: number for number, token_id in enumerate(token_ids, start=1)}
    ctc = CtcLoss(model, token_ids)
    with torch.no_grad():
        losses = ctc.compute_losses(make_batch(model, examples))
        table = model.embed_input_ids(torch.tensor(token_ids))
        for example, one, loss in zip(examples, encoded, losses, strict=True):
            batch = make_batch(model, [example])
            audio = model.embed_audio(batch.audio_features, batch)
            logits = SELF_LOGIT * audio @ table.T / table.square().sum(dim=1).mean()
            log_probs = pad(logits, (1, 0), value=SELF_LOGIT / 2).log_softmax(dim=1)
            target = torch.tensor([classes[each] for each in one.label_ids[:-1]])
            lengths = torch.tensor([len(log_probs)]), torch.tensor([len(target)])
            expected = ctc_loss(log_probs[:, None], target[None], *lengths, reduction="sum")
            assert loss == pytest.approx(float(expected), rel=1e-4)
        labels = AudioLMLoss(model)(make_batch(model, examples))
        mixed = AudioLMLoss(model, ctc=ctc, ctc_weight=0.3)(make_batch(model, examples))
        expected_total = 0.7 * labels.total_loss + 0.3 * losses
    assert torch.allclose(mixed.total_loss, expected_total, rtol=1e-5)
    assert torch.allclose(mixed.ce_loss, labels.ce_loss, rtol=1e-5)


def test_a_stage_of_ctc_alone_comes_before_one_with_the_language_model(tmp_path: Path) -> None:
    stages = [
        {"train": ["projector"], "steps": 30, "learning_rate": 3e-3, "ctc_weight": 1.0},
        {"train": ["projector", "lora"], "steps": 2, "ctc_weight": 0.3},
    ]
    lora = {"adapter": "lora", "lora": {"where": ["lm", "projector"]}}
    path = write_composed_document(tmp_path, BASE, stages=stages, **lora)
    checked = run_command("check", path)
    assert checked.code == 0 and "CTC 100% of the loss" in checked.out, checked.err
    *events, version = dlm.train(path)
    losses = [event.loss for event in events if isinstance(event, StepCompleted)]
    assert losses[29] < losses[0] / 2
    assert version.steps == 32


def test_ctc_is_refused_where_it_can_do_nothing(tmp_path: Path) -> None:
    lora = {"adapter": "lora", "lora": {"where": ["lm", "projector"]}}
    path = write_composed_document(tmp_path, BASE, ctc_weight=1.0, **lora)
    run_command("train", path).refused("CTC alone does not reach", error="plan.ctc_alone")
    path = write_composed_document(tmp_path, BASE, ctc_weight=1.5)
    run_command("train", path).refused("ctc_weight", error="document.bad_value")
    model_dir = write_tiny_model(tmp_path / "tiny")
    path = write_document(tmp_path / "known", base_model=model_dir, training="  ctc_weight: 0.3\n")
    assert run_command("train", path, "--steps", 1).code == 0
