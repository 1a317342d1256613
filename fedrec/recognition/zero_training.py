"""A model for those who have trained none: the embedding of a packaged public network."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Final

import platformdirs

from fedrec.recognition.bundle.manifest import MANIFEST

BACKBONE: Final = "effnet-lite0-head"
"""The model whose frozen network is used: the smallest that comes as a package."""


def backbone_bundle(model: str = BACKBONE) -> Path:
    """Return the folder of a backbone's bundle, which is made on first use (that loads torch, for seconds).

    Args:
        model: name of a model on frozen networks.

    Returns:
        The folder, in the user's cache.

    Raises:
        ConfigError: there is no such model, or it has no frozen networks.
        MissingExtraError: a package that it needs isn't installed.
    """
    folder = platformdirs.user_cache_path("fedrec") / "models" / f"{model}-{metadata.version('fedrec')}"
    if not (folder / MANIFEST).exists():
        from fedrec.recognition.export.bundles import make_bundle, write_bundle
        from fedrec.recognition.export.sources import backbone_source

        bundle = make_bundle(backbone_source(model))
        if not (folder / MANIFEST).exists():
            write_bundle(bundle, folder)
    return folder
