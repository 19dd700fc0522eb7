"""The audio recipe, step by step, with a tiny checkpoint of the real class in a real hub cache.

docs/recipes/audio-training.md is followed to the letter: its commands are run in their order.
"""

import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from huggingface_hub import constants

from dlm.io import hash_tree, sha256_file
from dlm.plan.model_spec import MODEL_CATALOG
from dlm.plan.resolve import resolve_model_spec
from tests.cli_runner import CommandResult, dlm
from tests.pretrained_twins import write_pretrained_twin
from tests.snapshots import run_readme, run_with_dlm
from tests.tiny_models import write_tone

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/recipes/audio-training.md"
PODCAST = ROOT / "examples/podcast"
KEY = "qwen2-audio-7b-instruct"
REVISION = "0a095220c30b7b31434169c3086508ef3ea5bf0a"
FENCE = '::audio path="clips/your-clip.wav" transcript="Transcript of the audio clip."::'
RATE = "native sample_rate=44100 Hz does not match pinned 16000 Hz"
SNAPSHOT = "hf-audio-snapshot"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """HF_HOME with the recipe's base in it, as a download leaves it, but tiny."""
    cache = tmp_path_factory.mktemp("huggingface")
    repository = cache / "hub" / f"models--{MODEL_CATALOG[KEY].source.replace('/', '--')}"
    write_pretrained_twin(KEY, repository / "snapshots" / REVISION)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(REVISION)
    return cache


@pytest.fixture(autouse=True)
def work_dir(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory, and the cache, which the library looks up as it is imported."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub / "hub"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def code_blocks(language: str = "") -> list[str]:
    """The code blocks of the page."""
    hashes = re.findall(r"^```(\w*)\n(.*?)^```\n", PAGE.read_text(), re.M | re.S)
    return [block for its, block in hashes if its == language]


def write_recordings(folder: Path) -> None:
    """The recordings that the page speaks of: the example's."""
    (folder / "clips").mkdir(parents=True)
    shutil.copy(PODCAST / "intro.wav", folder / "clips/intro.wav")
    shutil.copytree(PODCAST / "corpus", folder / "corpus")
    write_tone(folder / "corpus/untold.wav", hertz=300)
    samples, rate = soundfile.read(PODCAST / "new-clip.ogg")
    soundfile.write(folder / "clips/new-clip.wav", samples, rate)


def edit_document(write_one_clip_document: Path, *, sections: str, training: dict) -> None:
    """What the reader writes into the document that init made."""
    text = write_one_clip_document.read_text()
    front = yaml.safe_load(text.split("---")[1])
    front["training"] = {**front["training"], "precision": "fp32", **training}
    write_one_clip_document.write_text(f"---\n{yaml.safe_dump(front)}---\n\n{sections}")


@pytest.fixture(scope="module")
def followed(
    hub: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, CommandResult]]:
    """The folder of a user who followed the page, and the result of each command."""
    folder = tmp_path_factory.mktemp("walked")
    write_recordings(folder)
    (sections,), (sources, _) = code_blocks("dlm"), code_blocks("yaml")
    commands = [
        line for block in code_blocks() for line in block.splitlines() if line[:4] == "dlm "
    ]
    results: dict[str, CommandResult] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_CACHE", str(hub / "hub"))
        patch.setenv("DLM_HOME", str(folder / "home"))
        patch.chdir(folder)
        for command in commands:
            words = shlex.split(command)[1:]
            if words[0] == "verify":
                words[1] = str(find_store(folder) / "exports" / SNAPSHOT)
            results[command] = dlm(*words)
            if words[0] == "init":
                edit_document(
                    folder / words[1],
                    sections=sections,
                    training=yaml.safe_load(sources)["training"],
                )
    return folder, results


def find_store(folder: Path) -> Path:
    (only,) = (folder / "home/store").iterdir()
    return only


