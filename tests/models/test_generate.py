"""Generation: single prompts and batches, streamed or not, greedy or sampled."""

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
class GenerationSetup:
    """A model with long answers, and prompts for it."""

    model: ComposedAudioLM
    chat_encoder: ChatEncoder
    extractor: AudioFeatureExtractor
    encoded_examples: list[EncodedExample]


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory, examples: list[Example]) -> GenerationSetup:
    """With an untied head and large weights, so that answers depend on the whole prompt."""
    config = make_tiny_config()
    config["lm"]["tie_word_embeddings"] = False
    folder = write_tiny_model(tmp_path_factory.mktemp("loud"), seed=3, config=config)
    model = load_composed_model(folder).requires_grad_(False)
    for parameter in model.lm.parameters():
        if parameter.ndim > 1:
            parameter.mul_(10.0)
    chat_encoder = ChatEncoder(model.tokenizer, model.spec)
    conversations = [
        (Message("user", (*example.audio_segments, "?" * (1 + 3 * n))),)
        for n, example in enumerate(examples)
    ]
    encoded_examples = [
        chat_encoder.encode_prompt(messages, f"example {n}")
        for n, messages in enumerate(conversations)
    ]
    return GenerationSetup(
        model,
        chat_encoder,
        AudioFeatureExtractor(model.spec, auto_resample=False),
        encoded_examples,
    )


def generate_answers(
    setup: GenerationSetup, encoded_examples: list[EncodedExample], **config: object
) -> list[str]:
    return generate(
        setup.model,
        setup.chat_encoder,
        encoded_examples,
        setup.extractor,
        GenerationConfig(**{"max_new_tokens": 24, **config}),
    )


def stream_answer(setup: GenerationSetup, encoded: EncodedExample, **config: object) -> list[str]:
    config = GenerationConfig(**{"max_new_tokens": 24, **config})
    return list(generate_stream(setup.model, setup.chat_encoder, encoded, setup.extractor, config))


def test_answers_of_a_batch_equal_those_of_single_prompts(setup: GenerationSetup) -> None:
    answers = generate_answers(setup, setup.encoded_examples)
    assert answers == [generate_answers(setup, [encoded])[0] for encoded in setup.encoded_examples]
    assert len(set(answers)) > 3, "constant answers would show nothing"


def test_answers_equal_those_of_transformers(setup: GenerationSetup) -> None:
    padding = PaddingSpec(
        setup.chat_encoder.pad_token_id, setup.chat_encoder.audio_token_id, pad_left=True
    )
    for encoded in setup.encoded_examples:
        batch = collate([encoded], setup.extractor, padding)
        expected = setup.model.lm.generate(
            inputs_embeds=setup.model.merge_audio_embeddings(batch),
            attention_mask=batch.attention_mask,
            max_new_tokens=24,
            do_sample=False,
            eos_token_id=setup.chat_encoder.eos_token_id,
            pad_token_id=setup.chat_encoder.pad_token_id,
        )
        assert generate_answers(setup, [encoded]) == [
            setup.chat_encoder.decode(expected[0].tolist()).strip()
        ]


def test_answers_of_a_batch_equal_those_of_transformers(setup: GenerationSetup) -> None:
    batch = collate(
        setup.encoded_examples,
        setup.extractor,
        PaddingSpec(setup.chat_encoder.pad_token_id, setup.chat_encoder.audio_token_id, True),
    )
    expected = setup.model.lm.generate(
        inputs_embeds=setup.model.merge_audio_embeddings(batch),
        attention_mask=batch.attention_mask,
        max_new_tokens=24,
        do_sample=False,
        eos_token_id=setup.chat_encoder.eos_token_id,
        pad_token_id=setup.chat_encoder.pad_token_id,
    )
    assert generate_answers(setup, setup.encoded_examples) == [
        setup.chat_encoder.decode(parameter.tolist()).strip() for parameter in expected
    ]


@pytest.mark.parametrize("config", [{}, {"temperature": 1.0, "seed": 5}])
def test_streamed_pieces_make_up_the_answer(setup: GenerationSetup, config: dict) -> None:
    for encoded in setup.encoded_examples:
        assert (
            "".join(stream_answer(setup, encoded, **config))
            == generate_answers(setup, [encoded], **config)[0]
        )


def test_a_stream_never_splits_a_character(setup: GenerationSetup) -> None:
    """With random bytes, many of which are parts of characters."""
    num_broken = 0
    for seed in range(12):
        pieces = stream_answer(setup, setup.encoded_examples[1], temperature=3.0, seed=seed)
        assert not any(piece.endswith("\ufffd") for piece in pieces[:-1])
        assert (
            "".join(pieces)
            == generate_answers(setup, [setup.encoded_examples[1]], temperature=3.0, seed=seed)[0]
        )
        num_broken += sum("\ufffd" in piece for piece in pieces)
    assert num_broken, "some bytes are no characters"


def test_generation_stops_at_the_end_token(setup: GenerationSetup) -> None:
    """The end token, made the likeliest, ends the answer at once and is not part of it."""
    model = deepcopy(setup.model)
    changed_setup = GenerationSetup(
        model, setup.chat_encoder, setup.extractor, setup.encoded_examples
    )
    batch = collate(
        setup.encoded_examples[:1],
        setup.extractor,
        PaddingSpec(setup.chat_encoder.pad_token_id, setup.chat_encoder.audio_token_id, True),
    )
    with torch.no_grad():
        hidden = model.forward_lm(model.merge_audio_embeddings(batch), batch.attention_mask)[0, -1]
        model.lm_head.weight[setup.chat_encoder.eos_token_id] = 50 * hidden
    assert generate_answers(changed_setup, setup.encoded_examples[:1]) == [""]
    assert "".join(stream_answer(changed_setup, setup.encoded_examples[0])) == ""


