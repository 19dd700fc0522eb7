"""What Voxtral reads is what its released processor writes, and it learns what it must say."""

import base64
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from transformers import VoxtralProcessor

from dlm.batching.chat_template import (
    IGNORE_INDEX,
    ChatEncoder,
    EncodedExample,
    load_pretrained_tokenizer,
)
from dlm.batching.collator import PaddingSpec, collate
from dlm.batching.mistral_chat import MistralChatEncoder, build_chat_encoder
from dlm.data.types import AudioSegment, Example, Message
from dlm.errors import DataError, ModelError
from dlm.features.extractor import AudioFeatureExtractor
from dlm.plan.model_ref import find_catalog_spec
from dlm.plan.model_spec import ModelSpec
from tests.tiny_models import (
    SAMPLE_RATE,
    make_example,
    make_tiny_spec,
    make_tiny_tokenizer,
    write_tone,
)
from tests.tiny_voxtral import load_voxtral_processor, write_tekken, write_tiny_voxtral

BASE = find_catalog_spec("voxtral-mini-3b")
HELLO = (Message("assistant", ("Hello, Zoë!",)),)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_voxtral(tmp_path_factory.mktemp("voxtral"))


@pytest.fixture(scope="module")
def processor(folder: Path) -> VoxtralProcessor:
    return load_voxtral_processor(folder)


@pytest.fixture(scope="module")
def spec(folder: Path) -> ModelSpec:
    return replace(BASE, source=str(folder))


@pytest.fixture(scope="module")
def chat(folder: Path, spec: ModelSpec) -> ChatEncoder:
    return build_chat_encoder(load_pretrained_tokenizer(folder, spec), spec)


@pytest.fixture(scope="module")
def segments(tmp_path_factory: pytest.TempPathFactory) -> list[AudioSegment]:
    """One within a window of 30 s, one that needs two."""
    folder = tmp_path_factory.mktemp("sounds")
    return [
        AudioSegment(write_tone(folder / f"{n}.wav", hertz=n, seconds=n / 10)) for n in (15, 305)
    ]


def decode_tokens(chat: ChatEncoder, ids: list[int] | tuple[int, ...]) -> str:
    return "".join(chat._tokenizer.convert_ids_to_tokens(list(ids)))


def get_trained_texts(chat: ChatEncoder, encoded: EncodedExample) -> list[str]:
    """Each stretch that carries loss, as text with its special tokens."""
    marks = [
        "|" if label == IGNORE_INDEX else decode_tokens(chat, [label]) for label in encoded.labels
    ]
    return [stretch for stretch in "".join(marks).split("|") if stretch]


def expand_placeholders(encoded: EncodedExample, chat: ChatEncoder, spec: ModelSpec) -> list[int]:
    """The token ids as the model gets them."""
    batch = collate(
        [encoded],
        AudioFeatureExtractor(spec, auto_resample=False),
        PaddingSpec(chat.pad_token_id, chat.audio_token_id),
    )
    return batch.input_ids[0].tolist()


@pytest.mark.parametrize("language", ["fr", None])
@pytest.mark.parametrize("which", [0, 1], ids=["short", "over 30 s"])
def test_transcription_request_equals_the_processor(
    chat: ChatEncoder,
    spec: ModelSpec,
    processor: VoxtralProcessor,
    segments: list[AudioSegment],
    language: str | None,
    which: int,
) -> None:
    example = replace(make_example(segments[which].path, "Bonjour."), language=language)
    samples = soundfile.read(segments[which].path, dtype="float32")[0]
    expected = processor.apply_transcription_request(
        audio=[samples], model_id="x", language=language, sampling_rate=SAMPLE_RATE, format=["WAV"]
    )["input_ids"][0].tolist()
    assert (
        expand_placeholders(chat.encode_prompt(example.messages[:1], "here", language), chat, spec)
        == expected
    )
    encoded = chat.encode_example(example)
    assert expand_placeholders(encoded, chat, spec)[: len(expected)] == expected, (
        "training encodes as prompts do"
    )
    assert get_trained_texts(chat, encoded) == ["Bonjour.</s>"]
    assert encoded.input_ids.count(chat.audio_token_id) == 1


