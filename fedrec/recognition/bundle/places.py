"""Find the bundle that a person means: its own folder, or that of the training which it is of."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fedrec.recognition.bundle.manifest import MANIFEST

if TYPE_CHECKING:
    from fedrec.recognition.export.sources import Source

BUNDLE: Final = "bundle"
"""The bundle's folder inside a run's, and inside a deployed training's on the server."""
_PLAN: Final = "plan.json"


def bundle_folder(place: Path) -> Path:
    """Return the folder of a bundle.

    Args:
        place: the bundle, or the folder of a finished run or training. Its bundle is made there on first use,
            which loads torch.

    Returns:
        The bundle's folder.

    Raises:
        ConfigError: the training isn't finished, or its model can't be exported.
        MissingExtraError: a package that this needs isn't installed.
    """
    if (place / MANIFEST).exists() or not (place / _PLAN).exists():
        return place

    def source() -> Source:
        from fedrec.recognition.export.sources import trained_source

        return trained_source(place)

    return made_once(place / BUNDLE, source)


def made_once(folder: Path, source: Callable[[], Source]) -> Path:
    """Return the folder of a bundle that is made on first use, which loads torch.

    Args:
        folder: the bundle's folder.
        source: what it is made from.

    Returns:
        The folder.

    Raises:
        ConfigError: the model can't be exported.
        MissingExtraError: a package that this needs isn't installed.
    """
    if not (folder / MANIFEST).exists():
        from fedrec.recognition.export.bundles import make_bundle, write_bundle

        bundle = make_bundle(source())
        # Another process may have made it meanwhile.
        if not (folder / MANIFEST).exists():
            write_bundle(bundle, folder)
    return folder


def drop_bundle(place: Path) -> None:
    """Delete the bundle inside a run's folder, if there is one: the run has gone on since it was made."""
    with suppress(FileNotFoundError):
        shutil.rmtree(place / BUNDLE)
