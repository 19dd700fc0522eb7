"""How a clip's turns become tokens: the base's own chat form, and which tokens carry loss.

    system and user turns      no loss
    assistant turns            loss on the words and on the token that ends the turn
    prose                      loss on every token and on the end

A sound takes one placeholder here; collate repeats it once its true length is known.

Chat forms whose template takes each turn in parts, and writes the markers of a sound itself.

    [{"type": "audio"}, {"type": "text", "text": "What is this?"}]

Qwen3-ASR's answers begin with the language: `language English<asr_text>how do you do`.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils.import_utils import is_mistral_common_available

from dlm.data.types import AudioSegment, Example, Message
from dlm.errors import DataError, MissingExtra, ModelError
from dlm.plan.model_spec import ModelSpec

IGNORE_INDEX = -100  # the label that carries no loss (torch's cross entropy)
DEFAULT_TEACHER_PROMPT = (
    "Repeat this."  # asked of who reads, where sound alone is a request to write it down
)


@dataclass(frozen=True)
class EncodedExample:
    """One clip as tokens; `labels` equal the ids that carry loss, IGNORE elsewhere.

    `read` is the same for a teacher: what is said in each sound stands in its place.
    """

    input_ids: tuple[int, ...]
    labels: tuple[int, ...]
    audio_segments: tuple[AudioSegment, ...]
    location: str
    teacher_example: "EncodedExample | None" = None

    @property
    def label_ids(self) -> tuple[int, ...]:
        """The tokens that carry loss; the first token of a row has nothing to predict it."""
        return tuple(label for label in self.labels[1:] if label != IGNORE_INDEX)


class ChatEncoder:
    """Turns clips into rows for one base."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, spec: ModelSpec) -> None:
        """Raises BaseError when the tokenizer lacks a chat form, an end or the placeholder."""
        self._tokenizer, self._spec = tokenizer, spec
        if tokenizer.chat_template is None and spec.chat_format in ("template", "parts", "asr"):
            raise ModelError(f"{spec.key} has no chat template", hint="use an instruct model")
        if not isinstance(tokenizer.eos_token_id, int):
            raise ModelError(f"the tokenizer of {spec.key} has no end-of-turn token")
        self.audio_token_id = get_audio_token_id(tokenizer, spec)
        self.eos_token_id: int = tokenizer.eos_token_id
        pad = tokenizer.pad_token_id
        self.pad_token_id: int = pad if isinstance(pad, int) else tokenizer.eos_token_id

    def encode_example(self, example: Example) -> EncodedExample:
        """A clip to learn from. Raises ClipError when its text holds one of the base's tokens."""
        for turn in example.messages:
            self._reject_special_tokens(turn.text, example.location)
        return self._encode_checked_example(example)

    def _encode_checked_example(self, example: Example) -> EncodedExample:
        """The row of a clip whose words are plain."""
        if example.task == "text" and len(example.messages) == 1:
            prose = tuple(self._encode_prose(example.messages[0].text))
            return EncodedExample(prose, prose, (), example.location)
        ids: list[int] = []
        labels: list[int] = []
        stretches = list(self._iter_assistant_spans(example))
        for asked, said in stretches:
            if said is stretches[-1][1] and self.eos_token_id not in said:
                said = [
                    *said,
                    self.eos_token_id,
                ]  # the template ends no turn: the next one's marker does
            learned = said.index(self.eos_token_id) + 1 if self.eos_token_id in said else len(said)
            ids += asked + said
            labels += (
                [IGNORE_INDEX] * len(asked)
                + said[:learned]
                + [IGNORE_INDEX] * (len(said) - learned)
            )
        return EncodedExample(tuple(ids), tuple(labels), example.audio_segments, example.location)

    def encode_with_teacher(self, example: Example) -> EncodedExample:
        """The row of a clip with what a teacher reads of it; a clip without sound has no teacher.

        Raises ClipError when the teacher would answer in other tokens.
        """
        row = self.encode_example(example)
        if not example.audio_segments:
            return row
        for sound in example.audio_segments:
            self._reject_special_tokens(sound.transcript or "", example.location)
        turns = tuple(self._to_teacher_message(turn, example.language) for turn in example.messages)
        read = self._encode_checked_example(replace(example, messages=turns))
        if read.label_ids != row.label_ids:
            what = f"{self._spec.key} writes this answer to words in other tokens than to a sound"
            raise DataError(what, where=example.location, hint="take training.teacher out")
        return replace(row, teacher_example=read)

    def encode_prompt(
        self, messages: tuple[Message, ...], location: str, language: str | None = None
    ) -> EncodedExample:
        """A question to answer: everything up to where the assistant begins to speak.

        `language` is that of the sound, as far as the base's form has a place for it.
        """
        for turn in messages:
            self._reject_special_tokens(turn.text, location)
        ids = tuple(self._encode_prompt_ids(messages, location, language))
        sounds = tuple(
            part for turn in messages for part in turn.content if isinstance(part, AudioSegment)
        )
        return EncodedExample(ids, (IGNORE_INDEX,) * len(ids), sounds, location)

    def decode(self, token_ids: list[int]) -> str:
        """The text of what a model said."""
        text = self._tokenizer.decode(token_ids, skip_special_tokens=True)
        return text if isinstance(text, str) else "".join(text)

    def decode_raw(self, token_ids: list[int]) -> str:
        """Tokens as they are, the special ones too."""
        text = self._tokenizer.decode(token_ids, skip_special_tokens=False)
        return text if isinstance(text, str) else "".join(text)

    def _encode_prose(self, text: str) -> list[int]:
        return [*self._tokenize_text(text), self.eos_token_id]

    def _encode_prompt_ids(
        self, messages: tuple[Message, ...], location: str, language: str | None
    ) -> list[int]:
        """Tokens up to where the assistant begins to speak."""
        return self._tokenize_text(
            self._apply_chat_template(
                self._to_template_messages(messages, language), add_generation_prompt=True
            )
        )

    def _iter_assistant_spans(self, example: Example) -> Iterator[tuple[list[int], list[int]]]:
        """For each turn of the assistant: the tokens since the last one, and those it says."""
        messages = self._to_template_messages(example.messages, example.language)
        done = ""
        for number, turn in enumerate(example.messages):
            if turn.role != "assistant":
                continue
            before = self._apply_chat_template(messages[:number], add_generation_prompt=True)
            after = self._apply_chat_template(messages[: number + 1], add_generation_prompt=False)
            if not (before.startswith(done) and after.startswith(before)):
                raise ModelError(f"the chat template of {self._spec.key} rewrites earlier turns")
            yield (
                self._tokenize_text(before[len(done) :]),
                self._tokenize_text(after[len(before) :]),
            )
            done = after

    def _to_template_messages(
        self, messages: tuple[Message, ...], language: str | None
    ) -> list[dict[str, str]]:
        numbers = count(1)
        return [
            {"role": turn.role, "content": self._format_content(turn, numbers, language)}
            for turn in messages
        ]

    def _format_content(
        self, message: Message, audio_numbers: "count[int]", language: str | None
    ) -> str:
        """A turn's words, each sound a placeholder between its markers."""
        base = self._spec
        words = ""
        for part in message.content:
            if isinstance(part, AudioSegment):
                before = base.audio_prefix.format(number=next(audio_numbers))
                words += f"{before}{base.placeholder}{base.audio_suffix}"
            else:
                words += part
        return words + self._format_default_prompt(language) if _is_audio_only(message) else words

    def _format_default_prompt(self, language: str | None) -> str:
        """What the base is asked about a sound in this language when a clip asks nothing."""
        return self._spec.default_prompt.replace("{language}", language or "en")

    def _to_teacher_message(self, message: Message, language: str | None) -> Message:
        """A turn for who cannot hear: each sound as a line of what is said in it."""
        parts = [
            f"{part.transcript}\n" if isinstance(part, AudioSegment) else part
            for part in message.content
        ]
        asked = (
            (self._format_default_prompt(language) or DEFAULT_TEACHER_PROMPT)
            if _is_audio_only(message)
            else ""
        )
        return Message(message.role, ("".join([*parts, asked]),))

    def _reject_special_tokens(self, text: str, location: str) -> None:
        """Refuse text that would be read as one of the base's special tokens."""
        for token in self._tokenizer.all_special_tokens:
            if token in text:
                mend = "write it another way"
                raise DataError(
                    f"the text holds the special token {token}", where=location, hint=mend
                )

    def _apply_chat_template(
        self, messages: list[dict[str, str]], *, add_generation_prompt: bool
    ) -> str:
        if self._spec.chat_format == "plain":
            ends = {"assistant": str(self._tokenizer.eos_token)}
            return "".join(each["content"] + ends.get(each["role"], "") for each in messages)
        text = self._tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=add_generation_prompt
        )
        return str(text)

    def _tokenize_text(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])


