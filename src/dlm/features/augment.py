"""Augmentation of audio: speed, synthetic rooms, noise, gain, codecs, and SpecAugment masks.

    waveform -> speed -> reverberation -> noise -> gain -> codec -> waveform
    log-mel  -> masks -> log-mel

    noise     recordings, or white, pink (1 / f), brown (1 / f^2), mains hum, babble of voices
    reverb    early reflections, then noise that decays by 60 dB in a random time
    codec     mulaw (8 bits of G.711), telephone (300 to 3,400 Hz, then mulaw), lowpass

Every random number is a function of the seed, the segment and the epoch: batches, processes and
resuming change nothing. Each transform has a generator of its own, so adding one leaves the others
as they were.
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

FFT_BLOCK_SAMPLES = 4096  # the FFT is fast for multiples of it
MIN_NOISE_HERTZ = 20.0
MAINS_HERTZ = (50, 60)
NUM_HUM_HARMONICS = 12
HUM_HISS_LEVEL = 0.1  # white noise relative to the hum, by amplitude
NUM_BABBLE_VOICES = (4, 8)
PITCH_HERTZ = (85.0, 255.0)  # of adult speech
SYLLABLES_PER_SECOND = 4.0  # the peak of speech's modulation (Houtgast & Steeneken 1985)
SPEECH_KNEE_HERTZ = 500.0  # the long-term spectrum of speech is flat up to here (Byrne et al. 1994)
SPEECH_ROLLOFF_POWER = 1.5  # beyond, amplitude falls by 9 dB an octave
VOICE_BREATH_LEVEL = 0.3  # of a voice, by amplitude
SPEED_OF_SOUND = 343.0  # in air, at 20 degrees
ECHO_PATH_METERS = (2.0, 17.0)  # additional path of an early reflection
NUM_EARLY_ECHOES = 8
DIRECT_TO_REVERB_DB = (0.0, 12.0)  # level of all reflections below the direct sound
MULAW_MU = 255  # of ITU-T G.711
TELEPHONE_BAND_HERTZ = (300.0, 3400.0)  # the voice band (ITU-T G.712)
LOWPASS_CUTOFF_HERTZ = (2000.0, 7000.0)
CUTOFF_TRANSITION_FRACTION = 0.1  # width of a filter's edge, relative to its frequency

Rng = np.random.Generator


def _make_white_noise(num_samples: int, rate: int, rng: Rng) -> Waveform:
    return rng.standard_normal(num_samples, dtype=np.float32)


def _make_pink_noise(num_samples: int, rate: int, rng: Rng) -> Waveform:
    return _make_colored_noise(num_samples, rate, rng, power=0.5)


def _make_brown_noise(num_samples: int, rate: int, rng: Rng) -> Waveform:
    return _make_colored_noise(num_samples, rate, rng, power=1.0)


def _make_colored_noise(num_samples: int, rate: int, rng: Rng, *, power: float) -> Waveform:
    """White noise whose amplitude falls with `power` powers of the frequency."""
    return filter_spectrum(
        _make_white_noise(num_samples, rate, rng),
        rate,
        lambda hertz: np.maximum(hertz, MIN_NOISE_HERTZ) ** -power,
    )


def _make_mains_hum(num_samples: int, rate: int, rng: Rng) -> Waveform:
    mains = MAINS_HERTZ[int(rng.integers(len(MAINS_HERTZ)))]
    # whole periods, which are then repeated
    angles = np.arange(rate // math.gcd(rate, mains)) * (2 * np.pi * mains / rate)
    phases = rng.uniform(0, 2 * np.pi, NUM_HUM_HARMONICS)
    tones = [np.sin(n * angles + phase) / n for n, phase in enumerate(phases, start=1)]
    hum: Waveform = np.resize(np.sum(tones, axis=0).astype(np.float32), num_samples)
    return hum + HUM_HISS_LEVEL * _make_white_noise(num_samples, rate, rng)


def _make_babble(num_samples: int, rate: int, rng: Rng) -> Waveform:
    voices = np.zeros(num_samples, np.float32)
    for _ in range(rng.integers(*NUM_BABBLE_VOICES, endpoint=True)):
        voices += _make_babble_voice(num_samples, rate, rng)
    return filter_spectrum(
        voices,
        rate,
        lambda hertz: np.maximum(hertz / SPEECH_KNEE_HERTZ, 1.0) ** -SPEECH_ROLLOFF_POWER,
    )


def _make_babble_voice(num_samples: int, rate: int, rng: Rng) -> Waveform:
    """Pulses of a varying pitch and some breath noise, whose level follows syllables."""
    seconds = num_samples / rate
    syllables = int(seconds * SYLLABLES_PER_SECOND) + 2
    onsets = np.linspace(0, seconds, syllables)
    time = np.arange(num_samples) / rate
    mean_pitch = rng.uniform(*PITCH_HERTZ)
    pitch = np.interp(time, onsets, mean_pitch * rng.uniform(0.8, 1.2, syllables))
    periods = np.floor(np.cumsum(pitch) / rate)
    pulses = np.diff(periods, prepend=0.0) * np.sqrt(rate / mean_pitch)
    level = np.interp(time, onsets, rng.uniform(0, 1, syllables) ** 2)
    breath = VOICE_BREATH_LEVEL * rng.standard_normal(num_samples)
    voice: Waveform = ((pulses + breath) * level).astype(np.float32)
    return voice


def filter_spectrum(
    waveform: Waveform, rate: int, gain_fn: Callable[[np.ndarray], np.ndarray]
) -> Waveform:
    """Multiply each frequency of a waveform (samples,) by `gain_fn(hertz)`, without delay."""
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
    """Make noise (samples,) of a random kind, at an arbitrary level."""
    generators = list(NOISE_GENERATORS.values())
    return generators[int(rng.integers(len(generators)))](num_samples, rate, rng)


def apply_reverb(waveform: Waveform, rate: int, rt60_seconds: float, rng: Rng) -> Waveform:
    """Add the reverberation of a synthetic room; length and RMS stay.

    Args:
        waveform: mono float32, (samples,).
        rate: samples per second.
        rt60_seconds: time in which the reverberation decays by 60 dB.
        rng: source of randomness.
    """
    response = _make_room_impulse_response(rate, rt60_seconds, rng)
    length = -(-(len(waveform) + len(response)) // FFT_BLOCK_SAMPLES) * FFT_BLOCK_SAMPLES
    spectrum = np.fft.rfft(waveform, length) * np.fft.rfft(response, length)
    reverberant = np.fft.irfft(spectrum, length)[: len(waveform)]
    rms = compute_rms(reverberant)
    scale = compute_rms(waveform) / rms if rms else 1.0
    scaled: Waveform = (reverberant * scale).astype(np.float32)
    return scaled


def _make_room_impulse_response(rate: int, rt60_seconds: float, rng: Rng) -> np.ndarray:
    """Direct sound, early reflections, and a tail of decaying noise (Polack 1988).

    An amplitude of exp(-6.91 t / RT60) has fallen by 60 dB at t = RT60.
    """
    time = np.arange(max(round(rt60_seconds * rate), 1)) / rate
    decay = np.exp(-np.log(1000.0) * time / rt60_seconds)
    delays = rng.uniform(*ECHO_PATH_METERS, NUM_EARLY_ECHOES) / SPEED_OF_SOUND
    positions = np.minimum((delays * rate).astype(int), len(time) - 1)
    echoes, tail = np.zeros(len(time)), rng.standard_normal(len(time)) * decay
    np.add.at(echoes, positions, decay[positions] * rng.choice([-1.0, 1.0], NUM_EARLY_ECHOES))
    tail[time < delays.max()] = 0.0
    response = _scale_to_energy(echoes, 0.5) + _scale_to_energy(tail, 0.5)
    response *= 10 ** (-rng.uniform(*DIRECT_TO_REVERB_DB) / 20)
    response[0] = 1.0
    return np.asarray(response)


def _scale_to_energy(waveform: np.ndarray, energy: float) -> np.ndarray:
    """Scale a waveform to an energy; silence stays."""
    current = float(np.sum(waveform**2))
    return np.asarray(waveform * np.sqrt(energy / current)) if current else waveform


def apply_codec(waveform: Waveform, rate: int, codec: str, rng: Rng) -> Waveform:
    """Pass a waveform through a codec: none, lowpass, telephone or mulaw."""
    if codec == "none":
        return waveform
    if codec == "lowpass":
        return apply_bandpass(waveform, rate, 0.0, rng.uniform(*LOWPASS_CUTOFF_HERTZ))
    if codec == "telephone":
        waveform = apply_bandpass(waveform, rate, *TELEPHONE_BAND_HERTZ)
    return apply_mulaw(waveform)


def apply_bandpass(waveform: Waveform, rate: int, low: float, high: float) -> Waveform:
    """Keep the frequencies from `low` (0 for none) to `high` hertz, with raised-cosine edges."""

    def compute_gain(hertz: np.ndarray) -> np.ndarray:
        gain: np.ndarray = 1.0 - _compute_cutoff_gain(hertz, high)
        return gain * _compute_cutoff_gain(hertz, low) if low else gain

    return filter_spectrum(waveform, rate, compute_gain)


def _compute_cutoff_gain(hertz: np.ndarray, cutoff: float) -> np.ndarray:
    """From 0 below a cutoff to 1 above it, 0.5 at it."""
    position = np.clip((hertz / cutoff - 1.0) / CUTOFF_TRANSITION_FRACTION + 0.5, 0.0, 1.0)
    return np.asarray(0.5 - 0.5 * np.cos(np.pi * position))


def apply_mulaw(waveform: Waveform) -> Waveform:
    """Quantise to 8 bits and back (ITU-T G.711): F(x) = sgn(x) ln(1 + mu |x|) / ln(1 + mu).

    Samples beyond 1 are clipped.
    """
    magnitude = np.minimum(np.abs(waveform), 1.0)
    level = np.round(np.log1p(MULAW_MU * magnitude) / np.log1p(MULAW_MU) * (MULAW_MU // 2))
    decoded = np.expm1(level / (MULAW_MU // 2) * np.log1p(MULAW_MU)) / MULAW_MU
    coded: Waveform = (np.sign(waveform) * decoded).astype(np.float32)
    return coded


def compute_rms(waveform: np.ndarray) -> float:
    """Compute the root mean square of a waveform."""
    return float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64))))


class Augmenter:
    """Augments waveforms and log-mels at one sample rate.

    Args:
        augmentation: transforms and their ranges.
        audio_spec: sample rate and window of the model.
        seed: tells runs, and stages of a run, apart.
        noise_recordings: noise to mix in; synthetic noise without them.

    Raises:
        AudioError: speed is to change and no resampler is installed (`audio.no_resampler`).
    """

    def __init__(
        self,
        augmentation: AugmentationSpec,
        audio_spec: AudioTokenizerSpec,
        seed: str,
        noise_recordings: Sequence[NoiseRecording] = (),
    ) -> None:
        self._augmentation, self._audio_spec, self._seed = augmentation, audio_spec, seed
        self._noise_recordings = noise_recordings
        self._resample_fn = choose_resampler() if augmentation.speed_percent else None

    def augment_waveform(self, waveform: Waveform, audio_key: str, epoch: int) -> Waveform:
        """Make the variant of a waveform (samples,) for an epoch.

        Raises:
            AudioError: a recording of noise cannot be decoded (`audio.*`).
        """
        config, rate = self._augmentation, self._audio_spec.sample_rate
        if not self.is_augmented(audio_key, epoch):
            return waveform
        waveform = self._perturb_speed(waveform, self._make_rng(audio_key, epoch, "speed"))
        rng = self._make_rng(audio_key, epoch, "room")
        if rng.random() < config.reverb_probability:
            waveform = apply_reverb(waveform, rate, rng.uniform(*config.rt60_seconds), rng)
        if config.noise_source:
            waveform = self._mix_noise(waveform, self._make_rng(audio_key, epoch, "noise"))
        if config.gain_db:
            rng = self._make_rng(audio_key, epoch, "gain")
            waveform = waveform * _sample_gain(rng, config.gain_db)
        if config.codecs:
            rng = self._make_rng(audio_key, epoch, "codec")
            codec = config.codecs[rng.integers(len(config.codecs))]
            waveform = apply_codec(waveform, rate, codec, rng)
        return waveform

    def mask_mel(
        self, mel: torch.Tensor, num_frames: int, window_index: int, *, audio_key: str, epoch: int
    ) -> torch.Tensor:
        """Mask spans of frames and mel bins with the mean (SpecAugment, Park et al. 2019, sec. 2).

        Args:
            mel: (num_mel_bins, frames + right context).
            num_frames: frames that hold audio.
            window_index: which encoder window of the segment this is.
            audio_key: names the segment.
            epoch: counted from 0.
        """
        time, frequency = self._augmentation.time_masks, self._augmentation.frequency_masks
        if not (time or frequency) or not self.is_augmented(audio_key, epoch):
            return mel
        masked, mean = mel.clone(), mel[:, :num_frames].mean()
        if time:
            rng = self._make_rng(audio_key, epoch, f"time {window_index}")
            for start, stop in _sample_mask_spans(rng, time, num_frames):
                masked[:, start:stop] = mean
        if frequency:
            rng = self._make_rng(audio_key, epoch, f"frequency {window_index}")
            for start, stop in _sample_mask_spans(rng, frequency, len(mel)):
                masked[start:stop, :num_frames] = mean
        return masked

    def is_augmented(self, audio_key: str, epoch: int) -> bool:
        """Tell whether a segment is changed in an epoch at all."""
        rng = self._make_rng(audio_key, epoch, "share")
        return bool(rng.random() < self._augmentation.probability)

    def _make_rng(self, audio_key: str, epoch: int, transform: str) -> Rng:
        """The generator of one transform of one segment in one epoch."""
        text = f"{self._seed}/{epoch}/{transform}/{audio_key}".encode()
        seed = int.from_bytes(hashlib.sha256(text).digest()[:16], "big")
        return np.random.Generator(np.random.PCG64(seed))

    def _perturb_speed(self, waveform: Waveform, rng: Rng) -> Waveform:
        """Slower or faster, with its pitch (Ko et al. 2015)."""
        if not self._resample_fn or not self._augmentation.speed_percent:
            return waveform
        slow, fast = self._augmentation.speed_percent
        window = self._audio_spec.window_samples
        percent = int(rng.integers(slow, fast, endpoint=True))
        length = compute_stretched_length(len(waveform), percent, window)
        speed = compute_effective_speed(len(waveform), percent, window)
        stretched = self._resample_fn(waveform, speed, 100)[:length]
        return np.pad(stretched, (0, length - len(stretched)))

    def _mix_noise(self, waveform: Waveform, rng: Rng) -> Waveform:
        """Add noise at a random signal-to-noise ratio, 20 log10(RMS / RMS); silence stays."""
        ratio = _sample_gain(rng, self._augmentation.snr_db)
        if self._noise_recordings:
            noise = self._sample_noise_recording(len(waveform), rng)
        else:
            noise = make_synthetic_noise(len(waveform), self._audio_spec.sample_rate, rng)
        level = compute_rms(noise) * ratio
        return waveform + noise * np.float32(compute_rms(waveform) / level) if level else waveform

    def _sample_noise_recording(self, num_samples: int, rng: Rng) -> Waveform:
        """A random span of a random recording, repeated where it is too short."""
        noise = self._noise_recordings[int(rng.integers(len(self._noise_recordings)))]
        rate = self._audio_spec.sample_rate
        needed = num_samples / rate
        start = rng.uniform(0, max(noise.seconds - needed, 0.0))
        end = min(start + needed, noise.seconds)
        display_path = noise.segment.display_path
        span = AudioSegment(noise.segment.path, start, end, display_path=display_path)
        return np.resize(load_audio(span, sample_rate=rate, resample=True), num_samples)


def _sample_gain(rng: Rng, db_range: FloatRange) -> np.float32:
    """A random factor from a range in decibels."""
    return np.float32(10 ** (rng.uniform(*db_range) / 20))


def _sample_mask_spans(rng: Rng, masks: SpecAugmentMasks, length: int) -> list[tuple[int, int]]:
    """Start and stop of each mask: a width from 0 to the maximum, anywhere it fits."""
    max_width = min(masks.max_width, int(masks.max_fraction * length))
    widths = rng.integers(0, max_width, size=masks.num_masks, endpoint=True)
    starts = [int(rng.integers(0, length - width, endpoint=True)) for width in widths]
    return [(start, start + int(width)) for start, width in zip(starts, widths, strict=True)]
