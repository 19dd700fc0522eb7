"""What is known of a model before it is loaded (`ModelSpec`), and the catalog of models by key.

A spec gives the plan, the batches and the loader everything they need: rates, shapes, parameter
counts, placeholder, chat format, licence, revision. `dlm_base.json` holds the spec of a composed
model beside its weights. The catalog has a spec for each model known by name, and for three that
are composed of released models as they are loaded; a new model is a new spec. A revision is the
newest seen when the spec was written; documents keep it.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, with_config

from dlm.config.model_schema import ComposedModelConfig
from dlm.errors import ModelError
from dlm.io import read_regular_file
from dlm.legacy import MODEL_SPEC, upgrade_record
from dlm.plan.audio_lengths import AudioTokenizerSpec

ComponentName = Literal["encoder", "projector", "lm"]
LayerSelection = int | Literal["last", "weighted_sum"]
MODEL_SPEC_FILE = "dlm_base.json"  # beside the weights of a composed model


@dataclass(frozen=True)
class TransformerShape:
    """The shape of a stack of transformer layers.

    Attributes:
        num_parameters: without embeddings and head.
        num_layers: layers of the stack.
        hidden_size: width of the hidden states.
        intermediate_size: width of the MLP.
        num_heads: attention heads of queries.
        num_kv_heads: attention heads of keys and values.
        head_dim: width of a head; 0 for hidden_size / num_heads.
        cross_attention: whether each layer also attends to the encoder's output, as Whisper's
            decoder does; its MLP has no gate.
    """

    num_parameters: int
    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int = 0
    cross_attention: bool = False


@dataclass(frozen=True)
class ParameterCounts:
    """Shapes and parameters of each component.

    Attributes:
        encoder: its layers, and what is before and after them.
        projector: its parameters.
        lm: the layers of the language model.
        embedding: parameters of the language model's embeddings and head.
        vocab_size: tokens that have an embedding.
    """

    encoder: TransformerShape
    projector: int
    lm: TransformerShape
    embedding: int
    vocab_size: int

    @property
    def num_parameters(self) -> int:
        """Count the parameters of all components."""
        layers = self.encoder.num_parameters + self.lm.num_parameters
        return layers + self.projector + self.embedding


@dataclass(frozen=True)
class ComponentRef:
    """Where an encoder or a language model of a composed model comes from.

    Attributes:
        source: as ModelSpec.source; "" for random weights.
        revision: of the source; None for random weights.
        config: of transformers' class, `model_type` among its keys.
        layer: the encoder's hidden state that is used: of the last layer, of a layer counted from
            1, or all of them, weighted by the projector.
    """

    source: str
    revision: str | None
    config: dict[str, Any]
    layer: LayerSelection = "last"


@dataclass(frozen=True)
class CompositionSpec:
    """The components of a model that is composed as it is loaded.

    Attributes:
        encoders: one or more; their frames are concatenated at the rate of the first.
        projector: its kind and options; `source` among them names its weights, of a hub as
            source@revision.
        lm: the language model.
        tokenizer: "own" for the language model's, "bytes", or the folder of another.
    """

    encoders: tuple[ComponentRef, ...]
    projector: dict[str, Any]
    lm: ComponentRef
    tokenizer: str = "own"


@dataclass(frozen=True)
class ModelSpec:
    """What is known of one model before it is loaded.

    Attributes:
        key: its name in the catalog, or one made of its source.
        kind: released as one model, or composed ("stitched") of components.
        family: the model type of transformers' class, or "stitched".
        source: "embedded:sparrow", a repository of a hub, or the absolute path of a folder.
        revision: a commit, or a fingerprint of files.
        license: as its model card names it.
        audio_spec: rates, and how many tokens audio becomes.
        num_mel_bins: of the log-mel.
        mel_before_chunking: whether the mel of long audio is computed before it is cut in windows.
        placeholder: the token that stands for one audio token in a prompt.
        audio_prefix: text before the placeholders; {number} counts the audio of a conversation.
        audio_suffix: text after them.
        default_prompt: the question about audio that has only a transcript; {language} in it is
            the example's, or en.
        chat_format: the chat template with messages as text ("template") or as content parts, for
            which it writes the audio markers itself ("parts"); parts and Qwen3-ASR's answers
            ("asr"); mistral-common's; Whisper's decoder prompt; or text without a template
            ("plain").
        sizes: shapes and parameters.
        megabytes: to download, or on disk.
        context_length: longest sequence, in tokens.
        default_adapter: what `dlm init` proposes.
        default_learning_rate: where a document gives none.
        default_epochs: where a document gives none.
        encoder_input: what the encoder takes: a log-mel, or the waveform.
        composition: None where all weights are in one checkpoint.
        languages: ISO 639-1 codes of the only languages that it has tokens for; empty where it
            takes any.
        task: what Whisper's prompt asks for: the words, or their translation to English.
    """

    key: str
    kind: Literal["native", "stitched"]
    family: str
    source: str
    revision: str | None
    license: str
    audio_spec: AudioTokenizerSpec
    num_mel_bins: int
    mel_before_chunking: bool
    placeholder: str
    audio_prefix: str
    audio_suffix: str
    default_prompt: str
    chat_format: Literal["template", "parts", "asr", "mistral", "whisper", "plain"]
    sizes: ParameterCounts
    megabytes: int
    context_length: int
    default_adapter: Literal["lora", "dora", "projector", "full"]
    default_learning_rate: float
    default_epochs: int
    encoder_input: Literal["mel", "wave"] = "mel"
    composition: CompositionSpec | None = None
    languages: tuple[str, ...] = ()
    task: Literal["transcribe", "translate"] = "transcribe"

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether its decoder attends to one window of audio, which takes no place in the text."""
        return self.sizes.lm.cross_attention

    def format_audio_prefix(self, number: int) -> str:
        """Write the text before the placeholders of one audio; other braces are text."""
        return self.audio_prefix.replace("{number}", str(number))