def _is_audio_only(message: Message) -> bool:
    """Whether a turn is sound alone."""
    return message.role == "user" and not message.text.strip()


def get_audio_token_id(tokenizer: PreTrainedTokenizerBase, spec: ModelSpec) -> int:
    """The token that stands for one token of sound. Raises BaseError when there is none."""
    token = tokenizer.convert_tokens_to_ids(spec.placeholder)
    if not isinstance(token, int) or token == tokenizer.unk_token_id:
        raise ModelError(f"the tokenizer of {spec.key} has no token {spec.placeholder}")
    return token


def load_pretrained_tokenizer(folder: Path, spec: ModelSpec) -> PreTrainedTokenizerBase:
    """The tokenizer beside a base's weights. Raises MissingExtra without the library it needs."""
    mistral = spec.chat_format == "mistral"
    if mistral and not is_mistral_common_available():
        raise MissingExtra("mistral-common", "voxtral")
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, mistral_format=mistral
        )
        older = folder / "chat_template.json"  # the processor's, which tokenizers do not read
        if older.is_file() and not (folder / "chat_template.jinja").is_file():
            tokenizer.chat_template = json.loads(older.read_text(encoding="utf-8"))["chat_template"]
    except (OSError, ValueError, KeyError, TypeError) as reason:
        told = " ".join(str(reason).split()).split(". ")[0]
        what = f"its tokenizer cannot be read ({told})"
        raise ModelError(what, where=str(folder), hint="fetch the model again") from reason
    return tokenizer


