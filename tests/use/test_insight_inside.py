"""What sound becomes inside a model, against numbers that are got another way."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dlm.batches.chat import IGNORE
from dlm.batches.forms import chat_of
from dlm.clips.clip import Clip
from dlm.features.ear import Ear
from dlm.model.load import load_base
from dlm.use.insight import measure
from dlm.use.insight_inside import attention, batch_of, draw_map, nearest, principal, projected
from dlm.use.ready import Ready
from tests.natives import VOXTRAL_SECONDS, build, row
from tests.tiny import RATE, WORDS, lesson, make_tiny, spoken, tiny_config, tiny_plan, tone, tones

LAYERS, HEADS = 2, 2


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    return tones(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def using(tmp_path_factory: pytest.TempPathFactory, clips: list[Clip]) -> Ready:
    """A random base of two layers, whose attention is not even."""
    config = tiny_config()
    config["lm"] |= {"num_hidden_layers": LAYERS}
    folder = make_tiny(tmp_path_factory.mktemp("base"), config=config)
    found = lesson(tiny_plan(folder, len(clips), steps=1), clips).using
    with torch.no_grad():
        for name, weights in found.model.decoder.named_parameters():
            if name.endswith(("q_proj.weight", "k_proj.weight")):
                weights.mul_(30)
    found.model.eval()
    return found


def test_principal_axes_are_those_of_the_covariance() -> None:
    points = torch.randn(40, 7, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 8)
    flat, shares = principal(points)
    values, axes = np.linalg.eigh(np.cov(points.double().numpy().T))
    assert shares == pytest.approx(values[::-1][:2] / values.sum())
    told = (points - points.mean(dim=0)).double().numpy() @ axes[:, ::-1][:, :2]
    assert np.abs(flat.numpy()) == pytest.approx(np.abs(told), abs=1e-6)
    assert flat.shape == (40, 2)
    assert torch.equal(principal(points)[0], flat)
    assert principal(torch.ones(3, 7))[1] == (0.0, 0.0)


def test_projected_sound_is_what_stands_in_the_text(using: Ready, clips: list[Clip]) -> None:
    for clip in clips[:2]:
        batch = batch_of(using, clip)
        with torch.no_grad():
            features = using.model.hear(batch.sounds, batch.frames)
            alone = using.model.project(features)
        assert projected(using, clip) == pytest.approx(alone, abs=1e-6)
        assert len(alone) == using.tokens(clip.sounds[0]) > 1


def test_the_nearest_words_are_those_of_the_largest_cosine(using: Ready, clips: list[Clip]) -> None:
    sound = projected(using, clips[0])
    table = using.model.words.weight.detach()
    every = torch.nn.functional.cosine_similarity(sound[:, None], table[None], dim=2)
    cosines, ids = nearest(using.model, sound, 3, chunk=100)
    best = every.sort(dim=1, descending=True)
    assert cosines.shape == ids.shape == (len(sound), 3)
    assert torch.equal(ids, best.indices[:, :3])
    assert cosines == pytest.approx(best.values[:, :3], abs=1e-5)
    a_word = table[[ord("a") % 200]] * 3
    assert nearest(using.model, a_word, 1)[1].item() == ord("a") % 200


def by_transformers(using: Ready, clips: list[Clip]) -> tuple[torch.Tensor, float]:
    """Attention to sound, (layers, heads), as transformers' own outputs tell it; and if even."""
    told, even, count = torch.zeros(()), 0.0, 0
    decoder = using.model.decoder
    decoder.set_attn_implementation("eager")
    for clip in clips:
        batch = batch_of(using, clip)
        with torch.no_grad():
            merged = using.model.merge(batch)
            said = decoder(inputs_embeds=merged, use_cache=False, output_attentions=True)
        heard = (batch.ids[0] == using.model.placeholder).nonzero()[:, 0].tolist()
        asks = [at - 1 for at in range(1, merged.shape[1]) if batch.labels[0, at] != IGNORE]
        for at in asks:
            layers = [weights[0, :, at, heard].sum(dim=-1) for weights in said.attentions]
            told = told + torch.stack(layers)
            even += len([each for each in heard if each <= at]) / (at + 1)
        count += len(asks)
    decoder.set_attn_implementation("sdpa")
    return told / count, even / count