@pytest.mark.parametrize("max_new_tokens", [1, 5])
def test_answers_are_no_longer_than_max_new_tokens(
    setup: GenerationSetup, max_new_tokens: int
) -> None:
    for encoded in setup.encoded_examples:
        assert (
            len(generate_answers(setup, [encoded], max_new_tokens=max_new_tokens)[0].encode())
            <= 3 * max_new_tokens
        )


def test_the_same_seed_draws_the_same_tokens(setup: GenerationSetup) -> None:
    encoded = setup.encoded_examples[2]
    counts = [
        generate_answers(setup, [encoded], temperature=1.5, seed=seed)[0] for seed in (1, 1, 2, 3)
    ]
    assert counts[0] == counts[1]
    assert len(set(counts)) == 3


def test_a_tiny_top_p_or_temperature_is_greedy(setup: GenerationSetup) -> None:
    encoded = setup.encoded_examples[2]
    greedy = generate_answers(setup, [encoded])
    assert generate_answers(setup, [encoded], temperature=1.5, top_p=1e-9, seed=4) == greedy
    assert generate_answers(setup, [encoded], temperature=1e-4, seed=4) == greedy
    assert generate_answers(setup, [encoded], temperature=1.5, seed=4) != greedy


def test_top_p_keeps_the_likeliest_tokens(setup: GenerationSetup) -> None:
    """The first token is one of the fewest that reach the probability."""
    encoded = setup.encoded_examples[2]
    batch = collate(
        [encoded],
        setup.extractor,
        PaddingSpec(setup.chat_encoder.pad_token_id, setup.chat_encoder.audio_token_id, True),
    )
    hidden = setup.model.forward_lm(setup.model.merge_audio_embeddings(batch), batch.attention_mask)
    probs, token_ids = (
        (setup.model.compute_logits(hidden[:, -1])[0] / 4.0).softmax(-1).sort(descending=True)
    )
    nucleus_size = int((probs.cumsum(0) < 0.5).sum()) + 1
    allowed = {
        setup.chat_encoder.decode([token_id]).strip()
        for token_id in token_ids[:nucleus_size].tolist()
    }
    config = {"temperature": 4.0, "max_new_tokens": 1}
    assert {
        generate_answers(setup, [encoded], **config, top_p=0.5, seed=n)[0] for n in range(40)
    } <= allowed
    assert (
        not {generate_answers(setup, [encoded], **config, seed=n)[0] for n in range(40)} <= allowed
    )


@pytest.fixture(scope="module")
def letter_setup(setup: GenerationSetup) -> tuple[GenerationSetup, list[float]]:
    """A model whose first token is one of eight letters, and their logits."""
    model = deepcopy(setup.model)
    encoded = setup.encoded_examples[0]
    batch = collate(
        [encoded],
        setup.extractor,
        PaddingSpec(setup.chat_encoder.pad_token_id, setup.chat_encoder.audio_token_id, True),
    )
    logits = [2.0, 1.5, 1.0, 0.5, 0.0, -0.5, -1.0, -1.5]
    with torch.no_grad():
        hidden = model.forward_lm(model.merge_audio_embeddings(batch), batch.attention_mask)[0, -1]
        unit = hidden / hidden.square().sum()
        model.lm_head.weight.copy_(-40.0 * unit)
        for letter, logit in zip(LETTERS, logits, strict=True):
            (token_id,) = model.tokenizer(letter, add_special_tokens=False)["input_ids"]
            model.lm_head.weight[token_id] = logit * unit
    return GenerationSetup(model, setup.chat_encoder, setup.extractor, [encoded]), logits


@pytest.mark.parametrize(
    "config",
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
def test_tokens_are_drawn_by_their_probabilities(
    letter_setup: tuple[GenerationSetup, list[float]], config: dict[str, float]
) -> None:
    """Frequencies against the probabilities by definition, within four standard deviations."""
    setup, logits = letter_setup
    probabilities = [math.exp(logit / config["temperature"]) for logit in logits]
    probabilities = [
        probability * (rank < config.get("top_k", 8))
        for rank, probability in enumerate(probabilities)
    ]
    probability_before = [sum(probabilities[:rank]) / sum(probabilities) for rank in range(8)]
    probabilities = [
        probability if before < config.get("top_p", 1.0) else 0.0
        for probability, before in zip(probabilities, probability_before, strict=True)
    ]
    counts = Counter[str]()
    for seed in range(DRAWS // 500):
        counts.update(
            generate_answers(
                setup, setup.encoded_examples * 500, **config, seed=seed, max_new_tokens=1
            )
        )
    assert counts.keys() == {
        letter for letter, probability in zip(LETTERS, probabilities, strict=True) if probability
    }
    for letter, probability in zip(LETTERS, probabilities, strict=True):
        expected = probability / sum(probabilities)
        error = math.sqrt(expected * (1 - expected) / DRAWS)
        assert abs(counts[letter] / DRAWS - expected) <= 4 * error, (letter, config)


def test_top_k_of_one_is_greedy(setup: GenerationSetup) -> None:
    encoded = setup.encoded_examples[2]
    assert generate_answers(setup, [encoded], temperature=3.0, top_k=1, seed=7) == generate_answers(
        setup, [encoded]
    )


def test_the_answer_depends_on_the_audio(setup: GenerationSetup, examples: list[Example]) -> None:
    def of(segment: AudioSegment) -> str:
        return generate_answers(
            setup, [setup.chat_encoder.encode_prompt((Message("user", (segment, "?")),), "q")]
        )[0]

    assert of(examples[1].audio_segments[0]) != of(examples[3].audio_segments[0])
