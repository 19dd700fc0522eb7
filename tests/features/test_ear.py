"""The ear hears each sound once: memory, then disk, and never what is stale."""

from collections.abc import Callable
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
from dlm.features.extractor import AudioFeatureExtractor
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
from tests.tiny import RATE, make_tiny, tiny_base, tiny_config, tone
from tests.waves import wave_strides

Hear = Callable[[torch.Tensor, int], torch.Tensor]


def recipe(layer: LayerSelection) -> CompositionSpec:
    """A recipe whose encoder is heard at `layer`."""
    encoder = ComponentRef("hf:org/name", "1" * 40, {"model_type": "wav2vec2"}, layer)
    return CompositionSpec(
        (encoder,), {"kind": "stack"}, ComponentRef("", None, {"model_type": "qwen3"})
    )


def wave_base(**strides: object) -> ModelSpec:
    """A base that takes waves, in windows of two seconds."""
    fast = replace(wave_strides("wav2vec2"), window_samples=2 * RATE, projector_stride=4, **strides)
    return replace(tiny_base(), encoder_input="wave", num_mel_bins=0, audio_spec=fast)


class Counting:
    """A frozen encoder that counts what it is asked to hear."""

    def __init__(self, factor: float = 1.0) -> None:
        self.calls, self.factor = 0, factor

    def __call__(self, mel: torch.Tensor, frames: int) -> torch.Tensor:
        self.calls += 1
        return mel.T[::2] * self.factor


@pytest.fixture
def sound(tmp_path: Path) -> AudioSegment:
    return AudioSegment(tone(tmp_path / "a.wav", hertz=300))


def test_a_sound_without_an_encoder_is_its_mel(sound: AudioSegment) -> None:
    (heard,) = AudioFeatureExtractor(tiny_base(), auto_resample=False)(sound)
    assert heard.values.shape == (80, 60) and not heard.is_encoded
    assert (heard.num_samples, heard.num_tokens) == (9600, 8)


def test_a_span_is_heard_alone(sound: AudioSegment) -> None:
    (heard,) = AudioFeatureExtractor(tiny_base(), auto_resample=False)(
        AudioSegment(sound.path, 0.1, 0.35)
    )
    assert (heard.num_samples, heard.num_tokens) == (4000, 4)


def test_memory_serves_the_second_time(sound: AudioSegment) -> None:
    hear = Counting()
    ear = AudioFeatureExtractor(tiny_base(), auto_resample=False, encode_fn=hear)
    assert ear(sound) is ear(AudioSegment(sound.path, display_path="otherwise"))
    assert hear.calls == 1


def test_the_memory_budget_lets_go_of_the_oldest(tmp_path: Path) -> None:
    sounds = [AudioSegment(tone(tmp_path / f"{n}.wav", hertz=200 + n)) for n in range(3)]
    hear = Counting()
    size = 30 * 80 * 4  # bytes of one clip's features
    ear = AudioFeatureExtractor(
        tiny_base(), auto_resample=False, encode_fn=hear, memory_bytes=2 * size
    )
    for each in sounds:
        ear(each)
    assert hear.calls == 3
    ear(sounds[2]), ear(sounds[1])
    assert hear.calls == 3, "the two newest are still there"
    ear(sounds[0])
    assert hear.calls == 4, "the oldest had gone"


def test_a_sound_larger_than_the_budget_is_still_heard(sound: AudioSegment) -> None:
    hear = Counting()
    ear = AudioFeatureExtractor(tiny_base(), auto_resample=False, encode_fn=hear, memory_bytes=1)
    assert ear(sound)[0].values.shape == (30, 80)


def test_disk_serves_the_second_run(sound: AudioSegment, tmp_path: Path) -> None:
    first, second = Counting(), Counting()
    (one,) = ear_of(tiny_base(), first, tmp_path)(sound)
    (other,) = ear_of(tiny_base(), second, tmp_path)(sound)
    assert (first.calls, second.calls) == (1, 0)
    assert torch.equal(one.values, other.values)
    assert (one.num_samples, one.num_tokens, one.is_encoded) == (
        other.num_samples,
        other.num_tokens,
        other.is_encoded,
    )


def test_a_copy_of_a_recording_is_not_heard_again(sound: AudioSegment, tmp_path: Path) -> None:
    hear = Counting()
    copy = tmp_path / "b.wav"
    copy.write_bytes(sound.path.read_bytes())
    ear = ear_of(tiny_base(), hear, tmp_path)
    ear(sound), ear(AudioSegment(copy))
    assert hear.calls == 1


