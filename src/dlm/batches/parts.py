"""Chat forms whose template takes each turn in parts, and writes the markers of a sound itself.

    [{"type": "audio"}, {"type": "text", "text": "What is this?"}]

Qwen3-ASR's answers begin with the language: `language English<asr_text>how do you do`.
"""

from typing import Any

from dlm.batches.chat import Chat, Row
from dlm.clips.clip import Clip, Sound, Turn
from dlm.errors import ClipError

ASR_TEXT = "<asr_text>"  # what Qwen3-ASR writes between a language and what is spoken in it
UNKNOWN = "None"  # the language it names when it was told none


class PartsChat(Chat):
    """A template that tells sounds and words apart by itself."""

    def _messages(self, turns: tuple[Turn, ...], language: str | None) -> list[dict[str, Any]]:
        return [{"role": turn.role, "content": self._parts(turn, language)} for turn in turns]

    def _parts(self, turn: Turn, language: str | None) -> list[dict[str, str]]:
        """What the template takes for a turn, with the base's question where none is asked."""
        parts = [
            {"type": "audio"} if isinstance(part, Sound) else {"type": "text", "text": part}
            for part in turn.parts
        ]
        silent = turn.role == "user" and not turn.text.strip()
        return [*parts, {"type": "text", "text": self._base.prompt}] if silent else parts


class AsrChat(PartsChat):
    """Qwen3-ASR's: sounds without a question, answers that name their language."""

    def row(self, clip: Clip) -> Row:
        """A clip to learn from. Raises ClipError for a question, which has no place here."""
        self._unasked(clip.turns, clip.place)
        return super().row(clip)

    def question(self, turns: tuple[Turn, ...], place: str, language: str | None = None) -> Row:
        """A sound to transcribe, in `language` or in the one the model hears."""
        self._unasked(turns, place)
        return super().question(turns, place, language)

    def decode(self, ids: list[int]) -> str:
        """What was spoken, once the language is told."""
        text = super().decode(ids)
        told, mark, spoken = text.partition(ASR_TEXT)
        if mark:
            return spoken
        return "" if told.startswith("language ") else told

    def _asked(self, turns: tuple[Turn, ...], place: str, language: str | None) -> list[int]:
        asked = super()._asked(turns, place, language)
        return asked if language is None else asked + self._encode(_begin(language))

    def _parts(self, turn: Turn, language: str | None) -> list[dict[str, str]]:
        parts = super()._parts(turn, language)
        begin = [{"type": "text", "text": _begin(language)}] if turn.role == "assistant" else []
        return begin + parts

    def _unasked(self, turns: tuple[Turn, ...], place: str) -> None:
        """Refuse a question: the template would leave it out without a word."""
        asked = next((turn.text for turn in turns if turn.role == "user" and turn.text.strip()), "")
        if asked:
            what = f"{self._base.key} only transcribes: it cannot be asked '{asked.strip()}'"
            mend = "leave the question out, or use another base"
            raise ClipError(what, where=place, mend=mend)


def _begin(language: str | None) -> str:
    """How an answer begins; `language` is a name, or a code of two or three letters."""
    from transformers.models.qwen3_asr.processing_qwen3_asr import LANGUAGE_CODE_TO_NAME

    code = (language or UNKNOWN).lower().partition("-")[0]
    return f"language {LANGUAGE_CODE_TO_NAME.get(code, language or UNKNOWN)}{ASR_TEXT}"
