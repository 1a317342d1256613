"""Identify the code that takes part in a merchant's step: the package's version and a hash of its source."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec, resolve_name
from pathlib import Path

from fedrec.errors import LedgerError

_PACKAGE = "fedrec"
_ROOTS = ("fedrec.clients.client_app", "fedrec.clients.assembly")
"""Modules that the search starts from: the handler of messages and the assembly of a merchant."""


@lru_cache(maxsize=1)
def code_name() -> str:
    """Name the installed code as ledger entries do: the package's version and its code hash.

    The result is computed once per process, as :func:`code_hash` is.

    Returns:
        Such as ``fedrec 0.1.0 sha256:...``.

    Raises:
        LedgerError: the installed source can't be found or read.
    """
    return f"fedrec {version(_PACKAGE)} sha256:{code_hash()}"


@lru_cache(maxsize=1)
def code_hash() -> str:
    """Hash the modules that :func:`step_modules` finds.

    The result is computed once per process: imported code doesn't change with the files.

    Returns:
        SHA-256, 64 hexadecimal digits.

    Raises:
        LedgerError: the installed source can't be found or read.
    """
    spec = find_spec(_PACKAGE)
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    if not folders:
        raise LedgerError(
            "ledger: the source of fedrec is not installed, so entries can't name it; reinstall it."
        )
    return hash_modules(step_modules(Path(folders[0])))


def step_modules(package: Path) -> dict[str, Path]:
    """Find the modules that take part in a merchant's step and in opening a sum, from their imports.

    They are the modules that the merchant's code imports, directly or indirectly, including imports inside
    functions. Imports under ``TYPE_CHECKING`` don't count. ``fedrec/__init__.py`` isn't included, since no
    module of the package imports from it, nor is code that only hosts a merchant, such as the daemon's loop
    or a simulation.

    Args:
        package: the folder of the package's source.

    Returns:
        The file of each module by its dotted name; for a package, its ``__init__.py``.

    Raises:
        LedgerError: the source of an imported module is missing, can't be read or isn't valid Python.
    """
    found: dict[str, Path] = {}
    waiting = [(root, True) for root in _ROOTS]
    while waiting:
        name, is_module = waiting.pop()
        if name in found or not name.startswith(f"{_PACKAGE}."):
            continue
        file = _file_of(name, package)
        if file is not None:
            found[name] = file
            parent = name.rpartition(".")[0]
            waiting.append((parent, True))
            waiting += _imported(file, within=name if file.stem == "__init__" else parent)
        elif is_module:
            raise LedgerError(
                f"ledger: the source of {name} is not installed, so entries can't name it; reinstall it."
            )
    return found


def hash_modules(modules: Mapping[str, Path]) -> str:
    """Hash modules in the order of their names, each with its name and its length.

    Args:
        modules: the file of each module by its dotted name.

    Returns:
        SHA-256, 64 hexadecimal digits.

    Raises:
        LedgerError: a file can't be read.
    """
    digest = hashlib.sha256(b"fedrec/code/2")
    for name, file in sorted(modules.items()):
        source = _read(file)
        digest.update(f"\0{name}\0{len(source)}\0".encode() + source)
    return digest.hexdigest()


class _Imports(ast.NodeVisitor):
    """Collects a module's run-time imports: dotted names, and whether each must be a module."""

    def __init__(self, within: str) -> None:
        self._within = within
        self.found: set[tuple[str, bool]] = set()

    def generic_visit(self, node: ast.AST) -> None:
        """Visit the statements inside a node: an expression holds no import, and most nodes are in one."""
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.stmt, ast.excepthandler, ast.match_case)):
                self.visit(child)

    def visit_Import(self, node: ast.Import) -> None:
        self.found |= {(alias.name, True) for alias in node.names}

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        module = resolve_name("." * node.level + (node.module or ""), self._within)
        self.found |= {(module, True), *((f"{module}.{alias.name}", False) for alias in node.names)}

    def visit_If(self, node: ast.If) -> None:
        for_checkers = isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for part in node.orelse if for_checkers else [*node.body, *node.orelse]:
            self.visit(part)


def _imported(file: Path, *, within: str) -> set[tuple[str, bool]]:
    """Return what a module of package ``within`` imports, as :class:`_Imports` collects it."""
    try:
        tree = ast.parse(_read(file))
        imports = _Imports(within)
        imports.visit(tree)
    except (SyntaxError, ImportError, ValueError) as error:
        raise LedgerError(f"ledger: {file} is not valid Python: {error}.") from None
    return imports.found


def _file_of(name: str, package: Path) -> Path | None:
    """Find the file of a package or module, in the order that Python uses; None if there is none."""
    path = package.joinpath(*name.split(".")[1:])
    candidates = (path / "__init__.py", path.with_name(f"{path.name}.py"))
    return next((file for file in candidates if file.is_file()), None)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise LedgerError(f"ledger: {file} cannot be read ({error.strerror}).") from error
