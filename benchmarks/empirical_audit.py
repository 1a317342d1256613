"""The empirical audit over many seeds: the honest pipeline must pass, every broken one must be flagged.

The honest pipeline is tried at claimed epsilon 8 and 1, the broken ones at 1. A run takes some seconds;
twenty of each take about a quarter of an hour.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from statistics import median
from typing import Any

from broken_pipelines import (
    noise_scaled,
    records_repeated,
    reused,
    reused_by_one,
    without_clip,
)
from measure import finish, parse

from fedrec.simulations.attacks.canaries import AuditResult, audit
from fedrec.simulations.attacks.canary_training import AuditOptions

RUNS, QUICK_RUNS = 20, 1


def once(options: AuditOptions, broken: Callable[[], AbstractContextManager[None]]) -> AuditResult:
    """Audit a pipeline, broken or not."""
    with broken():
        return audit(options)


def main() -> None:
    """Run all cases and print how often each was flagged."""
    options = parse(__doc__ or "")
    claims: dict[str, tuple[float, Callable[[], AuditResult]]] = {}

    def case(name: str, epsilon: float, broken: Callable[[], AbstractContextManager[None]]) -> None:
        claims[name] = epsilon, lambda: once(AuditOptions(epsilon=epsilon), broken)

    case("honest, 8", 8.0, nullcontext)
    case("honest, 1", 1.0, nullcontext)
    case("half the noise, 1", 1.0, lambda: noise_scaled(0.5))
    case("a quarter, 1", 1.0, lambda: noise_scaled(0.25))
    case("records three times, 1", 1.0, lambda: records_repeated(3))
    case("no clip, 1", 1.0, without_clip)
    claims["chance reused, 1"] = 1.0, lambda: audit(AuditOptions(epsilon=1.0), randomness_for=reused)
    claims["chance reused by one of two, 1"] = (
        1.0,
        lambda: audit(AuditOptions(epsilon=1.0), randomness_for=reused_by_one),
    )
    rows: list[dict[str, Any]] = []
    for name, (epsilon, run) in claims.items():
        found = [run() for _ in range(QUICK_RUNS if options.quick else RUNS)]
        bounds = sorted(result.epsilon_lower_bound for result in found)
        rows.append(
            {
                "pipeline": name,
                "claimed": epsilon,
                "runs": len(found),
                "flagged": sum(bool(result.violations) for result in found),
                "least_bound": bounds[0],
                "median_bound": median(bounds),
                "largest_bound": bounds[-1],
                "largest_shared_noise": max(result.shared_noise or 0.0 for result in found),
                "least_steinke": min(result.bound_steinke for result in found),
            }
        )
        print(rows[-1], flush=True)
    finish("empirical", options, rows=rows, ratios={})


if __name__ == "__main__":
    main()
