"""The Voxtral recipe: every command of its page, and clips memorized by a tiny checkpoint."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants
from safetensors import safe_open

from dlm.plan.model_ref import find_catalog_spec
from tests.cli_runner import CommandResult, dlm
from tests.tiny_models import write_tone
from tests.tiny_voxtral import write_tiny_voxtral

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "recipes" / "voxtral.md").read_text(encoding="utf-8")
WINDOW = 2  # seconds


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_voxtral(tmp_path_factory.mktemp("voxtral"), window_seconds=WINDOW)


def train_document(document: Path, *words: object) -> Path:
    """Train, and return the version's folder."""
    done = dlm("train", document, *words)
    assert done.code == 0, done.err
    listed = json.loads(dlm("show", document, "--json").out)
    return Path(listed["versions"][-1]["path"])


def list_commands() -> list[list[str]]:
    blocks = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    lines = [shlex.split(line) for block in blocks for line in block.splitlines()]
    return [words[1:] for words in lines if words[0] == "dlm"]


def test_every_command_of_the_page_runs(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the small checkpoint where the hub's cache would have the released one."""
    spec = find_catalog_spec("voxtral-mini-3b")
    cache = tmp_path / "hub" / f"models--{spec.source.replace('/', '--')}"
    shutil.copytree(checkpoint, cache / "snapshots" / str(spec.revision))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    shutil.copytree(ROOT / "examples" / "voxtral", tmp_path / "voxtral")
    shutil.copy(ROOT / "examples" / "voxtral.dlm", tmp_path)
    monkeypatch.chdir(tmp_path)
    recipe_commands = list_commands()
    assert len(recipe_commands) > 8
    for words in recipe_commands:
        done = dlm(*words)
        assert done.code == 0, (words, done)
        assert done.out
        if "--show-labels" in words:
            trained = next(line for line in done.out.splitlines() if line.startswith(">"))
            assert trained.endswith(" Le colis arrive vendredi matin.</s>")


def test_the_flags_of_the_table_exist() -> None:
    """The table's flags are those of `dlm train`, and its fields those of the document."""
    rows = [line.split("|")[1:-1] for line in PAGE.splitlines() if line.startswith("| `--")]
    flags = {row[0].strip().strip("`") for row in rows}
    assert len(flags) == 15
    get_answer = dlm("train", "--help").out
    for flag in flags:
        assert flag in get_answer, f"{flag} is not a flag of dlm train"
    fields = (ROOT / "docs" / "document.md").read_text(encoding="utf-8")
    for row in rows:
        name = re.findall(r"`([\w.]+)`", row[2])[0]
        assert f"| `{name}` |" in fields, f"{name} is not a field"


TRAINING = {
    "lora": "  adapter: lora\n  lora_r: 16\n  lora_alpha: 32\n  lora_dropout: 0.0\n"
    "  lora: {where: [lm, projector]}\n  learning_rate: 1.0e-2\n  num_epochs: 100\n",
    "full": "  adapter: full\n  freeze_encoder: true\n  learning_rate: 5.0e-3\n  num_epochs: 70\n",
}


def write_recipe_document(folder: Path, checkpoint: Path, kind: str) -> Path:
    """Clips within the window in two languages, one beyond it, and a question about that one."""
    for number, seconds in enumerate((0.5, 1.5, 2 * WINDOW - 0.5)):
        write_tone(folder / f"{number}.wav", hertz=200 + 400 * number, seconds=seconds)
    document = folder / "my.dlm"
    document.write_text(
        "---\ndlm_id: 01ARZ3NDEKTSV4RRFFQ69G5FAV\ndlm_version: 11\n"
        f"base_model: {checkpoint}\ntraining:\n  precision: fp32\n  held_out: 0\n"
        f"  micro_batch_size: 4\n{TRAINING[kind]}---\n\n"
        '::audio path="0.wav" transcript="Bonjour, Zoë." language="fr"::\n\n'
        '::audio path="1.wav" transcript="Good morning."::\n\n'
        '::audio path="2.wav" transcript="Two windows." language="en"::\n\n'
        "::instruction::\n### Q\nHow long?\n### A\nVery long.\n",
        encoding="utf-8",
    )
    return document


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_memorized_clips_are_answered_exactly(
    checkpoint: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In each language, over windows and in conversation; each answer ends where it should."""
    document = write_recipe_document(tmp_path, checkpoint, kind)
    monkeypatch.chdir(tmp_path)
    version = train_document(document)
    with safe_open(version / "adapter_model.safetensors", "pt") as trained:
        names = list(trained.keys())
    assert names and not [name for name in names if "audio_tower" in name]

    assert get_answer(dlm("transcribe", document, "0.wav", "--language", "fr")) == "Bonjour, Zoë."
    assert get_answer(dlm("transcribe", document, "1.wav")) == "Good morning."
    assert get_answer(dlm("prompt", document, "How long?", "--audio", "2.wav")) == "Very long."
    scored = json.loads(dlm("eval", document, "--data", write_list(tmp_path), "--json").out)
    assert scored["scores"]["wer"] == 0, scored


def get_answer(done: CommandResult) -> str:
    """What was said, without the name of the recording before it."""
    assert done.code == 0, done
    return done.out.strip().split(": ", 1)[-1]


def write_list(folder: Path) -> Path:
    """The clip of two windows, as the scripts list it."""
    path = folder / "data.jsonl"
    row = {"audio_path": "2.wav", "text": "Two windows.", "language": "en"}
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("language", ["french", "f"])
def test_an_invalid_language_code_is_refused(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, language: str
) -> None:
    """By the command and by the check, before anything is loaded."""
    document = write_recipe_document(tmp_path, checkpoint, "lora")
    monkeypatch.chdir(tmp_path)
    words = (f"'{language}' is not a language code of ISO 639-1", "write two letters such as fr")
    dlm("transcribe", document, "0.wav", "--language", language).refused(*words, code=2)
    text = document.read_text(encoding="utf-8").replace('language="fr"', f'language="{language}"')
    document.write_text(text, encoding="utf-8")
    result = dlm("check", document)
    assert result.code == 1
    assert f"my.dlm:18: {words[0]}; {words[1]}" in result.out + result.err


def test_a_system_prompt_beside_audio_is_refused(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = write_recipe_document(tmp_path, checkpoint, "lora")
    monkeypatch.chdir(tmp_path)
    text = document.read_text(encoding="utf-8")
    document.write_text(text.replace("training:", "system_prompt: Be brief.\ntraining:"))
    done = dlm("train", document)
    assert done.code == 1 and done.error == "data.no_system_prompt"
    assert "takes no system prompt beside audio; take system_prompt" in done.err
    assert "Traceback" not in done.err
