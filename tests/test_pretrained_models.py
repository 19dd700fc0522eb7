"""Every class of the catalogue through the commands, on a small checkpoint in a folder."""

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

KEYS = [
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


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft asks for it
@pytest.mark.parametrize("key", KEYS)
def test_a_base_is_taught_and_used(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was learned by heart comes back, and what is exported says the same."""
    write_pretrained_twin(key, tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    write_tone(tmp_path / "clips/a.wav", hertz=200, seconds=1.2)
    write_tone(tmp_path / "clips/b.wav", hertz=1900, seconds=0.7)
    (tmp_path / "clips/a.txt").write_text("low")
    (tmp_path / "clips/b.txt").write_text("high")
    fine("init", "my.dlm", "--base", "./base")
    front = (tmp_path / "my.dlm").read_text().split("training:")[0]
    (tmp_path / "my.dlm").write_text(front + TRAINING)
    fine("check", "my.dlm")
    fine("train", "my.dlm", "--device", "cpu")
    scores = json.loads(fine("eval", "my.dlm", "--data", "clips", "--json").out)
    assert scores["scores"]["wer"] == 0.0, scores
    question = MODEL_CATALOG[key].default_prompt
    if question:  # Qwen3-ASR has none
        answer = fine("prompt", "my.dlm", question, "--audio", "clips/b.wav").out
        assert answer.strip() == "high"
    snapshot = Path(fine("export", "my.dlm").out.strip())
    shown = json.loads(fine("show", "my.dlm", "--json").out)
    version = Path(shown["versions"][-1]["path"])
    mine, theirs = both(tmp_path, version, snapshot / "adapter")
    assert (mine - theirs).abs().max() < 1e-5


def fine(*words: str) -> CommandResult:
    done = dlm(*words)
    assert done.code == 0, done
    return done


@torch.no_grad()
def both(folder: Path, version: Path, adapter: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of the version here, and of plain transformers and peft."""
    base = resolve_model_spec("./base", folder)
    model = load_version(base, version, device="cpu")
    chat = build_chat_encoder(model.tokenizer, base)
    path = folder / "clips/a.wav"
    asked = chat.encode_prompt((Message("user", (AudioSegment(path),)),), "here")
    padding = PaddingSpec(chat.pad_token_id, chat.audio_token_id)
    batch = collate([asked], AudioFeatureExtractor(base, auto_resample=False), padding)
    mine = model.compute_logits(
        model.forward_lm(model.merge_audio_embeddings(batch), batch.attention_mask)
    )
    whole = MODEL_FAMILIES[base.family].architecture.from_pretrained(folder / "base")
    learned = PeftModel.from_pretrained(whole, adapter).eval()
    heard = extract_reference_inputs(base, [soundfile.read(path, dtype="float32")[0]])
    return mine, learned(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, **heard
    ).logits


def test_the_page_of_bases_tells_the_rows() -> None:
    """Every fact of the table, for every native base of the catalogue."""
    page = (Path(__file__).parent.parent / "docs" / "bases.md").read_text(encoding="utf-8")
    table = page.partition("## Released models")[2].partition("\n\nA sound")[0].strip()
    told = [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
    rows = [base for base in MODEL_CATALOG.values() if base.kind == "native"]
    assert told == [
        [
            f"`{base.key}`",
            f"[{base.source}](https://huggingface.co/{base.source})",
            f"`{str(base.revision)[:12]}`",
            base.license,
            f"{base.audio_spec.sample_rate // 1000} kHz",
            f"{base.audio_spec.window_seconds:g} s",
            f"{base.audio_spec.tokens_per_second:g}",
            "`" + base.placeholder.replace("|", "\\|") + "`",
            f"{base.megabytes / 1000:.1f}",
        ]
        for base in rows
    ]
    assert {base.family for base in rows} == MODEL_FAMILIES.keys()
    assert all(f"`{family}`" in page for family in MODEL_FAMILIES)
