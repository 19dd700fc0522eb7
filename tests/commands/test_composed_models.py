"""Models composed of any encoder, projector and language model: trained, exported and prompted."""

from itertools import product
from pathlib import Path
from typing import cast

import pytest
import torch
from tokenizers import processors
from transformers import AutoModelForCausalLM, Gemma3TextConfig

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
from tests.cli_runner import dlm as run_command
from tests.composed_models import (
    ENCODERS,
    LMS,
    PROJECTORS,
    make_base_model_field,
    write_composed_document,
)
from tests.models.batches import compute_all_logits, make_batch
from tests.tiny_models import make_tiny_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")

# with every pair of an encoder, a projector and a language model
COMBINATIONS = [
    (encoder, projector, list(LMS)[(encoder_index + projector_index) % len(LMS)])
    for (encoder_index, encoder), (projector_index, projector) in product(
        enumerate(ENCODERS), enumerate(PROJECTORS)
    )
]


def test_the_combinations_have_every_pair_of_components() -> None:
    pairs = {pair for e, p, lm in COMBINATIONS for pair in ((e, p), (e, lm), (p, lm))}
    expected = {*product(ENCODERS, PROJECTORS), *product(ENCODERS, LMS), *product(PROJECTORS, LMS)}
    assert pairs == expected


@pytest.mark.parametrize(("encoder", "projector", "lm"), COMBINATIONS)
def test_training_and_export_keep_the_logits(
    encoder: str, projector: str, lm: str, tmp_path: Path
) -> None:
    path = write_composed_document(
        tmp_path, make_base_model_field(encoder, projector, lm), adapter="projector"
    )
    *events, version = dlm.train(path, steps=2)
    assert isinstance(version, Version)
    steps = [type(event) for event in events if isinstance(event, StepCompleted | StepSkipped)]
    assert steps == [StepCompleted, StepCompleted]
    document, spec = resolve_document(path)
    model = load_version(spec, version.path, device="cpu")
    batch = make_batch(model, list(load_examples(document).examples))
    logits = compute_all_logits(model, batch)
    write_merged_model(cast(ComposedAudioLM, model), version, tmp_path / "out")
    exported = load_base_model(read_model_spec(tmp_path / "out"))
    assert torch.equal(compute_all_logits(exported, batch), logits)
    chat_encoder = build_chat_encoder(exported.tokenizer, exported.spec)
    assert chat_encoder.audio_token_id == model.audio_token_id
    answer = dlm.prompt(path, "what?", audio=(tmp_path / "clips/0.wav",), max_tokens=3)
    assert isinstance("".join(answer), str)


def test_dlm_stitch_writes_the_model_of_the_document(tmp_path: Path) -> None:
    path = write_composed_document(tmp_path, make_base_model_field("wavlm", "qformer", "gpt2"))
    result = run_command("stitch", path, "--out", tmp_path / "base")
    assert result.code == 0 and result.out.strip() == str(tmp_path / "base")
    document, spec = resolve_document(path)
    written_spec = read_model_spec(tmp_path / "base")
    assert (written_spec.key, written_spec.revision) == (spec.key, spec.revision)
    assert written_spec.audio_spec == spec.audio_spec
    model, written = load_base_model(spec), load_base_model(written_spec)
    batch = make_batch(model, list(load_examples(document).examples))
    assert torch.equal(compute_all_logits(written, batch), compute_all_logits(model, batch))
    run_command("stitch", path, "--out", tmp_path / "base").refused("not empty")
    other = write_composed_document(tmp_path / "other", str(tmp_path / "base"), adapter="projector")
    run_command("stitch", other, "--out", tmp_path / "more").refused("is a base already", code=2)
    *_, version = dlm.train(other, steps=1)
    loaded = load_version(spec, version.path, device="cpu")
    assert loaded.spec.composition, "a version of the written model fits the composed one"


@pytest.mark.parametrize("size", [{"hidden_size": 10**7}, {"num_hidden_layers": 10**8}])
def test_random_weights_that_do_not_fit_are_refused_at_once(
    tmp_path: Path, size: dict[str, int]
) -> None:
    """Of the kind: a number in a document that is allocated before it is looked at."""
    base_model = make_base_model_field("whisper", "mlp", "qwen3")
    base_model["lm"] = {"from_scratch": {**base_model["lm"]["from_scratch"], **size}}
    path = write_composed_document(tmp_path, base_model)
    run_command("stitch", path, "--out", tmp_path / "base").refused(error="plan.memory_too_small")
    assert not (tmp_path / "base").exists()


