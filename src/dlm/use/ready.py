"""A model ready to be used: loaded, with its chat form and its ear."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dlm.batches.chat import Chat, Row
from dlm.batches.forms import chat_of
from dlm.clips.clip import Clip, Sound
from dlm.document.settings import Training
from dlm.features.ear import Ear
from dlm.model.face import Model
from dlm.model.generate import Decoding, say
from dlm.model.load import load_version
from dlm.plan.bases import Base

WORDS_PER_SECOND = 8  # tokens of speech: nobody speaks faster
SPARE_TOKENS = 24


@dataclass(frozen=True)
class Ready:
    """What `use` needs of a model; `together` is how many clips it hears at once."""

    model: Model
    chat: Chat
    ear: Ear
    together: int

    def tokens(self, sound: Sound) -> int:
        """Tokens that a sound becomes."""
        return sum(window.tokens for window in self.ear(sound))


def ready(
    base: Base, version: Path | None, *, device: str, asked: Training, once: bool = False
) -> Ready:
    """Load a base with a version on it, or the bare base when `version` is None.

    With `once` the encoder hears each sound a single time, and what it heard is remembered.
    """
    model = load_version(base, version, device=device)
    taken_in = asked.audio
    ear = Ear(
        base,
        auto_resample=taken_in.auto_resample,
        most_windows=taken_in.most_windows,
        hear=model.hear_one if once else None,
    )
    return Ready(model, chat_of(model.tokenizer, base), ear, asked.eval_batch_size)


def answer_all(using: Ready, clips: list[Clip]) -> Iterator[tuple[Clip, str]]:
    """Each clip's last turn as the model would say it, clips of like length together."""
    asked = [(clip, _question(using, clip), _seconds(using, clip.sounds)) for clip in clips]
    asked.sort(key=lambda each: each[2])
    for start in range(0, len(asked), using.together):
        group = asked[start : start + using.together]
        longest = max(seconds for _, _, seconds in group)
        how = Decoding(max_tokens=round(longest * WORDS_PER_SECOND) + SPARE_TOKENS)
        rows = [row for _, row, _ in group]
        said = say(using.model, using.chat, rows, using.ear, how)
        yield from zip([clip for clip, _, _ in group], said, strict=True)


def _question(using: Ready, clip: Clip) -> Row:
    return using.chat.question(clip.turns[:-1], clip.place, clip.language)


def _seconds(using: Ready, sounds: tuple[Sound, ...]) -> float:
    samples = sum(window.samples for sound in sounds for window in using.ear(sound))
    return samples / using.model.base.strides.rate
