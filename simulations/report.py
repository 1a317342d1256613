"""The report of a run: the dictionary of ``report.json``, schema ``fedrec.report/1``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedrec.clients.merchant import ADJACENCY, DUPLICATE_POLICY
from fedrec.config import SimulationConfig
from fedrec.privacy.accounting.accountants import Event, accountant_versions, epsilon_pld, epsilon_rdp
from fedrec.privacy.accounting.ledger import Entry, read_entries
from fedrec.privacy.aggregation import registry as schemes
from fedrec.privacy.derive import Derived, reported_views
from fedrec.privacy.identity import verify
from fedrec.protocol import TrainingPlan
from fedrec.server.coordinator import RoundRecord
from fedrec.simulations.merchants import COST_FILE, LEDGER_FILE
from fedrec.simulations.sources import Source
from fedrec.vision.metrics import Metrics

SCHEMA = "fedrec.report/1"


@dataclass(frozen=True)
class RoundLine:
    """One line of ``rounds``: what the server recorded, with accuracy and epsilon after the round."""

    record: RoundRecord
    accuracy: float | None
    epsilon: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return the values of ``rounds[]``."""
        values = asdict(self.record)
        return values | {"accuracy": self.accuracy, "epsilon": self.epsilon}


@dataclass(frozen=True)
class RunFacts:
    """What the harness measured of the run itself."""

    id: str
    seconds: float
    workers: int
    peak_memory_bytes: int
    interrupted: bool
    rounds_reserved: int


def finite(value: float) -> float | None:
    """Return a figure, or None where there is no guarantee."""
    return value if math.isfinite(value) else None


def epsilon_after(plan: TrainingPlan, derived: Derived, *, steps: int, broken: bool = False) -> float | None:
    """Return the PLD epsilon of ``steps`` noised steps in one of the two views; None without a guarantee."""
    if plan.mode == "off" or steps == 0:
        return None if plan.mode == "off" else 0.0
    both = reported_views(plan, derived.noise)
    multiplier = both.aggregation_broken if broken else both.server
    delta = plan.delta - derived.noise.beta * steps
    return finite(epsilon_pld([Event(plan.sample_rate, multiplier, steps)], delta=delta))


