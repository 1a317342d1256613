"""Run a federation as separate processes on this machine, over TLS, by the same commands that people use."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fedrec._internal.host_names import LOOPBACK
from fedrec.errors import TrainingError
from fedrec.server.trainings import STATE

_COMMAND_SECONDS = 300
_STOP_SECONDS = 20


def run_command(*arguments: object, fails: int = 0) -> str:
    """Run a fedrec command to its end.

    Args:
        *arguments: of the command.
        fails: the expected exit code.

    Returns:
        What it printed.

    Raises:
        TrainingError: the exit code is another.
    """
    done = subprocess.run(  # noqa: S603 (our own interpreter and commands)
        _command(*arguments),
        capture_output=True,
        text=True,
        timeout=_COMMAND_SECONDS,
        env=_environment(),
        check=False,
    )
    if done.returncode != fails:
        shown = " ".join(map(str, arguments))
        raise TrainingError(f"'fedrec {shown}' ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout + done.stderr


def _command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "fedrec.cli", *map(str, arguments)]


def _environment() -> dict[str, str]:
    # Many processes share few cores: each gets one thread.
    return os.environ | {"OMP_NUM_THREADS": "1"}


class HeldPort:
    """A free port of the loopback address, kept from programs that ask the system for any free one.

    A socket that never listens is bound to it. Linux lets a server that sets ``SO_REUSEADDR`` listen on the
    same port all the same. Elsewhere the port was free as it was picked, and no more.

    Attributes:
        number: the port.
    """

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind((LOOPBACK, 0))
        self.number = int(self._socket.getsockname()[1])
        if sys.platform != "linux":
            self.close()

    def close(self) -> None:
        """Let other programs have the port."""
        self._socket.close()


@dataclass
class Federation:
    """A server and merchants in folders below ``folder``; :meth:`stop` ends the processes.

    Args:
        folder: where everything lies.
        run: runs a setup command to its end, as :func:`run_command` does.
        held: the port on which the server listens.
        run_all: runs setup commands that don't depend on each other; None runs one after another.
        processes: the processes, by name.
    """

    folder: Path
    run: Callable[..., str] = run_command
    held: HeldPort = field(default_factory=HeldPort)
    run_all: Callable[[Sequence[Sequence[object]]], object] | None = None
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def server(self) -> Path:
        """The server's folder."""
        return self.folder / "server"

    @property
    def address(self) -> str:
        """The address at which merchants reach the server."""
        return f"{LOOPBACK}:{self.held.number}"

    def home(self, name: str) -> Path:
        """Return a merchant's folder."""
        return self.folder / "homes" / name

    def enrol(
        self, photos: Mapping[str, Path], *, epsilon: float, delta: float, seed: int | None = None
    ) -> None:
        """Make the folders of the server and of every merchant, and enrol the merchants.

        Args:
            photos: the folder of photos of each merchant, by name.
            epsilon: cap of the lifetime epsilon, and of that of one training.
            delta: delta of the lifetime cap.
            seed: makes the declared counts those of a simulation with this seed; None draws them.

        Raises:
            TrainingError: nobody was enrolled.
        """
        seeded = () if seed is None else ("--insecure-seed", seed)
        self.run("server", "init", "--address", self.address, "--home", self.server)
        self._each(
            [
                ("client", "init", "--name", name, "--data", data, "--home", self.home(name), *seeded)
                for name, data in photos.items()
            ]
        )
        told = ""
        for name in photos:
            told = self.run("server", "enroll", self.home(name) / "enrolment.json", "--home", self.server)
        found = re.search(r"fingerprint ([0-9a-f ]+)", told)
        if found is None:
            raise TrainingError("nobody was enrolled")
        join = ("client", "join", self.server / "join.json", "--fingerprint", found[1], "--home")
        self._each([(*join, self.home(name)) for name in photos])
        for name in photos:
            home = self.home(name)
            policy = (home / "policy.toml").read_text("utf-8")
            policy = policy.replace("lifetime_epsilon = 10.0", f"lifetime_epsilon = {epsilon}")
            policy = policy.replace("lifetime_delta = 1e-5", f"lifetime_delta = {delta}")
            policy = policy.replace("largest_training_epsilon = 8.0", f"largest_training_epsilon = {epsilon}")
            (home / "policy.toml").write_text(policy)

    def _each(self, commands: Sequence[Sequence[object]]) -> None:
        """Run setup commands, each to its end."""
        if self.run_all is not None:
            self.run_all(commands)
            return
        for command in commands:
            self.run(*command)

    def plan(self, training: str) -> None:
        """Add a training to the server; ``training`` is the text of its TOML file."""
        path = self.folder / "plan.toml"
        path.write_text(training)
        self.run("server", "plan", path, "--home", self.server)

    def start_server(self, *options: object) -> None:
        """Start or restart the server's process."""
        self.spawn("server", *_command("server", "start", "--home", self.server, *options))

    def start_merchant(self, name: str, *options: object) -> None:
        """Start or restart a merchant's daemon.

        Args:
            name: the merchant's name.
            *options: further options of ``fedrec client start``.
        """
        fixed = ("--home", self.home(name), "--device", "cpu", "--threads", 1)
        self.spawn(name, *_command("client", "start", *fixed, *options))

    def spawn(self, name: str, *command: str) -> None:
        """Start a process; its output is appended to ``NAME.log``.

        Args:
            name: name of the process.
            *command: program and arguments.
        """
        with self.log_path(name).open("ab") as log:
            self.processes[name] = subprocess.Popen(  # noqa: S603 (our own commands)
                command, stdout=log, stderr=log, env=_environment(), start_new_session=True
            )

    def kill(self, name: str) -> None:
        """Kill a process at once, as a power cut would."""
        self.processes[name].kill()
        self.processes[name].wait()

    def stop(self) -> None:
        """Ask every process to end, and kill those that don't."""
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + _STOP_SECONDS
        for process in self.processes.values():
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.held.close()

    def log_path(self, name: str) -> Path:
        """Return the file of a process's output."""
        return self.folder / f"{name}.log"

    def log(self, name: str) -> str:
        """Return what a process printed, over all its restarts."""
        return self.log_path(name).read_text("utf-8", "replace")

    def training(self, number: str = "0001") -> Path:
        """Return a training's folder on the server."""
        return self.server / "trainings" / number

    def wait(self, number: str = "0001", *, seconds: float) -> None:
        """Wait until a training is done.

        Args:
            number: the training's number.
            seconds: how long to wait at most.

        Raises:
            TrainingError: it failed, or isn't done in time.
        """
        deadline = time.monotonic() + seconds
        state = self.training(number) / STATE
        while '"done"' not in (shown := state.read_text("utf-8")):
            if time.monotonic() > deadline or '"failed"' in shown:
                raise TrainingError(f"training {number} is not done: {shown}; the log: {self.log('server')}")
            time.sleep(0.2)
