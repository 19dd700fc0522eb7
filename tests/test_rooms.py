"""The house: who may import whom, where torch may be, how large things grow, what is banned.

    errors, files <- document <- clips <- plan <- features <- batches <- model <- training
                  <- store <- use <- verbs <- studio, cli

An import may only point left. Nothing here runs the code: it reads it.
"""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import requires
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HOUSE = ROOT / "src" / "dlm"
CORRIDOR = (
    "errors files document clips plan features batches model training store use verbs studio cli"
).split()
TORCH_ROOMS = {"features", "batches", "model", "training", "use"}
TORCH = {"torch", "transformers", "peft", "accelerate"}

# Rooms that see less than everything to their left: what they may import beside themselves.
EVERYWHERE = ("dlm.errors", "dlm.files")
NARROW = {
    "errors": (),
    "files": (),
    "document": (),
    "clips": ("dlm.document",),
    "plan": ("dlm.document", "dlm.clips"),
    "features": (
        *("dlm.clips.audio", "dlm.clips.clip", "dlm.clips.noises", "dlm.clips.reader"),
        *("dlm.plan.bases", "dlm.plan.changes", "dlm.plan.frames"),
    ),
    "batches": (
        *("dlm.clips", "dlm.features"),
        *("dlm.plan.bases", "dlm.plan.changes", "dlm.plan.frames", "dlm.plan.plan"),
    ),
    "model": (
        *("dlm.plan", "dlm.features.mel"),
        *("dlm.batches.chat", "dlm.batches.collate", "dlm.batches.words"),
    ),
    "training": (
        *("dlm.batches", "dlm.features.kept", "dlm.model.adapters", "dlm.model.face"),
        *("dlm.model.last", "dlm.plan.plan"),
    ),
    "store": ("dlm.document", "dlm.training.events"),
    "studio": ("dlm.verbs", "dlm.training.events"),
    "cli": ("dlm.verbs", "dlm.training.events"),
}

CORE_DEPENDENCIES = 12
BROUGHT = {"psutil": "accelerate", "tokenizers": "transformers", "huggingface_hub": "transformers"}

LINES_OF_A_MODULE = 300
LINES_OF_A_FUNCTION = 60
MEAN_LINES_OF_A_FUNCTION = 15
PARAMETERS = 6
COMMANDS = {"verbs", "cli"}  # rooms where a parameter behind the star is an option
DRAWERS = {"utils", "util", "common", "core", "helpers", "helper", "manager", "managers", "misc"}
WHERE_THE_STORE_LIVES = HOUSE / "store" / "layout.py"

MODULES = sorted(HOUSE.rglob("*.py"))
ROOM_FILES = [path for path in MODULES if path.parent != HOUSE or path.stem != "__init__"]
Function = ast.FunctionDef | ast.AsyncFunctionDef


def each(paths: list[Path]) -> pytest.MarkDecorator:
    """Run the test on every file, named by its path in the house."""
    return pytest.mark.parametrize("path", paths, ids=lambda path: str(path.relative_to(HOUSE)))


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def room(path: Path) -> str:
    return path.relative_to(HOUSE).with_suffix("").parts[0]


def imported(path: Path, *, inside: bool = True) -> Iterator[str]:
    """The full name of everything a file imports, `inside` functions too."""
    package = ("dlm", *path.relative_to(HOUSE).parent.parts)
    for node in ast.walk(parse(path)) if inside else parse(path).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            near = package[: len(package) - node.level + 1] if node.level else ()
            source = ".".join((*near, *filter(None, [node.module])))
            yield from (f"{source}.{alias.name}" for alias in node.names)


def functions(path: Path) -> list[Function]:
    return [node for node in ast.walk(parse(path)) if isinstance(node, Function)]


def lines(function: Function) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


def within(name: str, allowed: tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in allowed)


@each(ROOM_FILES)
def test_imports_point_left(path: Path) -> None:
    here = room(path)
    if here == "__main__":
        return
    for name in imported(path):
        if not name.startswith("dlm."):
            continue
        there = name.split(".")[1]
        assert there in CORRIDOR, f"{path} imports {name}, which is no room"
        assert CORRIDOR.index(there) <= CORRIDOR.index(here), f"{path} looks right, at {name}"
        sees = NARROW.get(here)
        if sees is not None and there != here:
            assert within(name, EVERYWHERE + sees), f"{here} has no business with {name}: {path}"


@each(MODULES)
def test_torch_stays_right_of_its_line(path: Path) -> None:
    if room(path) in TORCH_ROOMS:
        return
    for name in imported(path):
        assert name.split(".")[0] not in TORCH, f"{path} has no torch, yet imports {name}"


def test_only_rooms_are_in_the_house() -> None:
    names = {room(path) for path in MODULES} - {"__init__", "__main__"}
    assert names <= set(CORRIDOR), f"not rooms: {sorted(names - set(CORRIDOR))}"


def test_no_cycle_between_modules() -> None:
    known = {
        ".".join(("dlm", *path.relative_to(HOUSE).with_suffix("").parts)): path
        for path in MODULES
        if path.stem != "__init__"
    }
    edges = {
        name: {
            other
            for found in imported(path)
            for other in (found, found.rpartition(".")[0])
            if other in known and other != name
        }
        for name, path in known.items()
    }
    done: set[str] = set()

    def visit(name: str, road: tuple[str, ...]) -> None:
        assert name not in road, " -> ".join((*road, name))
        if name not in done:
            for other in edges[name]:
                visit(other, (*road, name))
            done.add(name)

    for name in known:
        visit(name, ())


