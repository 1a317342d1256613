"""Which code computes a step: the package's version and a hash of its installed source."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from fedrec.errors import LedgerError

_PACKAGES = ("fedrec.clients", "fedrec.privacy", "fedrec.vision")


@lru_cache(maxsize=1)
def code_hash() -> str:
    """Return the SHA-256, 64 hexadecimal digits, over every source file that takes part in a step.

    Files are hashed in the order of their package and path, each with both and its length. Computed once:
    what is imported doesn't change with the disk.

    Raises:
        LedgerError: the installed source can't be found or read.

    """
    digest = hashlib.sha256(b"fedrec/code/1")
    for package in _PACKAGES:
        spec = find_spec(package)
        folders = [] if spec is None else [Path(folder) for folder in spec.submodule_search_locations or ()]
        files = [
            (file.relative_to(folder).as_posix(), file) for folder in folders for file in folder.rglob("*.py")
        ]
        if not files:
            raise LedgerError(f"ledger: the source of {package} is not installed, so no entry could name it.")
        for name, file in sorted(files):
            try:
                source = file.read_bytes()
            except OSError as error:
                raise LedgerError(f"ledger: {file} cannot be read ({error.strerror}).") from error
            digest.update(f"\0{package}/{name}\0{len(source)}\0".encode() + source)
    return digest.hexdigest()


def code_name() -> str:
    """Return version and hash of the installed code, as an entry holds them."""
    return f"fedrec {version('fedrec')} sha256:{code_hash()}"
