"""The bases known by name that are stitched from released parts as they are loaded.

RECIPES    each in the form in which a document writes it
ROWS       what is known of each before its parts are asked; then they tell it themselves
"""

from dataclasses import replace

from dlm.document.stitching import Stitching
from dlm.plan.bases import Base, Sizes, Tower
from dlm.plan.frames import Strides

RECIPES: dict[str, Stitching] = {
    key: Stitching.model_validate(form)
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

WHISPER = Strides(rate=16_000, hop=160, encoder=2, projector=1, window=480_000)

MISTRAL = Base(
    key="whisper-mistral-openorca",
    kind="stitched",
    family="stitched",
    source="",
    revision=None,
    license="Apache-2.0",
    strides=replace(WHISPER, projector=6, fill="counted"),
    bins=128,
    whole_mel=True,
    placeholder="<|audio|>",
    before="",
    after="\n",
    prompt="Describe the sound of the given file",
    chat="template",
    sizes=Sizes(
        encoder=Tower(636_968_960, layers=32, width=1280, inner=5120, heads=20, kv_heads=20),
        projector=5_245_440,
        lm=Tower(6_979_588_096, layers=32, width=4096, inner=14_336, heads=32, kv_heads=8),
        words=262_160_384,
        vocabulary=32_002,
    ),
    megabytes=17_600,
    context=32_768,
    adapter="projector",
    learning_rate=1.5e-3,
    epochs=10,
)

ROWS = (
    MISTRAL,
    replace(
        MISTRAL,
        key="whisper-qwen3",
        license="MIT and Apache-2.0",
        strides=replace(WHISPER, projector=8),
        prompt="Transcribe the audio.",
        sizes=Sizes(
            encoder=MISTRAL.sizes.encoder,
            projector=23_079_936,
            lm=Tower(
                1_409_410_048,
                layers=28,
                width=2048,
                inner=6144,
                heads=16,
                kv_heads=8,
                head_width=128,
            ),
            words=311_164_928,
            vocabulary=151_936,
        ),
        megabytes=5_700,
        context=40_960,
        learning_rate=1e-3,
    ),
    replace(
        MISTRAL,
        key="nanochat-omni-d6",
        strides=replace(WHISPER, projector=4),
        bins=80,
        before="Listen: ",
        prompt="Transcribe the audio.",
        chat="plain",
        sizes=Sizes(
            encoder=Tower(20_590_592, layers=6, width=512, inner=2048, heads=8, kv_heads=8),
            projector=933_888,
            lm=Tower(10_616_832, layers=6, width=384, inner=1536, heads=3, kv_heads=3),
            words=199_680,
            vocabulary=260,
        ),
        megabytes=290,
        context=1024,
        adapter="full",
        learning_rate=1e-3,
    ),
)
