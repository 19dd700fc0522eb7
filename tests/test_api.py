"""The example in docs/api.md does what it says, from the document to an answer."""

import re
from pathlib import Path

import pytest

import dlm
from tests.tiny_models import write_document, write_tiny_model, write_tone

PAGE = Path(__file__).parent.parent / "docs" / "api.md"


def test_the_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    example = re.search(r"^```python\n(.*?)^```", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert example
    tiny = write_tiny_model(tmp_path / "tiny")
    written = write_document(tmp_path, base_model=tiny, training="  held_out: 2\n")
    written.rename(tmp_path / "mine.dlm")
    write_tone(tmp_path / "new.wav", hertz=333)
    monkeypatch.chdir(tmp_path)
    exec(compile(example[1], PAGE, "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if re.match(r"\d+ \d", line)] == [
        str(step) for step in range(1, 21)
    ]
    (version,) = dlm.versions(tmp_path / "mine.dlm").versions
    assert version.steps == 20
