"""The chat form of bases that speak through mistral-common: it makes the tokens, not a template.

    one sound, no words    <s>[INST][BEGIN_AUDIO][AUDIO][/INST]lang:fr[TRANSCRIBE]Bonjour.</s>
    anything else          <s>[INST][BEGIN_AUDIO][AUDIO]Who speaks?[/INST]Ann.</s>

Without a language the request says none, and the model finds out. The end of what it says is
learned like the words, or it would never stop.

Which chat form a base speaks.
"""

import io
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile
from transformers import PreTrainedTokenizerBase

from dlm.batching.chat_template import ChatEncoder, ContentPartsChatEncoder, Qwen3AsrChatEncoder
from dlm.data.types import LANGUAGE_CODE_HINT, AudioSegment, Example, Message
from dlm.errors import DataError, ModelError
from dlm.plan.model_spec import ModelSpec

if TYPE_CHECKING:
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

    AnyMistralTokenizer = MistralTokenizer[Any, Any, Any, Any, Any]


class MistralChatEncoder(ChatEncoder):
    """Turns clips into rows as Mistral's own library does."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, spec: ModelSpec) -> None:
        """Raises BaseError when the tokenizer is not Mistral's, or knows no sound."""
        from mistral_common.exceptions import MistralCommonException
        from transformers.tokenization_mistral_common import MistralCommonBackend

        super().__init__(tokenizer, spec)
        mend = "put the tekken.json of the released model beside its weights"
        if not isinstance(tokenizer, MistralCommonBackend):
            raise ModelError(f"{spec.key} has no tokenizer of mistral-common", hint=mend)
        self._mistral_tokenizer: AnyMistralTokenizer = tokenizer.tokenizer
        try:
            self._encode_transcription_request(spec.key, None)
        except MistralCommonException as reason:
            what = f"the tokenizer of {spec.key} knows no sound ({reason})"
            raise ModelError(what, hint=mend) from reason

    def _encode_prose(self, text: str) -> list[int]:
        return self._encode_plain_text(text, add_bos=True)

    def _encode_prompt_ids(
        self, messages: tuple[Message, ...], location: str, language: str | None
    ) -> list[int]:
        if _is_transcription_request(messages):
            return self._encode_transcription_request(location, language)
        return self._encode_conversation(self._mistral_tokenizer, messages, location)

    def _iter_assistant_spans(self, example: Example) -> Iterator[tuple[list[int], list[int]]]:
        if len(example.messages) == 2 and _is_transcription_request(example.messages[:1]):
            yield (
                self._encode_transcription_request(example.location, example.language),
                self._encode_plain_text(example.target),
            )
            return
        done = 0
        for number, turn in enumerate(example.messages):
            if turn.role == "assistant":
                before = self._encode_conversation(
                    self._mistral_tokenizer, example.messages[:number], example.location
                )
                after = self._encode_conversation(
                    self._finetuning_tokenizer, example.messages[: number + 1], example.location
                )
                yield before[done:], after[len(before) :]
                done = len(after)

    def _encode_plain_text(self, text: str, *, add_bos: bool = False) -> list[int]:
        """Plain text, which cannot be read as a special token, and the end."""
        words: list[int] = self._mistral_tokenizer.instruct_tokenizer.tokenizer.encode(
            text, add_bos, True
        )
        return words

    def _encode_transcription_request(self, location: str, language: str | None) -> list[int]:
        """A request to write down what is said in one sound."""
        from mistral_common.protocol.transcription.request import TranscriptionRequest

        try:
            request = TranscriptionRequest.model_validate(
                {"audio": self._silent_wav, "language": language}
            )
        except ValueError as reason:
            what = f"'{language}' is not a language code of ISO 639-1"
            raise DataError(what, where=location, hint=LANGUAGE_CODE_HINT) from reason
        return self._collapse_placeholders(
            self._mistral_tokenizer.encode_transcription(request).tokens
        )

    def _encode_conversation(
        self,
        mistral_tokenizer: "AnyMistralTokenizer",
        conversation: tuple[Message, ...],
        location: str,
    ) -> list[int]:
        """Turns as the library encodes them. Raises ClipError for those it does not allow."""
        from mistral_common.exceptions import MistralCommonException
        from mistral_common.protocol.instruct.request import ChatCompletionRequest

        try:
            messages = [
                {"role": turn.role, "content": self._format_mistral_content(turn)}
                for turn in conversation
            ]
            request: ChatCompletionRequest[Any] = ChatCompletionRequest.model_validate(
                {"messages": messages}
            )
            return self._collapse_placeholders(
                mistral_tokenizer.encode_chat_completion(request).tokens
            )
        except (MistralCommonException, ValueError) as reason:
            if any(turn.role == "system" for turn in conversation) and any(
                map(_get_message_segments, conversation)
            ):
                what = f"{self._spec.key} takes no system prompt beside a sound"
                mend = "take system_prompt or the system turn out, or say it in the question"
            else:
                what = (
                    f"{self._spec.key} does not take these turns ({' '.join(str(reason).split())})"
                )
                mend = "let user and assistant take turns, the user first"
            raise DataError(what, where=location, hint=mend) from reason

    def _format_mistral_content(self, message: Message) -> str | list[dict[str, Any]]:
        """A turn's words and sounds in order; silence stands for what is heard elsewhere."""
        if not _get_message_segments(message):
            return message.text
        return [
            {"type": "text", "text": part}
            if isinstance(part, str)
            else {"type": "input_audio", "input_audio": self._silent_wav}
            for part in message.content
        ]

    def _collapse_placeholders(self, token_ids: list[int]) -> list[int]:
        """Every run of placeholders as one: how many a sound takes is told by its length."""
        sound = self.audio_token_id
        return [
            token
            for token, last in zip(token_ids, [None, *token_ids], strict=False)
            if token != sound or last != sound
        ]

    @cached_property
    def _finetuning_tokenizer(self) -> "AnyMistralTokenizer":
        """The same tokenizer in the mode for fine-tuning, which wants the assistant to end."""
        from mistral_common.protocol.instruct.normalize import get_normalizer
        from mistral_common.protocol.instruct.validator import ValidationMode, get_validator
        from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

        version = self._mistral_tokenizer.version
        return MistralTokenizer(
            self._mistral_tokenizer.instruct_tokenizer,
            validator=get_validator(version, mode=ValidationMode.finetuning),
            request_normalizer=get_normalizer(
                version, self._mistral_tokenizer.instruct_tokenizer.tokenizer.model_settings_builder
            ),
        )

    @cached_property
    def _silent_wav(self) -> bytes:
        """The shortest recording."""
        file = io.BytesIO()
        soundfile.write(file, np.zeros(1), self._spec.audio_spec.sample_rate, format="WAV")
        return file.getvalue()


def _get_message_segments(message: Message) -> list[AudioSegment]:
    return [part for part in message.content if isinstance(part, AudioSegment)]


def _is_transcription_request(messages: tuple[Message, ...]) -> bool:
    """Whether these turns are one sound and nothing else."""
    return (
        len(messages) == 1
        and len(_get_message_segments(messages[0])) == 1
        and not messages[0].text.strip()
    )


CHAT_ENCODER_CLASSES: dict[str, type[ChatEncoder]] = {
    "mistral": MistralChatEncoder,
    "parts": ContentPartsChatEncoder,
    "asr": Qwen3AsrChatEncoder,
}


def build_chat_encoder(tokenizer: PreTrainedTokenizerBase, spec: ModelSpec) -> ChatEncoder:
    """The chat form of a base. Raises BaseError when its tokenizer lacks what the form needs."""
    return CHAT_ENCODER_CLASSES.get(spec.chat_format, ChatEncoder)(tokenizer, spec)
