"""A step that hangs ends the process, also where native code keeps the interpreter's lock."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from fedrec.cli import client
from fedrec.clients import daemon
from fedrec.clients.daemon import DaemonOptions
from fedrec.clients.merchant_home import MerchantHome
from fedrec.clients.watchdog import HUNG_EXIT

RUN = """
import ctypes, logging, threading, time
from fedrec.clients.watchdog import Watchdog

logging.basicConfig()
with Watchdog(5):
    pass

def step():
    {step}
with Watchdog(1):
    step()
time.sleep(3.5)
print("went on")
"""


@pytest.mark.parametrize(
    ("step", "code", "said"),
    [
        ("time.sleep(60)", HUNG_EXIT, "a step took more than 1 s"),
        # A PyDLL's functions are called without letting go of the interpreter's lock.
        ("ctypes.PyDLL(None).sleep(60)", 1, "in step"),
        ("time.sleep(0.1)", 0, "went on"),
    ],
    ids=["python", "native", "no hang"],
)
def test_a_hung_step_ends_the_process(step: str, code: int, said: str) -> None:
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", RUN.format(step=step)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == code, done.stderr
    assert said in done.stdout + done.stderr
    assert time.monotonic() - started < 50


def test_the_time_limit_of_a_step_is_an_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class StoppedError(Exception): ...

    def taken(home: MerchantHome, options: DaemonOptions) -> None:
        assert options.step_seconds == 12.5 and options.device == torch.device("cpu")
        raise StoppedError

    monkeypatch.setattr(daemon, "Daemon", taken)
    monkeypatch.setenv("FLWR_HOME", str(tmp_path))
    home = MerchantHome.create(tmp_path / "home", name="merchant-00", data=tmp_path, units=10)
    arguments = ["start", "--home", str(home.folder), "--device", "cpu", "--step-seconds"]
    assert isinstance(CliRunner().invoke(client.app, [*arguments, "12.5"]).exception, StoppedError)
    assert CliRunner().invoke(client.app, [*arguments, "0"]).exit_code == 2
