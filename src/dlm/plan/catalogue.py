"""The bases known by name: one row for each, facts only. Adding a base is adding a row.

Revisions are the newest seen when the row was written; a document stays with the row's.
"""

from dataclasses import replace

from dlm.plan.bases import Base, Sizes, Tower
from dlm.plan.frames import Strides

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
            prompt="Detect the language and recognize the speech: <|en|>",
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
    )
}

DEFAULT = "qwen2-audio-7b-instruct"  # what --audio pins
EMBEDDED = "sparrow"  # what a laptop starts with