def test_language_is_in_the_request(chat: ChatEncoder, segments: list[AudioSegment]) -> None:
    turns = (Message("user", (segments[0],)),)
    question = "<s>[INST][BEGIN_AUDIO][AUDIO][/INST]{}[TRANSCRIBE]"
    assert decode_tokens(chat, chat.encode_prompt(turns, "a").input_ids) == question.format("")
    assert decode_tokens(chat, chat.encode_prompt(turns, "a", "de").input_ids) == question.format(
        "lang:de"
    )
    assert decode_tokens(chat, chat.encode_prompt(turns, "a", "FR").input_ids) == question.format(
        "lang:fr"
    )


def test_conversation_equals_the_processor(
    chat: ChatEncoder, spec: ModelSpec, processor: VoxtralProcessor, segments: list[AudioSegment]
) -> None:
    """Three sounds in two turns, one of them between words."""
    turns = (
        Message("user", (segments[0], segments[1], "Which is longer?")),
        Message("assistant", ("The second one.",)),
        Message("user", ("And ", segments[0], " here?")),
        Message("assistant", ("Neither.",)),
    )
    encoded_audio = {s: base64.b64encode(s.path.read_bytes()).decode() for s in segments}
    parts = [
        [
            {"type": "text", "text": part}
            if isinstance(part, str)
            else {"type": "audio", "base64": encoded_audio[part]}
            for part in turn.content
        ]
        for turn in turns
    ]
    messages = [
        {"role": turn.role, "content": turn.text if turn.role == "assistant" else each}
        for turn, each in zip(turns, parts, strict=True)
    ]
    expected = processor.apply_chat_template(messages[:3])["input_ids"][0].tolist()
    assert expand_placeholders(chat.encode_prompt(turns[:3], "here"), chat, spec) == expected
    encoded = chat.encode_example(Example(turns, "here", "answer"))
    assert expand_placeholders(encoded, chat, spec)[: len(expected)] == expected
    assert get_trained_texts(chat, encoded) == ["The second one.</s>", "Neither.</s>"]
    assert decode_tokens(chat, encoded.input_ids) == (
        "<s>[INST][BEGIN_AUDIO][AUDIO][BEGIN_AUDIO][AUDIO]Which is longer?[/INST]The second one."
        "</s>[INST]And [BEGIN_AUDIO][AUDIO] here?[/INST]Neither.</s>"
    )


def test_system_prompt_beside_audio_is_refused(
    chat: ChatEncoder, segments: list[AudioSegment]
) -> None:
    system, question = Message("system", ("Be brief.",)), Message("user", ("1+1?",))
    encoded = chat.encode_example(Example((system, question, *HELLO), "here", "text"))
    text = "[SYSTEM_PROMPT]Be brief.[/SYSTEM_PROMPT][INST]1+1?[/INST]"
    assert decode_tokens(chat, encoded.input_ids).startswith(f"<s>{text}")
    with_audio = Example(
        (system, Message("user", (segments[0],)), *HELLO), "my.dlm:7", "transcribe"
    )
    with pytest.raises(DataError) as caught:
        chat.encode_example(with_audio)
    assert (caught.value.code, caught.value.where) == ("data.no_system_prompt", "my.dlm:7")


def test_prose_carries_loss_everywhere(chat: ChatEncoder) -> None:
    encoded = chat.encode_example(
        Example((Message("assistant", ("Once upon a time.",)),), "here", "text")
    )
    assert decode_tokens(chat, encoded.input_ids) == "<s>Once upon a time.</s>"
    assert encoded.labels == encoded.input_ids


@pytest.mark.parametrize("language", ["english", "zz", ""])
def test_unknown_language_is_refused(
    chat: ChatEncoder, segments: list[AudioSegment], language: str
) -> None:
    with pytest.raises(DataError) as caught:
        chat.encode_prompt((Message("user", (segments[0],)),), "my.dlm:7", language)
    assert (caught.value.code, caught.value.where) == ("data.bad_language", "my.dlm:7")


def test_turns_out_of_order_are_refused(chat: ChatEncoder, segments: list[AudioSegment]) -> None:
    turns = (Message("user", (segments[0], "Who?")), *HELLO, *HELLO)
    with pytest.raises(DataError) as caught:
        chat.encode_example(Example(turns, "my.dlm:7", "answer"))
    assert caught.value.code == "data.bad_turns"
    assert "my.dlm:7" in str(caught.value)