ASR_TEXT_TAG = "<asr_text>"  # what Qwen3-ASR writes between a language and what is spoken in it
UNKNOWN_LANGUAGE = "None"  # the language it names when it was told none


class ContentPartsChatEncoder(ChatEncoder):
    """A template that tells sounds and words apart by itself."""

    def _to_template_messages(
        self, messages: tuple[Message, ...], language: str | None
    ) -> list[dict[str, Any]]:
        return [
            {"role": turn.role, "content": self._format_content_parts(turn, language)}
            for turn in messages
        ]

    def _format_content_parts(self, message: Message, language: str | None) -> list[dict[str, str]]:
        """What the template takes for a turn, with the base's question where none is asked."""
        parts = [
            {"type": "audio"} if isinstance(part, AudioSegment) else {"type": "text", "text": part}
            for part in message.content
        ]
        silent = message.role == "user" and not message.text.strip()
        return [*parts, {"type": "text", "text": self._spec.default_prompt}] if silent else parts


class Qwen3AsrChatEncoder(ContentPartsChatEncoder):
    """Qwen3-ASR's: sounds without a question, answers that name their language."""

    def encode_example(self, example: Example) -> EncodedExample:
        """A clip to learn from. Raises ClipError for a question, which has no place here."""
        self._reject_question(example.messages, example.location)
        return super().encode_example(example)

    def encode_prompt(
        self, messages: tuple[Message, ...], location: str, language: str | None = None
    ) -> EncodedExample:
        """A sound to transcribe, in `language` or in the one the model hears."""
        self._reject_question(messages, location)
        return super().encode_prompt(messages, location, language)

    def decode(self, token_ids: list[int]) -> str:
        """What was spoken, once the language is told."""
        text = super().decode(token_ids)
        told, mark, spoken = text.partition(ASR_TEXT_TAG)
        if mark:
            return spoken
        return "" if told.startswith("language ") else told

    def _encode_prompt_ids(
        self, messages: tuple[Message, ...], location: str, language: str | None
    ) -> list[int]:
        asked = super()._encode_prompt_ids(messages, location, language)
        return (
            asked
            if language is None
            else asked + self._tokenize_text(_format_language_prefix(language))
        )

    def _format_content_parts(self, message: Message, language: str | None) -> list[dict[str, str]]:
        parts = super()._format_content_parts(message, language)
        begin = (
            [{"type": "text", "text": _format_language_prefix(language)}]
            if message.role == "assistant"
            else []
        )
        return begin + parts

    def _reject_question(self, messages: tuple[Message, ...], location: str) -> None:
        """Refuse a question: the template would leave it out without a word."""
        asked = next(
            (turn.text for turn in messages if turn.role == "user" and turn.text.strip()), ""
        )
        if asked:
            what = f"{self._spec.key} only transcribes: it cannot be asked '{asked.strip()}'"
            mend = "leave the question out, or use another base"
            raise DataError(what, where=location, hint=mend)


def _format_language_prefix(language: str | None) -> str:
    """How an answer begins; `language` is a name, or a code of two or three letters."""
    from transformers.models.qwen3_asr.processing_qwen3_asr import LANGUAGE_CODE_TO_NAME

    code = (language or UNKNOWN_LANGUAGE).lower().partition("-")[0]
    return f"language {LANGUAGE_CODE_TO_NAME.get(code, language or UNKNOWN_LANGUAGE)}{ASR_TEXT_TAG}"
