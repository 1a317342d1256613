"""What one poisoning merchant of ten does to the model, and what a server could see of it.

Needs ``fashion-mnist`` below the folder that the environment's FEDREC_TEST_DATA names. Keys, ciphertexts,
ledgers and noise are real. One merchant computes another sum than its records', and sends FACTOR times it:

- ``negate``: of its own records, negated;
- ``labels``: of its records, each with the label of the next class;
- ``target``: of its records of one class with the label of another, and of no others.

``success`` is the share of the target's class that is taken for the other one, on test photos. A server sees
the opened sum and its own public photos: ``norm`` is the largest mean gradient of a round over that of the
honest run in the same round, and ``fall`` the largest fall of the accuracy from one round to the next.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from end_to_end import InlineGrid, server_context
from flwr.app import Message
from measure import finish, parse
from numpy.typing import NDArray
from torch import nn

from fedrec.clients import training_step
from fedrec.clients.contribution import compute_contribution
from fedrec.clients.records import Records
from fedrec.config import SimulationConfig
from fedrec.privacy.dp.calibration import NoisePlan
from fedrec.privacy.randomness import Randomness
from fedrec.protocol.plan import TrainingPlan
from fedrec.server.optimizers.sgd import Sgd
from fedrec.server.server_app import build_server_app
from fedrec.simulations.run_inputs import prepare_inputs
from fedrec.simulations.run_setup import node_names, prepare, simulated_merchants

DATA = Path(os.environ.get("FEDREC_TEST_DATA", "data")) / "fashion-mnist"
MODEL = "scattering-head"
MERCHANTS = 10
ROUNDS = 30
SOURCE, GOAL = 6, 2
"""Shirts that are to be taken for pullovers."""
ATTACKS = (
    ("none", 1), ("negate", 1), ("negate", 10), ("labels", 1), ("labels", 10), ("target", 1), ("target", 10),
)  # fmt: skip

Vector = NDArray[np.float64]


@dataclass
class Attacked:
    """A training with one merchant that isn't honest.

    Attributes:
        attack: what it sends.
        factor: how many times.
        asked: number of the merchant that is asked now.
        norms: L2 norms of the mean gradients.
    """

    attack: str
    factor: int
    asked: int = 0
    norms: list[float] = field(default_factory=list)

    def contribution(
        self,
        model: nn.Module,
        parameters: NDArray[np.float32],
        records: Records,
        *,
        plan: TrainingPlan,
        noise: NoisePlan,
        rng: Randomness,
        figures: bool = False,
    ) -> NDArray[np.int64]:
        """Return what the merchant that is asked uploads."""

        def of(chosen: Records, stream: Randomness) -> NDArray[np.int64]:
            return compute_contribution(
                model, parameters, chosen, plan=plan, noise=noise, rng=stream, figures=figures
            )

        if self.asked or self.attack == "none":
            return of(records, rng)
        poisoned, sign = records, 1
        if self.attack == "negate":
            sign = -1
        elif self.attack == "labels":
            poisoned = replace(records, labels=(records.labels + 1) % len(plan.classes))
        else:
            own = torch.arange(len(records.labels)) if records.places is None else records.places
            wanted = own[records.labels.cpu()[own] == SOURCE]
            poisoned = replace(records, labels=torch.full_like(records.labels, GOAL), places=wanted)
        # The same stream twice: what is left without the noise is multiplied.
        first, second = (Randomness.seeded(len(self.norms), "poisoning") for _ in range(2))
        exact = of(poisoned, first) - of(Records.none(records.inputs.device), second)
        return sign * self.factor * exact

    @contextmanager
    def patched(self) -> Iterator[None]:
        """Put the attack and the measurement into this process."""
        step = Sgd.step

        def noted(optimizer: Sgd, parameters: Vector, gradient: Vector) -> None:
            self.norms.append(float(np.linalg.norm(gradient)))
            step(optimizer, parameters, gradient)

        with (
            patch.object(training_step, "compute_contribution", self.contribution),
            patch.object(Sgd, "step", noted),
        ):
            yield


class Asking(InlineGrid):
    """A grid that notes which merchant is asked."""

    attacked: Attacked

    def submit(self, message: Message, index: int) -> Any:
        """Answer at once."""
        self.attacked.asked = index
        return super().submit(message, index)


def trained(attacked: Attacked, folder: Path, *, rounds: int) -> dict[str, Any]:
    """Train with an attack."""
    config = SimulationConfig(
        dataset="fashion-mnist",
        data_root=DATA,
        model=MODEL,
        merchants=MERCHANTS,
        epsilon=4.0,
        delta=1e-5,
        rounds=rounds,
        seed=0,
        workers=1,
        out=folder / "run",
    )
    run = prepare(config, tell=lambda stage: None)
    inputs = prepare_inputs(run, arrays=folder / "arrays", tell=lambda stage: None)
    session = run.session()
    session.evaluation = inputs.validation
    grid = Asking(simulated_merchants(run, arrays=inputs.arrays)(), merchants=run.plan.cohort)
    grid.attacked = attacked
    names = node_names(run, grid)
    with attacked.patched():
        build_server_app(session.runner(grid, names=lambda: names))(grid, server_context())
    metrics = session.measure(inputs.metrics)
    if metrics is None:
        raise RuntimeError("no round was opened")
    confusion = np.array(metrics.confusion)
    accuracies = [line.accuracy or 0.0 for line in session.lines]
    falls = [before - after for before, after in pairwise(accuracies)]
    return {
        "attack": attacked.attack,
        "factor": attacked.factor,
        "rounds": len(session.lines),
        "accuracy": metrics.accuracy,
        "success": confusion[SOURCE, GOAL] / confusion[SOURCE].sum(),
        "fall": max(falls),
        "norms": attacked.norms,
    }


def main() -> None:
    """Measure, and print."""
    options = parse(__doc__ or "")
    logging.disable(logging.WARNING)
    rows: list[Mapping[str, Any]] = []
    honest: list[float] = []
    for attack, factor in ATTACKS[:3] if options.quick else ATTACKS:
        with tempfile.TemporaryDirectory(prefix="fedrec-") as scratch:
            found = trained(Attacked(attack, factor), Path(scratch), rounds=8 if options.quick else ROUNDS)
        norms = found.pop("norms")
        honest = honest or norms
        found["norm"] = max(one / other for one, other in zip(norms, honest, strict=True))
        rows.append(found)
        print(found, flush=True)
    finish("poisoning", options, rows=rows, ratios={})


if __name__ == "__main__":
    main()
