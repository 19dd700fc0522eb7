"""How many bytes hearing takes, by what an encoder takes: a mel, or the wave itself.

    features     what a frozen encoder leaves for the projector
    kept         what an encoder that learns leaves behind before its layers, and between frames
    working      what a frozen encoder holds while it hears one window, of one clip or of each

A wave costs more than a mel: seven convolutions make 64, then 32, ... then one step of each frame.
"""

from collections.abc import Iterable

from dlm.plan.bases import Base
from dlm.plan.frames import ceil_div, encoder_frames, window_tokens
from dlm.plan.hearing import BERT, MELS, STRIDE, WAVES
from dlm.plan.rows import usual_samples

CONV_WIDTH = 512  # of each convolution (wav2vec 2.0, Baevski et al. 2020, section 4.2)
KERNEL = 3  # the longest of those that are as wide on both sides
FIRST_STEPS = 64  # steps per frame after the first convolution, and the most
ALL_STEPS = 127  # after all seven
WAVE_COPIES = 8  # of the samples of a frame: in fp32, normed, padded, and their gradients
CONV_TENSORS = 3  # a convolution keeps its input, its norm's and its activation's
PAIRED = {"wavlm", "wav2vec2-conformer", BERT}  # whose attention holds every pair
NUMBER = 4  # bytes: hearing is exact


def frames_of(base: Base, tokens: int) -> int:
    """Encoder frames that became so many tokens."""
    return ceil_div(tokens * base.strides.projector, base.strides.queries)


def windows_of(base: Base, tokens: int) -> int:
    """How many windows became so many tokens."""
    return ceil_div(tokens, max(window_tokens(base.strides.window, base.strides), 1))


def feature_bytes(base: Base, frames: int) -> int:
    """What is heard of a row: all hidden states, where the projector weighs them."""
    encoders = base.recipe.encoders if base.recipe else ()
    states = [
        base.sizes.encoder.layers + 1 if part.layer == "weighted_sum" else 1 for part in encoders
    ]
    return frames * max(sum(states), 1) * base.sizes.encoder.width * NUMBER


def kept_bytes(base: Base, frames: int, *, layers: int) -> int:
    """What is kept of a row before the layers, and of pairs of frames in so many `layers`."""
    mel = base.bins + 2 * base.sizes.encoder.width
    if base.ear == "mel":
        return 2 * frames * base.strides.encoder * mel * NUMBER
    width = _conv_width(base)
    wave = CONV_TENSORS * ALL_STEPS * width + WAVE_COPIES * base.strides.encoder
    pairs = min(frames, encoder_frames(base.strides.window, base.strides)) * _pair(base) * layers
    gradient = KERNEL * width * width  # of one convolution, before it is added to the others
    return (frames * (wave + 2 * STRIDE * mel + pairs) + gradient) * NUMBER


def working_bytes(base: Base, each: int) -> int:
    """The frozen encoder at work on one window, layer by layer, in numbers of `each` bytes."""
    tower, samples = base.sizes.encoder, usual_samples(base)
    frames = encoder_frames(samples, base.strides)
    layer = frames * (6 * tower.width + 2 * tower.inner + frames * (1 + _pair(base))) * each
    if base.ear == "mel":
        return layer
    steps = ceil_div(samples, base.strides.encoder) * FIRST_STEPS
    wave = WAVE_COPIES * samples * NUMBER
    return wave + max(2 * steps * _conv_width(base) * each, layer)


def _kinds(base: Base) -> Iterable[str]:
    """The classes of its encoders; any, where they are not told."""
    return [part.config["model_type"] for part in base.recipe.encoders] if base.recipe else WAVES


def _conv_width(base: Base) -> int:
    """Channels of its convolutions; w2v-BERT and Whisper take a spectrum, which is small."""
    return 0 if set(_kinds(base)) <= {BERT, *MELS} else CONV_WIDTH


def _pair(base: Base) -> int:
    """Numbers for each pair of frames: scores, and where positions are relative, their vectors."""
    tower = base.sizes.encoder
    if base.ear == "mel" or not set(_kinds(base)) & PAIRED:
        return 0
    return tower.width // tower.heads + 5 * tower.heads
