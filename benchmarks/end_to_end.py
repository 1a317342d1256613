"""A whole round of fedrec against the same round of Flower in clear, and of Flower with Opacus.

Run ``python benchmarks/end_to_end.py [--quick] [--json FILE]``. Every side trains one step a round on the
same synthetic photos, merchants and expected number of records, with one torch thread, all its merchants in
this process and messages handed over as objects: what is timed is the work of merchants and server, in CPU
seconds of a round at the median, the first not counted. Nobody evaluates.

- ``full``: as ``fedrec simulate`` does it: Poisson sampling, clipped sums, discrete noise shares, kahe with a
  committee of the whole cohort, receipts and ledgers on disk.
- ``clear``: the same with ``--secure-aggregation none``.
- ``plain``: Flower's FedAvg over clients that take an ordinary SGD step on a batch.
- ``flower_opacus``: Flower's FedAvg over clients that take their step by Opacus's ``PrivacyEngine``, each
  with noise of its own, as in Flower's own example of it; the server sees every update.

The ratios: ``full_vs_plain`` and ``full_vs_flower_opacus`` are speeds, ours against the other;
``aggregation_share_of_round`` is the part of the full round that it has over the one in clear.
"""

from __future__ import annotations

import logging
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg
from measure import finish, parse
from opacus import PrivacyEngine
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from fedrec.clients.plan_resources import build_model
from fedrec.config import SimulationConfig
from fedrec.protocol.training_report.round_line import RoundRecord
from fedrec.server.server_app import build_server_app
from fedrec.simulations.run_folder import scratch_folder
from fedrec.simulations.run_inputs import Inputs, prepare_inputs
from fedrec.simulations.run_setup import (
    SimulationRun,
    node_names,
    prepare,
    simulated_merchants,
)
from fedrec.simulations.virtual_grid import VirtualGrid, node_context
from fedrec.vision import model_registry
from fedrec.vision.dataset_registry import SYNTHETIC_PER_MERCHANT
from fedrec.vision.model_inputs import to_inputs

MODEL = "cnn"
MERCHANTS = 8
LEARNING_RATE = 0.1
DEFAULT_RATE = model_registry.get(MODEL).defaults.sample_rate


@dataclass(frozen=True)
class Case:
    """A sampling rate, and with it the records that a merchant is expected to work through in a round."""

    name: str
    sample_rate: float
    rounds: int


CASES = (Case("defaults", DEFAULT_RATE, 30), Case("large_batches", 0.5, 15))
QUICK = (Case("defaults", DEFAULT_RATE, 6),)


@dataclass
class Stamps:
    """CPU seconds of this process at the end of each round."""

    at: list[float] = field(default_factory=list)

    def take(self) -> None:
        """A round has ended."""
        self.at.append(time.process_time())

    def seconds(self) -> float:
        """Return the median of a round, without the first."""
        return statistics.median(after - before for before, after in zip(self.at, self.at[1:], strict=False))


class InlineGrid(VirtualGrid):
    """A grid whose merchants answer in this process, as soon as they are asked."""

    def __init__(self, app: ClientApp, *, merchants: int) -> None:
        super().__init__(merchants=merchants, dropouts=None)
        self._app = app
        self._contexts = [node_context(index) for index in range(merchants)]

    def submit(self, message: Message, index: int) -> Future[Message]:
        """Answer at once."""
        done: Future[Message] = Future()
        done.set_result(self._app(message, self._contexts[index]))
        return done

    def close(self) -> None:
        """Nothing is left running."""


def serve(run: SimulationRun, merchants: ClientApp, *, on_round: Callable[[RoundRecord], None]) -> None:
    """Run a prepared run's server over merchants in this process, to the end of its training."""
    grid = InlineGrid(merchants, merchants=run.plan.cohort)
    names = node_names(run, grid)
    coordinator = run.session().runner(grid, names=lambda: names)
    # A round ends here: what a report tells of it is not measured.
    coordinator.on_round = on_round
    build_server_app(coordinator)(grid, server_context())


def fedrec_round(run: SimulationRun, inputs: Inputs) -> float:
    """Return the CPU seconds of a round of a prepared run."""
    stamps = Stamps()

    def note(record: RoundRecord) -> None:
        if not record.opened:
            raise RuntimeError(f"round {record.round} was lost: {record.reason}")
        stamps.take()

    app = simulated_merchants(run, arrays=inputs.arrays)()
    serve(run, app, on_round=note)
    return stamps.seconds()


def flower_round(
    run: SimulationRun, inputs: Inputs, *, make_step: Callable[[nn.Module, Data], Step]
) -> float:
    """Return the CPU seconds of a round of Flower's FedAvg over clients with the given step."""
    stamps, clients = Stamps(), {}
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        index = int(context.node_config["partition-id"])
        if index not in clients:
            clients[index] = make_step(_build(run), _data(run, inputs, index))
        model, step = clients[index].model, clients[index].take
        model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
        records = step()
        reply = RecordDict(
            {
                "arrays": ArrayRecord(model.state_dict()),
                "metrics": MetricRecord({"num-examples": max(1, records)}),
            }
        )
        return Message(reply, reply_to=message)

    def note(server_round: int, arrays: ArrayRecord) -> None:
        if server_round:
            stamps.take()

    cohort = run.plan.cohort
    FedAvg(fraction_evaluate=0.0, min_train_nodes=cohort, min_available_nodes=cohort).start(
        InlineGrid(app, merchants=cohort),
        ArrayRecord(_build(run).state_dict()),
        num_rounds=run.plan.rounds,
        evaluate_fn=note,
    )
    return stamps.seconds()


