"""Which tokens a clip becomes, and which of them carry loss."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlm.batching.chat_template import IGNORE_INDEX, ChatEncoder, EncodedExample
from dlm.data.types import AudioSegment, Example, Message
from dlm.errors import DataError, ModelError
from tests.tiny_models import (
    CHATML_TEMPLATE,
    SPECIAL_TOKENS,
    make_example,
    make_tiny_spec,
    make_tiny_tokenizer,
    split_trained_ids,
)

SEGMENT = AudioSegment(Path("a.wav"))
OTHER = AudioSegment(Path("b.wav"))
CHAT = ChatEncoder(make_tiny_tokenizer(), make_tiny_spec())
END = "<|im_end|>"


def get_trained_texts(encoded: EncodedExample) -> list[str]:
    """Each stretch that carries loss, as text with its special tokens."""
    return [decode_tokens(each) for each in split_trained_ids(encoded)]


def decode_tokens(ids: list[int] | tuple[int, ...]) -> str:
    return make_tiny_tokenizer().decode(list(ids))


def make_messages_example(*turns: Message, task: str = "answer") -> Example:
    return Example(turns, "my.dlm:7", task)


def test_transcript_and_end_token_carry_loss() -> None:
    encoded = CHAT.encode_example(make_example(SEGMENT.path, "Hello, Zoë!"))
    assert get_trained_texts(encoded) == [f"Hello, Zoë!{END}"]
    assert encoded.audio_segments == (SEGMENT,)
    assert decode_tokens(encoded.input_ids) == (
        f"<|im_start|>user\n<|audio|>\nTranscribe.{END}\n<|im_start|>assistant\nHello, Zoë!{END}\n"
    )


def test_labels_equal_their_input_ids() -> None:
    encoded = CHAT.encode_example(make_example(SEGMENT.path, "hello"))
    assert len(encoded.input_ids) == len(encoded.labels)
    assert all(
        label in (IGNORE_INDEX, token)
        for token, label in zip(encoded.input_ids, encoded.labels, strict=True)
    )


def test_only_assistant_messages_carry_loss() -> None:
    encoded = CHAT.encode_example(
        make_messages_example(
            Message("system", ("Be brief.",)),
            Message("user", (SEGMENT, "Which animal?")),
            Message("assistant", ("A cat.",)),
            Message("user", ("And here? ", OTHER)),
            Message("assistant", ("A dog.",)),
        )
    )
    assert get_trained_texts(encoded) == [f"A cat.{END}", f"A dog.{END}"]
    assert encoded.audio_segments == (SEGMENT, OTHER)
    text = decode_tokens(encoded.input_ids)
    assert text.startswith(f"<|im_start|>system\nBe brief.{END}\n")
    assert "<|audio|>\nWhich animal?" in text and "And here? <|audio|>" in text


def test_question_replaces_the_default_prompt() -> None:
    question = make_messages_example(
        Message("user", (SEGMENT, "Who speaks?")), Message("assistant", ("Ann.",))
    )
    text = decode_tokens(CHAT.encode_example(question).input_ids)
    assert "<|audio|>\nWho speaks?" in text and "Transcribe." not in text


@pytest.mark.parametrize(("language", "word"), [("fr", "<fr>"), (None, "<en>")])
def test_default_prompt_names_the_language_of_the_example(language: str | None, word: str) -> None:
    chat = ChatEncoder(
        make_tiny_tokenizer(), replace(make_tiny_spec(), default_prompt="Write: <{language}>")
    )
    example = replace(make_example(SEGMENT.path, "Bonjour."), language=language)
    assert f"Write: {word}{END}" in decode_tokens(chat.encode_example(example).input_ids)
    assert f"Write: {word}{END}" in decode_tokens(
        chat.encode_prompt(example.messages[:1], "a", language).input_ids
    )


def test_answer_without_audio_carries_loss() -> None:
    encoded = CHAT.encode_example(
        make_messages_example(Message("user", ("1+1?",)), Message("assistant", ("2",)), task="text")
    )
    assert get_trained_texts(encoded) == [f"2{END}"] and encoded.audio_segments == ()


def test_prose_carries_loss_everywhere() -> None:
    encoded = CHAT.encode_example(
        make_messages_example(Message("assistant", ("Once upon a time.",)), task="text")
    )
    assert decode_tokens(encoded.input_ids) == f"Once upon a time.{END}"
    assert encoded.labels == encoded.input_ids and encoded.audio_segments == ()


def test_prompt_ends_where_the_assistant_begins() -> None:
    turns = (Message("user", (SEGMENT, "Who?")),)
    encoded = CHAT.encode_prompt(turns, "here")
    assert decode_tokens(encoded.input_ids).endswith("Who?<|im_end|>\n<|im_start|>assistant\n")
    assert set(encoded.labels) == {IGNORE_INDEX} and encoded.audio_segments == (SEGMENT,)
    whole = CHAT.encode_example(make_messages_example(*turns, Message("assistant", ("Ann.",))))
    assert whole.input_ids[: len(encoded.input_ids)] == encoded.input_ids, (
        "prompts are encoded as in training"
    )


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


@given(text=TEXT)
def test_any_text_round_trips_through_labels(text: str) -> None:
    assert get_trained_texts(CHAT.encode_example(make_example(SEGMENT.path, text))) == [
        f"{text}{END}"
    ]


@pytest.mark.parametrize("token", SPECIAL_TOKENS)
@pytest.mark.parametrize("where", ["system", "user", "assistant", "prose", "question"])
def test_special_token_in_text_is_refused_with_its_location(token: str, where: str) -> None:
    turns = {
        "system": Message("system", ("Be brief.",)),
        "user": Message("user", (SEGMENT, "Who?")),
        "assistant": Message("assistant", ("Ann.",)),
    }
    with pytest.raises(DataError) as caught:
        if where == "prose":
            CHAT.encode_example(
                make_messages_example(Message("assistant", (f"some {token} prose",)), task="text")
            )
        elif where == "question":
            CHAT.encode_prompt((Message("user", (SEGMENT, f"a{token}b")),), "my.dlm:7")
        else:
            turns[where] = Message(turns[where].role, (*turns[where].content, f"x{token}y"))
            CHAT.encode_example(make_messages_example(*turns.values()))
    assert (caught.value.code, caught.value.where) == ("data.special_token", "my.dlm:7")
    assert token in caught.value.what


def test_special_token_split_by_audio_is_refused() -> None:
    parts = ("<|au", SEGMENT, "dio|>")
    with pytest.raises(DataError) as caught:
        CHAT.encode_example(
            make_messages_example(Message("user", parts), Message("assistant", ("x",)))
        )
    assert caught.value.code == "data.special_token"


def test_decode_drops_special_tokens() -> None:
    encoded = CHAT.encode_example(make_example(SEGMENT.path, "hello"))
    assert CHAT.decode([each for each in encoded.labels if each != IGNORE_INDEX]) == "hello"


@pytest.mark.parametrize("lack", ["template", "placeholder", "end"])
def test_tokenizer_without_chat_tokens_is_refused(lack: str) -> None:
    codes = {"template": "no_chat_template", "placeholder": "no_placeholder", "end": "no_end_token"}
    tokenizer, base = make_tiny_tokenizer(), make_tiny_spec()
    if lack == "template":
        tokenizer.chat_template = None
    elif lack == "end":
        tokenizer.eos_token = None
    else:
        base = base.__class__(**{**vars(base), "placeholder": "<|sound|>"})
    with pytest.raises(ModelError) as caught:
        ChatEncoder(tokenizer, base)
    assert caught.value.code == f"model.{codes[lack]}"


@pytest.mark.parametrize("content", ["message.content | upper", "message.content[:0]", "loop"])
def test_template_that_rewrites_answers_is_refused(content: str) -> None:
    tokenizer = make_tiny_tokenizer()
    tokenizer.chat_template = (
        f"{{% for message in messages %}}{{{{ {content} }}}}<|im_end|>{{% endfor %}}"
    )
    turns = [Message("user", ("a",)), Message("assistant", ("b",))]
    with pytest.raises(ModelError) as caught:
        ChatEncoder(tokenizer, make_tiny_spec()).encode_example(
            make_messages_example(*turns, *turns)
        )
    assert caught.value.code == "model.template_rewrites_turns"


def test_template_that_rewrites_earlier_turns_is_rendered_whole() -> None:
    tokenizer = make_tiny_tokenizer()
    tokenizer.chat_template = "{{ messages | length }}" + CHATML_TEMPLATE
    turns = [Message("user", ("a",)), Message("assistant", ("b",))]
    encoded = ChatEncoder(tokenizer, make_tiny_spec()).encode_example(
        make_messages_example(*turns, *turns)
    )
    assert get_trained_texts(encoded) == [f"b{END}"] * 2
    assert decode_tokens(encoded.input_ids).startswith("4<|im_start|>user\na")
