"""What a model says: alone or together, as a stream or at once, greedy or drawn."""

import math
from collections import Counter
from copy import deepcopy
from dataclasses import dataclass

import pytest
import torch

from dlm.batching.chat_template import ChatEncoder, EncodedExample
from dlm.batching.collator import PaddingSpec, collate
from dlm.data.types import AudioSegment, Example, Message
from dlm.features.extractor import AudioFeatureExtractor
from dlm.models.composed import ComposedAudioLM, load_composed_model
from dlm.models.generate import GenerationConfig, generate, generate_stream
from tests.tiny_models import make_tiny_config, write_tiny_model

LETTERS = "abcdefgh"
DRAWS = 1000


@dataclass(frozen=True)
class Asked:
    """A model that says much, and questions for it."""

    model: ComposedAudioLM
    chat: ChatEncoder
    ear: AudioFeatureExtractor
    rows: list[EncodedExample]


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory, clips: list[Example]) -> Asked:
    """Its head is its own and its weights are large: what it says depends on all it heard."""
    config = make_tiny_config()
    config["lm"]["tie_word_embeddings"] = False
    folder = write_tiny_model(tmp_path_factory.mktemp("loud"), seed=3, config=config)
    model = load_composed_model(folder).requires_grad_(False)
    for each in model.lm.parameters():
        if each.ndim > 1:
            each.mul_(10.0)
    chat = ChatEncoder(model.tokenizer, model.spec)
    questions = [
        (Message("user", (*clip.audio_segments, "?" * (1 + 3 * n))),)
        for n, clip in enumerate(clips)
    ]
    rows = [chat.encode_prompt(turns, f"row {n}") for n, turns in enumerate(questions)]
    return Asked(model, chat, AudioFeatureExtractor(model.spec, auto_resample=False), rows)


def told(asked: Asked, rows: list[EncodedExample], **how: object) -> list[str]:
    return generate(
        asked.model, asked.chat, rows, asked.ear, GenerationConfig(**{"max_new_tokens": 24, **how})
    )


def pieces(asked: Asked, row: EncodedExample, **how: object) -> list[str]:
    how = GenerationConfig(**{"max_new_tokens": 24, **how})
    return list(generate_stream(asked.model, asked.chat, row, asked.ear, how))


def test_answers_together_are_those_alone(asked: Asked) -> None:
    together = told(asked, asked.rows)
    assert together == [told(asked, [row])[0] for row in asked.rows]
    assert len(set(together)) > 3, "a test of constant answers would tell nothing"


def test_it_is_what_transformers_generates(asked: Asked) -> None:
    padding = PaddingSpec(asked.chat.pad_token_id, asked.chat.audio_token_id, pad_left=True)
    for row in asked.rows:
        batch = collate([row], asked.ear, padding)
        theirs = asked.model.lm.generate(
            inputs_embeds=asked.model.merge_audio_embeddings(batch),
            attention_mask=batch.attention_mask,
            max_new_tokens=24,
            do_sample=False,
            eos_token_id=asked.chat.eos_token_id,
            pad_token_id=asked.chat.pad_token_id,
        )
        assert told(asked, [row]) == [asked.chat.decode(theirs[0].tolist()).strip()]


def test_a_batch_is_what_transformers_generates(asked: Asked) -> None:
    batch = collate(
        asked.rows, asked.ear, PaddingSpec(asked.chat.pad_token_id, asked.chat.audio_token_id, True)
    )
    theirs = asked.model.lm.generate(
        inputs_embeds=asked.model.merge_audio_embeddings(batch),
        attention_mask=batch.attention_mask,
        max_new_tokens=24,
        do_sample=False,
        eos_token_id=asked.chat.eos_token_id,
        pad_token_id=asked.chat.pad_token_id,
    )
    assert told(asked, asked.rows) == [asked.chat.decode(each.tolist()).strip() for each in theirs]


@pytest.mark.parametrize("how", [{}, {"temperature": 1.0, "seed": 5}])
def test_the_pieces_of_a_stream_are_what_is_said(asked: Asked, how: dict) -> None:
    for row in asked.rows:
        assert "".join(pieces(asked, row, **how)) == told(asked, [row], **how)[0]


def test_a_character_is_never_cut(asked: Asked) -> None:
    """Drawn from hot random bytes, many of them pieces of characters."""
    cut = 0
    for seed in range(12):
        got = pieces(asked, asked.rows[1], temperature=3.0, seed=seed)
        assert not any(piece.endswith("\ufffd") for piece in got[:-1])
        assert "".join(got) == told(asked, [asked.rows[1]], temperature=3.0, seed=seed)[0]
        cut += sum("\ufffd" in piece for piece in got)
    assert cut, "some bytes were no characters"


def test_it_stops_at_the_end_of_its_turn(asked: Asked) -> None:
    """The end token, made the likeliest, ends it at once and is not told."""
    model = deepcopy(asked.model)
    heard = Asked(model, asked.chat, asked.ear, asked.rows)
    batch = collate(
        asked.rows[:1],
        asked.ear,
        PaddingSpec(asked.chat.pad_token_id, asked.chat.audio_token_id, True),
    )
    with torch.no_grad():
        hidden = model.forward_lm(model.merge_audio_embeddings(batch), batch.attention_mask)[0, -1]
        model.lm_head.weight[asked.chat.eos_token_id] = 50 * hidden
    assert told(heard, asked.rows[:1]) == [""]
    assert "".join(pieces(heard, asked.rows[0])) == ""


