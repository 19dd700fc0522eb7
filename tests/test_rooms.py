"""Structure of the package: direction of imports, torch line, cycles, names, what is banned.

    errors, io, legacy <- config <- data <- plan <- features <- batching <- models <- training
                       <- store <- inference <- reports <- exporters <- commands <- cli

An import may only point left. Nothing here runs the code: it reads it.
"""

import ast
import re
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from importlib.metadata import requires
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "dlm"
ROOMS = (
    "errors io legacy config data plan features batching models training store "
    "inference reports exporters commands cli"
).split()
TORCH_ROOMS = {"features", "batching", "models", "training", "inference", "reports", "exporters"}
TORCH = {"torch", "transformers", "peft", "accelerate"}
CORE_DEPENDENCIES = 14
TRANSITIVE = {
    "psutil": "accelerate",
    "tokenizers": "transformers",
    "huggingface_hub": "transformers",
}
BANNED_FILE_NAMES = set("utils util common core helpers helper manager managers misc".split())
PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
STORE_LAYOUT = PACKAGE / "store" / "layout.py"

MODULES = sorted(PACKAGE.rglob("*.py"))
ROOM_FILES = [path for path in MODULES if path.parent != PACKAGE or path.stem != "__init__"]


def each(paths: list[Path]) -> pytest.MarkDecorator:
    """Run the test on every file, named by its path in the package."""
    return pytest.mark.parametrize("path", paths, ids=lambda path: str(path.relative_to(PACKAGE)))


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported_names(path: Path, *, in_functions: bool = True) -> Iterator[str]:
    """The full name of everything a file imports, `in_functions` too."""
    package = ("dlm", *path.relative_to(PACKAGE).parent.parts)
    for node in ast.walk(parse(path)) if in_functions else parse(path).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else ()
            source = ".".join((*parents, *filter(None, [node.module])))
            yield from (f"{source}.{alias.name}" for alias in node.names)


