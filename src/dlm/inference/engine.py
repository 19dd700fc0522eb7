"""A model loaded with its chat encoder and feature extractor: prompts, batches and answers."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dlm.batching.chat_template import ChatEncoder, EncodedExample
from dlm.batching.collator import Batch, PaddingSpec, collate
from dlm.batching.mistral_chat import build_chat_encoder
from dlm.batching.samplers import split_into_chunks
from dlm.config.schema import TrainingConfig
from dlm.data.types import AudioSegment, ContentPart, Example, Message
from dlm.errors import UsageError
from dlm.features.extractor import AudioFeatureExtractor
from dlm.models.audio_lm import AudioLanguageModel
from dlm.models.generate import GenerationConfig, generate, generate_stream
from dlm.models.load import load_version
from dlm.plan.model_spec import ModelSpec

# Of an answer, in characters, as a token is a byte for some tokenizers and a word for others:
MAX_CHARACTERS_PER_SECOND = 40  # of speech: twice as fast as people read aloud
EXTRA_CHARACTERS = 60  # of an answer that is longer than the speech
MAX_TOKENS_PER_CHARACTER = 4  # bytes of UTF-8


@dataclass(frozen=True)
class InferenceEngine:
    """A loaded model and what prepares its input.

    Attributes:
        model: in evaluation or training mode, as it was left.
        chat_encoder: messages -> token ids.
        extractor: audio segment -> features.
        eval_batch_size: examples that are evaluated or generated at once.
        cut_locations: of the examples whose answers `batch_generate` cut at their limit.
    """

    model: AudioLanguageModel
    chat_encoder: ChatEncoder
    extractor: AudioFeatureExtractor
    eval_batch_size: int
    cut_locations: list[str] = field(default_factory=list, compare=False)

    def make_batch(self, examples: list[EncodedExample]) -> Batch:
        """Collate encoded examples on the CPU. Raises AudioError."""
        padding = PaddingSpec(self.chat_encoder.pad_token_id, self.chat_encoder.audio_token_id)
        return collate(examples, self.extractor, padding)

    def count_audio_tokens(self, segments: tuple[AudioSegment, ...]) -> int:
        """Count the tokens of audio segments. Raises AudioError."""
        return sum(window.num_tokens for segment in segments for window in self.extractor(segment))

    def sum_audio_seconds(self, segments: tuple[AudioSegment, ...]) -> float:
        """Sum the durations of audio segments as the model takes them. Raises AudioError."""
        num_samples = sum(
            window.num_samples for segment in segments for window in self.extractor(segment)
        )
        return num_samples / self.model.spec.audio_spec.sample_rate


def load_engine(
    spec: ModelSpec,
    version_dir: Path | None,
    *,
    device: str,
    config: TrainingConfig,
    cache_encoder_output: bool = False,
) -> InferenceEngine:
    """Load a model for use.

    Args:
        spec: the base model.
        version_dir: a version of it; None for the base model alone.
        device: "cpu", "cuda", ...
        config: how audio is read, and the batch size.
        cache_encoder_output: whether each segment is encoded once and kept in memory.

    Raises:
        ModelError: weights or tokenizer are missing or damaged (`model.*`).
        MissingExtra: an optional library is needed.
    """
    model = load_version(spec, version_dir, device=device)
    extractor = AudioFeatureExtractor(
        spec,
        auto_resample=config.audio.auto_resample,
        max_windows=config.audio.max_windows,
        encode_fn=model.encode_single if cache_encoder_output else None,
    )
    chat_encoder = build_chat_encoder(model.tokenizer, spec)
    return InferenceEngine(model, chat_encoder, extractor, config.eval_batch_size)


def batch_generate(
    engine: InferenceEngine, examples: list[Example]
) -> Iterator[tuple[Example, str]]:
    """Generate the last message of each example, in batches of like length, shortest first.

    Yields:
        An example, and the model's text.

    Raises:
        DataError: an example cannot be encoded (`data.*`), or its audio decoded (`audio.*`).
    """
    prompts = [
        (
            engine.sum_audio_seconds(example.audio_segments),
            example,
            engine.chat_encoder.encode_prompt(
                example.messages[:-1], example.location, example.language
            ),
        )
        for example in examples
    ]
    prompts.sort(key=lambda prompt: prompt[0])
    for batch in split_into_chunks(prompts, engine.eval_batch_size):
        seconds, batch_examples, encoded = zip(*batch, strict=True)
        limits = tuple(
            round(each * MAX_CHARACTERS_PER_SECOND) + EXTRA_CHARACTERS for each in seconds
        )
        cut: list[int] = []
        texts = generate(
            engine.model,
            engine.chat_encoder,
            list(encoded),
            engine.extractor,
            GenerationConfig(
                max_new_tokens=max(limits) * MAX_TOKENS_PER_CHARACTER, max_characters=limits
            ),
            on_cut=cut.append,
        )
        engine.cut_locations.extend(batch_examples[index].location for index in cut)
        yield from zip(batch_examples, texts, strict=True)


def build_prompt_messages(
    question: str, audio_paths: list[Path], spec: ModelSpec, system_prompt: str | None
) -> tuple[Message, ...]:
    """Build the messages of a question about recordings.

    Args:
        question: recordings come before it, or where its placeholders are.
        audio_paths: the recordings, in order.
        spec: the model, for its placeholder.
        system_prompt: the first message, if there is one.

    Raises:
        UsageError: the question has more or fewer placeholders than there are recordings
            (`usage.placeholder_count`).
    """
    segments = [AudioSegment(path) for path in audio_paths]
    content: list[ContentPart] = [*segments, question]
    first_text, *texts = question.split(spec.placeholder)
    if texts:
        if len(texts) != len(segments):
            raise UsageError(
                f"the question has {len(texts)} {spec.placeholder}, and there are "
                f"{len(segments)} --audio",
                hint="give as many as there are recordings, or none",
                code="usage.placeholder_count",
            )
        content = [first_text]
        for segment, text in zip(segments, texts, strict=True):
            content += [segment, text.lstrip("\n")]
    user_message = Message("user", tuple(part for part in content if part != ""))
    system_messages = (Message("system", (system_prompt,)),) if system_prompt else ()
    return (*system_messages, user_message)


def stream_answer(
    engine: InferenceEngine,
    messages: tuple[Message, ...],
    generation_config: GenerationConfig,
    language: str | None = None,
) -> Iterator[str]:
    """Yield pieces of the model's answer as they are generated. Raises DataError."""
    prompt = engine.chat_encoder.encode_prompt(messages, "the question", language)
    return generate_stream(
        engine.model, engine.chat_encoder, prompt, engine.extractor, generation_config
    )
