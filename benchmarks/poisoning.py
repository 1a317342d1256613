"""What one poisoning merchant of ten does to the model, and what a server could see of it.

Needs ``fashion-mnist`` below the folder that the environment's FEDREC_TEST_DATA names. Keys, ciphertexts,
ledgers and noise are real. One merchant computes another sum than its records', and sends FACTOR times it:

- ``negate``: of its own records, negated;
- ``labels``: of its records, each with the label of the next class;
- ``target``: of its records of one class with the label of another, and of no others;
- ``replace``: in the last round alone, what moves the model to one with the scores of these two classes
  exchanged (model replacement: Bagdasaryan et al. 2020, "How To Backdoor Federated Learning").

``success`` is the share of the target's class that is taken for the other one, on test photos. A server sees
the opened sum and its own public photos: ``norm`` is the largest mean gradient of a round over that of the
honest run in the same round, and ``fall`` the largest fall of the accuracy from one round to the next.

Each attack meets three servers:

- ``none``: applies every opened sum;
- ``norm``: scales a mean gradient down to ``NORM_LIMIT`` times that of the honest run in the same round. No
  server knows that norm: this is the best that a check of norms can do;
- ``gate``: undoes a step that leaves the accuracy on its public photos ``GATE`` below the best so far.
"""

from __future__ import annotations

import copy
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise, product
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
from fedrec.clients.plan_resources import build_model
from fedrec.clients.records import Records
from fedrec.config import SimulationConfig
from fedrec.privacy.dp.calibration import NoisePlan
from fedrec.privacy.randomness import Randomness
from fedrec.protocol.plan import TrainingPlan
from fedrec.server.evaluation import score
from fedrec.server.server_app import build_server_app
from fedrec.server.weights import Weights
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
    ("replace", 1),
)  # fmt: skip
DEFENCES = ("none", "norm", "gate")
NORM_LIMIT, GATE = 1.25, 0.02

Vector = NDArray[np.float64]


@dataclass
class Attacked:
    """A training with one merchant that isn't honest.

    Attributes:
        attack: what it sends.
        factor: how many times.
        defence: what the server does about it.
        honest: L2 norms of the mean gradients of the honest run.
        asked: number of the merchant that is asked now.
        norms: L2 norms of the mean gradients.
        undone: number of steps that the server undid.
    """

    attack: str
    factor: int
    defence: str = "none"
    honest: Sequence[float] = ()
    asked: int = 0
    norms: list[float] = field(default_factory=list)
    undone: int = 0

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
        if self.attack == "replace":
            # The round of the features' mean comes before the first step.
            is_last = len(self.norms) == plan.rounds - 2
            return replacement(parameters, plan=plan, noise=noise) if is_last else of(records, rng)
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
    def patched(self, accuracy: Callable[[Vector], float]) -> Iterator[None]:
        """Put the attack, the measurement and the server's defence into this process."""
        step = Weights.step
        best = 0.0

        def noted(weights: Weights, gradient: Vector) -> None:
            nonlocal best
            norm, at = float(np.linalg.norm(gradient)), len(self.norms)
            self.norms.append(norm)
            if self.defence == "norm":
                gradient *= min(1.0, NORM_LIMIT * self.honest[at] / norm)
            before = copy.deepcopy(vars(weights))
            step(weights, gradient)
            if self.defence == "gate":
                now = accuracy(weights.reported)
                if now < best - GATE:
                    vars(weights).update(before)
                    self.undone += 1
                best = max(best, now)

        with (
            patch.object(training_step, "compute_contribution", self.contribution),
            patch.object(Weights, "step", noted),
        ):
            yield


def replacement(
    parameters: NDArray[np.float32], *, plan: TrainingPlan, noise: NoisePlan
) -> NDArray[np.int64]:
    """Return what moves the model, but for momentum, to one with the scores of two classes exchanged."""
    classes = len(plan.classes)
    scores = parameters[-classes * (len(parameters) // (classes + 1)) :].astype(np.float64)
    rows = scores.reshape(classes, -1)
    wanted = rows.copy()
    wanted[[SOURCE, GOAL]] = rows[[GOAL, SOURCE]]
    gradient = np.zeros(len(parameters))
    gradient[-rows.size :] = (rows - wanted).reshape(-1) / plan.server_update.learning_rate
    values = np.rint(gradient * plan.sample_rate * plan.records_total * noise.scale / noise.clip)
    return np.clip(values, -noise.max_abs_sum, noise.max_abs_sum).astype(np.int64)


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
    model, public = build_model(run.plan), inputs.validation
    if public is None:
        raise RuntimeError("the data set has no public photos")
    with attacked.patched(lambda parameters: score(model, parameters, public).accuracy):
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
        "defence": attacked.defence,
        "rounds": len(session.lines),
        "undone": attacked.undone,
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
    tried = product(ATTACKS[:3] if options.quick else ATTACKS, DEFENCES[:1] if options.quick else DEFENCES)
    for (attack, factor), defence in tried:
        attacked = Attacked(attack, factor, defence=defence, honest=honest)
        with tempfile.TemporaryDirectory(prefix="fedrec-") as scratch:
            found = trained(attacked, Path(scratch), rounds=8 if options.quick else ROUNDS)
        norms = found.pop("norms")
        honest = honest or norms
        found["norm"] = max(one / other for one, other in zip(norms, honest, strict=True))
        rows.append(found)
        print(found, flush=True)
    finish("poisoning", options, rows=rows, ratios={})


if __name__ == "__main__":
    main()
