"""Commands that a page of the docs shows, and a shell that runs them as its reader does."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


def shown_commands(page: Path) -> dict[str, list[str]]:
    """Return the commands of a page's ``sh`` blocks, by the heading that they stand below."""
    found: dict[str, list[str]] = {}
    heading, fence = "", None
    for line in page.read_text("utf-8").splitlines():
        if line.startswith("```"):
            fence = line.removeprefix("```") if fence is None else None
        elif fence == "sh":
            found.setdefault(heading, []).append(line)
        elif fence is None and (title := re.match(r"#+ (.+)", line)):
            heading = title[1]
    return {title: _joined(lines) for title, lines in found.items()}


def _joined(lines: list[str]) -> list[str]:
    """Return one line for each command: a line that ends with a backslash goes on in the next one."""
    return [line for line in "\n".join(lines).replace("\\\n", " ").splitlines() if line.strip()]


@dataclass(frozen=True)
class Shell:
    """A terminal in a folder, in which an environment with Python is active."""

    folder: Path
    programs: Path
    """The folder of the environment's programs."""

    def environment(self) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        path = f"{self.programs}{os.pathsep}{os.environ['PATH']}"
        return clean | {"PATH": path, "PIP_NO_INDEX": "1", "OMP_NUM_THREADS": "1"}

    def run(self, command: str, *, typed: str = "", fails: int = 0) -> str:
        """Run a command to its end; returns what it printed."""
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=self.environment(),
            input=typed,
            capture_output=True,
            text=True,
            timeout=1500,
            check=False,
        )
        assert done.returncode == fails, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    @contextmanager
    def running(self, command: str, *, log: Path) -> Iterator[subprocess.Popen[bytes]]:
        """Run a command in the background, and end it as Ctrl-C in its terminal does."""
        with log.open("wb") as out:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {command}"],
                cwd=self.folder,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            os.killpg(process.pid, signal.SIGINT)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def new_environment(folder: Path) -> Path:
    """Make a virtual environment that has all that fedrec needs and not fedrec; returns its programs' folder.

    The packages are links to those of the running Python: pip finds them installed, and needs no index.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    packages = folder / "packages"
    packages.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if "fedrec" not in path.name:
            (packages / path.name).symlink_to(path)
    (purelib,) = folder.glob("lib/python*/site-packages")
    (purelib / "packages.pth").write_text(f"{packages}\n")
    return folder / "bin"


def shown_files(page: Path) -> dict[str, str]:
    """Return the TOML files that a page shows, by the name that the line above the block gives."""
    blocks = re.findall(r"`([\w.]+\.toml)`[^`]*\n```toml\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    return dict(blocks)
