"""A package of somebody else's, built and installed beside fedrec, and programs that see it."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.layout import ROOT

SOURCE = ROOT / "tests" / "package" / "acme"


def install_acme(folder: Path) -> Path:
    """Build the package and install it below ``folder``, without a network; return where it is installed."""
    source, site = folder / "source", folder / "site"
    shutil.copytree(SOURCE, source, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", site, source], check=True, capture_output=True, timeout=200)
    return site


def acme_hash() -> str:
    """Return the hash of the package's code, from its source files."""
    digest = hashlib.sha256(b"fedrec/package/1")
    for path in sorted((SOURCE / "acme_fedrec").glob("*.py"), key=lambda path: path.name):
        content = path.read_bytes()
        digest.update(f"\0{path.name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def run_python(*arguments: object, site: Path | None) -> subprocess.CompletedProcess[str]:
    """Run Python with this checkout on its path, and with the package if ``site`` has it installed."""
    paths = [str(path) for path in (site, ROOT) if path is not None]
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
    )


def run_fedrec(*arguments: object, site: Path | None) -> subprocess.CompletedProcess[str]:
    """Run the command line; see :func:`run_python`."""
    return run_python("-m", "fedrec.cli", *arguments, site=site)
