"""Embeddings, attention and nearest tokens are those that are computed in another way."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dlm.batching.chat_template import IGNORE_INDEX
from dlm.batching.mistral_chat import build_chat_encoder
from dlm.data.types import Example
from dlm.features.extractor import AudioFeatureExtractor
from dlm.inference.engine import InferenceEngine
from dlm.models.load import load_base_model
from dlm.reports.insight import compute_insight
from dlm.reports.probes import (
    compute_audio_attention,
    compute_audio_embeddings,
    compute_embedding_map,
    find_nearest_tokens,
    make_example_batch,
    project_to_pca,
)
from tests.pretrained_twins import VOXTRAL_WINDOW_SECONDS, make_twin_spec, write_pretrained_twin
from tests.tiny_models import (
    SAMPLE_RATE,
    TRANSCRIPTS,
    make_example,
    make_tiny_config,
    make_tiny_plan,
    make_training_setup,
    write_tiny_model,
    write_tone,
    write_tone_examples,
)

NUM_LAYERS, NUM_HEADS = 2, 2


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    return write_tone_examples(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, examples: list[Example]) -> InferenceEngine:
    """A random model of two layers, whose attention is not uniform."""
    config = make_tiny_config()
    config["lm"] |= {"num_hidden_layers": NUM_LAYERS}
    folder = write_tiny_model(tmp_path_factory.mktemp("tiny"), config=config)
    engine = make_training_setup(make_tiny_plan(folder, len(examples), steps=1), examples).engine
    with torch.no_grad():
        for name, weights in engine.model.decoder.named_parameters():
            if name.endswith(("q_proj.weight", "k_proj.weight")):
                weights.mul_(30)
    engine.model.eval()
    return engine


def test_principal_axes_are_those_of_the_covariance() -> None:
    points = torch.randn(40, 7, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 8)
    projected, variance = project_to_pca(points)
    values, axes = np.linalg.eigh(np.cov(points.double().numpy().T))
    assert variance == pytest.approx(values[::-1][:2] / values.sum())
    expected = (points - points.mean(dim=0)).double().numpy() @ axes[:, ::-1][:, :2]
    assert np.abs(projected.numpy()) == pytest.approx(np.abs(expected), abs=1e-6)
    assert projected.shape == (40, 2)
    assert torch.equal(project_to_pca(points)[0], projected)
    assert project_to_pca(torch.ones(3, 7))[1] == (0.0, 0.0)


def test_audio_embeddings_are_the_projected_encoder_output(
    engine: InferenceEngine, examples: list[Example]
) -> None:
    for example in examples[:2]:
        batch = make_example_batch(engine, example)
        with torch.no_grad():
            encoded = engine.model.encode_audio(batch.audio_features, batch.audio_lengths)
            expected = engine.model.project_audio(encoded)
        assert compute_audio_embeddings(engine, example) == pytest.approx(expected, abs=1e-6)
        assert len(expected) == engine.count_audio_tokens(example.audio_segments) > 1


def test_the_nearest_tokens_have_the_largest_cosine(
    engine: InferenceEngine, examples: list[Example]
) -> None:
    embeddings = compute_audio_embeddings(engine, examples[0])
    table = engine.model.embed_tokens.weight.detach()
    all_cosines = torch.nn.functional.cosine_similarity(embeddings[:, None], table[None], dim=2)
    expected = all_cosines.sort(dim=1, descending=True)
    cosines, token_ids = find_nearest_tokens(engine.model, embeddings, 3, chunk_size=100)
    assert cosines.shape == token_ids.shape == (len(embeddings), 3)
    assert torch.equal(token_ids, expected.indices[:, :3])
    assert cosines == pytest.approx(expected.values[:, :3], abs=1e-5)
    assert find_nearest_tokens(engine.model, 3 * table[[97]], 1)[1].item() == 97


def measure_with_transformers(
    engine: InferenceEngine, examples: list[Example]
) -> tuple[torch.Tensor, float]:
    """Attention to audio, (layers, heads), of transformers' own outputs; and if uniform."""
    attention_sum, uniform_sum, num_positions = torch.zeros(()), 0.0, 0
    decoder = engine.model.decoder
    decoder.set_attn_implementation("eager")
    for example in examples:
        batch = make_example_batch(engine, example)
        with torch.no_grad():
            merged = engine.model.merge_audio_embeddings(batch)
            output = decoder(inputs_embeds=merged, use_cache=False, output_attentions=True)
        is_audio = batch.input_ids[0] == engine.model.audio_token_id
        audio = is_audio.nonzero()[:, 0].tolist()
        length = merged.shape[1]
        predicting = [at - 1 for at in range(1, length) if batch.labels[0, at] != IGNORE_INDEX]
        for position in predicting:
            layers = [weights[0, :, position, audio].sum(dim=-1) for weights in output.attentions]
            attention_sum = attention_sum + torch.stack(layers)
            uniform_sum += sum(at <= position for at in audio) / (position + 1)
        num_positions += len(predicting)
    decoder.set_attn_implementation("sdpa")
    return attention_sum / num_positions, uniform_sum / num_positions


def test_attention_to_audio_is_that_of_transformers(
    engine: InferenceEngine, examples: list[Example]
) -> None:
    decoder = engine.model.decoder
    assert decoder.config._attn_implementation == "sdpa"
    attention = compute_audio_attention(engine, examples[:3])
    assert decoder.config._attn_implementation == "sdpa", "the model was changed"
    expected, uniform = measure_with_transformers(engine, examples[:3])
    assert attention is not None and attention.num_examples == 3
    assert expected.shape == (NUM_LAYERS, NUM_HEADS)
    assert torch.tensor(attention.per_head) == pytest.approx(expected, abs=1e-5)
    assert attention.uniform_baseline == pytest.approx(uniform)
    assert attention.per_layer == pytest.approx(expected.mean(dim=1).tolist(), abs=1e-5)
    assert all(0 < fraction < 1 for fraction in attention.per_layer)
    assert max(abs(each - uniform) for each in attention.per_layer) > 0.02, "it is not uniform"


