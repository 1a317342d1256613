"""A public function of several arguments documents each of them, and what it returns.

Ruff checks that a section that is there fits its function; that the section is there, no rule of it asks.
"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch

import pytest

from tests.support.layout import ROOT

_RULE = "D417"

_Function = ast.FunctionDef | ast.AsyncFunctionDef


def _modules() -> list[str]:
    """List the package's modules, less those whose rule is still off in pyproject.toml."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    ignored = [
        pattern
        for pattern, rules in settings["tool"]["ruff"]["lint"]["per-file-ignores"].items()
        if _RULE in rules
    ]
    names = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "fedrec").rglob("*.py"))
    return [name for name in names if not any(fnmatch(name, pattern) for pattern in ignored)]


def _public_functions(body: list[ast.stmt], owner: str = "") -> Iterator[tuple[str, _Function, bool]]:
    """Yield the public functions and methods with their name, and whether they take ``self`` or ``cls``."""
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from _public_functions(node.body, f"{owner}{node.name}.")
        elif isinstance(node, _Function) and not node.name.startswith("_"):
            decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
            if not decorators & {"overload", "typing.overload"}:
                yield owner + node.name, node, bool(owner) and "staticmethod" not in decorators


def missing_sections(source: str) -> list[str]:
    """Name each public function of several arguments whose docstring lacks a section that it needs."""
    found = []
    for name, function, is_method in _public_functions(ast.parse(source).body):
        arguments = function.args
        named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        several = len(named) - is_method + (arguments.vararg is not None) + (arguments.kwarg is not None) > 1
        if not several:
            continue
        lines = [line.strip() for line in (ast.get_docstring(function) or "").splitlines()]
        if "Args:" not in lines:
            found.append(f"{name} has no Args")
        returns = "None" if function.returns is None else ast.unparse(function.returns)
        if returns not in {"None", "NoReturn", "Never"} and not {"Returns:", "Yields:"} & set(lines):
            found.append(f"{name} has no Returns")
    return found


@pytest.mark.parametrize("name", _modules())
def test_public_functions_of_several_arguments_document_them(name: str) -> None:
    missing = missing_sections((ROOT / name).read_text())
    assert not missing, f"{name}: {missing}"


def test_a_missing_section_is_found() -> None:
    source = '''
class Public:
    def method(self, one, two) -> int:
        """Do something."""

    def short(self, one) -> int:
        """Do something."""

    @staticmethod
    def static(one, two) -> None:
        """Do something.

        Args:
            one: first.
            two: second.
        """


def _private(one, two) -> int:
    """Do something."""
'''
    assert missing_sections(source) == ["Public.method has no Args", "Public.method has no Returns"]
