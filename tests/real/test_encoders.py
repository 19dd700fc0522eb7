"""Released encoders on human speech equal transformers', at full length and at their own."""

import pytest
import soundfile
import torch
from transformers import WhisperFeatureExtractor, WhisperModel

from dlm.data.types import AudioSegment
from dlm.features.extractor import AudioFeatureExtractor
from dlm.models.audio_lm import EncoderOutput
from dlm.models.encoders import load_encoder, run_encoder
from dlm.plan.model_ref import read_hf_config
from tests.real.conftest import FigureFn, PartFn
from tests.real.documents import compose_real_spec, list_clips

LANGUAGES = ("en", "es", "fr", "it", "ru")
NUM_FRAMES = 3000  # log-mel frames of 30 s


def encode(encoder, log_mel: torch.Tensor, *lengths: int) -> EncoderOutput:
    return run_encoder(encoder, log_mel, torch.tensor(lengths), layer="last", encoder_input="mel")


@torch.no_grad()
@pytest.mark.parametrize("name", ["whisper-tiny.en", "whisper-base"])
def test_encoder_output_of_30_seconds_equals_that_of_transformers(
    part: PartFn, figure: FigureFn, name: str
) -> None:
    folder = part(name)
    reference = WhisperModel.from_pretrained(folder, dtype=torch.float32).encoder.eval()
    encoder = load_encoder(folder, read_hf_config(folder)).eval()
    paths = [list_clips(part(f"speech/prompts-{language}"), 3)[2] for language in LANGUAGES]
    extractor = WhisperFeatureExtractor(feature_size=encoder.config.num_mel_bins)
    spec = compose_real_spec(part, encoder={"source": str(folder), "pad": "30s"})
    extract = AudioFeatureExtractor(spec, auto_resample=False)
    largest = size = 0.0
    for path in paths:
        waveform, rate = soundfile.read(path, dtype="float32")
        features = extractor(waveform, sampling_rate=rate, return_tensors="pt").input_features
        (window,) = extract(AudioSegment(path))
        log_mel = torch.as_tensor(window.values)[None]
        assert log_mel.shape == features.shape == (1, encoder.config.num_mel_bins, NUM_FRAMES)
        assert torch.allclose(log_mel, features, atol=1e-4)
        expected = reference(features).last_hidden_state
        output = encode(encoder, log_mel, NUM_FRAMES).hidden_states
        largest = max(largest, float((output - expected).abs().max()))
        size = max(size, float(expected.abs().max()))
    assert largest < 2e-3 * size
    figure(f"{name}: {len(paths)} clips of 30 s, differs by {largest:.1e} of at most {size:.1f}")


@torch.no_grad()
@pytest.mark.parametrize("name", ["whisper-tiny.en", "whisper-base"])
def test_a_clip_at_its_own_length_is_encoded_the_same_alone_and_in_a_batch(
    part: PartFn, figure: FigureFn, name: str
) -> None:
    """At its own length, transformers' layers on the clip alone are the reference."""
    folder = part(name)
    encoder = load_encoder(folder, read_hf_config(folder)).eval()
    spec = compose_real_spec(part, encoder=str(folder))
    extract = AudioFeatureExtractor(spec, auto_resample=False)
    windows = [extract(AudioSegment(path))[0] for path in list_clips(part("speech/prompts-en"), 6)]
    log_mels = [torch.as_tensor(window.values) for window in windows]
    lengths = [log_mel.shape[1] for log_mel in log_mels]
    batch = torch.zeros(len(log_mels), log_mels[0].shape[0], max(lengths))
    for row, log_mel in zip(batch, log_mels, strict=True):
        row[:, : log_mel.shape[1]] = log_mel
    output = encode(encoder, batch, *lengths)
    largest = 0.0
    for index, log_mel in enumerate(log_mels):
        num_frames = int(output.lengths[index])
        expected = encode_with_transformers(encoder, log_mel[None])
        assert expected.shape[1] == num_frames
        single = encode(encoder, log_mel[None], lengths[index]).hidden_states
        batched = output.hidden_states[index : index + 1, :num_frames]
        largest = max(largest, *(float((x - expected).abs().max()) for x in (single, batched)))
    assert largest < 2e-3 * float(output.hidden_states.abs().max())
    figure(
        f"{name}: {len(log_mels)} clips at their own length, alone and in a batch: {largest:.1e}"
    )


def encode_with_transformers(encoder, log_mel: torch.Tensor) -> torch.Tensor:
    """Transformers' own layers, with the positions of as many frames as there are."""
    gelu = torch.nn.functional.gelu
    hidden = gelu(encoder.conv2(gelu(encoder.conv1(log_mel)))).transpose(1, 2)
    hidden = hidden + encoder.embed_positions.weight[: hidden.shape[1]]
    for layer in encoder.layers:
        hidden = layer(hidden, None)
    return encoder.layer_norm(hidden)
