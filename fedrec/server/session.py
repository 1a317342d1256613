"""Run one training of a server over a Flower Grid: rounds, their records, callbacks, and the model.

Simulation, deployment and audit use the same session. They differ in where the homes lie, in the callbacks,
and in what else is known for the report.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from flwr.app import Context
from flwr.serverapp import Grid
from safetensors.numpy import save
from torch import nn

from fedrec._internal.files import write_atomically
from fedrec._internal.json_files import write_json
from fedrec.privacy.derived_parameters import Derived, derive
from fedrec.privacy.dp.vectors import load_parameter_vector, named_parameters
from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.training_report.report import REPORT_FILE, TrainingReport
from fedrec.protocol.training_report.round_line import RoundLine, RoundRecord
from fedrec.server.checkpoint import Checkpoint
from fedrec.server.coordinator import Coordinator
from fedrec.server.discriminant import solver_of
from fedrec.server.earlier_conduct import earlier_conduct
from fedrec.server.early_stopping import best_round, is_over
from fedrec.server.evaluation import EvaluationData, probabilities, score
from fedrec.server.optimizers.interface import Vector
from fedrec.server.optimizers.optimizer_registry import start_weights
from fedrec.server.planning import starting_parameters
from fedrec.server.receipts import ReceiptBook
from fedrec.server.report.epsilons import epsilon_after
from fedrec.server.report.report_page import render
from fedrec.server.request_signing import RequestSigner
from fedrec.server.round_records import any_opened
from fedrec.server.server_app import build_server_app
from fedrec.server.server_home import ServerHome
from fedrec.server.stored_figures import StoredFigures
from fedrec.server.stragglers import GracePeriod
from fedrec.server.training_runner import TrainingRunner
from fedrec.server.trainings import Training
from fedrec.server.weights import Weights
from fedrec.server.window.campaign import Campaign
from fedrec.vision.metrics import Metrics, evaluate
from fedrec.vision.models.centred_head import mean_coordinates
from fedrec.vision.stored_parameters import PARAMETERS

Names = Callable[[], Mapping[int, str]]


@dataclass(frozen=True)
class RoundOutcome:
    """What a callback is given after a round, opened or lost.

    Attributes:
        line: the round's record.
        plan: the training's plan.
        model: the server's own model, at the parameters that would be reported now; it changes with the next
            round.
        stop: ends the training after this round.
    """

    line: RoundLine
    plan: TrainingPlan
    model: nn.Module
    stop: Callable[[], None]


RoundCallback = Callable[[RoundOutcome], object]
"""Called after every round, and once more for the last one when a stopped training is continued."""


@dataclass(frozen=True)
class SessionSettings:
    """How long a session waits, and when it stops; see :class:`Coordinator` and :class:`Campaign`."""

    timeout: float = 3600.0
    grace: GracePeriod | None = None
    most_lost: int | None = None
    asks_again: bool = False
    before_round: Callable[[int], None] = lambda lost: None
    pause: Callable[[], None] = lambda: time.sleep(1.0)
    tell: Callable[[str], None] = lambda text: None


@dataclass
class Session:
    """Continue a training from its checkpoint, whatever ended the session before.

    Args:
        home: the server's keys, receipts and counter of requests.
        training: the folder of plan, checkpoint, rounds, model and report.
        model: the network, at the initial weights.
        evaluation: what the accuracy of each round is measured on, if anything.
        callbacks: called after every round, in this order.
        settings: how long it waits, and when it stops.
        weights: the global model; by default one with the plan's optimizer, at the initial weights of
            ``model``.

    Attributes:
        lines: the records of all finished rounds, from all sessions of the training.
        refusals: where a merchant refused, and why.
        stopped: whether a callback or early stopping ended the training before its last round.
    """

    home: ServerHome
    training: Training
    model: nn.Module
    evaluation: EvaluationData | None = None
    callbacks: Sequence[RoundCallback] = ()
    settings: SessionSettings = SessionSettings()
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
            self.plan.server_update,
            starting_parameters(self.model),
            rounds=self.plan.rounds,
            mean=mean_coordinates(self.model),
            solve=solver_of(self.model),
        )
        self.lines = self.training.rounds()
        self.refusals = self.training.refusals()
        self._checkpoint = Checkpoint(self.training.folder / "server", training_id=self.plan.training_id)

    @property
    def reserved(self) -> int:
        """The number of the last round that was begun, 0 before the first. So many may have been charged."""
        return self._checkpoint.last_reserved()

    @property
    def figures(self) -> StoredFigures | None:
        """What is stored of the round of site figures; None before it was begun."""
        return self._checkpoint.figures()

    def runner(self, grid: Grid, *, names: Names) -> TrainingRunner:
        """Return what runs the training: the rounds of a coordinator, or a campaign with an upload window.

        Args:
            grid: the Flower Grid.
            names: returns which merchant is at which node.

        Returns:
            The runner.
        """
        identity = self.home.identity()
        receipts = ReceiptBook(self.home.receipts, identity=identity)
        signer = RequestSigner(self.home.requests, identity=identity, names=names)
        make = (
            partial(
                Coordinator,
                most_lost=self.settings.most_lost,
                asks_again=self.settings.asks_again,
                before_round=self.settings.before_round,
                figures_model=lambda: self._final,
                earlier=earlier_conduct(self.home.trainings, before=self.training),
            )
            if self.plan.upload_window is None
            else partial(Campaign, training=self.training.folder, pause=self._pause, tell=self.settings.tell)
        )
        return make(
            grid=grid,
            plan=self.plan,
            weights=self._weights,
            checkpoint=self._checkpoint,
            receipts=receipts,
            signer=signer,
            on_round=self._after_round,
            timeout=self.settings.timeout,
            grace=self.settings.grace,
            refusals=self.refusals,
            roster_update=self.home.update,
        )

    def run(self, runner: TrainingRunner, context: Context) -> None:
        """Run every round that is left, as a Flower ServerApp; raise as the runner does.

        Args:
            runner: from :meth:`runner`.
            context: of the Flower run.
        """
        try:
            build_server_app(runner)(runner.grid, context)
        finally:
            self.training.keep_refusals(self.refusals)

    def _pause(self) -> None:
        """Wait between two looks of a campaign, which may be days before its round is over."""
        self.training.keep_refusals(self.refusals)
        self.settings.pause()

    def _after_round(self, record: RoundRecord) -> bool:
        """Record a round and call the callbacks; return whether one of them ends the training."""
        line = next((line for line in self.lines if line.round == record.round), None)
        if line is None:
            line = self._line(record)
            self._keep_best(line)
            self.training.add_round(line)
            self.lines.append(line)
        self.training.keep_refusals(self.refusals)
        stopping = self.plan.early_stopping
        if stopping is not None and record.round < self.plan.rounds:
            self.stopped |= is_over(stopping, self.lines)
        if self.callbacks:
            load_parameter_vector(self.model, self._weights.reported)
            outcome = RoundOutcome(line=line, plan=self.plan, model=self.model, stop=self._stop)
            for callback in self.callbacks:
                callback(outcome)
        return self.stopped

    def _stop(self) -> None:
        self.stopped = True

    def _line(self, record: RoundRecord) -> RoundLine:
        scores = None
        if self.evaluation is not None:
            scores = score(self.model, self._weights.reported, self.evaluation)
        steps = record.round * self.plan.local_steps
        epsilon = epsilon_after(self.plan, self.derived, steps=steps)
        return RoundLine.of(
            record,
            accuracy=None if scores is None else scores.accuracy,
            f1_macro=None if scores is None else scores.f1_macro,
            epsilon=epsilon,
        )

    def _keep_best(self, line: RoundLine) -> None:
        """Store the model if the round is the best so far; before its line, so that a crash loses neither."""
        stopping = self.plan.early_stopping
        if stopping is not None and best_round(stopping, [*self.lines, line]) is line:
            self._checkpoint.keep_best(self._weights.reported)

    @property
    def _final(self) -> Vector:
        """The parameters to release, float64, shape (d,): with early stopping those of the best round."""
        best = None if self.plan.early_stopping is None else self._checkpoint.best()
        return self._weights.reported if best is None else best

    @property
    def _learned(self) -> bool:
        return any_opened(self.lines)

    def store_model(self) -> None:
        """Write the model, if any sum was opened: otherwise it is the one that the training began with."""
        if self._learned:
            load_parameter_vector(self.model, self._final)
            write_atomically(self.training.folder / PARAMETERS, save(named_parameters(self.model)))

    def measure(self, data: EvaluationData | None) -> Metrics | None:
        """Evaluate the model on ``data``.

        Returns:
            The metrics, or None without data or without any opened sum.

        Raises:
            DataError: the model's scores are not finite.
        """
        if data is None or not self._learned:
            return None
        scores = probabilities(self.model, self._final, data)
        return evaluate(scores, data.labels, classes=self.plan.classes)

    def store_report(self, report: TrainingReport) -> None:
        """Write a report of the training as JSON and as an HTML page."""
        write_json(self.training.folder / REPORT_FILE, report.to_json())
        write_atomically(self.training.folder / "report.html", render(report).encode())
