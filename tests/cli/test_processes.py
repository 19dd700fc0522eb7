"""What only real processes show: `python -m dlm`, what is loaded, signals, pipes, two at once."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli_runner import DLM_COMMAND, dlm, run_process
from tests.tiny_models import write_document, write_tiny_model, write_tone

STEPS = 40
EACH_WITHOUT_TORCH = """
import json, os, sys
from contextlib import redirect_stderr, redirect_stdout
from dlm.cli.main import main
for words in json.loads(sys.argv[1]):
    sys.argv = ["dlm", *words]
    code = 0
    try:
        with open(os.devnull, "w") as hidden, redirect_stdout(hidden), redirect_stderr(hidden):
            main()
    except SystemExit as end:
        code = end.code
    heavy = {"torch", "transformers", "peft", "accelerate"} & set(sys.modules)
    print(json.dumps([words[0], code, sorted(heavy)]), flush=True)
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def document(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_document(tmp_path, base_model=tiny, training="  held_out: 2\n")
    return Path("my.dlm")


@contextmanager
def training(document: Path, *words: str) -> Iterator[subprocess.Popen]:
    """A training in a process of its own, from its first step on; killed if it is still there."""
    command = [*DLM_COMMAND, "train", str(document), *words]
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        for line in run.stderr:
            if line.startswith("step 1/"):
                break
        yield run
    finally:
        run.kill()
        run.wait()
        run.stderr.close()


def adapters(document: Path) -> list[str]:
    found = json.loads(dlm("versions", document, "--json").out)
    return [version["hashes"]["adapter_model.safetensors"] for version in found]


def test_one_at_a_time_and_ctrl_c_saves(document: Path) -> None:
    words = ("--steps", str(STEPS))
    with training(document, *words) as run:
        run.send_signal(signal.SIGSTOP)
        second = dlm("train", document, *words)
        used = dlm("use", document, "v0001")
        run.send_signal(signal.SIGINT)
        run.send_signal(signal.SIGCONT)
        told = run.stderr.read()
        assert run.wait() == 130, told
    second.refused(f"another dlm (pid {run.pid}, since", "kill", "is training this document; wait")
    used.refused("is training this document")
    assert "stopping after this step; the run can go on with --resume" in told
    assert "stopped, to go on with --resume, after step" in told
    assert "Traceback" not in told
    assert not adapters(document)
    going_on = dlm("train", document, *words, "--resume")
    assert going_on.code == 0
    assert "going on after step" in going_on.err
    assert dlm("train", document, *words).code == 0
    resumed, whole = adapters(document)
    assert resumed == whole


def test_mistakes_are_found_before_torch_is_loaded(document: Path, tiny: Path) -> None:
    write_tone(Path("fast.wav"), hertz=300, sample_rate=44_100)
    Path("text.wav").write_text("not sound")
    Path("list.jsonl").write_text('{"audio": "no.wav", "text": "one"}\n')
    asking = ["prompt", "my.dlm", "--base", "--audio"]
    broken = Path("broken.dlm")
    broken.write_text(document.read_text().replace("clips/", "gone/"))
    commands = [
        ["check", "my.dlm"],
        ["show", "my.dlm"],
        ["versions", "my.dlm"],
        ["use", "my.dlm", "v0001"],
        ["doctor", "my.dlm"],
        ["init", "new.dlm"],
        ["train", "broken.dlm"],
        ["train", "no.dlm"],
        ["train", "my.dlm", "--steps", "0"],
        ["prompt", "my.dlm", "What?"],
        ["prompt", "my.dlm", "--audio", "clips/1.wav", "What?"],
        [*asking, "no.wav", "What?"],
        [*asking, "fast.wav", "What?"],
        [*asking, "text.wav", "What?"],
        [*asking, "clips", "What?"],
        [*asking, "clips/1.wav", " "],
        ["transcribe", "my.dlm", "--base", "fast.wav"],
        ["transcribe", "my.dlm", "clips"],
        ["eval", "my.dlm"],
        ["eval", "broken.dlm", "--base"],
        ["eval", "my.dlm", "--base", "--data", "list.jsonl"],
        ["export", "my.dlm"],
    ]
    script = [sys.executable, "-c", EACH_WITHOUT_TORCH, json.dumps(commands)]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [name for name, _, _ in told] == [words[0] for words in commands]
    for words, (_, code, heavy) in zip(commands, told, strict=True):
        assert not heavy, f"{words} loads {heavy}"
        fine = words[0] in ("check", "show", "versions", "doctor", "init")
        assert (code == 0) == fine, words


def test_python_m_dlm(tmp_path: Path) -> None:
    done = run_process("--help", folder=tmp_path)
    assert done.code == 0
    assert done.out.startswith("Usage: dlm ")
    assert run_process(folder=tmp_path) == done
    refused = run_process("train", "no.dlm", folder=tmp_path)
    refused.refused("no.dlm: there is no such document; dlm init no.dlm writes one")
    run_process("train", folder=tmp_path).refused("Missing argument 'DOCUMENT'", code=2)


def test_a_reader_that_goes_away_is_no_mistake(document: Path) -> None:
    show = subprocess.Popen(
        [*DLM_COMMAND, "show", str(document), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    show.stdout.close()
    told = show.stderr.read()
    show.wait()
    show.stderr.close()
    assert told == b""
