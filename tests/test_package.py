"""Guards: what ships, who imports whom, sizes, and that help and documents keep up with the commands."""

import ast
import builtins
import doctest
import importlib
import inspect
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import typer

import unibrivl
from unibrivl import UnibrivlError
from unibrivl.cli import app

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FOLDERS = ("ingest", "shards", "model", "index", "bench")
ROOT_MODULES = ("__init__.py", "__main__.py", "cli.py")
ARROWS = {
    "shards": set(),
    "ingest": {"shards"},
    "model": {"shards"},
    "index": {"model", "shards"},
    "bench": {"index", "model", "shards", "ingest"},
    "cli": set(FOLDERS),
    "__main__": {"cli"},
    "__init__": set(),
}
"""Which of our own parts each part may import; everybody may import the root, for its error and version."""
MAX_MODULE_LINES = 500
MAX_FUNCTION_LINES = 60
FILES = [ROOT / name for name in ROOT_MODULES] + [p for folder in FOLDERS for p in sorted((ROOT / folder).glob("*.py"))]


def part_of(path: Path) -> str:
    return path.stem if path.parent == ROOT else path.parent.name


def module_name(path: Path) -> str:
    words = ["unibrivl", *path.relative_to(ROOT).with_suffix("").parts]
    return ".".join(words[:-1] if words[-1] == "__init__" else words)


def each_file(**options: Any) -> Any:
    return pytest.mark.parametrize("path", FILES, ids=[str(p.relative_to(ROOT)) for p in FILES], **options)


def imported_modules(path: Path, tree: ast.AST) -> Iterator[str]:
    """Yield the dotted names that a file imports, relative ones resolved to where they lead."""
    package = module_name(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            yield source
            yield from (f"{source}.{alias.name}" for alias in node.names)


def test_the_listed_packages_are_the_folders() -> None:
    found = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert found == set(FOLDERS)
    listed = PYPROJECT["tool"]["setuptools"]["packages"]
    assert sorted(listed) == sorted(["unibrivl", *(f"unibrivl.{name}" for name in found)])
    assert not list(ROOT.glob("[!.]*/*/__init__.py")), "folders are one level deep"


def test_every_module_at_the_root_is_meant_to_ship() -> None:
    assert sorted(path.name for path in ROOT.glob("*.py")) == sorted(ROOT_MODULES)


def test_other_files_of_packages_are_shipped() -> None:
    patterns = PYPROJECT["tool"]["setuptools"]["package-data"]
    for folder in FOLDERS:
        for path in (ROOT / folder).iterdir():
            if path.suffix not in (".py", "") and path.is_file() and path.name not in ("peers.txt", "stores.txt"):
                assert any(path.match(pattern) for pattern in patterns.get(f"unibrivl.{folder}", [])), path


def bare_modules() -> set[str]:
    """Return the names under which files of ours are loaded, other than `unibrivl.`."""
    parts = {ROOT / name for name in (*FOLDERS, "cli.py")}
    return {
        name
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] != "unibrivl"
        and (file := getattr(module, "__file__", None))
        and parts & {Path(file), Path(file).parent}
    }


