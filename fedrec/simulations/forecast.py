"""Forecast a run before its first round: time from a measured step, bytes and epsilon from the plan."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from fedrec._internal import number_format
from fedrec._internal.text import counted
from fedrec.clients.contribution import compute_contribution
from fedrec.clients.records import Records
from fedrec.observability.progress import Tell, message
from fedrec.privacy.aggregation.scheme import CommitteeScheme, HolderScheme
from fedrec.privacy.derived_parameters import Derived, derive
from fedrec.privacy.randomness import Randomness
from fedrec.protocol.plan import TrainingPlan
from fedrec.server.planning import Task, starting_parameters
from fedrec.server.report.epsilons import epsilon_after
from fedrec.server.report.noise_outlook import noise_outlook
from fedrec.simulations.run_setup import SimulationRun, worker_count
from fedrec.vision.model_choice import BEST, chosen_model
from fedrec.vision.model_registry import takes_features
from fedrec.vision.models.centred_head import mean_coordinates

_MEASURED_PICTURES: Final = 32
_MEASURED_WHERE_FAST: Final = 1024
"""Records of a measured step: several passes, since one takes as long with fewer records. Passes of vectors,
and those on a GPU, hold more."""
_SECONDS_BESIDE_THE_STEP: Final = 0.03
"""What a merchant's ledger, store, signatures and messages take in a round, beside the step itself."""
_KEY_TEXT_BYTES: Final = 2700
"""A committee member's sealing key and its signature, as text in the message that opens a round."""
_COMMITMENT_TEXT_BYTES: Final = 1000
"""A merchant's signed commitment, as text in the message to each committee member."""
_DECIDES_TIME: Final = {
    "model", "dimension", "image_size", "views", "mode", "clipping", "local_steps", "scheme",
}  # fmt: skip


@dataclass(frozen=True)
class Forecast:
    """What the rest of a run is expected to take.

    Attributes:
        rounds: rounds that are left.
        seconds: how long they take, without the reading of data before and the report after.
        bytes_up: bytes that a merchant sends in them, on average.
        bytes_down: bytes that a merchant receives in them, on average.
        epsilon: epsilon of the whole training in the server's view; None without a guarantee.
        outlook: what to expect where the noise leaves too little to learn from; None elsewhere.
        hint: another model to try, where none was named; None elsewhere.
    """

    rounds: int
    seconds: float
    bytes_up: float
    bytes_down: float
    epsilon: float | None
    outlook: str | None = None
    hint: str | None = None


@dataclass(frozen=True)
class RoundBytes:
    """The bytes of a round: those of every merchant, and what a member of the committee has beside them."""

    up: float
    down: float
    member_up: float
    member_down: float


def estimated_bytes(plan: TrainingPlan, derived: Derived) -> RoundBytes:
    """Estimate the bytes of a round from the sizes of its large parts.

    Args:
        plan: the plan.
        derived: the parameters derived from it.

    Returns:
        The bytes.
    """
    texts = len(plan.committee) * _KEY_TEXT_BYTES * isinstance(derived.scheme, CommitteeScheme)
    return RoundBytes(
        up=derived.upload_bytes,
        down=derived.train_bytes + texts,
        member_up=derived.scheme.answer_bytes,
        member_down=derived.unmask_bytes + plan.cohort * _COMMITMENT_TEXT_BYTES,
    )


class Forecaster:
    """Forecasts runs; a step is measured once for all runs in which it is the same."""

    def __init__(self) -> None:
        self._steps: dict[str, tuple[float, float]] = {}

    def forecast(self, run: SimulationRun) -> Forecast:
        """Forecast the rounds of a run that are left."""
        plan, derived = run.plan, derive(run.plan)
        records = plan.sample_rate * plan.records_total / plan.cohort
        # Budgets, rounds and rates, in which runs of a sweep differ, hardly change the time of a record.
        same = f"{plan.model_dump_json(include=_DECIDES_TIME)} {len(plan.committee)} {run.device}"
        if same not in self._steps:
            self._steps[same] = measured_step(plan, run.task, derived, device=run.device)
        fixed, each = self._steps[same]
        at_once = min(worker_count(run.config, merchants=plan.cohort), os.cpu_count() or 1)
        rounds = plan.rounds - len(run.training.rounds())
        # The round of site figures brings the model to everybody once more; what it sends back is short.
        passes = rounds + plan.last_round - plan.rounds
        seconds = math.ceil(plan.cohort / at_once) * (
            fixed + each * records * plan.local_steps + _SECONDS_BESIDE_THE_STEP
        )
        moved = estimated_bytes(plan, derived)
        share = len(plan.committee) / plan.cohort
        epsilon = epsilon_after(plan, derived, steps=plan.rounds * plan.local_steps, figures=True)
        return Forecast(
            rounds=rounds,
            seconds=passes * seconds,
            bytes_up=rounds * (moved.up + share * moved.member_up),
            bytes_down=passes * (moved.down + share * moved.member_down),
            epsilon=epsilon,
            outlook=noise_outlook(plan, epsilon=epsilon),
            hint=_other_model(run),
        )


