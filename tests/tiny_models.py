"""A tiny random composed model, documents and examples for it, and a training setup."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soundfile
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dlm.batching.chat_template import IGNORE_INDEX, ChatEncoder, EncodedExample
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
from dlm.plan.augmentation import plan_augmentation
from dlm.plan.hardware import Hardware
from dlm.plan.model_spec import ModelSpec, ParameterCounts, TransformerShape, read_model_spec
from dlm.plan.planner import make_plan
from dlm.plan.types import CliOverrides, Plan, TrainSetInfo
from dlm.training.events import TrainingEvent
from dlm.training.trainer import EvaluateFn, TrainerCallbacks, train_model

SAMPLE_RATE = 16_000
DLM_ID = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
TRANSCRIPTS = "one two three four five six seven eight".split()
LAPTOP = Hardware(
    cores=2,
    memory=16 << 30,
    free_memory=12 << 30,
    free_disk=100 << 30,
    bf16=False,
    amx=False,
    gpus=(),
)
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|audio|>"]
CHATML_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tiny_tokenizer(extra_tokens: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    """A tokenizer with one token for each byte, the four special ones, and `extra_tokens`."""
    tokens = [*SPECIAL_TOKENS, *sorted(pre_tokenizers.ByteLevel.alphabet()), *extra_tokens]
    vocab = {token: token_id for token_id, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([*SPECIAL_TOKENS, *extra_tokens])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        extra_special_tokens=["<|im_start|>", "<|audio|>", *extra_tokens],
    )
    fast.chat_template = CHATML_TEMPLATE
    return fast


def make_tiny_spec() -> ModelSpec:
    """The spec of the tiny model: a window of two seconds."""
    return ModelSpec(
        key="tiny",
        kind="stitched",
        family="stitched",
        source="folder",
        revision="test",
        license="MIT",
        audio_spec=AudioTokenizerSpec(
            sample_rate=SAMPLE_RATE,
            hop_length=160,
            encoder_stride=2,
            projector_stride=4,
            window_samples=2 * SAMPLE_RATE,
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


def make_tiny_config() -> dict:
    """The shapes of encoder, projector and language model."""
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


def write_tiny_model(folder: Path, *, seed: int = 0, config: dict | None = None) -> Path:
    """Write a tiny model and return its folder."""
    torch.manual_seed(seed)
    save_composed_model(
        ComposedAudioLM(make_tiny_spec(), config or make_tiny_config(), make_tiny_tokenizer()),
        folder,
    )
    return folder


def write_tone(
    path: Path, *, hertz: float, seconds: float = 0.6, sample_rate: int = SAMPLE_RATE
) -> Path:
    """Write a tone with a little noise, so that every file differs."""
    time = np.arange(int(seconds * sample_rate)) / sample_rate
    noise = np.random.default_rng(int(hertz)).normal(0, 0.01, len(time))
    waveform = (0.3 * np.sin(2 * np.pi * hertz * time) + noise).astype("f")
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, waveform, sample_rate)
    return path


def write_document(
    folder: Path, *, base_model: Path | str, training: str = "", num_clips: int = 6, body: str = ""
) -> Path:
    """Write a document with `num_clips` tones, each with another word as its transcript."""
    sections = []
    for number in range(num_clips):
        write_tone(folder / f"clips/{number}.wav", hertz=200 + 150 * number)
        transcript = TRANSCRIPTS[number % 8]
        sections.append(f'::audio path="clips/{number}.wav" transcript="{transcript}"::\n')
    path = folder / "my.dlm"
    path.write_text(
        f"---\ndlm_id: {DLM_ID}\ndlm_version: 11\n"
        f"base_model: {base_model}\ntraining:\n  precision: fp32\n{training}---\n\n"
        + "\n".join(sections)
        + body,
        encoding="utf-8",
    )
    return path


def make_example(path: Path, transcript: str, **span: float) -> Example:
    """Make an example that transcribes `path`, or a span of it."""
    user = Message("user", (AudioSegment(path, **span),))
    return Example((user, Message("assistant", (transcript,))), path.name, "transcribe")


def write_tone_examples(folder: Path, count: int = 6) -> list[Example]:
    """Write tones of differing length, each with another word as its transcript."""
    return [
        make_example(
            write_tone(folder / f"{n}.wav", hertz=200 + 150 * n, seconds=0.4 + 0.05 * n),
            TRANSCRIPTS[n % 8],
        )
        for n in range(count)
    ]


def split_trained_ids(encoded: EncodedExample) -> list[list[int]]:
    """Each stretch of token ids that carry loss."""
    stretches: list[list[int]] = [[]]
    for label in encoded.labels:
        if label != IGNORE_INDEX:
            stretches[-1].append(label)
        elif stretches[-1]:
            stretches.append([])
    return [stretch for stretch in stretches if stretch]


def make_tiny_plan(
    model_dir: Path,
    num_examples: int,
    *,
    steps: int | None = None,
    seed: int = 42,
    **training: object,
) -> Plan:
    """Make the plan to train the model in `model_dir`; `training` are fields of a document."""
    fields = {"precision": "fp32", "held_out": 0, **training}
    config = DlmConfig(**{"dlm_id": DLM_ID, "base_model": str(model_dir), "training": fields})
    document = Document(model_dir / "my.dlm", config, (), "", "0" * 64)
    spec = read_model_spec(model_dir)
    num_stage_examples = (num_examples,) * len(config.training.stages)
    return make_plan(
        config.training,
        spec,
        TrainSetInfo(num_examples, num_stage_examples=num_stage_examples),
        LAPTOP,
        cli_overrides=CliOverrides(steps=steps, seed=seed),
        augmentation=plan_augmentation(document, spec),
    )


@dataclass(frozen=True)
class TrainingSetup:
    """What `dlm train` puts together, without a store."""

    plan: Plan
    model: AudioLanguageModel
    batches: BucketBatchSampler
    engine: InferenceEngine

    def iter_events(
        self,
        *,
        evaluate_fn: EvaluateFn | None = None,
        resume_dir: Path | None = None,
        **callbacks: object,
    ) -> Iterator[TrainingEvent]:
        """Train, and yield the events."""
        trainer_callbacks = TrainerCallbacks(
            save_version_fn=lambda folder: None,
            evaluate_fn=evaluate_fn,
            resume_dir=resume_dir,
            **callbacks,
        )
        return train_model(self.model, self.batches, self.plan.training, trainer_callbacks)


def make_training_setup(
    plan: Plan, examples: list[Example], *, feature_fn: object = None, **changes: object
) -> TrainingSetup:
    """Load the model of a plan and build its batches; `changes` are to its training plan."""
    plan = replace(plan, training=replace(plan.training, **changes))
    model = load_model(plan.model)
    encode_fn = model.encode_single if plan.batches.use_cached_features else None
    extractor = AudioFeatureExtractor(plan.batches.spec, auto_resample=False, encode_fn=encode_fn)
    engine = InferenceEngine(model, ChatEncoder(model.tokenizer, model.spec), extractor, 16)
    batches = build_batches(examples, plan.batches, engine.chat_encoder, feature_fn or extractor)
    return TrainingSetup(plan, model, batches, engine)
