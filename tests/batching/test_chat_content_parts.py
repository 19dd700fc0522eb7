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
def segments(tmp_path_factory: pytest.TempPathFactory) -> list[AudioSegment]:
    folder, rng = tmp_path_factory.mktemp("sounds"), np.random.default_rng(0)
    for number, length in enumerate(LENGTHS):
        soundfile.write(folder / f"{number}.wav", rng.normal(0, 0.1, length), SAMPLE_RATE, "FLOAT")
    return [AudioSegment(folder / f"{number}.wav") for number in range(len(LENGTHS))]


def collate_example(spec: ModelSpec, example: Example) -> Batch:
    """The batch of one clip to learn from."""
    chat = build_chat_encoder(load_pretrained_tokenizer(Path(spec.source), spec), spec)
    padding = PaddingSpec(chat.pad_token_id, chat.audio_token_id)
    return collate(
        [chat.encode_example(example)], AudioFeatureExtractor(spec, auto_resample=False), padding
    )


def encode_turns(
    spec: ModelSpec, turns: tuple[Message, ...], language: str | None = None
) -> torch.Tensor:
    """The tokens of a question."""
    chat = build_chat_encoder(load_pretrained_tokenizer(Path(spec.source), spec), spec)
    padding = PaddingSpec(chat.pad_token_id, chat.audio_token_id)
    question = chat.encode_prompt(turns, "here", language)
    return collate([question], AudioFeatureExtractor(spec, auto_resample=False), padding).input_ids


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
    key: str, number: int, bases: dict[str, ModelSpec], segments: list[AudioSegment]
) -> None:
    """With as many tokens of sound as it counts, for odd lengths."""
    spec = bases[key]
    turn = Message("user", (segments[number],))
    processor = AutoProcessor.from_pretrained(spec.source)
    expected = processor.apply_chat_template(
        [parts(turn, spec.default_prompt)],
        tokenize=True,
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )
    assert encode_turns(spec, (turn,)).tolist() == expected["input_ids"].tolist()


@pytest.mark.parametrize("key", OMNI)
def test_conversation_equals_the_template(
    key: str, bases: dict[str, ModelSpec], segments: list[AudioSegment]
) -> None:
    """Two sounds and two answers; an answer carries loss on its words and its end alone."""
    spec = bases[key]
    turns = (
        Message("system", ("Be brief.",)),
        Message("user", (segments[0], "Who?")),
        Message("assistant", ("Ann.",)),
        Message("user", ("And ", segments[1], "?")),
        Message("assistant", ("Bob.",)),
    )
    tokenizer = AutoTokenizer.from_pretrained(spec.source)
    text = tokenizer.apply_chat_template([parts(turn) for turn in turns], tokenize=False)
    batch = collate_example(spec, Example(turns, "here", "answer"))
    spelled = tokenizer.decode(batch.input_ids[0])
    for run in batch.audio_token_counts.tolist():
        spelled = spelled.replace(spec.placeholder * run, spec.placeholder, 1)
    assert spelled == text
    trained_labels = [each for each in batch.labels[0].tolist() if each != IGNORE_INDEX]
    assert tokenizer.decode(trained_labels) == "Ann.<|im_end|>Bob.<|im_end|>"


def test_qwen3_asr_answers_begin_with_their_language(
    bases: dict[str, ModelSpec], segments: list[AudioSegment]
) -> None:
    """As its own transcription requests force it; a name, a code, or none."""
    spec = bases["qwen3-asr-1.7b"]
    processor = AutoProcessor.from_pretrained(spec.source)
    turn = Message("user", (segments[1],))
    for language in ("fr", "French", "fr-CA"):
        expected = processor.apply_transcription_request(str(segments[1].path), language="fr")
        assert encode_turns(spec, (turn,), language).tolist() == expected["input_ids"].tolist()
    answer = Message("assistant", ("oui",))
    for language, name in (("fr", "French"), (None, "None")):
        batch = collate_example(spec, Example((turn, answer), "here", "transcribe", language))
        trained_labels = [each for each in batch.labels[0].tolist() if each != IGNORE_INDEX]
        spelled = processor.tokenizer.decode(trained_labels)
        assert spelled == f"language {name}<asr_text>oui<|im_end|>"
    chat = build_chat_encoder(load_pretrained_tokenizer(Path(spec.source), spec), spec)
    spell = processor.tokenizer
    assert chat.decode(spell("language French<asr_text>oui")["input_ids"]) == "oui"
    assert chat.decode(spell("language Fre")["input_ids"]) == ""
    assert chat.decode(spell("oui")["input_ids"]) == "oui"


def test_qwen3_asr_refuses_questions(
    bases: dict[str, ModelSpec], segments: list[AudioSegment]
) -> None:
    """Its template would leave the question out without a word."""
    turns = (Message("user", (segments[0], "Who speaks?")), Message("assistant", ("Ann.",)))
    with pytest.raises(DataError) as caught:
        collate_example(bases["qwen3-asr-1.7b"], Example(turns, "here", "answer"))
    assert caught.value.code == "data.model_only_transcribes"
    assert "here" in str(caught.value)
    assert "Who speaks?" in str(caught.value)
    with pytest.raises(DataError) as caught:
        encode_turns(bases["qwen3-asr-1.7b"], turns[:1])
    assert caught.value.code == "data.model_only_transcribes"


def test_template_without_end_of_turn_gets_an_end_token(
    bases: dict[str, ModelSpec], segments: list[AudioSegment]
) -> None:
    """GLM-ASR's template ends no turn: its last one ends with the tokenizer's end."""
    spec = bases["glm-asr-nano"]
    example = Example(
        (Message("user", (segments[0],)), Message("assistant", ("yes",))), "here", "transcribe"
    )
    trained_labels = [
        each for each in collate_example(spec, example).labels[0].tolist() if each != IGNORE_INDEX
    ]
    assert (
        load_pretrained_tokenizer(Path(spec.source), spec).decode(trained_labels)
        == "yes<|endoftext|>"
    )


def test_template_of_an_older_processor_is_read(
    bases: dict[str, ModelSpec], tmp_path: Path
) -> None:
    """Omni models hold theirs in chat_template.json, which tokenizers do not read."""
    spec = bases["qwen2.5-omni-7b"]
    for file in Path(spec.source).iterdir():
        if file.suffix != ".safetensors" and file.name != "chat_template.jinja":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "chat_template.json").write_text('{"chat_template": "{{ messages[0].role }}"}')
    assert load_pretrained_tokenizer(tmp_path, spec).chat_template == "{{ messages[0].role }}"


@pytest.mark.parametrize("key", ["qwen2-audio-7b-instruct", "audio-flamingo-3", *OMNI])
def test_teacher_gets_the_same_prompt(
    key: str, bases: dict[str, ModelSpec], segments: list[AudioSegment]
) -> None:
    spec = bases[key]
    chat = build_chat_encoder(load_pretrained_tokenizer(Path(spec.source), spec), spec)
    turns = (
        Message("user", (replace(segments[0], transcript="one two"),)),
        Message("assistant", ("one two",)),
    )
    encoded = chat.encode_with_teacher(Example(turns, "a", "transcribe"))
    assert encoded.teacher_example and encoded.teacher_example.label_ids == encoded.label_ids
    read = chat.decode_raw(list(encoded.teacher_example.input_ids))
    assert f"one two\n{spec.default_prompt}" in read
    assert spec.placeholder not in read
