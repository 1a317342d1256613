"""Run one training of a deployment over one Flower run, with its log and its report."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from flwr.app import Context
from flwr.serverapp import Grid

from fedrec._internal import number_format
from fedrec.config import PATIENCE
from fedrec.server.checkpoint import Checkpoint
from fedrec.server.evaluation import EvaluationData
from fedrec.server.planning import Task
from fedrec.server.receipts import rounds_with_receipt
from fedrec.server.report.deployment_report import deployed_report
from fedrec.server.report.training_result import TrainingResult
from fedrec.server.server_home import ServerHome
from fedrec.server.session import RoundOutcome, Session, SessionSettings
from fedrec.server.stragglers import GracePeriod
from fedrec.server.training_runner import TrainingRunner
from fedrec.server.trainings import Training
from fedrec.vision import model_registry
from fedrec.vision.datasets import open_folder
from fedrec.vision.listing.found_encoding import with_found_encoding
from fedrec.vision.model_inputs import model_inputs, to_inputs
from fedrec.vision.splits import EVALUATION_SPLIT

_log = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE, _MOST_DOUBLINGS = 10.0, 600.0, 6
_LOOK_SECONDS = 1.0


class _StoppedError(Exception):
    """The service was asked to stop, or the training was cancelled; the checkpoint holds the last round."""


@dataclass
class TrainingRun:
    """Continue a training from its checkpoint, up to its last round or until ``stop`` is set.

    A round that has begun is finished first, but for a campaign's, which is carried on from its files.

    Args:
        home: the server's folder.
        training: the training.
        stop: set to end it.
        names: returns which merchant is at which node.
        follow: called with the training and what runs it, before the first round.
        timeout: in seconds, per phase.
        most_lost: it stops once this many more rounds are lost than one in eleven.
        patience: the multiple of :class:`GracePeriod`.
        began: called when rounds are run, also again after the training waited for merchants.
    """

    home: ServerHome
    training: Training
    stop: threading.Event
    names: Callable[[], Mapping[int, str]]
    follow: Callable[[Training, TrainingRunner], None]
    timeout: float
    most_lost: int
    patience: float = PATIENCE
    began: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self._plan = self.training.plan()
        self._checkpoint = Checkpoint(self.training.folder / "server", training_id=self._plan.training_id)
        self._logged = 0

    @property
    def reserved(self) -> int:
        """The number of the last round that was begun, 0 before the first."""
        return self._checkpoint.last_reserved()

    def __call__(self, grid: Grid, context: Context) -> None:
        """Run every round that is left, and write model and report; raise as the session's runner does."""
        session = self._session()
        runner = session.runner(grid, names=self.names)
        self.follow(self.training, runner)
        try:
            session.run(runner, context)
        except _StoppedError:
            if self.training.is_cancelled():
                runner.close()
            return
        self._begin()
        session.store_model()
        self._report(session, seeded=runner.seeded)

    def _session(self) -> Session:
        plan = self._plan
        spec = model_registry.get_exact(plan.model, plan.model_code)
        task = Task.of_plan(plan, spec, seed=self.training.initial_seed(), start=self.training.start())
        model = task.starting_model()
        return Session(
            home=self.home,
            training=self.training,
            model=model,
            evaluation=_evaluation(self.training, task),
            callbacks=(self._log_round,),
            settings=SessionSettings(
                timeout=self.timeout,
                grace=GracePeriod(multiple=self.patience),
                most_lost=self.most_lost,
                asks_again=True,
                before_round=self._before_round,
                pause=self._pause,
                tell=self._tell,
            ),
        )

    def _begin(self) -> None:
        """Set the status to running, without a reason to wait."""
        if self.training.status() != ("running", ""):
            self.training.set_status("running")
            self.began()

    def _before_round(self, lost: int) -> None:
        """Wait after rounds lost to refusals, before merchants are charged again.

        Raises:
            _StoppedError: the service was asked to stop, or the training was cancelled.
        """
        seconds = 0.0
        if lost:
            seconds = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(lost - 1, _MOST_DOUBLINGS))
            told = f"too many refused; the next round waits {seconds:.0f} s"
            _log.warning("training %s: %s", self.training.number, told)
            self.training.set_status("running", told)
        until = time.monotonic() + seconds
        while not (self.stop.is_set() or self.training.is_cancelled()):
            if time.monotonic() >= until:
                self._begin()
                return
            self.stop.wait(0.5)
        raise _StoppedError

    def _pause(self) -> None:
        """Wait until a campaign looks again; raise ``_StoppedError`` as :meth:`_before_round` does."""
        self.stop.wait(_LOOK_SECONDS)
        if self.stop.is_set() or self.training.is_cancelled():
            raise _StoppedError

    def _tell(self, text: str) -> None:
        """Set the status to running, with a campaign's progress."""
        if self.training.status() != ("running", text):
            self.training.set_status("running", text)

    def _log_round(self, outcome: RoundOutcome) -> None:
        line = outcome.line
        # A run that begins anew tells the last round of the one before it once more.
        if line.round <= self._logged:
            return
        self._logged = line.round
        _log.info(
            "training %s, round %d of %d: %s, %d contributors%s%s",
            self.training.number,
            line.round,
            outcome.plan.rounds,
            "opened" if line.opened else f"lost ({line.reason})",
            line.contributors,
            "" if line.epsilon is None else f", epsilon {number_format.epsilon(line.epsilon)}",
            "" if line.accuracy is None else f", accuracy {line.accuracy:.1%}",
        )

    def _report(self, session: Session, *, seeded: bool) -> None:
        metrics = session.measure(session.evaluation)
        result = TrainingResult(
            plan=self._plan,
            derived=session.derived,
            lines=session.lines,
            metrics=metrics,
            split=EVALUATION_SPLIT if metrics is not None else None,
            refusals=session.refusals,
            stopped_early=session.stopped,
            figures=session.figures,
        )
        report = deployed_report(
            result,
            training=self.training,
            rounds_reserved=session.reserved,
            sizes={entry.name: entry.size for entry in self.home.enrolled() if entry.size is not None},
            receipts=rounds_with_receipt(self.home.receipts, training_id=self._plan.training_id),
            seeded=seeded,
        )
        session.store_report(report)


def _evaluation(training: Training, task: Task) -> EvaluationData | None:
    """Load the operator's own public photos, None if there are none."""
    folder = training.eval_data()
    if folder is None:
        return None
    images = open_folder(with_found_encoding(folder), classes=task.classes).train
    inputs = model_inputs(images, task.spec, task.shape, views=1, progress=lambda done, total: None)
    return EvaluationData(inputs=to_inputs(inputs, task.spec)[:, 0], labels=images.labels)