def defined_names(path: Path) -> Iterator[str]:
    """Public classes, functions and constants that a module defines at its top level."""
    for node in parse(path).body:
        match node:
            case (
                ast.FunctionDef(name=name)
                | ast.AsyncFunctionDef(name=name)
                | ast.ClassDef(name=name)
            ):
                yield name
            case ast.Assign(targets=targets):
                yield from (target.id for target in targets if isinstance(target, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name


@each(ROOM_FILES)
def test_imports_point_left(path: Path) -> None:
    here = room(path)
    if here == "__main__":
        return
    for name in imported_names(path):
        if name.startswith("dlm."):
            there = name.split(".")[1]
            assert there in ROOMS, f"{path} imports {name}, which is no room"
            assert ROOMS.index(there) <= ROOMS.index(here), f"{path} looks right, at {name}"


@each(MODULES)
def test_torch_is_imported_only_right_of_its_line(path: Path) -> None:
    if room(path) not in TORCH_ROOMS:
        for name in imported_names(path):
            assert name.split(".")[0] not in TORCH, f"{path} has no torch, yet imports {name}"


def test_every_file_lies_in_a_room() -> None:
    names = {room(path) for path in MODULES} - {"__init__", "__main__"}
    assert names <= set(ROOMS), f"not rooms: {sorted(names - set(ROOMS))}"


def test_modules_import_each_other_without_cycles() -> None:
    known = {
        ".".join(("dlm", *path.relative_to(PACKAGE).with_suffix("").parts)): path
        for path in MODULES
        if path.stem != "__init__"
    }
    edges = {
        name: {
            other
            for imported in imported_names(path)
            for other in (imported, imported.rpartition(".")[0])
            if other in known and other != name
        }
        for name, path in known.items()
    }
    done: set[str] = set()

    def visit(name: str, importers: tuple[str, ...]) -> None:
        assert name not in importers, " -> ".join((*importers, name))
        if name not in done:
            for other in edges[name]:
                visit(other, (*importers, name))
            done.add(name)

    for name in known:
        visit(name, ())


def test_no_public_name_is_defined_in_two_modules() -> None:
    modules: dict[str, list[str]] = defaultdict(list)
    for path in ROOM_FILES:
        if path.stem != "__init__":
            for name in defined_names(path):
                if not name.startswith("_"):
                    modules[name].append(str(path.relative_to(PACKAGE)))
    assert {name: paths for name, paths in modules.items() if len(set(paths)) > 1} == {}


def test_every_library_is_declared() -> None:
    """A core dependency, what one of those brings, or an extra imported where it is used."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    core = import_names(project["dependencies"])
    extras = project["optional-dependencies"]
    optional = set().union(*(import_names(extras[name]) for name in extras if name != "dev")) - core
    for library, parent in TRANSITIVE.items():
        assert library in import_names(requires(parent) or []), f"{parent} does not bring {library}"
    for path in MODULES:
        for name in {name.split(".")[0] for name in imported_names(path)} - sys.stdlib_module_names:
            known = name == "dlm" or name in core | optional | TRANSITIVE.keys()
            assert known, f"{path} imports {name}, which pyproject.toml does not name"
        top_level = {name.split(".")[0] for name in imported_names(path, in_functions=False)}
        assert not top_level & optional, f"{path} imports {top_level & optional} at its top"


def test_the_core_needs_few_libraries() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert len(project["dependencies"]) <= CORE_DEPENDENCIES


def import_names(requirements: list[str]) -> set[str]:
    """What requirement lines are imported as."""
    plain = {re.split(r"[^\w.-]", line)[0].lower().replace("-", "_") for line in requirements}
    return {"yaml" if name == "pyyaml" else name for name in plain}


@each(MODULES)
def test_modules_have_docstrings_and_subjects(path: Path) -> None:
    assert ast.get_docstring(parse(path)), f"{path} has no docstring"
    parts = set(path.relative_to(PACKAGE).with_suffix("").parts)
    assert not BANNED_FILE_NAMES & parts, f"{path} names no subject"


@each([path for path in ROOM_FILES if path.name == "__init__.py"])
def test_init_files_hold_one_sentence(path: Path) -> None:
    assert len(parse(path).body) == 1, f"{path} holds more than a docstring"
    assert len(path.read_text(encoding="utf-8").splitlines()) == 1, f"{path} is longer than a line"


@each(MODULES)
def test_nothing_banned_is_used(path: Path) -> None:
    for node in ast.walk(parse(path)):
        reason = find_banned(node, path)
        assert reason is None, f"{path}:{node.lineno}: {reason}"
    assert "pragma: no " + "cover" not in path.read_text(encoding="utf-8"), path


def find_banned(node: ast.AST, path: Path) -> str | None:
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
        case ast.Call(func=ast.Name(id="eval" | "exec" as name)):
            return f"{name} runs text"
        case ast.Call(func=ast.Name(id="print")) if room(path) != "cli":
            return "only cli prints"
        case ast.Import(names=found) if {alias.name.split(".")[0] for alias in found} & PICKLES:
            return "a pickle runs what it reads; use safetensors"
        case ast.ImportFrom(module=module) if str(module).split(".")[0] in PICKLES:
            return "a pickle runs what it reads; use safetensors"
        case ast.Attribute(value=ast.Name(id="torch"), attr="load" | "save" as name):
            return f"torch.{name} is a pickle; use safetensors"
        case ast.Attribute(value=ast.Name(id="os"), attr="environ" | "getenv" | "putenv"):
            return None if path == STORE_LAYOUT else "only store/layout.py reads DLM_HOME"
        case ast.ImportFrom(module="os", names=found) if {"environ", "getenv"} & {
            alias.name for alias in found
        }:
            return None if path == STORE_LAYOUT else "only store/layout.py reads DLM_HOME"
    return None


def names_in(node: ast.AST | None) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)} if node else set()


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_pages_name_paths_that_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    paths = set(re.findall(r"`((?:src|tests|scripts|docs|bench|recipes)/[\w./-]+)`", text))
    room_paths = set(re.findall(rf"`((?:{'|'.join(ROOMS)})/[\w./-]+)`", text))
    paths |= {f"src/dlm/{path}" for path in room_paths}
    assert paths, page
    assert sorted(path for path in paths if not (ROOT / path).exists()) == []


def test_the_architecture_page_names_every_room() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    (tree, imports) = re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    listed = re.findall(r"^  (\w+)(?:\.py|/)(?=\s)", tree, re.MULTILINE)
    assert listed == ROOMS
    assert re.findall(r"\w+", imports) == ROOMS
