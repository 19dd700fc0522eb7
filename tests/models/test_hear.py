"""The encoder at a clip's true length: Whisper's own at full length, a batch like its clips."""

import pytest
import torch
from transformers.models.whisper.configuration_whisper import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from dlm.models.audio_lm import EncoderOutput
from dlm.models.composed import ComposedAudioLM
from dlm.models.encoders import run_whisper_encoder
from tests.tiny_models import make_tiny_config


@pytest.fixture(scope="module")
def encoder() -> WhisperEncoder:
    torch.manual_seed(0)
    return WhisperEncoder(WhisperConfig(**make_tiny_config()["encoders"][0]["config"])).eval()


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 3])
def test_equals_transformers_at_full_length(encoder: WhisperEncoder, rows: int) -> None:
    mel = torch.randn(rows, 80, 200)
    theirs = encoder(mel).last_hidden_state
    ours = run_whisper_encoder(encoder, mel, torch.full((rows,), 200))
    assert torch.allclose(ours, theirs, atol=1e-6)


@torch.no_grad()
def test_a_batch_hears_what_each_clip_hears(encoder: WhisperEncoder) -> None:
    lengths = [1, 2, 3, 57, 128, 199, 200]
    mels = [torch.randn(80, length) for length in lengths]
    batch = torch.full((len(lengths), 80, 200), 7.0)  # what lies past the end must not matter
    for row, mel in zip(batch, mels, strict=True):
        row[:, : mel.shape[1]] = mel
    together = run_whisper_encoder(encoder, batch, torch.tensor(lengths))
    for heard, mel in zip(together, mels, strict=True):
        frames = mel.shape[1]
        alone = run_whisper_encoder(encoder, mel[None], torch.tensor([frames]))[0]
        assert torch.allclose(heard[: len(alone)], alone, atol=1e-5)
        assert not heard[len(alone) :].any()


@torch.no_grad()
def test_a_projector_token_is_its_own_frames(model: ComposedAudioLM) -> None:
    """Each token depends on four frames and no others, the last on what is left and silence."""
    values = torch.randn(1, 10, 32)
    audio = model.project_audio(EncoderOutput(values, torch.tensor([10])))
    assert audio.shape == (3, 32)
    for token in range(3):
        changed = values.clone()
        changed[0, 4 * token] += 1.0
        other = model.project_audio(EncoderOutput(changed, torch.tensor([10])))
        moved = ((audio - other).abs().amax(dim=1) > 1e-6).tolist()
        assert moved == [each == token for each in range(3)]
    padded = torch.cat([values, torch.zeros(1, 2, 32)], dim=1)
    assert torch.allclose(
        model.project_audio(EncoderOutput(padded, torch.tensor([12]))), audio, atol=1e-6
    )


def test_hearing_one_clip_is_always_the_same_bits(model: ComposedAudioLM) -> None:
    mel = torch.randn(80, 123)
    assert torch.equal(model.encode_single(mel, 123), model.encode_single(mel, 123))
    assert model.encode_single(mel, 123).shape == (62, 32)