def test_attention_to_sound_is_what_transformers_says(using: Ready, clips: list[Clip]) -> None:
    decoder = using.model.decoder
    assert decoder.config._attn_implementation == "sdpa"
    found = attention(using, clips[:3])
    assert decoder.config._attn_implementation == "sdpa", "the model was left another"
    told, even = by_transformers(using, clips[:3])
    assert found is not None and found.clips == 3
    assert told.shape == (LAYERS, HEADS)
    assert torch.tensor(found.heads) == pytest.approx(told, abs=1e-5)
    assert found.even == pytest.approx(even)
    assert found.layers == pytest.approx(told.mean(dim=1).tolist(), abs=1e-5)
    assert all(0 < share < 1 for share in found.layers)
    assert max(abs(share - found.even) for share in found.layers) > 0.02  # it is not even


@pytest.mark.parametrize(
    "key", ["qwen2-audio-7b-instruct", "voxtral-mini-3b", "qwen3-omni-30b-a3b"]
)
def test_a_native_base_tells_as_much(key: str, clips: list[Clip], tmp_path: Path) -> None:
    short = {"window": VOXTRAL_SECONDS * RATE} if key.startswith("voxtral") else {}
    base = row(key, build(key, tmp_path), **short)
    model = load_base(base)
    ear = Ear(base, auto_resample=False, hear=model.hear_one)
    using = Ready(model, chat_of(model.tokenizer, base), ear, 4)
    found, (told, even) = attention(using, clips[:2]), by_transformers(using, clips[:2])
    assert found is not None and found.even == pytest.approx(even)
    assert torch.tensor(found.heads) == pytest.approx(told, abs=1e-5)
    sounds = [projected(using, clip) for clip in clips[:2]]
    assert nearest(model, sounds[0], 2)[0].shape == (len(sounds[0]), 2)
    assert draw_map(using, clips[:2], sounds).words == tuple(WORDS[:2])


def test_attention_that_no_clip_can_tell(using: Ready, clips: list[Clip]) -> None:
    assert attention(using, []) is None
    long = spoken(clips[0].sounds[0].path, "x" * 3000)
    assert attention(using, [long]) is None


def test_the_map_of_few_labels_and_of_many_words(using: Ready, clips: list[Clip]) -> None:
    again = [replace(clip, place=f"again {clip.place}") for clip in clips]
    sounds = [projected(using, clip) for clip in clips]
    found = draw_map(using, clips + again, sounds + sounds)
    assert found.labelled and found.words == tuple(WORDS[:6])
    assert found.group == (*range(6), *range(6))
    count = sum(map(len, sounds))
    assert found.clips.shape == (12, 2) and found.tokens.shape == (2 * count, 2)
    assert found.of == tuple(n for n, each in enumerate(sounds) for _ in each) * 2
    assert torch.equal(found.clips[:6], found.clips[6:])
    assert 0 < found.variance[1] <= found.variance[0] < 1
    ids = [token for word in WORDS[:6] for token in using.model.tokenizer(word)["input_ids"]]
    words = using.model.words.weight.detach()[ids].norm(dim=1).mean()
    assert found.times == pytest.approx(float(torch.cat(sounds).norm(dim=1).mean() / words))

    many = [spoken(clip.sounds[0].path, f"so {n} and so") for n, clip in enumerate(clips + again)]
    unlike = draw_map(using, many, sounds + sounds)
    assert not unlike.labelled and unlike.group == tuple(range(12))
    assert unlike.words[0] == "␣" and {"s", "o"} <= set(unlike.words[:3])
    assert len(unlike.spots) == len(unlike.words) == len(set("so 0 and so 1234567890"))


def test_the_worst_are_looked_at_closely(using: Ready, clips: list[Clip], tmp_path: Path) -> None:
    long = spoken(tone(tmp_path / "long.wav", hertz=333, seconds=9), "nine")
    asked = replace(clips[0], task="answer")
    found = measure(using, [*clips[1:3], long, asked], count=4)
    assert [each.place for each in found.seen[:3]] == [each.place for each in found.report.worst]
    assert found.seen[3].wer is None and found.seen[3].said == clips[0].target
    (player,) = next(each for each in found.seen if each.place == long.place).players
    assert (player.seconds, player.whole) == (8.0, 9.0) and player.flac[:4] == b"fLaC"
    for each in found.seen:
        (sound,) = next(clip for clip in [*clips, long] if clip.place == each.place).sounds
        assert each.tokens == using.tokens(sound)
        assert len(each.near) == min(each.tokens, 100)
        assert all(len(token.words) == 3 for token in each.near)
        whole = sum(player.whole for player in each.players)
        step = whole / each.tokens
        assert [token.seconds for token in each.near[:2]] == pytest.approx([0, step])
    assert len(measure(using, clips, count=2).seen) == 2
