"""Read finished runs: their reports, and the options that they were asked for with."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fedrec._internal.toml_files import read_toml
from fedrec.errors import ConfigError
from fedrec.privacy.audit import claims
from fedrec.protocol import modes
from fedrec.protocol.training_report.report import REPORT_FILE, read_report
from fedrec.simulations.run_folder import was_begun
from fedrec.simulations.sweep_folder import is_finished, is_sweep, runs_of_sweep

TRAINING: Final = "training"
"""What stands for the options of a deployed training: its folder."""
_WITHOUT_EFFECT: Final = frozenset({"seed", "workers", "device", "engine"})
"""Options of randomness and of how a run is carried out: runs that differ in nothing else are repeats."""


@dataclass(frozen=True)
class FinishedRun:
    """One run, as its folder describes it.

    Attributes:
        folder: the run directory.
        asked: the options that were set, without those that choose the run's randomness.
        settled: the same, and the values that data, model and cohort gave the others.
        model: name of the model.
        parameters: its number of parameters.
        accuracy: measured at the end; None if it wasn't.
        macro_f1: likewise.
        supports: records that it was measured on, by class; empty if it wasn't.
        epsilon: spent in the server's view; None without a guarantee.
        epsilon_broken: what would be left if the aggregation were broken.
        delta: delta of both; None without a guarantee.
        private: whether noise was added.
        rounds: rounds that were opened.
        bytes_up: bytes that a merchant sent, on average.
        bytes_down: bytes that a merchant received, on average.
        seconds: how long the run took.
        alarms: why nobody may treat it as private.
    """

    folder: Path
    asked: Mapping[str, Any]
    settled: Mapping[str, Any]
    model: str
    parameters: int
    accuracy: float | None
    macro_f1: float | None
    supports: Mapping[str, int]
    epsilon: float | None
    epsilon_broken: float | None
    delta: float | None
    private: bool
    rounds: int
    bytes_up: float
    bytes_down: float
    seconds: float
    alarms: tuple[str, ...]

    @property
    def records(self) -> int:
        """The number of records that it was measured on."""
        return sum(self.supports.values())


def read_runs(folders: Iterable[Path]) -> tuple[list[FinishedRun], list[str]]:
    """Read run directories, the folders of deployed trainings, and all finished runs of sweeps.

    Args:
        folders: run directories and folders of sweeps.

    Returns:
        The runs, each once, in the order given; and a sentence on each sweep that isn't finished.

    Raises:
        ConfigError: a folder holds no finished run, or its files are broken; one line names the file.
    """
    found: dict[Path, Path] = {}
    notes: list[str] = []
    for folder in folders:
        every = runs_of_sweep(folder) if is_sweep(folder) else [folder]
        runs = [run for run in every if is_finished(run)] if is_sweep(folder) else every
        found |= {run.resolve(): run for run in runs if run.resolve() not in found}
        if len(runs) < len(every):
            notes.append(
                f"{folder}: {len(every) - len(runs)} of {len(every)} runs are not finished and not counted."
            )
    if not found:
        raise ConfigError(f"there is no finished run to compare: {' '.join(notes)}")
    return [_read_run(run) for run in found.values()], notes


def _read_run(folder: Path) -> FinishedRun:
    path = folder / REPORT_FILE
    if not folder.is_dir():
        raise ConfigError(f"{folder}: there is no such folder; give folders of finished runs or sweeps")
    if not path.is_file():
        hint = ""
        if was_begun(folder):
            hint = f" ('fedrec simulate --resume {shlex.quote(str(folder))}' finishes one that was stopped)"
        raise ConfigError(f"{folder} holds no report.json: give folders of finished runs or sweeps{hint}")
    report = read_report(folder)
    asked, settled = _options(folder)
    privacy, metrics, merchants = report.privacy, report.metrics, report.run.merchants
    mode = modes.get(privacy.mode)
    return FinishedRun(
        folder=folder,
        asked=asked,
        settled=settled,
        model=report.run.model,
        parameters=report.run.parameters,
        accuracy=metrics.accuracy,
        macro_f1=metrics.f1_macro,
        supports={line.label: line.support for line in metrics.per_class},
        epsilon=privacy.epsilon,
        epsilon_broken=privacy.epsilon_aggregation_broken,
        delta=privacy.delta,
        private=mode.private,
        rounds=report.opened_rounds,
        bytes_up=report.cost.bytes_up / merchants,
        bytes_down=report.cost.bytes_down / merchants,
        seconds=report.run.seconds,
        alarms=claims.alarms(mode, report.secure_aggregation.trust, seeded=privacy.seeded),
    )


def _options(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the options that were set, and all of them; a deployed training is named by its folder."""
    path = folder / "config.toml"
    if not path.exists():
        alone = {TRAINING: str(folder)}
        return alone, alone
    tables = read_toml(path)
    asked, derived = tables.get("simulate"), tables.get("derived", {})
    if not isinstance(asked, dict) or not isinstance(derived, dict):
        raise ConfigError(f"{path} was not written by fedrec simulate")
    kept = {name: value for name, value in asked.items() if name not in _WITHOUT_EFFECT}
    return kept, derived | kept