@pytest.mark.parametrize(
    "key", ["qwen2-audio-7b-instruct", "voxtral-mini-3b", "qwen3-omni-30b-a3b"]
)
def test_pretrained_models_are_probed_alike(
    key: str, examples: list[Example], tmp_path: Path
) -> None:
    is_voxtral = key.startswith("voxtral")
    window = {"window_samples": VOXTRAL_WINDOW_SECONDS * SAMPLE_RATE} if is_voxtral else {}
    spec = make_twin_spec(key, write_pretrained_twin(key, tmp_path), **window)
    model = load_base_model(spec)
    extractor = AudioFeatureExtractor(spec, auto_resample=False, encode_fn=model.encode_single)
    engine = InferenceEngine(model, build_chat_encoder(model.tokenizer, spec), extractor, 4)
    attention = compute_audio_attention(engine, examples[:2])
    expected, uniform = measure_with_transformers(engine, examples[:2])
    assert attention is not None and attention.uniform_baseline == pytest.approx(uniform)
    assert torch.tensor(attention.per_head) == pytest.approx(expected, abs=1e-5)
    embeddings = [compute_audio_embeddings(engine, example) for example in examples[:2]]
    nearest = find_nearest_tokens(model, embeddings[0], 2)
    assert nearest[0].shape == (len(embeddings[0]), 2)
    embedding_map = compute_embedding_map(engine, examples[:2], embeddings)
    assert embedding_map.text_labels == tuple(TRANSCRIPTS[:2])


def test_attention_needs_an_example_that_is_short_enough(
    engine: InferenceEngine, examples: list[Example]
) -> None:
    assert compute_audio_attention(engine, []) is None
    long = make_example(examples[0].audio_segments[0].path, "x" * 3000)
    assert compute_audio_attention(engine, [long]) is None


def test_few_answers_are_labels_on_the_map(
    engine: InferenceEngine, examples: list[Example]
) -> None:
    repeated = [replace(example, location=f"again {example.location}") for example in examples]
    embeddings = [compute_audio_embeddings(engine, example) for example in examples]
    embedding_map = compute_embedding_map(engine, examples + repeated, embeddings * 2)
    assert embedding_map.is_labeled and embedding_map.text_labels == tuple(TRANSCRIPTS[:6])
    assert embedding_map.example_groups == (*range(6), *range(6))
    num_tokens = sum(map(len, embeddings))
    assert embedding_map.example_points.shape == (12, 2)
    assert embedding_map.audio_points.shape == (2 * num_tokens, 2)
    groups = tuple(group for group, each in enumerate(embeddings) for _ in each)
    assert embedding_map.audio_groups == groups * 2
    assert torch.equal(embedding_map.example_points[:6], embedding_map.example_points[6:])
    first, second = embedding_map.explained_variance
    assert 0 < second <= first < 1
    tokenizer = engine.model.tokenizer
    token_ids = [each for text in TRANSCRIPTS[:6] for each in tokenizer(text)["input_ids"]]
    text_norm = engine.model.embed_tokens.weight.detach()[token_ids].norm(dim=1).mean()
    audio_norm = torch.cat(embeddings).norm(dim=1).mean()
    assert embedding_map.norm_ratio == pytest.approx(float(audio_norm / text_norm))


def test_many_answers_are_frequent_tokens_on_the_map(
    engine: InferenceEngine, examples: list[Example]
) -> None:
    embeddings = [compute_audio_embeddings(engine, example) for example in examples]
    many = [
        make_example(example.audio_segments[0].path, f"so {n} and so")
        for n, example in enumerate(examples * 2)
    ]
    embedding_map = compute_embedding_map(engine, many, embeddings * 2)
    assert not embedding_map.is_labeled and embedding_map.example_groups == tuple(range(12))
    labels = embedding_map.text_labels
    assert labels[0] == "␣" and {"s", "o"} <= set(labels[:3])
    assert len(embedding_map.text_points) == len(labels) == len(set("so 0 and so 1234567890"))


def test_the_worst_examples_are_shown_in_detail(
    engine: InferenceEngine, examples: list[Example], tmp_path: Path
) -> None:
    long = make_example(write_tone(tmp_path / "long.wav", hertz=333, seconds=9), "nine")
    answer = replace(examples[0], task="answer")
    insight = compute_insight(engine, [*examples[1:3], long, answer], num_examples=4)
    worst = [score.location for score in insight.report.worst_examples]
    assert [each.location for each in insight.examples[:3]] == worst
    assert insight.examples[3].wer is None
    assert insight.examples[3].reference == examples[0].target
    (player,) = next(each.players for each in insight.examples if each.location == long.location)
    assert player.caption == "the first 8 s of 9.0 s"
    assert player.url.startswith("data:audio/flac;base64,")
    by_location = {example.location: example for example in [*examples, long]}
    for each in insight.examples:
        segments = by_location[each.location].audio_segments
        assert each.num_audio_tokens == engine.count_audio_tokens(segments)
        assert len(each.nearest_tokens) == min(each.num_audio_tokens, 100)
        assert all(len(nearest.tokens) == 3 for nearest in each.nearest_tokens)
        seconds_per_token = engine.sum_audio_seconds(segments) / each.num_audio_tokens
        starts = [nearest.start for nearest in each.nearest_tokens[:2]]
        assert starts == pytest.approx([0, seconds_per_token])
    assert len(compute_insight(engine, examples, num_examples=2).examples) == 2
