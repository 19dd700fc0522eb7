"""How many mel frames, encoder frames and audio tokens a number of samples becomes.

    samples --hop_length--> mel frames --encoder_stride--> encoder frames
                                       --projector_stride--> audio tokens (placeholders in a prompt)

Each arrow rounds up, because each stage pads its last, partial step; `reflect_right` (mel) and
`floor_tokens` (tokens) are the exceptions. Audio longer than the encoder's window is cut into
windows, whose tokens follow one another. The plan, the batches and the model count with these
functions alone.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class AudioTokenizerSpec:
    """The rates at which a model turns audio into tokens.

    Attributes:
        sample_rate: samples per second.
        hop_length: samples per mel frame; 1 for encoders of waveforms.
        encoder_stride: mel frames per encoder frame; with `conv_layers`, the product of strides.
        projector_stride: encoder frames per group of tokens.
        window_samples: the longest audio the encoder takes at once.
        floor_tokens: whether the last, partial group of encoder frames is dropped.
        right_context: mel frames after the end of the audio that the encoder's convolutions read.
        pad_mode: "none"; "uncounted": windows are completed with silence, without tokens for it;
            "counted": that silence has tokens too.
        chunk_frames: mel frames that the convolutions take separately; 0 for the whole window.
        reflect_right: whether the mel reflects the end of the audio, and has no frame for less
            than a hop.
        min_samples: samples to which shorter audio is padded, with tokens for the padding.
        conv_layers: (kernel, stride) of convolutions without padding, of encoders that have them.
        num_queries: tokens per group of `projector_stride` encoder frames; 0 where a decoder
            attends to the frames and audio takes no place in the text.
    """

    sample_rate: int
    hop_length: int
    encoder_stride: int
    projector_stride: int
    window_samples: int
    floor_tokens: bool = False
    right_context: int = 0
    pad_mode: Literal["none", "uncounted", "counted"] = "none"
    chunk_frames: int = 0
    reflect_right: bool = False
    min_samples: int = 0
    conv_layers: tuple[tuple[int, int], ...] = ()
    num_queries: int = 1

    @property
    def tokens_per_second(self) -> float:
        """Audio tokens of one second of audio."""
        chunk_frames = self.chunk_frames or self.encoder_stride
        encoder_frames_per_chunk = ceil_div(chunk_frames, self.encoder_stride)
        chunks_per_second = self.sample_rate / self.hop_length / chunk_frames
        encoder_frames_per_second = chunks_per_second * encoder_frames_per_chunk
        return encoder_frames_per_second / self.projector_stride * self.num_queries

    @property
    def window_seconds(self) -> float:
        """The longest audio the encoder takes at once, in seconds."""
        return self.window_samples / self.sample_rate


def compute_window_lengths(
    num_samples: int, audio_spec: AudioTokenizerSpec, max_windows: int | None = None
) -> tuple[int, ...]:
    """Return the samples of each encoder window, at most `max_windows` of them.

    A remainder too short for one token is left out, unless it is all the audio.
    """
    num_full, remainder = divmod(
        max(num_samples, audio_spec.min_samples), audio_spec.window_samples
    )
    lengths = [audio_spec.window_samples] * num_full
    has_tokens = not audio_spec.num_queries or count_window_tokens(remainder, audio_spec)
    if remainder and (not lengths or has_tokens):
        lengths.append(remainder)
    return tuple(lengths[:max_windows])


def count_mel_frames(num_samples: int, audio_spec: AudioTokenizerSpec) -> int:
    """Return the mel frames of one window, including those of padding that has tokens."""
    if audio_spec.reflect_right:
        return num_samples // audio_spec.hop_length
    if audio_spec.pad_mode == "counted":
        num_samples = audio_spec.window_samples
    return ceil_div(num_samples, audio_spec.hop_length)


def count_encoder_frames(num_samples: int, audio_spec: AudioTokenizerSpec) -> int:
    """Return the encoder frames of one window."""
    return _mel_to_encoder_frames(count_mel_frames(num_samples, audio_spec), audio_spec)


def count_audio_tokens(
    num_samples: int, audio_spec: AudioTokenizerSpec, max_windows: int | None = None
) -> int:
    """Return the audio tokens of all windows: the placeholders that the audio takes in a prompt."""
    return sum(
        count_window_tokens(length, audio_spec)
        for length in compute_window_lengths(num_samples, audio_spec, max_windows)
    )


def count_window_tokens(num_samples: int, audio_spec: AudioTokenizerSpec) -> int:
    """Return the audio tokens of one window."""
    return mel_frames_to_audio_tokens(count_mel_frames(num_samples, audio_spec), audio_spec)


def mel_frames_to_audio_tokens(num_frames: int, audio_spec: AudioTokenizerSpec) -> int:
    """Return the audio tokens of one window of `num_frames` mel frames."""
    encoder_frames = _mel_to_encoder_frames(num_frames, audio_spec)
    if audio_spec.floor_tokens:
        return encoder_frames // audio_spec.projector_stride * audio_spec.num_queries
    return ceil_div(encoder_frames, audio_spec.projector_stride) * audio_spec.num_queries


def _mel_to_encoder_frames(num_frames: int, audio_spec: AudioTokenizerSpec) -> int:
    if audio_spec.conv_layers:
        return compute_conv_output_length(num_frames, audio_spec.conv_layers)
    stride = audio_spec.encoder_stride
    if not audio_spec.chunk_frames:
        return ceil_div(num_frames, stride)
    num_full, remainder = divmod(num_frames, audio_spec.chunk_frames)
    return num_full * ceil_div(audio_spec.chunk_frames, stride) + ceil_div(remainder, stride)


def compute_conv_output_length(length: int, conv_layers: tuple[tuple[int, int], ...]) -> int:
    """Return the output length of convolutions without padding, each a (kernel, stride)."""
    for kernel, stride in conv_layers:
        length = max((length - kernel) // stride + 1, 0)
    return length


def ceil_div(numerator: int, denominator: int) -> int:
    """Return `numerator / denominator` rounded up, in exact integers."""
    return -(-numerator // denominator)
