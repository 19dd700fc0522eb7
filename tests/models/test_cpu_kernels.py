"""Each CPU kernel has the outputs and gradients of what it replaces, and only where it may."""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from transformers import AutoModelForCausalLM, Qwen3Config
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from dlm.batching.chat_template import IGNORE_INDEX
from dlm.models.adapters import apply_adapter, get_trainable_parameters
from dlm.models.audio_lm import AudioLanguageModel
from dlm.models.cpu_kernels import BF16_ATTENTION_NAME, sparse_last_mlp, use_cpu_kernels
from dlm.models.load import load_base_model
from dlm.plan.resolve import resolve_model_spec
from tests.models.batches import make_adapter_spec, make_batch, write_examples
from tests.pretrained_twins import TWIN_BUILDERS, write_pretrained_twin
from tests.tiny_models import write_tiny_model

HIDDEN_SIZE = 48
LM_CONFIG = Qwen3Config(
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    vocab_size=50,
    max_position_embeddings=2048,
)


class DecoderOnly(nn.Module):
    """What a kernel replaces layers of."""

    def __init__(self, decoder: nn.Module, *kernels: str) -> None:
        super().__init__()
        self.decoder = decoder
        use_cpu_kernels(self, kernels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.decoder(x)


def make_lora_layer(*kernels: str, dropout: float = 0.0, use_dora: bool = False) -> DecoderOnly:
    """A linear layer with low-rank weights that are not zero."""
    torch.manual_seed(0)
    config = LoraConfig(
        r=4, lora_alpha=6, lora_dropout=dropout, target_modules=["0"], use_dora=use_dora
    )
    layer = inject_adapter_in_model(config, nn.Sequential(nn.Linear(24, 40)))
    for name, parameter in layer.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    return DecoderOnly(layer, *kernels)


def compute_gradients(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """The output, and every gradient of its sum of squares."""
    x = x.clone().requires_grad_(True)
    output = model(x)
    output.float().square().sum().backward()
    return [output.detach(), x.grad, *(p.grad for p in model.parameters() if p.requires_grad)]


@pytest.mark.parametrize("shape", [(5,), (2, 7)])
def test_fused_lora_equals_peft(shape: tuple[int, ...]) -> None:
    x = torch.randn(*shape, 24)
    fused, peft = make_lora_layer("fused_lora"), make_lora_layer()
    assert "forward" in vars(fused.decoder[0]) and "forward" not in vars(peft.decoder[0])
    pairs = zip(compute_gradients(fused, x), compute_gradients(peft, x), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_fused_lora_equals_peft_in_bf16() -> None:
    """Within the rounding of the dtype, under autocast and with bf16 weights."""
    x = torch.randn(3, 24)
    fused, peft = make_lora_layer("fused_lora"), make_lora_layer()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pairs = zip(compute_gradients(fused, x), compute_gradients(peft, x), strict=True)
    for ours, theirs in pairs:
        assert (ours - theirs).abs().max() < 0.02 * theirs.abs().max()
    fused.decoder[0].base_layer.to(torch.bfloat16)
    assert fused(x.to(torch.bfloat16)).dtype == torch.bfloat16, "without autocast, as the layer"


PEFT_STATES: dict[str, Callable[[DecoderOnly], object]] = {
    "merged": lambda model: model.decoder[0].merge(),
    "disabled": lambda model: model.decoder[0].enable_adapters(False),
    "active": lambda model: None,
}


@pytest.mark.parametrize("state", PEFT_STATES)
@pytest.mark.parametrize("use_dora", [False, True])
def test_fused_lora_leaves_other_states_to_peft(state: str, use_dora: bool) -> None:
    x = torch.randn(3, 24)
    models = [make_lora_layer(*kernels, use_dora=use_dora) for kernels in (("fused_lora",), ())]
    for model in models:
        PEFT_STATES[state](model)
    torch.testing.assert_close(models[0](x), models[1](x), rtol=1e-5, atol=1e-5)


def test_fused_lora_applies_dropout_in_training_only() -> None:
    model, x = make_lora_layer("fused_lora", dropout=0.5), torch.randn(64, 24)
    assert not torch.equal(model.train()(x), model(x))
    assert torch.equal(model.eval()(x), model(x))


def make_decoders() -> tuple[nn.Module, nn.Module]:
    """The same language model with the attention kernel and without."""
    torch.manual_seed(0)
    theirs = AutoModelForCausalLM.from_config(LM_CONFIG).model.to(torch.bfloat16)
    ours = AutoModelForCausalLM.from_config(LM_CONFIG).model.to(torch.bfloat16)
    ours.load_state_dict(theirs.state_dict())
    DecoderOnly(ours, "bf16_attention")
    assert ours.config._attn_implementation == BF16_ATTENTION_NAME
    return ours, theirs


@pytest.mark.parametrize("padding", ["none", "left", "right"])
def test_bf16_attention_equals_transformers(padding: str) -> None:
    """To 2 % of the largest value, as bf16 has 8 bits; forward and backward."""
    mask = torch.ones(2, 30, dtype=torch.long)
    if padding != "none":
        mask[0, slice(0, 9) if padding == "left" else slice(21, 30)] = 0
    results = []
    for model in make_decoders():
        x = torch.randn(2, 30, 32, generator=torch.Generator().manual_seed(1)).requires_grad_(True)
        output = model(inputs_embeds=x.to(torch.bfloat16), attention_mask=mask).last_hidden_state
        (output * mask[..., None]).float().square().sum().backward()
        results.append((output * mask[..., None], x.grad * mask[..., None]))
    for ours, theirs in zip(*results, strict=True):
        assert (ours - theirs).abs().max() < 0.02 * theirs.abs().max()


def test_bf16_attention_with_a_cache_equals_one_forward() -> None:
    ours, _ = make_decoders()
    x = torch.randn(1, 6, 32, dtype=torch.bfloat16)
    expected = ours(inputs_embeds=x).last_hidden_state[:, 5:]
    first = ours(inputs_embeds=x[:, :5], use_cache=True)
    last = ours(inputs_embeds=x[:, 5:], past_key_values=first.past_key_values)
    assert (last.last_hidden_state - expected).abs().max() < 0.05


@pytest.mark.parametrize("tokens, dtype", [(1500, torch.bfloat16), (20, torch.float32)])
def test_bf16_attention_leaves_long_sequences_and_other_dtypes_to_transformers(
    tokens: int, dtype: torch.dtype
) -> None:
    ours, theirs = (model.to(dtype) for model in make_decoders())
    x = torch.randn(1, tokens, 32, dtype=dtype)
    with torch.no_grad():
        outputs = [model(inputs_embeds=x).last_hidden_state for model in (ours, theirs)]
    assert torch.equal(*outputs)


def make_norm(norm_class: type[nn.Module], dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    norm = norm_class(HIDDEN_SIZE, eps=1e-5)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    return norm.to(dtype).requires_grad_(False)


def run_norm(norm: nn.Module, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """The output of fixed values, and their gradient."""
    rng = torch.Generator().manual_seed(1)
    x, grad = torch.randn(2, 2, 7, 3, HIDDEN_SIZE, generator=rng).bfloat16().unbind()
    x = (5 * x).to(dtype).requires_grad_(True)
    output = norm(x)
    output.backward(grad.to(dtype))
    return output.detach(), x.grad


@pytest.mark.parametrize("norm_class", [Qwen2RMSNorm, LlamaRMSNorm, Qwen3RMSNorm])
def test_bf16_rmsnorm_equals_the_class(norm_class: type[nn.Module]) -> None:
    """Forward to the bit; the gradient is as near to that of fp32 as the class's own."""
    theirs = make_norm(norm_class, torch.bfloat16)
    ours = DecoderOnly(copy.deepcopy(theirs), "bf16_rmsnorm").decoder
    assert "forward" in vars(ours)
    output, grad = run_norm(ours, torch.bfloat16)
    expected, expected_grad = run_norm(theirs, torch.bfloat16)
    exact_grad = run_norm(copy.deepcopy(theirs).float(), torch.float32)[1]
    assert torch.equal(output, expected)
    error, their_error = ((each.float() - exact_grad).abs() for each in (grad, expected_grad))
    assert error.mean() <= 1.05 * their_error.mean()
    assert error.max() < 0.01 * exact_grad.abs().max()


@pytest.mark.parametrize(
    "norm_class, dtype", [(Gemma3RMSNorm, torch.bfloat16), (Qwen2RMSNorm, torch.float32)]
)
def test_bf16_rmsnorm_leaves_other_formulas_and_dtypes_alone(
    norm_class: type[nn.Module], dtype: torch.dtype
) -> None:
    norm = DecoderOnly(make_norm(norm_class, dtype), "bf16_rmsnorm").decoder
    assert "forward" not in vars(norm)


def test_bf16_rmsnorm_leaves_a_trained_weight_to_the_class() -> None:
    theirs = make_norm(Qwen2RMSNorm, torch.bfloat16).requires_grad_(True)
    ours = DecoderOnly(copy.deepcopy(theirs), "bf16_rmsnorm").decoder
    pairs = zip(run_norm(ours, torch.bfloat16), run_norm(theirs, torch.bfloat16), strict=True)
    for result, expected in pairs:
        assert torch.equal(result, expected)
    assert torch.equal(ours.weight.grad, theirs.weight.grad)


def compute_label_gradients(
    model: AudioLanguageModel, tmp_path: Path, *, sparse: bool
) -> list[torch.Tensor]:
    """The logits at the labels of a few examples, and every gradient of their squares."""
    (tmp_path / "clips").mkdir(exist_ok=True)
    batch = make_batch(model, write_examples(tmp_path / "clips")[:3])
    has_label = torch.nn.functional.pad(batch.labels[:, 1:] != IGNORE_INDEX, (0, 1))
    model.zero_grad(set_to_none=True)
    embeddings = model.merge_audio_embeddings(batch)
    with sparse_last_mlp(model, has_label) if sparse else nullcontext():
        hidden = model.forward_lm(embeddings, batch.attention_mask)
    logits = model.compute_logits(hidden[has_label])
    logits.square().mean().backward()
    grads = [parameter.grad for parameter in get_trainable_parameters(model).values()]
    return [logits.detach(), *grads]


MLP_FAMILIES = [family for family in TWIN_BUILDERS if family != "whisper"]  # it has none by name


@pytest.mark.parametrize("family", ["stitched", *MLP_FAMILIES])
def test_sparse_last_mlp_changes_no_logit_and_no_gradient(family: str, tmp_path: Path) -> None:
    if family == "stitched":
        folder = write_tiny_model(tmp_path / "base")
    else:
        folder = write_pretrained_twin(family, tmp_path)
    model = load_base_model(resolve_model_spec(str(folder), Path()))
    apply_adapter(model, make_adapter_spec("lora"), seed=0)
    use_cpu_kernels(model, ("sparse_last_mlp",))
    with torch.no_grad():
        for parameter in get_trainable_parameters(model).values():
            parameter.add_(0.1)
    results = [compute_label_gradients(model, tmp_path, sparse=sparse) for sparse in (True, False)]
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_sparse_last_mlp_runs_at_labels_only(tmp_path: Path) -> None:
    """Padded to a length that comes again; at all positions with gradient checkpointing."""
    model = load_base_model(resolve_model_spec(str(write_tiny_model(tmp_path)), Path()))
    num_positions: list[int] = []
    model.decoder.get_submodule("layers.0.mlp.up_proj").register_forward_hook(
        lambda module, args, output: num_positions.append(args[0].shape[-2])
    )
    embeddings, attention_mask = torch.randn(2, 40, 32), torch.ones(2, 40, dtype=torch.long)
    has_label = torch.zeros(2, 40, dtype=torch.bool)
    has_label[:, -3:] = True

    def run_masked() -> None:
        with sparse_last_mlp(model, has_label):
            model.forward_lm(embeddings, attention_mask)

    run_masked()  # the kernel is not in use
    use_cpu_kernels(model, ("sparse_last_mlp",))
    run_masked()
    model.forward_lm(embeddings, attention_mask)
    model.decoder.activation_checkpointing_enable({"use_reentrant": False})
    model.train()
    run_masked()
    assert num_positions == [40, 16, 40, 40]
