"""The package on disk: one module has one name, layers import downward, links lead into the package."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from importlib.util import resolve_name
from pathlib import Path

import pytest

from tests.support.layout import LAYERS, LINKED, PACKAGE, ROOT


@cache
def imports(file: Path) -> tuple[str, ...]:
    """Return the dotted names that a file imports; a name imported from a module with the module's."""
    return tuple(_imports(file))


def _imports(file: Path) -> Iterator[str]:
    package = ".".join(file.relative_to(ROOT).parent.parts)
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = resolve_name("." * node.level + (node.module or ""), package)
            yield from (f"{module}.{alias.name}" for alias in node.names)


def sources(*folders: str) -> list[Path]:
    found = [file for folder in folders for file in (ROOT / folder).rglob("*.py")]
    assert len(found) > 20
    return sorted(found)


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_name(f"{path.name}.py").is_file() or (path / "__init__.py").is_file()


def folder_of(name: str) -> str:
    """Return the folder of a dotted name of the package; empty for a file beside the folders."""
    first = name.split(".")[1]
    return first if (PACKAGE / first).is_dir() else ""


def test_nothing_is_imported_through_a_link() -> None:
    """``import server`` would find the link, and make a second copy of every module behind it."""
    roots = {*LINKED, *LAYERS}
    found = {
        str(file.relative_to(ROOT)): wrong
        for file in sources("fedrec", "tests", "benchmarks")
        if (wrong := sorted(name for name in imports(file) if name.partition(".")[0] in roots))
    }
    assert found == {}


def test_no_text_in_the_package_names_a_module_by_a_link() -> None:
    """Processes, commands and lazy imports are given names in strings."""
    found = [
        f"{file.relative_to(ROOT)}:{node.lineno}: {node.value}"
        for file in sources("fedrec")
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if re.match(rf"({'|'.join(LINKED)})\.\w", node.value) and is_module(node.value.partition(":")[0])
    ]
    assert found == []
    assert is_module("server.round_records") is (ROOT / "server").is_dir()


def test_every_module_is_loaded_once_and_under_its_own_name() -> None:
    """Import the whole package from the top of the repository, where the links are."""
    expected = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file.resolve()
        for file in sources("fedrec")
        if file.name != "__main__.py"
    }
    code = (
        f"import importlib, json, sys\nfor name in {list(expected)!r}:\n    importlib.import_module(name)\n"
        "found = {name: getattr(module, '__file__', None) for name, module in sys.modules.items()}\n"
        "print(json.dumps(found))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ours = {
        name: Path(file).resolve()
        for name, file in json.loads(done.stdout.splitlines()[-1]).items()
        if file is not None and Path(file).resolve().is_relative_to(PACKAGE)
    }
    assert ours == expected


def test_links_lead_into_the_package() -> None:
    """Check what git stores, which holds also where the file system has no links."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("this is no git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "--stage"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    links = {}
    for line in listed.stdout.splitlines():
        stage, name = line.split("\t")
        mode, digest, _ = stage.split()
        if mode == "120000":
            kept = subprocess.run(
                ["git", "cat-file", "blob", digest], cwd=ROOT, capture_output=True, check=True
            )
            links[name] = kept.stdout.decode()
    assert links == {name: f"fedrec/{name}" for name in LINKED if (PACKAGE / name).is_dir()}


def test_the_root_holds_only_what_a_newcomer_looks_for() -> None:
    assert {file.name for file in PACKAGE.glob("*.py")} == {
        "__init__.py",
        "__main__.py",
        "config.py",
        "errors.py",
    }
    assert {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()} == set(LAYERS)


def test_every_folder_with_python_is_a_package() -> None:
    """One without ``__init__.py`` would be left out of a wheel without a word."""
    folders = {
        folder for file in sources("fedrec") for folder in file.parents if folder.is_relative_to(PACKAGE)
    }
    assert [folder for folder in sorted(folders) if not (folder / "__init__.py").is_file()] == []


@pytest.mark.parametrize("folder", [folder for folder in LAYERS if LAYERS[folder] > 1])
def test_a_folder_imports_only_from_layers_below(folder: str) -> None:
    files = list((PACKAGE / folder).rglob("*.py"))
    assert files
    for file in files:
        for name in imports(file):
            if name.startswith("fedrec.") and (other := folder_of(name)) != folder:
                assert LAYERS.get(other, 1) < LAYERS[folder], f"{file.relative_to(ROOT)} imports {name}"


def test_the_lowest_layer_imports_only_itself() -> None:
    lowest = [file for file in sources("fedrec") if LAYERS.get(file.relative_to(PACKAGE).parts[0], 1) == 1]
    lowest.remove(PACKAGE / "__init__.py")
    # The program itself, as the command line starts it.
    lowest.remove(PACKAGE / "__main__.py")
    for file in lowest:
        for name in imports(file):
            if name.startswith("fedrec."):
                assert LAYERS.get(folder_of(name), 1) == 1, f"{file.relative_to(ROOT)} imports {name}"


def test_no_module_of_the_package_imports_its_public_names() -> None:
    """``fedrec/__init__.py`` is for users of the package."""
    for file in sources("fedrec"):
        for name in imports(file):
            if name.split(".")[0] == "fedrec":
                parts = name.split(".")
                assert len(parts) > 1, f"{file.relative_to(ROOT)} imports {name}"
                assert len(parts) > 2 or is_module(name), f"{file.relative_to(ROOT)} imports {name}"


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Neither when they are loaded, nor later, nor for their types alone."""
    modules = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
        for file in sources("fedrec")
    }

    def module_of(name: str) -> str:
        return name if name in modules else name.rpartition(".")[0]

    graph = {
        module: {module_of(name) for name in imports(file)} & (modules.keys() - {module})
        for module, file in modules.items()
    }
    assert len(graph["fedrec.server.coordinator"]) > 5
    TopologicalSorter(graph).prepare()


def test_the_tests_mirror_the_package() -> None:
    """A folder of tests is named after the folder that it tests; the others hold what is of no single one."""
    folders = {p.relative_to(PACKAGE).as_posix().lstrip("_") for p in PACKAGE.rglob("*") if p.is_dir()}
    beside = {"support", "federation", "package", "package/acme/acme_fedrec"}
    tests = ROOT / "tests"
    found = {p.relative_to(tests).as_posix() for p in tests.rglob("*") if p.is_dir() and any(p.glob("*.py"))}
    assert len(found) > 15
    assert found - beside <= folders
    assert {p.name for p in tests.glob("*.py")} == {"__init__.py", "conftest.py"}


def test_the_repository_has_no_other_files_at_its_top() -> None:
    """A test or a script that is given a wrong path leaves a folder here, and ``git add`` takes it along."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    settings = {".ci", ".gitignore", ".pre-commit-config.yaml", "Makefile", "pyproject.toml"}
    pages = {"CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "README.md", "SECURITY.md"}
    folders = {"benchmarks", "deploy", "docs", "examples", "fedrec", "tests", *LINKED}
    assert {
        name.partition("/")[0] for name in listed.decode().split("\0") if name
    } == settings | pages | folders
