"""The last feed-forward part at labels alone: the loss and every gradient stay as they are."""

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from dlm.batching.chat_template import IGNORE_INDEX
from dlm.models.adapters import apply_adapter, get_trainable_parameters
from dlm.models.audio_lm import AudioLanguageModel
from dlm.models.cpu_kernels import sparse_last_mlp
from dlm.models.load import load_base_model
from dlm.plan.resolve import resolve_model_spec
from tests.models.batches import make_adapter_spec, make_batch, write_examples
from tests.pretrained_twins import TWIN_BUILDERS, write_pretrained_twin
from tests.tiny_models import write_tiny_model


def learned(model: AudioLanguageModel, tmp_path: Path, *, sparing: bool) -> list[torch.Tensor]:
    """Logits at the labels of a few clips, and every gradient of their squares."""
    (tmp_path / "clips").mkdir(exist_ok=True)
    batch = make_batch(model, write_examples(tmp_path / "clips")[:3])
    spots = torch.nn.functional.pad(batch.labels[:, 1:] != IGNORE_INDEX, (0, 1))
    model.zero_grad(set_to_none=True)
    embedded = model.merge_audio_embeddings(batch)
    with sparse_last_mlp(model.decoder, spots) if sparing else nullcontext():
        hidden = model.forward_lm(embedded, batch.attention_mask)
    logits = model.compute_logits(hidden[spots])
    logits.square().mean().backward()
    return [logits.detach(), *(each.grad for each in get_trainable_parameters(model).values())]


@pytest.mark.parametrize("family", ["stitched", *TWIN_BUILDERS])
def test_what_is_learned_stays_the_same(family: str, tmp_path: Path) -> None:
    folder = (
        write_tiny_model(tmp_path / "base")
        if family == "stitched"
        else write_pretrained_twin(family, tmp_path)
    )
    model = load_base_model(resolve_model_spec(str(folder), Path()))
    apply_adapter(model, make_adapter_spec("lora"), seed=0)
    with torch.no_grad():
        for each in get_trainable_parameters(model).values():
            each.add_(0.1)
    pairs = zip(
        learned(model, tmp_path, sparing=True), learned(model, tmp_path, sparing=False), strict=True
    )
    for ours, whole in pairs:
        torch.testing.assert_close(ours, whole, rtol=1e-4, atol=1e-5)


def test_other_positions_are_left_out(tmp_path: Path) -> None:
    model = load_base_model(resolve_model_spec(str(write_tiny_model(tmp_path)), Path()))
    seen = []
    feed = model.decoder.get_submodule("layers.0.mlp.up_proj")
    feed.register_forward_hook(lambda module, given, said: seen.append(given[0].shape[-2]))
    embedded, attention = torch.randn(2, 40, 32), torch.ones(2, 40, dtype=torch.long)
    wanted = torch.zeros(2, 40, dtype=torch.bool)
    wanted[:, -3:] = True
    with sparse_last_mlp(model.decoder, wanted):
        model.forward_lm(embedded, attention)
    model.forward_lm(embedded, attention)
    model.decoder.activation_checkpointing_enable({"use_reentrant": False})
    with sparse_last_mlp(model.decoder.train(), wanted):
        model.forward_lm(embedded, attention)
    assert seen == [16, 40, 40], "six positions, filled up to a length that comes again"
