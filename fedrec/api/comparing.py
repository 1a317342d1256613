"""``fedrec.compare``: rows of several finished runs, with means, intervals and baselines."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from fedrec.api.results import Result
from fedrec.simulations.comparison.finished_runs import read_runs
from fedrec.simulations.comparison.rows import Comparison
from fedrec.simulations.comparison.rows import compare as compare_runs


def compare(runs: Iterable[Result | str | Path]) -> Comparison:
    """Compare finished runs: ``fedrec.compare([fedrec.simulate(epsilon=e) for e in (1, 2, 4)]).rows``.

    Args:
        runs: results, run directories, and folders of sweeps. Runs that differ in nothing but their
            randomness are one row.

    Returns:
        Rows with means and intervals, and the baselines.

    Raises:
        ConfigError: a folder holds no finished run, or its files are broken; the message is one line.
    """
    folders = [run.folder if isinstance(run, Result) else Path(run) for run in runs]
    return compare_runs(*read_runs(folders))
