"""The Dockerfile's own commands, in a fresh folder in place of the image's root: they need no engine.

What only an engine does isn't tried: the base image, its users, and torch from its own index.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tests.package.test_installation import DEPENDENCIES, copy_checkout, purelib, pytestmark
from tests.support.layout import ROOT

__all__ = ["pytestmark"]

ENGINE = ("useradd ", "chmod 700 /state")
"""Beginnings of commands that change the base image's users."""


@dataclass
class Stage:
    """One stage of a Dockerfile."""

    runs: list[str] = field(default_factory=list)
    copies: list[list[str]] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    entry: list[str] = field(default_factory=list)


def stages(arguments: dict[str, str]) -> list[Stage]:
    """Read the Dockerfile; an instruction that isn't understood fails the test."""
    text = re.sub(r"\\\n", " ", (ROOT / "deploy" / "Dockerfile").read_text("utf-8"))
    found: list[Stage] = []
    for line in text.splitlines():
        word, _, rest = line.strip().partition(" ")
        for name, value in arguments.items():
            rest = rest.replace(f"${{{name}}}", value)
        if word == "FROM":
            found.append(Stage())
        elif word == "RUN":
            found[-1].runs += [each.strip() for each in rest.split("&&")]
        elif word == "COPY":
            found[-1].copies.append(rest.split())
        elif word == "ENV":
            found[-1].environment |= dict(pair.split("=", 1) for pair in rest.split())
        elif word == "ENTRYPOINT":
            found[-1].entry = json.loads(rest)
        else:
            assert word in ("", "#", "ARG", "USER", "WORKDIR") or word.startswith("#"), word
    return found


def placed(text: str, root: Path) -> str:
    """Move a command's absolute paths below a folder."""
    return re.sub(r"(?<![\w./])/(opt|src|state)\b", lambda found: f"{root}/{found[1]}", text)


def test_the_image_s_commands_make_a_program_that_runs(tmp_path: Path) -> None:
    build, final = stages({"EXTRAS": ""})
    assert build.copies == [[".", "/src"]] and final.copies == [
        ["--from=build", "/opt/fedrec", "/opt/fedrec"]
    ]
    for name in ("src", "state", "opt", "tools"):
        (tmp_path / name).mkdir(mode=0o700)
    copy_checkout(tmp_path / "src", links=False)
    (tmp_path / "tools" / "python").symlink_to(sys.executable)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    # Dependencies are those of the running Python: pip builds and installs the project alone.
    # PYTHONPATH, since a new environment may have an older setuptools of its own.
    offline = {
        "PIP_NO_DEPS": "1",
        "PIP_NO_BUILD_ISOLATION": "0",
        "PIP_NO_INDEX": "1",
        "PYTHONPATH": DEPENDENCIES,
    }
    ran = []
    for command in build.runs:
        if "--index-url" in command:
            (purelib(tmp_path / "opt/fedrec/bin/python") / "dependencies.pth").write_text(f"{DEPENDENCIES}\n")
            continue
        environment = clean | offline | {"PATH": f"{tmp_path / 'tools'}:{clean['PATH']}"}
        done = subprocess.run(
            ["/bin/sh", "-ec", placed(command, tmp_path)],
            env=environment, cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        ran.append(command)
    assert len(ran) == 2 and all(each.startswith(ENGINE) for each in final.runs)

    shutil.rmtree(tmp_path / "src")
    settings = {name: placed(value, tmp_path) for name, value in final.environment.items()}
    environment = settings | {"PATH": settings["PATH"].replace("$PATH", clean["PATH"])}
    program = [*final.entry, "server", "init", "--address", "fed.example:8443", "--home", "home"]
    state = tmp_path / "state"
    for arguments in (program, [*final.entry, "--version"]):
        done = subprocess.run(
            arguments, env=environment, cwd=state, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("fedrec ") and (state / "home").is_dir()
