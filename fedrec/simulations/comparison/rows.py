"""Group runs that differ in nothing but their randomness, and compute each group's means and intervals."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Final

from fedrec._internal import number_format
from fedrec._internal.intervals import mean_interval, wilson_interval
from fedrec.simulations.comparison.finished_runs import TRAINING, FinishedRun

COMPARISON_SCHEMA: Final = "fedrec.comparison/1"


@dataclass(frozen=True)
class Mean:
    """A mean over runs, with its 95% interval by Student's t; None for a single run."""

    value: float
    interval: tuple[float, float] | None

    @classmethod
    def of(cls, values: Iterable[float | None], *, most: float = math.inf) -> Mean | None:
        """Compute the mean of those values that are known.

        Args:
            values: values from 0 to ``most``.
            most: the largest value that there can be.

        Returns:
            The mean; None if no value is known. Its interval is cut to what is possible.
        """
        known = [value for value in values if value is not None]
        if not known:
            return None
        ends = mean_interval(known)
        return cls(fmean(known), None if ends is None else (max(ends[0], 0.0), min(ends[1], most)))


@dataclass(frozen=True)
class Row:
    """What the runs of one setting came to.

    Attributes:
        label: the options that tell it from the other rows.
        options: the same by name.
        runs: number of runs.
        measured: number of runs that were measured.
        accuracy: accuracy at the end; None if no run was measured.
        accuracy_of_records: the 95% interval that the number of records measured on allows (Wilson).
        records: that number, the least of any run.
        macro_f1: macro F1 at the end.
        epsilon: the largest epsilon of any run, in the server's view; None without a guarantee.
        epsilon_broken: likewise, if the aggregation were broken.
        delta: the largest delta of any run; None without a guarantee.
        rounds: rounds that were opened, on average.
        bytes_up: bytes that a merchant sent in a run, on average.
        bytes_down: bytes that a merchant received in a run, on average.
        seconds: how long a run took.
        private: whether every run added noise.
        alarms: why nobody may treat the runs as private.
        folders: the run directories.
    """

    label: str
    options: Mapping[str, Any]
    runs: int
    measured: int
    accuracy: Mean | None
    accuracy_of_records: tuple[float, float] | None
    records: int
    macro_f1: Mean | None
    epsilon: float | None
    epsilon_broken: float | None
    delta: float | None
    rounds: float
    bytes_up: float
    bytes_down: float
    seconds: Mean | None
    private: bool
    alarms: tuple[str, ...]
    folders: tuple[str, ...]


@dataclass(frozen=True)
class Majority:
    """What always answering with the largest class would reach on the records measured on."""

    label: str
    accuracy: float
    macro_f1: float


@dataclass(frozen=True)
class Comparison:
    """Rows, and what they are held against.

    Attributes:
        rows: one row per setting, in the order of the runs.
        varied: names of the options in which rows differ.
        majority: the majority baseline; None if runs were not all measured on the same records, or none was.
        without_noise: label of the most accurate row without noise, the baseline of what privacy costs.
        notes: sentences without which the rows would be misread.
    """

    rows: tuple[Row, ...]
    varied: tuple[str, ...]
    majority: Majority | None
    without_noise: str | None
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``comparison.json``."""
        return {"schema": COMPARISON_SCHEMA} | asdict(self)


def compare(runs: Sequence[FinishedRun], notes: Sequence[str] = ()) -> Comparison:
    """Compare runs.

    Runs that were asked for with the same options are one row, whatever their seeds.

    Args:
        runs: the runs, at least one.
        notes: what else a reader must know.

    Returns:
        The comparison.
    """
    groups: dict[str, list[FinishedRun]] = {}
    for run in runs:
        # The number of parameters tells versions of one model apart.
        same = json.dumps([run.asked, run.model, run.parameters], sort_keys=True, default=str)
        groups.setdefault(same, []).append(run)
    varied = _varied([group[0] for group in groups.values()])
    labels = _labels([group[0] for group in groups.values()], varied)
    rows = tuple(_row(group, label, varied) for group, label in zip(groups.values(), labels, strict=True))
    measured = [run for run in runs if run.accuracy is not None and run.records]
    one_set = len({tuple(sorted(run.supports.items())) for run in measured}) == 1
    noiseless = [row for row in rows if not row.private and row.accuracy is not None]
    best = max(noiseless, key=lambda row: row.accuracy.value if row.accuracy else 0.0, default=None)
    return Comparison(
        rows=rows,
        varied=varied,
        majority=_majority(measured[0].supports) if one_set else None,
        without_noise=None if best is None else best.label,
        notes=(*notes, *_notes(rows, one_set=one_set or not measured, baseline=best)),
    )


def _varied(groups: Sequence[FinishedRun]) -> tuple[str, ...]:
    """Return the names of the options that were set differently, in the order of their first appearance.

    An option that one run set to what others had without setting it is none of them.
    """
    names = dict.fromkeys(name for run in groups for name in run.asked)
    return tuple(
        name
        for name in names
        if _values(name, (run.asked for run in groups)) > 1
        and _values(name, (run.settled for run in groups)) > 1
    )


def _values(name: str, options: Iterable[Mapping[str, Any]]) -> int:
    """Return how many different values an option has."""
    return len({json.dumps(each.get(name), default=str) for each in options})


def _labels(groups: Sequence[FinishedRun], varied: Sequence[str]) -> list[str]:
    """Name each group by the options that are its own; also by a folder where these are not enough."""
    options = [_options(run, varied) for run in groups]
    short = {name: _short_paths(_path(name, each.get(name)) for each in options) for name in varied}
    plain = [
        ", ".join(f"{name}={short[name].get(str(value)) or _shown(value)}" for name, value in each.items())
        or run.model
        for run, each in zip(groups, options, strict=True)
    ]
    folders = _short_paths(str(run.folder) for run in groups)
    return [
        label if plain.count(label) == 1 else f"{label} ({folders[str(run.folder)]})"
        for label, run in zip(plain, groups, strict=True)
    ]


def _path(name: str, value: object) -> str | None:
    """Return an option's value if it is a path; None otherwise."""
    found = isinstance(value, str) and (name == TRAINING or Path(value).is_absolute())
    return str(value) if found else None


