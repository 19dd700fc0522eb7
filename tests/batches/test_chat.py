"""Which tokens a clip becomes, and which of them carry loss."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from dlm.batches.chat import IGNORE, Chat, Row
from dlm.clips.clip import Clip, Sound, Turn
from dlm.errors import BaseError, ClipError
from tests.tiny import SPECIAL, spoken, tiny_base, tiny_tokenizer

SOUND = Sound(Path("a.wav"))
OTHER = Sound(Path("b.wav"))
CHAT = Chat(tiny_tokenizer(), tiny_base())
END = "<|im_end|>"


def learned(row: Row) -> list[str]:
    """Each stretch that carries loss, as text with its special tokens."""
    stretches: list[list[int]] = [[]]
    for label in row.labels:
        if label != IGNORE:
            stretches[-1].append(label)
        elif stretches[-1]:
            stretches.append([])
    return [written(each) for each in stretches if each]


def written(ids: list[int] | tuple[int, ...]) -> str:
    return tiny_tokenizer().decode(list(ids))


def clip(*turns: Turn, task: str = "answer") -> Clip:
    return Clip(turns, "my.dlm:7", task)


def test_a_transcript_is_learned_with_its_end() -> None:
    row = CHAT.row(spoken(SOUND.path, "Hello, Zoë!"))
    assert learned(row) == [f"Hello, Zoë!{END}"]
    assert row.sounds == (SOUND,)
    assert written(row.ids) == (
        f"<|im_start|>user\n<|audio|>\nTranscribe.{END}\n<|im_start|>assistant\nHello, Zoë!{END}\n"
    )


def test_labels_are_the_ids_they_stand_for() -> None:
    row = CHAT.row(spoken(SOUND.path, "hello"))
    assert len(row.ids) == len(row.labels)
    assert all(label in (IGNORE, token) for token, label in zip(row.ids, row.labels, strict=True))


def test_only_the_assistant_is_learned() -> None:
    row = CHAT.row(
        clip(
            Turn("system", ("Be brief.",)),
            Turn("user", (SOUND, "Which animal?")),
            Turn("assistant", ("A cat.",)),
            Turn("user", ("And here? ", OTHER)),
            Turn("assistant", ("A dog.",)),
        )
    )
    assert learned(row) == [f"A cat.{END}", f"A dog.{END}"]
    assert row.sounds == (SOUND, OTHER)
    text = written(row.ids)
    assert text.startswith(f"<|im_start|>system\nBe brief.{END}\n")
    assert "<|audio|>\nWhich animal?" in text and "And here? <|audio|>" in text


def test_a_question_of_its_own_takes_the_place_of_the_base_prompt() -> None:
    asked = clip(Turn("user", (SOUND, "Who speaks?")), Turn("assistant", ("Ann.",)))
    text = written(CHAT.row(asked).ids)
    assert "<|audio|>\nWho speaks?" in text and "Transcribe." not in text


@pytest.mark.parametrize(("language", "word"), [("fr", "<fr>"), (None, "<en>")])
def test_a_base_that_is_told_the_language_is_told_the_clip_s(
    language: str | None, word: str
) -> None:
    chat = Chat(tiny_tokenizer(), replace(tiny_base(), prompt="Write: <{language}>"))
    heard = replace(spoken(SOUND.path, "Bonjour."), language=language)
    assert f"Write: {word}{END}" in written(chat.row(heard).ids)
    assert f"Write: {word}{END}" in written(chat.question(heard.turns[:1], "a", language).ids)


def test_an_answer_without_sound_is_learned() -> None:
    row = CHAT.row(clip(Turn("user", ("1+1?",)), Turn("assistant", ("2",)), task="text"))
    assert learned(row) == [f"2{END}"] and row.sounds == ()


def test_prose_is_learned_whole() -> None:
    row = CHAT.row(clip(Turn("assistant", ("Once upon a time.",)), task="text"))
    assert written(row.ids) == f"Once upon a time.{END}"
    assert row.labels == row.ids and row.sounds == ()


def test_a_question_ends_where_the_assistant_begins() -> None:
    turns = (Turn("user", (SOUND, "Who?")),)
    row = CHAT.question(turns, "here")
    assert written(row.ids).endswith("Who?<|im_end|>\n<|im_start|>assistant\n")
    assert set(row.labels) == {IGNORE} and row.sounds == (SOUND,)
    whole = CHAT.row(clip(*turns, Turn("assistant", ("Ann.",))))
    assert whole.ids[: len(row.ids)] == row.ids, "asked as it was learned"


TEXT = some.text(some.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


@given(text=TEXT)
def test_any_text_is_learned_exactly(text: str) -> None:
    assert learned(CHAT.row(spoken(SOUND.path, text))) == [f"{text}{END}"]


@pytest.mark.parametrize("token", SPECIAL)
@pytest.mark.parametrize("where", ["system", "user", "assistant", "prose", "question"])
def test_a_special_token_in_the_text_is_refused_with_its_place(token: str, where: str) -> None:
    turns = {
        "system": Turn("system", ("Be brief.",)),
        "user": Turn("user", (SOUND, "Who?")),
        "assistant": Turn("assistant", ("Ann.",)),
    }
    with pytest.raises(ClipError) as told:
        if where == "prose":
            CHAT.row(clip(Turn("assistant", (f"some {token} prose",)), task="text"))
        elif where == "question":
            CHAT.question((Turn("user", (SOUND, f"a{token}b")),), "my.dlm:7")
        else:
            turns[where] = Turn(turns[where].role, (*turns[where].parts, f"x{token}y"))
            CHAT.row(clip(*turns.values()))
    assert str(told.value).startswith(f"my.dlm:7: the text holds the special token {token}")


def test_a_special_token_cut_in_two_by_a_sound_is_refused() -> None:
    parts = ("<|au", SOUND, "dio|>")
    with pytest.raises(ClipError, match="special token"):
        CHAT.row(clip(Turn("user", parts), Turn("assistant", ("x",))))


def test_decoding_leaves_special_tokens_out() -> None:
    row = CHAT.row(spoken(SOUND.path, "hello"))
    assert CHAT.decode([each for each in row.labels if each != IGNORE]) == "hello"


@pytest.mark.parametrize("lack", ["template", "placeholder", "end"])
def test_a_tokenizer_that_cannot_chat_is_refused(lack: str) -> None:
    named = {"template": "chat template", "placeholder": "<.sound.>", "end": "end-of-turn"}
    tokenizer, base = tiny_tokenizer(), tiny_base()
    if lack == "template":
        tokenizer.chat_template = None
    elif lack == "end":
        tokenizer.eos_token = None
    else:
        base = base.__class__(**{**vars(base), "placeholder": "<|sound|>"})
    with pytest.raises(BaseError, match=named[lack]):
        Chat(tokenizer, base)


def test_a_template_that_rewrites_earlier_turns_is_refused() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = (
        "{{ messages | length }}{% for message in messages %}{{ message.content }}{% endfor %}"
    )
    turns = [Turn("user", ("a",)), Turn("assistant", ("b",))]
    with pytest.raises(BaseError, match="rewrites earlier turns"):
        Chat(tokenizer, tiny_base()).row(clip(*turns, *turns))
