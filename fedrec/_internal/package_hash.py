"""Hash the code of an installed package before any of it runs."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib.metadata import EntryPoint
from importlib.util import find_spec
from pathlib import Path

from fedrec.errors import ConfigError


@lru_cache
def package_hash(entry: EntryPoint) -> str:
    """Return the SHA-256, 64 hexadecimal digits, of the package or module that an entry point is in.

    Every file of the package counts with its path in it and its length, data as well as source, but for
    compiled copies (``__pycache__``). Of a namespace package only the part that holds the entry point counts.
    What the package imports from other distributions doesn't. Computed once: what is imported doesn't change
    with the disk.

    Raises:
        ConfigError: the package has no source that can be found and read.
    """
    name = _importable(entry)
    spec = find_spec(name)
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        raise ConfigError(f"the package {name!r} has no source on disk that a hash could name")
    origin = Path(spec.origin)
    folder = origin.parent
    files = [origin] if spec.submodule_search_locations is None else _files(folder)
    digest = hashlib.sha256(b"fedrec/package/1")
    try:
        for file in files:
            content = file.read_bytes()
            digest.update(f"\0{file.relative_to(folder).as_posix()}\0{len(content)}\0".encode() + content)
    except OSError as error:
        raise ConfigError(f"the package {name!r} can't be read: {error}") from None
    return digest.hexdigest()


def _importable(entry: EntryPoint) -> str:
    """Return the outermost package of an entry point's module that is no namespace, or the module."""
    parts = entry.module.split(".")
    for length in range(1, len(parts)):
        name = ".".join(parts[:length])
        try:
            spec = find_spec(name)
        except ImportError as error:
            raise ConfigError(f"the package {parts[0]!r} can't be found: {error}") from None
        if spec is None or spec.origin is not None:
            return name
    return entry.module


def _files(folder: Path) -> list[Path]:
    found = (file for file in folder.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    return sorted(found, key=lambda file: file.relative_to(folder).as_posix())
