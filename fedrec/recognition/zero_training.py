"""A model for those who have trained none: the embedding of a packaged public network."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final

import platformdirs

from fedrec.recognition.bundle.places import made_once

if TYPE_CHECKING:
    from fedrec.recognition.export.sources import Source

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

    def source() -> Source:
        from fedrec.recognition.export.sources import backbone_source

        return backbone_source(model)

    return made_once(folder, source)
