"""Carry out ``fedrec simulate``: data, merchants, server and report of a whole run on this machine."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from flwr.app import Context, RecordDict

from fedrec._internal import number_format
from fedrec._internal.file_locks import HeldLock, LockedElsewhereError, take_lock
from fedrec._internal.text import counted
from fedrec.config import SimulationConfig
from fedrec.errors import ConfigError, FedrecError, InterruptedRunError, TrainingError
from fedrec.observability.progress import Stage, Tell
from fedrec.protocol.training_report.report import TrainingReport
from fedrec.protocol.training_report.round_line import RoundLine
from fedrec.recognition.bundle.places import drop_bundle
from fedrec.server.report.report_json import build_report
from fedrec.server.report.training_result import RunFacts, TrainingResult
from fedrec.server.round_records import any_opened
from fedrec.server.session import RoundCallback, RoundOutcome, Session, SessionSettings
from fedrec.simulations.engines import ENGINES
from fedrec.simulations.forecast import announce
from fedrec.simulations.injected_faults import Dropouts
from fedrec.simulations.interrupts import Interrupts
from fedrec.simulations.memory_meter import MemoryMeter
from fedrec.simulations.run_inputs import Inputs, KeptInputs
from fedrec.simulations.run_setup import (
    BY_NAME,
    Materials,
    SimulationRun,
    node_names,
    prepare,
    read_options,
    reopen,
    simulated_merchants,
    worker_count,
)
from fedrec.simulations.simulation_report import data_problems, data_section, merchants_cost, per_merchant
from fedrec.simulations.tensorboard_events import EventWriter
from fedrec.vision.metrics import Metrics

LOCK_FILE = "lock"


@dataclass(frozen=True)
class SimulationResult:
    """The report and the run directory that holds it."""

    report: TrainingReport
    folder: Path


@dataclass(frozen=True)
class Observers:
    """The callbacks of a run: for its stages, and for every round."""

    tell: Tell = lambda stage: None
    callbacks: Sequence[RoundCallback] = ()


@dataclass
class _Progress:
    """How far a run came, what ended it, and what else goes into its report."""

    inputs: Inputs | None = None
    metrics: Metrics | None = None
    interrupted: bool = False
    failure: FedrecError | OSError | None = None
    worker_deaths: int = 0
    earlier_seconds: float = 0.0


def simulate(
    config: SimulationConfig,
    *,
    tell: Tell = lambda stage: None,
    callbacks: Sequence[RoundCallback] = (),
    materials: Materials = BY_NAME,
) -> SimulationResult:
    """Run a simulation, and write its run directory.

    Once the run directory exists, it gets its report, and the model as far as it came, however the run ends;
    :func:`resume` can then continue it.

    Args:
        config: all options.
        tell: called with the progress.
        callbacks: called after every round; each may end the training.
        materials: the model or the data, if given as objects.

    Returns:
        The report, and the folder that holds it.

    Raises:
        FedrecError: one clear line on anything wrong with the options or the data.
        InterruptedRunError: after Ctrl-C or SIGTERM.
        TrainingError: no round was opened.
    """
    observers = Observers(tell, callbacks)
    with KeptInputs() as inputs:
        return carry_out(
            lambda: announce(prepare(config, tell=tell, materials=materials), tell=tell),
            observers=observers,
            inputs=inputs,
        )


def resume(
    folder: Path,
    *,
    changed: Mapping[str, object] | None = None,
    tell: Tell = lambda stage: None,
    callbacks: Sequence[RoundCallback] = (),
    materials: Materials = BY_NAME,
) -> SimulationResult:
    """Continue a run that was stopped, killed or failed, with its next round; no round is run twice.

    Args:
        folder: the run directory.
        changed: new values of ``workers`` or ``device``.
        tell: called with the progress.
        callbacks: called after every round to come, and once more for the last finished one.
        materials: the same objects that the run was begun with.

    Returns:
        The report, and the folder that holds it.

    Raises:
        ConfigError: there is no such run, it is finished, or another process runs it.
        FedrecError: as :func:`simulate` raises.
    """
    observers = Observers(tell, callbacks)
    with KeptInputs() as inputs:
        return carry_out(
            lambda: announce(
                reopen(folder, read_options(folder, changed or {}), tell=tell, materials=materials), tell=tell
            ),
            observers=observers,
            inputs=inputs,
        )


def carry_out(
    make: Callable[[], SimulationRun], *, observers: Observers, inputs: KeptInputs
) -> SimulationResult:
    """Run every round that is left of a run, and write its report.

    Args:
        make: prepares or reopens the run.
        observers: the callbacks.
        inputs: makes the run's model inputs, and may have them from an earlier run.

    Returns:
        The report, and the folder that holds it.

    Raises:
        FedrecError: as :func:`simulate` raises.
    """
    started = time.monotonic()
    with MemoryMeter() as memory, Interrupts() as interrupts, ExitStack() as opened:
        with interrupts.allowed():
            run = _prepared(make)
        opened.callback(_lock(run).close)
        run.training.set_status("running")
        session = run.session()
        progress = _Progress(earlier_seconds=sum(line.seconds for line in session.lines))
        with _ending_caught(progress), interrupts.allowed():
            progress.inputs = inputs.of(run, tell=observers.tell)
            _train(run, session, progress, progress.inputs, observers)
        if progress.interrupted:
            # Deleted here, where a second Ctrl-C changes nothing.
            inputs.drop()
        with _ending_caught(progress):
            drop_bundle(run.folder)
            session.store_model()
        with _ending_caught(progress), interrupts.allowed():
            progress.metrics = session.measure(None if progress.inputs is None else progress.inputs.metrics)
        report = _report(
            run,
            session,
            progress,
            seconds=time.monotonic() - started + progress.earlier_seconds,
            peak_memory_bytes=memory.peak_bytes,
        )
        try:
            session.store_report(report)
            _keep_status(run, progress)
        except OSError as error:
            # The error that ended the run tells more than the failure to write its report.
            raise progress.failure or error from None
    _raise_ending(run, session, progress)
    return SimulationResult(report=report, folder=run.folder)


def _prepared(make: Callable[[], SimulationRun]) -> SimulationRun:
    """Prepare a run; raise ``InterruptedRunError`` if a signal stops that."""
    try:
        return make()
    except KeyboardInterrupt:
        raise InterruptedRunError(
            "stopped while the run was prepared: no round was begun; run the command again"
        ) from None


def _lock(run: SimulationRun) -> HeldLock:
    """Lock the run for this process."""
    try:
        return take_lock(run.home.folder / LOCK_FILE)
    except LockedElsewhereError:
        raise ConfigError(f"{run.folder}: another process is at this run") from None


def _keep_status(run: SimulationRun, progress: _Progress) -> None:
    """Record whether the run is over; an interrupted run keeps the status running."""
    if progress.failure is not None:
        run.training.set_status("failed", str(progress.failure))
    elif not progress.interrupted:
        run.training.set_status("done")


def _raise_ending(run: SimulationRun, session: Session, progress: _Progress) -> None:
    """Raise the error that the run ended with, unless it reached its last round."""
    if progress.interrupted:
        done, again = len(session.lines), f"'fedrec simulate --resume {shlex.quote(str(run.folder))}'"
        if session.stopped or done == run.plan.rounds:
            raise InterruptedRunError(
                f"stopped after the last round, before the final figures; {run.folder} holds the model "
                f"({again} computes them, and trains no more)"
            )
        raise InterruptedRunError(
            f"stopped after {done} of {counted(run.plan.rounds, 'round')}; {run.folder} holds "
            f"{'the results' if done else 'the plan and the ledgers, no model yet'} ({again} goes on)"
        )
    if isinstance(progress.failure, FedrecError):
        said = str(progress.failure).rstrip(".")
        raise type(progress.failure)(f"{said}; {run.folder} holds what was finished")
    if progress.failure is not None:
        raise progress.failure
    if not any_opened(session.lines):
        first = session.lines[0].reason if session.lines else "each was interrupted"
        raise TrainingError(
            f"not one of {counted(run.plan.rounds, 'round')} was opened ({first}): "
            f"the model is untrained; {run.folder} holds the report"
        )


@contextmanager
def _ending_caught(progress: _Progress) -> Iterator[None]:
    """Catch Ctrl-C, or the first error that a user can fix, for the report."""
    try:
        yield
    except KeyboardInterrupt:
        progress.interrupted = True
    except (FedrecError, OSError) as error:
        progress.failure = progress.failure or error


def _report(
    run: SimulationRun, session: Session, progress: _Progress, *, seconds: float, peak_memory_bytes: int
) -> TrainingReport:
    config = run.config
    merchants, problems = per_merchant(run.plan, run.source, run.homes)
    problems += data_problems(run.source)
    if progress.failure is not None:
        problems.insert(0, f"FAILED: {progress.failure}")
    if progress.worker_deaths:
        problems.append(
            f"{counted(progress.worker_deaths, 'worker process', plural='worker processes')} died; "
            "the merchants that they were answering for "
            "dropped out of those rounds."
        )
    result = TrainingResult(
        plan=run.plan,
        derived=session.derived,
        lines=session.lines,
        metrics=progress.metrics,
        split=run.source.splits.metrics_split,
        refusals=session.refusals,
        stopped_early=session.stopped,
        figures=session.figures,
    )
    return build_report(
        result,
        facts=RunFacts(
            id=run.training.run_id(),
            engine=config.engine,
            seconds=seconds,
            peak_memory_bytes=peak_memory_bytes,
            interrupted=progress.interrupted,
            rounds_reserved=session.reserved,
            seeded=config.seed is not None,
            workers=worker_count(config, merchants=run.plan.cohort),
            dataset=run.source.name,
            partition=config.partition,
            seed=config.seed,
            seconds_train=merchants_cost(run.homes, "seconds_train"),
            seconds_encrypt=merchants_cost(run.homes, "seconds_encrypt"),
        ),
        data=data_section(run.source),
        per_merchant=merchants,
        problems=problems,
    )


def _train(
    run: SimulationRun, session: Session, progress: _Progress, inputs: Inputs, observers: Observers
) -> None:
    """Run every round that is left on the engine that the options name."""
    config, cohort, rounds = run.config, run.plan.cohort, run.plan.rounds
    done = len(session.lines)
    plain = f"training: {cohort} merchants, {counted(rounds, 'round')}" + (
        f", {done} of them done" if done else ""
    )
    observers.tell(Stage("training", done, rounds, plain=plain))
    with ExitStack() as opened:
        events = EventWriter(run.folder)
        opened.callback(events.close)

        def show(outcome: RoundOutcome) -> None:
            events.write(outcome.line)
            observers.tell(_round_stage(outcome.line, rounds))

        session.evaluation = inputs.validation
        session.callbacks = (show, *observers.callbacks)
        workers = worker_count(config, merchants=cohort)
        observers.tell(Stage("starting workers", 0, workers))
        # The final figures need it; here the process that forks workers is still importing what they need.
        import_module("sklearn.metrics")
        grid = ENGINES[config.engine].make_grid(
            simulated_merchants(run, arrays=inputs.arrays),
            merchants=len(run.party_names),
            workers=workers,
            dropouts=Dropouts(config.drop, config.seed or 0, cohort=cohort) if config.drop else None,
        )
        opened.callback(grid.close)
        observers.tell(Stage("starting workers", workers, workers))
        observers.tell(Stage("merchants joining", 0, cohort))

        def note_joined(lost: int) -> None:
            if not session.lines:
                observers.tell(Stage("merchants joining", cohort, cohort))
                observers.tell(Stage("training", 0, rounds))

        session.settings = SessionSettings(before_round=note_joined)

        def note_deaths() -> None:
            progress.worker_deaths = grid.worker_deaths

        opened.callback(note_deaths)
        names = node_names(run, grid)
        context = Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config={})
        session.run(session.runner(grid, names=lambda: names), context)


def _round_stage(line: RoundLine, total: int) -> Stage:
    shown = "-" if line.accuracy is None else f"{line.accuracy:.1%}"
    budget = "" if line.epsilon is None else f", epsilon {number_format.epsilon(line.epsilon)}"
    note = f"accuracy {shown}{budget}" + ("" if line.opened else f", lost: {line.reason}")
    plain = f"round {line.round}/{total}: {note}, {line.seconds:.1f} s"
    return Stage("training", line.round, total, note=note, plain=plain)
