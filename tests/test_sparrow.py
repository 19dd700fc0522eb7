"""The embedded base `sparrow`: its catalogue entry, transcription, questions and fine-tuning."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from dlm.config.parser import read_document
from dlm.data.audio_io import get_audio_backends
from dlm.inference.metrics import compute_word_errors
from dlm.models.load import get_checkpoint_dir, load_base_model
from dlm.plan.model_ref import find_catalog_spec
from dlm.plan.model_spec import read_model_spec
from dlm.store.versions import open_store
from tests.cli_runner import dlm

VOICE = Path(__file__).parent.parent / "examples" / "voice"
MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The document of the demo: a voice that sparrow was not trained on, 40 clips held out."""
    path = tmp_path_factory.mktemp("sparrow") / "voice.dlm"
    assert dlm("init", path, "--base", "sparrow").code == 0
    text = path.read_text(encoding="utf-8").split("---")[1]
    header = [line for line in text.splitlines() if line.startswith(("dlm_", "base_model"))]
    sources = f"  held_out: 40\n  sources:\n    - path: {VOICE / 'clips'}"
    path.write_text("\n".join(["---", *header, "training:", sources, "---", ""]), encoding="utf-8")
    return path


def test_the_catalogue_entry_agrees_with_the_weights() -> None:
    """The catalogue and the file beside the weights agree, and the parameters are counted."""
    spec = find_catalog_spec("sparrow")
    saved_spec = read_model_spec(get_checkpoint_dir(spec))
    assert (
        saved_spec.audio_spec,
        saved_spec.num_mel_bins,
        saved_spec.placeholder,
        saved_spec.default_prompt,
    ) == (
        spec.audio_spec,
        spec.num_mel_bins,
        spec.placeholder,
        spec.default_prompt,
    )
    num_parameters = sum(line.numel() for line in load_base_model(spec).parameters())
    assert num_parameters == pytest.approx(spec.sizes.num_parameters, rel=0.001)


def test_the_weights_fit_the_package() -> None:
    """At most 30 MB of safetensors, and nothing that is not data."""
    files = list(get_checkpoint_dir(find_catalog_spec("sparrow")).iterdir())
    assert (
        sum(line.stat().st_size for line in files if line.suffix == ".safetensors") <= 30 * MEGABYTE
    )
    assert {line.suffix for line in files} <= {".safetensors", ".json", ".jinja", ".txt"}


def test_most_words_of_an_unknown_voice_are_right_before_training(document: Path) -> None:
    """Most words of the demo's voice are right before any training, and the audio matters."""
    result = dlm("eval", document, "--base", "--json")
    report = json.loads(result.out)
    assert report["clips"] == 40
    assert report["wer"] < 0.65
    assert report["scores"]["shuffled_loss"] > 2 * report["scores"]["loss"]


def test_twenty_steps_lower_the_word_error_rate_of_a_voice(document: Path) -> None:
    """Twenty steps, a fifth of the demo: held-out WER falls by a twentieth at least."""
    before = json.loads(dlm("eval", document, "--base", "--json").out)["wer"]
    assert dlm("train", document, "--steps", "20").code == 0
    after = json.loads(dlm("eval", document, "--json").out)["wer"]
    assert after < 0.95 * before
    (version,) = open_store(read_document(document).config.dlm_id).list_versions()
    assert (
        version.audio_backends == get_audio_backends()
        and "libsndfile" in version.audio_backends["decoder"]
    )


def test_a_long_recording_is_transcribed_better_when_split_at_pauses(
    document: Path, tmp_path: Path
) -> None:
    """Twenty sentences, one after the other: far fewer errors than with windows of fixed length."""
    clips = sorted((VOICE / "clips").glob("*.flac"))[:20]
    long = tmp_path / "long.wav"
    soundfile.write(long, np.concatenate([soundfile.read(clip)[0] for clip in clips]), 16_000)
    result = " ".join(clip.with_suffix(".txt").read_text().strip() for clip in clips)
    error_rates = {}
    for method in ("energy", "silero", "none"):
        hypothesis = dlm("transcribe", document, long, "--base", "--segment", method).out
        error_rates[method] = compute_word_errors([result], [hypothesis]).rate
    assert max(error_rates["energy"], error_rates["silero"]) < 0.75 * error_rates["none"], (
        error_rates
    )


def test_nothing_is_written_where_nobody_speaks(tmp_path: Path) -> None:
    """Digital silence, noise, a tone and a chord have an empty transcript."""
    rng, seconds = np.random.default_rng(1), np.arange(3 * 16_000) / 16_000
    chord = sum(np.sin(2 * np.pi * hertz * seconds) for hertz in (262, 330, 392))
    backgrounds = {
        "silence": np.zeros(len(seconds)),
        "noise": rng.normal(0, 0.05, len(seconds)),
        "tone": 0.2 * np.sin(2 * np.pi * 440 * seconds),
        "chord": 0.1 * chord,
    }
    for name, waveform in backgrounds.items():
        soundfile.write(tmp_path / f"{name}.wav", waveform, 16_000)
    done = dlm("transcribe", tmp_path, "--json")
    assert done.code == 0, done.err
    texts = {Path(row["path"]).stem: row["text"] for row in map(json.loads, done.out.splitlines())}
    assert texts == dict.fromkeys(sorted(backgrounds), "")


def test_an_unknown_or_missing_segmentation_is_refused(
    document: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("transcribe", document, VOICE / "new.flac", "--base", "--segment")
    dlm(*command, "x").refused("--segment is x; choose energy or silero or none", code=2)
    monkeypatch.setitem(sys.modules, "silero_vad", None)
    dlm(*command, "silero").refused("silero-vad is not installed; pip install 'dlm[voice]'")


@pytest.mark.parametrize(
    ("question", "answers"),
    [
        ("Is the voice male or female?", {"male", "female"}),
        ("Is the speech slow, normal or fast?", {"slow", "normal", "fast"}),
    ],
)
def test_questions_get_answers_and_no_transcript(
    document: Path, question: str, answers: set[str]
) -> None:
    """Each question gets an answer of its kind."""
    result = dlm("prompt", document, "--base", "--audio", VOICE / "new.flac", question)
    assert result.out.strip() in answers
