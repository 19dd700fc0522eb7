"""Every error and issue of the package has a code of one form, in the room of its subject."""

import ast
import inspect
import re
from pathlib import Path

import pytest

from dlm import errors
from dlm.errors import DlmError, MissingExtra

PACKAGE = Path(__file__).parent.parent / "src" / "dlm"
CODE_RE = re.compile(
    r"(audio|data|document|extra|hub|model|plan|source|store|training|usage)\.[a-z0-9_]+"
)
ERRORS = [
    value
    for value in vars(errors).values()
    if inspect.isclass(value) and value.__module__ == errors.__name__
]
RAISED = {error.__name__ for error in ERRORS if error is not MissingExtra} | {"Issue"}


def find_calls(path: Path) -> list[ast.Call]:
    """The calls of a module that make an error or an issue."""
    return [
        node
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in RAISED
    ]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_codes_are_named_after_their_subject(path: Path) -> None:
    for call in find_calls(path):
        codes = [keyword.value for keyword in call.keywords if keyword.arg == "code"]
        assert codes, f"{path}:{call.lineno} has no code"
        for constant in ast.walk(codes[0]):
            if isinstance(constant, ast.Constant) and isinstance(constant.value, str):
                assert CODE_RE.fullmatch(constant.value), f"{path}:{call.lineno}: {constant.value}"


def test_an_error_cannot_be_made_without_a_code() -> None:
    assert sum(len(find_calls(path)) for path in PACKAGE.rglob("*.py")) > 300
    with pytest.raises(TypeError, match="code"):
        DlmError("something")  # type: ignore[call-arg]


@pytest.mark.parametrize("error_class", ERRORS)
def test_all_errors_are_caught_as_one_class(error_class: type[Exception]) -> None:
    assert issubclass(error_class, DlmError)


def test_an_error_says_where_what_and_the_hint_in_one_line() -> None:
    error = errors.AudioError("too short", where="a.wav", hint="record more", code="audio.x")
    assert str(error) == "a.wav: too short; record more"
    assert (error.where, error.what, error.hint, error.code) == (
        "a.wav",
        "too short",
        "record more",
        "audio.x",
    )
    missing = MissingExtra("pyarrow", "data")
    assert str(missing) == "pyarrow is not installed; pip install 'dlm[data]'"
    assert missing.code == "extra.missing"