@pytest.mark.parametrize("most", [1, 5])
def test_no_more_than_asked_for(asked: Asked, most: int) -> None:
    for row in asked.rows:
        assert len(told(asked, [row], max_new_tokens=most)[0].encode()) <= 3 * most


def test_a_seed_draws_the_same_words(asked: Asked) -> None:
    row = asked.rows[2]
    drawn = [told(asked, [row], temperature=1.5, seed=seed)[0] for seed in (1, 1, 2, 3)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) == 3


def test_a_tiny_nucleus_is_greedy(asked: Asked) -> None:
    row = asked.rows[2]
    greedy = told(asked, [row])
    assert told(asked, [row], temperature=1.5, top_p=1e-9, seed=4) == greedy
    assert told(asked, [row], temperature=1e-4, seed=4) == greedy
    assert told(asked, [row], temperature=1.5, seed=4) != greedy


def test_a_nucleus_holds_the_likeliest_words(asked: Asked) -> None:
    """The first token drawn lies among the fewest words that reach the share."""
    row = asked.rows[2]
    batch = collate(
        [row], asked.ear, PaddingSpec(asked.chat.pad_token_id, asked.chat.audio_token_id, True)
    )
    hidden = asked.model.forward_lm(asked.model.merge_audio_embeddings(batch), batch.attention_mask)
    likely, order = (
        (asked.model.compute_logits(hidden[:, -1])[0] / 4.0).softmax(-1).sort(descending=True)
    )
    few = int((likely.cumsum(0) < 0.5).sum()) + 1
    allowed = {asked.chat.decode([word]).strip() for word in order[:few].tolist()}
    how = {"temperature": 4.0, "max_new_tokens": 1}
    assert {told(asked, [row], **how, top_p=0.5, seed=n)[0] for n in range(40)} <= allowed
    assert not {told(asked, [row], **how, seed=n)[0] for n in range(40)} <= allowed


@pytest.fixture(scope="module")
def die(asked: Asked) -> tuple[Asked, list[float]]:
    """A model that says one of eight letters first, and the logits of these; no other word."""
    model = deepcopy(asked.model)
    row = asked.rows[0]
    batch = collate(
        [row], asked.ear, PaddingSpec(asked.chat.pad_token_id, asked.chat.audio_token_id, True)
    )
    logits = [2.0, 1.5, 1.0, 0.5, 0.0, -0.5, -1.0, -1.5]
    with torch.no_grad():
        hidden = model.forward_lm(model.merge_audio_embeddings(batch), batch.attention_mask)[0, -1]
        unit = hidden / hidden.square().sum()
        model.lm_head.weight.copy_(-40.0 * unit)
        for letter, logit in zip(LETTERS, logits, strict=True):
            (word,) = model.tokenizer(letter, add_special_tokens=False)["input_ids"]
            model.lm_head.weight[word] = logit * unit
    return Asked(model, asked.chat, asked.ear, [row]), logits


@pytest.mark.parametrize(
    "how",
    [
        {"temperature": 1.0},
        {"temperature": 2.0},
        {"temperature": 0.8},
        {"temperature": 1.0, "top_k": 3},
        {"temperature": 1.0, "top_k": 1000},
        {"temperature": 1.0, "top_p": 0.7},
        {"temperature": 2.0, "top_k": 4, "top_p": 0.8},
    ],
)
def test_words_are_drawn_by_their_shares(
    die: tuple[Asked, list[float]], how: dict[str, float]
) -> None:
    """Multinomial sampling against the shares by their definition, within four deviations."""
    asked, logits = die
    shares = [math.exp(logit / how["temperature"]) for logit in logits]
    shares = [share * (place < how.get("top_k", 8)) for place, share in enumerate(shares)]
    before = [sum(shares[:place]) / sum(shares) for place in range(8)]
    shares = [s if b < how.get("top_p", 1.0) else 0.0 for s, b in zip(shares, before, strict=True)]
    drawn = Counter[str]()
    for seed in range(DRAWS // 500):
        drawn.update(told(asked, asked.rows * 500, **how, seed=seed, max_new_tokens=1))
    assert drawn.keys() == {letter for letter, s in zip(LETTERS, shares, strict=True) if s}
    for letter, share in zip(LETTERS, shares, strict=True):
        expected = share / sum(shares)
        error = math.sqrt(expected * (1 - expected) / DRAWS)
        assert abs(drawn[letter] / DRAWS - expected) <= 4 * error, (letter, how)


def test_the_likeliest_of_one_is_greedy(asked: Asked) -> None:
    row = asked.rows[2]
    assert told(asked, [row], temperature=3.0, top_k=1, seed=7) == told(asked, [row])


def test_another_sound_makes_another_answer(asked: Asked, clips: list[Example]) -> None:
    def of(sound: AudioSegment) -> str:
        return told(asked, [asked.chat.encode_prompt((Message("user", (sound, "?")),), "q")])[0]

    assert of(clips[1].audio_segments[0]) != of(clips[3].audio_segments[0])