@pytest.mark.parametrize("before", ["<{", "{0.__class__}", "}} {number}"])
def test_braces_before_audio_are_text(tmp_path: Path, before: str) -> None:
    """Of the kind: a text of a document that is taken for a format."""
    base_model = {**make_base_model_field("whisper", "mlp", "qwen3"), "before": before}
    path = write_composed_document(tmp_path, base_model)
    document, spec = resolve_document(path)
    encoder = build_chat_encoder(make_tiny_tokenizer(), spec)
    (example, *_) = load_examples(document).examples
    text = make_tiny_tokenizer().decode(encoder.encode_example(example).input_ids)
    assert before.replace("{number}", "1") + spec.placeholder in text


def test_dlm_show_has_the_model_that_options_replaced(tmp_path: Path) -> None:
    missing = {**make_base_model_field(), "encoder": str(tmp_path / "nowhere")}
    path = write_composed_document(tmp_path, missing, adapter="projector")
    overrides = {"base_model.encoder": {"from_scratch": ENCODERS["whisper"]}}
    *_, version = dlm.train(path, steps=1, overrides=overrides)
    assert dlm.show(path).spec.key == version.base_model


def save_gemma(folder: Path) -> Path:
    """Save a tiny Gemma 3, laid out as the released base model: text begins with <bos>, no chat."""
    tokenizer = make_tiny_tokenizer(("<bos>",))
    tokenizer.bos_token, tokenizer.chat_template = "<bos>", None
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", tokenizer.bos_token_id)]
    )
    tokenizer.save_pretrained(folder)
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    sizes = {"hidden_size": 72, "intermediate_size": 64, "head_dim": 16, "vocab_size": 264}
    torch.manual_seed(0)
    config = Gemma3TextConfig(**layers, **sizes, sliding_window=16, max_position_embeddings=512)
    AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


def test_a_language_model_without_a_chat_template_gets_plain_text(tmp_path: Path) -> None:
    """Plain text begins with the token that the tokenizer begins with, and a question is a line."""
    base_model = {**make_base_model_field(), "lm": str(save_gemma(tmp_path / "gemma"))}
    path = write_composed_document(tmp_path, base_model, adapter="projector")
    trained = run_command("train", path, "--steps", 2)
    assert trained.code == 0, trained.err
    lines = [line for line in trained.err.splitlines() if "no chat template" in line]
    assert len(lines) == 1 and "my.dlm" in lines[0] and "plain text" in lines[0]
    document, spec = resolve_document(path)
    model = load_base_model(spec)
    encoder = build_chat_encoder(model.tokenizer, model.spec)
    (first, *_) = load_examples(document).examples
    encoded = encoder.encode_example(first)
    assert encoder.decode_raw(list(encoded.input_ids)) == (
        f"<bos>Listen: <|audio|>\nTranscribe the audio.\n{first.target}<|im_end|>"
    )
    quiet = write_composed_document(tmp_path / "quiet", {**base_model, "chat": "plain"})
    assert "chat template" not in run_command("check", quiet).err
    refused = write_composed_document(tmp_path / "refused", {**base_model, "chat": "template"})
    run_command("check", refused).refused("has no chat template", error="model.no_chat_template")


def test_an_export_of_weights_in_half_precision_keeps_the_logits(tmp_path: Path) -> None:
    """A config that names bf16 does not round what the class computes as it is built."""
    base_model = {**make_base_model_field(), "lm": str(save_gemma(tmp_path / "gemma"))}
    path = write_composed_document(tmp_path, base_model, adapter="projector")
    *_, version = dlm.train(path, steps=1)
    document, spec = resolve_document(path)
    model = load_version(spec, version.path, device="cpu")
    batch = make_batch(model, list(load_examples(document).examples))
    assert run_command("export", path, "--out", tmp_path / "out").code == 0
    exported = load_base_model(read_model_spec(tmp_path / "out"))
    assert torch.equal(compute_all_logits(exported, batch), compute_all_logits(model, batch))


def test_audio_is_scaled_to_what_the_language_model_looks_up(tmp_path: Path) -> None:
    """Gemma multiplies its table by the square root of its width."""
    projector = {**PROJECTORS["pool"], "scale": "embeddings"}
    lm = str(save_gemma(tmp_path / "gemma"))
    path = write_composed_document(
        tmp_path, {**make_base_model_field(), "projector": projector, "lm": lm}
    )
    document, spec = resolve_document(path)
    model = cast(ComposedAudioLM, load_base_model(spec))
    batch = make_batch(model, list(load_examples(document).examples))
    with torch.no_grad():
        is_audio = batch.input_ids == model.audio_token_id
        audio = model.merge_audio_embeddings(batch)[is_audio]
        text = model.embed_input_ids(torch.arange(256))
    ratio = audio.square().mean() / text.square().mean()
    assert 0.7 < ratio.sqrt() < 1.4
