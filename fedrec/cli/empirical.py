"""Implement ``fedrec audit empirical``: attack the installed pipeline and check the claim."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from fedrec._internal import number_format
from fedrec._internal.json_files import write_json
from fedrec.cli.generated_options import fields_as_options
from fedrec.errors import AuditError, ConfigError
from fedrec.privacy.accounting.code_hash import code_name
from fedrec.simulations.attacks.canaries import SCHEMA, AuditResult, audit
from fedrec.simulations.attacks.canary_training import AuditOptions

_DEFAULT = AuditOptions()
_CONFIDENCE = _DEFAULT.confidence
FEWEST_CANARIES = 5000
"""Fewest canaries. With fewer, an audit at epsilon 1 misses halved noise in more than half of its runs."""


@dataclass(frozen=True, kw_only=True)
class EmpiricalOptions:
    """Options of ``fedrec audit empirical``; each is described by its help."""

    epsilon: Annotated[float, typer.Option(help="Epsilon that the audited training claims.")] = (
        _DEFAULT.epsilon
    )
    delta: Annotated[float, typer.Option(help="Delta of the claim.")] = _DEFAULT.delta
    canaries: Annotated[int, typer.Option(help="Records whose presence the attack guesses.")] = (
        _DEFAULT.canaries
    )
    rounds: Annotated[int, typer.Option(help="Rounds of the training.")] = _DEFAULT.rounds
    sample_rate: Annotated[float, typer.Option(help="Poisson sampling rate of the training.")] = (
        _DEFAULT.sample_rate
    )
    contributors: Annotated[int, typer.Option(help="Merchants, all of which are in every sum.")] = (
        _DEFAULT.contributors
    )
    min_contributors: Annotated[
        int | None,
        typer.Option(help="Fewest merchants of a sum: noise beyond what all need is removed. Default: all."),
    ] = _DEFAULT.min_contributors
    colluders: Annotated[int, typer.Option(help="Merchants that collude with the server.")] = (
        _DEFAULT.colluders
    )
    scheme: Annotated[str, typer.Option(help="kahe, ckks or none.")] = _DEFAULT.scheme
    runs: Annotated[
        int, typer.Option(help="Number of audits; the confidence holds for all together.", min=1)
    ] = 1
    out: Annotated[Path | None, typer.Option("--json", help="Write the results to this file.")] = None


@fields_as_options(EmpiricalOptions)
def empirical(given: EmpiricalOptions) -> None:
    """Audit the installed code: send canaries through its clipping, noise, encryption and opening."""
    if given.canaries < FEWEST_CANARIES:
        raise ConfigError(
            f"--canaries {given.canaries} is too few to find a leak: give at least {FEWEST_CANARIES}"
        )
    options = AuditOptions(
        epsilon=given.epsilon,
        delta=given.delta,
        canaries=given.canaries,
        rounds=given.rounds,
        sample_rate=given.sample_rate,
        contributors=given.contributors,
        min_contributors=given.min_contributors,
        colluders=given.colluders,
        scheme=given.scheme,
        # The largest of several bounds is wrong if any one of them is (Bonferroni).
        confidence=1.0 - (1.0 - _CONFIDENCE) / given.runs,
    )
    results = []
    for number in range(1, given.runs + 1):
        result = audit(options)
        results.append(result)
        typer.echo(
            f"run {number}: epsilon at least {result.epsilon_lower_bound:.2f} with "
            f"{options.confidence:.4g} confidence; the ledgers claim "
            f"{number_format.epsilon(result.epsilon_claimed)}"
        )
    if given.runs > 1:
        bounds = [result.epsilon_lower_bound for result in results]
        typer.echo(
            f"all {given.runs} runs: epsilon at least {max(bounds):.2f} with {_CONFIDENCE:.0%} confidence; "
            f"the median of their bounds is {statistics.median(bounds):.2f}"
        )
    violations = [violation for result in results for violation in result.violations]
    if given.out is not None:
        write_json(given.out, _document(options, results))
    if violations:
        raise AuditError(f"the pipeline leaks more than it claims: {violations[0]}")
    possible = results[0].bound_possible
    typer.echo(
        "Nothing contradicts the claim. This is not a proof: the attack gives a lower bound on epsilon, "
        f"here {possible:.2f} at most."
    )
    if possible < results[0].epsilon_claimed:
        typer.echo("That is below the claim, so the audit could not fail: raise --canaries.", err=True)


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
        "min_contributors": options.min_contributors or options.contributors,
        "confidence": _CONFIDENCE,
        "confidence_of_each_run": options.confidence,
        "details": [asdict(result) for result in results],
    }
