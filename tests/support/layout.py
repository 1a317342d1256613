"""The package on disk, and the layer of each of its folders."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]

PACKAGE = ROOT / "fedrec"
DOCS = ROOT / "docs"

LINKED = ("server", "clients", "privacy", "simulations", "recognition")
"""The folders of the package that have a link at the top of the repository, if they exist."""

LAYERS = {
    "_internal": 1,
    "flower": 1,
    "observability": 1,
    "protocol": 1,
    "report": 1,
    "vision": 1,
    "privacy": 2,
    "recognition": 2,
    "clients": 3,
    "server": 3,
    "simulations": 4,
    "api": 5,
    "cli": 5,
}
"""The layer of each folder; files beside the folders are in layer 1, and may import all of it."""
