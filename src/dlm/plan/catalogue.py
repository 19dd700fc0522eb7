"""The bases known by name: one row for each, facts only. Adding a base is adding a row.

Revisions are the newest seen when the row was written; a document stays with the row's.
"""

from dataclasses import replace

from dlm.plan.bases import Base, Sizes, Tower
from dlm.plan.frames import Strides
from dlm.plan.recipes import ROWS

WHISPER = Strides(rate=16_000, hop=160, encoder=2, projector=1, window=480_000)

LARGE_V3 = Tower(636_968_960, layers=32, width=1280, inner=5120, heads=20, kv_heads=20)

SPARROW = Base(
    key="sparrow",
    kind="stitched",
    family="stitched",
    source="embedded:sparrow",
    revision="1",
    license="MIT",
    strides=replace(WHISPER, projector=4, window=240_000),
    bins=80,
    whole_mel=True,
    placeholder="<|audio|>",
    before="",
    after="\n",
    prompt="Transcribe the audio.",
    chat="template",
    sizes=Sizes(
        encoder=Tower(3_609_088, layers=4, width=256, inner=1024, heads=4, kv_heads=4),
        projector=234_048,
        lm=Tower(996_960, layers=3, width=192, inner=384, heads=4, kv_heads=2),
        words=147_456,
        vocabulary=768,
    ),
    megabytes=10,
    context=2048,
    adapter="full",
    learning_rate=2e-4,
    epochs=15,
)

QWEN2_AUDIO = Base(
    key="qwen2-audio-7b-instruct",
    kind="native",
    family="qwen2_audio",
    source="Qwen/Qwen2-Audio-7B-Instruct",
    revision="0a095220c30b7b31434169c3086508ef3ea5bf0a",
    license="Apache-2.0",
    strides=replace(WHISPER, projector=2, drops=True, tail=2),
    bins=128,
    whole_mel=False,
    placeholder="<|AUDIO|>",
    before="Audio {number}: <|audio_bos|>",
    after="<|audio_eos|>\n",
    prompt="Transcribe the audio.",
    chat="template",
    sizes=Sizes(
        encoder=LARGE_V3,
        projector=5_246_976,
        lm=Tower(6_476_664_832, layers=32, width=4096, inner=11008, heads=32, kv_heads=32),
        words=1_278_214_144,
        vocabulary=156_032,
    ),
    megabytes=16_800,
    context=8192,
    adapter="lora",
    learning_rate=2e-4,
    epochs=3,
)

VOXTRAL = Base(
    key="voxtral-mini-3b",
    kind="native",
    family="voxtral",
    source="mistralai/Voxtral-Mini-3B-2507",
    revision="3060fe34b35ba5d44202ce9ff3c097642914f8f3",
    license="Apache-2.0",
    strides=replace(WHISPER, projector=4, fill="counted"),
    bins=128,
    whole_mel=True,
    placeholder="[AUDIO]",
    before="",
    after="",
    prompt="",  # a recording without a question is a request to transcribe it
    chat="mistral",
    sizes=Sizes(
        encoder=LARGE_V3,
        projector=25_165_824,
        lm=Tower(
            3_208_829_952, layers=30, width=3072, inner=8192, heads=32, kv_heads=8, head_width=128
        ),
        words=805_306_368,
        vocabulary=131_072,
    ),
    megabytes=9_400,
    context=32_768,
    adapter="lora",
    learning_rate=5e-5,
    epochs=3,
)

AUDIO_FLAMINGO = replace(
    QWEN2_AUDIO,
    key="audio-flamingo-3",
    family="audioflamingo3",
    source="nvidia/audio-flamingo-3-hf",
    revision="7d4bae64ee29878af6504ae6f6bb3e40492838ad",
    license="NVIDIA OneWay Noncommercial",
    placeholder="<sound>",
    before="",
    after="",
    prompt="Transcribe the input speech.",
    sizes=Sizes(
        encoder=LARGE_V3,
        projector=17_439_744,
        lm=Tower(6_525_621_760, layers=28, width=3584, inner=18_944, heads=28, kv_heads=4),
        words=1_087_184_896,
        vocabulary=151_672,
    ),
    megabytes=16_540,
    context=32_768,
    learning_rate=1e-4,
)

GLM_ASR = replace(
    QWEN2_AUDIO,
    key="glm-asr-nano",
    family="glmasr",
    source="zai-org/GLM-ASR-Nano-2512",
    revision="61ba4e0b3309b6656edea3e93e419f7bd5c61957",
    license="MIT",
    strides=replace(WHISPER, projector=4, drops=True, fill="heard"),
    placeholder="<|pad|>",
    before="<|begin_of_audio|>",
    after="<|end_of_audio|><|user|>\n",
    prompt="Please transcribe this audio into text",
    sizes=Sizes(
        encoder=replace(LARGE_V3, parameters=635_048_960),
        projector=29_366_272,
        lm=Tower(1_350_682_624, layers=28, width=2048, inner=6144, heads=16, kv_heads=4),
        words=242_745_344,
        vocabulary=59_264,
    ),
    megabytes=4_520,
    learning_rate=1e-4,
)

