"""One training of a server over a Flower Grid: its rounds, their record, callbacks, and the model.

The same in a simulation, in a deployment and in an audit: what differs is where the homes lie, who is told
of the rounds, and what is known besides for the report.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid
from safetensors.numpy import save
from torch import nn

from fedrec._internal.files import write_atomically
from fedrec.privacy.derived_parameters import Derived, derive
from fedrec.privacy.dp.vectors import load_parameter_vector, named_parameters
from fedrec.protocol.plan import TrainingPlan
from fedrec.server.checkpoint import Checkpoint
from fedrec.server.coordinator import Coordinator
from fedrec.server.evaluation import EvaluationData, accuracy, probabilities
from fedrec.server.optimizers.optimizer_registry import start_weights
from fedrec.server.planning import starting_parameters
from fedrec.server.receipts import ReceiptBook
from fedrec.server.report.report_json import epsilon_after
from fedrec.server.report.report_page import render
from fedrec.server.request_signing import RequestSigner
from fedrec.server.round_records import RoundLine, RoundRecord
from fedrec.server.server_app import build_server_app
from fedrec.server.server_home import ServerHome
from fedrec.server.stragglers import Grace
from fedrec.server.trainings import Training
from fedrec.server.weights import Weights
from fedrec.vision.metrics import Metrics, evaluate

Names = Callable[[], Mapping[int, str]]


@dataclass(frozen=True)
class RoundOutcome:
    """What a callback is told after a round, opened or lost.

    ``model`` is the server's own, at the parameters that would be reported now, and changes with the next
    round. :meth:`stop` ends the training after this round.
    """

    line: RoundLine
    plan: TrainingPlan
    model: nn.Module
    stop: Callable[[], None]


RoundCallback = Callable[[RoundOutcome], object]
"""Called after every round, and once more for the last one when a training goes on after a stop."""


@dataclass(frozen=True)
class Pace:
    """How long a session waits, and when it gives up; see :class:`Coordinator`."""

    timeout: float = 3600.0
    grace: Grace | None = None
    most_lost: int | None = None
    before_round: Callable[[int], None] = lambda lost: None


@dataclass
class Session:
    """Carries a training on from its checkpoint, whatever ended the session before.

    Args:
        home: the server's keys, receipts and counter of requests.
        training: the folder that plan, checkpoint, rounds, model and report lie in.
        model: the network, at the initial weights.
        evaluation: what the accuracy of each round is measured on, if there is anything.
        callbacks: told of every round, in this order.
        pace: how long it waits.
        weights: what takes the opened sums; by default the plan's, at the model's own.

    Attributes:
        lines: the record of every round that is over, from all sessions of the training.
        refusals: where a merchant refused, and why.
        stopped: whether a callback ended it before its last round.

    """

    home: ServerHome
    training: Training
    model: nn.Module
    evaluation: EvaluationData | None = None
    callbacks: Sequence[RoundCallback] = ()
    pace: Pace = Pace()
    weights: Weights | None = None
    plan: TrainingPlan = field(init=False)
    derived: Derived = field(init=False)
    lines: list[RoundLine] = field(init=False)
    refusals: dict[str, str] = field(init=False)
    stopped: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self.plan = self.training.plan()
        self.derived = derive(self.plan)
        self._weights = self.weights or start_weights(
            self.plan.server_update, starting_parameters(self.model)
        )
        self.lines = self.training.rounds()
        self.refusals = self.training.refusals()
        self._checkpoint = Checkpoint(self.training.folder / "server", training_id=self.plan.training_id)

    @property
    def reserved(self) -> int:
        """The number of the last round that was begun, 0 before the first: so many may have been charged."""
        return self._checkpoint.last_reserved()

    def coordinator(self, grid: Grid, *, names: Names) -> Coordinator:
        """Return what runs the rounds over a grid; ``names`` tells which merchant is at which node."""
        identity = self.home.identity()
        return Coordinator(
            grid=grid,
            plan=self.plan,
            weights=self._weights,
            checkpoint=self._checkpoint,
            receipts=ReceiptBook(self.home.receipts, identity=identity),
            signer=RequestSigner(self.home.requests, identity=identity, names=names),
            on_round=self._after_round,
            timeout=self.pace.timeout,
            grace=self.pace.grace,
            most_lost=self.pace.most_lost,
            before_round=self.pace.before_round,
            refusals=self.refusals,
        )

    def run(self, coordinator: Coordinator, context: Context) -> None:
        """Run every round that is left, as a Flower ServerApp; raises as :class:`Coordinator` does."""
        try:
            build_server_app(coordinator)(coordinator.grid, context)
        finally:
            self.training.keep_refusals(self.refusals)

    def _after_round(self, record: RoundRecord) -> bool:
        """Record a round, tell the callbacks, and say whether one of them ends the training."""
        line = next((line for line in self.lines if line.record.round == record.round), None)
        if line is None:
            line = self._line(record)
            self.training.add_round(line)
            self.lines.append(line)
        self.training.keep_refusals(self.refusals)
        if self.callbacks:
            load_parameter_vector(self.model, self._weights.reported)
            outcome = RoundOutcome(line=line, plan=self.plan, model=self.model, stop=self._stop)
            for callback in self.callbacks:
                callback(outcome)
        return self.stopped

    def _stop(self) -> None:
        self.stopped = True

    def _line(self, record: RoundRecord) -> RoundLine:
        shown = None
        if self.evaluation is not None:
            shown = accuracy(self.model, self._weights.reported, self.evaluation)
        steps = record.round * self.plan.local_steps
        epsilon = epsilon_after(self.plan, self.derived, steps=steps)
        return RoundLine(record=record, accuracy=shown, epsilon=epsilon)

    def store_model(self) -> None:
        """Write the model as it is, if there was a round at all."""
        if self.lines:
            load_parameter_vector(self.model, self._weights.reported)
            write_atomically(self.training.folder / "model.safetensors", save(named_parameters(self.model)))

    def measure(self, data: EvaluationData | None) -> Metrics | None:
        """Evaluate the model, if there is something to measure on, and there was a round at all.

        Raises ``DataError`` where its scores are not finite.
        """
        if data is None or not self.lines:
            return None
        scores = probabilities(self.model, self._weights.reported, data)
        return evaluate(scores, data.labels, classes=self.plan.classes)

    def store_report(self, report: Mapping[str, Any]) -> None:
        """Write a report of the training, for machines and for people."""
        document = json.dumps(report, indent=2, allow_nan=False)
        write_atomically(self.training.folder / "report.json", document.encode())
        write_atomically(self.training.folder / "report.html", render(report).encode())
