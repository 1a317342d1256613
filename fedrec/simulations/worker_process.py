"""Start, ask and end worker processes, from the parent's side."""

from __future__ import annotations

import json
import os
import pickle
import socket
import struct
import subprocess
import sys
import threading
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import cast

import cloudpickle
import psutil
from flwr.app import Message

from fedrec.errors import ConfigError
from fedrec.flower import message_from_bytes
from fedrec.simulations.pipes import receive_frame, send_frame
from fedrec.simulations.virtual_grid import EngineFailedError, WorkerDiedError
from fedrec.simulations.worker import APP, MESSAGE, PID, READY, SETTING, STOP

FORKS = sys.platform == "linux"
"""Elsewhere, forking a process that has loaded the system's numerical libraries isn't safe."""


def pickle_app(make_app: object) -> bytes:
    """Pickle what a worker makes its app from; lambdas and classes of the main program go by value.

    Returns:
        The pickle.

    Raises:
        ConfigError: it holds something that can't be sent to another process.
    """
    try:
        return cast("bytes", cloudpickle.dumps(make_app))
    # A user's own objects may raise anything.
    except Exception as error:
        raise ConfigError(f"the model can't be sent to the worker processes: {error}") from None


def start_forking() -> None:
    """Start the process that forks workers, where there is one; it imports what they need in the meantime."""
    if FORKS:
        _fork_server(os.getpid())


class WorkerProcess:
    """A process that answers messages as a simulation's merchants; call :meth:`ready` once before the first.

    ``app`` is what :func:`pickle_app` returned.
    """

    def __init__(self, app: bytes) -> None:
        self._pipe, theirs = socket.socketpair()
        self._sending = threading.Lock()
        with theirs:
            self._process = _forked(theirs) if FORKS else _started("serve", theirs)
        setting = {"folder": str(Path.cwd()), "path": sys.path, "environment": dict(os.environ)}
        self._send(SETTING, json.dumps(setting).encode())
        self._send(APP, app)

    def ready(self) -> None:
        """Wait until the process can answer; raise ``EngineFailedError`` if it can't."""
        try:
            kind, data = receive_frame(self._pipe)
        except EOFError:
            raise EngineFailedError("a worker process ended as it was started") from None
        if kind != READY:
            raise EngineFailedError(f"a worker process can't start: {data.decode()}")

    def ask(self, message: Message, index: int) -> Message:
        """Send a message and wait for its reply; only for one thread at a time.

        Args:
            message: the request.
            index: index of the merchant.

        Returns:
            The merchant's reply.

        Raises:
            WorkerDiedError: the process ended before it replied.
            WorkerFailedError: its app raised an error.
        """
        try:
            self._send(MESSAGE, pickle.dumps((message, index)))
            kind, data = receive_frame(self._pipe)
        except (EOFError, OSError):
            raise WorkerDiedError("its worker process died") from None
        if kind != MESSAGE:
            raise WorkerFailedError(data.decode())
        return message_from_bytes(data)

    def stop(self) -> None:
        """Tell the process to end after its current answer."""
        self._send(STOP)

    def wait(self, seconds: float) -> None:
        """Wait for the process to end; terminate it after ``seconds``."""
        try:
            self._process.wait(seconds)
        except psutil.TimeoutExpired:
            self._process.terminate()
            self._process.wait()
        self._pipe.close()

    def _send(self, kind: bytes, data: bytes = b"") -> None:
        # If the process is gone, the wait for its answer raises an error.
        with self._sending, suppress(OSError):
            send_frame(self._pipe, kind, data)


class WorkerFailedError(RuntimeError):
    """The app in a worker process raised an error; the text describes it."""


def _started(mode: str, theirs: socket.socket) -> psutil.Popen:
    """Start a Python process with the other end of a socket pair."""
    # In its own session, so that Ctrl-C reaches only the parent, even during the start.
    return psutil.Popen(
        [sys.executable, "-P", "-m", "fedrec.simulations.worker", mode, str(theirs.fileno())],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.DEVNULL,
        pass_fds=(theirs.fileno(),),
        start_new_session=True,
    )


def _forked(theirs: socket.socket) -> psutil.Process:
    """Have the fork server fork a worker; a server that was killed is started again."""
    try:
        return _fork_server(os.getpid()).fork(theirs)
    except OSError:
        _fork_server.cache_clear()
    try:
        return _fork_server(os.getpid()).fork(theirs)
    except OSError as error:
        raise EngineFailedError(f"no worker process can be started: {error}") from None


class _ForkServer:
    """A process that has imported what workers need and forks them; one per parent process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = _started("fork", theirs)

    def fork(self, theirs: socket.socket) -> psutil.Process:
        """Return a new worker at the other end of this pipe; raise ``OSError`` if the server is gone."""
        with self._lock:
            socket.send_fds(self._control, [b"f"], [theirs.fileno()])
            told = self._control.recv(PID.size, socket.MSG_WAITALL)
        try:
            return psutil.Process(PID.unpack(told)[0])
        except (struct.error, psutil.NoSuchProcess):
            raise OSError("the fork server or its worker is gone") from None


@cache
def _fork_server(parent: int) -> _ForkServer:
    """Return the fork server of the process with this pid; a forked process needs its own."""
    return _ForkServer()