def test_every_library_is_declared() -> None:
    """A core dependency, what one of those brings, or an extra imported where it is used."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    core = modules(project["dependencies"])
    extras = project["optional-dependencies"]
    optional = set().union(*(modules(extras[name]) for name in extras if name != "dev")) - core
    for library, bringer in BROUGHT.items():
        assert library in modules(requires(bringer) or []), f"{bringer} does not bring {library}"
    for path in MODULES:
        for name in {name.split(".")[0] for name in imported(path)} - sys.stdlib_module_names:
            known = name == "dlm" or name in core | optional | BROUGHT.keys()
            assert known, f"{path} imports {name}, which pyproject.toml does not name"
        at_the_top = {name.split(".")[0] for name in imported(path, inside=False)}
        assert not at_the_top & optional, f"{path} imports {at_the_top & optional} at its top"


def test_few_libraries_are_needed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert len(project["dependencies"]) <= CORE_DEPENDENCIES


def modules(requirements: list[str]) -> set[str]:
    """What requirement lines are imported as."""
    plain = {re.split(r"[^\w.-]", line)[0].lower().replace("-", "_") for line in requirements}
    return {"yaml" if name == "pyyaml" else name for name in plain}


@each(MODULES)
def test_modules_say_what_they_decide_and_stay_small(path: Path) -> None:
    assert ast.get_docstring(parse(path)), f"{path} has no docstring"
    length = len(path.read_text(encoding="utf-8").splitlines())
    assert length <= LINES_OF_A_MODULE, f"{path} has {length} lines"
    assert not DRAWERS & set(path.relative_to(HOUSE).with_suffix("").parts), f"{path} is a drawer"


@each([path for path in ROOM_FILES if path.name == "__init__.py"])
def test_a_room_opens_with_one_sentence(path: Path) -> None:
    body = parse(path).body
    assert len(body) == 1, f"{path} holds more than a docstring"
    assert len(path.read_text(encoding="utf-8").splitlines()) == 1, f"{path} is longer than a line"


@each(MODULES)
def test_functions_stay_small_and_typed(path: Path) -> None:
    for function in functions(path):
        where = f"{path}:{function.lineno} {function.name}"
        assert lines(function) <= LINES_OF_A_FUNCTION, f"{where} has {lines(function)} lines"
        parts = function.args
        names = [*parts.posonlyargs, *parts.args, *parts.kwonlyargs]
        own = [name for name in names if name.arg not in ("self", "cls")]
        asked = [name for name in own if name not in parts.kwonlyargs]
        count = asked if room(path) in COMMANDS else own
        assert len(count) <= PARAMETERS, f"{where} has {len(count)} parameters"
        rest = [name for name in (parts.vararg, parts.kwarg) if name is not None]
        untyped = [name.arg for name in [*own, *rest] if name.annotation is None]
        assert not untyped, f"{where}: no type for {untyped}"
        assert function.returns is not None, f"{where}: no return type"


def test_functions_are_short_on_average() -> None:
    sizes = [lines(function) for path in MODULES for function in functions(path)]
    mean = sum(sizes) / max(len(sizes), 1)
    assert mean <= MEAN_LINES_OF_A_FUNCTION, f"{mean:.1f} lines on average"


@each(MODULES)
def test_what_is_banned(path: Path) -> None:
    for node in ast.walk(parse(path)):
        ban = banned(node, path)
        assert ban is None, f"{path}:{node.lineno}: {ban}"
    assert "pragma: no " + "cover" not in path.read_text(encoding="utf-8"), path


def banned(node: ast.AST, path: Path) -> str | None:
    """Why this node may not stand here, if it may not."""
    match node:
        case ast.ExceptHandler(type=None):
            return "a bare except hides what happened"
        case ast.ExceptHandler(type=caught) if {"Exception", "BaseException"} & names_in(caught):
            return "name the error that is expected"
        case ast.Global():
            return "no global state"
        case ast.Assert():
            return "an assert is for tests; raise from dlm.errors"
        case ast.Call(
            func=ast.Name(id="getattr" | "hasattr" | "setattr" | "eval" | "exec" as name)
        ):
            return f"{name} hides what a thing is"
        case ast.Call(func=ast.Name(id="print")) if room(path) != "cli":
            return "only cli prints"
        case ast.Import(names=found) if {alias.name.split(".")[0] for alias in found} & PICKLES:
            return "a pickle runs what it reads; use safetensors"
        case ast.ImportFrom(module=module) if str(module).split(".")[0] in PICKLES:
            return "a pickle runs what it reads; use safetensors"
        case ast.Attribute(value=ast.Name(id="torch"), attr="load" | "save" as name):
            return f"torch.{name} is a pickle; use safetensors"
        case ast.Attribute(value=ast.Name(id="os"), attr="environ" | "getenv" | "putenv"):
            return None if path == WHERE_THE_STORE_LIVES else "only store/layout.py reads DLM_HOME"
        case ast.ImportFrom(module="os", names=found) if {"environ", "getenv"} & {
            alias.name for alias in found
        }:
            return None if path == WHERE_THE_STORE_LIVES else "only store/layout.py reads DLM_HOME"
    return None


PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def names_in(node: ast.AST | None) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)} if node else set()
