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

from dlm.clips.audio import decode, probe
from dlm.clips.clip import Sound

RATE = 16_000
PIECE = 512  # samples that are judged at once
BEFORE = 64  # samples of the piece before, heard with it
AT_ONCE = 1875 * PIECE  # samples: a minute is held
BINS = 129  # of the spectrum; the rows of its kernel are their real, then their imaginary parts
LIKELY = 0.5  # from here on a voice begins, and it goes on
UNLIKELY = 0.35  # until this (the package's own thresholds)


class Voice(nn.Module):
    """Says how likely each piece of a wave holds a voice, and remembers what it heard."""

    def __init__(self, weights: Path) -> None:
        super().__init__()
        self.stft_conv = nn.Conv1d(1, 2 * BINS, 256, stride=128, bias=False)
        self.conv1 = nn.Conv1d(BINS, 128, 3, padding=1)
        self.conv2 = nn.Conv1d(128, 64, 3, stride=2, padding=1)
        self.conv3 = nn.Conv1d(64, 64, 3, stride=2, padding=1)
        self.conv4 = nn.Conv1d(64, 128, 3, padding=1)
        self.lstm = nn.LSTM(128, 128)
        self.final_conv = nn.Conv1d(128, 1, 1)
        found = load_file(weights)
        cell = "lstm_cell."
        renamed = {
            f"lstm.{name.removeprefix(cell)}_l0" if cell in name else name: tensor
            for name, tensor in found.items()
        }
        self.load_state_dict(renamed)

    @torch.inference_mode()
    def forward(
        self, pieces: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor] | None
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """(pieces, samples before and in each) -> how likely, of each, and what to go on with."""
        reflected = nn.functional.pad(pieces.unsqueeze(1), (0, BEFORE), mode="reflect")
        spectrum = self.stft_conv(reflected)
        hidden = (spectrum[:, :BINS] ** 2 + spectrum[:, BINS:] ** 2).sqrt()
        for layer in (self.conv1, self.conv2, self.conv3, self.conv4):
            hidden = layer(hidden).relu()
        heard, state = self.lstm(hidden.squeeze(-1), state)
        return self.final_conv(heard.relu().unsqueeze(-1)).sigmoid().flatten(), state

    def likely(self, sound: Sound) -> NDArray[np.float32]:
        """How likely each 32 ms of a recording hold a voice."""
        seconds, step = probe(*sound.recording).seconds, AT_ONCE / RATE
        ends = [*np.arange(step, seconds - PIECE / RATE, step).tolist(), seconds]
        state, told, last, start = None, [], torch.zeros(BEFORE), 0.0
        for end in ends:
            span = Sound(sound.path, start, end, inside=sound.inside, written=sound.written)
            wave = torch.from_numpy(decode(span, rate=RATE, resample=True)[:AT_ONCE].copy())
            wave = nn.functional.pad(wave, (0, -len(wave) % PIECE))
            pieces = torch.cat([last, wave]).unfold(0, BEFORE + PIECE, PIECE)
            chances, state = self(pieces, state)
            told.append(chances)
            start, last = end, wave[-BEFORE:]
        return torch.cat(told).numpy()

    def mask(self, sound: Sound, frames: int, frame_seconds: float) -> NDArray[np.bool_]:
        """Which frames of a recording hold a voice."""
        chances, speaking = self.likely(sound), False
        spoken = np.zeros(len(chances), bool)
        for at, chance in enumerate(chances.tolist()):
            speaking = chance >= (UNLIKELY if speaking else LIKELY)
            spoken[at] = speaking
        middles = (np.arange(frames) + 0.5) * frame_seconds * RATE / PIECE
        found: NDArray[np.bool_] = spoken[np.minimum(middles.astype(int), len(spoken) - 1)]
        return found
