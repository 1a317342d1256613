"""The ``ray`` engine: the private names it stands on, its answers, and the same model as ``local``."""

from __future__ import annotations

import inspect
import logging
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from safetensors.numpy import load_file

from fedrec.config import SimulationConfig
from fedrec.errors import MissingExtraError
from fedrec.flower import require_ray
from fedrec.simulations.harness import simulate
from fedrec.simulations.injected_faults import Dropouts
from fedrec.simulations.ray_engine import RayGrid
from fedrec.vision import synthetic


def test_the_private_names_of_flowers_ray_backend_are_as_expected() -> None:
    pytest.importorskip("ray")
    backend = require_ray()
    assert list(inspect.signature(backend).parameters) == ["backend_config"]
    assert list(inspect.signature(backend.build).parameters) == ["self", "app_fn"]
    assert list(inspect.signature(backend.process_message).parameters) == ["self", "message", "context"]
    assert list(inspect.signature(backend.terminate).parameters) == ["self"]
    assert isinstance(inspect.getattr_static(backend, "num_workers"), property)
    source = inspect.getsource(sys.modules[backend.__module__])
    for used in ('"init_args"', '"client_resources"', "self.pool = BasicActorPool("):
        assert used in source
    pool = inspect.getsource(sys.modules[backend.__module__].BasicActorPool)
    # Killing busy actors needs both; restarting dead ones needs the resources to be Ray's actor options.
    for used in ("self.pool: list[", "self._future_to_actor: dict[", "actor_type.options("):
        assert used in pool


def test_without_ray_the_person_is_told_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    config = SimulationConfig(engine="ray", out=tmp_path / "run")
    with pytest.raises(MissingExtraError, match=r"pip install 'fedrec\[ray\]'"):
        simulate(config)
    assert not (tmp_path / "run").exists()


def make_probe() -> ClientApp:
    app = ClientApp()

    @app.query("where")
    def where(message: Message, context: Context) -> Message:
        context.state.config_records.setdefault("seen", ConfigRecord({"times": 0}))
        seen = context.state.config_records["seen"]
        seen["times"] = int(seen["times"]) + 1  # type: ignore[arg-type]
        reply = ConfigRecord(
            {
                "pid": os.getpid(),
                "partition": context.node_config["partition-id"],
                "threads": torch.get_num_threads(),
                "times": seen["times"],
            }
        )
        return Message(RecordDict({"reply": reply}), reply_to=message)

    @app.query("fail")
    def fail(message: Message, context: Context) -> Message:
        raise ValueError(f"no luck for {context.node_config['partition-id']}")

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return Message(RecordDict(), reply_to=message)

    @app.query("hang")
    def hang(message: Message, context: Context) -> Message:
        time.sleep(600)
        raise AssertionError("not reached")

    return app


def process_state() -> tuple[int, str | None]:
    return logging.getLogger("flwr").level, os.environ.get("PYTHONPATH")


@pytest.fixture(scope="module")
def before() -> tuple[int, str | None]:
    return process_state()


@pytest.fixture(scope="module")
def grid(before: tuple[int, str | None]) -> Iterator[RayGrid]:
    pytest.importorskip("ray")
    grid = RayGrid(make_probe, merchants=3, workers=2, dropouts=Dropouts(0.5, seed=1))
    yield grid
    grid.close()


def ask(grid: RayGrid, message_type: str, *, group: str = "1", timeout: float = 60) -> dict[int, Message]:
    messages = [
        grid.create_message(RecordDict(), message_type, node, group, ttl=60) for node in grid.get_node_ids()
    ]
    node_of = {message.metadata.message_id: message.metadata.dst_node_id for message in messages}
    replies = grid.send_and_receive(messages, timeout=timeout)
    return {node_of[reply.metadata.reply_to_message_id]: reply for reply in replies}


@pytest.mark.slow
def test_every_node_is_answered_in_an_actor_with_one_thread_and_its_own_state(grid: RayGrid) -> None:
    for times in (1, 2):
        replies = ask(grid, "query.where")
        bodies = {node: dict(reply.content.config_records["reply"]) for node, reply in replies.items()}
        assert {node: body["partition"] for node, body in bodies.items()} == {1000: 0, 1001: 1, 1002: 2}
        assert all(body["threads"] == 1 and body["times"] == times for body in bodies.values())
        assert os.getpid() not in [body["pid"] for body in bodies.values()]


@pytest.mark.slow
def test_an_exception_comes_back_as_that_nodes_error_with_its_text(
    grid: RayGrid, capfd: pytest.CaptureFixture[str]
) -> None:
    replies = ask(grid, "query.fail")
    assert {node: reply.error.reason for node, reply in replies.items()} == {
        1000 + index: f"RuntimeError: no luck for {index}" for index in range(3)
    }
    assert "".join(capfd.readouterr()) == ""


@pytest.mark.slow
def test_the_dropouts_asked_for_are_the_errors_that_come_back(grid: RayGrid) -> None:
    for group in ("1", "2", "3", "4"):
        replies = ask(grid, "train", group=group)
        dropped = {node - 1000 for node, reply in replies.items() if reply.has_error()}
        dropouts = Dropouts(0.5, seed=1)
        assert dropped == {
            index
            for index in range(3)
            if dropouts.drops(merchant=index, round_number=int(group), phase="train")
        }


@pytest.mark.slow
def test_closing_does_not_wait_for_busy_actors_and_leaves_the_process_as_it_was(
    grid: RayGrid, before: tuple[int, str | None]
) -> None:
    ray = pytest.importorskip("ray")
    assert ask(grid, "query.hang", timeout=1) == {}
    grid.close()
    assert not ray.is_initialized()
    assert process_state() == before
    grid.close()
    assert not ray.is_initialized()


@pytest.mark.slow
def test_both_engines_end_at_the_same_model_bit_for_bit(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    photos = synthetic.generate(merchants=4, per_merchant=30, size=32, seed=5, validation=20, test=20)
    synthetic.write(photos, tmp_path / "photos")
    models, rounds = {}, {}
    for engine in ("local", "ray"):
        result = simulate(
            SimulationConfig(
                data=tmp_path / "photos",
                merchants=4,
                rounds=2,
                epsilon=50.0,
                sample_rate=0.2,
                engine=engine,
                workers=2,
                device="cpu",
                seed=3,
                drop=0.1,
                out=tmp_path / engine,
            )
        )
        models[engine] = load_file(result.folder / "model.safetensors")
        rounds[engine] = [
            (line["opened"], line["contributors"], line["reason"])
            for line in result.report.to_json()["rounds"]
        ]
    # With this seed one of the four drops out of the second round.
    assert rounds["ray"] == rounds["local"] == [(True, 4, None), (True, 3, None)]
    for name, values in models["local"].items():
        assert values.tobytes() == models["ray"][name].tobytes(), name