def _short_paths(paths: Iterable[str | None]) -> dict[str, str]:
    """Shorten paths to their last parts, so that a table stays narrow; those with equal ones stay whole."""
    distinct = dict.fromkeys(path for path in paths if path is not None)
    names = Counter(Path(path).name for path in distinct)
    return {path: name if names[name := Path(path).name] == 1 else path for path in distinct}


def _options(run: FinishedRun, varied: Sequence[str]) -> dict[str, Any]:
    return {name: run.settled[name] for name in varied if name in run.settled}


def _row(runs: Sequence[FinishedRun], label: str, varied: Sequence[str]) -> Row:
    measured = [run for run in runs if run.accuracy is not None]
    accuracy = Mean.of((run.accuracy for run in runs), most=1.0)
    records = min((run.records for run in measured), default=0)
    return Row(
        label=label,
        options=_options(runs[0], varied),
        runs=len(runs),
        measured=len(measured),
        accuracy=accuracy,
        accuracy_of_records=wilson_interval(accuracy.value, records) if accuracy and records else None,
        records=records,
        macro_f1=Mean.of((run.macro_f1 for run in runs), most=1.0),
        epsilon=_largest([run.epsilon for run in runs]),
        epsilon_broken=_largest([run.epsilon_broken for run in runs]),
        delta=_largest([run.delta for run in runs]),
        rounds=fmean(run.rounds for run in runs),
        bytes_up=fmean(run.bytes_up for run in runs),
        bytes_down=fmean(run.bytes_down for run in runs),
        seconds=Mean.of(run.seconds for run in runs),
        private=all(run.private for run in runs),
        alarms=tuple(dict.fromkeys(alarm for run in runs for alarm in run.alarms)),
        folders=tuple(str(run.folder) for run in runs),
    )


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _largest(values: Sequence[float | None]) -> float | None:
    """Return the largest privacy loss; None if one run has no guarantee, which no other makes up for."""
    known = [value for value in values if value is not None]
    return max(known) if len(known) == len(values) else None


def _majority(supports: Mapping[str, int]) -> Majority:
    label, most = max(supports.items(), key=lambda item: item[1])
    share = most / sum(supports.values())
    # Precision is the share, recall is 1; every other class has an F1 of 0.
    return Majority(label, share, 2 * share / (1 + share) / len(supports))


def _notes(rows: Sequence[Row], *, one_set: bool, baseline: Row | None) -> Iterable[str]:
    if not one_set:
        yield (
            "The runs were not all measured on the same records (the classes' numbers differ): their "
            "accuracies differ by that too, and there is no common majority baseline."
        )
    if baseline is None:
        yield (
            "No run without noise is among these, so that what privacy costs isn't shown: add one with "
            "--privacy off."
        )
    elif any(row.private for row in rows):
        shown = number_format.percent(baseline.accuracy.value if baseline.accuracy else None)
        yield f"Without noise ({baseline.label}): {shown}. It is NOT PRIVATE, and a baseline only."
    if any(row.runs > 1 for row in rows):
        yield (
            "Intervals over runs are 95% intervals of the mean by Student's t; they show what noise and "
            "sampling do. Intervals for records are Wilson's; they show what another set of as many test "
            "records may change, which repeats on the same records don't. Epsilons are the largest of a "
            "row's runs."
        )
    if sum(row.runs for row in rows if row.private) > 1:
        yield (
            "Each epsilon is that of one run alone. Whoever publishes several models trained on the same "
            "photos, or chooses settings by their results, spends more."
        )
    for row in rows:
        if row.measured < row.runs:
            yield f"{row.label}: {row.runs - row.measured} of {row.runs} runs ended without final figures."
