"""The chat format of mistral-common (Voxtral), and the choice of a model's chat encoder.

mistral-common makes the token ids itself, without a template:

    audio alone     <s>[INST][BEGIN_AUDIO][AUDIO][/INST]lang:fr[TRANSCRIBE]Bonjour.</s>
    anything else   <s>[INST][BEGIN_AUDIO][AUDIO]Who speaks?[/INST]Ann.</s>

Without a language the request names none, and the model detects it. The end token carries loss like
the text, or the model would never stop.
"""

import io
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile
from transformers import PreTrainedTokenizerBase

from dlm.batching.chat_template import ChatEncoder, ContentPartsChatEncoder, Qwen3AsrChatEncoder
from dlm.batching.whisper_chat import WhisperChatEncoder
from dlm.data.types import LANGUAGE_CODE_HINT, Example, Message
from dlm.errors import DataError, ModelError
from dlm.plan.model_spec import ModelSpec

if TYPE_CHECKING:
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

    AnyMistralTokenizer = MistralTokenizer[Any, Any, Any, Any, Any]


def build_chat_encoder(tokenizer: PreTrainedTokenizerBase, spec: ModelSpec) -> ChatEncoder:
    """Build the chat encoder of a model's format. Raises ModelError as the encoders do."""
    encoders: dict[str, type[ChatEncoder]] = {
        "mistral": MistralChatEncoder,
        "parts": ContentPartsChatEncoder,
        "asr": Qwen3AsrChatEncoder,
        "whisper": WhisperChatEncoder,
    }
    return encoders.get(spec.chat_format, ChatEncoder)(tokenizer, spec)


class MistralChatEncoder(ChatEncoder):
    """Encodes examples as mistral-common does.

    Raises:
        ModelError: the tokenizer is not one of mistral-common, or has no audio tokens
            (`model.bad_tokenizer`).
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, spec: ModelSpec) -> None:
        from mistral_common.exceptions import MistralCommonException
        from transformers.tokenization_mistral_common import MistralCommonBackend

        super().__init__(tokenizer, spec)
        hint = "put the tekken.json of the released model beside its weights"
        if not isinstance(tokenizer, MistralCommonBackend):
            what = f"{spec.key} has no tokenizer of mistral-common"
            raise ModelError(what, hint=hint, code="model.bad_tokenizer")
        self._mistral_tokenizer: AnyMistralTokenizer = tokenizer.tokenizer
        try:
            self._encode_transcription_request(spec.key, None)
        except MistralCommonException as reason:
            what = f"the tokenizer of {spec.key} has no audio tokens ({reason})"
            raise ModelError(what, hint=hint, code="model.bad_tokenizer") from reason

    def _encode_prose(self, text: str) -> list[int]:
        return self._encode_text(text, add_bos=True)

    def _encode_prompt_ids(
        self, messages: tuple[Message, ...], location: str, language: str | None
    ) -> list[int]:
        if _is_transcription_request(messages):
            return self._encode_transcription_request(location, language)
        return self._encode_conversation(self._mistral_tokenizer, messages, location)

    def _iter_assistant_spans(self, example: Example) -> Iterator[tuple[list[int], list[int]]]:
        messages, location = example.messages, example.location
        if len(messages) == 2 and _is_transcription_request(messages[:1]):
            request = self._encode_transcription_request(location, example.language)
            yield request, self._encode_text(example.target)
            return
        done = 0
        for index, message in enumerate(messages):
            if message.role == "assistant":
                before = self._encode_conversation(
                    self._mistral_tokenizer, messages[:index], location
                )
                after = self._encode_conversation(
                    self._finetuning_tokenizer, messages[: index + 1], location
                )
                yield before[done:], after[len(before) :]
                done = len(after)

    def _encode_text(self, text: str, *, add_bos: bool = False) -> list[int]:
        """Text, which is never read as a special token, and the end token."""
        tokenizer = self._mistral_tokenizer.instruct_tokenizer.tokenizer
        token_ids: list[int] = tokenizer.encode(text, add_bos, True)
        return token_ids

    def _encode_transcription_request(self, location: str, language: str | None) -> list[int]:
        from mistral_common.protocol.transcription.request import TranscriptionRequest

        try:
            request = TranscriptionRequest.model_validate(
                {"audio": self._silent_wav, "language": language}
            )
        except ValueError as reason:
            raise DataError(
                f"'{language}' is not a language code of ISO 639-1",
                where=location,
                hint=LANGUAGE_CODE_HINT,
                code="data.bad_language",
            ) from reason
        return self._collapse_placeholders(
            self._mistral_tokenizer.encode_transcription(request).tokens
        )

    def _encode_conversation(
        self,
        mistral_tokenizer: "AnyMistralTokenizer",
        conversation: tuple[Message, ...],
        location: str,
    ) -> list[int]:
        """Messages as the library encodes them. Raises DataError for those it refuses."""
        from mistral_common.exceptions import MistralCommonException
        from mistral_common.protocol.instruct.request import ChatCompletionRequest

        try:
            messages = [
                {"role": message.role, "content": self._format_mistral_content(message)}
                for message in conversation
            ]
            request: ChatCompletionRequest[Any] = ChatCompletionRequest.model_validate(
                {"messages": messages}
            )
            return self._collapse_placeholders(
                mistral_tokenizer.encode_chat_completion(request).tokens
            )
        except (MistralCommonException, ValueError) as reason:
            has_audio = any(message.audio_segments for message in conversation)
            if has_audio and any(message.role == "system" for message in conversation):
                raise DataError(
                    f"{self._spec.key} takes no system prompt beside audio",
                    where=location,
                    hint="take system_prompt or the system turn out, or put it into the question",
                    code="data.no_system_prompt",
                ) from reason
            raise DataError(
                f"{self._spec.key} does not take these turns ({' '.join(str(reason).split())})",
                where=location,
                hint="let user and assistant take turns, the user first",
                code="data.bad_turns",
            ) from reason

    def _format_mistral_content(self, message: Message) -> str | list[dict[str, Any]]:
        """Text and audio in order; a silent recording stands for each audio segment."""
        if not message.audio_segments:
            return message.text
        return [
            {"type": "text", "text": part}
            if isinstance(part, str)
            else {"type": "input_audio", "input_audio": self._silent_wav}
            for part in message.content
        ]

    def _collapse_placeholders(self, token_ids: list[int]) -> list[int]:
        """One placeholder for each run of them: the number follows from the true length."""
        audio = self.audio_token_id
        return [
            token
            for token, previous in zip(token_ids, [None, *token_ids], strict=False)
            if token != audio or previous != audio
        ]

    @cached_property
    def _finetuning_tokenizer(self) -> "AnyMistralTokenizer":
        """The tokenizer in its mode for fine-tuning, in which the assistant comes last."""
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
        """A recording of one sample."""
        file = io.BytesIO()
        soundfile.write(file, np.zeros(1), self._spec.audio_spec.sample_rate, format="WAV")
        return file.getvalue()


def _is_transcription_request(messages: tuple[Message, ...]) -> bool:
    """Whether the messages are one audio segment and nothing else."""
    return (
        len(messages) == 1 and len(messages[0].audio_segments) == 1 and not messages[0].text.strip()
    )
