"""Check and make the folders of a run: the run directory, and the private folder of model inputs."""

from __future__ import annotations

import secrets
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from fedrec.errors import ConfigError
from fedrec.server.trainings import STATE


def check_run_folder(out: Path | None) -> None:
    """Raise ``ConfigError`` if ``--out`` is no folder, isn't empty, or can't be written to."""
    folder = Path("runs") if out is None else out
    try:
        if out is not None and out.exists() and any(out.iterdir()):
            raise ConfigError(f"--out {out} is not empty: choose another folder, nothing is ever overwritten")
        made = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        # Permissions don't show that a disk is full or mounted read-only.
        with tempfile.TemporaryFile(dir=made) as probe:
            probe.write(b"0")
            probe.flush()
    except OSError as error:
        raise ConfigError(f"--out {folder} can't be used: {error.strerror}") from None


def was_begun(folder: Path) -> bool:
    """Return whether a folder holds a run that was begun, so that it can be resumed."""
    return (folder / STATE).is_file() and (folder / "config.toml").is_file()


def run_name(kind: str = "") -> str:
    """Name a folder by the time, and by chance: two may be begun in one second."""
    return f"{kind and f'{kind}-'}{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


def make_run_folder(out: Path | None, run_id: str) -> Path:
    """Make the run directory.

    Args:
        out: where; None for a new folder in ``runs``.
        run_id: name of that folder.

    Returns:
        The run directory.

    Raises:
        ConfigError: it can't be made, or isn't empty.
    """
    folder = out if out is not None else Path("runs") / run_id
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise ConfigError(f"--out {folder} is not empty: choose another folder, nothing is overwritten")
    except OSError as error:
        raise ConfigError(f"--out {folder} can't be made: {error.strerror}") from None
    return folder


def scratch_folder() -> Path:
    """Make a private folder (mode 0700) for the merchants' model inputs."""
    return Path(tempfile.mkdtemp(prefix="fedrec-"))
