"""One row as a person can read it: what the model is given, and which of it carries loss.

<|im_start|>user
          given
<|audio|> x 47              given: a run of placeholders, counted
two<|im_end|>               learned
"""

from dataclasses import dataclass
from itertools import groupby

from dlm.batching.chat_template import IGNORE_INDEX, ChatEncoder
from dlm.batching.samplers import count_segment_tokens
from dlm.data.types import Example
from dlm.plan.audio_lengths import AudioTokenizerSpec


@dataclass(frozen=True)
class LabelSpan:
    """Tokens that stand together and are all learned, or all given."""

    text: str
    num_tokens: int
    has_loss: bool


@dataclass(frozen=True)
class LabelView:
    """The row of the clip at `place`."""

    location: str
    num_tokens: int
    num_label_tokens: int
    spans: tuple[LabelSpan, ...]


def make_label_view(
    example: Example,
    chat_encoder: ChatEncoder,
    audio_spec: AudioTokenizerSpec,
    max_windows: int | None,
) -> LabelView:
    """The row of a clip of whose sounds at most so many windows are heard.

    Raises ClipError when its text holds one of the base's tokens.
    """
    row = chat_encoder.encode_example(example)
    spans = iter(
        [count_segment_tokens(sound, audio_spec, max_windows) for sound in row.audio_segments]
    )
    labelled = [  # the first token has nothing to predict it
        (token, number > 0 and label != IGNORE_INDEX, token == chat_encoder.audio_token_id)
        for number, (token, label) in enumerate(zip(row.input_ids, row.labels, strict=True))
    ]
    stretches = []
    for (learned, sound), run in groupby(labelled, key=lambda each: each[1:]):
        ids = [token for token, _, _ in run]
        if sound:
            name = chat_encoder.decode_raw(ids[:1])
            counts = [next(spans) for _ in ids]
            stretches += [LabelSpan(f"{name} x {count}", count, False) for count in counts]
        else:
            stretches.append(LabelSpan(chat_encoder.decode_raw(ids), len(ids), learned))
    return LabelView(
        row.location,
        sum(each.num_tokens for each in stretches),
        sum(each.num_tokens for each in stretches if each.has_loss),
        tuple(stretches),
    )
