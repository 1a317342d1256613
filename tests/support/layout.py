"""The package on disk, and the floor of each of its folders."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]

PACKAGE = ROOT / "fedrec"
DOCS = ROOT / "docs"

LINKED = ("server", "clients", "privacy", "simulations", "recognition")
"""The rooms that have a link at the top of the repository, as soon as they exist."""

FLOORS = {
    "_internal": 1,
    "flower": 1,
    "observability": 1,
    "protocol": 1,
    "report": 1,
    "vision": 1,
    "privacy": 2,
    "clients": 3,
    "server": 3,
    "simulations": 4,
    "api": 5,
    "cli": 5,
}
"""The floor of each room; files beside them are on the ground floor, and may import all of it."""
