"""Elsewhere than on Linux and macOS there is one line and one exit code, of the command and the library."""

from __future__ import annotations

import builtins
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from fedrec._internal.file_locks import LockedElsewhereError, is_locked, take_lock
from fedrec.cli import app
from fedrec.errors import UnsupportedSystemError
from fedrec.privacy.accounting.ledger import Ledger
from fedrec.privacy.identity import SigningIdentity, verify


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows, as far as its name and its missing modules go."""
    found = builtins.__import__

    def missing(
        name: str,
        globals: Mapping[str, object] | None = None,
        locals: Mapping[str, object] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> object:
        if name in ("fcntl", "resource"):
            raise ModuleNotFoundError(name)
        return found(name, globals, locals, fromlist or (), level)

    monkeypatch.setattr(builtins, "__import__", missing)
    monkeypatch.setattr(sys, "platform", "win32")


@pytest.mark.parametrize("arguments", [[], ["--version"], ["client", "start"], ["no-such-command"]])
@pytest.mark.usefixtures("elsewhere")
def test_every_command_ends_with_one_line(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["fedrec", *arguments])
    with pytest.raises(SystemExit) as stopped:
        app.main()
    assert stopped.value.code == UnsupportedSystemError.exit_code == 18
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1
    assert "Linux and macOS, not on 'win32'" in said.err


@pytest.mark.usefixtures("elsewhere")
def test_a_ledger_is_not_opened_without_its_lock(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedSystemError, match="file locks"):
        Ledger(tmp_path / "ledger.sqlite", signer=SigningIdentity.generate(), verify=verify)
    assert not list(tmp_path.iterdir())


def test_no_module_of_ours_needs_posix_to_be_imported() -> None:
    """A library's user gets the line, not a traceback of an import."""
    code = (
        "import sys; sys.modules['fcntl'] = sys.modules['resource'] = None\n"
        "import fedrec.privacy.accounting.ledger, fedrec.server.report.deployment_report"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("name", ["linux", "darwin"])
def test_linux_and_macos_are_accepted(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", name)
    path = tmp_path / "file.lock"
    assert not is_locked(path)
    lock = take_lock(path)
    assert path.stat().st_mode & 0o777 == 0o600
    code = (
        "import sys, pathlib\nfrom fedrec._internal.file_locks import *\np = pathlib.Path(sys.argv[1])\n"
        "print(is_locked(p))\ntry: take_lock(p)\nexcept LockedElsewhereError: print('held')"
    )
    seen = subprocess.run(
        [sys.executable, "-c", code, path], check=True, capture_output=True, text=True, timeout=60
    )
    assert seen.stdout == "True\nheld\n"
    with pytest.raises(LockedElsewhereError):
        take_lock(path)
    os.close(lock)
    assert not is_locked(path)
