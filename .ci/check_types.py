"""Type-check the installed package, and fail if mypy saw fewer files than git lists."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDERS = ("core", "privacy", "clients", "server", "simulations", "cli")


def main() -> int:
    """Build a wheel into a scratch folder, run ``mypy --strict`` on it, compare the file counts."""
    root = Path(__file__).resolve().parent.parent
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--",
         *(f"{folder}/*.py" for folder in FOLDERS)],
        cwd=root, check=True, capture_output=True, text=True,
    ).stdout.split()  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation",
             "--target", scratch, str(root)],
            check=True,
        )  # fmt: skip
        result = subprocess.run(
            [sys.executable, "-m", "mypy", "--config-file", str(root / "pyproject.toml"), "-p", "fedrec"],
            cwd=scratch, env={**os.environ, "MYPYPATH": scratch},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    print(result.stdout, result.stderr, sep="")
    if result.returncode:
        return result.returncode
    seen = int(re.search(r"in (\d+) source files", result.stdout).group(1))
    if seen < len(listed):
        print(
            f"mypy checked {seen} files, git lists {len(listed)}: some folder is missing from pyproject.toml"
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
