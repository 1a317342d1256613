"""A public function of several arguments documents each of them, and what it returns.

Ruff checks that a section that is there fits its function; that the section is there, no rule of it asks.
"""

from __future__ import annotations

import ast
import re
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


def _has_help(node: ast.AST) -> bool:
    """Tell whether a type has a Typer option or argument with a help text."""
    return any(isinstance(part, ast.keyword) and part.arg == "help" for part in ast.walk(node))


def _types_with_help(module: list[ast.stmt]) -> set[str]:
    """Name the types with a help text that several commands of a module share."""
    return {
        ast.unparse(node.targets[0])
        for node in module
        if isinstance(node, ast.Assign) and _has_help(node.value)
    }


def _imported_types_with_help(module: list[ast.stmt]) -> set[str]:
    """Name the types with a help text that a module takes from others of the command line."""
    found = set()
    for node in module:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fedrec.cli."):
            source = (ROOT / f"{str(node.module).replace('.', '/')}.py").read_text("utf-8")
            taken = {each.name for each in node.names if each.asname is None}
            found |= taken & _types_with_help(ast.parse(source).body)
    return found


def _options_without_help(module: list[ast.stmt]) -> dict[str, list[str]]:
    """Name the options without help of each command, and of each dataclass that has a command's options.

    Typer shows a command's docstring as its help, so options are described by their own help.
    """
    helped = _types_with_help(module) | _imported_types_with_help(module)

    def lacks_help(annotation: ast.expr | None) -> bool:
        return annotation is None or not (_has_help(annotation) or ast.unparse(annotation) in helped)

    found, classes = {}, set()
    for name, function, _ in _public_functions(module):
        calls = [part for part in function.decorator_list if isinstance(part, ast.Call)]
        decorators = {ast.unparse(call.func): call for call in calls}
        classes |= {
            ast.unparse(call.args[0]) for key, call in decorators.items() if key == "fields_as_options"
        }
        # The first parameter stands for generated options: a schema's, with descriptions, or a dataclass's.
        generated = bool({"options_of", "fields_as_options"} & set(decorators))
        # A command that is imported on use has no decorator.
        lazy = any(not lacks_help(each.annotation) for each in function.args.args)
        if generated or lazy or any(key.endswith(".command") for key in decorators):
            own = function.args.args[generated:]
            found[name] = [argument.arg for argument in own if lacks_help(argument.annotation)]
    for node in module:
        if isinstance(node, ast.ClassDef) and node.name in classes:
            fields = [field for field in node.body if isinstance(field, ast.AnnAssign)]
            found[node.name] = [ast.unparse(field.target) for field in fields if lacks_help(field.annotation)]
    return found


def missing_sections(source: str) -> list[str]:
    """Name each public function of several arguments whose docstring lacks a section that it needs."""
    module = ast.parse(source).body
    commands = _options_without_help(module)
    found = [f"{name} has no help for {option}" for name, options in commands.items() for option in options]
    for name, function, is_method in _public_functions(module):
        if name in commands:
            continue
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


def test_a_command_documents_its_options_by_their_help() -> None:
    source = '''
from fedrec.cli.running_options import Observe, Runnable

Home = Annotated[Path, typer.Option(help="A folder.")]


@app.command()
def command(
    home: Home, observe: Observe, once: Annotated[bool, typer.Option("--once")], count: Runnable
) -> None:
    """Do something."""


@options_of(Schema)
def generated(flags: Flags, own: Annotated[int, typer.Option(help="Its own.")], other: int) -> None:
    """Do something."""


class Options:
    home: Home
    batch: Annotated[int, typer.Option()] = 1


@fields_as_options(Options)
def whole(given: Options) -> None:
    """Do something."""
'''
    assert missing_sections(source) == [
        "command has no help for once",
        "command has no help for count",
        "generated has no help for other",
        "Options has no help for batch",
    ]


@pytest.mark.parametrize("folder", ["fedrec", "tests", "benchmarks", "examples"])
def test_no_docstring_ends_with_an_empty_line(folder: str) -> None:
    """A rule of Ruff can ask for that line, and none can forbid it."""
    wrong = [
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / folder).rglob("*.py")
        if re.search(r'\n *\n *"""$', path.read_text("utf-8"), re.MULTILINE)
    ]
    assert wrong == []
