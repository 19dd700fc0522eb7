"""The label view of `dlm check --show-labels`: the tokens of one example, and which carry loss.

<|im_start|>user
          no loss
<|audio|> x 47              no loss: placeholders, counted
two<|im_end|>               loss
"""

from dataclasses import dataclass
from itertools import groupby

from dlm.batching.chat_template import IGNORE_INDEX, ChatEncoder
from dlm.batching.samplers import count_segment_tokens
from dlm.data.types import Example
from dlm.plan.audio_lengths import AudioTokenizerSpec


@dataclass(frozen=True)
class LabelSpan:
    """Consecutive tokens that all carry loss, or none.

    Attributes:
        text: the tokens as text, special tokens included.
        num_tokens: how many there are.
        has_loss: whether they carry loss.
    """

    text: str
    num_tokens: int
    has_loss: bool


@dataclass(frozen=True)
class LabelView:
    """One example as text.

    Attributes:
        location: where the example was written.
        num_tokens: tokens of the example.
        num_label_tokens: tokens that carry loss.
        spans: the example, cut where loss begins and ends.
    """

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
    """Make the label view of an example, of up to `max_windows` windows for each segment.

    Raises:
        DataError: its text contains a special token (`data.special_token`).
    """
    encoded = chat_encoder.encode_example(example)
    audio_counts = iter(
        [
            count_segment_tokens(segment, audio_spec, max_windows)
            for segment in encoded.audio_segments
        ]
    )
    tokens = [  # nothing predicts the first token
        (token, index > 0 and label != IGNORE_INDEX, token == chat_encoder.audio_token_id)
        for index, (token, label) in enumerate(zip(encoded.input_ids, encoded.labels, strict=True))
    ]
    spans = []
    for (has_loss, is_audio), group in groupby(tokens, key=lambda each: each[1:]):
        ids = [token for token, _, _ in group]
        if is_audio:
            name = chat_encoder.decode_raw(ids[:1])
            counts = [next(audio_counts) for _ in ids]
            spans += [LabelSpan(f"{name} x {count}", count, False) for count in counts]
        else:
            spans.append(LabelSpan(chat_encoder.decode_raw(ids), len(ids), has_loss))
    return LabelView(
        encoded.location,
        num_tokens=sum(span.num_tokens for span in spans),
        num_label_tokens=sum(span.num_tokens for span in spans if span.has_loss),
        spans=tuple(spans),
    )
