"""A merchant needs no more than Python has on every system; an unknown system is one line and a code."""

from __future__ import annotations

import builtins
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil
import pytest

from fedrec._internal.file_locks import LockedElsewhereError, is_locked, take_lock
from fedrec.cli import app, logs
from fedrec.errors import UnsupportedSystemError
from fedrec.privacy.accounting.ledger import Ledger
from fedrec.privacy.aggregation import seal
from fedrec.privacy.identity import SigningIdentity, verify
from fedrec.protocol.enrolment import Enrolment, JoinFile, read_file
from fedrec.server.server_home import JOIN_FILE, ServerHome
from fedrec.vision.backbones.trial import Trial, try_network
from tests.support.cohort import Cohort
from tests.support.pictures import picture

_POSIX_MODULES = ("fcntl", "resource", "pwd", "grp", "termios", "syslog")
_POSIX_NAMES = (
    *("fchmod", "fchown", "chown", "fork", "forkpty", "geteuid", "getuid", "getegid", "getgid", "killpg"),
    *(
        "getpgid",
        "setsid",
        "pread",
        "pwrite",
        "memfd_create",
        "mkfifo",
        "sched_getaffinity",
        "uname",
        "sysconf",
    ),
    *("O_CLOEXEC", "O_NONBLOCK", "O_NOFOLLOW", "O_DIRECTORY", "O_SYNC", "posix_spawn", "getloadavg"),
)
_POSIX_SIGNALS = ("SIGKILL", "SIGHUP", "SIGUSR1", "SIGCHLD", "pthread_sigmask")  # SIGALRM is pytest's own


@pytest.fixture
def without_posix(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows, as far as its name and what Python lacks there go."""
    # It chooses its own code for the system once, when it is imported: before the name is changed.
    assert psutil.LINUX or psutil.MACOS
    found = builtins.__import__

    def missing(
        name: str,
        globals: Mapping[str, object] | None = None,
        locals: Mapping[str, object] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> object:
        if name in _POSIX_MODULES:
            raise ModuleNotFoundError(name)
        return found(name, globals, locals, fromlist or (), level)

    monkeypatch.setattr(builtins, "__import__", missing)
    monkeypatch.setattr(sys, "platform", "win32")
    for name in _POSIX_NAMES:
        monkeypatch.delattr(os, name, raising=False)
    for name in _POSIX_SIGNALS:
        monkeypatch.delattr(signal, name, raising=False)
    opened = os.open

    def refusing(path: str, flags: int, mode: int = 0o777, **options: int) -> int:
        """Open a file; a folder can't be opened as one there."""
        if Path(path).is_dir():
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, flags, mode, **options)

    monkeypatch.setattr(os, "open", refusing)
    # What a process finds out about SEAL's memory when it starts.
    monkeypatch.setattr(seal, "FAST_BUFFERS", False)


def _fedrec(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["fedrec", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        app.main()
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


@pytest.mark.parametrize("arguments", [[], ["--version"], ["client", "start"], ["no-such-command"]])
def test_on_an_unknown_system_every_command_ends_with_one_line(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "platform", "plan9")
    assert _fedrec(monkeypatch, *arguments) == UnsupportedSystemError.exit_code == 18
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1
    assert "not on 'plan9'" in said.err


def test_on_an_unknown_system_a_ledger_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "plan9")
    with pytest.raises(UnsupportedSystemError, match="plan9"):
        Ledger(tmp_path / "ledger.sqlite", signer=SigningIdentity.generate(), verify=verify)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["server", "simulate"])
def test_servers_and_simulations_say_that_they_need_posix(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert _fedrec(monkeypatch, command) == UnsupportedSystemError.exit_code
    assert "not on Windows" in capsys.readouterr().err


def test_a_network_is_not_called_malformed_where_it_cannot_be_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(UnsupportedSystemError, match="'fedrec backbone add' runs on Linux and macOS"):
        try_network(Trial(tmp_path / "network.onnx", sha256="0" * 64, layers=("out",), size=32))


def test_a_merchant_needs_nothing_of_posix(
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """From the folder of photos to a joined federation, by the command line."""
    server = ServerHome.create(tmp_path / "server", address="127.0.0.1:8443", listen=None)
    for label in ("hat", "mug"):
        for shade in range(5):
            picture(tmp_path / "photos" / label / f"{shade}.png", 10 * shade + len(label))
    request.getfixturevalue("without_posix")
    home, joining = tmp_path / "home", tmp_path / "server" / JOIN_FILE
    given = ("--name", "atelier", "--data", tmp_path / "photos", "--home", home)
    assert _fedrec(monkeypatch, "client", "init", *given) == 0, capsys.readouterr().err
    server.enroll(read_file(home / "enrolment.json", Enrolment))
    fingerprint = read_file(joining, JoinFile).fingerprint
    approved = ("--fingerprint", fingerprint, "--home", home)
    assert _fedrec(monkeypatch, "client", "join", joining, *approved) == 0, capsys.readouterr().err
    assert _fedrec(monkeypatch, "client", "check", "--home", home, "--offline") == 0, capsys.readouterr().out
    assert "WRONG" not in capsys.readouterr().out
    assert _fedrec(monkeypatch, "client", "status", "--home", home) == 0
    logs.start_logging(home / "logs", name="client", style="text")


@pytest.mark.usefixtures("without_posix")
def test_a_round_needs_nothing_of_posix(tmp_path: Path) -> None:
    """Encryption, noise, charges, the store, the opening and the receipts of a cohort of three."""
    cohort = Cohort(tmp_path, size=3)
    _, records = cohort.train(cohort.plan(rounds=1))
    assert [record.opened for record in records] == [True]
    assert [entry.charge.round_number for entry in cohort.charges("m0")] == [1]


def test_no_module_of_ours_needs_posix_to_be_imported(tmp_path: Path) -> None:
    """Nor does a lock: filelock's last resort is a file's existence."""
    code = (
        "import pathlib, sys, warnings; warnings.simplefilter('ignore')\n"
        "sys.modules['fcntl'] = sys.modules['resource'] = None\n"
        "import fedrec.privacy.accounting.ledger, fedrec.server.report.deployment_report\n"
        "from fedrec._internal.file_locks import *\n"
        "path = pathlib.Path(sys.argv[1]); lock = take_lock(path); print(is_locked(path))\n"
        "try: take_lock(path)\nexcept LockedElsewhereError: print('held')\n"
        "lock.close(); print(is_locked(path)); take_lock(path)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "lock"],
        check=True,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.stdout == "True\nheld\nFalse\n"


@pytest.mark.parametrize("name", ["linux", "darwin", "win32"])
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
        [sys.executable, "-c", code, path], check=True, capture_output=True, text=True, timeout=200
    )
    assert seen.stdout == "True\nheld\n"
    with pytest.raises(LockedElsewhereError):
        take_lock(path)
    lock.close()
    assert not is_locked(path)
