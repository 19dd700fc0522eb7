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
from hypothesis import strategies as some
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
def base(folder: Path) -> ModelSpec:
    return replace(BASE, source=str(folder))


@pytest.fixture(scope="module")
def chat(folder: Path, base: ModelSpec) -> ChatEncoder:
    return build_chat_encoder(load_pretrained_tokenizer(folder, base), base)


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> list[AudioSegment]:
    """One within a window of 30 s, one that needs two."""
    place = tmp_path_factory.mktemp("sounds")
    return [
        AudioSegment(write_tone(place / f"{n}.wav", hertz=n, seconds=n / 10)) for n in (15, 305)
    ]


def written(chat: ChatEncoder, ids: list[int] | tuple[int, ...]) -> str:
    return "".join(chat._tokenizer.convert_ids_to_tokens(list(ids)))


def learned(chat: ChatEncoder, row: EncodedExample) -> list[str]:
    """Each stretch that carries loss, as text with its special tokens."""
    marks = ["|" if label == IGNORE_INDEX else written(chat, [label]) for label in row.labels]
    return [stretch for stretch in "".join(marks).split("|") if stretch]


def spread(row: EncodedExample, chat: ChatEncoder, base: ModelSpec) -> list[int]:
    """The row as the model sees it."""
    batch = collate(
        [row],
        AudioFeatureExtractor(base, auto_resample=False),
        PaddingSpec(chat.pad_token_id, chat.audio_token_id),
    )
    return batch.input_ids[0].tolist()


@pytest.mark.parametrize("language", ["fr", None])
@pytest.mark.parametrize("which", [0, 1], ids=["short", "over 30 s"])
def test_transcription_request_equals_the_processor(
    chat: ChatEncoder,
    base: ModelSpec,
    processor: VoxtralProcessor,
    sounds: list[AudioSegment],
    language: str | None,
    which: int,
) -> None:
    clip = replace(make_example(sounds[which].path, "Bonjour."), language=language)
    samples = soundfile.read(sounds[which].path, dtype="float32")[0]
    expected = processor.apply_transcription_request(
        audio=[samples], model_id="x", language=language, sampling_rate=SAMPLE_RATE, format=["WAV"]
    )["input_ids"][0].tolist()
    assert spread(chat.encode_prompt(clip.messages[:1], "here", language), chat, base) == expected
    row = chat.encode_example(clip)
    assert spread(row, chat, base)[: len(expected)] == expected, "learned as it is asked"
    assert learned(chat, row) == ["Bonjour.</s>"]
    assert row.input_ids.count(chat.audio_token_id) == 1


def test_language_is_in_the_request(chat: ChatEncoder, sounds: list[AudioSegment]) -> None:
    turns = (Message("user", (sounds[0],)),)
    asked = "<s>[INST][BEGIN_AUDIO][AUDIO][/INST]{}[TRANSCRIBE]"
    assert written(chat, chat.encode_prompt(turns, "a").input_ids) == asked.format("")
    assert written(chat, chat.encode_prompt(turns, "a", "de").input_ids) == asked.format("lang:de")
    assert written(chat, chat.encode_prompt(turns, "a", "FR").input_ids) == asked.format("lang:fr")


def test_conversation_equals_the_processor(
    chat: ChatEncoder, base: ModelSpec, processor: VoxtralProcessor, sounds: list[AudioSegment]
) -> None:
    """Three sounds in two turns, one of them between words."""
    turns = (
        Message("user", (sounds[0], sounds[1], "Which is longer?")),
        Message("assistant", ("The second one.",)),
        Message("user", ("And ", sounds[0], " here?")),
        Message("assistant", ("Neither.",)),
    )
    kept = {s: base64.b64encode(s.path.read_bytes()).decode() for s in sounds}
    parts = [
        [
            {"type": "text", "text": part}
            if isinstance(part, str)
            else {"type": "audio", "base64": kept[part]}
            for part in turn.content
        ]
        for turn in turns
    ]
    messages = [
        {"role": turn.role, "content": turn.text if turn.role == "assistant" else each}
        for turn, each in zip(turns, parts, strict=True)
    ]
    expected = processor.apply_chat_template(messages[:3])["input_ids"][0].tolist()
    assert spread(chat.encode_prompt(turns[:3], "here"), chat, base) == expected
    row = chat.encode_example(Example(turns, "here", "answer"))
    assert spread(row, chat, base)[: len(expected)] == expected
    assert learned(chat, row) == ["The second one.</s>", "Neither.</s>"]
    assert written(chat, row.input_ids) == (
        "<s>[INST][BEGIN_AUDIO][AUDIO][BEGIN_AUDIO][AUDIO]Which is longer?[/INST]The second one."
        "</s>[INST]And [BEGIN_AUDIO][AUDIO] here?[/INST]Neither.</s>"
    )


