"""The loss of a native base does not depend on how a step is cut; the class's own does."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from dlm.batches.bucket import pack
from dlm.batches.collate import Padding, collate
from dlm.batches.forms import chat_of
from dlm.clips.clip import Clip
from dlm.document.document import Document
from dlm.document.settings import Settings
from dlm.features.ear import Ear
from dlm.model.adapters import adapt
from dlm.model.checkpoint import load_native
from dlm.model.native import Native
from dlm.plan.bases import Base
from dlm.plan.draw import draw_up
from dlm.plan.plan import Wishes
from dlm.training.events import Step
from dlm.training.fit import Hooks, fit
from tests.natives import build, inputs, row
from tests.tiny import LAPTOP, spoken, tone

ANSWERS = ("a", "two words", "a good many more words than that", "four")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    """Qwen2-Audio, whose own forward takes the mean over each batch by itself."""
    key = "qwen2-audio-7b-instruct"
    return row(key, build(key, tmp_path_factory.mktemp("base")))


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    """Answers of very different lengths."""
    place = tmp_path_factory.mktemp("clips")
    return [
        spoken(tone(place / f"{n}.wav", hertz=300 + 90 * n, seconds=0.4 + n / 7), answer)
        for n, answer in enumerate(ANSWERS)
    ]


def loaded(base: Base) -> Native:
    return load_native(Path(base.source), base, dtype=torch.float32)


def first_step(base: Base, clips: list[Clip], *, micro: int) -> Step:
    """The first step over all clips, `micro` of them at a time."""
    cut = {"micro_batch_size": micro, "grad_accum": len(clips) // micro}
    training = {"precision": "fp32", "held_out": 0, "lora_dropout": 0.0, **cut}
    known = {"dlm_id": "01ARZ3NDEKTSV4RRFFQ69G5FAV", "base_model": base.key, "training": training}
    document = Document(Path(base.source) / "my.dlm", Settings(**known), (), "", "0" * 64)
    plan = draw_up(document, base, len(clips), LAPTOP, wishes=Wishes(steps=1))
    model = loaded(base)
    adapt(model, plan.model.adapter, seed=0)
    ear = Ear(base, auto_resample=False, hear=model.hear_one)
    batches = pack(clips, plan.batches, chat_of(model.tokenizer, base), ear)
    assert [len(each.places) for each in batches.step(0)] == [micro] * (len(clips) // micro)
    events = fit(model, batches, plan.training, Hooks(finish=lambda folder: None))
    return next(event for event in events if isinstance(event, Step))


def test_a_step_is_the_same_however_it_is_cut(base: Base, clips: list[Clip]) -> None:
    """One batch of four and four of one: every label token weighs the same."""
    whole, cut = (first_step(base, clips, micro=micro) for micro in (4, 1))
    assert whole.tokens == cut.tokens
    assert abs(whole.loss - cut.loss) < 1e-5
    assert abs(whole.gradient_norm - cut.gradient_norm) < 1e-5


def test_the_class_s_own_loss_is_not(base: Base, clips: list[Clip]) -> None:
    """Under transformers' Trainer, which trusts the class to divide by `num_items_in_batch`."""
    model = loaded(base)
    chat = chat_of(model.tokenizer, base)
    ear, padding = Ear(base, auto_resample=False), Padding(chat.pad, chat.placeholder)
    losses = {}
    for micro in (4, 1):
        total = 0.0
        for at in range(0, len(clips), micro):
            some = clips[at : at + micro]
            batch = collate([chat.row(clip) for clip in some], ear, padding)
            waves = [wave_of(clip) for clip in some]
            own = {"input_ids": batch.ids, "attention_mask": batch.attention, **inputs(base, waves)}
            with torch.no_grad():
                loss = model.whole(**own, labels=batch.labels, num_items_in_batch=40).loss
            total += float(loss)
        losses[micro] = total
    ours = first_step(base, clips, micro=4).loss
    assert abs(losses[4] - ours) < 1e-5, "one batch is right"
    assert losses[1] > 3.5 * ours, "four batches are four times as much"


def wave_of(clip: Clip) -> np.ndarray:

    return soundfile.read(clip.sounds[0].path, dtype="float32")[0]


def test_it_stops_where_the_released_model_does(base: Base) -> None:
    """A released model has more than one end; its generation config names them."""
    model = loaded(base)
    assert model.ends == ()
    model.whole.generation_config.eos_token_id = 7
    assert model.ends == (7,)
    model.whole.generation_config.eos_token_id = [7, 9]
    assert model.ends == (7, 9)
