"""Every base's form writes the tokens that the released processor writes for the same turns."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers import AutoProcessor, AutoTokenizer

from dlm.batching.chat_template import IGNORE_INDEX, load_pretrained_tokenizer
from dlm.batching.collator import Batch, PaddingSpec, collate
from dlm.batching.mistral_chat import build_chat_encoder
from dlm.data.types import AudioSegment, Example, Message
from dlm.errors import DataError
from dlm.features.extractor import AudioFeatureExtractor
from dlm.plan.model_spec import ModelSpec
from tests.pretrained_twins import make_twin_spec, write_pretrained_twin
from tests.tiny_models import SAMPLE_RATE

WHOLE = ["qwen2-audio-7b-instruct", "audio-flamingo-3", "glm-asr-nano", "qwen3-asr-1.7b"]
OMNI = ["qwen2.5-omni-7b", "qwen3-omni-30b-a3b"]  # their processors need torchvision
LENGTHS = (9_000, 16_037, 3_000)  # one of them shorter than Qwen3-ASR hears at the least


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelSpec]:
    folders = {key: tmp_path_factory.mktemp(key) for key in (*WHOLE, *OMNI)}
    return {
        key: make_twin_spec(key, write_pretrained_twin(key, folder))
        for key, folder in folders.items()
    }


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> list[AudioSegment]:
    place, chance = tmp_path_factory.mktemp("sounds"), np.random.default_rng(0)
    for number, length in enumerate(LENGTHS):
        soundfile.write(
            place / f"{number}.wav", chance.normal(0, 0.1, length), SAMPLE_RATE, "FLOAT"
        )
    return [AudioSegment(place / f"{number}.wav") for number in range(len(LENGTHS))]


def learned(base: ModelSpec, clip: Example) -> Batch:
    """The batch of one clip to learn from."""
    chat = build_chat_encoder(load_pretrained_tokenizer(Path(base.source), base), base)
    padding = PaddingSpec(chat.pad_token_id, chat.audio_token_id)
    return collate(
        [chat.encode_example(clip)], AudioFeatureExtractor(base, auto_resample=False), padding
    )


def asked(base: ModelSpec, turns: tuple[Message, ...], language: str | None = None) -> torch.Tensor:
    """The tokens of a question."""
    chat = build_chat_encoder(load_pretrained_tokenizer(Path(base.source), base), base)
    padding = PaddingSpec(chat.pad_token_id, chat.audio_token_id)
    question = chat.encode_prompt(turns, "here", language)
    return collate([question], AudioFeatureExtractor(base, auto_resample=False), padding).input_ids


def parts(turn: Message, prompt: str = "") -> dict:
    """A turn as released templates take it."""
    content = [
        {"type": "audio", "path": str(part.path)}
        if isinstance(part, AudioSegment)
        else {"type": "text", "text": part}
        for part in turn.content
    ]
    return {
        "role": turn.role,
        "content": content + [{"type": "text", "text": prompt}] * bool(prompt),
    }


@pytest.mark.parametrize("number", range(len(LENGTHS)), ids=str)
@pytest.mark.parametrize("key", WHOLE)
def test_prompt_equals_the_processor(
    key: str, number: int, bases: dict[str, ModelSpec], sounds: list[AudioSegment]
) -> None:
    """With as many tokens of sound as it counts, for odd lengths."""
    base = bases[key]
    turn = Message("user", (sounds[number],))
    processor = AutoProcessor.from_pretrained(base.source)
    told = processor.apply_chat_template(
        [parts(turn, base.default_prompt)],
        tokenize=True,
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )
    assert asked(base, (turn,)).tolist() == told["input_ids"].tolist()


@pytest.mark.parametrize("key", OMNI)
def test_conversation_equals_the_template(
    key: str, bases: dict[str, ModelSpec], sounds: list[AudioSegment]
) -> None:
    """Two sounds and two answers; an answer carries loss on its words and its end alone."""
    base = bases[key]
    turns = (
        Message("system", ("Be brief.",)),
        Message("user", (sounds[0], "Who?")),
        Message("assistant", ("Ann.",)),
        Message("user", ("And ", sounds[1], "?")),
        Message("assistant", ("Bob.",)),
    )
    tokenizer = AutoTokenizer.from_pretrained(base.source)
    text = tokenizer.apply_chat_template([parts(turn) for turn in turns], tokenize=False)
    batch = learned(base, Example(turns, "here", "answer"))
    spelled = tokenizer.decode(batch.input_ids[0])
    for run in batch.audio_token_counts.tolist():
        spelled = spelled.replace(base.placeholder * run, base.placeholder, 1)
    assert spelled == text
    taught = [each for each in batch.labels[0].tolist() if each != IGNORE_INDEX]
    assert tokenizer.decode(taught) == "Ann.<|im_end|>Bob.<|im_end|>"


def test_qwen3_asr_answers_begin_with_their_language(
    bases: dict[str, ModelSpec], sounds: list[AudioSegment]
) -> None:
    """As its own transcription requests force it; a name, a code, or none."""
    base = bases["qwen3-asr-1.7b"]
    processor = AutoProcessor.from_pretrained(base.source)
    turn = Message("user", (sounds[1],))
    for language in ("fr", "French", "fr-CA"):
        told = processor.apply_transcription_request(str(sounds[1].path), language="fr")
        assert asked(base, (turn,), language).tolist() == told["input_ids"].tolist()
    said = Message("assistant", ("oui",))
    for language, name in (("fr", "French"), (None, "None")):
        batch = learned(base, Example((turn, said), "here", "transcribe", language))
        taught = [each for each in batch.labels[0].tolist() if each != IGNORE_INDEX]
        spelled = processor.tokenizer.decode(taught)
        assert spelled == f"language {name}<asr_text>oui<|im_end|>"
    chat = build_chat_encoder(load_pretrained_tokenizer(Path(base.source), base), base)
    spell = processor.tokenizer
    assert chat.decode(spell("language French<asr_text>oui")["input_ids"]) == "oui"
    assert chat.decode(spell("language Fre")["input_ids"]) == ""
    assert chat.decode(spell("oui")["input_ids"]) == "oui"


def test_qwen3_asr_refuses_questions(
    bases: dict[str, ModelSpec], sounds: list[AudioSegment]
) -> None:
    """Its template would leave the question out without a word."""
    turns = (Message("user", (sounds[0], "Who speaks?")), Message("assistant", ("Ann.",)))
    with pytest.raises(DataError) as caught:
        learned(bases["qwen3-asr-1.7b"], Example(turns, "here", "answer"))
    assert caught.value.code == "data.model_only_transcribes"
    assert "here" in str(caught.value)
    assert "Who speaks?" in str(caught.value)
    with pytest.raises(DataError) as caught:
        asked(bases["qwen3-asr-1.7b"], turns[:1])
    assert caught.value.code == "data.model_only_transcribes"


def test_template_without_end_of_turn_gets_an_end_token(
    bases: dict[str, ModelSpec], sounds: list[AudioSegment]
) -> None:
    """GLM-ASR's template ends no turn: its last one ends with the tokenizer's end."""
    base = bases["glm-asr-nano"]
    clip = Example(
        (Message("user", (sounds[0],)), Message("assistant", ("yes",))), "here", "transcribe"
    )
    taught = [each for each in learned(base, clip).labels[0].tolist() if each != IGNORE_INDEX]
    assert load_pretrained_tokenizer(Path(base.source), base).decode(taught) == "yes<|endoftext|>"


def test_template_of_an_older_processor_is_read(
    bases: dict[str, ModelSpec], tmp_path: Path
) -> None:
    """Omni models hold theirs in chat_template.json, which tokenizers do not read."""
    base = bases["qwen2.5-omni-7b"]
    for file in Path(base.source).iterdir():
        if file.suffix != ".safetensors" and file.name != "chat_template.jinja":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "chat_template.json").write_text('{"chat_template": "{{ messages[0].role }}"}')
    assert load_pretrained_tokenizer(tmp_path, base).chat_template == "{{ messages[0].role }}"


@pytest.mark.parametrize("key", ["qwen2-audio-7b-instruct", "audio-flamingo-3", *OMNI])
def test_teacher_gets_the_same_prompt(
    key: str, bases: dict[str, ModelSpec], sounds: list[AudioSegment]
) -> None:
    base = bases[key]
    chat = build_chat_encoder(load_pretrained_tokenizer(Path(base.source), base), base)
    turns = (
        Message("user", (replace(sounds[0], transcript="one two"),)),
        Message("assistant", ("one two",)),
    )
    encoded = chat.encode_with_teacher(Example(turns, "a", "transcribe"))
    assert encoded.teacher_example and encoded.teacher_example.label_ids == encoded.label_ids
    read = chat.decode_raw(list(encoded.teacher_example.input_ids))
    assert f"one two\n{base.default_prompt}" in read
    assert base.placeholder not in read
