"""Chat templates: from an example's messages to token ids and labels, and to a prompt.

    system and user messages   no loss
    assistant messages         loss on the text and on the token that ends the turn
    prose                      loss on every token and on the end

A conversation is rendered whole, once as it is and once with a mark in the place of each answer:
the template may write earlier turns unlike the last one (Qwen3 takes its thinking out of them), and
what it writes around an answer carries no loss. Thinking is switched off by the template's own
argument. A template that refuses a system message, or two turns of one role in a row, gets the
system text in the first user turn, and one turn in the place of two.

An audio segment takes one placeholder here; `collate` repeats it once the number of its tokens is
known. The forms, chosen by `build_chat_encoder` in mistral_chat.py:

    ChatEncoder               templates that take each message as text, and plain text
    ContentPartsChatEncoder   templates that take content parts and write the audio markers
    Qwen3AsrChatEncoder       answers begin with the language: `language English<asr_text>...`
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count, pairwise
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils.import_utils import is_mistral_common_available

from dlm.data.types import AudioSegment, Example, Message, Role
from dlm.errors import DataError, MissingExtra, ModelError
from dlm.plan.model_spec import ModelSpec, make_end_placeholder_error

IGNORE_INDEX = -100  # the label that carries no loss (torch's cross entropy)
DEFAULT_TEACHER_PROMPT = "Repeat this."  # to a teacher that reads, where audio alone is the prompt
ASR_TEXT_TAG = "<asr_text>"  # what Qwen3-ASR writes between a language and the transcript
UNKNOWN_LANGUAGE = "None"  # the language it writes when none is given
ANSWER_MARK = "\ue000answer {number}\ue001"  # in the place of an answer: private use characters
TEMPLATE_ERRORS = (  # what the code in a template may raise, beside jinja's own
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,  # RecursionError
    TypeError,
    ValueError,
)
# Of templates that write today's date where none is given (Llama 3.2): their rows would differ from
# day to day, and from training to use.
PINNED_DATE = "26 Jul 2024"
TURN_SEPARATOR = "\n\n"  # between turns that are joined


@dataclass(frozen=True)
class EncodedExample:
    """One example as tokens.

    Attributes:
        input_ids: token ids, one placeholder for each audio segment.
        labels: the ids that carry loss, IGNORE_INDEX elsewhere.
        audio_segments: in the order of their placeholders.
        location: where the example was written.
        is_transcript: whether the labels are what is said.
        teacher_example: the same for a distillation teacher, with transcripts instead of audio.
    """

    input_ids: tuple[int, ...]
    labels: tuple[int, ...]
    audio_segments: tuple[AudioSegment, ...]
    location: str
    is_transcript: bool = False
    teacher_example: "EncodedExample | None" = None

    @property
    def label_ids(self) -> tuple[int, ...]:
        """The token ids that carry loss; nothing predicts the first token of a sequence."""
        return tuple(label for label in self.labels[1:] if label != IGNORE_INDEX)


class ChatEncoder:
    """Encodes examples and prompts for one model.

    Args:
        tokenizer: the model's tokenizer.
        spec: the model.

    Raises:
        ModelError: the tokenizer has no chat template (`model.no_chat_template`), no end token
            (`model.no_end_token`) or no placeholder (`model.no_placeholder`).
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, spec: ModelSpec) -> None:
        self._tokenizer, self._spec = tokenizer, spec
        if tokenizer.chat_template is None and spec.chat_format in ("template", "parts", "asr"):
            raise ModelError(
                f"{spec.key} has no chat template",
                hint="use an instruct model",
                code="model.no_chat_template",
            )
        if not isinstance(tokenizer.eos_token_id, int):
            what = f"the tokenizer of {spec.key} has no end-of-turn token"
            raise ModelError(what, code="model.no_end_token")
        self.audio_token_id = get_audio_token_id(tokenizer, spec)
        self.eos_token_id: int = tokenizer.eos_token_id
        pad = tokenizer.pad_token_id
        self.pad_token_id: int = pad if isinstance(pad, int) else tokenizer.eos_token_id
        self._bos_token = _get_bos_token(tokenizer)  # of text that no template writes

    def encode_example(self, example: Example) -> EncodedExample:
        """Encode an example to train on.

        Raises:
            DataError: its text contains a special token (`data.special_token`).
        """
        for message in example.messages:
            self._reject_special_tokens(message.text, example.location)
        return self._encode_checked_example(example)

    def _encode_checked_example(self, example: Example) -> EncodedExample:
        if example.task == "text" and len(example.messages) == 1:
            prose = tuple(self._encode_prose(example.messages[0].text))
            return EncodedExample(prose, prose, (), example.location)
        input_ids: list[int] = []
        labels: list[int] = []
        for prompt, answer in self._iter_assistant_spans(example):
            input_ids += prompt + answer
            labels += [IGNORE_INDEX] * len(prompt) + answer
        return EncodedExample(
            tuple(input_ids),
            tuple(labels),
            example.audio_segments,
            example.location,
            is_transcript=example.task == "transcribe",
        )

    def encode_with_teacher(self, example: Example) -> EncodedExample:
        """Encode an example with its `teacher_example`; without audio there is none.

        Raises:
            DataError: as `encode_example`, or the teacher's answer would have other tokens
                (`data.teacher_tokens_differ`).
        """
        encoded = self.encode_example(example)
        if not example.audio_segments:
            return encoded
        for segment in example.audio_segments:
            self._reject_special_tokens(segment.transcript or "", example.location)
        messages = tuple(
            self._to_teacher_message(message, example.language) for message in example.messages
        )
        teacher = self._encode_checked_example(replace(example, messages=messages))
        if teacher.label_ids != encoded.label_ids:
            raise DataError(
                f"{self._spec.key} writes this answer in other tokens after text than after audio",
                where=example.location,
                hint="take training.teacher out",
                code="data.teacher_tokens_differ",
            )
        return replace(encoded, teacher_example=teacher)

    def encode_prompt(
        self, messages: tuple[Message, ...], location: str, language: str | None = None
    ) -> EncodedExample:
        """Encode messages up to where the assistant's answer begins.

        Args:
            messages: the conversation so far; the last message is the user's.
            location: named in errors.
            language: of the audio, for chat formats that take one.

        Raises:
            DataError: the text contains a special token (`data.special_token`).
        """
        for message in messages:
            self._reject_special_tokens(message.text, location)
        input_ids = tuple(self._encode_prompt_ids(messages, location, language))
        segments = tuple(segment for message in messages for segment in message.audio_segments)
        return EncodedExample(input_ids, (IGNORE_INDEX,) * len(input_ids), segments, location)

    def decode(self, token_ids: list[int]) -> str:
        """Decode the tokens of an answer, without special tokens."""
        text = self._tokenizer.decode(token_ids, skip_special_tokens=True)
        return text if isinstance(text, str) else "".join(text)

    def decode_raw(self, token_ids: list[int]) -> str:
        """Decode tokens with special tokens."""
        text = self._tokenizer.decode(token_ids, skip_special_tokens=False)
        return text if isinstance(text, str) else "".join(text)

    def _encode_prose(self, text: str) -> list[int]:
        return [*self._tokenize_text(self._bos_token + text), self.eos_token_id]

    def _encode_prompt_ids(
        self, messages: tuple[Message, ...], location: str, language: str | None
    ) -> list[int]:
        # what training writes before an answer: some templates open a thought in their own prompt
        turns = self._to_turns(self._to_template_messages(messages, language))
        mark = ANSWER_MARK.format(number=0)
        content = _replace_text(self._make_content("assistant"), mark)
        whole = self._apply_template([*turns, {"role": "assistant", "content": content}], location)
        text, mark, _ = whole.rpartition(mark)
        if not mark:
            raise self._make_rewriting_error(location)
        return self._tokenize_text(text)

    def _iter_assistant_spans(self, example: Example) -> Iterator[tuple[list[int], list[int]]]:
        """For each answer: the tokens since the last one, and those that carry loss; then the rest.

        An answer ends with the first special token that the template writes after the last one, or
        else with the end token.
        """
        messages = self._to_template_messages(example.messages, example.language)
        between, answers = self._split_at_answers(self._to_turns(messages), example.location)
        end = self._find_turn_end(between[-1])
        rest = between[0]
        for index, (answer, after) in enumerate(zip(answers, between[1:], strict=True)):
            has_end = after.startswith(end)
            answer_ids = self._tokenize_text(answer + end if has_end else answer)
            if index == len(answers) - 1 and not self._holds_special_token(end):
                # a template without an end of turn: the next turn's marker would end this one
                answer_ids.append(self.eos_token_id)
            yield self._tokenize_text(rest), answer_ids
            rest = after.removeprefix(end) if has_end else after
        if rest:
            yield self._tokenize_text(rest), []

    def _split_at_answers(
        self, messages: list[dict[str, Any]], location: str
    ) -> tuple[list[str], list[str]]:
        """A conversation as the texts around its answers, and the answers as they are written."""
        marks: list[str] = []
        contents: list[str] = []
        marked: list[dict[str, Any]] = []
        for message in messages:
            if message["role"] == "assistant":
                marks.append(ANSWER_MARK.format(number=len(marks)))
                contents.append(_join_texts(message["content"]))
                message = {**message, "content": _replace_text(message["content"], marks[-1])}
            marked.append(message)
        between, rest = [], self._apply_template(marked, location)
        for mark in marks:
            text, found, rest = rest.partition(mark)
            if not found:
                raise self._make_rewriting_error(location)
            between.append(text)
        between.append(rest)
        whole, answers = self._apply_template(messages, location), []
        position = len(between[0])
        for content, after in zip(contents, between[1:], strict=True):
            # as it is, or as templates trim it; an answer that is written otherwise is refused
            forms = (content, content.strip(), content.lstrip(), content.rstrip())
            written = (form for form in forms if whole.startswith(form + after, position))
            if (answer := next(written, None)) is None:
                raise self._make_rewriting_error(location)
            answers.append(answer)
            position += len(answer + after)
        if position != len(whole) or not whole.startswith(between[0]):
            raise self._make_rewriting_error(location)
        return between, answers

    def _find_turn_end(self, after_answer: str) -> str:
        """What ends a turn: all up to the first special token, or all there is without any."""
        ends = [
            position + len(token)
            for token in self._special_tokens
            if (position := after_answer.find(token)) >= 0
        ]
        return after_answer[: min(ends)] if ends else after_answer

    def _holds_special_token(self, text: str) -> bool:
        return any(token in text for token in self._special_tokens)

    @cached_property
    def _special_tokens(self) -> dict[str, int]:
        """Each special token and its id, also those that only the vocabulary marks as special."""
        tokenizer = self._tokenizer
        tokens = dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
        added = getattr(tokenizer, "added_tokens_decoder", None)  # none of mistral-common's
        if isinstance(added, dict):
            tokens |= {str(token): number for number, token in added.items() if token.special}
        return tokens

    @cached_property
    def end_token_ids(self) -> tuple[int, ...]:
        """The tokens that end an answer: the tokenizer's end token, and the template's own."""
        if self._spec.chat_format not in ("template", "parts", "asr"):
            return (self.eos_token_id,)
        roles: tuple[Role, ...] = ("user", "assistant")
        turns = [{"role": role, "content": self._make_content(role)} for role in roles]
        between, _ = self._split_at_answers(turns, "")
        end_ids = set(self._tokenize_text(self._find_turn_end(between[-1])))
        return tuple({self.eos_token_id} | end_ids & set(self._special_tokens.values()))

    def _to_turns(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Messages as turns that the template takes: system text folded, turns joined."""
        turns: list[dict[str, Any]] = []
        for message in messages:
            if self.folds_system_text and message["role"] == "system":
                message = {**message, "role": "user"}
            if (
                (self.joins_turns or self.folds_system_text)
                and turns
                and turns[-1]["role"] == message["role"]
            ):
                content = _join_contents(turns[-1]["content"], message["content"])
                turns[-1] = {**message, "content": content}
            else:
                turns.append(message)
        return turns

    def describe_changes(self, orders: Iterable[tuple[str, ...]]) -> Iterator[str]:
        """Say what is done to conversations, given as the roles of their turns."""
        roles = [each for order in orders for each in pairwise((*order, ""))]
        if self.folds_system_text and any(role == "system" for role, _ in roles):
            yield "system text goes into the user's turn"
        if self.joins_turns and any(role == following for role, following in roles):
            yield "two turns of one role in a row become one"

    @cached_property
    def folds_system_text(self) -> bool:
        """Whether the template refuses or drops a system message."""
        return not self._takes_roles("system", "user", "assistant")

    @cached_property
    def joins_turns(self) -> bool:
        """Whether the template refuses or drops one of two user turns in a row."""
        return not self._takes_roles("user", "user", "assistant")

    def _takes_roles(self, *roles: Role) -> bool:
        contents = [f"turn {number} {role}" for number, role in enumerate(roles)]
        messages = [
            {"role": role, "content": self._make_content(role, content)}
            for role, content in zip(roles, contents, strict=True)
        ]
        try:
            text = self._apply_template(messages, "")
        except ModelError:
            return False
        return contents[0] in text or contents[1] not in text  # some write no text of the user

    def _make_content(self, role: Role, text: str = "text") -> Any:
        """A message's text as `_to_template_messages` writes it."""
        return self._to_template_messages((Message(role, (text,)),), None)[0]["content"]

    def _make_rewriting_error(self, location: str) -> ModelError:
        return ModelError(
            f"the chat template of {self._spec.key} rewrites or drops what is said",
            where=location,
            hint="give the base another chat template, or set base_model.chat to plain",
            code="model.template_rewrites_turns",
        )

    def _to_template_messages(
        self, messages: tuple[Message, ...], language: str | None
    ) -> list[dict[str, Any]]:
        numbers = count(1)
        return [
            {"role": message.role, "content": self._format_content(message, numbers, language)}
            for message in messages
        ]

    def _format_content(
        self, message: Message, audio_numbers: "count[int]", language: str | None
    ) -> str:
        """A message's text with a placeholder and its markers for each audio segment."""
        spec = self._spec
        text = ""
        for part in message.content:
            if isinstance(part, AudioSegment):
                prefix = spec.format_audio_prefix(next(audio_numbers))
                text += f"{prefix}{spec.placeholder}{spec.audio_suffix}"
            else:
                text += part
        return text + self._format_default_prompt(language) if message.is_audio_only else text

    def _format_default_prompt(self, language: str | None) -> str:
        """The question about audio in a language where an example asks none."""
        return self._spec.default_prompt.replace("{language}", language or "en")

    def _to_teacher_message(self, message: Message, language: str | None) -> Message:
        """A message with the transcript of each audio segment on a line of its own."""
        parts = [
            f"{part.transcript}\n" if isinstance(part, AudioSegment) else part
            for part in message.content
        ]
        if message.is_audio_only:
            parts.append(self._format_default_prompt(language) or DEFAULT_TEACHER_PROMPT)
        return Message(message.role, ("".join(parts),))

    def _reject_special_tokens(self, text: str, location: str) -> None:
        for token in self._special_tokens:
            if token in text:
                raise self._make_special_token_error(token, location)

    @staticmethod
    def _make_special_token_error(token: str, location: str) -> DataError:
        what, hint = f"the text holds the special token {token}", "write it differently"
        return DataError(what, where=location, hint=hint, code="data.special_token")

    def _apply_template(self, messages: list[dict[str, Any]], location: str) -> str:
        if self._spec.chat_format == "plain":
            return self._bos_token + "".join(map(self._format_plain_turn, messages))
        from jinja2 import TemplateError  # transformers renders with it

        try:
            return str(
                self._tokenizer.apply_chat_template(
                    messages,
                    tokenize=False,
                    enable_thinking=False,
                    thinking=False,
                    date_string=PINNED_DATE,
                )
            )
        except (TemplateError, *TEMPLATE_ERRORS) as error:
            raise make_template_error(self._spec.key, error, location) from error

    def _format_plain_turn(self, message: dict[str, Any]) -> str:
        """A turn of plain text: an answer ends with the end token, anything else with its line."""
        content: str = message["content"]
        if message["role"] == "assistant":
            return content + str(self._tokenizer.eos_token)
        return content if content[-1:].isspace() else content + "\n"

    def _tokenize_text(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])


