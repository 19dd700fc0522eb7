"""Augmenter: gain, speed, reverb, noise, codecs and masks as drawn, and reproducible."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dlm.data.audio_file import Waveform
from dlm.data.synthetic import NoiseRecording
from dlm.data.types import AudioSegment
from dlm.errors import DataError
from dlm.features.augment import (
    Augmenter,
    apply_bandpass,
    apply_codec,
    apply_mulaw,
    apply_reverb,
    compute_rms,
    filter_spectrum,
    make_synthetic_noise,
)
from dlm.plan.types import AugmentationSpec, SpecAugmentMasks, compute_stretched_length
from tests.tiny_models import SAMPLE_RATE, make_tiny_spec, write_tone

STRIDES = make_tiny_spec().audio_spec
EVERYTHING = AugmentationSpec(
    probability=1.0,
    speed_percent=(90, 110),
    reverb_probability=0.5,
    rt60_seconds=(0.1, 0.3),
    noise_source="synthetic",
    snr_db=(5.0, 20.0),
    gain_db=(-6.0, 6.0),
    codecs=("none", "mulaw", "telephone", "lowpass"),
    time_masks=SpecAugmentMasks(2, 20, 0.2),
    frequency_masks=SpecAugmentMasks(2, 10),
)


def make_rng(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def sine(hertz: float, seconds: float = 1.0, amplitude: float = 0.3) -> Waveform:
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return (amplitude * np.sin(2 * np.pi * hertz * time)).astype("f")


def loudest_hertz(wave: Waveform) -> float:
    return float(np.fft.rfftfreq(len(wave), 1 / SAMPLE_RATE)[np.abs(np.fft.rfft(wave)).argmax()])


def decibels(one: Waveform, other: Waveform) -> float:
    return 20 * np.log10(compute_rms(one) / compute_rms(other))


def make_augmenter(
    seed: str = "42/0", noises: tuple[NoiseRecording, ...] = (), **changes: object
) -> Augmenter:
    return Augmenter(AugmentationSpec(**{"probability": 1.0, **changes}), STRIDES, seed, noises)


def test_same_seed_segment_and_epoch_give_the_same_samples() -> None:
    wave, mel = sine(440, 0.7), torch.randn(80, 100, generator=torch.Generator().manual_seed(0))

    def version(seed: str, who: str, epoch: int) -> bytes:
        made = Augmenter(EVERYTHING, STRIDES, seed)
        made.augment_waveform(sine(300), "another", 9)  # what else it is asked makes no difference
        masked = made.mask_mel(mel, 90, 0, audio_key=who, epoch=epoch)
        return made.augment_waveform(wave, who, epoch).tobytes() + masked.numpy().tobytes()

    variants = [("1", "a", 0), ("1", "a", 1), ("1", "b", 0), ("2", "a", 0)]
    made = [version(*each) for each in variants]
    assert made == [version(*each) for each in variants]
    assert len(set(made)) == len(made)


def test_inputs_are_not_modified() -> None:
    wave, mel = sine(440), torch.ones(80, 100)
    original = wave.copy()
    for epoch in range(5):
        Augmenter(EVERYTHING, STRIDES, "1").augment_waveform(wave, "a", epoch)
        Augmenter(EVERYTHING, STRIDES, "1").mask_mel(mel, 100, 0, audio_key="a", epoch=epoch)
    assert np.array_equal(wave, original) and bool((mel == 1).all())


def test_transforms_draw_independent_random_numbers() -> None:
    wave = sine(440)
    faster = make_augmenter(speed_percent=(80, 120))
    louder = make_augmenter(speed_percent=(80, 120), gain_db=(6.0, 6.0))
    for epoch in range(5):
        one, other = (each.augment_waveform(wave, "a", epoch) for each in (faster, louder))
        assert np.allclose(one * 10 ** (6 / 20), other, atol=1e-6)


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_share_is_the_fraction_of_augmented_segments(probability: float) -> None:
    changed = make_augmenter(
        probability=probability, gain_db=(6.0, 6.0), time_masks=SpecAugmentMasks(1, 40)
    )
    wave, mel = sine(440, 0.1), torch.arange(100.0).repeat(80, 1)
    both = [
        (
            not np.array_equal(changed.augment_waveform(wave, str(who), 0), wave),
            changed.is_augmented(str(who), 0),
        )
        for who in range(400)
    ]
    assert all(one == other for one, other in both)
    assert abs(sum(one for one, _ in both) / 400 - probability) < 0.08
    left = [str(who) for who in range(400) if not changed.is_augmented(str(who), 0)]
    assert all(changed.mask_mel(mel, 100, 0, audio_key=who, epoch=0) is mel for who in left)


@pytest.mark.parametrize("percent", [50, 90, 97, 100, 110, 200])
def test_speed_changes_length_and_pitch(percent: int) -> None:
    wave = sine(1000, 0.5)
    augmented = make_augmenter(speed_percent=(percent, percent)).augment_waveform(wave, "a", 0)
    assert augmented.dtype == np.float32
    assert (
        len(augmented)
        == compute_stretched_length(len(wave), percent, STRIDES.window_samples)
        == -(-8000 * 100 // percent)
    )
    assert abs(loudest_hertz(augmented) - 10 * percent) < 5
    middle = slice(len(augmented) // 4, -len(augmented) // 4)
    assert abs(decibels(augmented[middle], wave)) < 0.1


def test_segments_within_the_window_are_not_slowed_beyond_it() -> None:
    """The window is two seconds: what fits still fits, what does not is slowed all the same."""
    slow = make_augmenter(speed_percent=(50, 50))
    lengths = {
        seconds: len(slow.augment_waveform(sine(440, seconds), "a", 0))
        for seconds in (0.5, 1.9, 2, 3)
    }
    assert lengths == {
        0.5: SAMPLE_RATE,
        1.9: 2 * SAMPLE_RATE,
        2: 2 * SAMPLE_RATE,
        3: 6 * SAMPLE_RATE,
    }


@given(st.integers(1, 100_000), st.integers(50, 200), st.integers(1, 50_000))
def test_slowest_speed_gives_the_longest_variant(samples: int, percent: int, window: int) -> None:
    changes = AugmentationSpec(1.0, speed_percent=(percent, 200))
    most = changes.compute_max_samples(samples, window)
    assert most >= max(
        compute_stretched_length(samples, each, window) for each in range(percent, 201, 7)
    )
    assert most <= window or samples > window or percent > 100
    assert AugmentationSpec(1.0).compute_max_samples(samples, window) == samples


def test_gain_is_in_decibels() -> None:
    wave = sine(440)
    gains = [
        decibels(make_augmenter(gain_db=(-6.0, 6.0)).augment_waveform(wave, str(n), 0), wave)
        for n in range(200)
    ]
    assert -6 <= min(gains) < -5 and 5 < max(gains) <= 6.001
    assert abs(float(np.mean(gains))) < 0.8


@pytest.mark.parametrize("below", [-5.0, 5.0, 20.0])
def test_noise_has_the_signal_to_noise_ratio(below: float) -> None:
    wave, made = sine(440), make_augmenter(noise_source="synthetic", snr_db=(below, below))
    for epoch in range(12):
        assert abs(decibels(wave, made.augment_waveform(wave, "a", epoch) - wave) - below) < 0.01


def test_silence_stays_silent() -> None:
    silence = np.zeros(SAMPLE_RATE, np.float32)
    for epoch in range(8):
        augmented = Augmenter(
            replace(EVERYTHING, speed_percent=None), STRIDES, "1"
        ).augment_waveform(silence, "a", epoch)
        assert not augmented.any()


@pytest.mark.parametrize("samples", [1, 5, 4096, 4097, 20_000])
def test_every_synthetic_noise_has_any_length(samples: int) -> None:
    kinds = [make_synthetic_noise(samples, SAMPLE_RATE, make_rng(seed)) for seed in range(30)]
    for noise in kinds:
        assert noise.shape == (samples,) and noise.dtype == np.float32
        assert np.isfinite(noise).all()
    assert len({noise.tobytes() for noise in kinds}) > 20


def test_synthetic_noises_differ_in_spectrum() -> None:
    """The share of power below 500 Hz tells hiss from rumble and hum."""

    def low(noise: Waveform) -> float:
        power = np.abs(np.fft.rfft(noise)) ** 2
        return float(power[:500].sum() / power.sum())

    noises_or_powers = sorted(
        low(make_synthetic_noise(SAMPLE_RATE, SAMPLE_RATE, make_rng(seed))) for seed in range(40)
    )
    assert noises_or_powers[0] < 0.1 and noises_or_powers[-1] > 0.95
    assert any(0.3 < each < 0.9 for each in noises_or_powers)


def write_noise_recording(
    folder: Path, *hertz: float, seconds: float = 2.0, rate: int = SAMPLE_RATE
) -> tuple[NoiseRecording, ...]:
    files = [
        write_tone(folder / f"{n:g}.wav", hertz=n, seconds=seconds, sample_rate=rate) for n in hertz
    ]
    return tuple(NoiseRecording(path.name, AudioSegment(path), seconds, rate) for path in files)


def test_noise_recordings_are_used_from_random_positions(tmp_path: Path) -> None:
    noises_or_powers = write_noise_recording(tmp_path, 1000.0, 3000.0)
    made = make_augmenter(noise_source="rain", snr_db=(0.0, 0.0), noises=noises_or_powers)
    wave = sine(200, 0.5)
    noises = [made.augment_waveform(wave, "a", epoch) - wave for epoch in range(20)]
    assert {round(loudest_hertz(noise), -1) for noise in noises} == {1000, 3000}
    assert all(abs(decibels(wave, noise)) < 0.01 for noise in noises)
    assert len({noise.tobytes() for noise in noises}) == 20


def test_short_noise_is_repeated_and_resampled(tmp_path: Path) -> None:
    noises_or_powers = write_noise_recording(tmp_path, 1000.0, seconds=0.25, rate=8000)
    wave = sine(200, 1.5)
    noise = (
        make_augmenter(
            noise_source="rain", snr_db=(0.0, 0.0), noises=noises_or_powers
        ).augment_waveform(wave, "a", 0)
        - wave
    )
    assert abs(loudest_hertz(noise) - 1000) < 10
    assert np.allclose(noise[:4000], noise[4000:8000], atol=1e-3)


def test_missing_noise_recording_is_named(tmp_path: Path) -> None:
    noises_or_powers = write_noise_recording(tmp_path, 1000.0)
    noises_or_powers[0].segment.path.unlink()
    with pytest.raises(DataError, match="1000.wav"):
        make_augmenter(
            noise_source="rain", snr_db=(0.0, 0.0), noises=noises_or_powers
        ).augment_waveform(sine(200), "a", 0)


@pytest.mark.parametrize("rt60", [0.1, 0.5, 1.0])
def test_reverberation_decays_by_60_db_in_rt60(rt60: float) -> None:
    """A click in it: the tail has fallen by 60 dB at RT60, and by 30 half way, give or take."""
    click = np.zeros(2 * SAMPLE_RATE, np.float32)
    click[0] = 1.0
    falls = []
    for seed in range(5):
        augmented = np.abs(apply_reverb(click, SAMPLE_RATE, rt60, make_rng(seed)))
        assert compute_rms(augmented) == pytest.approx(compute_rms(click), rel=1e-3)
        assert augmented.argmax() == 0

        def level(at: float, augmented: Waveform = augmented) -> float:
            start = round(at * rt60 * SAMPLE_RATE)
            return 20 * np.log10(
                compute_rms(augmented[start : start + round(0.1 * rt60 * SAMPLE_RATE)]) + 1e-12
            )

        falls.append(level(0.6) - level(0.85))
        assert not augmented[round(rt60 * SAMPLE_RATE) + 1 :].max() > 1e-4
    assert abs(float(np.mean(falls)) - 15) < 3


def test_reverberation_keeps_length_and_rms() -> None:
    wave = sine(440)
    augmented = apply_reverb(wave, SAMPLE_RATE, 0.3, make_rng())
    assert augmented.shape == wave.shape and compute_rms(augmented) == pytest.approx(
        compute_rms(wave), rel=1e-4
    )
    assert not np.allclose(augmented, wave, atol=0.01)


def test_mulaw_matches_g711() -> None:
    """Levels at the ends and at zero; more than 30 dB of signal to noise over 40 dB of loudness."""
    assert apply_mulaw(np.array([0.0, 1.0, -1.0, 7.0], "f")).tolist() == [0.0, 1.0, -1.0, 1.0]
    steps = np.unique(apply_mulaw(np.linspace(-1, 1, 100_001).astype("f")))
    assert len(steps) == 255
    assert np.allclose(steps, -steps[::-1])
    for amplitude in (0.01, 0.1, 1.0):
        wave = sine(441.3, amplitude=amplitude)
        assert decibels(wave, apply_mulaw(wave) - wave) > 30


@pytest.mark.parametrize(
    ("hertz", "lost"),
    [(100, 40), (250, 20), (400, 0), (1000, 0), (3000, 0), (3800, 40), (7000, 40)],
)
def test_telephone_codec_passes_its_band(hertz: float, lost: float) -> None:
    wave = sine(hertz)
    passed = apply_bandpass(wave, SAMPLE_RATE, 300.0, 3400.0)
    loss = decibels(wave, passed + 1e-9 * sine(500))
    assert abs(loss) < 0.2 if lost == 0 else loss > lost
    assert len(apply_codec(wave, SAMPLE_RATE, "telephone", make_rng())) == len(wave)


def test_codecs_add_no_delay() -> None:
    wave = apply_bandpass(
        make_rng().standard_normal(SAMPLE_RATE).astype("f"), SAMPLE_RATE, 500.0, 2500.0
    )
    for codec in ("none", "mulaw", "telephone", "lowpass"):
        augmented = apply_codec(wave, SAMPLE_RATE, codec, make_rng(3))
        lags = np.correlate(augmented[4000:6000], wave[4000 - 50 : 6000 + 50], "valid")
        assert int(lags.argmax()) == 50, codec


def test_lowpass_removes_high_frequencies() -> None:
    white = make_rng().standard_normal(SAMPLE_RATE).astype("f")
    augmented = apply_codec(white, SAMPLE_RATE, "lowpass", make_rng(1))
    power = np.abs(np.fft.rfft(augmented * np.hanning(SAMPLE_RATE))) ** 2
    assert power[7500:].max() < 1e-3 < power[100:1800].mean()


def test_filter_with_unit_gain_is_the_identity() -> None:
    for samples in (1, 100, 4096, 5000):
        wave = make_rng().standard_normal(samples).astype("f")
        assert np.allclose(filter_spectrum(wave, SAMPLE_RATE, np.ones_like), wave, atol=1e-5)


def test_masks_have_the_configured_number_and_width() -> None:
    mel = torch.randn(80, 104, generator=torch.Generator().manual_seed(0))
    mean = mel[:, :100].mean()
    made = make_augmenter(
        time_masks=SpecAugmentMasks(2, 30, 0.2), frequency_masks=SpecAugmentMasks(1, 8)
    )
    widths, heights = [], []
    for epoch in range(60):
        masked = made.mask_mel(mel, 100, 0, audio_key="a", epoch=epoch)
        assert torch.equal(masked[:, 100:], mel[:, 100:]), "the tail is not masked"
        hidden = masked[:, :100] == mean
        assert torch.equal(masked[:, :100][~hidden], mel[:, :100][~hidden])
        masked_frames, masked_bins = hidden.all(dim=0), hidden.all(dim=1)
        assert torch.equal(hidden, masked_frames[None] | masked_bins[:, None])
        widths.append(int(masked_frames.sum()))
        heights.append(int(masked_bins.sum()))
    assert 30 < max(widths) <= 40 and max(heights) == 8 and min(widths + heights) == 0


def test_windows_of_a_segment_have_different_masks() -> None:
    mel = torch.arange(100.0).repeat(80, 1)
    made = make_augmenter(time_masks=SpecAugmentMasks(2, 30))
    versions = [made.mask_mel(mel, 100, window, audio_key="a", epoch=0) for window in range(4)]
    assert len({each.numpy().tobytes() for each in versions}) == 4


def test_short_mels_are_never_masked_completely() -> None:
    made = make_augmenter(time_masks=SpecAugmentMasks(1, 100, 0.2))
    for frames in range(1, 12):
        mel = torch.arange(float(frames)).repeat(80, 1)
        masked = made.mask_mel(mel, frames, 0, audio_key="a", epoch=0)
        hidden = int((masked != mel).any(dim=0).sum())
        assert hidden <= frames // 5


def test_any_combination_gives_finite_samples() -> None:
    made, wave = Augmenter(EVERYTHING, STRIDES, "7"), sine(440, 0.3)
    for epoch in range(40):
        augmented = made.augment_waveform(wave, "a", epoch)
        assert np.isfinite(augmented).all() and augmented.dtype == np.float32
        assert 0.9 * len(wave) <= len(augmented) <= 1.12 * len(wave)
