"""Every supported class from `dlm init` to `dlm export`, on a small random checkpoint."""

import json
from pathlib import Path

import pytest
import soundfile
import torch
from peft import PeftModel

from dlm.batching.collator import PaddingSpec, collate
from dlm.batching.mistral_chat import build_chat_encoder
from dlm.data.types import AudioSegment, Message
from dlm.features.extractor import AudioFeatureExtractor
from dlm.models.load import load_version
from dlm.models.pretrained import MODEL_FAMILIES
from dlm.plan.model_spec import MODEL_CATALOG
from dlm.plan.resolve import resolve_model_spec
from tests.cli_runner import CommandResult, dlm
from tests.pretrained_twins import extract_reference_inputs, write_pretrained_twin
from tests.tiny_models import write_tone

CATALOG_KEYS = [
    "audio-flamingo-3",
    "glm-asr-nano",
    "qwen3-asr-1.7b",
    "qwen2.5-omni-7b",
    "qwen3-omni-30b-a3b",
]
TRAINING = """training:
  adapter: lora
  lora: {where: [lm, projector]}
  lora_r: 16
  precision: fp32
  held_out: 0
  num_epochs: 60
  learning_rate: 0.02
---

::audio path="clips/a.wav" transcript="low"::

::audio path="clips/b.wav" transcript="high"::
"""


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft reads it
@pytest.mark.parametrize("key", CATALOG_KEYS)
def test_training_fits_two_clips_and_the_export_has_the_same_logits(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pretrained_twin(key, tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    write_tone(tmp_path / "clips/a.wav", hertz=200, seconds=1.2)
    write_tone(tmp_path / "clips/b.wav", hertz=1900, seconds=0.7)
    (tmp_path / "clips/a.txt").write_text("low")
    (tmp_path / "clips/b.txt").write_text("high")
    run_command("init", "my.dlm", "--base", "./base")
    header = (tmp_path / "my.dlm").read_text().split("training:")[0]
    (tmp_path / "my.dlm").write_text(header + TRAINING)
    run_command("check", "my.dlm")
    run_command("train", "my.dlm", "--device", "cpu")
    evaluation = json.loads(run_command("eval", "my.dlm", "--data", "clips", "--json").out)
    assert evaluation["scores"]["wer"] == 0.0, evaluation
    question = MODEL_CATALOG[key].default_prompt
    if question:  # Qwen3-ASR takes none
        answer = run_command("prompt", "my.dlm", question, "--audio", "clips/b.wav").out
        assert answer.strip() == "high"
    snapshot = Path(run_command("export", "my.dlm").out.strip())
    status = json.loads(run_command("show", "my.dlm", "--json").out)
    version_dir = Path(status["versions"][-1]["path"])
    logits, reference = compute_both_logits(tmp_path, version_dir, snapshot / "adapter")
    assert (logits - reference).abs().max() < 1e-5


def run_command(*args: str) -> CommandResult:
    result = dlm(*args)
    assert result.code == 0, result
    return result


@torch.no_grad()
def compute_both_logits(
    folder: Path, version_dir: Path, adapter_dir: Path
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of the version in dlm, and of its export in transformers and peft alone."""
    spec = resolve_model_spec("./base", folder)
    model = load_version(spec, version_dir, device="cpu")
    chat_encoder = build_chat_encoder(model.tokenizer, spec)
    path = folder / "clips/a.wav"
    prompt = chat_encoder.encode_prompt((Message("user", (AudioSegment(path),)),), "a.wav")
    padding = PaddingSpec(chat_encoder.pad_token_id, chat_encoder.audio_token_id)
    batch = collate([prompt], AudioFeatureExtractor(spec, auto_resample=False), padding)
    hidden_states = model.forward_lm(model.merge_audio_embeddings(batch), batch.attention_mask)
    architecture = MODEL_FAMILIES[spec.family].architecture
    reference = PeftModel.from_pretrained(
        architecture.from_pretrained(folder / "base"), adapter_dir
    ).eval()
    waveform, _ = soundfile.read(path, dtype="float32")
    outputs = reference(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        **extract_reference_inputs(spec, [waveform]),
    )
    return model.compute_logits(hidden_states), outputs.logits
