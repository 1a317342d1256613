"""The local engine's workers, really killed: the merchant drops out, others don't, a limit ends the run."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedrec.config import load_config
from fedrec.errors import ConfigError
from fedrec.observability.progress import Stage
from fedrec.simulations import worker_process
from fedrec.simulations.harness import simulate
from fedrec.simulations.local_grid import LocalGrid
from fedrec.simulations.virtual_grid import FIRST_NODE, MOST_DEATHS, EngineFailedError
from fedrec.vision.synthetic import generate, write

MERCHANTS = 4


class MakeProbe:
    """An app whose process is killed under the messages of the merchants whose file is there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self) -> ClientApp:
        app = ClientApp()

        @app.train()
        def train(message: Message, context: Context) -> Message:
            index = int(context.node_config["partition-id"])
            if (self.folder / str(index)).exists():
                os.kill(os.getpid(), signal.SIGKILL)
            return Message(RecordDict({"pid": ConfigRecord({"pid": os.getpid()})}), reply_to=message)

        return app


@pytest.fixture
def grid(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[LocalGrid]:
    """Have workers as this system has them, or by ``param`` as one without a safe fork."""
    if getattr(request, "param", "") == "started":
        monkeypatch.setattr(worker_process, "FORKS", False)
    made = LocalGrid(MakeProbe(tmp_path), merchants=MERCHANTS, workers=1)
    yield made
    made.close()


def ask(grid: LocalGrid, round_number: int) -> dict[int, int | str]:
    """What each merchant answers: its worker's process id, or the reason why it doesn't."""
    messages = [
        grid.create_message(RecordDict(), "train", FIRST_NODE + index, str(round_number))
        for index in range(MERCHANTS)
    ]
    indices = {message.metadata.message_id: index for index, message in enumerate(messages)}
    found: dict[int, int | str] = {}
    for reply in grid.send_and_receive(messages, timeout=120):
        index = indices[reply.metadata.reply_to_message_id]
        if reply.has_error():
            assert reply.error.reason is not None
            found[index] = reply.error.reason
        else:
            found[index] = int(reply.content.config_records["pid"]["pid"])  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize("grid", ["as here", pytest.param("started", marks=pytest.mark.slow)], indirect=True)
def test_a_killed_worker_costs_its_own_message_alone_and_is_replaced(grid: LocalGrid, tmp_path: Path) -> None:
    (tmp_path / "1").touch()
    answers = ask(grid, 1)
    assert answers[1] == "its worker process died"
    # One worker, so all were its: the one before was answered by it, those behind by its successor.
    assert isinstance(answers[0], int) and answers[2] == answers[3] != answers[0]
    assert grid.worker_deaths == 1
    (tmp_path / "1").unlink()
    assert set(ask(grid, 2).values()) == {answers[2]}
    # A worker that is killed while it is idle dies unseen; the next message finds out.
    os.kill(int(answers[2]), signal.SIGKILL)
    later = [ask(grid, number) for number in (3, 4)]
    assert all(isinstance(answer, int) for answer in later[1].values())


def test_workers_that_keep_dying_end_the_run_in_one_line(grid: LocalGrid, tmp_path: Path) -> None:
    for index in range(MERCHANTS):
        (tmp_path / str(index)).touch()
    with pytest.raises(EngineFailedError, match=f"{MOST_DEATHS} worker processes died") as failed:
        for number in range(MOST_DEATHS):
            ask(grid, number)
    assert "\n" not in str(failed.value)


def test_a_run_whose_worker_is_killed_goes_on_with_the_merchant_back_in_the_next_round(
    tmp_path: Path,
) -> None:
    photos = tmp_path / "photos"
    write(generate(merchants=MERCHANTS, per_merchant=20, size=16, seed=1, validation=10, test=10), photos)

    def tell(stage: Stage) -> None:
        if stage.name == "training" and stage.done == 1:
            own = {process.pid for process in psutil.Process().children()}
            # Workers are children of the server that they are forked from.
            workers = [p for p in psutil.Process().children(recursive=True) if p.pid not in own]
            workers[0].kill()

    flags = {
        "data": photos,
        "partition": "folder",
        "model": "cnn-tanh",
        "rounds": 3,
        "workers": 2,
        "device": "cpu",
    }
    flags |= {"min_contributors": 3, "out": tmp_path / "run"}
    report = simulate(load_config(None, flags), tell=tell).report.to_json()
    assert [line["opened"] for line in report["rounds"]] == [True] * 3
    assert [line["contributors"] for line in report["rounds"]] == [4, 3, 4]
    assert any("1 worker process died" in warning for warning in report["warnings"])
    # The message never reached the merchant that dropped out, so that it was charged for two rounds.
    assert sorted(line["rounds_charged"] for line in report["privacy"]["per_merchant"]) == [2, 3, 3, 3]


def test_what_a_worker_runs_may_be_defined_anywhere_and_what_it_raises_is_told(tmp_path: Path) -> None:
    """A closure can't be pickled by name: it goes by value, with the module path of this process."""
    told = "told by a closure"

    def make_app() -> ClientApp:
        app = ClientApp()

        @app.train()
        def train(message: Message, context: Context) -> Message:
            if context.node_config["partition-id"] == 1:
                raise ValueError(told)
            return Message(RecordDict({"pid": ConfigRecord({"pid": os.getpid()})}), reply_to=message)

        return app

    grid = LocalGrid(make_app, merchants=MERCHANTS, workers=2)
    try:
        answers = ask(grid, 1)
    finally:
        grid.close()
    assert answers[1] == f"WorkerFailedError: ValueError: {told}"
    assert isinstance(answers[0], int) and answers[0] == answers[2] != answers[3]


def test_an_app_that_cant_be_made_or_sent_ends_the_start_in_one_line() -> None:
    def broken() -> ClientApp:
        raise KeyError("no such layer")

    with pytest.raises(EngineFailedError, match="can't start: KeyError: 'no such layer'"):
        LocalGrid(broken, merchants=2, workers=2)
    lock = threading.Lock()
    with pytest.raises(ConfigError, match="can't be sent to the worker processes"):
        LocalGrid(lambda: lock, merchants=2, workers=2)  # type: ignore[arg-type, return-value]


def test_a_worker_ends_when_its_parent_s_end_of_the_pipe_is_closed() -> None:
    """As the system closes it when the parent is killed, which can tell its workers nothing."""
    pipe, theirs = socket.socketpair()
    with theirs:
        worker = worker_process._forked(theirs)
    assert worker.is_running()
    pipe.close()
    assert psutil.wait_procs([worker], timeout=20)[1] == []


@pytest.mark.slow
def test_a_worker_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import time\n"
        "from flwr.clientapp import ClientApp\n"
        "from fedrec.simulations.local_grid import LocalGrid\n"
        "grid = LocalGrid(lambda: ClientApp(), merchants=2, workers=2)\n"
        "print('started', flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None and parent.stdout.readline() == "started\n"
        workers = psutil.Process(parent.pid).children(recursive=True)
        assert len(workers) >= 2
        parent.kill()
        _, alive = psutil.wait_procs(workers, timeout=20)
    assert alive == []
