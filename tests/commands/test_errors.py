"""Every mistake a user can make: one line with the place and the mend, and nothing is touched."""

import os
import re
import resource
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.cli_runner import dlm, hash_files
from tests.tiny_models import write_document, write_tiny_model, write_tone

CLIP = "clips/0.wav"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def document(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A document that is fine, in the working directory."""
    monkeypatch.chdir(tmp_path)
    write_document(tmp_path, base_model=tiny, num_clips=4, training="  held_out: 0\n")
    return Path("my.dlm")


def rewrite(document: Path, old: str, new: str) -> None:
    text = document.read_text()
    assert old in text
    document.write_text(text.replace(old, new, 1))


def samples(clip: Path, rows: np.ndarray, rate: int = 16_000) -> None:
    soundfile.write(clip, rows, rate, subtype="FLOAT")


def cut(clip: Path) -> None:
    clip.write_bytes(clip.read_bytes()[:5000])


def folder(clip: Path) -> None:
    clip.unlink()
    clip.mkdir()


def not_a_number(clip: Path) -> None:
    samples(clip, np.where(np.arange(8000) == 4000, np.nan, 0.1))


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (Path.unlink, "audio not found: clips/0.wav"),
    "text": (lambda clip: clip.write_text("not sound\n"), "it holds text, not sound"),
    "cut": (cut, "it is cut short: its header promises"),
    "empty": (lambda clip: clip.write_bytes(b""), "the file is empty (0 bytes)"),
    "no samples": (lambda clip: samples(clip, np.zeros((0, 1))), "it holds no samples"),
    "nan": (not_a_number, "it holds samples that are no numbers (NaN or infinite)"),
    "directory": (folder, "it is a directory, not a recording"),
    "noise": (lambda clip: clip.write_bytes(bytes(range(256)) * 9), "not sound that can be"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_clip_is_told_with_its_place(how: str, document: Path, home: Path) -> None:
    breaks, words = BROKEN[how]
    breaks(Path(CLIP))
    done = dlm("train", document, "--steps", 1)
    done.refused("my.dlm:10: ", words, CLIP, "; ")
    assert not home.exists()
    checked = dlm("check", document)
    assert checked.code == 1
    assert done.err.strip() in checked.err
    assert "1 problem would stop training" in checked.err
    assert not home.exists()


@pytest.mark.parametrize("words", ["", "   ", "\t"])
def test_a_transcript_without_words(words: str, document: Path, home: Path) -> None:
    rewrite(document, 'transcript="one"', f'transcript="{words}"')
    dlm("train", document).refused("AUDIO section has empty transcript", "my.dlm:10")
    assert not home.exists()


def test_a_sidecar_without_words(document: Path, home: Path) -> None:
    write_tone(Path("corpus/a.wav"), hertz=300)
    Path("corpus/a.txt").write_text(" \n")
    rewrite(document, "training:\n", "training:\n  sources:\n    - path: corpus\n")
    dlm("train", document).refused("corpus/a", "AUDIO section has empty transcript")
    assert not home.exists()


def test_many_problems_are_counted_in_one_line(document: Path) -> None:
    for number in range(3):
        Path(f"clips/{number}.wav").unlink()
    dlm("train", document).refused("my.dlm:10: audio not found", "and 2 more: dlm check my.dlm")
    checked = dlm("check", document)
    assert len(re.findall("audio not found", checked.err)) == 3
    assert "3 problems would stop training" in checked.err


@contextmanager
def as_nobody(folder: Path) -> Iterator[None]:
    """Read as a user without rights, when the tests run as root."""
    if os.geteuid():
        yield
        return
    for path in (folder, *folder.rglob("*")):
        os.chown(path, 65534, 65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_clip_that_may_not_be_read(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_to_all = Path(tempfile.mkdtemp(prefix="dlm-"))
    try:
        shutil.copytree(tiny, open_to_all / "tiny")
        write_document(open_to_all, base_model="tiny", num_clips=4)
        monkeypatch.chdir(open_to_all)
        monkeypatch.setenv("DLM_HOME", str(open_to_all / "home"))
        Path(CLIP).chmod(0)
        with as_nobody(open_to_all):
            done = dlm("train", "my.dlm")
        done.refused("my.dlm:9: clips/0.wav: it cannot be read (permission denied)", "allow it")
        assert not Path("home").exists()
        Path("my.dlm").chmod(0)
        with as_nobody(open_to_all):
            dlm("train", "my.dlm").refused("my.dlm: the document cannot be read (Permission")
    finally:
        shutil.rmtree(open_to_all)


@pytest.mark.parametrize("rate", [44_100, 192_000])
def test_another_rate_is_refused_and_accepted_on_demand(
    rate: int, document: Path, home: Path
) -> None:
    write_tone(Path(CLIP), hertz=200, sample_rate=rate)
    words = (
        f"native sample_rate={rate} Hz does not match pinned 16000 Hz",
        CLIP,
        "training.audio.auto_resample: true",
        "ffmpeg -i in.wav -ar 16000 out.wav",
    )
    dlm("train", document).refused("my.dlm:10", *words)
    assert not home.exists()
    dlm("prompt", document, "--base", "--audio", CLIP, "What?").refused(*words)
    dlm("transcribe", document, "--base", CLIP).refused(*words)
    rewrite(document, "  held_out: 0\n", "  held_out: 0\n  audio:\n    auto_resample: true\n")
    assert dlm("train", document, "--steps", 1).code == 0
    assert dlm("prompt", document, "--max-tokens", 2, "--audio", CLIP, "What?").code == 0


def test_without_a_resampler_it_says_which_to_install(
    document: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tone(Path(CLIP), hertz=200, sample_rate=44_100)
    rewrite(document, "  held_out: 0\n", "  audio:\n    auto_resample: true\n")
    for library in ("soxr", "scipy", "scipy.signal"):
        monkeypatch.setitem(__import__("sys").modules, library, None)
    words = "AudioResampleUnavailable: requires either soxr or scipy", "pip install soxr", "scipy"
    dlm("train", document).refused(*words)
    dlm("prompt", document, "--base", "--audio", CLIP, "What?").refused(*words)


def test_a_clip_longer_than_the_window(document: Path, home: Path) -> None:
    write_tone(Path(CLIP), hertz=200, seconds=5.0)
    told = "my.dlm:12: clips/0.wav: it lasts 5.0 s, and the base hears 2 s at once; give spans"
    rewrite(document, "  held_out: 0\n", "  held_out: 0\n  audio:\n    long_clips: error\n")
    dlm("train", document).refused(told, "training.audio.long_clips: split")
    assert not home.exists()
    prompt = ("prompt", document, "--base", "--max-tokens", 2, "--audio", CLIP, "What?")
    dlm(*prompt).refused("clips/0.wav: it lasts 5.0 s, and the base hears 2 s at once")
    dlm("eval", document, "--base", "--data", CLIP).refused("clips/0.wav: no clips to evaluate")
    Path("list.jsonl").write_text('{"audio": "clips/0.wav", "text": "one"}\n')
    dlm("eval", document, "--base", "--data", "list.jsonl").refused("it lasts 5.0 s, and the base")
    assert dlm("transcribe", document, "--base", CLIP).code == 0


def test_more_sound_than_the_base_thinks_of(document: Path) -> None:
    write_tone(Path(CLIP), hertz=200, seconds=9.0)
    many = [word for _ in range(5) for word in ("--audio", CLIP)]
    told = "the sound takes 565 tokens, and tiny thinks of 512; give fewer or shorter recordings"
    dlm("prompt", document, "--base", *many, "What?").refused(told, code=2)


def test_eight_channels_are_mixed_down(document: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, (8000, 8))
    samples(Path(CLIP), noise)
    assert dlm("check", document).code == 0
    assert dlm("train", document, "--steps", 1).code == 0


DOCUMENTS = {
    "broken yaml": ("training:", "training: [", "my.dlm:"),
    "unknown key": ("  held_out: 0", "  held_uot: 0", "unknown key", "held_out"),
    "wrong value": ("  held_out: 0", "  held_out: 1.5", "my.dlm:7"),
    "unknown section": ("::audio", "::video", "my.dlm:10:1"),
    "near miss": ("::audio", "::Audio", "my.dlm:10:1"),
    "no front": ("---\n", "", "my.dlm:1"),
}


@pytest.mark.parametrize("name", DOCUMENTS)
@pytest.mark.parametrize("verb", ["check", "train", "show"])
def test_a_document_that_cannot_be_read(name: str, verb: str, document: Path, home: Path) -> None:
    old, new, *words = DOCUMENTS[name]
    rewrite(document, old, new)
    dlm(verb, document).refused(*words, "; ")
    assert not home.exists()


def test_an_unknown_base(document: Path, tiny: Path, home: Path) -> None:
    rewrite(document, str(tiny), "sparow")
    for verb in ("check", "train", "show", "export", "doctor"):
        done = dlm(verb, document)
        assert done.code == 1
        assert done.err.strip().endswith("unknown base 'sparow'; did you mean sparrow?")
    dlm("init", "new.dlm", "--base", "sparow").refused("unknown base 'sparow'", "sparrow")
    assert not Path("new.dlm").exists()
    assert not home.exists()


def test_nothing_to_learn(document: Path, home: Path) -> None:
    document.write_text(document.read_text().split("::audio")[0])
    dlm("train", document).refused("my.dlm: the document has nothing to train on", "::audio::")
    assert dlm("check", document).code == 1
    assert not home.exists()


def test_a_document_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for verb in ("check", "train", "eval", "show", "versions", "export", "doctor"):
        dlm(verb, "no.dlm").refused("no.dlm: there is no such document; dlm init no.dlm writes one")
    dlm("check", ".").refused("this is a directory")


def test_a_base_that_was_damaged(document: Path, tiny: Path, tmp_path: Path, home: Path) -> None:
    mine = shutil.copytree(tiny, tmp_path / "mine")
    rewrite(document, str(tiny), "mine")
    (mine / "dlm_base.json").write_text("{")
    dlm("train", document).refused("mine/dlm_base.json", "is not the spec of a model")
    shutil.copy(tiny / "dlm_base.json", mine)
    (mine / "model.safetensors").write_bytes(b"\0" * 100)
    done = dlm("train", document)
    assert done.code == 1
    assert "Traceback" not in done.err
    assert "mine" in done.err.splitlines()[-1]
    assert not list(home.rglob("v0001"))


WRONG = {
    "train --steps 0": "--steps is 0; choose 1 or more",
    "train --max-steps -1": "--steps is -1",
    "train --epochs 0": "--epochs: training.num_epochs is 0; it must be greater than or equal to 1",
    "train --save-every 0": "--save-steps: training.save_steps is 0",
    "train --seed -1": "--seed is -1; choose 0 or more",
    "train --seed 99999999999999999999": "--seed is 99999999999999999999",
    "train --resume --fresh": "--resume and --fresh exclude each other",
    "train --steps many": "Invalid value for '--steps'",
    "train --bogus": "No such option: --bogus; see `dlm train --help`",
    "prompt": "audio-language base requires at least one --audio PATH",
    "prompt what": "audio-language base requires at least one --audio PATH",
    "prompt --audio clips/no.wav what": "audio not found: clips/no.wav",
    "prompt --audio clips/0.wav": "empty query",
    "prompt --audio clips/0.wav --temperature -1 what": "--temperature is -1",
    "prompt --audio clips/0.wav --temperature nan what": "--temperature is nan",
    "prompt --audio clips/0.wav --top-p 0 what": "--top-p is 0",
    "prompt --audio clips/0.wav --top-p 2 what": "--top-p is 2",
    "prompt --audio clips/0.wav --top-k 0 what": "--top-k is 0",
    "prompt --audio clips/0.wav --max-tokens 0 what": "--max-tokens is 0",
    "prompt --audio clips/0.wav --seed -1 what": "--seed is -1",
    "prompt --audio clips/0.wav --base --version v0001 what": "--base and --version exclude",
    "prompt --base --audio clips/0.wav <|audio|><|audio|>": "2 <|audio|>, and there are 1 --audio",
    "transcribe --base clips/no.wav": "audio not found: clips/no.wav",
    "transcribe --base clips --srt --vtt": "--srt and --vtt exclude each other",
    "transcribe": "Missing argument",
    "eval --base --data nowhere": "clips not found: nowhere",
}


@pytest.mark.parametrize("words", WRONG)
def test_a_command_line_that_cannot_be(words: str, document: Path, home: Path) -> None:
    verb, *rest = words.split()
    dlm(verb, document, *rest).refused(WRONG[words], code=2)
    assert not home.exists()


@pytest.mark.parametrize("question", [b"", b"  \n", b"\xff"])
def test_a_question_on_stdin_may_be_anything(question: bytes, document: Path) -> None:
    done = dlm("prompt", document, "--audio", CLIP, stdin=question)
    if question.strip():
        done.refused("nothing was learned yet")
    else:
        done.refused("empty query", code=2)


def test_an_unknown_command() -> None:
    dlm("frobnicate").refused("No such command 'frobnicate'; see `dlm --help`", code=2)
    dlm("--frobnicate").refused("No such option: --frobnicate; see `dlm --help`", code=2)
    dlm("train").refused("Missing argument 'DOCUMENT'; see `dlm train --help`", code=2)
    dlm("check", "a.dlm", "b.dlm").refused("b.dlm", code=2)


def test_nothing_was_learned_yet(document: Path, home: Path) -> None:
    mend = "my.dlm: nothing was learned yet; run `dlm train my.dlm`"
    dlm("eval", document, "--data", "clips").refused(mend)
    dlm("transcribe", document, "clips").refused(mend)
    dlm("export", document).refused(mend)
    dlm("prompt", document, "--audio", CLIP, "What?").refused(mend)
    dlm("use", document, "v0001").refused("no version 'v0001'; `dlm train` makes the first")
    assert not list(home.rglob("*.json"))


def test_nothing_to_evaluate_on(document: Path, tiny: Path) -> None:
    dlm("eval", document, "--base").refused("my.dlm: no clips to evaluate on", "--data FOLDER")
    Path("nothing").mkdir()
    dlm("eval", document, "--base", "--data", "nothing").refused("nothing: no clips to evaluate on")
    Path("list.jsonl").write_text("{}\n")
    dlm("eval", document, "--base", "--data", "list.jsonl").refused("list.jsonl:1: no audio")
    Path("list.jsonl").write_text('{"audio": "no.wav", "text": "one"}\n')
    dlm("eval", document, "--base", "--data", "list.jsonl").refused("audio not found: no.wav")
    dlm("transcribe", document, "--base", "nothing").refused("no recordings in this folder")


def test_cuda_where_there_is_none(document: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(document.parent))  # where no driver can be asked
    dlm("train", document, "--device", "cuda").refused("no CUDA device", "--device cpu")
    dlm("train", document, "--device", "tpu").refused("unknown device 'tpu'", "cpu or cuda")


@contextmanager
def files_of_at_most(bytes_: int) -> Iterator[None]:
    """What a disk without room does: the kernel refuses to let a file grow."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    "room, options", [(8_000, []), (100_000, []), (100_000, ["--save-every", 1])]
)
def test_a_full_disk_leaves_every_version(
    room: int, options: list[object], document: Path, home: Path
) -> None:
    assert dlm("train", document, "--steps", 1).code == 0
    (store,) = (home / "store").iterdir()
    if room < 10_000:
        shutil.rmtree(store / "blobs")
    versions = hash_files(store / "adapter")
    manifest = (store / "manifest.json").read_bytes()
    with files_of_at_most(room):
        done = dlm("train", document, "--steps", 3, *options)
    assert done.code == 1
    last = done.err.splitlines()[-1]
    assert "limit" in last and "free" in last and "DLM_HOME" in last, last
    assert "Traceback" not in done.err
    assert hash_files(store / "adapter") == versions
    assert (store / "manifest.json").read_bytes() == manifest
    assert not list(store.rglob(".pending-*"))
    assert dlm("train", document, "--fresh", "--steps", 1).code == 0
    assert len(list((store / "adapter" / "versions").iterdir())) == 2


def test_a_store_that_cannot_be_written(document: Path, home: Path) -> None:
    home.write_text("a file")
    done = dlm("train", document)
    assert done.code == 1
    assert "Traceback" not in done.err and str(home) in done.err


def test_a_mistake_leaves_a_used_store_as_it_was(document: Path, home: Path) -> None:
    assert dlm("train", document, "--steps", 1).code == 0
    before = hash_files(home)
    Path(CLIP).unlink()
    for words in (
        ["train", document],
        ["check", document],
        ["prompt", document, "--audio", CLIP, "What?"],
        ["transcribe", document, CLIP],
        ["use", document, "v0009"],
        ["export", document, "--version", "v0009"],
        ["eval", document, "--version", "v0009"],
    ):
        assert dlm(*words).code in (1, 2)
    assert hash_files(home) == before
