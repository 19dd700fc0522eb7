"""Whisper as a base: logits, gradients and greedy texts of transformers' own class, in fp32.

The released models are those of the folder that DLM_REAL_PARTS names (marker `weights`).
"""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file

from dlm.batching.collator import Batch, PaddingSpec, collate
from dlm.batching.mistral_chat import build_chat_encoder
from dlm.batching.whisper_chat import WhisperChatEncoder
from dlm.commands.infer import resolve_inference_target
from dlm.commands.preflight import resolve_version
from dlm.config.schema import TrainingConfig
from dlm.data.types import AudioSegment, Example, Message
from dlm.errors import DataError, ModelError
from dlm.features.extractor import AudioFeatureExtractor
from dlm.inference.engine import batch_generate, load_engine
from dlm.inference.transcribe import TIMESTAMP_RE
from dlm.models.adapters import apply_adapter, get_param_group, get_trainable_parameters
from dlm.models.generate import GenerationConfig, generate
from dlm.models.load import load_base_model
from dlm.models.pretrained import Whisper
from dlm.plan.audio_lengths import ceil_div, compute_window_lengths
from dlm.plan.languages import set_padding
from dlm.plan.model_spec import MODEL_CATALOG, ModelSpec
from dlm.plan.resolve import resolve_model_spec
from dlm.plan.types import AdapterSpec
from dlm.training.loss import AudioLMLoss
from tests.cli_runner import dlm
from tests.pretrained_twins import extract_reference_inputs, write_pretrained_twin
from tests.tiny_models import SAMPLE_RATE, write_tone

TOLERANCE = 1e-5
MULTILINGUAL, ENGLISH = "whisper-tiny", "whisper-tiny.en"
NUM_SAMPLES = (16_037, 9_000, 31_999, 3_000)
TEXTS = ("yes", "a long answer", "no", "")


@pytest.fixture(scope="module")
def segments(tmp_path_factory: pytest.TempPathFactory) -> list[AudioSegment]:
    """Noise of four lengths."""
    folder, rng = tmp_path_factory.mktemp("sounds"), np.random.default_rng(0)
    paths = [folder / f"{number}.wav" for number in range(len(NUM_SAMPLES))]
    for path, length in zip(paths, NUM_SAMPLES, strict=True):
        soundfile.write(path, rng.normal(0, 0.1, length), SAMPLE_RATE, "FLOAT")
    return [AudioSegment(path) for path in paths]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    keys = (MULTILINGUAL, ENGLISH)
    return {key: write_pretrained_twin(key, tmp_path_factory.mktemp(key)) for key in keys}


def load_whisper(folder: Path) -> Whisper:
    model = load_base_model(resolve_model_spec(str(folder), Path()))
    assert isinstance(model, Whisper)
    return model


def make_example(
    segment: AudioSegment, text: str = "yes", language: str | None = "en", prompt: str = ""
) -> Example:
    question = Message("user", (segment, prompt) if prompt else (segment,))
    return Example((question, Message("assistant", (text,))), "clip", "transcribe", language)


def make_batch(
    model: Whisper, examples: list[Example], extractor: AudioFeatureExtractor | None = None
) -> Batch:
    chat_encoder = build_chat_encoder(model.tokenizer, model.spec)
    extractor = extractor or AudioFeatureExtractor(model.spec, auto_resample=False)
    padding = PaddingSpec(chat_encoder.pad_token_id, chat_encoder.audio_token_id)
    return collate([chat_encoder.encode_example(each) for each in examples], extractor, padding)


def compute_reference(model: Whisper, batch: Batch, examples: list[Example]):
    """The class's own forward on its own extractor's features."""
    waves = [
        soundfile.read(segment.path, dtype="float32")[0]
        for example in examples
        for segment in example.audio_segments
    ]
    return model.whole(
        **extract_reference_inputs(model.spec, waves),
        decoder_input_ids=batch.input_ids,
        decoder_attention_mask=batch.attention_mask,
    )


def compute_logits(model: Whisper, batch: Batch) -> torch.Tensor:
    return model.compute_logits(model.forward_lm(*model.make_lm_inputs(batch)))


