"""Noise that is made up: hiss, rumble, hum and the murmur of a room full of people.

white     the same power at every frequency
pink      power falls as 1 / f
brown     power falls as 1 / f squared
hum       a mains frequency, 50 or 60 Hz, and its harmonics, over a faint hiss
babble    several voices of noise and pulses, shaped as speech is in the long run

What a sound passes through: a room, a telephone, a narrow channel.

room         the sound, its first echoes, and a tail that falls by 60 dB in a time that is drawn
mulaw        quantised to 8 bits on the curve of G.711
telephone    300 to 3,400 Hz, then mulaw
lowpass      nothing above a frequency that is drawn

How one sound is changed: what is drawn is a function of the seed, the sound and the pass.

    samples --speed--> --room--> --noise--> --gain--> --codec--> samples
    mel --masks--> mel

Nothing else is asked: not the batch a sound rides in, not who makes it ready, not what came before.
Every change draws numbers of its own, so that one more leaves the others as they were.
"""

import hashlib
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from dlm.data.audio_file import Waveform
from dlm.data.audio_io import choose_resampler, load_audio
from dlm.data.synthetic import NoiseRecording
from dlm.data.types import AudioSegment
from dlm.plan.audio_lengths import AudioTokenizerSpec
from dlm.plan.types import (
    AugmentationSpec,
    FloatRange,
    SpecAugmentMasks,
    compute_effective_speed,
    compute_stretched_length,
)

FFT_BLOCK_SAMPLES = 4096  # samples: lengths that are whole multiples are transformed fast
MIN_NOISE_HERTZ = 20.0
MAINS_HERTZ = (50, 60)
NUM_HUM_HARMONICS = 12
HUM_HISS_LEVEL = 0.1  # of the hum, by its amplitude
NUM_BABBLE_VOICES = (4, 8)
PITCH_HERTZ = (85.0, 255.0)  # of men and women, speaking
SYLLABLES_PER_SECOND = 4.0  # the peak of speech's modulation (Houtgast & Steeneken 1985)
SPEECH_KNEE_HERTZ = 500.0  # speech is flat up to here and then falls (Byrne et al. 1994), about
SPEECH_ROLLOFF_POWER = 1.5  # powers of the frequency by which its amplitude falls: 9 dB an octave
VOICE_BREATH_LEVEL = 0.3  # of a voice that is noise

Rng = np.random.Generator


def _make_white_noise(num_samples: int, rate: int, rng: Rng) -> Waveform:
    return rng.standard_normal(num_samples, dtype=np.float32)


def _make_pink_noise(num_samples: int, rate: int, rng: Rng) -> Waveform:
    return _make_colored_noise(num_samples, rate, rng, power=0.5)


def _make_brown_noise(num_samples: int, rate: int, rng: Rng) -> Waveform:
    return _make_colored_noise(num_samples, rate, rng, power=1.0)


def _make_colored_noise(num_samples: int, rate: int, rng: Rng, *, power: float) -> Waveform:
    """White noise whose amplitude falls with so many powers of the frequency."""
    return filter_spectrum(
        _make_white_noise(num_samples, rate, rng),
        rate,
        lambda hertz: np.maximum(hertz, MIN_NOISE_HERTZ) ** -power,
    )


