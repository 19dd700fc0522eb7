"""What only processes show: `python -m dlm`, imports, Ctrl-C, a closed pipe, two at once."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.cli_runner import DLM_COMMAND, dlm, run_process
from tests.tiny_models import write_document, write_tiny_model, write_tone

NUM_STEPS = 20
RUN_AND_PRINT_IMPORTS = """
import json, os, sys
from contextlib import redirect_stderr, redirect_stdout
from dlm.cli.main import main
for args in json.loads(sys.argv[1]):
    sys.argv = ["dlm", *args]
    code = 0
    try:
        with open(os.devnull, "w") as null, redirect_stdout(null), redirect_stderr(null):
            main()
    except SystemExit as system_exit:
        code = system_exit.code
    heavy = {"torch", "transformers", "peft", "accelerate"} & set(sys.modules)
    print(json.dumps([code, sorted(heavy)]), flush=True)
"""


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def document(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_document(tmp_path, base_model=tiny_model, training="  held_out: 2\n")
    return Path("my.dlm")


@contextmanager
def run_training(document: Path, *options: str) -> Iterator[subprocess.Popen]:
    """A training in another process, from its first step on; killed at the end."""
    process = subprocess.Popen(
        [*DLM_COMMAND, "train", str(document), *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for line in process.stderr:
            if line.startswith("step 1/"):
                break
        yield process
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def hash_adapters(document: Path) -> list[str]:
    versions = json.loads(dlm("versions", document, "--json").out)
    return [version["hashes"]["adapter_model.safetensors"] for version in versions]


def test_a_second_training_is_refused_and_ctrl_c_saves(document: Path) -> None:
    options = ("--steps", str(NUM_STEPS))
    with run_training(document, *options) as process:
        process.send_signal(signal.SIGSTOP)
        second_training = dlm("train", document, *options)
        use_version = dlm("use", document, "v0001")
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGCONT)
        err = process.stderr.read()
        assert process.wait() == 130, err
    holder = f"another dlm (pid {process.pid}, since"
    second_training.refused(holder, "kill", "is training this document; wait", error="store.locked")
    use_version.refused("is training this document", error="store.locked")
    assert "stopping after this step; continue the run with --resume" in err
    assert "stopped after step" in err
    assert "Traceback" not in err
    assert not hash_adapters(document)
    resumed = dlm("train", document, *options, "--resume")
    assert resumed.code == 0
    assert "continuing after step" in resumed.err
    assert dlm("train", document, *options).code == 0
    resumed_hash, uninterrupted_hash = hash_adapters(document)
    assert resumed_hash == uninterrupted_hash


@pytest.mark.parametrize(
    "command", [("check", "my.dlm"), ("train", "my.dlm"), ("transcribe", "long"), ("doctor",)]
)
def test_ctrl_c_ends_every_command_within_two_seconds(
    document: Path, command: tuple[str, ...]
) -> None:
    """Of the kind: work in threads that Ctrl-C waits for. Neighbours: a scan, a scan before
    training, a model being loaded, a command that may have ended."""
    samples = np.random.default_rng(0).normal(0, 0.1, 16_000 * 1200).astype(np.float32)
    Path("long").mkdir()
    soundfile.write("long/0.flac", samples, 16_000)
    for number in range(1, 30):
        os.link("long/0.flac", f"long/{number}.flac")
    for number in range(30):
        Path(f"long/{number}.txt").write_text("one two")
    text = document.read_text().replace("held_out: 2", "held_out: 2\n  sources: [{path: long}]")
    document.write_text(text)
    process = subprocess.Popen(
        [*DLM_COMMAND, *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    time.sleep(4)
    pressed_at = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert time.monotonic() - pressed_at < 4  # two seconds, and two for a machine that is busy
    assert process.returncode in (130, -signal.SIGINT, 0), err
    assert b"Traceback" not in err, err


def test_mistakes_are_found_before_torch_is_imported(document: Path) -> None:
    write_tone(Path("fast.wav"), hertz=300, sample_rate=44_100)
    Path("text.wav").write_text("not sound")
    Path("list.jsonl").write_text('{"audio": "no.wav", "text": "one"}\n')
    Path("broken.dlm").write_text(document.read_text().replace("clips/", "gone/"))
    prompt = ["prompt", "my.dlm", "--base", "--audio"]
    valid = [
        ["check", "my.dlm"],
        ["show", "my.dlm"],
        ["versions", "my.dlm"],
        ["doctor", "my.dlm"],
        ["init", "new.dlm"],
    ]
    mistaken = [
        ["use", "my.dlm", "v0001"],
        ["train", "broken.dlm"],
        ["train", "no.dlm"],
        ["train", "my.dlm", "--steps", "0"],
        ["prompt", "my.dlm", "What?"],
        ["prompt", "my.dlm", "--audio", "clips/1.wav", "What?"],
        [*prompt, "no.wav", "What?"],
        [*prompt, "text.wav", "What?"],
        [*prompt, "clips", "What?"],
        [*prompt, "clips/1.wav", " "],
        ["transcribe", "my.dlm", "clips"],
        ["eval", "my.dlm"],
        ["eval", "broken.dlm", "--base"],
        ["eval", "my.dlm", "--base", "--data", "list.jsonl"],
        ["export", "my.dlm"],
    ]
    commands = valid + mistaken
    script = [sys.executable, "-c", RUN_AND_PRINT_IMPORTS, json.dumps(commands)]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines()]
    for args, (code, heavy) in zip(commands, results, strict=True):
        assert not heavy, f"{args} imports {heavy}"
        assert (code == 0) == (args in valid), args


def test_python_m_dlm_is_the_same_program(tmp_path: Path) -> None:
    done = run_process(folder=tmp_path)
    assert done.code == 0 and done.out.startswith("Usage: dlm ")
    done = run_process("train", "no.dlm", folder=tmp_path)
    done.refused("no.dlm: there is no such document; dlm init no.dlm writes one")
    run_process("train", folder=tmp_path).refused("Missing argument 'DOCUMENT'", code=2)


def test_a_closed_pipe_is_no_error(document: Path) -> None:
    process = subprocess.Popen(
        [*DLM_COMMAND, "show", str(document), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    err = process.stderr.read()
    process.wait()
    process.stderr.close()
    assert err == b""
