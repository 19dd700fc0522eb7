"""What sound becomes inside a model, against numbers that are got another way."""

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

LAYERS, HEADS = 2, 2


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    return write_tone_examples(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def using(tmp_path_factory: pytest.TempPathFactory, clips: list[Example]) -> InferenceEngine:
    """A random base of two layers, whose attention is not even."""
    config = make_tiny_config()
    config["lm"] |= {"num_hidden_layers": LAYERS}
    folder = write_tiny_model(tmp_path_factory.mktemp("base"), config=config)
    found = make_training_setup(make_tiny_plan(folder, len(clips), steps=1), clips).engine
    with torch.no_grad():
        for name, weights in found.model.decoder.named_parameters():
            if name.endswith(("q_proj.weight", "k_proj.weight")):
                weights.mul_(30)
    found.model.eval()
    return found


def test_principal_axes_are_those_of_the_covariance() -> None:
    points = torch.randn(40, 7, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 8)
    flat, shares = project_to_pca(points)
    values, axes = np.linalg.eigh(np.cov(points.double().numpy().T))
    assert shares == pytest.approx(values[::-1][:2] / values.sum())
    told = (points - points.mean(dim=0)).double().numpy() @ axes[:, ::-1][:, :2]
    assert np.abs(flat.numpy()) == pytest.approx(np.abs(told), abs=1e-6)
    assert flat.shape == (40, 2)
    assert torch.equal(project_to_pca(points)[0], flat)
    assert project_to_pca(torch.ones(3, 7))[1] == (0.0, 0.0)


def test_projected_sound_is_what_stands_in_the_text(
    using: InferenceEngine, clips: list[Example]
) -> None:
    for clip in clips[:2]:
        batch = make_example_batch(using, clip)
        with torch.no_grad():
            features = using.model.encode_audio(batch.audio_features, batch.audio_lengths)
            alone = using.model.project_audio(features)
        assert compute_audio_embeddings(using, clip) == pytest.approx(alone, abs=1e-6)
        assert len(alone) == using.count_audio_tokens(clip.audio_segments) > 1


def test_the_nearest_words_are_those_of_the_largest_cosine(
    using: InferenceEngine, clips: list[Example]
) -> None:
    sound = compute_audio_embeddings(using, clips[0])
    table = using.model.embed_tokens.weight.detach()
    every = torch.nn.functional.cosine_similarity(sound[:, None], table[None], dim=2)
    cosines, ids = find_nearest_tokens(using.model, sound, 3, chunk_size=100)
    best = every.sort(dim=1, descending=True)
    assert cosines.shape == ids.shape == (len(sound), 3)
    assert torch.equal(ids, best.indices[:, :3])
    assert cosines == pytest.approx(best.values[:, :3], abs=1e-5)
    a_word = table[[ord("a") % 200]] * 3
    assert find_nearest_tokens(using.model, a_word, 1)[1].item() == ord("a") % 200


def by_transformers(using: InferenceEngine, clips: list[Example]) -> tuple[torch.Tensor, float]:
    """Attention to sound, (layers, heads), as transformers' own outputs tell it; and if even."""
    told, even, count = torch.zeros(()), 0.0, 0
    decoder = using.model.decoder
    decoder.set_attn_implementation("eager")
    for clip in clips:
        batch = make_example_batch(using, clip)
        with torch.no_grad():
            merged = using.model.merge_audio_embeddings(batch)
            said = decoder(inputs_embeds=merged, use_cache=False, output_attentions=True)
        heard = (batch.input_ids[0] == using.model.audio_token_id).nonzero()[:, 0].tolist()
        asks = [at - 1 for at in range(1, merged.shape[1]) if batch.labels[0, at] != IGNORE_INDEX]
        for at in asks:
            layers = [weights[0, :, at, heard].sum(dim=-1) for weights in said.attentions]
            told = told + torch.stack(layers)
            even += len([each for each in heard if each <= at]) / (at + 1)
        count += len(asks)
    decoder.set_attn_implementation("sdpa")
    return told / count, even / count


def test_attention_to_sound_is_what_transformers_says(
    using: InferenceEngine, clips: list[Example]
) -> None:
    decoder = using.model.decoder
    assert decoder.config._attn_implementation == "sdpa"
    found = compute_audio_attention(using, clips[:3])
    assert decoder.config._attn_implementation == "sdpa", "the model was left another"
    told, even = by_transformers(using, clips[:3])
    assert found is not None and found.num_examples == 3
    assert told.shape == (LAYERS, HEADS)
    assert torch.tensor(found.per_head) == pytest.approx(told, abs=1e-5)
    assert found.uniform_baseline == pytest.approx(even)
    assert found.per_layer == pytest.approx(told.mean(dim=1).tolist(), abs=1e-5)
    assert all(0 < share < 1 for share in found.per_layer)
    assert (
        max(abs(share - found.uniform_baseline) for share in found.per_layer) > 0.02
    )  # it is not even


@pytest.mark.parametrize(
    "key", ["qwen2-audio-7b-instruct", "voxtral-mini-3b", "qwen3-omni-30b-a3b"]
)
def test_a_native_base_tells_as_much(key: str, clips: list[Example], tmp_path: Path) -> None:
    short = (
        {"window_samples": VOXTRAL_WINDOW_SECONDS * SAMPLE_RATE}
        if key.startswith("voxtral")
        else {}
    )
    base = make_twin_spec(key, write_pretrained_twin(key, tmp_path), **short)
    model = load_base_model(base)
    ear = AudioFeatureExtractor(base, auto_resample=False, encode_fn=model.encode_single)
    using = InferenceEngine(model, build_chat_encoder(model.tokenizer, base), ear, 4)
    found, (told, even) = (
        compute_audio_attention(using, clips[:2]),
        by_transformers(using, clips[:2]),
    )
    assert found is not None and found.uniform_baseline == pytest.approx(even)
    assert torch.tensor(found.per_head) == pytest.approx(told, abs=1e-5)
    sounds = [compute_audio_embeddings(using, clip) for clip in clips[:2]]
    assert find_nearest_tokens(model, sounds[0], 2)[0].shape == (len(sounds[0]), 2)
    assert compute_embedding_map(using, clips[:2], sounds).text_labels == tuple(TRANSCRIPTS[:2])


def test_attention_that_no_clip_can_tell(using: InferenceEngine, clips: list[Example]) -> None:
    assert compute_audio_attention(using, []) is None
    long = make_example(clips[0].audio_segments[0].path, "x" * 3000)
    assert compute_audio_attention(using, [long]) is None


def test_the_map_of_few_labels_and_of_many_words(
    using: InferenceEngine, clips: list[Example]
) -> None:
    again = [replace(clip, location=f"again {clip.location}") for clip in clips]
    sounds = [compute_audio_embeddings(using, clip) for clip in clips]
    found = compute_embedding_map(using, clips + again, sounds + sounds)
    assert found.is_labeled and found.text_labels == tuple(TRANSCRIPTS[:6])
    assert found.example_groups == (*range(6), *range(6))
    count = sum(map(len, sounds))
    assert found.example_points.shape == (12, 2) and found.audio_points.shape == (2 * count, 2)
    assert found.audio_groups == tuple(n for n, each in enumerate(sounds) for _ in each) * 2
    assert torch.equal(found.example_points[:6], found.example_points[6:])
    assert 0 < found.explained_variance[1] <= found.explained_variance[0] < 1
    ids = [token for word in TRANSCRIPTS[:6] for token in using.model.tokenizer(word)["input_ids"]]
    words = using.model.embed_tokens.weight.detach()[ids].norm(dim=1).mean()
    assert found.norm_ratio == pytest.approx(float(torch.cat(sounds).norm(dim=1).mean() / words))

    many = [
        make_example(clip.audio_segments[0].path, f"so {n} and so")
        for n, clip in enumerate(clips + again)
    ]
    unlike = compute_embedding_map(using, many, sounds + sounds)
    assert not unlike.is_labeled and unlike.example_groups == tuple(range(12))
    assert unlike.text_labels[0] == "␣" and {"s", "o"} <= set(unlike.text_labels[:3])
    assert len(unlike.text_points) == len(unlike.text_labels) == len(set("so 0 and so 1234567890"))


def test_the_worst_are_looked_at_closely(
    using: InferenceEngine, clips: list[Example], tmp_path: Path
) -> None:
    long = make_example(write_tone(tmp_path / "long.wav", hertz=333, seconds=9), "nine")
    asked = replace(clips[0], task="answer")
    found = compute_insight(using, [*clips[1:3], long, asked], num_examples=4)
    assert [each.location for each in found.examples[:3]] == [
        each.location for each in found.report.worst_examples
    ]
    assert found.examples[3].wer is None and found.examples[3].reference == clips[0].target
    (player,) = next(each for each in found.examples if each.location == long.location).previews
    assert (player.seconds, player.total_seconds) == (8.0, 9.0) and player.flac_bytes[:4] == b"fLaC"
    for each in found.examples:
        (sound,) = next(
            clip for clip in [*clips, long] if clip.location == each.location
        ).audio_segments
        assert each.num_audio_tokens == using.count_audio_tokens((sound,))
        assert len(each.nearest_tokens) == min(each.num_audio_tokens, 100)
        assert all(len(token.tokens) == 3 for token in each.nearest_tokens)
        whole = sum(player.total_seconds for player in each.previews)
        step = whole / each.num_audio_tokens
        assert [token.start for token in each.nearest_tokens[:2]] == pytest.approx([0, step])
    assert len(compute_insight(using, clips, num_examples=2).examples) == 2