class ContentPartsChatEncoder(ChatEncoder):
    """For templates that take content parts: `{"type": "audio"}`, `{"type": "text", ...}`."""

    def _to_template_messages(
        self, messages: tuple[Message, ...], language: str | None
    ) -> list[dict[str, Any]]:
        return [
            {"role": message.role, "content": self._format_content_parts(message, language)}
            for message in messages
        ]

    def _format_content_parts(self, message: Message, language: str | None) -> list[dict[str, str]]:
        parts = [
            {"type": "audio"} if isinstance(part, AudioSegment) else {"type": "text", "text": part}
            for part in message.content
        ]
        if message.is_audio_only:
            parts.append({"type": "text", "text": self._spec.default_prompt})
        return parts


class Qwen3AsrChatEncoder(ContentPartsChatEncoder):
    """Qwen3-ASR's: audio without a question, answers that begin with their language."""

    def encode_example(self, example: Example) -> EncodedExample:
        """As ChatEncoder; a question is refused (`data.model_only_transcribes`)."""
        self._reject_question(example.messages, example.location)
        return super().encode_example(example)

    def encode_prompt(
        self, messages: tuple[Message, ...], location: str, language: str | None = None
    ) -> EncodedExample:
        """As ChatEncoder; a question is refused (`data.model_only_transcribes`)."""
        self._reject_question(messages, location)
        return super().encode_prompt(messages, location, language)

    def decode(self, token_ids: list[int]) -> str:
        """Decode the transcript, without the language before it."""
        text = super().decode(token_ids)
        language, tag, transcript = text.partition(ASR_TEXT_TAG)
        if tag:
            return transcript
        return "" if language.startswith("language ") else language

    def _encode_prompt_ids(
        self, messages: tuple[Message, ...], location: str, language: str | None
    ) -> list[int]:
        input_ids = super()._encode_prompt_ids(messages, location, language)
        if language is None:
            return input_ids
        return input_ids + self._tokenize_text(_format_language_prefix(language))

    def _format_content_parts(self, message: Message, language: str | None) -> list[dict[str, str]]:
        parts = super()._format_content_parts(message, language)
        if message.role == "assistant":
            parts.insert(0, {"type": "text", "text": _format_language_prefix(language)})
        return parts

    def _reject_question(self, messages: tuple[Message, ...], location: str) -> None:
        """Refuse a question: the template would drop it silently."""
        for message in messages:
            if message.role == "user" and (question := message.text.strip()):
                raise DataError(
                    f"{self._spec.key} only transcribes: it takes no question ('{question}')",
                    where=location,
                    hint="leave the question out, or use another base",
                    code="data.model_only_transcribes",
                )


