"""Where somebody speaks: as the package that the weights come from says it, but in streaming."""

import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from dlm.data.audio_io import load_audio
from dlm.data.segmentation import find_vad_weights, split_on_silence
from dlm.data.types import AudioSegment
from dlm.errors import MissingExtra
from dlm.inference.vad import VAD_SAMPLE_RATE, VAD_WINDOW_SAMPLES, SileroVad
from tests.data.sounds import save

CLIPS = sorted((Path(__file__).parents[2] / "examples/voice/clips").glob("*.flac"))
NAMES = {
    "_model.stft.forward_basis_buffer": "stft_conv.weight",
    **{
        f"_model.encoder.{at}.reparam_conv.{kind}": f"conv{at + 1}.{kind}"
        for at in range(4)
        for kind in ("weight", "bias")
    },
    **{
        f"_model.decoder.rnn.{kind}": f"lstm.{kind}_l0"
        for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    },
    **{f"_model.decoder.decoder.2.{kind}": f"final_conv.{kind}" for kind in ("weight", "bias")},
}


@pytest.fixture(scope="module")
def voice() -> SileroVad:
    return SileroVad(find_vad_weights())


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[float, float]]]:
    """Two minutes with four sentences in a room that is not quiet, and where they are."""
    chance = np.random.default_rng(0)
    wave = chance.normal(0, 0.01, 120 * VAD_SAMPLE_RATE).astype(np.float32)
    spoken = []
    for start, clip in zip((5, 31, 58.5, 101), CLIPS, strict=False):
        said = soundfile.read(clip, dtype="float32")[0]
        first = round(start * VAD_SAMPLE_RATE)
        wave[first : first + len(said)] += said
        spoken.append((start, start + len(said) / VAD_SAMPLE_RATE))
    return save(tmp_path_factory.mktemp("talk") / "talk.wav", wave[:, None]), spoken


def test_it_judges_as_the_package_does(voice: SileroVad, talk) -> None:
    """With the weights of the package's own model, which are newer than those that lie beside."""
    import silero_vad

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of how it finds and reads its files
        theirs = silero_vad.load_silero_vad()
    ours = SileroVad(find_vad_weights())
    ours.load_state_dict({new: theirs.state_dict()[old] for old, new in NAMES.items()})
    wave = torch.from_numpy(
        load_audio(AudioSegment(talk[0]), sample_rate=VAD_SAMPLE_RATE, resample=False)
    )
    pieces = [
        wave[at : at + VAD_WINDOW_SAMPLES]
        for at in range(0, 70 * VAD_SAMPLE_RATE, VAD_WINDOW_SAMPLES)
    ]
    wanted = [
        theirs(torch.nn.functional.pad(each, (0, VAD_WINDOW_SAMPLES - len(each))), VAD_SAMPLE_RATE)
        for each in pieces
    ]
    found = ours.compute_speech_probs(AudioSegment(talk[0]))
    told = torch.cat(wanted)[:-1, 0].detach().numpy()
    np.testing.assert_allclose(found[: len(told)], told, atol=1e-4)


def test_a_recording_is_cut_where_nobody_speaks(voice: SileroVad, talk) -> None:
    """Where the loudest and the quietest are 20 dB apart, levels alone do not tell."""
    path, spoken = talk
    spans = split_on_silence(
        AudioSegment(path), max_seconds=12, max_merged_seconds=3, vad_fn=voice.detect_speech
    ).spans
    assert len(spans) == len(spoken)
    for (start, end), (first, last) in zip(spans, spoken, strict=True):
        assert start == pytest.approx(first, abs=0.6) and end == pytest.approx(last, abs=0.6)
    assert len(
        split_on_silence(AudioSegment(path), max_seconds=12, max_merged_seconds=3).spans
    ) > len(spoken)


def test_nobody_speaks(voice: SileroVad, tmp_path: Path) -> None:
    path = save(
        tmp_path / "a.wav", np.random.default_rng(0).normal(0, 0.1, (40 * VAD_SAMPLE_RATE, 1))
    )
    assert (
        split_on_silence(
            AudioSegment(path), max_seconds=12, max_merged_seconds=3, vad_fn=voice.detect_speech
        ).spans
        == ()
    )


def test_another_rate_is_judged_alike(voice: SileroVad, talk, tmp_path: Path) -> None:
    wave = soundfile.read(talk[0], dtype="float32")[0][: 40 * VAD_SAMPLE_RATE]
    path = save(tmp_path / "a.wav", np.repeat(wave, 3)[:, None], rate=3 * VAD_SAMPLE_RATE)
    plain, other = (voice.detect_speech(AudioSegment(each), 2000, 0.02) for each in (talk[0], path))
    assert (plain == other).mean() > 0.98


@pytest.mark.parametrize("more", [0, 1, 1411, 1412, 3000])
def test_what_is_left_over_of_a_minute(voice: SileroVad, tmp_path: Path, more: int) -> None:
    path = save(tmp_path / "a.wav", np.zeros((60 * 44100 + more, 1)), rate=44100)
    pieces = (60 + more / 44100) * VAD_SAMPLE_RATE / VAD_WINDOW_SAMPLES
    assert abs(len(voice.compute_speech_probs(AudioSegment(path))) - pieces) <= 1
    assert not voice.detect_speech(AudioSegment(path), 3010, 0.02).any()


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "silero_vad", None)
    with pytest.raises(MissingExtra) as caught:
        find_vad_weights()
    assert str(caught.value) == "silero-vad is not installed; pip install 'dlm[voice]'"
