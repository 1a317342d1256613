"""``fedrec audit empirical``: attack the shipped pipeline, and hold what comes out against the claim."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from fedrec._internal import number_format
from fedrec._internal.files import write_atomically
from fedrec.errors import AuditError, ConfigError
from fedrec.privacy.accounting.code_hash import code_name
from fedrec.simulations.attacks.canaries import SCHEMA, AuditOptions, AuditResult, audit

_DEFAULT = AuditOptions()
_CONFIDENCE = _DEFAULT.confidence
FEWEST_CANARIES = 5000
"""With fewer, half the noise at epsilon 1 is missed more often than not: such an audit reassures nobody."""


def empirical(
    epsilon: Annotated[
        float, typer.Option(help="Epsilon that the audited training claims.")
    ] = _DEFAULT.epsilon,
    delta: Annotated[float, typer.Option(help="Its delta.")] = _DEFAULT.delta,
    canaries: Annotated[int, typer.Option(help="Records whose presence is guessed.")] = _DEFAULT.canaries,
    rounds: Annotated[int, typer.Option(help="Rounds of the training.")] = _DEFAULT.rounds,
    sample_rate: Annotated[float, typer.Option(help="Its Poisson sampling rate.")] = _DEFAULT.sample_rate,
    contributors: Annotated[
        int, typer.Option(help="Merchants, just as many as a sum needs.")
    ] = _DEFAULT.contributors,
    colluders: Annotated[int, typer.Option(help="Of them, on the server's side.")] = _DEFAULT.colluders,
    scheme: Annotated[str, typer.Option(help="kahe, ckks or none.")] = _DEFAULT.scheme,
    runs: Annotated[
        int, typer.Option(help="Audits, one after another; the confidence is that of all together.", min=1)
    ] = 1,
    out: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
) -> None:
    """Audit the code that is installed: canaries through its clip, noise, encryption and opening."""
    if canaries < FEWEST_CANARIES:
        raise ConfigError(f"--canaries {canaries} is too few to find a leak: give at least {FEWEST_CANARIES}")
    options = AuditOptions(
        epsilon=epsilon,
        delta=delta,
        canaries=canaries,
        rounds=rounds,
        sample_rate=sample_rate,
        contributors=contributors,
        colluders=colluders,
        scheme=scheme,
        # The largest of several bounds errs when any of them does (Bonferroni).
        confidence=1.0 - (1.0 - _CONFIDENCE) / runs,
    )
    results = []
    for number in range(1, runs + 1):
        result = audit(options)
        results.append(result)
        typer.echo(
            f"run {number}: epsilon at least {result.epsilon_lower_bound:.2f} with "
            f"{options.confidence:.4g} confidence; {number_format.epsilon(result.epsilon_claimed)} "
            "is claimed by the ledgers"
        )
    if runs > 1:
        bounds = [result.epsilon_lower_bound for result in results]
        typer.echo(
            f"all {runs} runs: epsilon at least {max(bounds):.2f} with {_CONFIDENCE:.0%} confidence; the "
            f"median of their bounds is {statistics.median(bounds):.2f}"
        )
    violations = [violation for result in results for violation in result.violations]
    if out is not None:
        write_atomically(out, json.dumps(_document(options, results), indent=2).encode())
    if violations:
        raise AuditError(f"the pipeline leaks more than it claims: {violations[0]}")
    possible = results[0].bound_possible
    typer.echo(
        "Nothing contradicts the claim. That is no proof: this attack sees a lower bound, "
        f"and could have seen {possible:.2f} at most."
    )
    if possible < results[0].epsilon_claimed:
        typer.echo("That is below the claim, so no bound could have failed: give more --canaries.", err=True)


def _document(options: AuditOptions, results: list[AuditResult]) -> dict[str, object]:
    bounds = sorted(result.epsilon_lower_bound for result in results)
    return {
        "schema": SCHEMA,
        "code": code_name(),
        "runs": len(results),
        "epsilon_claimed": max(result.epsilon_claimed for result in results),
        "epsilon_lower_bound": bounds[-1],
        "epsilon_lower_bound_median": statistics.median(bounds),
        "epsilon_lower_bound_possible": results[0].bound_possible,
        "epsilon_lower_bound_steinke": max(result.bound_steinke for result in results),
        "noise_multiplier": results[0].noise_multiplier,
        "violations": len([violation for result in results for violation in result.violations]),
        **asdict(options),
        "confidence": _CONFIDENCE,
        "confidence_of_each_run": options.confidence,
        "details": [asdict(result) for result in results],
    }
