"""One row as a person can read it: what the model is given, and which of it carries loss.

<|im_start|>user\n          given
<|audio|> x 47              given: a run of placeholders, counted
two<|im_end|>               learned
"""

from dataclasses import dataclass
from itertools import groupby

from dlm.batches.bucket import sound_tokens
from dlm.batches.chat import IGNORE, Chat
from dlm.clips.clip import Clip
from dlm.plan.frames import Strides


@dataclass(frozen=True)
class Stretch:
    """Tokens that stand together and are all learned, or all given."""

    text: str
    tokens: int
    learned: bool


@dataclass(frozen=True)
class ShownRow:
    """The row of the clip at `place`."""

    place: str
    tokens: int
    learned: int
    stretches: tuple[Stretch, ...]


def show_row(clip: Clip, chat: Chat, strides: Strides, most: int | None) -> ShownRow:
    """The row of a clip of whose sounds at most so many windows are heard.

    Raises ClipError when its text holds one of the base's tokens.
    """
    row = chat.row(clip)
    spans = iter([sound_tokens(sound, strides, most) for sound in row.sounds])
    labelled = [  # the first token has nothing to predict it
        (token, number > 0 and label != IGNORE, token == chat.placeholder)
        for number, (token, label) in enumerate(zip(row.ids, row.labels, strict=True))
    ]
    stretches = []
    for (learned, sound), run in groupby(labelled, key=lambda each: each[1:]):
        ids = [token for token, _, _ in run]
        if sound:
            name = chat.spell(ids[:1])
            counts = [next(spans) for _ in ids]
            stretches += [Stretch(f"{name} x {count}", count, False) for count in counts]
        else:
            stretches.append(Stretch(chat.spell(ids), len(ids), learned))
    return ShownRow(
        row.place,
        sum(each.tokens for each in stretches),
        sum(each.tokens for each in stretches if each.learned),
        tuple(stretches),
    )
