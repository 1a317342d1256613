"""The program of a worker process: ``python -m fedrec.simulations.worker serve|fork DESCRIPTOR``.

The descriptor is this process's end of a socket pair. ``serve`` answers messages over it as the merchants of
one simulation. ``fork`` waits for descriptors, and forks a serving process for each, so that torch and Flower
are imported once. The first two frames say what is run, and on which module path; the parent's main program
is not run again. Only the parent's frames are unpickled, never what goes back.
"""

from __future__ import annotations

import gc
import json
import os
import pickle
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue

import torch
from flwr.app import Context
from flwr.clientapp import ClientApp

from fedrec._internal.text import one_line
from fedrec.errors import LedgerError
from fedrec.flower import message_to_bytes, set_task_identity
from fedrec.privacy.accounting.code_hash import code_hash

# Imported for the processes that are forked from this one.
from fedrec.simulations import merchants as merchants
from fedrec.simulations.pipes import receive_frame, send_frame
from fedrec.simulations.virtual_grid import FIRST_NODE, RUN_ID, node_context

SETTING, APP, READY, MESSAGE, STOP, FAILED = b"s", b"a", b"r", b"m", b"x", b"f"
"""The kinds of frames: environment, app, app is ready, message or reply, stop, and error."""
PID = struct.Struct(">Q")

Frames = SimpleQueue[tuple[bytes, bytes]]


def serve(pipe: socket.socket) -> None:
    """Answer one message after another until told to stop; end at once if the parent is gone."""
    frames: Frames = SimpleQueue()
    threading.Thread(target=_read, args=(pipe, frames), name="fedrec-parent", daemon=True).start()
    try:
        _adopt_environment(frames.get()[1])
        make_app: Callable[[], ClientApp] = pickle.loads(frames.get()[1])  # noqa: S301 (our parent's)
        app = make_app()
    # A user's own model may raise anything; the parent reports it.
    except Exception as error:
        send_frame(pipe, FAILED, _error_text(error))
        return
    send_frame(pipe, READY)
    contexts: dict[int, Context] = {}
    while (frame := frames.get())[0] == MESSAGE:
        try:
            message, index = pickle.loads(frame[1])  # noqa: S301 (our parent's)
            set_task_identity(run_id=RUN_ID, node_id=message.metadata.dst_node_id)
            reply = app(message, contexts.setdefault(index, node_context(index)))
            kind, data = MESSAGE, message_to_bytes(reply)
        except Exception as error:
            kind, data = FAILED, _error_text(error)
        send_frame(pipe, kind, data)


def _error_text(error: Exception) -> bytes:
    return f"{type(error).__name__}: {one_line(error)}".encode()


def _read(pipe: socket.socket, frames: Frames) -> None:
    """Queue every frame up to STOP; end this process if the parent is gone before."""
    try:
        while (frame := receive_frame(pipe))[0] != STOP:
            frames.put(frame)
    except EOFError:
        os._exit(1)
    frames.put(frame)


def _adopt_environment(data: bytes) -> None:
    """Adopt the parent's working directory, module path and environment."""
    setting = json.loads(data)
    os.chdir(setting["folder"])
    sys.path[:] = setting["path"]
    os.environ.clear()
    os.environ.update(setting["environment"])
    torch.set_num_threads(1)
    set_task_identity(run_id=RUN_ID, node_id=FIRST_NODE)


def fork_workers(control: socket.socket) -> None:
    """Fork a process for every descriptor that arrives, and send back its pid, until the parent is gone."""
    # Computed here once instead of in every worker; one that can't compute it says so to its merchants.
    with suppress(LedgerError):
        code_hash()
    # What is imported lives as long as a worker. Without this, a worker's end searches all of it for cycles,
    # which takes a second and copies the pages that it shares with this process.
    gc.freeze()
    # Children are not waited for: with SIG_IGN the system reaps them.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        data, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not data:
            return
        child = os.fork()
        if child == 0:
            control.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            with socket.socket(fileno=descriptors[0]) as pipe:
                serve(pipe)
            return
        os.close(descriptors[0])
        try:
            control.sendall(PID.pack(child))
        except BrokenPipeError:
            # The parent was stopped meanwhile; the child ends by itself, as its pipe is closed.
            return


def main() -> None:
    """Run as the arguments say. Ctrl-C is left to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    run = {"serve": serve, "fork": fork_workers}[sys.argv[1]]
    with socket.socket(fileno=int(sys.argv[2])) as pipe:
        run(pipe)


if __name__ == "__main__":
    main()
