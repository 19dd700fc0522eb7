"""The chat form of bases that speak through mistral-common: it makes the tokens, not a template.

    one sound, no words    <s>[INST][BEGIN_AUDIO][AUDIO][/INST]lang:fr[TRANSCRIBE]Bonjour.</s>
    anything else          <s>[INST][BEGIN_AUDIO][AUDIO]Who speaks?[/INST]Ann.</s>

Without a language the request says none, and the model finds out. The end of what it says is
learned like the words, or it would never stop.
"""

import io
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile
from transformers import PreTrainedTokenizerBase

from dlm.batches.chat import Chat
from dlm.clips.clip import LANGUAGE_MEND, Clip, Sound, Turn
from dlm.errors import BaseError, ClipError
from dlm.plan.bases import Base

if TYPE_CHECKING:
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

    Form = MistralTokenizer[Any, Any, Any, Any, Any]


class MistralChat(Chat):
    """Turns clips into rows as Mistral's own library does."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, base: Base) -> None:
        """Raises BaseError when the tokenizer is not Mistral's, or knows no sound."""
        from mistral_common.exceptions import MistralCommonException
        from transformers.tokenization_mistral_common import MistralCommonBackend

        super().__init__(tokenizer, base)
        mend = "put the tekken.json of the released model beside its weights"
        if not isinstance(tokenizer, MistralCommonBackend):
            raise BaseError(f"{base.key} has no tokenizer of mistral-common", mend=mend)
        self._mistral: Form = tokenizer.tokenizer
        try:
            self._request(base.key, None)
        except MistralCommonException as reason:
            what = f"the tokenizer of {base.key} knows no sound ({reason})"
            raise BaseError(what, mend=mend) from reason

    def _prose(self, text: str) -> list[int]:
        return self._words(text, begin=True)

    def _asked(self, turns: tuple[Turn, ...], place: str, language: str | None) -> list[int]:
        if _to_transcribe(turns):
            return self._request(place, language)
        return self._conversation(self._mistral, turns, place)

    def _stretches(self, clip: Clip) -> Iterator[tuple[list[int], list[int]]]:
        if len(clip.turns) == 2 and _to_transcribe(clip.turns[:1]):
            yield self._request(clip.place, clip.language), self._words(clip.target)
            return
        done = 0
        for number, turn in enumerate(clip.turns):
            if turn.role == "assistant":
                before = self._conversation(self._mistral, clip.turns[:number], clip.place)
                after = self._conversation(self._teacher, clip.turns[: number + 1], clip.place)
                yield before[done:], after[len(before) :]
                done = len(after)

    def _words(self, text: str, *, begin: bool = False) -> list[int]:
        """Plain text, which cannot be read as a special token, and the end."""
        words: list[int] = self._mistral.instruct_tokenizer.tokenizer.encode(text, begin, True)
        return words

    def _request(self, place: str, language: str | None) -> list[int]:
        """A request to write down what is said in one sound."""
        from mistral_common.protocol.transcription.request import TranscriptionRequest

        try:
            request = TranscriptionRequest.model_validate(
                {"audio": self._silence, "language": language}
            )
        except ValueError as reason:
            what = f"'{language}' is not a language code of ISO 639-1"
            raise ClipError(what, where=place, mend=LANGUAGE_MEND) from reason
        return self._once(self._mistral.encode_transcription(request).tokens)

    def _conversation(self, form: "Form", turns: tuple[Turn, ...], place: str) -> list[int]:
        """Turns as the library encodes them. Raises ClipError for those it does not allow."""
        from mistral_common.exceptions import MistralCommonException
        from mistral_common.protocol.instruct.request import ChatCompletionRequest

        try:
            messages = [{"role": turn.role, "content": self._said(turn)} for turn in turns]
            request: ChatCompletionRequest[Any] = ChatCompletionRequest.model_validate(
                {"messages": messages}
            )
            return self._once(form.encode_chat_completion(request).tokens)
        except (MistralCommonException, ValueError) as reason:
            if any(turn.role == "system" for turn in turns) and any(map(_sounds, turns)):
                what = f"{self._base.key} takes no system prompt beside a sound"
                mend = "take system_prompt or the system turn out, or say it in the question"
            else:
                what = (
                    f"{self._base.key} does not take these turns ({' '.join(str(reason).split())})"
                )
                mend = "let user and assistant take turns, the user first"
            raise ClipError(what, where=place, mend=mend) from reason

    def _said(self, turn: Turn) -> str | list[dict[str, Any]]:
        """A turn's words and sounds in order; silence stands for what is heard elsewhere."""
        if not _sounds(turn):
            return turn.text
        return [
            {"type": "text", "text": part}
            if isinstance(part, str)
            else {"type": "input_audio", "input_audio": self._silence}
            for part in turn.parts
        ]

    def _once(self, tokens: list[int]) -> list[int]:
        """Every run of placeholders as one: how many a sound takes is told by its length."""
        sound = self.placeholder
        return [
            token
            for token, last in zip(tokens, [None, *tokens], strict=False)
            if token != sound or last != sound
        ]

    @cached_property
    def _teacher(self) -> "Form":
        """The same tokenizer in the mode for fine-tuning, which wants the assistant to end."""
        from mistral_common.protocol.instruct.normalize import get_normalizer
        from mistral_common.protocol.instruct.validator import ValidationMode, get_validator
        from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

        version = self._mistral.version
        return MistralTokenizer(
            self._mistral.instruct_tokenizer,
            validator=get_validator(version, mode=ValidationMode.finetuning),
            request_normalizer=get_normalizer(
                version, self._mistral.instruct_tokenizer.tokenizer.model_settings_builder
            ),
        )

    @cached_property
    def _silence(self) -> bytes:
        """The shortest recording."""
        file = io.BytesIO()
        soundfile.write(file, np.zeros(1), self._base.strides.rate, format="WAV")
        return file.getvalue()


def _sounds(turn: Turn) -> list[Sound]:
    return [part for part in turn.parts if isinstance(part, Sound)]


def _to_transcribe(turns: tuple[Turn, ...]) -> bool:
    """Whether these turns are one sound and nothing else."""
    return len(turns) == 1 and len(_sounds(turns[0])) == 1 and not turns[0].text.strip()
