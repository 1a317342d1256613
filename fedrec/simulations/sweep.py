"""Carry out a sweep: prepare every run, then carry out one after another, and compare them.

Photos and model inputs are read once for all runs that take the same. Each run has its own run directory.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fedrec._internal.file_locks import HeldLock, LockedElsewhereError, take_lock
from fedrec._internal.text import counted
from fedrec.errors import ConfigError, FedrecError, InterruptedRunError
from fedrec.observability.progress import Stage, Tell
from fedrec.simulations.comparison.finished_runs import read_runs
from fedrec.simulations.comparison.output import write_comparison
from fedrec.simulations.comparison.rows import Comparison, compare
from fedrec.simulations.data_sources import DataReader
from fedrec.simulations.forecast import Forecaster, tell_of
from fedrec.simulations.harness import Observers, carry_out
from fedrec.simulations.option_checks import check_options
from fedrec.simulations.run_folder import check_run_folder, make_run_folder, run_name
from fedrec.simulations.run_inputs import KeptInputs
from fedrec.simulations.run_setup import (
    Materials,
    SimulationRun,
    check_changed,
    prepare,
    read_options,
    reopen,
)
from fedrec.simulations.sweep_folder import is_finished, runs_of_sweep, write_sweep
from fedrec.simulations.sweep_points import Sweep, SweepRun
from fedrec.vision import model_registry
from fedrec.vision.model_choice import chosen_model

_LOCK_FILE = "lock"


@dataclass(frozen=True)
class SweepResult:
    """A sweep whose runs were all carried out.

    Attributes:
        folder: the folder of the sweep.
        comparison: the rows of the finished runs; None if no run was finished.
        failure: the error that the command ends with, if runs failed.
    """

    folder: Path
    comparison: Comparison | None
    failure: FedrecError | None


def run_sweep(sweep: Sweep, *, out: Path | None, tell: Tell) -> SweepResult:
    """Prepare all runs of a sweep, and carry them out.

    Args:
        sweep: the sweep.
        out: its folder; None for a new one in ``runs``.
        tell: called with the progress.

    Returns:
        The comparison of the runs.

    Raises:
        FedrecError: a run can't be prepared; nothing was begun, and the folder is as it was.
        InterruptedRunError: after Ctrl-C or SIGTERM.
    """
    for run in sweep.runs:
        with _naming(run, of=len(sweep.runs)):
            model = chosen_model(run.config.model, method=run.config.method)
            check_options(run.config, model_registry.get(model))
    check_run_folder(out)
    folder = make_run_folder(out, run_name("sweep"))
    materials = Materials(reader=DataReader())
    prepared: dict[Path, SimulationRun] = {}
    try:
        for number, run in enumerate(sweep.runs):
            tell(Stage("preparing runs", number, len(sweep.runs)))
            config = run.config.model_copy(update={"out": folder / run.name})
            with _naming(run, of=len(sweep.runs)):
                prepared[folder / run.name] = prepare(config, tell=lambda stage: None, materials=materials)
        tell(Stage("preparing runs", len(sweep.runs), len(sweep.runs)))
    except BaseException as error:
        for made in folder.iterdir():
            shutil.rmtree(made)
        if out is None:
            folder.rmdir()
        if isinstance(error, KeyboardInterrupt):
            raise InterruptedRunError("stopped while runs were prepared: none was begun") from None
        raise
    write_sweep(folder, swept=sweep.axes, repeats=sweep.repeats)
    forecaster = Forecaster()
    tell_of((forecaster.forecast(run) for run in prepared.values()), tell=tell)
    return _carry_out_all(folder, prepared.pop, tell=tell)


def resume_sweep(folder: Path, *, changed: Mapping[str, object], tell: Tell) -> SweepResult:
    """Carry out the runs of a sweep that are not finished: begun ones go on with their next round.

    Args:
        folder: the folder of the sweep.
        changed: new values of ``workers`` or ``device``.
        tell: called with the progress.

    Returns:
        The comparison of the runs.

    Raises:
        ConfigError: another process is at the sweep, or its files are broken.
        InterruptedRunError: after Ctrl-C or SIGTERM.
    """
    check_changed(changed)
    materials = Materials(reader=DataReader())

    def opened(run: Path) -> SimulationRun:
        return reopen(run, read_options(run, changed), tell=tell, materials=materials)

    return _carry_out_all(folder, opened, tell=tell)


@contextmanager
def _naming(run: SweepRun, *, of: int) -> Iterator[None]:
    """Add the run's name to an error within the block, where there are several runs."""
    try:
        yield
    except FedrecError as error:
        if of == 1 or isinstance(error, InterruptedRunError):
            raise
        raise type(error)(f"{str(error).rstrip('.')} (in the sweep's run {run.name})") from None


def _carry_out_all(folder: Path, opened: Callable[[Path], SimulationRun], *, tell: Tell) -> SweepResult:
    runs = runs_of_sweep(folder)
    failed: list[tuple[Path, FedrecError]] = []
    lock = _lock(folder)
    try:
        with KeptInputs() as inputs:
            for number, run in enumerate(runs, start=1):
                if is_finished(run):
                    continue
                said = f"run {number} of {len(runs)}: {run.relative_to(folder)}"
                tell(Stage("runs", number - 1, len(runs), note=said, plain=said))
                try:
                    carry_out(partial(opened, run), observers=Observers(tell), inputs=inputs)
                except (InterruptedRunError, KeyboardInterrupt):
                    raise InterruptedRunError(
                        f"stopped in run {number} of {len(runs)} "
                        f"('fedrec simulate --resume {shlex.quote(str(folder))}' goes on)"
                    ) from None
                except FedrecError as error:
                    failed.append((run, error))
        tell(Stage("runs", len(runs), len(runs)))
        return _result(folder, failed, runs=len(runs))
    finally:
        lock.close()


def _lock(folder: Path) -> HeldLock:
    try:
        return take_lock(folder / _LOCK_FILE)
    except LockedElsewhereError:
        raise ConfigError(f"{folder}: another process is at this sweep") from None


def _result(folder: Path, failed: list[tuple[Path, FedrecError]], *, runs: int) -> SweepResult:
    failure: FedrecError | None = None
    if failed:
        run, error = failed[0]
        failure = type(error)(
            f"{len(failed)} of {counted(runs, 'run')} failed, the first, {run.relative_to(folder)}: {error} "
            f"('fedrec simulate --resume {shlex.quote(str(folder))}' tries again)"
        )
    if len(failed) == runs:
        return SweepResult(folder, None, failure)
    comparison = compare(*read_runs([folder]))
    write_comparison(folder, comparison)
    return SweepResult(folder, comparison, failure)