def _format_language_prefix(language: str | None) -> str:
    """How an answer begins; `language` is a name, or a code of two or three letters."""
    from transformers.models.qwen3_asr.processing_qwen3_asr import LANGUAGE_CODE_TO_NAME

    code = (language or UNKNOWN_LANGUAGE).lower().partition("-")[0]
    return f"language {LANGUAGE_CODE_TO_NAME.get(code, language or UNKNOWN_LANGUAGE)}{ASR_TEXT_TAG}"


def make_template_error(key: str, error: Exception, location: str) -> ModelError:
    """The error for a conversation that a chat template does not take."""
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return ModelError(
        f"the chat template of {key} refuses this conversation ({reason})",
        where=location,
        hint="change the order of its turns, or give the base another chat template",
        code="model.template_error",
    )


def _join_texts(content: str | list[dict[str, str]]) -> str:
    """All text of a template message."""
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)


def _replace_text(content: str | list[dict[str, str]], text: str) -> str | list[dict[str, str]]:
    """The content of a template message, of another text."""
    return text if isinstance(content, str) else [{"type": "text", "text": text}]


def _join_contents(
    first: str | list[dict[str, str]], second: str | list[dict[str, str]]
) -> str | list[dict[str, str]]:
    """The contents of two turns as that of one."""
    if isinstance(first, str) or isinstance(second, str):
        return f"{first}{TURN_SEPARATOR}{second}"
    return [*first, {"type": "text", "text": TURN_SEPARATOR}, *second]


