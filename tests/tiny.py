"""A stitched base of the real classes, random and so small that it is built in a second."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soundfile
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dlm.batching.chat_template import ChatEncoder
from dlm.batching.samplers import BucketBatchSampler, build_batches
from dlm.config.parser import Document
from dlm.config.schema import DlmConfig
from dlm.data.types import AudioSegment, Example, Message
from dlm.features.extractor import AudioFeatureExtractor
from dlm.inference.engine import InferenceEngine
from dlm.models.audio_lm import AudioLanguageModel
from dlm.models.composed import ComposedAudioLM, save_composed_model
from dlm.models.load import load_model
from dlm.plan.audio_lengths import AudioTokenizerSpec
from dlm.plan.hardware import Hardware
from dlm.plan.model_spec import ModelSpec, ParameterCounts, TransformerShape, read_model_spec
from dlm.plan.planner import make_plan
from dlm.plan.types import CliOverrides, Plan
from dlm.training.events import TrainingEvent
from dlm.training.trainer import EvaluateFn, TrainerCallbacks, train_model

RATE = 16_000
WORDS = "one two three four five six seven eight".split()
LAPTOP = Hardware(
    cores=2,
    memory=16 << 30,
    free_memory=12 << 30,
    free_disk=100 << 30,
    bf16=False,
    amx=False,
    gpus=(),
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|audio|>"]
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_tokenizer(more: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    """One token for each byte, the four special ones, and `more`."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {token: number for number, token in enumerate([*SPECIAL, *letters, *more])}
    tokenizer = Tokenizer(models.BPE(vocab=words, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([*SPECIAL, *more])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        extra_special_tokens=["<|im_start|>", "<|audio|>", *more],
    )
    fast.chat_template = CHATML
    return fast


def tiny_base() -> ModelSpec:
    """The row of the tiny base: a window of two seconds."""
    return ModelSpec(
        key="tiny",
        kind="stitched",
        family="stitched",
        source="folder",
        revision="test",
        license="MIT",
        audio_spec=AudioTokenizerSpec(
            sample_rate=RATE,
            hop_length=160,
            encoder_stride=2,
            projector_stride=4,
            window_samples=2 * RATE,
        ),
        num_mel_bins=80,
        mel_before_chunking=True,
        placeholder="<|audio|>",
        audio_prefix="",
        audio_suffix="\n",
        default_prompt="Transcribe.",
        chat_format="template",
        sizes=ParameterCounts(
            encoder=TransformerShape(
                30_000,
                num_layers=1,
                hidden_size=32,
                intermediate_size=64,
                num_heads=2,
                num_kv_heads=2,
            ),
            projector=12_000,
            lm=TransformerShape(
                10_000,
                num_layers=1,
                hidden_size=32,
                intermediate_size=64,
                num_heads=2,
                num_kv_heads=1,
                head_dim=16,
            ),
            embedding=8_320,
            vocab_size=260,
        ),
        megabytes=1,
        context_length=512,
        default_adapter="full",
        default_learning_rate=3e-3,
        default_epochs=2,
    )


def tiny_config() -> dict:
    """The shapes of the three parts."""
    return {
        "encoders": [
            {
                "layer": "last",
                "config": {
                    "model_type": "whisper",
                    "d_model": 32,
                    "encoder_layers": 1,
                    "encoder_attention_heads": 2,
                    "encoder_ffn_dim": 64,
                    "num_mel_bins": 80,
                    "max_source_positions": 100,
                    "dropout": 0.0,
                },
            }
        ],
        "projector": {"kind": "concat", "hidden": 32, "activation": "gelu", "norm": True},
        "lm": {
            "model_type": "qwen3",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "vocab_size": 260,
            "max_position_embeddings": 512,
            "tie_word_embeddings": True,
        },
    }


def make_tiny(folder: Path, *, seed: int = 0, config: dict | None = None) -> Path:
    """Write a tiny base and return its folder."""
    torch.manual_seed(seed)
    save_composed_model(
        ComposedAudioLM(tiny_base(), config or tiny_config(), tiny_tokenizer()), folder
    )
    return folder


def tone(path: Path, *, hertz: float, seconds: float = 0.6, rate: int = RATE) -> Path:
    """A tone with a little noise, so that every file differs."""
    time = np.arange(int(seconds * rate)) / rate
    noise = np.random.default_rng(int(hertz)).normal(0, 0.01, len(time))
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, (0.3 * np.sin(2 * np.pi * hertz * time) + noise).astype("f"), rate)
    return path


