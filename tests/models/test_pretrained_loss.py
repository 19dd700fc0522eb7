"""The loss of a native base does not depend on how a step is cut; the class's own does."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from dlm.batching.collator import PaddingSpec, collate
from dlm.batching.mistral_chat import build_chat_encoder
from dlm.batching.samplers import build_batches
from dlm.config.parser import Document
from dlm.config.schema import DlmConfig
from dlm.data.types import Example
from dlm.features.extractor import AudioFeatureExtractor
from dlm.models.adapters import apply_adapter
from dlm.models.pretrained import PretrainedAudioLM, load_pretrained_audio_lm
from dlm.plan.model_spec import ModelSpec
from dlm.plan.planner import make_plan
from dlm.plan.types import CliOverrides, TrainSetInfo
from dlm.training.events import StepCompleted
from dlm.training.trainer import TrainerCallbacks, train_model
from tests.pretrained_twins import extract_reference_inputs, make_twin_spec, write_pretrained_twin
from tests.tiny_models import LAPTOP, make_example, write_tone

ANSWERS = ("a", "two words", "a good many more words than that", "four")


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    """Qwen2-Audio, whose own forward takes the mean over each batch by itself."""
    key = "qwen2-audio-7b-instruct"
    return make_twin_spec(key, write_pretrained_twin(key, tmp_path_factory.mktemp("base")))


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    """Answers of very different lengths."""
    folder = tmp_path_factory.mktemp("clips")
    return [
        make_example(
            write_tone(folder / f"{n}.wav", hertz=300 + 90 * n, seconds=0.4 + n / 7), answer
        )
        for n, answer in enumerate(ANSWERS)
    ]


def load_fp32_model(spec: ModelSpec) -> PretrainedAudioLM:
    return load_pretrained_audio_lm(Path(spec.source), spec, dtype=torch.float32)


def first_step(spec: ModelSpec, examples: list[Example], *, micro: int) -> StepCompleted:
    """The first step over all clips, `micro` of them at a time."""
    batch_fields = {"micro_batch_size": micro, "grad_accum": len(examples) // micro}
    training = {"precision": "fp32", "held_out": 0, "lora_dropout": 0.0, **batch_fields}
    config_fields = {
        "dlm_id": "01ARZ3NDEKTSV4RRFFQ69G5FAV",
        "base_model": spec.key,
        "training": training,
    }
    document = Document(Path(spec.source) / "my.dlm", DlmConfig(**config_fields), (), "", "0" * 64)
    plan = make_plan(
        document.config.training,
        spec,
        TrainSetInfo(len(examples)),
        LAPTOP,
        cli_overrides=CliOverrides(steps=1),
    )
    model = load_fp32_model(spec)
    apply_adapter(model, plan.model.adapter, seed=0)
    extractor = AudioFeatureExtractor(spec, auto_resample=False, encode_fn=model.encode_single)
    batches = build_batches(
        examples, plan.batches, build_chat_encoder(model.tokenizer, spec), extractor
    )
    assert [len(each.locations) for each in batches.get_step_batches(0)] == [micro] * (
        len(examples) // micro
    )
    events = train_model(
        model, batches, plan.training, TrainerCallbacks(save_version_fn=lambda folder: None)
    )
    return next(event for event in events if isinstance(event, StepCompleted))


def test_the_loss_does_not_depend_on_the_micro_batch_size(
    spec: ModelSpec, examples: list[Example]
) -> None:
    """One batch of four and four of one: every label token weighs the same."""
    whole, batch_fields = (first_step(spec, examples, micro=micro) for micro in (4, 1))
    assert whole.num_label_tokens == batch_fields.num_label_tokens
    assert abs(whole.loss - batch_fields.loss) < 1e-5
    assert abs(whole.grad_norm - batch_fields.grad_norm) < 1e-5


def test_the_loss_of_the_class_depends_on_it(spec: ModelSpec, examples: list[Example]) -> None:
    """Under transformers' Trainer, which trusts the class to divide by `num_items_in_batch`."""
    model = load_fp32_model(spec)
    chat = build_chat_encoder(model.tokenizer, spec)
    extractor, padding = (
        AudioFeatureExtractor(spec, auto_resample=False),
        PaddingSpec(chat.pad_token_id, chat.audio_token_id),
    )
    losses = {}
    for micro in (4, 1):
        total = 0.0
        for at in range(0, len(examples), micro):
            some = examples[at : at + micro]
            batch = collate([chat.encode_example(clip) for clip in some], extractor, padding)
            waves = [wave_of(clip) for clip in some]
            reference_inputs = {
                "input_ids": batch.input_ids,
                "attention_mask": batch.attention_mask,
                **extract_reference_inputs(spec, waves),
            }
            with torch.no_grad():
                loss = model.whole(
                    **reference_inputs, labels=batch.labels, num_items_in_batch=40
                ).loss
            total += float(loss)
        losses[micro] = total
    ours = first_step(spec, examples, micro=4).loss
    assert abs(losses[4] - ours) < 1e-5, "one batch is right"
    assert losses[1] > 3.5 * ours, "four batches are four times as much"


def wave_of(clip: Example) -> np.ndarray:

    return soundfile.read(clip.audio_segments[0].path, dtype="float32")[0]


def test_it_stops_where_the_released_model_does(spec: ModelSpec) -> None:
    """A released model has more than one end; its generation config names them."""
    model = load_fp32_model(spec)
    assert model.eos_token_ids == ()
    model.whole.generation_config.eos_token_id = 7
    assert model.eos_token_ids == (7,)
    model.whole.generation_config.eos_token_id = [7, 9]
    assert model.eos_token_ids == (7, 9)
