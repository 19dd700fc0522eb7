"""The ear hears each sound once: memory, then disk, and never what is stale."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import WhisperFeatureExtractor

from dlm.batches.chat import Row
from dlm.batches.collate import Padding, collate
from dlm.clips.audio import decode
from dlm.clips.clip import Sound
from dlm.errors import ClipError, StoreError
from dlm.features.ear import Ear
from dlm.model.encoder import hear
from dlm.model.load import load_base
from dlm.plan.bases import Base, Layer, Part, Recipe, read_facts
from dlm.plan.frames import Strides, encoder_frames, tokens
from tests.tiny import RATE, make_tiny, tiny_base, tiny_config, tone
from tests.waves import wave_strides

Hear = Callable[[torch.Tensor, int], torch.Tensor]


def recipe(layer: Layer) -> Recipe:
    """A recipe whose encoder is heard at `layer`."""
    encoder = Part("hf:org/name", "1" * 40, {"model_type": "wav2vec2"}, layer)
    return Recipe((encoder,), {"kind": "stack"}, Part("", None, {"model_type": "qwen3"}))


def wave_base(**strides: object) -> Base:
    """A base that takes waves, in windows of two seconds."""
    fast = replace(wave_strides("wav2vec2"), window=2 * RATE, projector=4, **strides)
    return replace(tiny_base(), ear="wave", bins=0, strides=fast)


class Counting:
    """A frozen encoder that counts what it is asked to hear."""

    def __init__(self, factor: float = 1.0) -> None:
        self.calls, self.factor = 0, factor

    def __call__(self, mel: torch.Tensor, frames: int) -> torch.Tensor:
        self.calls += 1
        return mel.T[::2] * self.factor


@pytest.fixture
def sound(tmp_path: Path) -> Sound:
    return Sound(tone(tmp_path / "a.wav", hertz=300))


def test_a_sound_without_an_encoder_is_its_mel(sound: Sound) -> None:
    (heard,) = Ear(tiny_base(), auto_resample=False)(sound)
    assert heard.values.shape == (80, 60) and not heard.encoded
    assert (heard.samples, heard.tokens) == (9600, 8)


def test_a_span_is_heard_alone(sound: Sound) -> None:
    (heard,) = Ear(tiny_base(), auto_resample=False)(Sound(sound.path, 0.1, 0.35))
    assert (heard.samples, heard.tokens) == (4000, 4)


def test_memory_serves_the_second_time(sound: Sound) -> None:
    hear = Counting()
    ear = Ear(tiny_base(), auto_resample=False, hear=hear)
    assert ear(sound) is ear(Sound(sound.path, written="otherwise"))
    assert hear.calls == 1


def test_the_memory_budget_lets_go_of_the_oldest(tmp_path: Path) -> None:
    sounds = [Sound(tone(tmp_path / f"{n}.wav", hertz=200 + n)) for n in range(3)]
    hear = Counting()
    size = 30 * 80 * 4  # bytes of one clip's features
    ear = Ear(tiny_base(), auto_resample=False, hear=hear, memory_bytes=2 * size)
    for each in sounds:
        ear(each)
    assert hear.calls == 3
    ear(sounds[2]), ear(sounds[1])
    assert hear.calls == 3, "the two newest are still there"
    ear(sounds[0])
    assert hear.calls == 4, "the oldest had gone"


def test_a_sound_larger_than_the_budget_is_still_heard(sound: Sound) -> None:
    hear = Counting()
    ear = Ear(tiny_base(), auto_resample=False, hear=hear, memory_bytes=1)
    assert ear(sound)[0].values.shape == (30, 80)


def test_disk_serves_the_second_run(sound: Sound, tmp_path: Path) -> None:
    first, second = Counting(), Counting()
    (one,) = ear_of(tiny_base(), first, tmp_path)(sound)
    (other,) = ear_of(tiny_base(), second, tmp_path)(sound)
    assert (first.calls, second.calls) == (1, 0)
    assert torch.equal(one.values, other.values)
    assert (one.samples, one.tokens, one.encoded) == (other.samples, other.tokens, other.encoded)


def test_a_copy_of_a_recording_is_not_heard_again(sound: Sound, tmp_path: Path) -> None:
    hear = Counting()
    copy = tmp_path / "b.wav"
    copy.write_bytes(sound.path.read_bytes())
    ear = ear_of(tiny_base(), hear, tmp_path)
    ear(sound), ear(Sound(copy))
    assert hear.calls == 1


def test_a_changed_file_is_heard_again(sound: Sound, tmp_path: Path) -> None:
    ear_of(tiny_base(), Counting(), tmp_path)(sound)
    tone(sound.path, hertz=900)
    hear = Counting()
    (heard,) = ear_of(tiny_base(), hear, tmp_path)(sound)
    assert hear.calls == 1
    mel = Ear(tiny_base(), auto_resample=False)(sound)[0].values
    assert torch.equal(heard.values, mel.T[::2])


@pytest.mark.parametrize(
    "changes",
    [
        {"revision": "other"},
        {"key": "other"},
        {"strides": replace(tiny_base().strides, window=16_000)},
        {"bins": 128},
        {"ear": "wave"},
        {"strides": replace(tiny_base().strides, fill="counted")},
        {"recipe": recipe("last")},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_another_base_never_gets_these_features(
    sound: Sound, tmp_path: Path, changes: dict
) -> None:
    ear_of(tiny_base(), Counting(1.0), tmp_path)(sound)
    hear = Counting(2.0)
    ear_of(replace(tiny_base(), **changes), hear, tmp_path)(sound)
    assert hear.calls == 1


def test_another_layer_is_heard_afresh(sound: Sound, tmp_path: Path) -> None:
    hear = Counting()
    for layer in ("last", 1, 2, "weighted_sum", "last"):
        ear_of(replace(tiny_base(), recipe=recipe(layer)), hear, tmp_path)(sound)
    assert hear.calls == 4


def test_another_span_never_gets_these_features(sound: Sound, tmp_path: Path) -> None:
    hear = Counting()
    ear = ear_of(tiny_base(), hear, tmp_path)
    for span in [(None, None), (0.0, 0.3), (0.3, None), (None, 0.3)]:
        ear(Sound(sound.path, *span))
    assert hear.calls == 4


def test_recordings_in_one_archive_are_heard_apart(sound: Sound, tmp_path: Path) -> None:
    """Each is known by its own bytes: a copy in a file is not heard again, another one is."""
    other = tone(tmp_path / "b.wav", hertz=900).read_bytes()
    mine = sound.path.read_bytes()
    (tmp_path / "both").write_bytes(mine + other)
    inside = [
        Sound(tmp_path / "both", inside=(0, len(mine))),
        Sound(tmp_path / "both", inside=(len(mine), len(other))),
    ]
    hear = Counting()
    ear = ear_of(tiny_base(), hear, tmp_path)
    one, two = (ear(each)[0].values for each in inside)
    assert hear.calls == 2 and not torch.equal(one, two)
    assert torch.equal(ear(sound)[0].values, one) and hear.calls == 2


@pytest.mark.parametrize("keep", [0, 1, 7, 100, -1], ids=lambda keep: f"{keep}_bytes")
def test_half_a_cache_file_is_made_again(sound: Sound, tmp_path: Path, keep: int) -> None:
    (one,) = ear_of(tiny_base(), Counting(), tmp_path)(sound)
    (file,) = (tmp_path / "features").iterdir()
    file.write_bytes(file.read_bytes()[:keep])
    hear = Counting()
    (again,) = ear_of(tiny_base(), hear, tmp_path)(sound)
    assert hear.calls == 1 and torch.equal(one.values, again.values)
    third = Counting()
    ear_of(tiny_base(), third, tmp_path)(sound)
    assert third.calls == 0, "it was put right"


def test_a_cache_that_cannot_be_written_is_one_line(sound: Sound, tmp_path: Path) -> None:
    (tmp_path / "features").write_text("in the way")
    with pytest.raises(StoreError, match="features"):
        ear_of(tiny_base(), Counting(), tmp_path)(sound)


def test_nothing_unfinished_stays_in_the_cache(sound: Sound, tmp_path: Path) -> None:
    ear_of(tiny_base(), Counting(), tmp_path)(sound)
    names = [path.name for path in (tmp_path / "features").iterdir()]
    assert len(names) == 1 and names[0].endswith(".safetensors")


def test_another_rate_is_refused_or_converted(tmp_path: Path) -> None:
    sound = Sound(tone(tmp_path / "a.wav", hertz=300, rate=8000))
    with pytest.raises(ClipError, match="8000 Hz"):
        Ear(tiny_base(), auto_resample=False)(sound)
    (heard,) = Ear(tiny_base(), auto_resample=True)(sound)
    assert abs(heard.samples - 9600) <= 1


def test_a_file_that_goes_away_is_named(tmp_path: Path) -> None:
    with pytest.raises(ClipError, match="gone.wav"):
        Ear(tiny_base(), auto_resample=False)(Sound(tmp_path / "gone.wav"))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_frozen_features_equal_hearing_afresh(tmp_path: Path, dropout: float) -> None:
    """Bit for bit, from memory and from disk, in the midst of training."""
    config = tiny_config()
    config["encoders"][0]["config"]["dropout"] = dropout
    base = read_facts(make_tiny(tmp_path / "base", config=config))
    model = load_base(base).requires_grad_(False)
    model.projector.requires_grad_(True)
    sounds = [
        Sound(tone(tmp_path / f"{n}.wav", hertz=200 + n, seconds=length / RATE))
        for n, length in enumerate((1600, 8001, 9600, 32_000))
    ]
    mels = [Ear(base, auto_resample=False)(sound)[0] for sound in sounds]
    expected = [model.hear_one(mel.values, mel.frames) for mel in mels]
    model.train()
    ear = ear_of(base, model.hear_one, tmp_path)
    again = ear_of(base, Counting(), tmp_path)
    for sound, want in zip(sounds, expected, strict=True):
        assert torch.equal(ear(sound)[0].values, want)
        assert torch.equal(again(sound)[0].values, want)
        samples = again(sound)[0].samples
        assert want.shape == (encoder_frames(samples, base.strides), 32)
        assert again(sound)[0].tokens == tokens(samples, base.strides)


def test_an_encoder_that_learns_does_drop() -> None:
    """The guard of the test above: dropout is on where the encoder learns."""
    from dlm.model.stitched import Stitched
    from tests.tiny import tiny_tokenizer

    config = tiny_config()
    config["encoders"][0]["config"]["dropout"] = 0.3
    model = Stitched(tiny_base(), config, tiny_tokenizer()).train()
    mel = torch.from_numpy(np.random.default_rng(0).normal(size=(80, 50)).astype("f"))
    assert not torch.equal(model.hear_one(mel, 50), model.hear_one(mel, 50))
    assert not any(each.training for each in model.eval().modules())


def ear_of(base: Base, hear: Hear, folder: Path) -> Ear:
    return Ear(base, auto_resample=False, hear=hear, folder=folder / "features")


def test_a_long_sound_is_heard_window_by_window(tmp_path: Path) -> None:
    """Its tokens stand one after the other; a span of it cut to a window hears the same."""
    base = replace(tiny_base(), whole_mel=False)
    sound = Sound(tone(tmp_path / "a.wav", hertz=300, seconds=4.5))
    ear = Ear(base, auto_resample=False)
    heard = ear(sound)
    assert [each.samples for each in heard] == [32_000, 32_000, 8_000]
    assert sum(each.tokens for each in heard) == tokens(72_000, base.strides) == 25 + 25 + 7
    for number, each in enumerate(heard):
        (alone,) = ear(Sound(sound.path, 2.0 * number, min(2.0 * number + 2, 4.5)))
        assert torch.equal(each.values, alone.values)
    whole = Ear(tiny_base(), auto_resample=False)(sound)
    assert [each.values.shape[1] for each in whole] == [200, 200, 50]
    first = Ear(base, auto_resample=False, most_windows=1)(sound)
    assert [each.samples for each in first] == [32_000]


def test_long_sounds_come_back_from_disk(tmp_path: Path) -> None:
    sound = Sound(tone(tmp_path / "a.wav", hertz=300, seconds=4.5))
    first, second = Counting(), Counting()
    ones = ear_of(tiny_base(), first, tmp_path)(sound)
    others = ear_of(tiny_base(), second, tmp_path)(sound)
    assert (first.calls, second.calls) == (3, 0)
    for one, other in zip(ones, others, strict=True):
        assert torch.equal(one.values, other.values)
        assert (one.samples, one.tokens, one.frames) == (other.samples, other.tokens, other.frames)


def test_a_wave_is_heard_as_it_is(sound: Sound) -> None:
    base = wave_base()
    (heard,) = Ear(base, auto_resample=False)(sound)
    samples = decode(sound, rate=RATE, resample=False)
    assert heard.values.dtype == torch.float32
    assert torch.equal(heard.values, torch.from_numpy(samples)[None])
    assert heard.frames == heard.samples == 9600 and not heard.encoded
    assert heard.tokens == tokens(9600, base.strides) == 8  # 29 frames of 320 samples


def test_a_short_wave_is_completed_to_one_frame(tmp_path: Path) -> None:
    short = Sound(tone(tmp_path / "a.wav", hertz=300, seconds=0.01))
    (heard,) = Ear(wave_base(), auto_resample=False)(short)
    assert heard.values.shape == (1, 400) and heard.frames == heard.samples == 400
    assert heard.tokens == 1
    assert heard.values[0, :160].any() and not heard.values[0, 160:].any()


def test_a_long_wave_is_heard_window_by_window(tmp_path: Path) -> None:
    sound = Sound(tone(tmp_path / "a.wav", hertz=300, seconds=4.5))
    samples = torch.from_numpy(decode(sound, rate=RATE, resample=False))
    heard = Ear(wave_base(), auto_resample=False)(sound)
    assert [each.frames for each in heard] == [32_000, 32_000, 8_000]
    assert torch.equal(torch.cat([each.values[0] for each in heard]), samples)
    (first,) = Ear(wave_base(), auto_resample=False, most_windows=1)(sound)
    assert torch.equal(first.values[0], samples[:32_000])
    whole = Ear(wave_base(fill="counted"), auto_resample=False)(sound)
    assert (
        [each.values.shape[1] for each in whole] == [each.frames for each in whole] == [32_000] * 3
    )
    assert not whole[2].values[0, 8_000:].any()
    assert sum(each.tokens for each in whole) == tokens(72_000, wave_base(fill="counted").strides)


def test_waves_of_a_batch_are_padded_with_silence(tmp_path: Path) -> None:
    sounds = [Sound(tone(tmp_path / f"{n}.wav", hertz=300 + n, seconds=n / 4)) for n in (1, 2, 3)]
    ear = Ear(wave_base(), auto_resample=False)
    batch = collate(
        [Row((5, 9, 5), (5, 9, 5), (each,), "x") for each in sounds], ear, Padding(0, 9)
    )
    assert batch.sounds is not None and batch.sounds.shape == (3, 1, 12_000)
    assert batch.frames.tolist() == [4000, 8000, 12_000]
    assert not batch.sounds[0, 0, 4000:].any()


def test_padded_to_its_window_a_clip_is_what_whisper_heard(tmp_path: Path) -> None:
    """With pad: 30s the mel, and all that follows, are those of WhisperFeatureExtractor."""
    base = read_facts(make_tiny(tmp_path / "base"))
    base = replace(base, source=str(tmp_path / "base"), whole_mel=False)
    base = replace(base, strides=replace(base.strides, fill="counted"))
    model = load_base(base).requires_grad_(False)
    sound = Sound(tone(tmp_path / "a.wav", hertz=300, seconds=0.7))
    (heard,) = Ear(base, auto_resample=False, hear=model.hear_one)(sound)
    samples = decode(sound, rate=RATE, resample=False)
    extractor = WhisperFeatureExtractor(80, chunk_length=2)
    mel = extractor(samples, sampling_rate=RATE, return_tensors="pt")["input_features"]
    theirs = model.encoder(mel).last_hidden_state[0]
    assert heard.values.shape == (100, 32) and heard.tokens == 25
    assert torch.allclose(heard.values, theirs, atol=2e-5)
    (wave,) = Ear(replace(base, ear="wave", strides=_samples(base)), auto_resample=False)(sound)
    ours = hear(
        model.encoder, wave.values[None], torch.tensor([wave.frames]), layer="last", takes="wave"
    )
    assert torch.allclose(ours.values[0], theirs, atol=2e-5)


def _samples(base: Base) -> Strides:
    """The same rate, for a base that is given waves."""
    strides = base.strides
    return replace(strides, hop=1, encoder=strides.hop * strides.encoder)