def _get_bos_token(tokenizer: PreTrainedTokenizerBase) -> str:
    """The token that a tokenizer begins every text with by itself; "" for most.

    Without it, text costs Gemma 3 270M 1.7 nats more a token.
    """
    first_ids = list(tokenizer("")["input_ids"])[:1]
    return str(tokenizer.bos_token) if first_ids == [tokenizer.bos_token_id] else ""


def get_audio_token_id(tokenizer: PreTrainedTokenizerBase, spec: ModelSpec) -> int:
    """Return the id of the placeholder. Raises ModelError (`model.no_placeholder`)."""
    token = tokenizer.convert_tokens_to_ids(spec.placeholder)
    if not isinstance(token, int) or token == tokenizer.unk_token_id:
        what = f"the tokenizer of {spec.key} has no token {spec.placeholder}"
        raise ModelError(what, code="model.no_placeholder")
    if token == tokenizer.eos_token_id:
        raise make_end_placeholder_error(spec)
    return token


def load_pretrained_tokenizer(folder: Path, spec: ModelSpec) -> PreTrainedTokenizerBase:
    """Load the tokenizer beside a model's weights.

    Raises:
        MissingExtra: it needs mistral-common (`extra.missing`).
        ModelError: it cannot be read (`model.bad_tokenizer`).
    """
    mistral = spec.chat_format == "mistral"
    if mistral and not is_mistral_common_available():
        raise MissingExtra("mistral-common", "voxtral")
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, mistral_format=mistral
        )
        processor_template = folder / "chat_template.json"  # which tokenizers do not read
        if processor_template.is_file() and not (folder / "chat_template.jinja").is_file():
            text = processor_template.read_text(encoding="utf-8")
            tokenizer.chat_template = json.loads(text)["chat_template"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = " ".join(str(error).split()).split(". ")[0]
        raise ModelError(
            f"its tokenizer cannot be read ({reason})",
            where=str(folder),
            hint="fetch the model again",
            code="model.bad_tokenizer",
        ) from error
    return tokenizer
