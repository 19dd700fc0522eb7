"""A base: the facts on one released model that can hear, and how `base_model` finds them.

A row says everything the plan, the batches and the loader need to know about a base. The rows known
by name are in plan/catalogue.py.

The bases known by name that are stitched from released parts as they are loaded.

RECIPES    each in the form in which a document writes it
ROWS       what is known of each before its parts are asked; then they tell it themselves

The bases known by name: one row for each, facts only. Adding a base is adding a row.

Revisions are the newest seen when the row was written; a document stays with the row's.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, with_config

from dlm.config.model_schema import ComposedModelConfig
from dlm.errors import ModelError
from dlm.legacy import MODEL_SPEC, upgrade
from dlm.plan.audio_lengths import AudioTokenizerSpec

ComponentName = Literal["encoder", "projector", "lm"]
LayerSelection = int | Literal["last", "weighted_sum"]
MODEL_SPEC_FILE = "dlm_base.json"  # beside the weights of a stitched base: its row


@dataclass(frozen=True)
class TransformerShape:
    """The shape of one stack of transformer layers.

    `parameters` without embeddings and head, `inner` the width of the feed-forward part.
    """

    num_parameters: int
    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int = 0  # 0: width / heads


@dataclass(frozen=True)
class ParameterCounts:
    """Parameters by part; `words` are those of embeddings and head."""

    encoder: TransformerShape
    projector: int
    lm: TransformerShape
    embedding: int
    vocab_size: int

    @property
    def num_parameters(self) -> int:
        """All of them."""
        return (
            self.encoder.num_parameters + self.projector + self.lm.num_parameters + self.embedding
        )


@dataclass(frozen=True)
class ComponentRef:
    """Where an encoder or a language model comes from that is stitched to others.

    `source` is as a Base's, "" for random weights; `config` is the one of transformers' class, its
    model_type among it. Of an encoder, `layer` says which of its hidden states are heard: that of
    the last layer, of one counted from 1, or all of them for the projector to weigh.
    """

    source: str
    revision: str | None
    config: dict[str, Any]
    layer: LayerSelection = "last"


@dataclass(frozen=True)
class CompositionSpec:
    """What a base is stitched from as it is loaded.

    What several encoders hear is joined frame by frame, at the rate of the first. `projector` is
    its kind and what that kind takes; `source` among it is where its weights are taken from, as
    source@revision on a hub. `tokenizer` is own, the language model's, or bytes, or the folder of
    another.
    """

    encoders: tuple[ComponentRef, ...]
    projector: dict[str, Any]
    lm: ComponentRef
    tokenizer: str = "own"


@dataclass(frozen=True)
class ModelSpec:
    """Facts on one base.

    `family` is the model type of transformers' class, or "stitched". `bins` mel bins of its ear,
    and `whole_mel` whether a long sound's mel is taken before it is cut into windows. `placeholder`
    is the token that stands for one token of sound, written between `before` and `after`, in which
    {number} counts the sounds of a conversation. `prompt` is what it is asked when a clip only has
    a transcript, {language} in it the clip's, or en; `chat` the form of its conversations: the
    template beside its weights, with each turn as text or in parts, for which it writes the markers
    itself; parts with Qwen3-ASR's answers; mistral-common's; or plain text. `context` is the
    longest row it knows, in tokens. `ear` is what the encoder takes: a mel, or the wave, of which
    it makes its own. `recipe` is None where all weights lie in one place.
    """

    key: str
    kind: Literal["native", "stitched"]
    family: str
    source: str  # "embedded:sparrow", a hub name, or the absolute path of a folder
    revision: str | None
    license: str
    audio_spec: AudioTokenizerSpec
    num_mel_bins: int
    mel_before_chunking: bool
    placeholder: str
    audio_prefix: str
    audio_suffix: str
    default_prompt: str
    chat_format: Literal["template", "parts", "asr", "mistral", "plain"]
    sizes: ParameterCounts
    megabytes: int  # to download, or on disk
    context_length: int
    default_adapter: Literal["lora", "dora", "projector", "full"]  # what the scaffold proposes
    default_learning_rate: float
    default_epochs: int
    encoder_input: Literal["mel", "wave"] = "mel"
    composition: CompositionSpec | None = None


_MODEL_SPEC_TYPE_ADAPTER = TypeAdapter(with_config(ConfigDict(extra="forbid"))(ModelSpec))


def read_model_spec(folder: Path) -> ModelSpec:
    """The row written beside a stitched base's weights. Raises BaseError when it is damaged."""
    try:
        facts = json.loads((folder / MODEL_SPEC_FILE).read_text(encoding="utf-8"))
        return replace(
            _MODEL_SPEC_TYPE_ADAPTER.validate_python(upgrade(facts, MODEL_SPEC)),
            source=str(folder.absolute()),
        )
    except (OSError, ValueError, KeyError, TypeError) as reason:
        raise ModelError(
            f"not the facts of a base ({' '.join(str(reason).split())})",
            where=str(folder / MODEL_SPEC_FILE),
            hint="write the folder again with the tool that made it",
        ) from reason


