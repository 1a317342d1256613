"""Run a merchant's own command when something happens that a person may want to know of.

The command is run as it stands in ``policy.toml``, never through a shell, in a thread of its own: the daemon
never waits for it. It gets the event's name as its last argument, and a JSON object on its standard input
that holds no key, no name of a photo and no number of them.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

from fedrec._internal.text import one_line
from fedrec._internal.validation_messages import problem_text

_log = logging.getLogger(__name__)

EventName = Literal["training-started", "training-ended", "decision-needed"]
_MOST_WAITING: Final = 32
_CLOSE_SECONDS: Final = 5.0
_PASSED_ON: Final = (
    "PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR", "SYSTEMROOT", "USERPROFILE", "APPDATA",
    "DISPLAY", "WAYLAND_DISPLAY", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS",
)  # fmt: skip
"""Environment variables that a command may need, to show a message for instance; the others stay here."""


@dataclass(frozen=True)
class Event:
    """What happened.

    Attributes:
        event: its name.
        at: when, UTC.
        merchant: the merchant's name.
        training_id: the training; empty if it is about none.
        model: name of its model.
        rounds: its number of rounds.
        reason: for a decision: what was refused, and why.
        left_out: number of earlier events of this kind that were not passed on, because there were too many.
    """

    event: EventName
    at: str
    merchant: str
    training_id: str = ""
    model: str = ""
    rounds: int = 0
    reason: str = ""
    left_out: int = 0


@dataclass(frozen=True)
class HookCommand:
    """The command of a policy, and the seconds after which it is killed."""

    arguments: tuple[str, ...]
    seconds: float


def find_program(command: HookCommand, *, folder: Path) -> Path | None:
    """Find the program of a command as its start will.

    Args:
        command: the command.
        folder: folder that it is run in.

    Returns:
        The program; None if there is none, or it can't be run.
    """
    name = command.arguments[0]
    # A name with a separator is a path, from the folder; another one is looked for on PATH.
    named = str(folder / name) if Path(name).name != name else name
    found = shutil.which(named, path=os.environ.get("PATH", os.defpath))
    return None if found is None else Path(found)


class EventHook:
    """Runs the command of the policy in force for each event, one after another.

    Args:
        command: returns the command in force; None for none.
        folder: folder that commands are run in.
    """

    def __init__(self, command: Callable[[], HookCommand | None], *, folder: Path) -> None:
        self._command, self._folder = command, folder
        self._waiting: queue.Queue[tuple[HookCommand, Event] | None] = queue.Queue(_MOST_WAITING)
        self._thread: threading.Thread | None = None

    def emit(self, event: Event) -> None:
        """Run the command for an event soon; without a command, nothing happens."""
        command = self._command()
        if command is None:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="fedrec-on-event", daemon=True)
            self._thread.start()
        try:
            self._waiting.put_nowait((command, event))
        except queue.Full:
            _log.warning("'on_event': %s is not passed on: too many events wait", event.event)

    def close(self) -> None:
        """Wait a little for the commands that were asked for."""
        if self._thread is not None:
            deadline = time.monotonic() + _CLOSE_SECONDS
            # There may be no room for the end before the next command is taken up.
            with suppress(queue.Full):
                self._waiting.put(None, timeout=_CLOSE_SECONDS)
            self._thread.join(max(0.0, deadline - time.monotonic()))

    def _work(self) -> None:
        while (next_one := self._waiting.get()) is not None:
            try:
                run_command(*next_one, folder=self._folder)
            # Whatever a command does, the daemon goes on.
            except Exception as error:
                _log.warning(
                    "'on_event' of policy.toml: %s can't be run (%s); nothing else is stopped by that",
                    one_line(next_one[0].arguments[0]),
                    problem_text(error),
                )


def run_command(command: HookCommand, event: Event, *, folder: Path) -> None:
    """Run a command for an event and wait for it; its output is dropped.

    Args:
        command: the command.
        event: the event.
        folder: folder that it is run in.

    Raises:
        OSError: it can't be started.
    """
    process = subprocess.Popen(  # noqa: S603 (the merchant's own command, from its own file)
        [*command.arguments, event.event],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        env=_environment(os.environ),
        start_new_session=True,
    )
    try:
        process.communicate(json.dumps(asdict(event)).encode(), timeout=command.seconds)
    except subprocess.TimeoutExpired:
        _kill(process)
        _log.warning("'on_event': the command took longer than %g s and was killed", command.seconds)
    else:
        if process.returncode:
            _log.warning("'on_event': the command ended with code %d", process.returncode)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a command with what it started."""
    # Windows has no process groups; there the command alone is killed.
    kill_group = getattr(os, "killpg", None)
    with suppress(OSError):
        if kill_group is None:
            process.kill()
        else:
            kill_group(process.pid, 9)
    process.kill()
    process.wait()


def _environment(given: Mapping[str, str]) -> dict[str, str]:
    return {name: given[name] for name in _PASSED_ON if name in given}
