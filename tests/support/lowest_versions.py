"""Print the lowest versions that pyproject.toml allows, a requirement a line: for ``make test-lowest``.

Exact pins have no lower bound. Torch and torchvision are left out, since a second torch takes gigabytes; so
are the tools that only this project's developers use.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

LEFT_OUT_EXTRAS = frozenset({"all", "dev", "docs"})
LEFT_OUT = frozenset({"torch", "torchvision"})


def lowest_versions(project: Mapping[str, Any]) -> Iterator[str]:
    """Yield each dependency of a user, pinned to its lower bound.

    Args:
        project: the table ``project`` of a pyproject.toml.

    Yields:
        Requirements as ``name[extras]==version``.
    """
    lines = list(project["dependencies"])
    for extra, more in project["optional-dependencies"].items():
        if extra not in LEFT_OUT_EXTRAS:
            lines += more
    for requirement in map(Requirement, sorted(set(lines))):
        lowest = [bound.version for bound in requirement.specifier if bound.operator == ">="]
        if lowest and requirement.name not in LEFT_OUT:
            extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
            yield f"{requirement.name}{extras}=={lowest[0]}"


if __name__ == "__main__":
    table = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))
    print("\n".join(lowest_versions(table["project"])))