QWEN3_ASR = replace(
    QWEN2_AUDIO,
    key="qwen3-asr-1.7b",
    family="qwen3_asr",
    source="Qwen/Qwen3-ASR-1.7B-hf",
    revision="bcd2b5b7f32b480ab5790554cfa8347f246a14f3",
    strides=replace(WHISPER, encoder=8, chunk=100, window=1200 * 16_000, mirrors=True, least=8_000),
    whole_mel=True,
    placeholder="<|audio_pad|>",
    before="<|audio_start|>",
    after="<|audio_end|>",
    prompt="",  # its template has no place for a question
    chat="asr",
    sizes=Sizes(
        encoder=Tower(314_328_704, layers=24, width=1024, inner=4096, heads=16, kv_heads=16),
        projector=3_148_800,
        lm=Tower(
            1_409_410_048, layers=28, width=2048, inner=6144, heads=16, kv_heads=8, head_width=128
        ),
        words=311_164_928,
        vocabulary=151_936,
    ),
    megabytes=4_080,
    context=65_536,
    learning_rate=2e-5,
)

QWEN25_OMNI = replace(
    QWEN2_AUDIO,
    key="qwen2.5-omni-7b",
    family="qwen2_5_omni",
    source="Qwen/Qwen2.5-Omni-7B",
    revision="ae9e1690543ffd5c0221dc27f79834d0294cba00",
    strides=replace(WHISPER, projector=2, drops=True, chunk=200, window=300 * 16_000),
    before="<|audio_bos|>",
    after="<|audio_eos|>",
    chat="parts",
    sizes=Sizes(
        encoder=replace(LARGE_V3, parameters=635_056_128 + 676_550_144),  # its eyes among them
        projector=4_591_104,
        lm=AUDIO_FLAMINGO.sizes.lm,
        words=1_089_994_752,
        vocabulary=152_064,
    ),
    megabytes=22_400,
    context=32_768,
    learning_rate=1e-4,
)

QWEN3_OMNI = replace(
    QWEN3_ASR,
    key="qwen3-omni-30b-a3b",
    family="qwen3_omni_moe",
    source="Qwen/Qwen3-Omni-30B-A3B-Instruct",
    revision="26291f793822fb6be9555850f06dfe95f2d7e695",
    strides=replace(QWEN3_ASR.strides, least=160),
    prompt=QWEN2_AUDIO.prompt,
    chat="parts",
    sizes=Sizes(
        encoder=replace(LARGE_V3, parameters=643_664_000 + 538_631_408),  # its eyes among them
        projector=4_263_168,
        lm=Tower(
            29_909_792_768,  # in 128 experts, of which 8 take part in a word
            layers=48,
            width=2048,
            inner=8 * 768,
            heads=32,
            kv_heads=4,
            head_width=128,
        ),
        words=622_854_144,
        vocabulary=152_064,
    ),
    megabytes=70_500,
    learning_rate=1e-4,
)

CATALOGUE = {
    base.key: base
    for base in (
        SPARROW,
        QWEN2_AUDIO,
        replace(
            QWEN2_AUDIO,
            key="qwen2-audio-7b",
            source="Qwen/Qwen2-Audio-7B",
            revision="dd84470756e6277a71d4d7188773a43cde92696e",
            before="<|audio_bos|>",
            after="<|audio_eos|>",
            prompt="Detect the language and recognize the speech: <|{language}|>",
            chat="plain",
        ),
        VOXTRAL,
        replace(
            VOXTRAL,
            key="voxtral-small-24b",
            source="mistralai/Voxtral-Small-24B-2507",
            revision="da5b42409f279fdd92febee0511a6c32828569c1",
            sizes=Sizes(
                encoder=LARGE_V3,
                projector=52_428_800,
                lm=Tower(
                    22_230_225_920,
                    layers=40,
                    width=5120,
                    inner=32_768,
                    heads=32,
                    kv_heads=8,
                    head_width=128,
                ),
                words=1_342_177_280,
                vocabulary=131_072,
            ),
            megabytes=48_500,
        ),
        AUDIO_FLAMINGO,
        GLM_ASR,
        QWEN3_ASR,
        QWEN25_OMNI,
        QWEN3_OMNI,
        *ROWS,
    )
}

DEFAULT = "qwen2-audio-7b-instruct"  # what --audio pins
EMBEDDED = "sparrow"  # what a laptop starts with
