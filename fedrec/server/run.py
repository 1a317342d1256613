"""One training of a deployment, over one Flower run: rounds, their record, and the report at the end."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from flwr.app import Context
from flwr.serverapp import Grid
from safetensors.numpy import save
from torch import nn

from fedrec._internal import number_format
from fedrec._internal.files import write_atomically
from fedrec.config import PATIENCE
from fedrec.privacy.derive import derive
from fedrec.privacy.dp.vectors import load_parameter_vector, named_parameters
from fedrec.protocol.plan import TrainingPlan
from fedrec.server.app import build_server_app
from fedrec.server.checkpoint import Checkpoint
from fedrec.server.coordinator import Coordinator
from fedrec.server.evaluation import EvaluationData, accuracy, probabilities
from fedrec.server.filing import initial_model, starting_parameters
from fedrec.server.home import ServerHome
from fedrec.server.optimizers.registry import start_weights
from fedrec.server.patience import Grace
from fedrec.server.receipts import ReceiptBook, rounds_with_receipt
from fedrec.server.report.build import epsilon_after
from fedrec.server.report.deployed import deployed_report
from fedrec.server.report.page import render
from fedrec.server.requests import RequestSigner
from fedrec.server.rounds import RoundLine, RoundRecord
from fedrec.server.trainings import Training
from fedrec.server.weights import Weights
from fedrec.vision.datasets import open_folder
from fedrec.vision.inputs import InputShape, model_inputs, to_inputs
from fedrec.vision.metrics import evaluate
from fedrec.vision.models import registry

_log = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE, _MOST_DOUBLINGS = 10.0, 600.0, 6


class _StoppedError(Exception):
    """The service was asked to stop, or the training cancelled; the checkpoint holds the last round."""


@dataclass
class TrainingRun:
    """Carries a training on from its checkpoint; ends early, between two rounds, once ``stop`` is set.

    ``names`` tells which merchant is at which node, ``follow`` is told of the coordinator before the first
    round, ``timeout`` is in seconds, per phase, and it stops once ``most_lost`` more rounds were lost than
    one in eleven. ``patience`` is the multiple of :class:`Grace`.
    """

    home: ServerHome
    training: Training
    stop: threading.Event
    names: Callable[[], Mapping[int, str]]
    follow: Callable[[Training, Coordinator], None]
    timeout: float
    most_lost: int
    patience: float = PATIENCE

    def __post_init__(self) -> None:
        self._plan = self.training.plan()
        self._derived = derive(self._plan)
        self._checkpoint = Checkpoint(self.training.folder / "server", training_id=self._plan.training_id)
        self._told = {line.record.round for line in self.training.rounds()}

    @property
    def reserved(self) -> int:
        """The number of the last round that was begun, 0 before the first."""
        return self._checkpoint.last_reserved()

    def __call__(self, grid: Grid, context: Context) -> None:
        """Run every round that is left, and write model and report; raises as :class:`Coordinator` does."""
        plan = self._plan
        spec = registry.get(plan.model)
        shape = InputShape(channels=plan.channels, size=plan.image_size)
        model = initial_model(spec, classes=len(plan.classes), shape=shape, seed=self.training.initial_seed())
        weights = start_weights(plan.server_update, starting_parameters(model))
        evaluation = _evaluation(self.training, plan, spec, shape)

        def on_round(record: RoundRecord) -> None:
            if record.round not in self._told:
                shown = None if evaluation is None else accuracy(model, weights.reported, evaluation)
                self._record(record, shown)
            self.training.keep_refusals(coordinator.refusals)

        coordinator = Coordinator(
            grid=grid,
            plan=plan,
            weights=weights,
            checkpoint=self._checkpoint,
            receipts=ReceiptBook(self.home.receipts, identity=self.home.identity()),
            signer=RequestSigner(self.home.requests, identity=self.home.identity(), names=self.names),
            on_round=on_round,
            timeout=self.timeout,
            grace=Grace(multiple=self.patience),
            most_lost=self.most_lost,
            before_round=self._before_round,
            refusals=self.training.refusals(),
        )
        self.follow(self.training, coordinator)
        try:
            build_server_app(lambda grid, context: coordinator)(grid, context)
        except _StoppedError:
            if self.training.is_cancelled():
                coordinator.close()
            return
        finally:
            self.training.keep_refusals(coordinator.refusals)
        self._begin()
        self._finish(model, weights, evaluation, coordinator)

    def _begin(self) -> None:
        """Say that it runs, and waits for nobody any more."""
        if self.training.status() != ("running", ""):
            self.training.set_status("running")

    def _before_round(self, lost: int) -> None:
        """Wait before merchants are charged for another round that others may refuse; ``_StoppedError``."""
        seconds = 0.0
        if lost:
            seconds = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(lost - 1, _MOST_DOUBLINGS))
            _log.warning(
                "training %s: too many refused; the next round waits %d s", self.training.number, seconds
            )
        until = time.monotonic() + seconds
        while not (self.stop.is_set() or self.training.is_cancelled()):
            if time.monotonic() >= until:
                self._begin()
                return
            self.stop.wait(0.5)
        raise _StoppedError

    def _record(self, record: RoundRecord, shown: float | None) -> None:
        plan = self._plan
        steps = record.round * plan.local_steps
        epsilon = epsilon_after(plan, self._derived, steps=steps)
        self.training.add_round(RoundLine(record=record, accuracy=shown, epsilon=epsilon))
        self._told.add(record.round)
        _log.info(
            "training %s, round %d of %d: %s, %d contributors%s%s",
            self.training.number,
            record.round,
            plan.rounds,
            "opened" if record.opened else f"lost ({record.reason})",
            record.contributors,
            "" if epsilon is None else f", epsilon {number_format.epsilon(epsilon)}",
            "" if shown is None else f", accuracy {shown:.1%}",
        )

    def _finish(
        self,
        model: nn.Module,
        weights: Weights,
        evaluation: EvaluationData | None,
        coordinator: Coordinator,
    ) -> None:
        plan, folder = self._plan, self.training.folder
        metrics = None
        if evaluation is not None:
            scores = probabilities(model, weights.reported, evaluation)
            metrics = evaluate(scores, evaluation.labels, classes=plan.classes)
        load_parameter_vector(model, weights.reported)
        write_atomically(folder / "model.safetensors", save(named_parameters(model)))
        report = deployed_report(
            number=self.training.number,
            plan=plan,
            derived=self._derived,
            started=self.training.started() or datetime.now(UTC),
            rounds_reserved=self._checkpoint.last_reserved(),
            lines=self.training.rounds(),
            metrics=metrics,
            sizes={entry.name: entry.size for entry in self.home.enrolled()},
            receipts=rounds_with_receipt(self.home.receipts, training_id=plan.training_id),
            seeded=coordinator.seeded,
            refusals=coordinator.refusals,
        )
        write_atomically(folder / "report.json", json.dumps(report, indent=2, allow_nan=False).encode())
        write_atomically(folder / "report.html", render(report).encode())


def _evaluation(
    training: Training, plan: TrainingPlan, spec: registry.ModelSpec, shape: InputShape
) -> EvaluationData | None:
    """Load the operator's own public photos, if it has any."""
    folder = training.eval_data()
    if folder is None:
        return None
    images = open_folder(folder, classes=plan.classes).train
    inputs = model_inputs(images, spec, shape, views=1, progress=lambda done, total: None)
    return EvaluationData(inputs=to_inputs(inputs, plan.model)[:, 0], labels=images.labels)