def announce(run: SimulationRun, *, tell: Tell) -> SimulationRun:
    """Forecast a run that is ready, and tell of it.

    Args:
        run: the run.
        tell: called with one line.

    Returns:
        The run.
    """
    tell_of([Forecaster().forecast(run)], tell=tell)
    return run


def tell_of(forecasts: Iterable[Forecast], *, tell: Tell) -> None:
    """Tell of the forecast of a run, or of all runs of a sweep, and of what to change about them.

    Args:
        forecasts: the forecasts.
        tell: called with a line, a further one for each budget that leaves too little, and one for a hint.
    """
    every = list(forecasts)
    tell(message(in_words(every)))
    # Repeats of a run differ in their declared sizes alone.
    poor = {number_format.epsilon(one.epsilon): one.outlook for one in every if one.outlook is not None}
    for outlook in poor.values():
        tell(message(f"warning: {outlook}"))
    for hint in dict.fromkeys(one.hint for one in every if one.hint is not None):
        tell(message(f"hint: {hint}"))


def _other_model(run: SimulationRun) -> str | None:
    """Return what to try where photos were given and no model was named; None elsewhere."""
    config, model = run.config, run.plan.model
    named = "model" in config.model_fields_set or model != config.model
    if named or config.data is None or takes_features(model):
        return None
    best = chosen_model(BEST, run.source.splits.train)
    return (
        f"no model was named, so that {model} learns from these photos alone; --model {BEST} ({best}) builds "
        "on public networks, and needs far fewer photos"
    )


def in_words(forecasts: Iterable[Forecast]) -> str:
    """Describe the forecast of a run, or of all runs of a sweep together, in one line."""
    every = list(forecasts)
    runs = f"{counted(len(every), 'run')}, " if len(every) > 1 else ""
    rounds = counted(sum(one.rounds for one in every), "round")
    seconds = number_format.duration(sum(one.seconds for one in every))
    known = sorted(one.epsilon for one in every if one.epsilon is not None)
    epsilons = dict.fromkeys(number_format.epsilon(value) for value in (*known[:1], *known[-1:]))
    budget = f"epsilon {' to '.join(epsilons)}" if known else "no privacy"
    up, down = (
        number_format.size(sum(values))
        for values in ([one.bytes_up for one in every], [one.bytes_down for one in every])
    )
    return (
        f"forecast: {runs}{rounds} in about {seconds}, by a measured step; "
        f"each merchant sends {up} and receives {down}; {budget}"
    )


def measured_step(
    plan: TrainingPlan, task: Task, derived: Derived, *, device: torch.device
) -> tuple[float, float]:
    """Measure a merchant's step on one thread, as workers take it, on made-up records.

    Nothing of it is sent or kept.

    Args:
        plan: the plan.
        task: what is learnt.
        derived: the parameters derived from the plan.
        device: where the step is taken.

    Returns:
        The seconds of noise and encryption, and those of each record that a step takes.
    """
    scheme, rng = derived.scheme, Randomness.from_os()
    model = task.model().to(device)
    parameters = starting_parameters(model).astype(np.float32)
    if (mean := mean_coordinates(model)) is not None:
        # As after the first round, which releases the mean and takes no gradient.
        parameters[mean] = 1.0
    record = task.spec.record_shape(plan.channels, plan.image_size)
    fast = len(record) == 1 or device.type != "cpu"
    measured = _MEASURED_WHERE_FAST if fast else _MEASURED_PICTURES
    count = math.ceil(measured / plan.sample_rate)
    records = Records(
        inputs=torch.linspace(0, 1, math.prod(record), device=device).reshape(record).expand(
            count, plan.views, *record
        ),
        labels=torch.zeros(count, dtype=torch.int64, device=device),
    )  # fmt: skip
    key = scheme.make_keys().public if isinstance(scheme, HolderScheme) else None

    def contribute(chosen: Records, name: str) -> NDArray[np.int64]:
        return compute_contribution(
            model, parameters, chosen, plan=plan, noise=derived.noise, rng=rng.child("forecast", name)
        )

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        # What is found out once a process, such as whether kernels treat all places of a pass alike.
        contribute(records, "warm")
        begun = time.perf_counter()
        contribute(records, "records")
        taken = time.perf_counter()
        values = contribute(Records.none(device), "none")
        noised = time.perf_counter()
        encrypted = scheme.encrypt(
            values, training_id=plan.training_id, round_number=1, rng=rng.child("encrypt"), public_key=key
        )
        if isinstance(scheme, CommitteeScheme):
            scheme.deal(
                encrypted.key,
                members=len(plan.committee),
                threshold=plan.threshold,
                rng=rng.child("shares"),
            )
        gradients = max(0.0, (taken - begun) - (noised - taken))
        return time.perf_counter() - taken, gradients / (measured * plan.local_steps)
    finally:
        torch.set_num_threads(threads)