def test_system_prompt_beside_audio_is_refused(
    chat: ChatEncoder, sounds: list[AudioSegment]
) -> None:
    system, asked = Message("system", ("Be brief.",)), Message("user", ("1+1?",))
    row = chat.encode_example(Example((system, asked, *HELLO), "here", "text"))
    text = "[SYSTEM_PROMPT]Be brief.[/SYSTEM_PROMPT][INST]1+1?[/INST]"
    assert written(chat, row.input_ids).startswith(f"<s>{text}")
    heard = Example((system, Message("user", (sounds[0],)), *HELLO), "my.dlm:7", "transcribe")
    with pytest.raises(DataError) as caught:
        chat.encode_example(heard)
    assert (caught.value.code, caught.value.where) == ("data.no_system_prompt", "my.dlm:7")


def test_prose_carries_loss_everywhere(chat: ChatEncoder) -> None:
    row = chat.encode_example(
        Example((Message("assistant", ("Once upon a time.",)),), "here", "text")
    )
    assert written(chat, row.input_ids) == "<s>Once upon a time.</s>"
    assert row.labels == row.input_ids


@pytest.mark.parametrize("language", ["english", "zz", ""])
def test_unknown_language_is_refused(
    chat: ChatEncoder, sounds: list[AudioSegment], language: str
) -> None:
    with pytest.raises(DataError) as caught:
        chat.encode_prompt((Message("user", (sounds[0],)),), "my.dlm:7", language)
    assert (caught.value.code, caught.value.where) == ("data.bad_language", "my.dlm:7")


def test_turns_out_of_order_are_refused(chat: ChatEncoder, sounds: list[AudioSegment]) -> None:
    turns = (Message("user", (sounds[0], "Who?")), *HELLO, *HELLO)
    with pytest.raises(DataError) as caught:
        chat.encode_example(Example(turns, "my.dlm:7", "answer"))
    assert caught.value.code == "data.bad_turns"
    assert "my.dlm:7" in str(caught.value)


@given(text=some.text(some.characters(exclude_categories=["Cs"]), min_size=1, max_size=40))
def test_any_text_round_trips_through_labels(chat: ChatEncoder, text: str) -> None:
    row = chat.encode_example(make_example(Path("a.wav"), text))
    said = [label for label in row.labels if label != IGNORE_INDEX]
    assert said[-1] == chat.eos_token_id
    assert chat.decode(said) == text


@pytest.mark.parametrize("token", ["</s>", "[INST]", "[AUDIO]", "[TRANSCRIBE]"])
def test_special_token_in_text_is_refused_with_its_location(chat: ChatEncoder, token: str) -> None:
    with pytest.raises(DataError) as caught:
        chat.encode_example(replace(make_example(Path("a.wav"), f"x{token}y"), location="my.dlm:7"))
    assert (caught.value.code, caught.value.where) == ("data.special_token", "my.dlm:7")


def test_newer_tokenizers_take_a_system_prompt_beside_audio(
    tmp_path: Path, sounds: list[AudioSegment]
) -> None:
    """The tokenizer's own version decides, not we."""
    chat = build_chat_encoder(
        load_pretrained_tokenizer(
            write_tekken(tmp_path / "tekken.json", version="v13").parent, BASE
        ),
        BASE,
    )
    turns = (Message("system", ("Be brief.",)), Message("user", (sounds[0], "Who?")), *HELLO)
    row = chat.encode_example(Example(turns, "here", "answer"))
    assert learned(chat, row) == ["Hello, Zoë!</s>"]


def test_other_tokenizer_is_refused() -> None:
    base = replace(make_tiny_spec(), chat_format="mistral")
    with pytest.raises(ModelError) as caught:
        MistralChatEncoder(make_tiny_tokenizer(), base)
    assert caught.value.code == "model.bad_tokenizer"


def test_tokenizer_without_audio_tokens_is_refused(tmp_path: Path) -> None:
    path = write_tekken(tmp_path / "tekken.json")
    facts = json.loads(path.read_text(encoding="utf-8"))
    del facts["audio"]
    path.write_text(json.dumps(facts), encoding="utf-8")
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
    chat: ChatEncoder, sounds: list[AudioSegment]
) -> None:
    """A request to transcribe has no words of its own: who reads is asked to repeat them."""
    heard = replace(sounds[0], transcript="Hello, Zoë!")
    first = chat.encode_with_teacher(
        Example((Message("user", (heard,)), *HELLO), "a", "transcribe", "fr")
    )
    asked = chat.encode_with_teacher(
        Example((Message("user", (heard, "Who?")), *HELLO), "a", "answer")
    )
    for row, question in ((first, "Repeat this."), (asked, "Who?")):
        assert row.teacher_example
        form = f"<s>[INST]Hello, Zoë!\n{question}[/INST]Hello, Zoë!</s>"
        assert chat.decode_raw(list(row.teacher_example.input_ids)) == form
        assert row.teacher_example.label_ids == row.label_ids
