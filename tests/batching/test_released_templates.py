"""Every chat template that a language model may carry: what carries loss, or why it is refused.

The templates are short ones, in the manner of the released models they are named after. Each row
gives what is written around the answers of four conversations.
"""

from pathlib import Path

import pytest

from dlm.batching.chat_template import ChatEncoder, EncodedExample
from dlm.data.types import AudioSegment, Example, Message
from dlm.errors import ModelError
from tests.tiny_models import (
    CHATML_TEMPLATE,
    make_tiny_spec,
    make_tiny_tokenizer,
    split_trained_ids,
)

CHATML_PROMPT = "{% if add_generation_prompt %}<|im_start|>assistant\n"
QWEN3 = (  # thinking is written before the last answer only
    "{% set ns = namespace(last=0) %}{% for m in messages %}{% if m.role == 'user' %}"
    "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}{% if m.role == 'assistant' %}{% set content = m.content %}"
    "{% set thought = '' %}{% if '</think>' in content %}"
    "{% set thought = content.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{{ '<|im_start|>assistant\n' }}{% if loop.index0 > ns.last and (loop.last or thought) %}"
    "{{ '<think>\n' + thought + '\n</think>\n\n' }}{% endif %}{{ content + '<|im_end|>\n' }}"
    "{% else %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}"
    "{% endfor %}"
    + CHATML_PROMPT
    + "{% if enable_thinking is defined and enable_thinking is false %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
QWEN35 = QWEN3.replace(  # its prompt opens a thought, unless thinking is switched off
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}",
    "{{ '<think>\n\n</think>\n\n' }}{% else %}{{ '<think>\n' }}{% endif %}{% endif %}",
)
PHI3 = (  # turns end with <|end|>, and the whole with the tokenizer's end token
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
DEEPSEEK_R1 = (  # its prompt always opens a thought
    "{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}"
    "{% elif m.role == 'user' %}{{ '<|user|>' + m.content }}{% else %}"
    "{% set content = m.content %}{% if '</think>' in content %}"
    "{% set content = content.split('</think>')[-1] %}{% endif %}"
    "{{ '<|assistant|>' + content + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|><think>\n' }}{% endif %}"
)
ALTERNATE = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
)
GEMMA = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}" + ALTERNATE + "{{ '<|start|>' + ('model' if m.role == 'assistant' else m.role) }}"
    "{{ '\n' + m.content | trim + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>model\n' }}{% endif %}"
)
MISTRAL = ALTERNATE + (
    "{% if m.role == 'user' %}{{ '<|user|>' + m.content + '<|assistant|>' }}"
    "{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}"
)
DROPS_SYSTEM = (  # without a word
    "{% for m in messages %}{% if m.role == 'user' %}{{ '<|user|>' + m.content }}"
    "{% elif m.role == 'assistant' %}{{ '<|assistant|>' + m.content + eos_token }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
GENERATION = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}{% else %}"
    "{{ m.content + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
    + CHATML_PROMPT
    + "{% endif %}"
)
NO_END = (  # only the next turn's marker ends a turn
    "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
EXTRA = ("<|user|>", "<|assistant|>", "<|system|>", "<|end|>", "<|start|>")
IM_END, END = "<|im_end|>", "<|end|>"
# name: (template, what ends an answer, what ends the last one, whether system text is folded, and
# turns of one role joined, what is written before the last answer)
TEMPLATES = {
    "ChatML": (CHATML_TEMPLATE, IM_END, IM_END, False, False, "assistant\n"),
    "Qwen3": (QWEN3, IM_END, IM_END, False, False, "assistant\n<think>\n\n</think>\n\n"),
    "Qwen3.5": (QWEN35, IM_END, IM_END, False, False, "assistant\n<think>\n\n</think>\n\n"),
    "Phi-3": (PHI3, END, END, False, False, "<|assistant|>\n"),
    "DeepSeek-R1": (DEEPSEEK_R1, IM_END, IM_END, False, False, "<|assistant|>"),
    "Gemma": (GEMMA, END, END, True, True, "<|start|>model\n"),
    "Mistral": (MISTRAL, IM_END, IM_END, True, True, "<|assistant|>"),
    "drops system": (DROPS_SYSTEM, IM_END, IM_END, True, False, "<|assistant|>"),
    "generation": (GENERATION, IM_END, IM_END, False, False, "assistant\n"),
    "no end": (NO_END, "", IM_END, False, False, "<|assistant|>"),
}
USER, CAT = Message("user", (AudioSegment(Path("a.wav")), "Which animal?")), "A cat."
AGAIN, DOG = Message("user", ("And now?",)), "A dog."
SYSTEM = Message("system", ("Be brief.",))
ANSWERS = [Message("assistant", (text,)) for text in (CAT, DOG)]
CONVERSATIONS = {
    "single turn": (USER, ANSWERS[0]),
    "several turns": (USER, ANSWERS[0], AGAIN, ANSWERS[1]),
    "system text": (SYSTEM, USER, ANSWERS[0]),
    "two user turns": (USER, AGAIN, ANSWERS[0]),
}


def make_encoder(template: str) -> ChatEncoder:
    tokenizer = make_tiny_tokenizer(EXTRA)
    tokenizer.chat_template = template
    return ChatEncoder(tokenizer, make_tiny_spec())


def get_learned_texts(chat: ChatEncoder, encoded: EncodedExample) -> list[str]:
    """Each stretch that carries loss, as text with its special tokens."""
    return [chat.decode_raw(each) for each in split_trained_ids(encoded)]


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_answers_and_their_ends_alone_carry_loss(name: str, conversation: str) -> None:
    """The kind: what a template writes around an answer is learned, or the answer is not found.

    Neighbours: thinking that only the last turn has, ends that are not the tokenizer's, turns that
    a template refuses or drops.
    """
    template, end, last_end, *_, before = TEMPLATES[name]
    chat, messages = make_encoder(template), CONVERSATIONS[conversation]
    encoded = chat.encode_example(Example(messages, "my.dlm:7", "answer"))
    answers = [message.text for message in messages if message.role == "assistant"]
    ends = [end] * (len(answers) - 1) + [last_end]
    learned = [answer + end for answer, end in zip(answers, ends, strict=True)]
    assert get_learned_texts(chat, encoded) == learned
    text = chat.decode_raw(list(encoded.input_ids))
    assert all(message.text in text for message in messages), "nothing that is said is dropped"
    assert text.count("<|audio|>") == 1
    prompt = chat.encode_prompt(messages[:-1], "here")
    assert prompt.input_ids == encoded.input_ids[: len(prompt.input_ids)], "as in training"
    assert chat.decode_raw(list(prompt.input_ids)).endswith(before)
    (last_id,) = chat._tokenize_text(last_end)
    assert last_id in chat.end_token_ids, "generation stops where an answer was taught to end"


@pytest.mark.parametrize("name", TEMPLATES)
def test_refused_roles_are_folded_and_joined(name: str) -> None:
    """A template that refuses or drops a role gets its text in a turn that it takes."""
    template, _, _, folds, joins, _ = TEMPLATES[name]
    chat = make_encoder(template)
    assert (chat.folds_system_text, chat.joins_turns) == (folds, joins)
    if folds:
        prompt = chat.encode_prompt((SYSTEM, USER), "here")
        assert "Be brief.\n\n<|audio|>" in chat.decode_raw(list(prompt.input_ids))


@pytest.mark.parametrize("name", ["Qwen3", "Qwen3.5", "DeepSeek-R1"])
def test_an_answer_that_a_template_rewrites_is_refused(name: str) -> None:
    """A thought in an answer is never learned: these templates move it or take it out."""
    chat = make_encoder(TEMPLATES[name][0])
    messages = (USER, Message("assistant", ("<think>A dog?</think>\n\nA cat.",)))
    with pytest.raises(ModelError) as caught:
        chat.encode_example(Example(messages, "my.dlm:7", "answer"))
    assert (caught.value.code, caught.value.where) == ("model.template_rewrites_turns", "my.dlm:7")


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('no\nthanks') }}",
        "{% for m in messages %}{{ m.content + 1 }}{% endfor %}",
        "{{ messages[9].content }}",
        "{{ 1 // 0 }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% for m in messages %}{{ m.content }",
        "{{ messages | nosuchfilter }}",
    ],
)
def test_template_errors_are_one_line(template: str) -> None:
    """The kind: what a template raises reaches the user as a traceback."""
    with pytest.raises(ModelError) as caught:
        make_encoder(template).encode_example(Example((USER, ANSWERS[0]), "my.dlm:7", "answer"))
    assert caught.value.code == "model.template_error" and caught.value.where == "my.dlm:7"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "date",
    [
        "{% if date_string is not defined %}{% set date_string = strftime_now('%d %b %Y') %}"
        "{% endif %}{{ date_string }}",
        "{{ date_string | default('today') }}",
        "{% set date = date_string or strftime_now('%d %b %Y') %}{{ date }}",
    ],
)
def test_a_row_is_the_same_every_day(date: str) -> None:
    """The kind: a template that writes today's date trains other rows than it is asked with."""
    prompt = make_encoder(date + CHATML_TEMPLATE).encode_prompt((USER,), "here")
    assert (
        make_encoder(CHATML_TEMPLATE)
        .decode_raw(list(prompt.input_ids))
        .startswith("26 Jul 2024<|im_start|>")
    )
