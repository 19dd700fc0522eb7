"""The loss is the plain cross entropy of the label tokens, and nothing else."""

from pathlib import Path

import pytest
import torch

from dlm.batches.chat import Chat
from dlm.batches.collate import Batch, Padding, collate
from dlm.clips.clip import Clip, Turn
from dlm.features.ear import Ear
from dlm.model.stitched import Stitched, load_stitched
from dlm.training.events import Checked
from dlm.training.loss import Objective, listening_gap, mean_loss
from tests.tiny import make_tiny, tones


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Stitched:
    return load_stitched(make_tiny(tmp_path_factory.mktemp("base")))


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    prose = Clip((Turn("assistant", ("Once upon a time.",)),), "prose", "text")
    return [*tones(tmp_path_factory.mktemp("clips"), 4), prose]


def batch_of(model: Stitched, clips: list[Clip]) -> Batch:
    chat = Chat(model.tokenizer, model.base)
    rows = [chat.row(clip) for clip in clips]
    ear = Ear(model.base, auto_resample=False)
    return collate(rows, ear, Padding(chat.pad, chat.placeholder))


def test_a_batch_equals_transformers_full_logits(model: Stitched, clips: list[Clip]) -> None:
    batch = batch_of(model, clips)
    with torch.no_grad():
        theirs = model.lm(
            inputs_embeds=model.merge(batch),
            attention_mask=batch.attention,
            labels=batch.labels,
        )
    assert mean_loss(model, [batch]) == pytest.approx(float(theirs.loss), abs=1e-5)


def test_each_row_is_its_own_sum(model: Stitched, clips: list[Clip]) -> None:
    with torch.no_grad():
        together = Objective(model)(batch_of(model, clips)).learned
        alone = [Objective(model)(batch_of(model, [clip])).learned for clip in clips]
    assert torch.allclose(together, torch.cat(alone), atol=1e-4)


def test_the_mean_is_over_tokens_not_rows(model: Stitched, clips: list[Clip]) -> None:
    parts = [batch_of(model, clips[:1]), batch_of(model, clips[1:])]
    whole = mean_loss(model, [batch_of(model, clips)])
    assert mean_loss(model, parts) == pytest.approx(whole, abs=1e-5)


def test_gradients_are_those_of_transformers(model: Stitched, clips: list[Clip]) -> None:
    batch = batch_of(model, clips)
    names = ["projector.leave.weight", "encoder.conv1.weight", "lm.model.norm.weight"]
    some = [model.get_parameter(name) for name in names]
    ours = torch.autograd.grad(Objective(model)(batch).learned.sum() / batch.label_tokens, some)
    merged = model.merge(batch)
    loss = model.lm(inputs_embeds=merged, attention_mask=batch.attention, labels=batch.labels).loss
    for one, other in zip(ours, torch.autograd.grad(loss, some), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_nothing_to_learn_is_a_loss_of_zero(model: Stitched, clips: list[Clip]) -> None:
    batch = batch_of(model, clips)
    batch.labels.fill_(-100)
    rows = Objective(model)(batch).learned
    assert rows.tolist() == [0.0] * len(clips)
    rows.sum().backward()


def test_the_gap_is_what_the_sound_is_worth() -> None:
    assert listening_gap(0.5, 2.0) == 1.5
    deaf = [Checked(1, {"gap": gap}, 4).deaf for gap in (0.0, 0.099, 0.1, 2.0, -0.5)]
    assert deaf == [True, True, False, False, True]
    assert not Checked(1, {"loss": 1.0}, 4).deaf, "unknown is not deaf"


def test_paths_are_not_part_of_the_loss(model: Stitched, tmp_path: Path) -> None:
    one, other = (mean_loss(model, [batch_of(model, tones(tmp_path / n, 3))]) for n in "ab")
    assert one == other