def _make_mains_hum(num_samples: int, rate: int, rng: Rng) -> Waveform:
    mains = MAINS_HERTZ[int(rng.integers(len(MAINS_HERTZ)))]
    turns = np.arange(rate // math.gcd(rate, mains)) * (2 * np.pi * mains / rate)  # some whole ones
    phases = rng.uniform(0, 2 * np.pi, NUM_HUM_HARMONICS)
    tones = [np.sin(at * turns + phase) / at for at, phase in enumerate(phases, start=1)]
    hum: Waveform = np.resize(np.sum(tones, axis=0).astype(np.float32), num_samples)
    return hum + HUM_HISS_LEVEL * _make_white_noise(num_samples, rate, rng)


def _make_babble(num_samples: int, rate: int, rng: Rng) -> Waveform:
    wave = np.zeros(num_samples, np.float32)
    for _ in range(rng.integers(*NUM_BABBLE_VOICES, endpoint=True)):
        wave += _make_babble_voice(num_samples, rate, rng)
    return filter_spectrum(
        wave,
        rate,
        lambda hertz: np.maximum(hertz / SPEECH_KNEE_HERTZ, 1.0) ** -SPEECH_ROLLOFF_POWER,
    )


def _make_babble_voice(num_samples: int, rate: int, rng: Rng) -> Waveform:
    """Pulses of a wandering pitch, with some breath, that swell and fade with the syllables."""
    seconds = num_samples / rate
    syllables = int(seconds * SYLLABLES_PER_SECOND) + 2
    marks = np.linspace(0, seconds, syllables)
    time = np.arange(num_samples) / rate
    centre = rng.uniform(*PITCH_HERTZ)
    pitch = np.interp(time, marks, centre * rng.uniform(0.8, 1.2, syllables))
    beats = np.floor(np.cumsum(pitch) / rate)
    pulses = np.diff(beats, prepend=0.0) * np.sqrt(rate / centre)
    swell = np.interp(time, marks, rng.uniform(0, 1, syllables) ** 2)
    breath = VOICE_BREATH_LEVEL * rng.standard_normal(num_samples)
    voice: Waveform = ((pulses + breath) * swell).astype(np.float32)
    return voice


def filter_spectrum(
    waveform: Waveform, rate: int, gain_fn: Callable[[np.ndarray], np.ndarray]
) -> Waveform:
    """The same wave, each frequency times what `amplitude` says of it; nothing is delayed."""
    length = -(-len(waveform) // FFT_BLOCK_SAMPLES) * FFT_BLOCK_SAMPLES
    spectrum = np.fft.rfft(waveform, length)
    spectrum *= gain_fn(np.fft.rfftfreq(length, 1 / rate))
    filtered: Waveform = np.fft.irfft(spectrum, length)[: len(waveform)].astype(np.float32)
    return filtered


NOISE_GENERATORS: dict[str, Callable[[int, int, Rng], Waveform]] = {
    "white": _make_white_noise,
    "pink": _make_pink_noise,
    "brown": _make_brown_noise,
    "hum": _make_mains_hum,
    "babble": _make_babble,
}


def make_synthetic_noise(num_samples: int, rate: int, rng: Rng) -> Waveform:
    """Noise (samples,) of a kind that is drawn, as loud as it comes."""
    return list(NOISE_GENERATORS.values())[int(rng.integers(len(NOISE_GENERATORS)))](
        num_samples, rate, rng
    )


SPEED_OF_SOUND = 343.0  # in air, at 20 degrees
ECHO_PATH_METERS = (2.0, 17.0)  # how much farther an early echo came
NUM_EARLY_ECHOES = 8
DIRECT_TO_REVERB_DB = (0.0, 12.0)  # how far all the echoes lie below the direct sound
MULAW_MU = 255  # of G.711's mu-law
TELEPHONE_BAND_HERTZ = (300.0, 3400.0)  # the voice band (ITU-T G.712)
LOWPASS_CUTOFF_HERTZ = (2000.0, 7000.0)
CUTOFF_TRANSITION_FRACTION = 0.1  # of a corner's frequency: how wide it is


def apply_reverb(waveform: Waveform, rate: int, rt60_seconds: float, rng: Rng) -> Waveform:
    """The same wave as it sounds in a made-up room, as long and as loud as it was."""
    response = _make_room_impulse_response(rate, rt60_seconds, rng)
    length = -(-(len(waveform) + len(response)) // FFT_BLOCK_SAMPLES) * FFT_BLOCK_SAMPLES
    spectrum = np.fft.rfft(waveform, length) * np.fft.rfft(response, length)
    heard = np.fft.irfft(spectrum, length)[: len(waveform)]
    loudness = compute_rms(heard)
    same: Waveform = (heard * (compute_rms(waveform) / loudness if loudness else 1.0)).astype(
        np.float32
    )
    return same


def _make_room_impulse_response(rate: int, rt60_seconds: float, rng: Rng) -> np.ndarray:
    """What a clap leaves in a room: itself, ECHOES, and noise that decays (Polack 1988).

    An amplitude of exp(-6.91 t / RT60) has fallen by 60 dB at t = RT60.
    """
    time = np.arange(max(round(rt60_seconds * rate), 1)) / rate
    fall = np.exp(-np.log(1000.0) * time / rt60_seconds)
    farther = rng.uniform(*ECHO_PATH_METERS, NUM_EARLY_ECHOES) / SPEED_OF_SOUND
    at = np.minimum((farther * rate).astype(int), len(time) - 1)
    echoes, tail = np.zeros(len(time)), rng.standard_normal(len(time)) * fall
    np.add.at(echoes, at, fall[at] * rng.choice([-1.0, 1.0], NUM_EARLY_ECHOES))
    tail[time < farther.max()] = 0.0
    both = _scale_to_energy(echoes, 0.5) + _scale_to_energy(tail, 0.5)
    both *= 10 ** (-rng.uniform(*DIRECT_TO_REVERB_DB) / 20)
    both[0] = 1.0
    return np.asarray(both)


def _scale_to_energy(waveform: np.ndarray, energy: float) -> np.ndarray:
    """The same wave with so much energy, if it has any."""
    has = float(np.sum(waveform**2))
    return np.asarray(waveform * np.sqrt(energy / has)) if has else waveform


def apply_codec(waveform: Waveform, rate: int, codec: str, rng: Rng) -> Waveform:
    """The same wave at the other end of a codec."""
    if codec == "none":
        return waveform
    if codec == "lowpass":
        return apply_bandpass(waveform, rate, 0.0, rng.uniform(*LOWPASS_CUTOFF_HERTZ))
    return apply_mulaw(
        apply_bandpass(waveform, rate, *TELEPHONE_BAND_HERTZ) if codec == "telephone" else waveform
    )


def apply_bandpass(waveform: Waveform, rate: int, low: float, high: float) -> Waveform:
    """What lies between two frequencies; a corner is half a cosine wide."""

    def passes(hertz: np.ndarray) -> np.ndarray:
        above = _compute_cutoff_gain(hertz, low) if low else 1.0
        kept: np.ndarray = above * (1.0 - _compute_cutoff_gain(hertz, high))
        return kept

    return filter_spectrum(waveform, rate, passes)


def _compute_cutoff_gain(hertz: np.ndarray, cutoff: float) -> np.ndarray:
    """From 0 to 1 around a corner, at which it is a half."""
    way = np.clip((hertz / cutoff - 1.0) / CUTOFF_TRANSITION_FRACTION + 0.5, 0.0, 1.0)
    return np.asarray(0.5 - 0.5 * np.cos(np.pi * way))


def apply_mulaw(waveform: Waveform) -> Waveform:
    """Through 8 bits and back (ITU-T G.711): F(x) = sgn(x) ln(1 + mu |x|) / ln(1 + mu).

    What is louder than 1 is cut there.
    """
    loud = np.minimum(np.abs(waveform), 1.0)
    level = np.round(np.log1p(MULAW_MU * loud) / np.log1p(MULAW_MU) * (MULAW_MU // 2))
    back = np.expm1(level / (MULAW_MU // 2) * np.log1p(MULAW_MU)) / MULAW_MU
    coded: Waveform = (np.sign(waveform) * back).astype(np.float32)
    return coded


def compute_rms(waveform: np.ndarray) -> float:
    """The root of the mean square: how loud a wave is."""
    return float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64))))


class Augmenter:
    """Changes sounds as a plan has it, at one rate; `seed` tells two runs, or stages, apart."""

    def __init__(
        self,
        augmentation: AugmentationSpec,
        audio_spec: AudioTokenizerSpec,
        seed: str,
        noise_recordings: Sequence[NoiseRecording] = (),
    ) -> None:
        """`recorded` is the noise to mix in; it is made up when there is none.

        Raises ClipError where speed is wanted and nothing resamples.
        """
        self._augmentation, self._audio_spec, self._seed = augmentation, audio_spec, seed
        self._noise_recordings = noise_recordings
        self._resample_fn = choose_resampler() if augmentation.speed_percent else None

    def augment_waveform(self, waveform: Waveform, audio_key: str, epoch: int) -> Waveform:
        """The version of a sound (samples,) that a pass hears; `who` says whose samples they are.

        Raises ClipError where a recording of noise cannot be decoded.
        """
        changes, rate = self._augmentation, self._audio_spec.sample_rate
        if not self.is_augmented(audio_key, epoch):
            return waveform
        wave = self._perturb_speed(waveform, self._make_rng(audio_key, epoch, "speed"))
        chance = self._make_rng(audio_key, epoch, "room")
        if chance.random() < changes.reverb_probability:
            wave = apply_reverb(wave, rate, chance.uniform(*changes.rt60_seconds), chance)
        if changes.noise_source:
            wave = self._mix_noise(wave, self._make_rng(audio_key, epoch, "noise"))
        if changes.gain_db:
            wave = wave * _sample_gain(self._make_rng(audio_key, epoch, "gain"), changes.gain_db)
        if changes.codecs:
            chance = self._make_rng(audio_key, epoch, "codec")
            codec = changes.codecs[chance.integers(len(changes.codecs))]
            wave = apply_codec(wave, rate, codec, chance)
        return wave

    def mask_mel(
        self, mel: torch.Tensor, num_frames: int, window_index: int, *, audio_key: str, epoch: int
    ) -> torch.Tensor:
        """The version of a mel (bins, frames and tail) that a pass hears, of its `frames`.

        `window` is its number among those of the sound. What is masked becomes the mean, as in
        SpecAugment (Park et al. 2019, section 2).
        """
        time, frequency = self._augmentation.time_masks, self._augmentation.frequency_masks
        if not (time or frequency) or not self.is_augmented(audio_key, epoch):
            return mel
        masked, mean = mel.clone(), mel[:, :num_frames].mean()
        if time:
            chance = self._make_rng(audio_key, epoch, f"time {window_index}")
            for start, stop in _sample_mask_spans(chance, time, num_frames):
                masked[:, start:stop] = mean
        if frequency:
            chance = self._make_rng(audio_key, epoch, f"frequency {window_index}")
            for start, stop in _sample_mask_spans(chance, frequency, len(mel)):
                masked[start:stop, :num_frames] = mean
        return masked

    def is_augmented(self, audio_key: str, epoch: int) -> bool:
        """Whether a pass changes this sound."""
        return bool(
            self._make_rng(audio_key, epoch, "share").random() < self._augmentation.probability
        )

    def _make_rng(self, audio_key: str, epoch: int, transform: str) -> Rng:
        """The random numbers of one change to one sound in one pass."""
        told = f"{self._seed}/{epoch}/{transform}/{audio_key}".encode()
        number = int.from_bytes(hashlib.sha256(told).digest()[:16], "big")
        return np.random.Generator(np.random.PCG64(number))

    def _perturb_speed(self, waveform: Waveform, rng: Rng) -> Waveform:
        """Faster or slower, and with it higher or lower (Ko et al. 2015)."""
        if not self._resample_fn or not self._augmentation.speed_percent:
            return waveform
        slow, fast = self._augmentation.speed_percent
        window = self._audio_spec.window_samples
        drawn = int(rng.integers(slow, fast, endpoint=True))
        length = compute_stretched_length(len(waveform), drawn, window)
        wave = self._resample_fn(
            waveform, compute_effective_speed(len(waveform), drawn, window), 100
        )[:length]
        return np.pad(wave, (0, length - len(wave)))

    def _mix_noise(self, waveform: Waveform, rng: Rng) -> Waveform:
        """With noise, 20 log10(rms of the sound / rms of the noise) dB below it; silence stays."""
        below = _sample_gain(rng, self._augmentation.snr_db)
        noise = (
            self._sample_noise_recording(len(waveform), rng)
            if self._noise_recordings
            else make_synthetic_noise(len(waveform), self._audio_spec.sample_rate, rng)
        )
        loud = compute_rms(noise) * below
        return waveform + noise * np.float32(compute_rms(waveform) / loud) if loud else waveform

    def _sample_noise_recording(self, num_samples: int, rng: Rng) -> Waveform:
        """A stretch of a recording, both drawn; one that is too short begins again."""
        noise = self._noise_recordings[int(rng.integers(len(self._noise_recordings)))]
        rate, path = self._audio_spec.sample_rate, noise.segment.path
        needed = num_samples / rate
        start = rng.uniform(0, max(noise.seconds - needed, 0.0))
        end = min(start + needed, noise.seconds)
        span = AudioSegment(path, start, end, display_path=noise.segment.display_path)
        return np.resize(load_audio(span, sample_rate=rate, resample=True), num_samples)


def _sample_gain(rng: Rng, db_range: FloatRange) -> np.float32:
    """A factor of so many decibels as are drawn."""
    return np.float32(10 ** (rng.uniform(*db_range) / 20))


def _sample_mask_spans(rng: Rng, masks: SpecAugmentMasks, length: int) -> list[tuple[int, int]]:
    """Where each mask begins and ends: a width from 0 to the widest, anywhere it fits."""
    widest = min(masks.max_width, int(masks.max_fraction * length))
    widths = rng.integers(0, widest, size=masks.num_masks, endpoint=True)
    starts = [int(rng.integers(0, length - width, endpoint=True)) for width in widths]
    return [(start, start + int(width)) for start, width in zip(starts, widths, strict=True)]