def test_nothing_is_loaded_by_its_bare_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder at the root can be imported as `shards` from there, and would be a second copy of every class."""
    for path in FILES:
        importlib.import_module(module_name(path))
    assert bare_modules() == set()
    monkeypatch.syspath_prepend(ROOT)
    try:
        importlib.import_module("index")  # it imports nothing, so it loads without a word
        assert bare_modules() == {"index"}  # the guard sees it
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] in FOLDERS]:
            del sys.modules[name]


def test_every_name_of_the_shards_is_there() -> None:
    """They are loaded when asked for, so nothing else would tell of one that is missing."""
    shards = importlib.import_module("unibrivl.shards")
    assert sorted(name for names in shards._HOMES.values() for name in names) == sorted(shards.__all__)
    assert all(getattr(shards, name) is not None for name in shards.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = shards.nothing


@each_file()
def test_imports_follow_the_arrows(path: Path) -> None:
    part = part_of(path)
    for name in imported_modules(path, ast.parse(path.read_text(encoding="utf-8"))):
        words = name.split(".")
        assert words[0] not in (*FOLDERS, "cli"), f"{path}: import unibrivl.{name}"
        if words[:3] == ["unibrivl", "shards", "console"]:
            assert path.stem.endswith(("commands", "command", "cli")), f"{path}: only commands print"
        if words[0] == "unibrivl" and len(words) > 1 and words[1] in ARROWS:
            target = words[1]
            assert target == part or target in ARROWS[part], f"{path}: {part} may not import {target}"


@pytest.mark.parametrize(
    ("file", "line", "target"),
    [
        ("shards/writer.py", "from ..ingest import run", "ingest"),
        ("model/loss.py", "from ..index.page import Page", "index"),
        ("index/page.py", "from .. import bench", "bench"),
        ("ingest/__init__.py", "from ..model.train import train", "model"),
        ("bench/demo.py", "from unibrivl.cli import app", "cli"),
        ("bench/demo.py", "import unibrivl.cli", "cli"),
        ("cli.py", "def f():\n    from .index.page import write_page", "index"),
    ],
)
def test_the_guard_of_the_arrows_sees_every_way_of_importing(file: str, line: str, target: str) -> None:
    found = {name.split(".")[1] for name in imported_modules(ROOT / file, ast.parse(line)) if name.count(".")}
    assert target in found


@each_file()
def test_errors_are_ours_or_mistakes_of_the_caller(path: Path) -> None:
    """Names that lead to no class (a factory, `from e` of something caught) are left to the reader."""
    module = importlib.import_module(module_name(path))
    allowed: tuple[type, ...] = (UnibrivlError, ValueError, IndexError, AssertionError)
    if path.name in ("cli.py", "commands.py", "console.py") or path.name.endswith(("_command.py", "_commands.py")):
        allowed += (typer.Exit, typer.BadParameter)
    if path == ROOT / "shards" / "__init__.py":
        allowed += (AttributeError,)  # what Python asks of a module's `__getattr__`
    if path.name == "loader.py":
        allowed += (RuntimeError,)  # the caller's mistake, as a changed dict's
    if path.name == "engine.py":
        allowed += (PermissionError,)  # becomes an IngestError a few lines below
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Raise) or node.exc is None:
            continue
        raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        value: Any = module
        for word in ast.unparse(raised).split("."):
            value = getattr(value, word, getattr(builtins, word, None))
        if inspect.isclass(value):
            assert issubclass(value, allowed), f"{path}:{node.lineno}: raise {ast.unparse(raised)}"


def test_every_error_class_is_ours_and_listed() -> None:
    listed = unibrivl.__doc__ or ""
    found = set()
    for folder in FOLDERS:
        for _, kind in inspect.getmembers(importlib.import_module(f"unibrivl.{folder}.errors"), inspect.isclass):
            assert issubclass(kind, UnibrivlError)
            if kind is not UnibrivlError:
                found.add(kind.__name__)
                line = next(line for line in listed.splitlines() if f"{folder}:" in line)
                assert kind.__name__ in line, f"{kind.__name__} is not listed in unibrivl.__doc__"
    assert found == set(re.findall(r"\w+Error\b", listed)) - {"UnibrivlError"}


@each_file()
def test_modules_and_functions_stay_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_MODULE_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            assert lines <= MAX_FUNCTION_LINES, f"{path}:{node.lineno}: {node.name} has {lines} lines"


@each_file()
def test_doctests_pass_by_installed_name(path: Path) -> None:
    if path.name != "__main__.py":
        assert doctest.testmod(importlib.import_module(module_name(path))).failed == 0


def test_the_version_is_one() -> None:
    assert unibrivl.__version__ == PYPROJECT["project"]["version"] == version("unibrivl")


def requirement_names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\s\[<>=!~;]", text, maxsplit=1)[0].lower().replace("_", "-") for text in requirements}


def test_constraints_pin_every_direct_dependency_and_name_no_address() -> None:
    lines = [
        line.strip()
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if line.strip() and not line.lstrip().startswith("#")
    ]
    for line in lines:
        assert not re.search(r"https?:|@|file:|--|\.\.|/", line), line
        assert re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9.!+]+( *;.*)?", line), line
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in lines}
    project = PYPROJECT["project"]
    extras = project["optional-dependencies"]
    # `gpu` is the other choice beside `cpu`: both cannot be installed together
    wanted = requirement_names([*project["dependencies"], *extras["cpu"], *extras["dev"]])
    assert wanted <= pinned, wanted - pinned
    assert requirement_names(PYPROJECT["build-system"]["requires"]) <= pinned
    assert len(pinned) == len(lines)


def commands(group: Any = None, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every command of the command line with its words."""
    group = group or typer.main.get_command(app)
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*words, name))
        else:
            yield (*words, name), command


COMMANDS = dict(commands())
each_command = pytest.mark.parametrize("words", list(COMMANDS), ids=" ".join)


def test_the_commands_are_known() -> None:
    assert {" ".join(words) for words in COMMANDS} >= {
        "sample", "ingest", "train", "index", "query", "bench retrieval", "bench demo", "bench speed ingest",
        "bench speed reader", "shards verify", "shards repair", "shards retry", "shards stats", "shards index",
        "shards report",
    }  # fmt: skip


@each_command
def test_every_command_and_option_has_help(words: tuple[str, ...]) -> None:
    command = COMMANDS[words]
    assert (command.help or "").strip()
    for parameter in command.params:
        assert (getattr(parameter, "help", None) or "").strip(), f"{' '.join(words)}: {parameter.name} has no help"


@each_command
def test_every_command_has_an_example_that_parses(words: tuple[str, ...]) -> None:
    (example,) = re.findall(r"^\s*Example: (unibrivl .*)$", COMMANDS[words].help or "", flags=re.MULTILINE)
    typed = shlex.split(example)[1:]
    assert tuple(typed[: len(words)]) == words
    context = COMMANDS[words].make_context(words[-1], typed[len(words) :])
    assert context.params and not context.args


def test_an_example_with_a_wrong_option_is_seen() -> None:
    with pytest.raises(Exception, match="No such option"):
        COMMANDS["train",].make_context("train", ["shards", "--out", "run", "--epoch-count", "3"])


@each_command
def test_the_readme_shows_every_command(words: tuple[str, ...]) -> None:
    assert f"unibrivl {' '.join(words)}" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_command_in_readme_and_docs_parses() -> None:
    """Shell lines of the documents: the command exists and so do its options."""
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for line in re.findall(r"^(?:\$ )?(unibrivl [a-z].*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE):
            typed = shlex.split(line.rstrip("\\").strip(), comments=True)[1:]
            if typed[0].startswith("-"):
                continue
            words = next((tuple(typed[:n]) for n in (1, 2, 3) if tuple(typed[:n]) in COMMANDS), ())
            assert words, f"{path.name}: {line}"
            if not line.endswith("\\"):
                COMMANDS[words].make_context(words[-1], typed[len(words) :])