@torch.no_grad()
def test_clips_without_padding_are_those_alone(folders, segments, tmp_path: Path) -> None:
    """A batch of clips of their own lengths: the class's decoder on the frames of each clip."""
    spec = set_padding(resolve_model_spec(str(folders[MULTILINGUAL]), Path()), pad_to_window=False)
    model = load_base_model(spec)
    assert isinstance(model, Whisper)
    examples = [make_example(segment) for segment in segments]
    batch = make_batch(model, examples)
    logits = compute_logits(model, batch)
    for encode_fn in (None, model.encode_single):
        extractor = AudioFeatureExtractor(spec, auto_resample=False, encode_fn=encode_fn)
        for row, example in enumerate(examples):
            single = make_batch(model, [example], extractor)
            assert (logits[row] - compute_logits(model, single)[0]).abs().max() < TOLERANCE
    hidden = model.encode_single(*_get_mel(spec, segments[1]))
    assert len(hidden) == ceil_div(NUM_SAMPLES[1], 320)
    outputs = model.whole(
        encoder_outputs=(hidden[None],), decoder_input_ids=batch.input_ids[1][None]
    )
    assert (logits[1] - outputs.logits[0]).abs().max() < TOLERANCE
    padded = load_whisper(folders[MULTILINGUAL])
    assert (compute_logits(padded, make_batch(padded, examples)) - logits).abs().max() > 0.01


def _get_mel(spec: ModelSpec, segment: AudioSegment) -> tuple[torch.Tensor, int]:
    (window,) = AudioFeatureExtractor(spec, auto_resample=False)(segment)
    return window.values, window.num_frames


@pytest.mark.parametrize("key", [MULTILINGUAL, ENGLISH])
@torch.no_grad()
def test_logits_equal_those_of_the_class(key: str, folders, segments, tmp_path: Path) -> None:
    """With log-mels, and with features of a frozen encoder from memory and disk."""
    model = load_whisper(folders[key])
    examples = [
        make_example(segment, text or "x", prompt="Ann, Bo" * (text == "no"))
        for segment, text in zip(segments, TEXTS, strict=True)
    ]
    batch = make_batch(model, examples)
    visible = batch.attention_mask.bool()
    reference = compute_reference(model, batch, examples).logits[visible]
    logits = compute_logits(model, batch)[visible]
    assert logits.std() > 0.1
    assert (logits - reference).abs().max() < TOLERANCE
    for _ in range(2):
        extractor = AudioFeatureExtractor(
            model.spec, auto_resample=False, encode_fn=model.encode_single, cache_dir=tmp_path
        )
        cached = make_batch(model, examples, extractor)
        assert cached.is_encoded
        assert (compute_logits(model, cached)[visible] - reference).abs().max() < TOLERANCE


@pytest.mark.parametrize("key", [MULTILINGUAL, ENGLISH])
def test_gradients_equal_those_of_the_class(key: str, folders, segments) -> None:
    model = load_whisper(folders[key])
    apply_adapter(model, AdapterSpec("lora", 4, 8, 0.0, ("lm", "encoder"), None), seed=0)
    for name, parameter in get_trainable_parameters(model).items():
        if ".lora_B" in name:  # zero at first, which would hide lora_A
            torch.nn.init.normal_(parameter, std=0.02)
    examples = [make_example(segments[0], "a long answer"), make_example(segments[1])]
    batch = make_batch(model, examples)
    loss = AudioLMLoss(model)(batch).total_loss.sum() / batch.num_label_tokens
    grads = compute_gradients(model, loss)
    reference = compute_reference(model, batch, examples).logits[:, :-1].flatten(0, 1)
    targets = batch.labels[:, 1:].flatten()
    reference_loss = torch.nn.functional.cross_entropy(reference, targets, ignore_index=-100)
    assert abs(loss - reference_loss) < TOLERANCE
    reference_grads = compute_gradients(model, reference_loss)
    assert grads.keys() == reference_grads.keys()
    for name, grad in grads.items():
        assert (grad - reference_grads[name]).abs().max() < TOLERANCE, name
    for part in ("encoder.layers", "decoder.layers.0.self_attn", "encoder_attn", "decoder", "fc1"):
        assert any(part in name and grad.abs().max() > 1e-6 for name, grad in grads.items()), part