_MODEL_SPEC_TYPE_ADAPTER = TypeAdapter(with_config(ConfigDict(extra="forbid"))(ModelSpec))


def make_end_placeholder_error(spec: ModelSpec, where: str | None = None) -> ModelError:
    """Make the error of a model whose audio would end each of its turns."""
    what = f"the placeholder of {spec.key}, {spec.placeholder}, is its end-of-turn token"
    hint = "give audio a token of its own, and make the folder again"
    return ModelError(what, where=where, hint=hint, code="model.no_placeholder")


def read_model_spec(folder: Path) -> ModelSpec:
    """Read the spec beside a composed model's weights.

    Raises:
        ModelError: it is missing or damaged (`model.bad_spec_file`).
    """
    path = folder / MODEL_SPEC_FILE
    try:
        record = upgrade_record(json.loads(read_regular_file(path)), MODEL_SPEC)
        spec = _MODEL_SPEC_TYPE_ADAPTER.validate_python(record)
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(
            f"is not the spec of a model ({' '.join(str(error).split())})",
            where=str(path),
            hint="write the folder again with the tool that made it",
            code="model.bad_spec_file",
        ) from error
    return replace(spec, source=str(folder.absolute()))


def write_model_spec(spec: ModelSpec, folder: Path) -> None:
    """Write the spec beside a composed model's weights, without the names of this machine."""
    record = asdict(replace(spec, source="folder", composition=None))
    (folder / MODEL_SPEC_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


COMPOSED_MODEL_CONFIGS: dict[str, ComposedModelConfig] = {  # as a document writes them
    key: ComposedModelConfig.model_validate(config)
    for key, config in {
        # components have no revision here: a document keeps the one that is resolved first
        "whisper-mistral-openorca": {
            "encoder": {"source": "hf:openai/whisper-large-v3", "pad": "30s"},
            "projector": {"kind": "pool", "stride": 6},  # 250 tokens for 30 s
            "lm": "hf:Open-Orca/Mistral-7B-OpenOrca",
            "prompt": "Describe the sound of the given file",
        },
        "whisper-qwen3": {
            "encoder": "hf:openai/whisper-large-v3-turbo",
            "projector": "stack",
            "lm": "hf:Qwen/Qwen3-1.7B",
        },
        "nanochat-omni-d6": {
            "encoder": "hf:openai/whisper-base",
            "projector": "mlp",
            "lm": {
                "from_scratch": {
                    "model_type": "nanochat",
                    "hidden_size": 384,
                    "intermediate_size": 1536,
                    "num_hidden_layers": 6,
                    "num_attention_heads": 3,
                    "max_position_embeddings": 1024,
                },
                "tokenizer": "bytes",
            },
            "before": "Listen: ",  # nanochat normalizes its embeddings: zeros have no gradient
        },
    }.items()
}

WHISPER_AUDIO_SPEC = AudioTokenizerSpec(
    sample_rate=16_000, hop_length=160, encoder_stride=2, projector_stride=1, window_samples=480_000
)
WHISPER_LARGE_V3_SHAPE = TransformerShape(
    636_968_960,
    num_layers=32,
    hidden_size=1280,
    intermediate_size=5120,
    num_heads=20,
    num_kv_heads=20,
)
QWEN3_1_7B_SHAPE = TransformerShape(
    1_409_410_048,
    num_layers=28,
    hidden_size=2048,
    intermediate_size=6144,
    num_heads=16,
    num_kv_heads=8,
    head_dim=128,
)

WHISPER_MISTRAL = ModelSpec(
    key="whisper-mistral-openorca",
    kind="stitched",
    family="stitched",
    source="",
    revision=None,
    license="Apache-2.0",
    audio_spec=replace(WHISPER_AUDIO_SPEC, projector_stride=6, pad_mode="counted"),
    num_mel_bins=128,
    mel_before_chunking=True,
    placeholder="<|audio|>",
    audio_prefix="",
    audio_suffix="\n",
    default_prompt="Describe the sound of the given file",
    chat_format="template",
    sizes=ParameterCounts(
        encoder=WHISPER_LARGE_V3_SHAPE,
        projector=5_245_440,
        lm=TransformerShape(
            6_979_588_096,
            num_layers=32,
            hidden_size=4096,
            intermediate_size=14_336,
            num_heads=32,
            num_kv_heads=8,
        ),
        embedding=262_160_384,
        vocab_size=32_002,
    ),
    megabytes=17_600,
    context_length=32_768,
    default_adapter="projector",
    default_learning_rate=1.5e-3,
    default_epochs=10,
)

COMPOSED_MODEL_SPECS = (
    WHISPER_MISTRAL,
    replace(
        WHISPER_MISTRAL,
        key="whisper-qwen3",
        license="MIT and Apache-2.0",
        audio_spec=replace(WHISPER_AUDIO_SPEC, projector_stride=8),
        default_prompt="Transcribe the audio.",
        sizes=ParameterCounts(
            encoder=WHISPER_LARGE_V3_SHAPE,
            projector=23_079_936,
            lm=QWEN3_1_7B_SHAPE,
            embedding=311_164_928,
            vocab_size=151_936,
        ),
        megabytes=5_700,
        context_length=40_960,
        default_learning_rate=1e-3,
    ),
    replace(
        WHISPER_MISTRAL,
        key="nanochat-omni-d6",
        audio_spec=replace(WHISPER_AUDIO_SPEC, projector_stride=4),
        num_mel_bins=80,
        audio_prefix="Listen: ",
        default_prompt="Transcribe the audio.",
        chat_format="plain",
        sizes=ParameterCounts(
            encoder=TransformerShape(
                20_590_592,
                num_layers=6,
                hidden_size=512,
                intermediate_size=2048,
                num_heads=8,
                num_kv_heads=8,
            ),
            projector=933_888,
            lm=TransformerShape(
                10_616_832,
                num_layers=6,
                hidden_size=384,
                intermediate_size=1536,
                num_heads=3,
                num_kv_heads=3,
            ),
            embedding=199_680,
            vocab_size=260,
        ),
        megabytes=290,
        context_length=1024,
        default_adapter="full",
        default_learning_rate=1e-3,
    ),
)


SPARROW = ModelSpec(
    key="sparrow",
    kind="stitched",
    family="stitched",
    source="embedded:sparrow",
    revision="3",
    license="MIT",
    audio_spec=replace(WHISPER_AUDIO_SPEC, projector_stride=4),
    num_mel_bins=80,
    mel_before_chunking=True,
    placeholder="<|audio|>",
    audio_prefix="",
    audio_suffix="\n",
    default_prompt="Transcribe the audio.",
    chat_format="template",
    sizes=ParameterCounts(
        encoder=TransformerShape(
            8_208_384,
            num_layers=4,
            hidden_size=384,
            intermediate_size=1536,
            num_heads=6,
            num_kv_heads=6,
        ),
        projector=885_632,
        lm=TransformerShape(
            1_624_128,
            num_layers=4,
            hidden_size=192,
            intermediate_size=512,
            num_heads=4,
            num_kv_heads=2,
        ),
        embedding=196_608,
        vocab_size=1024,
    ),
    megabytes=21,
    context_length=2048,
    default_adapter="full",
    default_learning_rate=5e-5,
    default_epochs=8,
)

QWEN2_AUDIO = ModelSpec(
    key="qwen2-audio-7b-instruct",
    kind="native",
    family="qwen2_audio",
    source="Qwen/Qwen2-Audio-7B-Instruct",
    revision="0a095220c30b7b31434169c3086508ef3ea5bf0a",
    license="Apache-2.0",
    audio_spec=replace(WHISPER_AUDIO_SPEC, projector_stride=2, floor_tokens=True, right_context=2),
    num_mel_bins=128,
    mel_before_chunking=False,
    placeholder="<|AUDIO|>",
    audio_prefix="Audio {number}: <|audio_bos|>",
    audio_suffix="<|audio_eos|>\n",
    default_prompt="Transcribe the audio.",
    chat_format="template",
    sizes=ParameterCounts(
        encoder=WHISPER_LARGE_V3_SHAPE,
        projector=5_246_976,
        lm=TransformerShape(
            6_476_664_832,
            num_layers=32,
            hidden_size=4096,
            intermediate_size=11008,
            num_heads=32,
            num_kv_heads=32,
        ),
        embedding=1_278_214_144,
        vocab_size=156_032,
    ),
    megabytes=16_800,
    context_length=8192,
    default_adapter="lora",
    default_learning_rate=2e-4,
    default_epochs=3,
)

VOXTRAL_MINI = ModelSpec(
    key="voxtral-mini-3b",
    kind="native",
    family="voxtral",
    source="mistralai/Voxtral-Mini-3B-2507",
    revision="3060fe34b35ba5d44202ce9ff3c097642914f8f3",
    license="Apache-2.0",
    audio_spec=replace(WHISPER_AUDIO_SPEC, projector_stride=4, pad_mode="counted"),
    num_mel_bins=128,
    mel_before_chunking=True,
    placeholder="[AUDIO]",
    audio_prefix="",
    audio_suffix="",
    default_prompt="",  # a recording without a question is a request to transcribe it
    chat_format="mistral",
    sizes=ParameterCounts(
        encoder=WHISPER_LARGE_V3_SHAPE,
        projector=25_165_824,
        lm=TransformerShape(
            3_208_829_952,
            num_layers=30,
            hidden_size=3072,
            intermediate_size=8192,
            num_heads=32,
            num_kv_heads=8,
            head_dim=128,
        ),
        embedding=805_306_368,
        vocab_size=131_072,
    ),
    megabytes=9_400,
    context_length=32_768,
    default_adapter="lora",
    default_learning_rate=5e-5,
    default_epochs=3,
)

AUDIO_FLAMINGO = replace(
    QWEN2_AUDIO,
    key="audio-flamingo-3",
    family="audioflamingo3",
    source="nvidia/audio-flamingo-3-hf",
    revision="7d4bae64ee29878af6504ae6f6bb3e40492838ad",
    license="NVIDIA OneWay Noncommercial",
    placeholder="<sound>",
    audio_prefix="",
    audio_suffix="",
    default_prompt="Transcribe the input speech.",
    sizes=ParameterCounts(
        encoder=WHISPER_LARGE_V3_SHAPE,
        projector=17_439_744,
        lm=TransformerShape(
            6_525_621_760,
            num_layers=28,
            hidden_size=3584,
            intermediate_size=18_944,
            num_heads=28,
            num_kv_heads=4,
        ),
        embedding=1_087_184_896,
        vocab_size=151_672,
    ),
    megabytes=16_540,
    context_length=32_768,
    default_learning_rate=1e-4,
)

GLM_ASR = replace(
    QWEN2_AUDIO,
    key="glm-asr-nano",
    family="glmasr",
    source="zai-org/GLM-ASR-Nano-2512",
    revision="61ba4e0b3309b6656edea3e93e419f7bd5c61957",
    license="MIT",
    audio_spec=replace(
        WHISPER_AUDIO_SPEC, projector_stride=4, floor_tokens=True, pad_mode="uncounted"
    ),
    placeholder="<|pad|>",
    audio_prefix="<|begin_of_audio|>",
    audio_suffix="<|end_of_audio|><|user|>\n",
    default_prompt="Please transcribe this audio into text",
    sizes=ParameterCounts(
        encoder=replace(WHISPER_LARGE_V3_SHAPE, num_parameters=635_048_960),
        projector=29_366_272,
        lm=TransformerShape(
            1_350_682_624,
            num_layers=28,
            hidden_size=2048,
            intermediate_size=6144,
            num_heads=16,
            num_kv_heads=4,
        ),
        embedding=242_745_344,
        vocab_size=59_264,
    ),
    megabytes=4_520,
    default_learning_rate=1e-4,
)

QWEN3_ASR = replace(
    QWEN2_AUDIO,
    key="qwen3-asr-1.7b",
    family="qwen3_asr",
    source="Qwen/Qwen3-ASR-1.7B-hf",
    revision="bcd2b5b7f32b480ab5790554cfa8347f246a14f3",
    audio_spec=replace(
        WHISPER_AUDIO_SPEC,
        encoder_stride=8,
        chunk_frames=100,
        window_samples=1200 * 16_000,
        reflect_right=True,
        min_samples=8_000,
    ),
    mel_before_chunking=True,
    placeholder="<|audio_pad|>",
    audio_prefix="<|audio_start|>",
    audio_suffix="<|audio_end|>",
    default_prompt="",  # its template takes no question
    chat_format="asr",
    sizes=ParameterCounts(
        encoder=TransformerShape(
            314_328_704,
            num_layers=24,
            hidden_size=1024,
            intermediate_size=4096,
            num_heads=16,
            num_kv_heads=16,
        ),
        projector=3_148_800,
        lm=QWEN3_1_7B_SHAPE,
        embedding=311_164_928,
        vocab_size=151_936,
    ),
    megabytes=4_080,
    context_length=65_536,
    default_learning_rate=2e-5,
)

QWEN25_OMNI = replace(
    QWEN2_AUDIO,
    key="qwen2.5-omni-7b",
    family="qwen2_5_omni",
    source="Qwen/Qwen2.5-Omni-7B",
    revision="ae9e1690543ffd5c0221dc27f79834d0294cba00",
    audio_spec=replace(
        WHISPER_AUDIO_SPEC,
        projector_stride=2,
        floor_tokens=True,
        chunk_frames=200,
        window_samples=300 * 16_000,
    ),
    audio_prefix="<|audio_bos|>",
    audio_suffix="<|audio_eos|>",
    chat_format="parts",
    sizes=ParameterCounts(
        encoder=replace(
            WHISPER_LARGE_V3_SHAPE, num_parameters=635_056_128 + 676_550_144
        ),  # vision too
        projector=4_591_104,
        lm=AUDIO_FLAMINGO.sizes.lm,
        embedding=1_089_994_752,
        vocab_size=152_064,
    ),
    megabytes=22_400,
    context_length=32_768,
    default_learning_rate=1e-4,
)

QWEN3_OMNI = replace(
    QWEN3_ASR,
    key="qwen3-omni-30b-a3b",
    family="qwen3_omni_moe",
    source="Qwen/Qwen3-Omni-30B-A3B-Instruct",
    revision="26291f793822fb6be9555850f06dfe95f2d7e695",
    audio_spec=replace(QWEN3_ASR.audio_spec, min_samples=160),
    default_prompt=QWEN2_AUDIO.default_prompt,
    chat_format="parts",
    sizes=ParameterCounts(
        encoder=replace(
            WHISPER_LARGE_V3_SHAPE, num_parameters=643_664_000 + 538_631_408
        ),  # vision too
        projector=4_263_168,
        lm=TransformerShape(
            29_909_792_768,  # 128 experts, of which 8 compute a token
            num_layers=48,
            hidden_size=2048,
            intermediate_size=8 * 768,
            num_heads=32,
            num_kv_heads=4,
            head_dim=128,
        ),
        embedding=622_854_144,
        vocab_size=152_064,
    ),
    megabytes=70_500,
    default_learning_rate=1e-4,
)

# the languages of Whisper's tokenizer in the order of their tokens; large-v3 has one more
WHISPER_LANGUAGES = tuple(
    "en zh de es ru ko fr ja pt tr pl ca nl ar sv it id hi fi vi he uk el ms cs ro da hu ta no th"
    " ur hr bg lt la mi ml cy sk te fa lv bn sr az sl kn et mk br eu is hy ne mn bs kk sq sw gl mr"
    " pa si km sn yo so af oc ka be tg sd gu am yi lo uz fo ht ps tk nn mt sa lb my bo tl mg as tt"
    " haw ln ha ba jw su yue".split()
)
WHISPER_ENGLISH_VOCAB_SIZE = 51_864  # of the English-only models
WHISPER_VOCAB_SIZE = 51_865  # of the multilingual ones, without Cantonese (yue)


def list_whisper_languages(vocab_size: int) -> tuple[str, ...]:
    """Return the languages that a Whisper of this vocabulary has tokens for."""
    if vocab_size <= WHISPER_ENGLISH_VOCAB_SIZE:
        return ("en",)
    return WHISPER_LANGUAGES[: -1 if vocab_size == WHISPER_VOCAB_SIZE else None]


def count_whisper_parameters(spec: ModelSpec) -> ParameterCounts:
    """Count the parameters of a Whisper of these shapes; its head is its embeddings.

    The formula is that of transformers' `WhisperForConditionalGeneration`: keys have no bias, the
    encoder's positions are counted with it, the decoder's with the language model.
    """
    sizes, samples_per_position = spec.sizes, spec.audio_spec.hop_length * 2
    encoder, lm = sizes.encoder, sizes.lm
    hidden = encoder.hidden_size
    norm = 2 * hidden
    attention = 4 * hidden * hidden + 3 * hidden + norm
    mlps = {
        name: 2 * hidden * shape.intermediate_size + shape.intermediate_size + hidden + norm
        for name, shape in (("encoder", encoder), ("lm", lm))
    }
    convs = 3 * hidden * (spec.num_mel_bins + hidden) + 2 * hidden
    positions = spec.audio_spec.window_samples // samples_per_position * hidden
    encoder_layers = encoder.num_layers * (attention + mlps["encoder"])
    lm_layers = lm.num_layers * (2 * attention + mlps["lm"])
    return replace(
        sizes,
        encoder=replace(encoder, num_parameters=convs + positions + encoder_layers + norm),
        lm=replace(lm, num_parameters=spec.context_length * hidden + lm_layers + norm),
        embedding=sizes.vocab_size * hidden,
    )


def _make_whisper_spec(
    name: str,
    revision: str,
    *,
    megabytes: int,
    hidden_size: int,
    num_layers: tuple[int, int],
    num_mel_bins: int = 80,
    license: str = "Apache-2.0",
) -> ModelSpec:
    """The spec of a released Whisper (Radford et al. 2022); layers of encoder and decoder."""
    encoder, decoder = (
        TransformerShape(
            0,
            num_layers=count,
            hidden_size=hidden_size,
            intermediate_size=4 * hidden_size,
            num_heads=hidden_size // 64,
            num_kv_heads=hidden_size // 64,
            cross_attention=is_decoder,
        )
        for count, is_decoder in zip(num_layers, (False, True), strict=True)
    )
    vocab_size = WHISPER_ENGLISH_VOCAB_SIZE if name.endswith(".en") else WHISPER_VOCAB_SIZE
    vocab_size += num_mel_bins == 128  # large-v3 has Cantonese
    spec = ModelSpec(
        key=f"whisper-{name}",
        kind="native",
        family="whisper",
        source=f"openai/whisper-{name}",
        revision=revision,
        license=license,
        audio_spec=replace(WHISPER_AUDIO_SPEC, pad_mode="counted", num_queries=0),
        num_mel_bins=num_mel_bins,
        mel_before_chunking=False,
        placeholder="<|startoflm|>",  # of no use in the released models
        audio_prefix="",
        audio_suffix="",
        default_prompt="",  # it only transcribes; a question is the text before the recording
        chat_format="whisper",
        sizes=ParameterCounts(encoder, 0, decoder, embedding=0, vocab_size=vocab_size),
        megabytes=megabytes,
        context_length=448,
        default_adapter="lora",
        default_learning_rate=1e-3,
        default_epochs=3,
        languages=list_whisper_languages(vocab_size),
    )
    return replace(spec, sizes=count_whisper_parameters(spec))


_WHISPER_TINY: dict[str, Any] = {"megabytes": 151, "hidden_size": 384, "num_layers": (4, 4)}
_WHISPER_BASE: dict[str, Any] = {"megabytes": 290, "hidden_size": 512, "num_layers": (6, 6)}
_WHISPER_SMALL: dict[str, Any] = {"megabytes": 967, "hidden_size": 768, "num_layers": (12, 12)}
_WHISPER_MEDIUM: dict[str, Any] = {"megabytes": 3_060, "hidden_size": 1024, "num_layers": (24, 24)}
WHISPER_SPECS = (
    _make_whisper_spec("tiny", "169d4a4341b33bc18d8881c4b69c2e104e1cc0af", **_WHISPER_TINY),
    _make_whisper_spec("tiny.en", "87c7102498dcde7456f24cfd30239ca606ed9063", **_WHISPER_TINY),
    _make_whisper_spec("base", "e37978b90ca9030d5170a5c07aadb050351a65bb", **_WHISPER_BASE),
    _make_whisper_spec("base.en", "911407f4214e0e1d82085af863093ec0b66f9cd6", **_WHISPER_BASE),
    _make_whisper_spec("small", "973afd24965f72e36ca33b3055d56a652f456b4d", **_WHISPER_SMALL),
    _make_whisper_spec("small.en", "e8727524f962ee844a7319d92be39ac1bd25655a", **_WHISPER_SMALL),
    _make_whisper_spec("medium", "abdf7c39ab9d0397620ccaea8974cc764cd0953e", **_WHISPER_MEDIUM),
    _make_whisper_spec("medium.en", "2e98eb6279edf5095af0c8dedb36bdec0acd172b", **_WHISPER_MEDIUM),
    _make_whisper_spec(
        "large-v3",
        "06f233fe06e710322aca913c1bc4249a0d71fce1",
        megabytes=3_090,
        hidden_size=1280,
        num_layers=(32, 32),
        num_mel_bins=128,
    ),
    _make_whisper_spec(
        "large-v3-turbo",
        "41f01f3fe87f28c78e2fbf8b568835947dd65ed9",
        megabytes=1_620,
        hidden_size=1280,
        num_layers=(32, 4),
        num_mel_bins=128,
        license="MIT",
    ),
)

MODEL_CATALOG = {
    spec.key: spec
    for spec in (
        SPARROW,
        *WHISPER_SPECS,
        QWEN2_AUDIO,
        replace(
            QWEN2_AUDIO,
            key="qwen2-audio-7b",
            source="Qwen/Qwen2-Audio-7B",
            revision="dd84470756e6277a71d4d7188773a43cde92696e",
            audio_prefix="<|audio_bos|>",
            audio_suffix="<|audio_eos|>",
            default_prompt="Detect the language and recognize the speech: <|{language}|>",
            chat_format="plain",
        ),
        VOXTRAL_MINI,
        replace(
            VOXTRAL_MINI,
            key="voxtral-small-24b",
            source="mistralai/Voxtral-Small-24B-2507",
            revision="da5b42409f279fdd92febee0511a6c32828569c1",
            sizes=ParameterCounts(
                encoder=WHISPER_LARGE_V3_SHAPE,
                projector=52_428_800,
                lm=TransformerShape(
                    22_230_225_920,
                    num_layers=40,
                    hidden_size=5120,
                    intermediate_size=32_768,
                    num_heads=32,
                    num_kv_heads=8,
                    head_dim=128,
                ),
                embedding=1_342_177_280,
                vocab_size=131_072,
            ),
            megabytes=48_500,
        ),
        AUDIO_FLAMINGO,
        GLM_ASR,
        QWEN3_ASR,
        QWEN25_OMNI,
        QWEN3_OMNI,
        *COMPOSED_MODEL_SPECS,
    )
}

DEFAULT_AUDIO_MODEL = "qwen2-audio-7b-instruct"  # of `dlm init --audio`
BUNDLED_MODEL = "sparrow"  # of `dlm init`
