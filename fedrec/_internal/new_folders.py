"""Check that a folder of keys is new, so that nothing that is there is overwritten."""

from __future__ import annotations

from pathlib import Path

from fedrec.errors import ConfigError


def require_new_folder(folder: Path, *, party: str) -> None:
    """Check that a party's folder can be made.

    Args:
        folder: the folder, as ``--home`` names it.
        party: whose it will be, in messages.

    Raises:
        ConfigError: it is a file, or holds something.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--home {folder} is a file: choose a new folder for this {party}")
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"--home {folder} is not empty: choose a new folder for this {party}")