def compute_gradients(model: Whisper, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    trainable = get_trainable_parameters(model)
    return {name: each.grad.clone() for name, each in trainable.items() if each.grad is not None}


def exclude_timestamps(model: Whisper) -> None:
    """A random model would generate little else, and they are no text."""
    config = model.whole.generation_config
    timestamps = range(config.no_timestamps_token_id, len(model.tokenizer))
    config.suppress_tokens = [*config.suppress_tokens, *timestamps]


@pytest.mark.parametrize("language", ["fr", None])
def test_texts_of_a_batch_are_those_of_the_class(language: str | None, folders, segments) -> None:
    """With a language, or detected; the tokens that the class never generates excluded."""
    model = load_whisper(folders[MULTILINGUAL])
    exclude_timestamps(model)
    chat_encoder = build_chat_encoder(model.tokenizer, model.spec)
    extractor = AudioFeatureExtractor(model.spec, auto_resample=False)
    prompts = [
        chat_encoder.encode_prompt((Message("user", (segment,)),), "here", language)
        for segment in segments
    ]
    texts = generate(model, chat_encoder, prompts, extractor, GenerationConfig(max_new_tokens=12))
    assert any(texts)
    waves = [soundfile.read(segment.path, dtype="float32")[0] for segment in segments]
    token_ids = model.whole.generate(
        **extract_reference_inputs(model.spec, waves),
        language=language,
        task="transcribe",
        max_new_tokens=12,
        do_sample=False,
    )
    assert texts == [chat_encoder.decode(row).strip() for row in token_ids.tolist()]


@torch.no_grad()
@pytest.mark.parametrize("key", [MULTILINGUAL, ENGLISH])
def test_timestamps_are_those_of_the_class(key: str, folders, segments) -> None:
    """Between times that do not go back, in each row of a batch."""
    model = load_whisper(folders[key])
    torch.manual_seed(1)
    table = model.embed_tokens.get_parameter("weight")
    table.copy_(torch.randn_like(table))
    chat_encoder = build_chat_encoder(model.tokenizer, model.spec)
    assert isinstance(chat_encoder, WhisperChatEncoder)
    chat_encoder = chat_encoder.with_timestamps()
    extractor = AudioFeatureExtractor(model.spec, auto_resample=False)
    examples = [make_example(segment) for segment in segments]
    prompts = [chat_encoder.encode_prompt(each.messages[:1], "here", "en") for each in examples]
    config = GenerationConfig(max_new_tokens=12)
    texts = generate(model, chat_encoder, prompts, extractor, config)
    waves = [extractor.load_audio(segment) for segment in segments]
    token_ids = model.whole.generate(
        **extract_reference_inputs(model.spec, waves),
        decoder_input_ids=torch.tensor([prompts[0].input_ids[1:]]).repeat(len(waves), 1),
        return_timestamps=True,
        max_new_tokens=12,
        do_sample=False,
    )
    assert texts == [chat_encoder.decode(row).strip() for row in token_ids.tolist()]
    for text in texts:
        times = list(map(float, TIMESTAMP_RE.findall(text)))
        assert times and times == sorted(times)


def test_an_english_model_generates_as_the_class(folders, segments) -> None:
    engine = load_engine(
        resolve_model_spec(str(folders[ENGLISH]), Path()), None, device="cpu", config=CONFIG
    )
    assert isinstance(engine.model, Whisper)
    exclude_timestamps(engine.model)
    examples = [make_example(segments[2], language=None)]
    ((_, text),) = batch_generate(engine, examples)
    assert text
    wave = soundfile.read(segments[2].path, dtype="float32")[0]
    token_ids = engine.model.whole.generate(
        **extract_reference_inputs(engine.model.spec, [wave]), max_new_tokens=400, do_sample=False
    )
    reference = engine.chat_encoder.decode(token_ids[0].tolist()).strip()
    # the engine stops where nobody speaks faster: 60 characters and 40 a second
    assert len(text) == len(reference) or engine.cut_locations and len(text) > 140
    assert reference[: len(text)] == text


def test_a_prompt_is_the_text_before_the_transcript(folders, segments) -> None:
    """As transformers' processor writes it, the last part of a long one."""
    model = load_whisper(folders[MULTILINGUAL])
    chat_encoder = build_chat_encoder(model.tokenizer, model.spec)
    example = make_example(segments[0], "oui", "fr", prompt="Ann")
    encoded = chat_encoder.encode_example(example)
    assert chat_encoder.decode_raw(list(encoded.input_ids)) == (
        "<|startoflm|><|startofprev|> Ann<|startoftranscript|><|fr|><|transcribe|>"
        "<|notimestamps|> oui<|endoftext|>"
    )
    assert chat_encoder.decode_raw(list(encoded.label_ids)) == " oui<|endoftext|>"
    long_prompt = chat_encoder.encode_prompt(
        (Message("user", (segments[0], "x" * 300)),), "here", "zh"
    )
    assert chat_encoder.decode_raw(list(long_prompt.input_ids)).count("x") == 448 // 2 - 1
    unspaced = chat_encoder.encode_example(make_example(segments[0], "hao", "zh"))
    assert chat_encoder.decode_raw(list(unspaced.label_ids)) == "hao<|endoftext|>"


CONFIG = TrainingConfig()
TEXT_ONLY = Example((Message("assistant", ("prose",)),), "clip", "text")


def make_refused_examples(segments: list[AudioSegment]) -> dict[str, Example]:
    two = Example(
        (Message("user", (segments[0], segments[1])), Message("assistant", ("x",))),
        "clip",
        "transcribe",
        "en",
    )
    return {
        "data.model_only_transcribes": two,
        "data.no_language": make_example(segments[0], language=None),
        "data.other_language": make_example(segments[0], language="de"),
        "data.special_token": make_example(segments[0], text="<|fr|> oui"),
    }


@pytest.mark.parametrize("code", list(make_refused_examples([AudioSegment(Path("a"))] * 2)))
def test_what_whisper_cannot_learn_is_refused(code: str, folders, segments) -> None:
    model = load_whisper(folders[MULTILINGUAL])
    chat_encoder = build_chat_encoder(model.tokenizer, model.spec)
    with pytest.raises(DataError) as caught:
        chat_encoder.encode_example(make_refused_examples(segments)[code])
    assert caught.value.code == code


def test_text_without_audio_is_refused(folders) -> None:
    model = load_whisper(folders[MULTILINGUAL])
    with pytest.raises(DataError) as caught:
        build_chat_encoder(model.tokenizer, model.spec).encode_example(TEXT_ONLY)
    assert caught.value.code == "data.model_only_transcribes"


def test_an_english_model_asked_for_french_is_refused(folders, segments) -> None:
    model = load_whisper(folders[ENGLISH])
    chat_encoder = build_chat_encoder(model.tokenizer, model.spec)
    with pytest.raises(DataError) as caught:
        chat_encoder.encode_prompt((Message("user", (segments[0],)),), "here", "fr")
    assert caught.value.code == "data.other_language"
    assert chat_encoder.encode_example(make_example(segments[0], language=None)).label_ids


def test_more_than_one_window_is_refused(folders, tmp_path: Path) -> None:
    model = load_whisper(folders[ENGLISH])
    soundfile.write(tmp_path / "long.wav", np.zeros(40_000), SAMPLE_RATE)
    batch = make_batch(model, [make_example(AudioSegment(tmp_path / "long.wav"))])
    assert batch.windows_per_example == (2,)
    with pytest.raises(DataError) as caught:
        model.make_lm_inputs(batch)
    assert caught.value.code == "data.not_one_window"


@pytest.mark.parametrize("components", [("lm",), ("encoder",), ("lm", "encoder")])
def test_lora_is_on_the_named_components_only(components, folders) -> None:
    model = load_whisper(folders[ENGLISH])
    apply_adapter(model, AdapterSpec("lora", 4, 8, 0.0, components, None), seed=0)
    names = list(get_trainable_parameters(model))
    prefixes = tuple(prefix for name in components for prefix in model.param_prefixes[name])
    assert names and all(name.startswith(prefixes) for name in names)
    assert not any("proj_out" in name for name in names)  # the head is the embeddings


def test_full_training_leaves_only_the_encoder_positions(folders) -> None:
    model = load_whisper(folders[ENGLISH])
    apply_adapter(model, AdapterSpec("full", 4, 8, 0.0, ("encoder", "lm"), None), seed=0)
    frozen = [name for name, each in model.named_parameters() if not each.requires_grad]
    assert frozen == ["whole.model.encoder.embed_positions.weight"]
    groups = {get_param_group(name, model) for name in get_trainable_parameters(model)}
    assert groups == {"encoder", "lm"}


def test_the_catalog_has_the_sizes_of_the_papers_models() -> None:
    """Parameters as transformers counts them, and the window of 30 s kept."""
    sizes = {"tiny": 37_760_640, "base": 72_593_920, "small": 241_734_912}
    sizes |= {"medium": 763_857_920, "large-v3": 1_543_490_560, "large-v3-turbo": 808_878_080}
    for name, num_parameters in sizes.items():
        spec = MODEL_CATALOG[f"whisper-{name}"]
        assert spec.sizes.num_parameters == num_parameters
        assert compute_window_lengths(500_000, spec.audio_spec) == (480_000, 20_000)
        assert len(spec.languages) == (100 if "v3" in name else 99)
    assert MODEL_CATALOG[ENGLISH].languages == ("en",)


# bad inputs, from the command line


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("generation_config.json", "model.no_generation_config"),
        ("tokenizer.json", "model.no_tokenizer"),
    ],
)
def test_a_folder_without_one_of_its_files_is_refused(name: str, code: str, tmp_path: Path) -> None:
    folder = write_pretrained_twin(ENGLISH, tmp_path)
    (folder / name).unlink()
    with pytest.raises(ModelError) as caught:
        resolve_model_spec(str(folder), Path())
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("names", "word"),
    [
        (("model.bin", "config.json", "vocabulary.json"), "CTranslate2"),
        (("whisper-base.gguf",), "GGUF"),
        (("ggml-base.bin",), "whisper.cpp"),
    ],
)
def test_weights_of_another_runtime_are_named(
    names: tuple[str, ...], word: str, tmp_path: Path
) -> None:
    for name in names:
        (tmp_path / name).write_text("{}")
    with pytest.raises(ModelError) as caught:
        resolve_model_spec(str(tmp_path), Path())
    assert caught.value.code == "model.other_format"
    assert word in caught.value.what
    assert caught.value.hint and "hf:openai/whisper-base" in caught.value.hint


