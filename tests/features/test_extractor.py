"""AudioFeatureExtractor: each segment once, from memory and disk, never stale."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import WhisperFeatureExtractor

from dlm.batching.chat_template import EncodedExample
from dlm.batching.collator import PaddingSpec, collate
from dlm.data.audio_io import load_audio
from dlm.data.types import AudioSegment
from dlm.errors import DataError, StoreError
from dlm.features.extractor import AudioFeatureExtractor, EncodeFn
from dlm.models.encoders import run_encoder
from dlm.models.load import load_base_model
from dlm.plan.audio_lengths import AudioTokenizerSpec, count_audio_tokens, count_encoder_frames
from dlm.plan.model_spec import (
    ComponentRef,
    CompositionSpec,
    LayerSelection,
    ModelSpec,
    read_model_spec,
)
from tests.tiny_models import (
    SAMPLE_RATE,
    make_tiny_config,
    make_tiny_spec,
    write_tiny_model,
    write_tone,
)
from tests.waveform_encoders import get_waveform_audio_spec


def make_composition(layer: LayerSelection) -> CompositionSpec:
    """A composition whose encoder output is that of `layer`."""
    encoder = ComponentRef("hf:org/name", "1" * 40, {"model_type": "wav2vec2"}, layer)
    return CompositionSpec(
        (encoder,), {"kind": "stack"}, ComponentRef("", None, {"model_type": "qwen3"})
    )


def make_waveform_spec(**strides: object) -> ModelSpec:
    """A spec whose encoder takes waveforms, in windows of two seconds."""
    fast = replace(
        get_waveform_audio_spec("wav2vec2"),
        window_samples=2 * SAMPLE_RATE,
        projector_stride=4,
        **strides,
    )
    return replace(make_tiny_spec(), encoder_input="wave", num_mel_bins=0, audio_spec=fast)


class CountingEncoder:
    """A frozen encoder that counts its calls."""

    def __init__(self, factor: float = 1.0) -> None:
        self.calls, self.factor = 0, factor

    def __call__(self, mel: torch.Tensor, frames: int) -> torch.Tensor:
        self.calls += 1
        return mel.T[::2] * self.factor


@pytest.fixture
def segment(tmp_path: Path) -> AudioSegment:
    return AudioSegment(write_tone(tmp_path / "a.wav", hertz=300))


def test_without_an_encoder_features_are_the_log_mel(segment: AudioSegment) -> None:
    (window,) = AudioFeatureExtractor(make_tiny_spec(), auto_resample=False)(segment)
    assert window.values.shape == (80, 60) and not window.is_encoded
    assert (window.num_samples, window.num_tokens) == (9600, 8)


def test_features_of_a_span_are_those_of_the_cut_audio(segment: AudioSegment) -> None:
    (window,) = AudioFeatureExtractor(make_tiny_spec(), auto_resample=False)(
        AudioSegment(segment.path, 0.1, 0.35)
    )
    assert (window.num_samples, window.num_tokens) == (4000, 4)


def test_second_call_is_served_from_memory(segment: AudioSegment) -> None:
    encoder = CountingEncoder()
    extractor = AudioFeatureExtractor(make_tiny_spec(), auto_resample=False, encode_fn=encoder)
    assert extractor(segment) is extractor(AudioSegment(segment.path, display_path="otherwise"))
    assert encoder.calls == 1


def test_memory_budget_drops_the_least_recently_used(tmp_path: Path) -> None:
    segments = [AudioSegment(write_tone(tmp_path / f"{n}.wav", hertz=200 + n)) for n in range(3)]
    encoder = CountingEncoder()
    size = 30 * 80 * 4  # bytes of one clip's features
    extractor = AudioFeatureExtractor(
        make_tiny_spec(), auto_resample=False, encode_fn=encoder, memory_bytes=2 * size
    )
    for each in segments:
        extractor(each)
    assert encoder.calls == 3
    extractor(segments[2]), extractor(segments[1])
    assert encoder.calls == 3, "the two newest are still there"
    extractor(segments[0])
    assert encoder.calls == 4, "the oldest had gone"


def test_segment_larger_than_the_budget_is_extracted(segment: AudioSegment) -> None:
    encoder = CountingEncoder()
    extractor = AudioFeatureExtractor(
        make_tiny_spec(), auto_resample=False, encode_fn=encoder, memory_bytes=1
    )
    assert extractor(segment)[0].values.shape == (30, 80)


def test_second_run_is_served_from_disk(segment: AudioSegment, tmp_path: Path) -> None:
    first, second = CountingEncoder(), CountingEncoder()
    (one,) = extractor_with(make_tiny_spec(), first, tmp_path)(segment)
    (other,) = extractor_with(make_tiny_spec(), second, tmp_path)(segment)
    assert (first.calls, second.calls) == (1, 0)
    assert torch.equal(one.values, other.values)
    assert (one.num_samples, one.num_tokens, one.is_encoded) == (
        other.num_samples,
        other.num_tokens,
        other.is_encoded,
    )


def test_copies_of_a_recording_share_cached_features(segment: AudioSegment, tmp_path: Path) -> None:
    encoder = CountingEncoder()
    copy = tmp_path / "b.wav"
    copy.write_bytes(segment.path.read_bytes())
    extractor = extractor_with(make_tiny_spec(), encoder, tmp_path)
    extractor(segment), extractor(AudioSegment(copy))
    assert encoder.calls == 1


def test_changed_file_is_encoded_again(segment: AudioSegment, tmp_path: Path) -> None:
    extractor_with(make_tiny_spec(), CountingEncoder(), tmp_path)(segment)
    write_tone(segment.path, hertz=900)
    encoder = CountingEncoder()
    (window,) = extractor_with(make_tiny_spec(), encoder, tmp_path)(segment)
    assert encoder.calls == 1
    mel = AudioFeatureExtractor(make_tiny_spec(), auto_resample=False)(segment)[0].values
    assert torch.equal(window.values, mel.T[::2])


@pytest.mark.parametrize(
    "changes",
    [
        {"revision": "other"},
        {"key": "other"},
        {"audio_spec": replace(make_tiny_spec().audio_spec, window_samples=16_000)},
        {"num_mel_bins": 128},
        {"encoder_input": "wave"},
        {"audio_spec": replace(make_tiny_spec().audio_spec, pad_mode="counted")},
        {"composition": make_composition("last")},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_features_of_another_model_are_not_reused(
    segment: AudioSegment, tmp_path: Path, changes: dict
) -> None:
    extractor_with(make_tiny_spec(), CountingEncoder(1.0), tmp_path)(segment)
    encoder = CountingEncoder(2.0)
    extractor_with(replace(make_tiny_spec(), **changes), encoder, tmp_path)(segment)
    assert encoder.calls == 1


def test_features_of_another_encoder_layer_are_not_reused(
    segment: AudioSegment, tmp_path: Path
) -> None:
    encoder = CountingEncoder()
    for layer in ("last", 1, 2, "weighted_sum", "last"):
        extractor_with(
            replace(make_tiny_spec(), composition=make_composition(layer)), encoder, tmp_path
        )(segment)
    assert encoder.calls == 4


def test_features_of_another_span_are_not_reused(segment: AudioSegment, tmp_path: Path) -> None:
    encoder = CountingEncoder()
    extractor = extractor_with(make_tiny_spec(), encoder, tmp_path)
    for span in [(None, None), (0.0, 0.3), (0.3, None), (None, 0.3)]:
        extractor(AudioSegment(segment.path, *span))
    assert encoder.calls == 4


def test_recordings_of_one_archive_have_their_own_features(
    segment: AudioSegment, tmp_path: Path
) -> None:
    """Each is known by its own bytes: a copy in a file is not encoded again, another one is."""
    other = write_tone(tmp_path / "b.wav", hertz=900).read_bytes()
    mine = segment.path.read_bytes()
    (tmp_path / "both").write_bytes(mine + other)
    inside = [
        AudioSegment(tmp_path / "both", byte_range=(0, len(mine))),
        AudioSegment(tmp_path / "both", byte_range=(len(mine), len(other))),
    ]
    encoder = CountingEncoder()
    extractor = extractor_with(make_tiny_spec(), encoder, tmp_path)
    one, two = (extractor(each)[0].values for each in inside)
    assert encoder.calls == 2 and not torch.equal(one, two)
    assert torch.equal(extractor(segment)[0].values, one) and encoder.calls == 2


@pytest.mark.parametrize(
    "num_bytes", [0, 1, 7, 100, -1], ids=lambda num_bytes: f"{num_bytes}_bytes"
)
def test_truncated_cache_file_is_computed_again(
    segment: AudioSegment, tmp_path: Path, num_bytes: int
) -> None:
    (one,) = extractor_with(make_tiny_spec(), CountingEncoder(), tmp_path)(segment)
    (file,) = (tmp_path / "features").iterdir()
    file.write_bytes(file.read_bytes()[:num_bytes])
    encoder = CountingEncoder()
    (again,) = extractor_with(make_tiny_spec(), encoder, tmp_path)(segment)
    assert encoder.calls == 1 and torch.equal(one.values, again.values)
    third = CountingEncoder()
    extractor_with(make_tiny_spec(), third, tmp_path)(segment)
    assert third.calls == 0, "it was put right"


def test_unwritable_cache_is_a_store_error(segment: AudioSegment, tmp_path: Path) -> None:
    (tmp_path / "features").write_text("in the way")
    with pytest.raises(StoreError, match="features"):
        extractor_with(make_tiny_spec(), CountingEncoder(), tmp_path)(segment)


def test_no_temporary_files_stay_in_the_cache(segment: AudioSegment, tmp_path: Path) -> None:
    extractor_with(make_tiny_spec(), CountingEncoder(), tmp_path)(segment)
    names = [path.name for path in (tmp_path / "features").iterdir()]
    assert len(names) == 1 and names[0].endswith(".safetensors")


def test_other_sample_rate_is_refused_or_resampled(tmp_path: Path) -> None:
    segment = AudioSegment(write_tone(tmp_path / "a.wav", hertz=300, sample_rate=8000))
    with pytest.raises(DataError, match="8000 Hz"):
        AudioFeatureExtractor(make_tiny_spec(), auto_resample=False)(segment)
    (window,) = AudioFeatureExtractor(make_tiny_spec(), auto_resample=True)(segment)
    assert abs(window.num_samples - 9600) <= 1


def test_missing_recording_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gone.wav"):
        AudioFeatureExtractor(make_tiny_spec(), auto_resample=False)(
            AudioSegment(tmp_path / "gone.wav")
        )


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_cached_features_equal_encoding_in_training_mode(tmp_path: Path, dropout: float) -> None:
    """Bit for bit, from memory and from disk, in the midst of training."""
    config = make_tiny_config()
    config["encoders"][0]["config"]["dropout"] = dropout
    spec = read_model_spec(write_tiny_model(tmp_path / "base", config=config))
    model = load_base_model(spec).requires_grad_(False)
    model.projector.requires_grad_(True)
    segments = [
        AudioSegment(write_tone(tmp_path / f"{n}.wav", hertz=200 + n, seconds=length / SAMPLE_RATE))
        for n, length in enumerate((1600, 8001, 9600, 32_000))
    ]
    mels = [AudioFeatureExtractor(spec, auto_resample=False)(segment)[0] for segment in segments]
    expected = [model.encode_single(mel.values, mel.num_frames) for mel in mels]
    model.train()
    extractor = extractor_with(spec, model.encode_single, tmp_path)
    again = extractor_with(spec, CountingEncoder(), tmp_path)
    for segment, want in zip(segments, expected, strict=True):
        assert torch.equal(extractor(segment)[0].values, want)
        assert torch.equal(again(segment)[0].values, want)
        samples = again(segment)[0].num_samples
        assert want.shape == (count_encoder_frames(samples, spec.audio_spec), 32)
        assert again(segment)[0].num_tokens == count_audio_tokens(samples, spec.audio_spec)


def test_trainable_encoder_applies_dropout() -> None:
    """The guard of the test above: dropout is on where the encoder is trained."""
    from dlm.models.composed import ComposedAudioLM
    from tests.tiny_models import make_tiny_tokenizer

    config = make_tiny_config()
    config["encoders"][0]["config"]["dropout"] = 0.3
    model = ComposedAudioLM(make_tiny_spec(), config, make_tiny_tokenizer()).train()
    mel = torch.from_numpy(np.random.default_rng(0).normal(size=(80, 50)).astype("f"))
    assert not torch.equal(model.encode_single(mel, 50), model.encode_single(mel, 50))
    assert not any(each.training for each in model.eval().modules())


def extractor_with(spec: ModelSpec, encoder: EncodeFn, folder: Path) -> AudioFeatureExtractor:
    return AudioFeatureExtractor(
        spec, auto_resample=False, encode_fn=encoder, cache_dir=folder / "features"
    )


def test_long_segment_is_encoded_window_by_window(tmp_path: Path) -> None:
    """Its tokens stand one after the other; a span of it cut to a window has the same features."""
    spec = replace(make_tiny_spec(), mel_before_chunking=False)
    segment = AudioSegment(write_tone(tmp_path / "a.wav", hertz=300, seconds=4.5))
    extractor = AudioFeatureExtractor(spec, auto_resample=False)
    windows = extractor(segment)
    assert [each.num_samples for each in windows] == [32_000, 32_000, 8_000]
    assert (
        sum(each.num_tokens for each in windows)
        == count_audio_tokens(72_000, spec.audio_spec)
        == 25 + 25 + 7
    )
    for number, each in enumerate(windows):
        (alone,) = extractor(AudioSegment(segment.path, 2.0 * number, min(2.0 * number + 2, 4.5)))
        assert torch.equal(each.values, alone.values)
    whole = AudioFeatureExtractor(make_tiny_spec(), auto_resample=False)(segment)
    assert [each.values.shape[1] for each in whole] == [200, 200, 50]
    first = AudioFeatureExtractor(spec, auto_resample=False, max_windows=1)(segment)
    assert [each.num_samples for each in first] == [32_000]


def test_windows_of_a_long_segment_are_read_from_disk(tmp_path: Path) -> None:
    segment = AudioSegment(write_tone(tmp_path / "a.wav", hertz=300, seconds=4.5))
    first, second = CountingEncoder(), CountingEncoder()
    ones = extractor_with(make_tiny_spec(), first, tmp_path)(segment)
    others = extractor_with(make_tiny_spec(), second, tmp_path)(segment)
    assert (first.calls, second.calls) == (3, 0)
    for one, other in zip(ones, others, strict=True):
        assert torch.equal(one.values, other.values)
        assert (one.num_samples, one.num_tokens, one.num_frames) == (
            other.num_samples,
            other.num_tokens,
            other.num_frames,
        )


def test_waveform_encoder_gets_the_samples(segment: AudioSegment) -> None:
    spec = make_waveform_spec()
    (window,) = AudioFeatureExtractor(spec, auto_resample=False)(segment)
    samples = load_audio(segment, sample_rate=SAMPLE_RATE, resample=False)
    assert window.values.dtype == torch.float32
    assert torch.equal(window.values, torch.from_numpy(samples)[None])
    assert window.num_frames == window.num_samples == 9600 and not window.is_encoded
    assert (
        window.num_tokens == count_audio_tokens(9600, spec.audio_spec) == 8
    )  # 29 frames of 320 samples


def test_short_waveform_is_padded_to_one_frame(tmp_path: Path) -> None:
    short = AudioSegment(write_tone(tmp_path / "a.wav", hertz=300, seconds=0.01))
    (window,) = AudioFeatureExtractor(make_waveform_spec(), auto_resample=False)(short)
    assert window.values.shape == (1, 400) and window.num_frames == window.num_samples == 400
    assert window.num_tokens == 1
    assert window.values[0, :160].any() and not window.values[0, 160:].any()


def test_long_waveform_is_cut_into_windows(tmp_path: Path) -> None:
    segment = AudioSegment(write_tone(tmp_path / "a.wav", hertz=300, seconds=4.5))
    samples = torch.from_numpy(load_audio(segment, sample_rate=SAMPLE_RATE, resample=False))
    windows = AudioFeatureExtractor(make_waveform_spec(), auto_resample=False)(segment)
    assert [each.num_frames for each in windows] == [32_000, 32_000, 8_000]
    assert torch.equal(torch.cat([each.values[0] for each in windows]), samples)
    (first,) = AudioFeatureExtractor(make_waveform_spec(), auto_resample=False, max_windows=1)(
        segment
    )
    assert torch.equal(first.values[0], samples[:32_000])
    whole = AudioFeatureExtractor(make_waveform_spec(pad_mode="counted"), auto_resample=False)(
        segment
    )
    assert (
        [each.values.shape[1] for each in whole]
        == [each.num_frames for each in whole]
        == [32_000] * 3
    )
    assert not whole[2].values[0, 8_000:].any()
    assert sum(each.num_tokens for each in whole) == count_audio_tokens(
        72_000, make_waveform_spec(pad_mode="counted").audio_spec
    )


def test_waveforms_of_a_batch_are_padded_with_silence(tmp_path: Path) -> None:
    segments = [
        AudioSegment(write_tone(tmp_path / f"{n}.wav", hertz=300 + n, seconds=n / 4))
        for n in (1, 2, 3)
    ]
    extractor = AudioFeatureExtractor(make_waveform_spec(), auto_resample=False)
    batch = collate(
        [EncodedExample((5, 9, 5), (5, 9, 5), (each,), "x") for each in segments],
        extractor,
        PaddingSpec(0, 9),
    )
    assert batch.audio_features is not None and batch.audio_features.shape == (3, 1, 12_000)
    assert batch.audio_lengths.tolist() == [4000, 8000, 12_000]
    assert not batch.audio_features[0, 0, 4000:].any()


def test_padding_to_the_window_equals_whisper_features(tmp_path: Path) -> None:
    """With pad: 30s the mel, and all that follows, are those of WhisperFeatureExtractor."""
    spec = read_model_spec(write_tiny_model(tmp_path / "base"))
    spec = replace(spec, source=str(tmp_path / "base"), mel_before_chunking=False)
    spec = replace(spec, audio_spec=replace(spec.audio_spec, pad_mode="counted"))
    model = load_base_model(spec).requires_grad_(False)
    segment = AudioSegment(write_tone(tmp_path / "a.wav", hertz=300, seconds=0.7))
    (window,) = AudioFeatureExtractor(spec, auto_resample=False, encode_fn=model.encode_single)(
        segment
    )
    samples = load_audio(segment, sample_rate=SAMPLE_RATE, resample=False)
    extractor = WhisperFeatureExtractor(80, chunk_length=2)
    mel = extractor(samples, sampling_rate=SAMPLE_RATE, return_tensors="pt")["input_features"]
    theirs = model.encoder(mel).last_hidden_state[0]
    assert window.values.shape == (100, 32) and window.num_tokens == 25
    assert torch.allclose(window.values, theirs, atol=2e-5)
    (wave,) = AudioFeatureExtractor(
        replace(spec, encoder_input="wave", audio_spec=_samples(spec)), auto_resample=False
    )(segment)
    ours = run_encoder(
        model.encoder,
        wave.values[None],
        torch.tensor([wave.num_frames]),
        layer="last",
        encoder_input="wave",
    )
    assert torch.allclose(ours.hidden_states[0], theirs, atol=2e-5)


def _samples(spec: ModelSpec) -> AudioTokenizerSpec:
    """The same rate, for an encoder that takes waveforms."""
    strides = spec.audio_spec
    return replace(
        strides, hop_length=1, encoder_stride=strides.hop_length * strides.encoder_stride
    )
