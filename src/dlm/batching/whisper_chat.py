"""Whisper's decoder prompt (Radford et al. 2022, section 2.3): special tokens and earlier text.

    multilingual   <|startoftranscript|> <|fr|> <|transcribe|> <|notimestamps|>   or <|translate|>
    English-only   <|startoftranscript|> <|notimestamps|>   or nothing, for times in the transcript
    a text before  <|startofprev|> a text <|startoftranscript|> ...

The transcript and the end token follow. The text before is what the user writes beside the
recording, and the system prompt: words that Whisper shall expect, no question. Audio takes no place
in the text; its placeholder is the first token of a prompt, and none of the collated row.
"""

import copy
import re
from collections.abc import Iterator

from transformers import PreTrainedTokenizerBase

from dlm.batching.chat_template import ChatEncoder, EncodedExample
from dlm.data.types import Example, Message
from dlm.errors import DataError, ModelError
from dlm.plan.languages import (
    make_language_error,
    make_other_language_error,
    normalize_language,
)
from dlm.plan.model_spec import ModelSpec

START_OF_TRANSCRIPT, START_OF_PREVIOUS = "<|startoftranscript|>", "<|startofprev|>"
NO_TIMESTAMPS = "<|notimestamps|>"
SPECIAL_TOKEN_RE = re.compile(r"<\|[^|<>]*\|>")
SECONDS_PER_TIMESTAMP = 0.02  # of the tokens after NO_TIMESTAMPS
# written without spaces between words, so that no space begins a transcript (whisper/tokenizer.py)
UNSPACED_LANGUAGES = frozenset(("zh", "ja", "th", "lo", "my", "yue"))


class WhisperChatEncoder(ChatEncoder):
    """Encodes examples and prompts for Whisper.

    A prompt without a language has the end token in the place of the language, for the model to
    detect it (`models/pretrained.py`).

    Raises:
        ModelError: the tokenizer has not Whisper's special tokens (`model.bad_tokenizer`).
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, spec: ModelSpec) -> None:
        super().__init__(tokenizer, spec)
        self._is_multilingual = len(spec.languages) > 1
        self._writes_timestamps = False
        for token in (START_OF_TRANSCRIPT, START_OF_PREVIOUS, NO_TIMESTAMPS):
            self._get_token_id(token)

    def with_timestamps(self) -> "WhisperChatEncoder":
        """Return an encoder whose prompts ask for times, and which decodes them as `<|1.50|>`."""
        encoder = copy.copy(self)
        encoder._writes_timestamps = True
        return encoder

    def decode(self, token_ids: list[int]) -> str:
        """Decode the tokens of an answer, without special tokens, and times if they are wanted."""
        first_timestamp = self._get_token_id(NO_TIMESTAMPS) + 1
        if not self._writes_timestamps:
            return super().decode([each for each in token_ids if each < first_timestamp])
        text, start = "", 0
        for position, token_id in enumerate(token_ids):
            if token_id >= first_timestamp:
                seconds = (token_id - first_timestamp) * SECONDS_PER_TIMESTAMP
                text += f"{super().decode(token_ids[start:position])}<|{seconds:.2f}|>"
                start = position + 1
        return text + super().decode(token_ids[start:])

    def _reject_special_tokens(self, text: str, location: str) -> None:
        """As ChatEncoder, for every token that has a meaning of its own."""
        known = self._tokenizer.get_added_vocab()
        for token in SPECIAL_TOKEN_RE.findall(text):
            if token in known:
                raise self._make_special_token_error(token, location)

    def _encode_checked_example(self, example: Example) -> EncodedExample:
        """As ChatEncoder, for one recording and its transcript.

        Raises:
            DataError: it is something else (`data.model_only_transcribes`), or its language is
                missing (`data.no_language`) or none that the model knows (`data.other_language`).
        """
        if (
            example.task == "text"
            or [message.role for message in example.messages].count("assistant") != 1
        ):
            raise self._make_transcription_error(example.location)
        if error := make_language_error(self._spec, example):
            raise error
        return super()._encode_checked_example(example)

    def _iter_assistant_spans(self, example: Example) -> Iterator[tuple[list[int], list[int]]]:
        prompt = self._encode_prompt_ids(example.messages[:-1], example.location, example.language)
        is_english = self._spec.task == "translate"
        space = "" if example.language in UNSPACED_LANGUAGES and not is_english else " "
        transcript = self._tokenize_text(space + example.target.strip())
        yield prompt, [*transcript, self.eos_token_id]

    def _encode_prompt_ids(
        self, messages: tuple[Message, ...], location: str, language: str | None
    ) -> list[int]:
        segments = [segment for message in messages for segment in message.audio_segments]
        if len(segments) != 1:
            raise self._make_transcription_error(location)
        text = " ".join(message.text.strip() for message in messages).strip()
        token_ids = [self.audio_token_id]
        if text:
            previous = self._tokenize_text(f" {text}")[-(self._spec.context_length // 2 - 1) :]
            token_ids += [self._get_token_id(START_OF_PREVIOUS), *previous]
        token_ids.append(self._get_token_id(START_OF_TRANSCRIPT))
        no_timestamps_id = self._get_token_id(NO_TIMESTAMPS)
        language_id = self._get_language_id(language, location)
        if self._is_multilingual:
            token_ids += [language_id, self._get_token_id(f"<|{self._spec.task}|>")]
        return token_ids if self._writes_timestamps else [*token_ids, no_timestamps_id]

    def _get_language_id(self, language: str | None, location: str) -> int:
        """The token of a language; the end token for one that is to be detected."""
        if language is None:
            return self.eos_token_id
        if error := make_other_language_error(self._spec, language, location):
            raise error
        token = f"<|{normalize_language(language)}|>"
        return self._get_token_id(token) if self._is_multilingual else self.eos_token_id

    def _get_token_id(self, token: str) -> int:
        token_id = self._tokenizer.convert_tokens_to_ids(token)
        if not isinstance(token_id, int) or token_id == self._tokenizer.unk_token_id:
            raise ModelError(
                f"the tokenizer of {self._spec.key} has no token {token}",
                hint="put the tokenizer.json of the released model beside its weights",
                code="model.bad_tokenizer",
            )
        return token_id

    def _make_transcription_error(self, location: str) -> DataError:
        return DataError(
            f"{self._spec.key} only transcribes: it takes one recording and its transcript",
            where=location,
            hint="take it out, or use another base",
            code="data.model_only_transcribes",
        )
