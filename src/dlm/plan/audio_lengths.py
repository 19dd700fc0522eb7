"""How many frames and tokens a span of sound becomes: the one arithmetic everybody asks.

    samples --hop--> mel frames --encoder stride--> encoder frames --projector stride--> tokens

Each arrow rounds up, because each stage pads its last, partial step with silence; a base that
drops its last, partial step says so in `mirrors` (mel) or `drops` (tokens). A span longer than the
window is heard window by window, and its tokens stand one after the other.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class AudioTokenizerSpec:
    """How fast a base reads sound.

    `rate` is in samples per second, `hop` in samples per mel frame, `encoder` in mel frames per
    encoder frame and `projector` in encoder frames per token. `window` is the longest span, in
    samples, that the encoder hears at once. `tail` is how many mel frames past a clip's end the
    encoder's convolutions look at. `fill` says whether a window is
    completed with silence before it is heard, and whether that silence counts as tokens. `chunk`
    is how many mel frames the convolutions take by themselves, 0 for the whole window. `mirrors`
    is for a mel that a clip ends as in a mirror, and that has no frame for less than a hop;
    `least` is how many samples a clip is given at the least, with silence that counts. `convs` are
    the (kernel, stride) of convolutions without padding, where an encoder has those: `encoder` is
    then the product of their strides. `queries` is how many tokens `projector` frames become.
    """

    sample_rate: int
    hop_length: int
    encoder_stride: int
    projector_stride: int
    window_samples: int
    floor_tokens: bool = False
    right_context: int = 0
    pad_mode: Literal["none", "heard", "counted"] = "none"
    chunk_frames: int = 0
    reflect_right: bool = False
    min_samples: int = 0
    conv_layers: tuple[tuple[int, int], ...] = ()
    num_queries: int = 1

    @property
    def tokens_per_second(self) -> float:
        """Audio tokens that one second of sound becomes."""
        step = self.chunk_frames or self.encoder_stride
        heard = self.sample_rate / self.hop_length / step * ceil_div(step, self.encoder_stride)
        return heard / self.projector_stride * self.num_queries

    @property
    def window_seconds(self) -> float:
        """The longest span heard at once, in seconds."""
        return self.window_samples / self.sample_rate


def compute_window_lengths(
    num_samples: int, audio_spec: AudioTokenizerSpec, max_windows: int | None = None
) -> tuple[int, ...]:
    """The samples of each window of a span, at most `most` of them.

    A rest too short for a token is left out, but for that of a span that is nothing else.
    """
    whole, rest = divmod(max(num_samples, audio_spec.min_samples), audio_spec.window_samples)
    cut = [audio_spec.window_samples] * whole
    if rest and (not whole or count_window_tokens(rest, audio_spec)):
        cut.append(rest)
    return tuple(cut[:max_windows])


def count_mel_frames(num_samples: int, audio_spec: AudioTokenizerSpec) -> int:
    """Mel frames of a window of `samples`, those of a silence that counts among them."""
    if audio_spec.reflect_right:
        return num_samples // audio_spec.hop_length
    return ceil_div(
        audio_spec.window_samples if audio_spec.pad_mode == "counted" else num_samples,
        audio_spec.hop_length,
    )


def count_encoder_frames(num_samples: int, audio_spec: AudioTokenizerSpec) -> int:
    """Encoder frames of a window of `samples`."""
    return _mel_to_encoder_frames(count_mel_frames(num_samples, audio_spec), audio_spec)


def count_audio_tokens(
    num_samples: int, audio_spec: AudioTokenizerSpec, max_windows: int | None = None
) -> int:
    """Audio tokens of a span of `samples`: the number of placeholders it takes in the text."""
    return sum(
        count_window_tokens(window, audio_spec)
        for window in compute_window_lengths(num_samples, audio_spec, max_windows)
    )


def mel_frames_to_audio_tokens(num_frames: int, audio_spec: AudioTokenizerSpec) -> int:
    """Audio tokens of one window of `frames` mel frames."""
    heard = _mel_to_encoder_frames(num_frames, audio_spec)
    groups = (
        heard // audio_spec.projector_stride
        if audio_spec.floor_tokens
        else ceil_div(heard, audio_spec.projector_stride)
    )
    return groups * audio_spec.num_queries


def count_window_tokens(num_samples: int, audio_spec: AudioTokenizerSpec) -> int:
    """Audio tokens of one window of `samples`."""
    return mel_frames_to_audio_tokens(count_mel_frames(num_samples, audio_spec), audio_spec)


def _mel_to_encoder_frames(num_frames: int, audio_spec: AudioTokenizerSpec) -> int:
    """Encoder frames of one window of `frames` mel frames."""
    if audio_spec.conv_layers:
        return compute_conv_output_length(num_frames, audio_spec.conv_layers)
    if not audio_spec.chunk_frames:
        return ceil_div(num_frames, audio_spec.encoder_stride)
    whole, rest = divmod(num_frames, audio_spec.chunk_frames)
    return whole * ceil_div(audio_spec.chunk_frames, audio_spec.encoder_stride) + ceil_div(
        rest, audio_spec.encoder_stride
    )


def compute_conv_output_length(length: int, conv_layers: tuple[tuple[int, int], ...]) -> int:
    """Steps that convolutions without padding, each a (kernel, stride), make of `steps`."""
    for kernel, stride in conv_layers:
        length = max((length - kernel) // stride + 1, 0)
    return length


def ceil_div(numerator: int, denominator: int) -> int:
    """`numerator / denominator` rounded up, in exact integers."""
    return -(-numerator // denominator)