def _per_merchant(plan: TrainingPlan, source: Source, homes: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Read every ledger back from disk, as an auditor would, and state what it holds."""
    lines: list[dict[str, Any]] = []
    problems: list[str] = []
    for peer, share in zip(plan.roster, source.shares, strict=True):
        home = homes / peer.name
        outcome, entries = read_entries(
            home / LEDGER_FILE, public=bytes.fromhex(peer.signing_key), verify=verify
        )
        if not outcome.ok:
            problems.append(f"the ledger of {peer.name} does not verify: {outcome.reason}")
        mine = [entry for entry in entries if entry.charge.training_id == plan.training_id]
        lines.append(
            {
                "merchant": peer.name,
                "records": len(share.indices),
                "epsilon": _ledger_epsilon(mine, delta=plan.delta),
                "epsilon_lifetime": _ledger_epsilon(entries, delta=plan.delta),
                "rounds_charged": len({entry.charge.round_number for entry in mine}),
            }
        )
    return lines, problems


def _ledger_epsilon(entries: Sequence[Entry], *, delta: float) -> float | None:
    if not entries:
        return 0.0
    spent = sum(entry.charge.beta * entry.charge.steps for entry in entries)
    if any(entry.charge.guaranteed_noise_multiplier == 0 for entry in entries) or spent >= delta:
        return None
    return finite(epsilon_pld([entry.charge.event() for entry in entries], delta=delta - spent))


def _warnings(
    plan: TrainingPlan, derived: Derived, config: SimulationConfig, lines: Sequence[RoundLine]
) -> list[str]:
    warnings: list[str] = []
    if plan.mode == "off":
        warnings.append("NOT PRIVATE: privacy is off; updates carry no noise.")
    if plan.scheme == "none":
        warnings.append(
            "NOT ENCRYPTED: the server sees every merchant's own update; epsilon is that of one share."
        )
    if schemes.opener(plan.scheme) == "holder":
        warnings.append(
            f"ONE KEY: {derived.scheme.trust_limit} The holder is {plan.committee[0]}; epsilon is that of "
            "one share."
        )
    if config.seed is not None:
        warnings.append(
            "SEEDED: noise, sampling and keys come from the seed; whoever knows it can subtract the noise."
        )
    lost = [line.record for line in lines if not line.record.opened]
    if lost:
        warnings.append(
            f"{len(lost)} round(s) were not opened and stay charged; the first: {lost[0].reason}."
        )
    return warnings


def build_report(
    *,
    config: SimulationConfig,
    plan: TrainingPlan,
    derived: Derived,
    source: Source,
    facts: RunFacts,
    lines: Sequence[RoundLine],
    metrics: Metrics | None,
    homes: Path,
    refusals: Mapping[str, str],
) -> dict[str, Any]:
    """Return the report of a finished or interrupted run, ready for JSON."""
    merchants, problems = _per_merchant(plan, source, homes)
    # A round that was under way at an interruption is charged, and its uploads may have left.
    steps = max(len(lines), facts.rounds_reserved) * plan.local_steps
    both = reported_views(plan, derived.noise)
    private = plan.mode != "off" and steps > 0
    warnings = _warnings(plan, derived, config, lines) + problems
    if facts.interrupted:
        warnings.append(f"INTERRUPTED: stopped after {len(lines)} of {plan.rounds} rounds.")
    warnings += [f"{who}: {why}" for who, why in list(refusals.items())[:20]]
    records = [line.record for line in lines]
    costs = [json.loads(path.read_text()) for path in sorted(homes.glob(f"*/{COST_FILE}"))]
    upload = max((record.upload_bytes for record in records), default=0)
    accounting_delta = plan.delta - derived.noise.beta * steps
    return {
        "schema": SCHEMA,
        "refusals": dict(refusals),
        "warnings": warnings,
        "run": {
            "id": facts.id,
            "seconds": facts.seconds,
            "engine": config.engine,
            "workers": facts.workers,
            "merchants": plan.cohort,
            "rounds": plan.rounds,
            "dataset": source.name,
            "partition": config.partition,
            "model": plan.model,
            "parameters": plan.dimension,
            "seed": config.seed,
            "training_id": plan.training_id,
        },
        "data": {
            "records": sum(len(share.indices) for share in source.shares),
            "skipped": [asdict(skip) for skip in source.skipped],
            "duplicates_dropped": source.duplicates_dropped,
            "near_duplicates": source.near_duplicates,
            "evaluation_copies_dropped": source.splits.leaked_dropped,
        },
        "metrics": _metrics(metrics, split=source.splits.metrics_split),
        "privacy": {
            "mode": plan.mode,
            "unit": plan.unit,
            "adjacency": ADJACENCY,
            "duplicate_policy": DUPLICATE_POLICY[plan.unit],
            "epsilon": epsilon_after(plan, derived, steps=steps) if private else None,
            "epsilon_rdp": finite(
                epsilon_rdp([Event(plan.sample_rate, both.server, steps)], delta=accounting_delta)
            )
            if private
            else None,
            "epsilon_aggregation_broken": epsilon_after(plan, derived, steps=steps, broken=True)
            if private
            else None,
            "delta": plan.delta if private else None,
            "sample_rate": plan.sample_rate,
            "clip": plan.clip,
            "noise_multiplier": both.server if private else None,
            "steps": steps,
            "colluders": plan.colluders,
            "min_contributors": plan.min_contributors,
            "accountant": f"PLD ({accountant_versions()})",
            "seeded": config.seed is not None,
            "per_merchant": merchants,
        },
        "secure_aggregation": {
            "scheme": plan.scheme,
            "trust_limit": derived.scheme.trust_limit,
            "threshold": plan.threshold,
            "committee": len(plan.committee),
            "min_contributors": plan.min_contributors,
            "value_bits": derived.scheme.parameters.field_bits,
            "ring_degree": derived.scheme.parameters.ring_degree,
            "modulus_bits": derived.scheme.parameters.modulus_bits,
            "upload_bytes_per_parameter": upload / plan.dimension,
            "seconds_encrypt": sum(cost["seconds_encrypt"] for cost in costs),
            "seconds_unmask": sum(record.seconds_unmask for record in records),
        },
        "cost": {
            "bytes_up": sum(record.bytes_up for record in records),
            "bytes_down": sum(record.bytes_down for record in records),
            "peak_memory_bytes": facts.peak_memory_bytes,
            "seconds_train": sum(cost["seconds_train"] for cost in costs),
        },
        "rounds": [line.to_dict() for line in lines],
    }


def _metrics(metrics: Metrics | None, *, split: str) -> dict[str, Any]:
    if metrics is None:
        return {"split": split, "accuracy": None, "confusion": [], "per_class": []}
    values = asdict(metrics)
    values["confusion"] = np.asarray(metrics.confusion).tolist()
    return values | {"split": split}