@dataclass(frozen=True)
class Data:
    """A merchant's records, and what a round takes of them."""

    inputs: Tensor
    labels: Tensor
    sample_rate: float
    clip: float
    noise_multiplier: float


@dataclass(frozen=True)
class Step:
    """A client's model and its step, which returns the number of records that it went through."""

    model: nn.Module
    take: Callable[[], int]


def plain_step(model: nn.Module, data: Data) -> Step:
    """An ordinary step of SGD on the mean loss of a batch drawn without replacement."""
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    size = max(1, round(data.sample_rate * len(data.labels)))

    def take() -> int:
        chosen = torch.randperm(len(data.labels))[:size]
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(F.cross_entropy(model(data.inputs[chosen]), data.labels[chosen]))
        optimizer.step()
        return size

    return Step(model, take)


def opacus_step(model: nn.Module, data: Data) -> Step:
    """A step of Opacus: Poisson sampling, per-record gradients by its hooks, clip and Gaussian noise."""
    size = max(1, round(data.sample_rate * len(data.labels)))
    with warnings.catch_warnings():
        # It advises against its own generator of noise, whose speed is what is compared.
        warnings.simplefilter("ignore")
        made = PrivacyEngine().make_private(
            module=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=LEARNING_RATE),
            data_loader=DataLoader(TensorDataset(data.inputs, data.labels), batch_size=size),
            noise_multiplier=data.noise_multiplier,
            max_grad_norm=data.clip,
        )
    # make_private returns a criterion besides with grad_sample_mode="ghost" alone.
    private, optimizer, loader = cast(tuple[nn.Module, torch.optim.Optimizer, DataLoader[Any]], made)

    def take() -> int:
        images, labels = next(iter(loader))
        optimizer.zero_grad()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.autograd.backward(F.cross_entropy(private(images), labels))
        optimizer.step()
        return len(labels)

    return Step(model, take)


def _build(run: SimulationRun) -> nn.Module:
    """Build the run's model afresh, with its own initial weights."""
    return build_model(run.plan).train()


def _data(run: SimulationRun, inputs: Inputs, index: int) -> Data:
    """Read the records of one merchant from the arrays that its fedrec twin reads."""
    folder = inputs.arrays / run.source.shares[index].name
    images = np.load(folder / "inputs.npy", allow_pickle=False)
    return Data(
        inputs=to_inputs(images, model_registry.get(run.plan.model))[:, 0],
        labels=torch.from_numpy(np.load(folder / "labels.npy", allow_pickle=False)),
        sample_rate=run.plan.sample_rate,
        clip=run.plan.clip,
        noise_multiplier=run.plan.noise_multiplier or 0.0,
    )


def server_context() -> Context:
    """Return the context that a ServerApp is started with."""
    return Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config={})


def measure(case: Case, folder: Path) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Time the four sides of one case; returns its rows, and seconds by side."""
    seconds: dict[str, float] = {}
    for side, scheme in (("full", "kahe"), ("clear", "none")):
        config = SimulationConfig(
            merchants=MERCHANTS,
            model=MODEL,
            rounds=case.rounds,
            sample_rate=case.sample_rate,
            secure_aggregation=scheme,
            out=folder / f"{case.name}-{side}",
        )
        run = prepare(config, tell=lambda stage: None)
        arrays = scratch_folder()
        try:
            inputs = prepare_inputs(run, arrays=arrays, tell=lambda stage: None)
            seconds[side] = fedrec_round(run, inputs)
            if side == "full":
                seconds["plain"] = flower_round(run, inputs, make_step=plain_step)
                seconds["flower_opacus"] = flower_round(run, inputs, make_step=opacus_step)
        finally:
            shutil.rmtree(arrays, ignore_errors=True)
    records = MERCHANTS * SYNTHETIC_PER_MERCHANT * case.sample_rate
    rows = [
        {
            "case": case.name,
            "side": side,
            "merchants": MERCHANTS,
            "parameters": run.plan.dimension,
            "records_a_round": records,
            "cpu_seconds_a_round": taken,
            "records_a_cpu_second": records / taken,
        }
        for side, taken in seconds.items()
    ]
    return rows, seconds


def main() -> None:
    """Measure every case; the ratios without a suffix are those of the defaults of ``fedrec simulate``."""
    options = parse(__doc__ or "")
    logging.getLogger("flwr").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    ratios: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="fedrec-benchmark-") as folder:
        for case in QUICK if options.quick else CASES:
            lines, seconds = measure(case, Path(folder))
            rows += lines
            suffix = "" if case.sample_rate == DEFAULT_RATE else f"_{case.name}"
            ratios |= {
                f"full_vs_plain{suffix}": seconds["plain"] / seconds["full"],
                f"full_vs_flower_opacus{suffix}": seconds["flower_opacus"] / seconds["full"],
                f"aggregation_share_of_round{suffix}": 1 - seconds["clear"] / seconds["full"],
            }
    finish("end_to_end", options, rows=rows, ratios=ratios)


if __name__ == "__main__":
    main()
