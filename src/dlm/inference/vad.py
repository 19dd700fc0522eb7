"""Where somebody speaks in a recording, by Silero VAD (github.com/snakers4/silero-vad, MIT).

    wave at 16 kHz -> pieces of 32 ms with the end of the last -> spectrum -> 4 convolutions
                   -> LSTM over all of them -> how likely each holds a voice

Only its weights are taken from its package: a safetensors file, which runs nothing.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import nn

from dlm.data.audio_io import load_audio, read_audio_info
from dlm.data.types import AudioSegment

VAD_SAMPLE_RATE = 16_000
VAD_WINDOW_SAMPLES = 512  # samples that are judged at once
VAD_CONTEXT_SAMPLES = 64  # samples of the piece before, heard with it
VAD_BLOCK_SAMPLES = 1875 * VAD_WINDOW_SAMPLES  # samples: a minute is held
VAD_NUM_BINS = (
    129  # of the spectrum; the rows of its kernel are their real, then their imaginary parts
)
VAD_THRESHOLD = 0.5  # from here on a voice begins, and it goes on
VAD_NEG_THRESHOLD = 0.35  # until this (the package's own thresholds)


class SileroVad(nn.Module):
    """Says how likely each piece of a wave holds a voice, and remembers what it heard."""

    def __init__(self, weights_path: Path) -> None:
        super().__init__()
        self.stft_conv = nn.Conv1d(1, 2 * VAD_NUM_BINS, 256, stride=128, bias=False)
        self.conv1 = nn.Conv1d(VAD_NUM_BINS, 128, 3, padding=1)
        self.conv2 = nn.Conv1d(128, 64, 3, stride=2, padding=1)
        self.conv3 = nn.Conv1d(64, 64, 3, stride=2, padding=1)
        self.conv4 = nn.Conv1d(64, 128, 3, padding=1)
        self.lstm = nn.LSTM(128, 128)
        self.final_conv = nn.Conv1d(128, 1, 1)
        found = load_file(weights_path)
        cell = "lstm_cell."
        renamed = {
            f"lstm.{name.removeprefix(cell)}_l0" if cell in name else name: tensor
            for name, tensor in found.items()
        }
        self.load_state_dict(renamed)

    @torch.inference_mode()
    def forward(
        self, windows: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor] | None
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """(pieces, samples before and in each) -> how likely, of each, and what to go on with."""
        reflected = nn.functional.pad(
            windows.unsqueeze(1), (0, VAD_CONTEXT_SAMPLES), mode="reflect"
        )
        spectrum = self.stft_conv(reflected)
        hidden = (spectrum[:, :VAD_NUM_BINS] ** 2 + spectrum[:, VAD_NUM_BINS:] ** 2).sqrt()
        for layer in (self.conv1, self.conv2, self.conv3, self.conv4):
            hidden = layer(hidden).relu()
        heard, state = self.lstm(hidden.squeeze(-1), state)
        return self.final_conv(heard.relu().unsqueeze(-1)).sigmoid().flatten(), state

    def compute_speech_probs(self, segment: AudioSegment) -> NDArray[np.float32]:
        """How likely each 32 ms of a recording hold a voice."""
        seconds, step = (
            read_audio_info(*segment.recording_key).seconds,
            VAD_BLOCK_SAMPLES / VAD_SAMPLE_RATE,
        )
        ends = [
            *np.arange(step, seconds - VAD_WINDOW_SAMPLES / VAD_SAMPLE_RATE, step).tolist(),
            seconds,
        ]
        state, told, last, start = None, [], torch.zeros(VAD_CONTEXT_SAMPLES), 0.0
        for end in ends:
            span = AudioSegment(
                segment.path,
                start,
                end,
                byte_range=segment.byte_range,
                display_path=segment.display_path,
            )
            wave = torch.from_numpy(
                load_audio(span, sample_rate=VAD_SAMPLE_RATE, resample=True)[
                    :VAD_BLOCK_SAMPLES
                ].copy()
            )
            wave = nn.functional.pad(wave, (0, -len(wave) % VAD_WINDOW_SAMPLES))
            pieces = torch.cat([last, wave]).unfold(
                0, VAD_CONTEXT_SAMPLES + VAD_WINDOW_SAMPLES, VAD_WINDOW_SAMPLES
            )
            chances, state = self(pieces, state)
            told.append(chances)
            start, last = end, wave[-VAD_CONTEXT_SAMPLES:]
        return torch.cat(told).numpy()

    def detect_speech(
        self, segment: AudioSegment, num_frames: int, frame_seconds: float
    ) -> NDArray[np.bool_]:
        """Which frames of a recording hold a voice."""
        chances, speaking = self.compute_speech_probs(segment), False
        spoken = np.zeros(len(chances), bool)
        for at, chance in enumerate(chances.tolist()):
            speaking = chance >= (VAD_NEG_THRESHOLD if speaking else VAD_THRESHOLD)
            spoken[at] = speaking
        middles = (
            (np.arange(num_frames) + 0.5) * frame_seconds * VAD_SAMPLE_RATE / VAD_WINDOW_SAMPLES
        )
        found: NDArray[np.bool_] = spoken[np.minimum(middles.astype(int), len(spoken) - 1)]
        return found