def write_document(
    folder: Path, *, base: Path | str, training: str = "", clips: int = 6, body: str = ""
) -> Path:
    """A document with `clips` tones, each said to be another word."""
    fences = []
    for number in range(clips):
        tone(folder / f"clips/{number}.wav", hertz=200 + 150 * number)
        fences.append(f'::audio path="clips/{number}.wav" transcript="{WORDS[number % 8]}"::\n')
    path = folder / "my.dlm"
    path.write_text(
        "---\ndlm_id: 01ARZ3NDEKTSV4RRFFQ69G5FAV\ndlm_version: 11\n"
        f"base_model: {base}\ntraining:\n  precision: fp32\n{training}---\n\n"
        + "\n".join(fences)
        + body,
        encoding="utf-8",
    )
    return path


def spoken(path: Path, text: str, **where: float) -> Example:
    """A clip that transcribes `path`."""
    turns = (Message("user", (AudioSegment(path, **where),)), Message("assistant", (text,)))
    return Example(turns, path.name, "transcribe")


def tones(folder: Path, count: int = 6) -> list[Example]:
    """Clips of tones of differing length, each said to be another word."""
    return [
        spoken(tone(folder / f"{n}.wav", hertz=200 + 150 * n, seconds=0.4 + 0.05 * n), WORDS[n % 8])
        for n in range(count)
    ]


def tiny_plan(
    folder: Path, clips: int, *, steps: int | None = None, seed: int = 42, **training: object
) -> Plan:
    """The plan for learning from `clips` clips on the base in `folder`, as a document would ask."""
    asked = {"precision": "fp32", "held_out": 0, **training}
    known = {"dlm_id": "01ARZ3NDEKTSV4RRFFQ69G5FAV", "base_model": str(folder), "training": asked}
    document = Document(folder / "my.dlm", DlmConfig(**known), (), "", "0" * 64)
    return make_plan(
        document,
        read_model_spec(folder),
        clips,
        LAPTOP,
        cli_overrides=CliOverrides(steps=steps, seed=seed),
    )


@dataclass(frozen=True)
class Lesson:
    """The rooms joined as `dlm train` joins them, without a store."""

    plan: Plan
    model: AudioLanguageModel
    batches: BucketBatchSampler
    using: InferenceEngine

    def events(
        self, *, check: EvaluateFn | None = None, resume: Path | None = None, **hooks: object
    ) -> Iterator[TrainingEvent]:
        """What `fit` says."""
        lent = TrainerCallbacks(
            save_version_fn=lambda folder: None, evaluate_fn=check, resume_dir=resume, **hooks
        )
        return train_model(self.model, self.batches, self.plan.training, lent)


def lesson(plan: Plan, clips: list[Example], *, listen: object = None, **changes: object) -> Lesson:
    """Load the model of a plan and pack its batches; `changes` are to the plan of the training."""
    plan = replace(plan, training=replace(plan.training, **changes))
    model = load_model(plan.model)
    hear = model.encode_single if plan.batches.use_cached_features else None
    ear = AudioFeatureExtractor(plan.batches.spec, auto_resample=False, encode_fn=hear)
    using = InferenceEngine(model, ChatEncoder(model.tokenizer, model.spec), ear, 16)
    return Lesson(
        plan, model, build_batches(clips, plan.batches, using.chat_encoder, listen or ear), using
    )
