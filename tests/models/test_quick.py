"""The two quicker layers say what the ones they stand in for say, forward and backward."""

from collections.abc import Callable

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners import lora
from torch import nn
from transformers import AutoModelForCausalLM, Qwen3Config

from dlm.models.cpu_kernels import BF16_ATTENTION_NAME, use_cpu_bf16_attention
from dlm.models.fused_lora import FusedLoraLinear

SHAPE = Qwen3Config(
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    vocab_size=50,
    max_position_embeddings=2048,
)


def layered(*, quick: bool, dropout: float = 0.0, **how: object) -> nn.Module:
    """A linear layer with low-rank weights that are not zero."""
    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=6, lora_dropout=dropout, target_modules=["0"], **how)
    if quick:
        config._register_custom_module({nn.Linear: FusedLoraLinear})
    model = inject_adapter_in_model(config, nn.Sequential(nn.Linear(24, 40)))
    for name, each in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(each)
    return model


def gradients(model: nn.Module, given: torch.Tensor) -> list[torch.Tensor]:
    """The output and every gradient of its squares."""
    given = given.clone().requires_grad_(True)
    said = model(given)
    said.float().square().sum().backward()
    return [said.detach(), given.grad, *(p.grad for p in model.parameters() if p.requires_grad)]


@pytest.mark.parametrize("rows", [(5,), (2, 7)])
def test_low_rank_weights_equal_peft_s_own(rows: tuple[int, ...]) -> None:
    given = torch.randn(*rows, 24)
    quick, peft = layered(quick=True), layered(quick=False)
    assert type(quick[0]) is FusedLoraLinear and type(peft[0]) is lora.Linear
    for ours, theirs in zip(gradients(quick, given), gradients(peft, given), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_in_bf16_too() -> None:
    """Within the rounding of the format, whichever way the layers were cast."""
    given = torch.randn(3, 24)
    quick, peft = layered(quick=True), layered(quick=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pairs = zip(gradients(quick, given), gradients(peft, given), strict=True)
    for ours, theirs in pairs:
        assert (ours - theirs).abs().max() < 0.02 * theirs.abs().max()
    quick[0].base_layer.to(torch.bfloat16)
    said = quick(given.to(torch.bfloat16))
    assert said.dtype == torch.bfloat16, "outside of autocast the layer's own format holds"


CHANGES: dict[str, Callable[[nn.Module], object]] = {
    "merged": lambda model: model[0].merge(),
    "switched off": lambda model: model[0].enable_adapters(False),
    "as it is": lambda model: None,
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("dora", [False, True])
def test_what_is_not_plain_is_peft_s(change: str, dora: bool) -> None:
    given = torch.randn(3, 24)
    models = [layered(quick=quick, use_dora=dora) for quick in (True, False)]
    for model in models:
        CHANGES[change](model)
    torch.testing.assert_close(models[0](given), models[1](given), rtol=1e-5, atol=1e-5)


def test_dropout_drops_while_learning_alone() -> None:
    model, given = layered(quick=True, dropout=0.5), torch.randn(64, 24)
    assert not torch.equal(model.train()(given), model(given))
    assert torch.equal(model.eval()(given), model(given))


def decoders() -> tuple[nn.Module, nn.Module]:
    """The same language model with transformers' attention and with ours."""
    torch.manual_seed(0)
    theirs = AutoModelForCausalLM.from_config(SHAPE).model.to(torch.bfloat16)
    ours = AutoModelForCausalLM.from_config(SHAPE).model.to(torch.bfloat16)
    ours.load_state_dict(theirs.state_dict())
    use_cpu_bf16_attention(ours)
    assert ours.config._attn_implementation == BF16_ATTENTION_NAME
    return ours, theirs


@pytest.mark.parametrize("padded", ["none", "left", "right"])
def test_attention_equals_transformers(padded: str) -> None:
    """bf16 has 8 bits: 2 % of the largest number, forward and backward."""
    mask = torch.ones(2, 30, dtype=torch.long)
    if padded != "none":
        mask[0, slice(0, 9) if padded == "left" else slice(21, 30)] = 0
    found = []
    for model in decoders():
        given = torch.randn(2, 30, 32, generator=torch.Generator().manual_seed(1))
        given.requires_grad_(True)
        said = model(inputs_embeds=given.to(torch.bfloat16), attention_mask=mask).last_hidden_state
        (said * mask[..., None]).float().square().sum().backward()
        found.append((said * mask[..., None], given.grad * mask[..., None]))
    for ours, theirs in zip(*found, strict=True):
        assert (ours - theirs).abs().max() < 0.02 * theirs.abs().max()


def test_words_one_by_one_say_what_all_at_once_say() -> None:
    ours, _ = decoders()
    given = torch.randn(1, 6, 32, dtype=torch.bfloat16)
    whole = ours(inputs_embeds=given).last_hidden_state
    first = ours(inputs_embeds=given[:, :5], use_cache=True)
    last = ours(inputs_embeds=given[:, 5:], past_key_values=first.past_key_values)
    assert (last.last_hidden_state - whole[:, 5:]).abs().max() < 0.05


@pytest.mark.parametrize("tokens, dtype", [(1500, torch.bfloat16), (20, torch.float32)])
def test_long_rows_and_other_formats_are_transformers_own(tokens: int, dtype: torch.dtype) -> None:
    ours, theirs = (model.to(dtype) for model in decoders())
    given = torch.randn(1, tokens, 32, dtype=dtype)
    with torch.no_grad():
        assert torch.equal(
            ours(inputs_embeds=given).last_hidden_state,
            theirs(inputs_embeds=given).last_hidden_state,
        )
