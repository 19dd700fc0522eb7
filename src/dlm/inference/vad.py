"""Which frames of a recording hold speech, by Silero VAD (github.com/snakers4/silero-vad, MIT).

    audio at 16 kHz, a minute at a time -> model, 32 ms at a time -> speech probabilities
        -> get_speech_timestamps_from_probs -> spans of speech -> mask of frames

Model, thresholds and timestamps are those of the package `silero-vad`, the extra `dlm[voice]`.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import torch
from numpy.typing import NDArray

from dlm.data.audio_io import load_audio, read_audio_info
from dlm.data.types import AudioSegment
from dlm.errors import MissingExtra

VAD_SAMPLE_RATE = 16_000
VAD_WINDOW_SAMPLES = 512  # the model's window
VAD_BLOCK_SAMPLES = 1875 * VAD_WINDOW_SAMPLES  # decoded at once: a minute


def require_vad_extra() -> None:
    """Raise MissingExtra where Silero VAD is not installed."""
    if find_spec("silero_vad") is None:
        raise MissingExtra("silero-vad", "voice")


class SileroVad:
    """Silero VAD. Raises MissingExtra."""

    def __init__(self) -> None:
        require_vad_extra()
        with _single_threaded(), warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit.load, importlib
            from silero_vad import load_silero_vad

            self._model = load_silero_vad()

    @torch.inference_mode()
    def compute_speech_probs(self, segment: AudioSegment) -> list[float]:
        """Compute how likely each 32 ms of a segment hold speech. Raises AudioError."""
        self._model.reset_states()
        probs: list[float] = []
        with _single_threaded():
            for block in _iter_blocks(segment):
                padded = np.pad(block, (0, -len(block) % VAD_WINDOW_SAMPLES))
                for window in torch.from_numpy(padded).split(VAD_WINDOW_SAMPLES):
                    probs.append(self._model(window, VAD_SAMPLE_RATE).item())
        return probs

    def detect_speech(
        self, segment: AudioSegment, num_frames: int, frame_seconds: float
    ) -> NDArray[np.bool_]:
        """Detect which of the frames of a segment hold speech: (num_frames,). Raises AudioError."""
        from silero_vad import get_speech_timestamps_from_probs

        mask = np.zeros(num_frames, bool)
        frames_per_sample = 1 / (frame_seconds * VAD_SAMPLE_RATE)
        for span in get_speech_timestamps_from_probs(self.compute_speech_probs(segment)):
            first, last = (span[edge] * frames_per_sample for edge in ("start", "end"))
            mask[round(first) : round(last)] = True
        return mask


@contextmanager
def _single_threaded() -> Iterator[None]:
    """One thread inside: a window is so small that more threads take longer than one."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)  # importing silero_vad leaves it at 1


def _iter_blocks(segment: AudioSegment) -> Iterator[NDArray[np.float32]]:
    """The audio of a segment at 16 kHz, a minute at a time; only the last block is shorter."""
    start = segment.start or 0.0
    end = read_audio_info(*segment.recording_key).seconds if segment.end is None else segment.end
    block_seconds = VAD_BLOCK_SAMPLES / VAD_SAMPLE_RATE
    starts = np.arange(start, end - VAD_WINDOW_SAMPLES / VAD_SAMPLE_RATE, block_seconds).tolist()
    for block_start, block_end in zip(starts, [*starts[1:], end], strict=True):
        span = replace(segment, start=block_start, end=block_end)
        yield load_audio(span, sample_rate=VAD_SAMPLE_RATE, resample=True)[:VAD_BLOCK_SAMPLES]
