"""Which column of a dataset is the text, the speaker or the language, where nobody said.

    text       text, sentence, normalized_text, transcript, transcription, raw_text
    speaker    speaker, speaker_id, client_id
    language   language, lang, locale: only codes such as fr or pt-BR, which mean fr and pt

A source may say it: `columns: {text: caption}`.
"""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from dlm.clips.clip import Clip, Sound
from dlm.clips.formats.rows import Fields, text_of
from dlm.clips.origin import Origin
from dlm.errors import ClipError

TEXTS = ("text", "sentence", "normalized_text", "transcript", "transcription", "raw_text")
SPEAKERS = ("speaker", "speaker_id", "client_id")
LANGUAGES = ("language", "lang", "locale")
CODE = re.compile(r"([a-zA-Z]{2})(?:[-_](?:[A-Z]{2}|[a-z]{2}|[A-Z][a-z]{3}))*")  # fr, zh-Hans-CN
SHOWN = 8


@dataclass(frozen=True)
class Columns:
    """The columns of a dataset that say something of a recording."""

    origin: Origin
    text: str
    speaker: str | None
    language: str | None
    prompt: str | None

    @classmethod
    def of(cls, origin: Origin, names: Iterable[str]) -> "Columns":
        """The columns among `names`. Raises ClipError where none of them is text."""
        there = list(names)
        text = column_of(origin, "text", TEXTS, there)
        if text is None:
            shown = ", ".join(sorted(there)[:SHOWN]) or "none"
            what = f"no column of text: it has {shown}"
            raise ClipError(what, mend="say which it is with columns: {text: ...}")
        others = {"speaker": SPEAKERS, "language": LANGUAGES, "prompt": ("prompt",)}
        found = (column_of(origin, ours, theirs, there) for ours, theirs in others.items())
        return cls(origin, text, *found)

    @property
    def names(self) -> list[str]:
        """Those that are read."""
        told = (self.text, self.speaker, self.language, self.prompt)
        return [name for name in told if name is not None]

    def clip(self, sound: Sound, row: Fields, place: str) -> Clip:
        """A recording with what its row says."""
        return self.origin.clip(
            sound,
            text_of(row, self.text),
            place,
            language=language_code(row.get(self.language or "")),
            speaker=_name(row.get(self.speaker or "")),
            prompt=text_of(row, self.prompt) if self.prompt else None,
        )


def column_of(
    origin: Origin, ours: str, theirs: Iterable[str], there: Collection[str]
) -> str | None:
    """The column that the source says, or the first known name that is there."""
    said = origin.source.columns.get(ours)
    if said is not None and said not in there:
        raise ClipError(f"no column {said}", mend=f"mend columns: {{{ours}: ...}}")
    return said or next((name for name in theirs if name in there), None)


def language_code(value: object) -> str | None:
    """The two letters of a language or a locale; None for what is no code."""
    found = CODE.fullmatch(value) if isinstance(value, str) else None
    return found[1].lower() if found else None


def _name(value: object) -> str | None:
    """Who speaks; some datasets number them."""
    return str(value).strip() or None if isinstance(value, str | int) else None
