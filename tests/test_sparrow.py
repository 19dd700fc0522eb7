"""The embedded base: it is what its row says, it hears, and it learns a voice."""

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
from dlm.plan.model_spec import read_model_spec
from dlm.plan.resolve import find_catalog_spec
from dlm.store.versions import open_store
from tests.cli_runner import dlm

VOICE = Path(__file__).parent.parent / "examples" / "voice"
MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's document: a voice sparrow never heard, 40 clips of it held out."""
    path = tmp_path_factory.mktemp("sparrow") / "voice.dlm"
    assert dlm("init", path, "--base", "sparrow").code == 0
    text = path.read_text(encoding="utf-8").split("---")[1]
    own = [each for each in text.splitlines() if each.startswith(("dlm_", "base_model"))]
    sources = f"  held_out: 40\n  sources:\n    - path: {VOICE / 'clips'}"
    path.write_text("\n".join(["---", *own, "training:", sources, "---", ""]), encoding="utf-8")
    return path


def test_the_row_is_what_lies_in_the_folder() -> None:
    """Facts in the catalogue and beside the weights agree, and the parameters are counted."""
    base = find_catalog_spec("sparrow")
    beside = read_model_spec(get_checkpoint_dir(base))
    assert (beside.audio_spec, beside.num_mel_bins, beside.placeholder, beside.default_prompt) == (
        base.audio_spec,
        base.num_mel_bins,
        base.placeholder,
        base.default_prompt,
    )
    counted = sum(each.numel() for each in load_base_model(base).parameters())
    assert counted == pytest.approx(base.sizes.num_parameters, rel=0.001)


def test_the_weights_fit_the_package() -> None:
    """At most 10 MB of safetensors, and nothing that is not data."""
    files = list(get_checkpoint_dir(find_catalog_spec("sparrow")).iterdir())
    assert (
        sum(each.stat().st_size for each in files if each.suffix == ".safetensors") <= 10 * MEGABYTE
    )
    assert {each.suffix for each in files} <= {".safetensors", ".json", ".jinja"}


def test_it_hears_a_voice_it_never_heard_in_part(document: Path) -> None:
    """Most words of the demo's voice come through before any training; the sound matters."""
    said = dlm("eval", document, "--base", "--json")
    found = json.loads(said.out)
    assert found["clips"] == 40
    assert found["wer"] < 0.65
    assert found["scores"]["shuffled_loss"] > 2 * found["scores"]["loss"]


def test_a_few_steps_make_it_hear_the_voice_better(document: Path) -> None:
    """Twenty steps, a fifth of the demo: the held-out words wrong fall by a tenth at least."""
    before = json.loads(dlm("eval", document, "--base", "--json").out)["wer"]
    assert dlm("train", document, "--steps", "20").code == 0
    after = json.loads(dlm("eval", document, "--json").out)["wer"]
    assert after < 0.9 * before
    (version,) = open_store(read_document(document).config.dlm_id).list_versions()
    assert (
        version.audio_backends == get_audio_backends()
        and "libsndfile" in version.audio_backends["decoder"]
    )


def test_a_long_recording_is_heard_better_cut_at_its_pauses(document: Path, tmp_path: Path) -> None:
    """Twenty sentences in a row: far fewer wrong words than cut every so often."""
    clips = sorted((VOICE / "clips").glob("*.flac"))[:20]
    long = tmp_path / "long.wav"
    soundfile.write(long, np.concatenate([soundfile.read(clip)[0] for clip in clips]), 16_000)
    said = " ".join(clip.with_suffix(".txt").read_text().strip() for clip in clips)
    wrong = {}
    for way in ("energy", "silero", "none"):
        heard = dlm("transcribe", document, long, "--base", "--segment", way).out
        wrong[way] = compute_word_errors([said], [heard]).rate
    assert max(wrong["energy"], wrong["silero"]) < 0.75 * wrong["none"], wrong


def test_a_way_to_cut_that_is_not_there(document: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ("transcribe", document, VOICE / "new.flac", "--base", "--segment")
    dlm(*asked, "x").refused("--segment is x; choose energy or silero or none", code=2)
    monkeypatch.setitem(sys.modules, "silero_vad", None)
    dlm(*asked, "silero").refused("silero-vad is not installed; pip install 'dlm[voice]'")


@pytest.mark.parametrize(
    ("question", "answers"),
    [
        ("Is the voice male or female?", {"male", "female"}),
        ("Is the speech slow, normal or fast?", {"slow", "normal", "fast"}),
    ],
)
def test_it_answers_more_than_the_words(document: Path, question: str, answers: set[str]) -> None:
    """A question gets its own kind of answer, not a transcript."""
    said = dlm("prompt", document, "--base", "--audio", VOICE / "new.flac", question)
    assert said.out.strip() in answers