def test_a_changed_file_is_heard_again(sound: AudioSegment, tmp_path: Path) -> None:
    ear_of(tiny_base(), Counting(), tmp_path)(sound)
    tone(sound.path, hertz=900)
    hear = Counting()
    (heard,) = ear_of(tiny_base(), hear, tmp_path)(sound)
    assert hear.calls == 1
    mel = AudioFeatureExtractor(tiny_base(), auto_resample=False)(sound)[0].values
    assert torch.equal(heard.values, mel.T[::2])


@pytest.mark.parametrize(
    "changes",
    [
        {"revision": "other"},
        {"key": "other"},
        {"audio_spec": replace(tiny_base().audio_spec, window_samples=16_000)},
        {"num_mel_bins": 128},
        {"encoder_input": "wave"},
        {"audio_spec": replace(tiny_base().audio_spec, pad_mode="counted")},
        {"composition": recipe("last")},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_another_base_never_gets_these_features(
    sound: AudioSegment, tmp_path: Path, changes: dict
) -> None:
    ear_of(tiny_base(), Counting(1.0), tmp_path)(sound)
    hear = Counting(2.0)
    ear_of(replace(tiny_base(), **changes), hear, tmp_path)(sound)
    assert hear.calls == 1


def test_another_layer_is_heard_afresh(sound: AudioSegment, tmp_path: Path) -> None:
    hear = Counting()
    for layer in ("last", 1, 2, "weighted_sum", "last"):
        ear_of(replace(tiny_base(), composition=recipe(layer)), hear, tmp_path)(sound)
    assert hear.calls == 4


def test_another_span_never_gets_these_features(sound: AudioSegment, tmp_path: Path) -> None:
    hear = Counting()
    ear = ear_of(tiny_base(), hear, tmp_path)
    for span in [(None, None), (0.0, 0.3), (0.3, None), (None, 0.3)]:
        ear(AudioSegment(sound.path, *span))
    assert hear.calls == 4


def test_recordings_in_one_archive_are_heard_apart(sound: AudioSegment, tmp_path: Path) -> None:
    """Each is known by its own bytes: a copy in a file is not heard again, another one is."""
    other = tone(tmp_path / "b.wav", hertz=900).read_bytes()
    mine = sound.path.read_bytes()
    (tmp_path / "both").write_bytes(mine + other)
    inside = [
        AudioSegment(tmp_path / "both", byte_range=(0, len(mine))),
        AudioSegment(tmp_path / "both", byte_range=(len(mine), len(other))),
    ]
    hear = Counting()
    ear = ear_of(tiny_base(), hear, tmp_path)
    one, two = (ear(each)[0].values for each in inside)
    assert hear.calls == 2 and not torch.equal(one, two)
    assert torch.equal(ear(sound)[0].values, one) and hear.calls == 2


@pytest.mark.parametrize("keep", [0, 1, 7, 100, -1], ids=lambda keep: f"{keep}_bytes")
def test_half_a_cache_file_is_made_again(sound: AudioSegment, tmp_path: Path, keep: int) -> None:
    (one,) = ear_of(tiny_base(), Counting(), tmp_path)(sound)
    (file,) = (tmp_path / "features").iterdir()
    file.write_bytes(file.read_bytes()[:keep])
    hear = Counting()
    (again,) = ear_of(tiny_base(), hear, tmp_path)(sound)
    assert hear.calls == 1 and torch.equal(one.values, again.values)
    third = Counting()
    ear_of(tiny_base(), third, tmp_path)(sound)
    assert third.calls == 0, "it was put right"


def test_a_cache_that_cannot_be_written_is_one_line(sound: AudioSegment, tmp_path: Path) -> None:
    (tmp_path / "features").write_text("in the way")
    with pytest.raises(StoreError, match="features"):
        ear_of(tiny_base(), Counting(), tmp_path)(sound)


def test_nothing_unfinished_stays_in_the_cache(sound: AudioSegment, tmp_path: Path) -> None:
    ear_of(tiny_base(), Counting(), tmp_path)(sound)
    names = [path.name for path in (tmp_path / "features").iterdir()]
    assert len(names) == 1 and names[0].endswith(".safetensors")


def test_another_rate_is_refused_or_converted(tmp_path: Path) -> None:
    sound = AudioSegment(tone(tmp_path / "a.wav", hertz=300, rate=8000))
    with pytest.raises(DataError, match="8000 Hz"):
        AudioFeatureExtractor(tiny_base(), auto_resample=False)(sound)
    (heard,) = AudioFeatureExtractor(tiny_base(), auto_resample=True)(sound)
    assert abs(heard.num_samples - 9600) <= 1


def test_a_file_that_goes_away_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gone.wav"):
        AudioFeatureExtractor(tiny_base(), auto_resample=False)(AudioSegment(tmp_path / "gone.wav"))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_frozen_features_equal_hearing_afresh(tmp_path: Path, dropout: float) -> None:
    """Bit for bit, from memory and from disk, in the midst of training."""
    config = tiny_config()
    config["encoders"][0]["config"]["dropout"] = dropout
    base = read_model_spec(make_tiny(tmp_path / "base", config=config))
    model = load_base_model(base).requires_grad_(False)
    model.projector.requires_grad_(True)
    sounds = [
        AudioSegment(tone(tmp_path / f"{n}.wav", hertz=200 + n, seconds=length / RATE))
        for n, length in enumerate((1600, 8001, 9600, 32_000))
    ]
    mels = [AudioFeatureExtractor(base, auto_resample=False)(sound)[0] for sound in sounds]
    expected = [model.encode_single(mel.values, mel.num_frames) for mel in mels]
    model.train()
    ear = ear_of(base, model.encode_single, tmp_path)
    again = ear_of(base, Counting(), tmp_path)
    for sound, want in zip(sounds, expected, strict=True):
        assert torch.equal(ear(sound)[0].values, want)
        assert torch.equal(again(sound)[0].values, want)
        samples = again(sound)[0].num_samples
        assert want.shape == (count_encoder_frames(samples, base.audio_spec), 32)
        assert again(sound)[0].num_tokens == count_audio_tokens(samples, base.audio_spec)


def test_an_encoder_that_learns_does_drop() -> None:
    """The guard of the test above: dropout is on where the encoder learns."""
    from dlm.models.composed import ComposedAudioLM
    from tests.tiny import tiny_tokenizer

    config = tiny_config()
    config["encoders"][0]["config"]["dropout"] = 0.3
    model = ComposedAudioLM(tiny_base(), config, tiny_tokenizer()).train()
    mel = torch.from_numpy(np.random.default_rng(0).normal(size=(80, 50)).astype("f"))
    assert not torch.equal(model.encode_single(mel, 50), model.encode_single(mel, 50))
    assert not any(each.training for each in model.eval().modules())


def ear_of(base: ModelSpec, hear: Hear, folder: Path) -> AudioFeatureExtractor:
    return AudioFeatureExtractor(
        base, auto_resample=False, encode_fn=hear, cache_dir=folder / "features"
    )


def test_a_long_sound_is_heard_window_by_window(tmp_path: Path) -> None:
    """Its tokens stand one after the other; a span of it cut to a window hears the same."""
    base = replace(tiny_base(), mel_before_chunking=False)
    sound = AudioSegment(tone(tmp_path / "a.wav", hertz=300, seconds=4.5))
    ear = AudioFeatureExtractor(base, auto_resample=False)
    heard = ear(sound)
    assert [each.num_samples for each in heard] == [32_000, 32_000, 8_000]
    assert (
        sum(each.num_tokens for each in heard)
        == count_audio_tokens(72_000, base.audio_spec)
        == 25 + 25 + 7
    )
    for number, each in enumerate(heard):
        (alone,) = ear(AudioSegment(sound.path, 2.0 * number, min(2.0 * number + 2, 4.5)))
        assert torch.equal(each.values, alone.values)
    whole = AudioFeatureExtractor(tiny_base(), auto_resample=False)(sound)
    assert [each.values.shape[1] for each in whole] == [200, 200, 50]
    first = AudioFeatureExtractor(base, auto_resample=False, max_windows=1)(sound)
    assert [each.num_samples for each in first] == [32_000]


def test_long_sounds_come_back_from_disk(tmp_path: Path) -> None:
    sound = AudioSegment(tone(tmp_path / "a.wav", hertz=300, seconds=4.5))
    first, second = Counting(), Counting()
    ones = ear_of(tiny_base(), first, tmp_path)(sound)
    others = ear_of(tiny_base(), second, tmp_path)(sound)
    assert (first.calls, second.calls) == (3, 0)
    for one, other in zip(ones, others, strict=True):
        assert torch.equal(one.values, other.values)
        assert (one.num_samples, one.num_tokens, one.num_frames) == (
            other.num_samples,
            other.num_tokens,
            other.num_frames,
        )


def test_a_wave_is_heard_as_it_is(sound: AudioSegment) -> None:
    base = wave_base()
    (heard,) = AudioFeatureExtractor(base, auto_resample=False)(sound)
    samples = load_audio(sound, sample_rate=RATE, resample=False)
    assert heard.values.dtype == torch.float32
    assert torch.equal(heard.values, torch.from_numpy(samples)[None])
    assert heard.num_frames == heard.num_samples == 9600 and not heard.is_encoded
    assert (
        heard.num_tokens == count_audio_tokens(9600, base.audio_spec) == 8
    )  # 29 frames of 320 samples


def test_a_short_wave_is_completed_to_one_frame(tmp_path: Path) -> None:
    short = AudioSegment(tone(tmp_path / "a.wav", hertz=300, seconds=0.01))
    (heard,) = AudioFeatureExtractor(wave_base(), auto_resample=False)(short)
    assert heard.values.shape == (1, 400) and heard.num_frames == heard.num_samples == 400
    assert heard.num_tokens == 1
    assert heard.values[0, :160].any() and not heard.values[0, 160:].any()


def test_a_long_wave_is_heard_window_by_window(tmp_path: Path) -> None:
    sound = AudioSegment(tone(tmp_path / "a.wav", hertz=300, seconds=4.5))
    samples = torch.from_numpy(load_audio(sound, sample_rate=RATE, resample=False))
    heard = AudioFeatureExtractor(wave_base(), auto_resample=False)(sound)
    assert [each.num_frames for each in heard] == [32_000, 32_000, 8_000]
    assert torch.equal(torch.cat([each.values[0] for each in heard]), samples)
    (first,) = AudioFeatureExtractor(wave_base(), auto_resample=False, max_windows=1)(sound)
    assert torch.equal(first.values[0], samples[:32_000])
    whole = AudioFeatureExtractor(wave_base(pad_mode="counted"), auto_resample=False)(sound)
    assert (
        [each.values.shape[1] for each in whole]
        == [each.num_frames for each in whole]
        == [32_000] * 3
    )
    assert not whole[2].values[0, 8_000:].any()
    assert sum(each.num_tokens for each in whole) == count_audio_tokens(
        72_000, wave_base(pad_mode="counted").audio_spec
    )


def test_waves_of_a_batch_are_padded_with_silence(tmp_path: Path) -> None:
    sounds = [
        AudioSegment(tone(tmp_path / f"{n}.wav", hertz=300 + n, seconds=n / 4)) for n in (1, 2, 3)
    ]
    ear = AudioFeatureExtractor(wave_base(), auto_resample=False)
    batch = collate(
        [EncodedExample((5, 9, 5), (5, 9, 5), (each,), "x") for each in sounds],
        ear,
        PaddingSpec(0, 9),
    )
    assert batch.audio_features is not None and batch.audio_features.shape == (3, 1, 12_000)
    assert batch.audio_lengths.tolist() == [4000, 8000, 12_000]
    assert not batch.audio_features[0, 0, 4000:].any()


def test_padded_to_its_window_a_clip_is_what_whisper_heard(tmp_path: Path) -> None:
    """With pad: 30s the mel, and all that follows, are those of WhisperFeatureExtractor."""
    base = read_model_spec(make_tiny(tmp_path / "base"))
    base = replace(base, source=str(tmp_path / "base"), mel_before_chunking=False)
    base = replace(base, audio_spec=replace(base.audio_spec, pad_mode="counted"))
    model = load_base_model(base).requires_grad_(False)
    sound = AudioSegment(tone(tmp_path / "a.wav", hertz=300, seconds=0.7))
    (heard,) = AudioFeatureExtractor(base, auto_resample=False, encode_fn=model.encode_single)(
        sound
    )
    samples = load_audio(sound, sample_rate=RATE, resample=False)
    extractor = WhisperFeatureExtractor(80, chunk_length=2)
    mel = extractor(samples, sampling_rate=RATE, return_tensors="pt")["input_features"]
    theirs = model.encoder(mel).last_hidden_state[0]
    assert heard.values.shape == (100, 32) and heard.num_tokens == 25
    assert torch.allclose(heard.values, theirs, atol=2e-5)
    (wave,) = AudioFeatureExtractor(
        replace(base, encoder_input="wave", audio_spec=_samples(base)), auto_resample=False
    )(sound)
    ours = run_encoder(
        model.encoder,
        wave.values[None],
        torch.tensor([wave.num_frames]),
        layer="last",
        encoder_input="wave",
    )
    assert torch.allclose(ours.hidden_states[0], theirs, atol=2e-5)


def _samples(base: ModelSpec) -> AudioTokenizerSpec:
    """The same rate, for a base that is given waves."""
    strides = base.audio_spec
    return replace(
        strides, hop_length=1, encoder_stride=strides.hop_length * strides.encoder_stride
    )