def test_right_names_of_wrong_shapes_are_refused(tmp_path: Path) -> None:
    folder = write_pretrained_twin(ENGLISH, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    name = "model.decoder.layers.1.encoder_attn.k_proj.weight"
    tensors[name] = torch.zeros(8, 32)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError) as caught:
        load_whisper(folder)
    assert caught.value.code == "model.damaged_checkpoint"
    assert name in caught.value.what and "[8, 32], not [32, 32]" in caught.value.what


DOCUMENT = """---
dlm_id: 01ARZ3NDEKTSV4RRFFQ69G5FAV
dlm_version: 15
base_model: ./base
training:
  adapter: {adapter}
  freeze_encoder: true
  precision: fp32
  held_out: 0
  num_epochs: 60
  learning_rate: 0.01
  audio: {{language: {language}, task: {task}}}
---

::audio path="a.wav" transcript="{text}"::

::audio path="b.wav" transcript="high"::
"""


def write_document(
    folder: Path,
    *,
    key: str = MULTILINGUAL,
    adapter: str = "lora",
    language: str = "fr",
    text: str = "low",
    seconds: float = 1.2,
    task: str = "transcribe",
) -> None:
    write_pretrained_twin(key, folder / "base")
    write_tone(folder / "a.wav", hertz=200, seconds=seconds)
    write_tone(folder / "b.wav", hertz=1900, seconds=0.7)
    values = {"adapter": adapter, "language": language, "text": text, "task": task}
    (folder / "my.dlm").write_text(DOCUMENT.format(**values))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"language": "de"}, "data.other_language"),
        ({"language": "null"}, "data.no_language"),
        ({"key": ENGLISH}, "data.other_language"),
        ({"text": "x" * 450}, "data.too_long"),
        ({"seconds": 2.5}, "data.not_one_window"),
        ({"adapter": "projector"}, "plan.nothing_to_train"),
        ({"key": ENGLISH, "language": "en", "task": "translate"}, "model.no_task_token"),
    ],
)
def test_what_a_document_asks_of_whisper_in_vain_is_refused(
    changes: dict, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_document(tmp_path, **changes)
    assert dlm("train", "my.dlm", "--device", "cpu").error == code


def test_a_document_may_ask_for_a_translation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task is a token of the prompt in training and in use; the text is not checked as Chinese.

    Its neighbours are a transcript in the language of the recording, a base without the token, and
    a version, which keeps the task it was trained with.
    """
    monkeypatch.chdir(tmp_path)
    write_document(tmp_path, task="translate", language="zh", adapter="full")
    checked = dlm("check", "my.dlm", "--show-labels")
    assert checked.code == 0 and "written in" not in checked.out + checked.err
    assert "<|zh|><|translate|><|notimestamps|>" in checked.out.replace(" ", "")
    assert dlm("train", "my.dlm", "--steps", 1, "--device", "cpu").code == 0
    document, spec, _ = resolve_version(Path("my.dlm"), None)
    engine = load_engine(spec, None, device="cpu", config=document.config.training)
    prompt = engine.chat_encoder.encode_prompt(
        (Message("user", (AudioSegment(Path("a.wav")),)),), "here", "zh"
    )
    assert "<|zh|><|translate|>" in engine.chat_encoder.decode_raw(prompt.input_ids)


def test_a_version_learned_without_padding_is_used_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the document says later; the base alone keeps its window, also to be compared."""
    monkeypatch.chdir(tmp_path)
    write_document(tmp_path, adapter="full")
    path = Path("my.dlm")
    text = path.read_text().replace("held_out: 0", "held_out: 1")
    path.write_text(text.replace("task: transcribe", "pad_to_window: false"))
    spoken = dlm("prompt", path, "x", "--audio", "b.wav", "--base").out
    for _ in range(2):  # the second run compares its version with the first, and the base
        trained = dlm("train", path, "--steps", 20, "--device", "cpu")
        assert trained.code == 0, trained.err
    path.write_text(text)
    _, spec, _ = resolve_version(path, None)
    assert spec.audio_spec.pad_mode == "none"
    assert (
        resolve_inference_target(path, None, base_only=True, device="cpu").spec.audio_spec.pad_mode
        == "counted"
    )
    assert dlm("prompt", path, "x", "--audio", "b.wav", "--base").out == spoken
    assert dlm("eval", path).code == 0 and dlm("transcribe", path, "b.wav").code == 0


def test_only_a_whisper_writes_timestamps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a random one lie within the recording; those of a trained one are tested below."""
    monkeypatch.chdir(tmp_path)
    write_document(tmp_path)
    result = dlm("transcribe", "my.dlm", "b.wav", "--base", "--timestamps", "--json")
    assert result.code == 0, result.err
    for segment in json.loads(result.out)["segments"]:
        assert 0 <= segment["start"] <= segment["end"] <= 0.7
    dlm("transcribe", "b.wav", "--timestamps").refused(error="usage.no_timestamps", code=2)


def test_only_a_whisper_has_a_choice_of_padding(tmp_path: Path) -> None:
    path = tmp_path / "my.dlm"
    assert dlm("init", path, "--audio").code == 0
    result = dlm("check", path, "--set", "training.audio.pad_to_window=false")
    assert result.error == "model.no_padding_choice"


def test_an_english_model_is_not_asked_to_transcribe_french(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_document(tmp_path, key=ENGLISH, language="en")
    result = dlm("transcribe", "my.dlm", "b.wav", "--base", "--language", "fr")
    result.refused("--language", error="data.other_language")


def test_training_fits_two_clips_with_features_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The decoder trained in full; then evaluated, transcribed, prompted, shown and exported."""
    monkeypatch.chdir(tmp_path)
    write_document(tmp_path, adapter="full")
    (tmp_path / "a.txt").write_text("low")
    (tmp_path / "b.txt").write_text("high")
    assert dlm("train", "my.dlm", "--device", "cpu").code == 0
    evaluation = json.loads(dlm("eval", "my.dlm", "--data", ".", "--json").out)
    assert evaluation["scores"]["wer"] == 0.0 and evaluation["scores"]["gap"] > 0.5
    assert dlm("prompt", "my.dlm", "x", "--audio", "b.wav").code == 0
    assert "high" in dlm("transcribe", "my.dlm", "b.wav").out
    page = dlm("insight", "my.dlm", "--into", "page")
    assert page.code == 0 and "embeddings" not in page.err
    plots = {path.stem for path in Path("page").glob("*.png")}
    assert "loss" in plots and not plots & {"attention", "alignment"}, "audio is beside the text"
    assert dlm("export", "my.dlm").code == 0


# released weights


@pytest.fixture(scope="module")
def real_parts() -> Path:
    if "DLM_REAL_PARTS" not in os.environ:
        pytest.fail("DLM_REAL_PARTS names no folder: see CONTRIBUTING.md", pytrace=False)
    return Path(os.environ["DLM_REAL_PARTS"])


@pytest.fixture(scope="module")
def human_clips(real_parts: Path) -> list[AudioSegment]:
    """The first prompts of two to six seconds."""
    paths = sorted((real_parts / "speech/prompts-en").glob("*.wav"))
    lengths = [(path, soundfile.info(path).duration) for path in paths]
    return [AudioSegment(path) for path, seconds in lengths if 2 < seconds < 6][:6]


@pytest.mark.weights
@pytest.mark.parametrize("name", ["whisper-tiny.en", "whisper-base"])
@torch.no_grad()
def test_released_logits_and_texts_equal_those_of_the_class(
    name: str, real_parts: Path, human_clips: list[AudioSegment]
) -> None:
    spec = resolve_model_spec(str(real_parts / name), Path())
    config = CONFIG.model_copy(update={"eval_batch_size": 4})
    resampled = replace_audio_config(config)
    engine = load_engine(spec, None, device="cpu", config=resampled)
    model, chat_encoder = engine.model, engine.chat_encoder
    assert isinstance(model, Whisper)
    examples = [
        replace(
            make_example(segment, segment.path.with_suffix(".txt").read_text()), location=str(n)
        )
        for n, segment in enumerate(human_clips)
    ]
    waves = [engine.extractor.load_audio(segment) for segment in human_clips]
    inputs = extract_reference_inputs(spec, waves)
    batch = engine.make_batch([chat_encoder.encode_example(example) for example in examples])
    visible = batch.attention_mask.bool()
    reference = model.whole(**inputs, decoder_input_ids=batch.input_ids).logits[visible]
    assert (compute_logits(model, batch)[visible] - reference).abs().max() < 1e-4
    texts = {example.location: text for example, text in batch_generate(engine, examples)}
    prompt = chat_encoder.encode_prompt(examples[0].messages[:1], "here", "en")
    prompt_ids = torch.tensor([prompt.input_ids[1:]]).repeat(len(waves), 1)
    token_ids = model.whole.generate(
        **inputs, decoder_input_ids=prompt_ids, max_new_tokens=60, do_sample=False
    )
    assert texts == {
        str(n): chat_encoder.decode(row).strip() for n, row in enumerate(token_ids.tolist())
    }


@pytest.mark.weights
@torch.no_grad()
def test_released_timestamps_equal_those_of_the_class(
    real_parts: Path, human_clips: list[AudioSegment]
) -> None:
    spec = resolve_model_spec(str(real_parts / "whisper-base"), Path())
    engine = load_engine(spec, None, device="cpu", config=replace_audio_config(CONFIG))
    assert isinstance(engine.chat_encoder, WhisperChatEncoder) and isinstance(engine.model, Whisper)
    chat_encoder = engine.chat_encoder.with_timestamps()
    prompts = [
        chat_encoder.encode_prompt((Message("user", (segment,)),), "here", "en")
        for segment in human_clips
    ]
    config = GenerationConfig(max_new_tokens=60)
    texts = generate(engine.model, chat_encoder, prompts, engine.extractor, config)
    waves = [engine.extractor.load_audio(segment) for segment in human_clips]
    token_ids = engine.model.whole.generate(
        **extract_reference_inputs(spec, waves),
        decoder_input_ids=torch.tensor([prompts[0].input_ids[1:]]).repeat(len(waves), 1),
        return_timestamps=True,
        max_new_tokens=60,
        do_sample=False,
    )
    assert texts == [chat_encoder.decode(row).strip() for row in token_ids.tolist()]
    for text, wave in zip(texts, waves, strict=True):
        times = list(map(float, TIMESTAMP_RE.findall(text)))
        assert len(times) > 1 and times[-1] < len(wave) / SAMPLE_RATE + 0.5


def replace_audio_config(config: TrainingConfig) -> TrainingConfig:
    audio = config.audio.model_copy(update={"auto_resample": True})
    return config.model_copy(update={"audio": audio})
