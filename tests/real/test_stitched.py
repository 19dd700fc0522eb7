"""A released encoder and language model put together: trained, used, exported, in few bits."""

from pathlib import Path
from typing import cast

import pytest

import dlm
from dlm.batching.mistral_chat import build_chat_encoder
from dlm.commands.preflight import resolve_document
from dlm.data.load import load_examples
from dlm.data.types import Example
from dlm.exporters.merged import write_merged_model
from dlm.features.extractor import AudioFeatureExtractor
from dlm.inference.engine import InferenceEngine, batch_generate
from dlm.models.composed import ComposedAudioLM
from dlm.models.load import load_base_model, load_version
from dlm.plan.model_spec import read_model_spec
from dlm.store.records import Version
from dlm.training.events import Evaluated, StepCompleted
from tests.cli_runner import dlm as run_command
from tests.models.batches import compute_all_logits, make_batch
from tests.real.conftest import FigureFn, PartFn
from tests.real.documents import list_clips, make_real_base_model, write_real_document

NUM_CLIPS = 6
STEPS = 30


@pytest.fixture(scope="module")
def trained(part: PartFn, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list]:
    """A document trained on a few clips, its store, and the events."""
    folder = tmp_path_factory.mktemp("stitched")
    clips = list_clips(part("speech/prompts-en"), NUM_CLIPS)
    path = write_real_document(
        folder, make_real_base_model(part), clips, adapter="projector", steps=STEPS
    )
    home = folder / "home"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DLM_HOME", str(home))
        events = list(dlm.train(path))
    return path, home, events


@pytest.fixture
def document(trained: tuple[Path, Path, list], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The trained document, with its store in use."""
    path, home, _ = trained
    monkeypatch.setenv("DLM_HOME", str(home))
    return path


def load_trained(document: Path) -> tuple[ComposedAudioLM, Version, list[Example]]:
    loaded, spec = resolve_document(document)
    (version,) = dlm.show(document).versions
    model = cast(ComposedAudioLM, load_version(spec, version.path, device="cpu"))
    return model, version, list(load_examples(loaded).examples)


def test_training_listens(trained: tuple[Path, Path, list], figure: FigureFn) -> None:
    events = trained[2]
    losses = [event.loss for event in events if isinstance(event, StepCompleted)]
    (evaluated,) = (event for event in events if isinstance(event, Evaluated))
    assert losses[-1] < losses[0] / 2
    assert evaluated.scores["gap"] > 0.5
    figure(
        f"whisper-base + gemma-3-270m, projector, {NUM_CLIPS} clips, {STEPS} steps: loss "
        f"{losses[0]:.2f} to {losses[-1]:.2f}, listening gap {evaluated.scores['gap']:.2f}, "
        f"WER {evaluated.scores['wer']:.0%} (on the clips it was trained on)"
    )


def test_export_keeps_the_logits(document: Path, tmp_path: Path, figure: FigureFn) -> None:
    model, version, examples = load_trained(document)
    batch = make_batch(model, examples[:3])
    logits = compute_all_logits(model, batch)
    assert run_command("export", document, "--out", tmp_path / "out").code == 0
    exported = load_base_model(read_model_spec(tmp_path / "out"))
    difference = float((compute_all_logits(exported, batch) - logits).abs().max())
    assert difference == 0
    assert run_command("verify", tmp_path / "out").code == 0
    figure(f"export and reload: largest difference of logits {difference:g}")


def test_logits_of_a_batch_equal_those_of_its_clips(document: Path, figure: FigureFn) -> None:
    model, _, examples = load_trained(document)
    chat_encoder = build_chat_encoder(model.tokenizer, model.spec)
    batched, largest = compute_all_logits(model, make_batch(model, examples[:4])), 0.0
    for row, example in enumerate(examples[:4]):
        batch = make_batch(model, [example])
        single = compute_all_logits(model, batch)[0]
        assert chat_encoder.decode_raw(batch.input_ids[0].tolist()).startswith("<bos>")
        largest = max(largest, float((batched[row, : len(single)] - single).abs().max()))
    assert largest < 1e-2
    figure(f"logits of a batch and of its clips alone: largest difference {largest:.1e}")


def test_answers_and_insight_page(document: Path, part: PartFn, tmp_path: Path) -> None:
    clip = list_clips(part("speech/prompts-en"), 1)[0]
    answer = run_command("prompt", document, "--audio", clip, "Transcribe the audio.")
    assert answer.code == 0 and answer.out.strip() and not answer.err
    model, _, examples = load_trained(document)
    chat_encoder = build_chat_encoder(model.tokenizer, model.spec)
    extractor = AudioFeatureExtractor(model.spec, auto_resample=False)
    batched, single = (
        dict(
            (example.location, text)
            for example, text in batch_generate(
                InferenceEngine(model, chat_encoder, extractor, size), examples[:4]
            )
        )
        for size in (4, 1)
    )
    assert batched == single
    page = run_command("insight", document, "--clips", 2, "--into", tmp_path / "page")
    assert page.code == 0, page.err
    assert list((tmp_path / "page").glob("*.html"))


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_language_model_in_few_bits_trains_and_answers(
    part: PartFn, tmp_path: Path, figure: FigureFn, bits: int
) -> None:
    clips = list_clips(part("speech/prompts-en"), 4)
    base_model = make_real_base_model(part)
    training = {"adapter": "qlora", "bits": bits, "lora": {"where": ["lm", "projector"]}}
    path = write_real_document(tmp_path, base_model, clips, **training)
    loaded, spec = resolve_document(path)
    full, quantized = load_base_model(spec), load_base_model(spec, bits=bits)
    batch = make_batch(full, list(load_examples(loaded).examples))
    expected, logits = (compute_all_logits(model, batch) for model in (full, quantized))
    error = float((logits - expected).norm() / expected.norm())
    assert error < (0.1 if bits == 8 else 0.5)
    done = run_command("train", path, "--steps", 2, "--device", "cpu")
    assert done.code == 0, done.err
    answer = run_command("prompt", path, "--audio", clips[0], "What is said?", "--device", "cpu")
    assert answer.code == 0, answer.err
    figure(f"language model in {bits} bits: logits differ by {error:.1%} of their norm")


def test_a_merged_version_is_a_base_of_its_own(document: Path, tmp_path: Path) -> None:
    model, version, _ = load_trained(document)
    write_merged_model(model, version, tmp_path / "base")
    text = document.read_text(encoding="utf-8").split("---\n", 2)[2]
    other = tmp_path / "other.dlm"
    front = "dlm_id: 01M7Z1JDYEXVZ3QYHB1K9S8S1P\ndlm_version: 15\nbase_model: ./base\n"
    other.write_text(f"---\n{front}training: {{held_out: 0}}\n---\n{text}", encoding="utf-8")
    checked = run_command("check", other)
    assert checked.code == 0, checked.err