@pytest.fixture
def store_folder(followed: tuple, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The store of the walk, and its folder as the working directory."""
    monkeypatch.setenv("DLM_HOME", str(followed[0] / "home"))
    monkeypatch.chdir(followed[0])
    return find_store(followed[0])


def test_every_command_of_the_page_runs(followed: tuple) -> None:
    verb_names = "doctor init check show train train prompt prompt prompt export verify".split()
    assert [command.split()[1] for command in followed[1]] == verb_names
    failed = {command: done for command, done in followed[1].items() if done.code}
    assert not failed


def test_init_writes_a_document_and_makes_its_store(
    followed: tuple, work_dir: Path, home: Path
) -> None:
    done = dlm("init", "my-audio.dlm", "--audio")
    assert (done.code, done.out) == (0, "")
    text = Path("my-audio.dlm").read_text()
    front = yaml.safe_load(text.split("---")[1])
    assert re.fullmatch("[0-9A-HJ-KM-NP-TV-Z]{26}", front["dlm_id"])
    assert (front["dlm_version"], front["base_model"]) == (11, KEY)
    assert FENCE in text.splitlines()
    assert (home / "store" / front["dlm_id"] / "manifest.json").is_file()


@pytest.mark.parametrize("words", ["--home {} init a.dlm --audio", "init a.dlm --audio --home {}"])
def test_home_may_be_an_option(words: str, work_dir: Path, home: Path) -> None:
    assert dlm(*words.format(work_dir / "there").split()).code == 0
    assert len(list((work_dir / "there/store").iterdir())) == 1
    assert not home.exists()


def test_init_refuses_what_cannot_be() -> None:
    both = "--multimodal and --audio are mutually exclusive (each targets a different modality)"
    dlm("init", "a.dlm", "--audio", "--multimodal").refused(both, code=2)
    dlm("init", "a.dlm", "--multimodal").refused("images", "--audio", code=2)
    assert "multimodal" not in dlm("init", "--help").out
    done = dlm("init", "a.dlm", "--audio", "--base", "smollm2-135m")
    words = "--audio requires an audio-language base", "'smollm2-135m'", f"pick --base {KEY}"
    done.refused(*words, "or drop --audio", code=2)
    assert not Path("a.dlm").exists()
    Path("a.dlm").write_text("mine")
    dlm("init", "a.dlm", "--audio").refused("a.dlm already exists", "--force", code=2)
    assert Path("a.dlm").read_text() == "mine"
    assert dlm("init", "a.dlm", "--audio", "--force").code == 0


def test_init_refuses_a_text_model(work_dir: Path) -> None:
    (work_dir / "text").mkdir()
    (work_dir / "text/config.json").write_text('{"model_type": "llama"}')
    done = dlm("init", "a.dlm", "--audio", "--base", "./text")
    done.refused("--audio requires an audio-language base", f"pick --base {KEY}", code=2)


def test_the_sample_clip_is_refused_before_weights_are_loaded(hub: Path) -> None:
    dlm("init", "my-audio.dlm", "--audio")
    line = 1 + Path("my-audio.dlm").read_text().splitlines().index(FENCE)
    weights = next(hub.rglob("model.safetensors"))
    weights.rename(weights.with_suffix(".away"))
    try:
        done = dlm("train", "my-audio.dlm")
    finally:
        weights.with_suffix(".away").rename(weights)
    done.refused(f"my-audio.dlm:{line}: audio not found: clips/your-clip.wav")


def test_show_reports_sources_before_and_after_training(
    followed: tuple, store_folder: Path
) -> None:
    before = json.loads(followed[1]["dlm show my-audio.dlm --json"].out)
    after = json.loads(dlm("show", "my-audio.dlm", "--json").out)
    counts = {
        "path": "./corpus",
        "audio_count": 2,
        "skipped_audio_no_transcript": 1,
        "skipped_not_audio": 0,
        "skipped_excluded": 0,
        "skipped_over_max_files": 0,
    }
    for shown in (before, after):
        (source,) = shown["source_directives"]
        assert counts.items() <= source.items()
        assert source["audio_bytes"] > 0
        assert (shown["clips"], shown["base_model_revision"]) == (4, REVISION)
    assert (before["adapter_version"], before["training_runs"]) == (None, 0)
    assert (after["adapter_version"], after["training_runs"]) == (2, 2)
    (export,) = after["exports"]
    assert export["version"] == after["current"] == "v0002"
    assert Path(export["path"]) == store_folder / "exports" / SNAPSHOT
    assert SNAPSHOT in dlm("show", "my-audio.dlm").out


def test_training_stores_recordings_and_versions(followed: tuple, store_folder: Path) -> None:
    recordings = [Path("clips/intro.wav"), *sorted(Path("corpus").glob("*.flac"))]
    assert {blob.name for blob in (store_folder / "blobs").iterdir()} == set(
        map(sha256_file, recordings)
    )
    versions = store_folder / "adapter/versions"
    assert [path.name for path in sorted(versions.iterdir())] == ["v0001", "v0002"]
    assert (store_folder / "adapter/current.txt").read_text() == "v0002\n"
    first = json.loads((versions / "v0001/version.json").read_text())
    assert first["steps"] == 1
    shown = followed[1]["dlm train my-audio.dlm"]
    assert "1 without a transcript, skipped: corpus/untold.wav" in shown.err


def test_two_trainings_write_the_same_bytes(work_dir: Path) -> None:
    write_recordings(work_dir)
    dlm("init", "my-audio.dlm", "--audio")
    edit_document(Path("my-audio.dlm"), sections=code_blocks("dlm")[0], training={})
    hashes = []
    for name in ("first", "second"):
        done = dlm(
            "train", "my-audio.dlm", "--max-steps", 2, "--seed", 7, "--home", work_dir / name
        )
        assert done.code == 0, done.err
        (weights,) = (work_dir / name).rglob("adapter_model.safetensors")
        hashes.append(sha256_file(weights))
    assert hashes[0] == hashes[1]


def write_one_clip_document(work_dir: Path, *, rate: int = 16_000, audio: str = "") -> None:
    """A document with one clip, recorded at `rate`."""
    write_tone(work_dir / "clips/cd.wav", hertz=440, sample_rate=rate)
    dlm("init", "my-audio.dlm", "--audio")
    clip = '::audio path="clips/cd.wav" transcript="one"::\n'
    edit_document(Path("my-audio.dlm"), sections=clip, training=yaml.safe_load(audio or "{}"))


def test_another_sample_rate_is_refused_by_training_alone(work_dir: Path) -> None:
    write_one_clip_document(work_dir, rate=44_100)
    hints = "`training.audio.auto_resample: true`", "`ffmpeg -i in.wav -ar 16000 out.wav`"
    dlm("train", "my-audio.dlm").refused("my-audio.dlm:", f"clips/cd.wav: {RATE}", *hints)
    prompt = ("prompt", "my-audio.dlm", "--base", "--audio", "clips/cd.wav", "What?")
    assert dlm(*prompt).code == 0


AUTO = "audio: {auto_resample: true}"


def test_another_sample_rate_is_resampled_with_auto_resample(work_dir: Path) -> None:
    write_one_clip_document(work_dir, rate=44_100, audio=AUTO)
    assert dlm("train", "my-audio.dlm", "--max-steps", 1).code == 0
    text = Path("my-audio.dlm").read_text()
    Path("my-audio.dlm").write_text(text.replace("auto_resample: true", "auto_resample: false"))
    dlm("train", "my-audio.dlm", "--max-steps", 1).refused(RATE)


def test_auto_resample_without_a_resampler_is_refused(
    work_dir: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_one_clip_document(work_dir, rate=44_100, audio=AUTO)
    for library in ("soxr", "scipy", "scipy.signal"):
        monkeypatch.setitem(sys.modules, library, None)
    words = (
        "AudioResampleUnavailable: requires either soxr or scipy",
        "pip install soxr",
        "pip install scipy",
    )
    dlm("train", "my-audio.dlm").refused(*words)
    prompt = ("prompt", "my-audio.dlm", "--base", "--audio", "clips/cd.wav", "What?")
    dlm(*prompt).refused(*words)
    assert not list(home.rglob("blobs"))


def test_an_empty_transcript_is_refused(work_dir: Path) -> None:
    write_one_clip_document(work_dir)
    text = Path("my-audio.dlm").read_text()
    Path("my-audio.dlm").write_text(text.replace('"one"', '" "'))
    line = text.splitlines().index('::audio path="clips/cd.wav" transcript="one"::') + 1
    words = "AUDIO section has empty transcript"
    dlm("train", "my-audio.dlm").refused(f"my-audio.dlm:{line}", words)
    write_tone(work_dir / "corpus/a.wav", hertz=300)
    (work_dir / "corpus/a.txt").write_text(" \n")
    edit_document(Path("my-audio.dlm"), sections="", training={"sources": [{"path": "corpus"}]})
    dlm("train", "my-audio.dlm").refused("corpus/a.txt", words)


def test_a_folder_of_sources_alone_trains(work_dir: Path) -> None:
    write_recordings(work_dir)
    dlm("init", "my-audio.dlm", "--audio")
    sources = [{"path": "corpus", "include": ["**/*.flac"]}]
    edit_document(Path("my-audio.dlm"), sections="", training={"sources": sources})
    done = dlm("train", "my-audio.dlm", "--max-steps", 1)
    assert done.code == 0, done.err


def test_prompt_refuses_what_cannot_be(store_folder: Path) -> None:
    clip = ("--audio", "clips/new-clip.wav")
    prompt = ("prompt", "my-audio.dlm")
    needs = "audio-language base requires at least one --audio PATH"
    dlm(*prompt, "What?").refused(needs, code=2)
    dlm(*prompt, "What?", "--image", "a.png").refused(needs, code=2)
    dlm(*prompt, *clip, "--image", "a.png", "What?").refused("cannot be combined", code=2)
    assert "--image" not in dlm("prompt", "--help").out
    dlm(*prompt, "--audio", "gone.wav", "What?").refused("audio not found: gone.wav", code=2)
    dlm(*prompt, *clip, "  ").refused("empty query", code=2)
    dlm(*prompt, *clip, "<|AUDIO|> or <|AUDIO|>?").refused("2 <|AUDIO|>", "1 --audio", code=2)


def test_audio_comes_before_the_question_or_at_its_placeholders(store_folder: Path) -> None:
    """Several recordings, in their order; before the question unless it has placeholders."""

    def generate(*words: str, question: str) -> str:
        done = dlm("prompt", "my-audio.dlm", "--max-tokens", 6, *words, question)
        assert done.code == 0, done.err
        return done.out

    first, second = ("--audio", "clips/intro.wav"), ("--audio", "clips/new-clip.wav")
    plain = generate(*first, *second, question="Who?")
    assert plain == generate(*first, *second, question="<|AUDIO|><|AUDIO|>Who?")
    assert generate(*first, *second, question="Is <|AUDIO|> or <|AUDIO|> longer?")


def test_the_snapshot_has_the_files_of_the_recipe(followed: tuple, store_folder: Path) -> None:
    folder = store_folder / "exports" / SNAPSHOT
    shown = followed[1]["dlm export my-audio.dlm"]
    assert shown.out.strip() == str(folder)
    assert {path.name for path in folder.iterdir()} == {
        *("adapter", "processor", "README.md", "snapshot_manifest.json")
    }
    assert {path.name for path in (folder / "adapter").iterdir()} == {
        *("adapter_config.json", "adapter_model.safetensors")
    }
    manifest = json.loads((folder / "snapshot_manifest.json").read_text())
    assert manifest["base_model_hf_id"] == "Qwen/Qwen2-Audio-7B-Instruct"
    assert manifest["base_model_revision"] == REVISION
    assert manifest["adapter_version"] == 2


# peft 0.21 asks transformers by a name that transformers 6 drops
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
def test_the_code_of_the_snapshots_readme_gives_the_same_logits(
    followed: tuple, work_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the base's name on the hub, as it stands: the same logits within 1e-4."""
    store_dir = find_store(followed[0])
    folder = shutil.copytree(store_dir / "exports" / SNAPSHOT, work_dir / "sent")
    shutil.copy(followed[0] / "clips/new-clip.wav", folder / "clip.wav")
    monkeypatch.chdir(folder)
    ids, logits = run_readme()
    expected_ids, expected = run_with_dlm(
        resolve_model_spec(KEY, work_dir), store_dir / "adapter/versions/v0002"
    )
    assert ids == expected_ids
    assert (logits - expected).abs().max() < 1e-4


def test_exporting_again_replaces_the_snapshot(store_folder: Path) -> None:
    folder = store_folder / "exports" / SNAPSHOT
    (folder / "adapter/left.txt").write_text("of an earlier time")
    done = dlm("export", "my-audio.dlm", "--version", "v0001")
    assert done.code == 0, done.err
    assert not (folder / "adapter/left.txt").exists()
    assert json.loads((folder / "snapshot_manifest.json").read_text())["adapter_version"] == 1
    assert [path.name for path in folder.parent.iterdir() if path.is_dir()] == [SNAPSHOT]
    assert len(json.loads(dlm("show", "my-audio.dlm", "--json").out)["exports"]) == 1
    assert dlm("export", "my-audio.dlm").code == 0


def test_verify_names_changed_and_missing_files(store_folder: Path, work_dir: Path) -> None:
    folder = shutil.copytree(store_folder / "exports" / SNAPSHOT, work_dir / "sent")
    files = len(hash_tree(folder)) - 1
    done = dlm("verify", folder)
    assert (done.code, done.out) == (0, f"{folder}: {files} files are as they were written\n")
    with (folder / "adapter/adapter_model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\xff")
    (folder / "README.md").unlink()
    done = dlm("verify", folder)
    assert (done.code, done.out) == (1, "")
    gone, changed = done.err.splitlines()
    assert gone == "README.md: is gone"
    assert changed.startswith("adapter/adapter_model.safetensors: was changed")
    shown = json.loads(dlm("verify", folder, "--json").out)
    assert (shown["files"], len(shown["differences"])) == (files, 2)


def test_verify_refuses_what_is_no_snapshot(store_folder: Path, work_dir: Path) -> None:
    dlm("verify", work_dir).refused("there is no snapshot_manifest.json", "dlm export")
    dlm("verify", work_dir / "gone").refused("gone")
    (work_dir / "snapshot_manifest.json").write_text('{"artifacts": 3}')
    dlm("verify", work_dir).refused("snapshot_manifest.json", "cannot be read")
    done = dlm("verify", "my-audio.dlm")
    assert (done.code, done.out) == (0, "my-audio.dlm: 4 files are as they were written\n")


def test_export_before_training_is_refused(work_dir: Path) -> None:
    dlm("init", "my-audio.dlm", "--audio")
    done = dlm("export", "my-audio.dlm")
    done.refused("nothing was learned yet", "run `dlm train my-audio.dlm`")
    dlm("verify", "my-audio.dlm").refused("nothing was learned yet", "dlm train")


def test_a_checkpoint_folder_can_be_the_base(hub: Path, work_dir: Path) -> None:
    """A checkpoint that lies beside the document: the same road, and its own facts."""
    shutil.copytree(next(hub.rglob("snapshots/*")), work_dir / "bases/mine")
    write_tone(work_dir / "clips/a.wav", hertz=440)
    assert dlm("init", "my-audio.dlm", "--audio", "--base", "bases/mine").code == 0
    clip = '::audio path="clips/a.wav" transcript="one"::\n'
    edit_document(Path("my-audio.dlm"), sections=clip, training={"held_out": 0})
    assert "base_model: bases/mine\n" in Path("my-audio.dlm").read_text()
    assert dlm("train", "my-audio.dlm", "--max-steps", 1).code == 0
    done = dlm("export", "my-audio.dlm")
    assert done.code == 0, done.err
    shown = json.loads((Path(done.out.strip()) / "snapshot_manifest.json").read_text())
    assert (shown["base_model"], shown["base_model_hf_id"]) == ("mine", None)
    assert f'"{work_dir / "bases/mine"}"' in (Path(done.out.strip()) / "README.md").read_text()


def test_export_writes_into_an_empty_folder_only(store_folder: Path, work_dir: Path) -> None:
    (work_dir / "out").mkdir()
    assert dlm("export", "my-audio.dlm", "--out", work_dir / "out").code == 0
    assert dlm("verify", work_dir / "out").code == 0
    dlm("export", "my-audio.dlm", "--out", work_dir / "out").refused("not empty", "--out")
    (work_dir / "file").write_text("")
    dlm("export", "my-audio.dlm", "--out", work_dir / "file").refused("not empty", "--out")


def test_two_memorized_clips_are_told_apart(work_dir: Path) -> None:
    """Two recordings, two transcripts: only the audio tells them apart."""
    lines = []
    for word, hertz in (("yes", 300), ("no", 1200)):
        write_tone(work_dir / f"clips/{word}.wav", hertz=hertz, seconds=hertz / 1000)
        lines.append(f'::audio path="clips/{word}.wav" transcript="{word}"::\n')
    dlm("init", "my-audio.dlm", "--audio")
    edit_document(
        Path("my-audio.dlm"),
        sections="\n".join(lines),
        training={"learning_rate": 0.01, "held_out": 0, "lora_r": 16, "lora_dropout": 0.0},
    )
    assert dlm("train", "my-audio.dlm", "--max-steps", 100).code == 0
    for word in ("yes", "no"):
        prompt = ("--audio", f"clips/{word}.wav", "Transcribe the audio.")
        assert dlm("prompt", "my-audio.dlm", *prompt).out == f"{word}\n"


def test_the_example_trains(work_dir: Path) -> None:
    for name in ("podcast.dlm", "podcast"):
        source = ROOT / "examples" / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, work_dir / name)
    done = dlm("train", "podcast.dlm", "--max-steps", 1)
    assert done.code == 0, done.err
    prompt = ("--audio", "podcast/new-clip.ogg", "--max-tokens", 4, "What is said?")
    assert dlm("prompt", "podcast.dlm", *prompt).code == 0
    rates = {
        soundfile.info(path).samplerate for path in (work_dir / "podcast").rglob("*.[wfo][alg]*")
    }
    assert rates == {16_000}
    assert np.sum([each.stat().st_size for each in (work_dir / "podcast").rglob("*.*")]) < 200_000