def write_model_spec(spec: ModelSpec, folder: Path) -> None:
    """Write the row beside the weights, so that a folder is a base of its own."""
    facts = asdict(replace(spec, source="folder", composition=None))
    (folder / MODEL_SPEC_FILE).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


COMPOSED_MODEL_CONFIGS: dict[str, ComposedModelConfig] = {
    key: ComposedModelConfig.model_validate(form)
    for key, form in {
        # The revisions of the parts are those found first: none is pinned.
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
            "before": "Listen: ",  # this GPT normalises what it reads, and zero has no length
        },
    }.items()
}

COMPOSED_WHISPER_AUDIO_SPEC = AudioTokenizerSpec(
    sample_rate=16_000, hop_length=160, encoder_stride=2, projector_stride=1, window_samples=480_000
)

WHISPER_MISTRAL = ModelSpec(
    key="whisper-mistral-openorca",
    kind="stitched",
    family="stitched",
    source="",
    revision=None,
    license="Apache-2.0",
    audio_spec=replace(COMPOSED_WHISPER_AUDIO_SPEC, projector_stride=6, pad_mode="counted"),
    num_mel_bins=128,
    mel_before_chunking=True,
    placeholder="<|audio|>",
    audio_prefix="",
    audio_suffix="\n",
    default_prompt="Describe the sound of the given file",
    chat_format="template",
    sizes=ParameterCounts(
        encoder=TransformerShape(
            636_968_960,
            num_layers=32,
            hidden_size=1280,
            intermediate_size=5120,
            num_heads=20,
            num_kv_heads=20,
        ),
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
        audio_spec=replace(COMPOSED_WHISPER_AUDIO_SPEC, projector_stride=8),
        default_prompt="Transcribe the audio.",
        sizes=ParameterCounts(
            encoder=WHISPER_MISTRAL.sizes.encoder,
            projector=23_079_936,
            lm=TransformerShape(
                1_409_410_048,
                num_layers=28,
                hidden_size=2048,
                intermediate_size=6144,
                num_heads=16,
                num_kv_heads=8,
                head_dim=128,
            ),
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
        audio_spec=replace(COMPOSED_WHISPER_AUDIO_SPEC, projector_stride=4),
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

SPARROW = ModelSpec(
    key="sparrow",
    kind="stitched",
    family="stitched",
    source="embedded:sparrow",
    revision="1",
    license="MIT",
    audio_spec=replace(WHISPER_AUDIO_SPEC, projector_stride=4, window_samples=240_000),
    num_mel_bins=80,
    mel_before_chunking=True,
    placeholder="<|audio|>",
    audio_prefix="",
    audio_suffix="\n",
    default_prompt="Transcribe the audio.",
    chat_format="template",
    sizes=ParameterCounts(
        encoder=TransformerShape(
            3_609_088,
            num_layers=4,
            hidden_size=256,
            intermediate_size=1024,
            num_heads=4,
            num_kv_heads=4,
        ),
        projector=234_048,
        lm=TransformerShape(
            996_960,
            num_layers=3,
            hidden_size=192,
            intermediate_size=384,
            num_heads=4,
            num_kv_heads=2,
        ),
        embedding=147_456,
        vocab_size=768,
    ),
    megabytes=10,
    context_length=2048,
    default_adapter="full",
    default_learning_rate=2e-4,
    default_epochs=15,
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
    audio_spec=replace(WHISPER_AUDIO_SPEC, projector_stride=4, floor_tokens=True, pad_mode="heard"),
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
    default_prompt="",  # its template has no place for a question
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
        lm=TransformerShape(
            1_409_410_048,
            num_layers=28,
            hidden_size=2048,
            intermediate_size=6144,
            num_heads=16,
            num_kv_heads=8,
            head_dim=128,
        ),
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
        ),  # its eyes among them
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
        ),  # its eyes among them
        projector=4_263_168,
        lm=TransformerShape(
            29_909_792_768,  # in 128 experts, of which 8 take part in a word
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

MODEL_CATALOG = {
    base.key: base
    for base in (
        SPARROW,
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

DEFAULT_AUDIO_MODEL = "qwen2-audio-7b-instruct"  # what --audio pins
BUNDLED_MODEL = "sparrow"  # what a laptop starts with