@given(text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40))
def test_any_text_round_trips_through_labels(chat: ChatEncoder, text: str) -> None:
    encoded = chat.encode_example(make_example(Path("a.wav"), text))
    trained_labels = [label for label in encoded.labels if label != IGNORE_INDEX]
    assert trained_labels[-1] == chat.eos_token_id
    assert chat.decode(trained_labels) == text


@pytest.mark.parametrize("token", ["</s>", "[INST]", "[AUDIO]", "[TRANSCRIBE]"])
def test_special_token_in_text_is_refused_with_its_location(chat: ChatEncoder, token: str) -> None:
    with pytest.raises(DataError) as caught:
        chat.encode_example(replace(make_example(Path("a.wav"), f"x{token}y"), location="my.dlm:7"))
    assert (caught.value.code, caught.value.where) == ("data.special_token", "my.dlm:7")


def test_newer_tokenizers_take_a_system_prompt_beside_audio(
    tmp_path: Path, segments: list[AudioSegment]
) -> None:
    """The tokenizer's own version decides, not we."""
    chat = build_chat_encoder(
        load_pretrained_tokenizer(
            write_tekken(tmp_path / "tekken.json", version="v13").parent, BASE
        ),
        BASE,
    )
    turns = (Message("system", ("Be brief.",)), Message("user", (segments[0], "Who?")), *HELLO)
    encoded = chat.encode_example(Example(turns, "here", "answer"))
    assert get_trained_texts(chat, encoded) == ["Hello, Zoë!</s>"]


def test_other_tokenizer_is_refused() -> None:
    spec = replace(make_tiny_spec(), chat_format="mistral")
    with pytest.raises(ModelError) as caught:
        MistralChatEncoder(make_tiny_tokenizer(), spec)
    assert caught.value.code == "model.bad_tokenizer"


def test_tokenizer_without_audio_tokens_is_refused(tmp_path: Path) -> None:
    path = write_tekken(tmp_path / "tekken.json")
    config = json.loads(path.read_text(encoding="utf-8"))
    del config["audio"]
    path.write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ModelError) as caught:
        build_chat_encoder(load_pretrained_tokenizer(tmp_path, BASE), BASE)
    assert caught.value.code == "model.bad_tokenizer"


def test_folder_without_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        load_pretrained_tokenizer(tmp_path, BASE)
    assert (caught.value.code, caught.value.where) == ("model.bad_tokenizer", str(tmp_path))
    assert "\n" not in str(caught.value)


def test_missing_mistral_common_names_the_extra(folder: Path) -> None:
    """In a Python in which mistral-common cannot be imported."""
    script = (
        "import sys; sys.modules['mistral_common'] = None\n"
        "import dlm.batching.mistral_chat\n"
        "from dlm.batching.chat_template import load_pretrained_tokenizer\n"
        "from dlm.plan.model_ref import find_catalog_spec\n"
        "from dlm.errors import MissingExtra\n"
        "try: load_pretrained_tokenizer(sys.argv[1], find_catalog_spec('voxtral-mini-3b'))\n"
        "except MissingExtra as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder)],
        capture_output=True,
        text=True,
        check=True,
        env=dict(os.environ),
    )
    assert done.stdout == "mistral-common is not installed; pip install 'dlm[voxtral]'\n"


def test_teacher_example_has_the_same_label_tokens(
    chat: ChatEncoder, segments: list[AudioSegment]
) -> None:
    """A request to transcribe has no text: a teacher that reads is asked to repeat it."""
    with_audio = replace(segments[0], transcript="Hello, Zoë!")
    first = chat.encode_with_teacher(
        Example((Message("user", (with_audio,)), *HELLO), "a", "transcribe", "fr")
    )
    second = chat.encode_with_teacher(
        Example((Message("user", (with_audio, "Who?")), *HELLO), "a", "answer")
    )
    for encoded, question in ((first, "Repeat this."), (second, "Who?")):
        assert encoded.teacher_example
        form = f"<s>[INST]Hello, Zoë!\n{question}[/INST]Hello, Zoë!</s>"
        assert chat.decode_raw(list(encoded.teacher_example.input_ids)) == form
        assert encoded.teacher_example.label_ids == encoded.label_ids
