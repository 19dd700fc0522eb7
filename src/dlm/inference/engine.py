"""A model ready to be used: loaded, with its chat form and its ear.

Asking a model about sounds.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dlm.batching.chat_template import ChatEncoder, EncodedExample
from dlm.batching.mistral_chat import build_chat_encoder
from dlm.config.schema import TrainingConfig
from dlm.data.types import AudioSegment, ContentPart, Example, Message
from dlm.errors import UsageError
from dlm.features.extractor import AudioFeatureExtractor
from dlm.models.audio_lm import AudioLanguageModel
from dlm.models.generate import GenerationConfig, generate, generate_stream
from dlm.models.load import load_version
from dlm.plan.model_spec import ModelSpec

MAX_TOKENS_PER_SECOND = 8  # tokens of speech: nobody speaks faster
EXTRA_NEW_TOKENS = 24


@dataclass(frozen=True)
class InferenceEngine:
    """What `use` needs of a model; `together` is how many clips it hears at once."""

    model: AudioLanguageModel
    chat_encoder: ChatEncoder
    extractor: AudioFeatureExtractor
    eval_batch_size: int

    def count_audio_tokens(self, segment: AudioSegment) -> int:
        """Tokens that a sound becomes."""
        return sum(window.num_tokens for window in self.extractor(segment))


def load_engine(
    spec: ModelSpec,
    version_dir: Path | None,
    *,
    device: str,
    config: TrainingConfig,
    cache_encoder_output: bool = False,
) -> InferenceEngine:
    """Load a base with a version on it, or the bare base when `version` is None.

    With `once` the encoder hears each sound a single time, and what it heard is remembered.
    """
    model = load_version(spec, version_dir, device=device)
    taken_in = config.audio
    ear = AudioFeatureExtractor(
        spec,
        auto_resample=taken_in.auto_resample,
        max_windows=taken_in.max_windows,
        encode_fn=model.encode_single if cache_encoder_output else None,
    )
    return InferenceEngine(
        model, build_chat_encoder(model.tokenizer, spec), ear, config.eval_batch_size
    )


def batch_generate(
    engine: InferenceEngine, examples: list[Example]
) -> Iterator[tuple[Example, str]]:
    """Each clip's last turn as the model would say it, clips of like length together."""
    asked = [
        (clip, _encode_prompt(engine, clip), _sum_audio_seconds(engine, clip.audio_segments))
        for clip in examples
    ]
    asked.sort(key=lambda each: each[2])
    for start in range(0, len(asked), engine.eval_batch_size):
        group = asked[start : start + engine.eval_batch_size]
        longest = max(seconds for _, _, seconds in group)
        how = GenerationConfig(
            max_new_tokens=round(longest * MAX_TOKENS_PER_SECOND) + EXTRA_NEW_TOKENS
        )
        rows = [row for _, row, _ in group]
        said = generate(engine.model, engine.chat_encoder, rows, engine.extractor, how)
        yield from zip([clip for clip, _, _ in group], said, strict=True)


def _encode_prompt(engine: InferenceEngine, example: Example) -> EncodedExample:
    return engine.chat_encoder.encode_prompt(
        example.messages[:-1], example.location, example.language
    )


def _sum_audio_seconds(engine: InferenceEngine, segments: tuple[AudioSegment, ...]) -> float:
    samples = sum(window.num_samples for sound in segments for window in engine.extractor(sound))
    return samples / engine.model.spec.audio_spec.sample_rate


def build_prompt_messages(
    question: str, audio_paths: list[Path], spec: ModelSpec, system_prompt: str | None
) -> tuple[Message, ...]:
    """A question as turns: sounds first, or where the question places them itself.

    Raises UsageError when the question places more or fewer sounds than there are.
    """
    heard = [AudioSegment(path) for path in audio_paths]
    pieces = question.split(spec.placeholder)
    parts: list[ContentPart] = [*heard, question]
    if len(pieces) > 1:
        if len(pieces) - 1 != len(heard):
            raise UsageError(
                f"the question has {len(pieces) - 1} {spec.placeholder}, and there are "
                f"{len(heard)} --audio",
                hint="give as many as there are sounds, or none",
            )
        parts = [pieces[0]]
        for sound, piece in zip(heard, pieces[1:], strict=True):
            parts += [sound, piece.lstrip("\n")]
    told = (Message("system", (system_prompt,)),) if system_prompt else ()
    return (*told, Message("user", tuple(part for part in parts if part != "")))


def stream_answer(
    engine: InferenceEngine, messages: tuple[Message, ...], generation_config: GenerationConfig
) -> Iterator[str]:
    """The answer, piece by piece."""
    row = engine.chat_encoder.encode_prompt(messages, "the question")
    return generate_stream(
        engine.model, engine.chat_encoder, row, engine.extractor, generation_config
    )
