"""Audit the shipped code empirically in one run: canaries with separate gradients, through real rounds.

One merchant holds the canaries. Each is a record whose gradient, before clipping, lies along an axis of its
own and is ten times too long. Everything else is the product as it is: the merchants' code samples, clips,
rounds, adds noise, charges its ledger and encrypts, and the coordinator opens the sum. Beyond what the server
sees, the auditor knows what the threat model grants: the colluders' own noise, which it subtracts.
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedrec.clients.merchant_home import MerchantHome
from fedrec.errors import AuditError
from fedrec.privacy.accounting.ledger_entries import charges
from fedrec.privacy.accounting.ledger_reader import read_entries
from fedrec.privacy.derived_parameters import derive
from fedrec.privacy.identity import verify
from fedrec.privacy.randomness import Randomness
from fedrec.protocol.plan import TrainingPlan
from fedrec.server.optimizers.interface import Vector
from fedrec.simulations.attacks.canary_training import AuditOptions, RandomnessFor, train_with_canaries
from fedrec.simulations.attacks.one_run_bounds import bound_gaussian, bound_steinke, lower_bound

SCHEMA = "fedrec.empirical/1"
_SAME_CLAIM = 1e-3
_DEVIATIONS = 6.0
"""Largest shared part of two rounds' noise, in standard deviations for independent rounds."""


@dataclass(frozen=True)
class AuditResult:
    """What an audit found.

    Attributes:
        options: what was audited.
        noise_multiplier: of the training.
        epsilon_claimed: the largest epsilon that the merchants' ledgers state for the run.
        bound_steinke: lower bound on epsilon, for any mechanism.
        bound_gaussian: lower bound on epsilon, for Gaussian mechanisms; None with sampling, where the
            trade-off functions aren't Gaussian.
        bound_possible: the bound that only right guesses would have given; no claim above it can be refuted.
        shared_noise: the largest part of the noise that any two rounds have in common, about 0 if none; None
            for a single round.
        violations: what contradicts the claim, a line each.
    """

    options: AuditOptions
    noise_multiplier: float
    epsilon_claimed: float
    bound_steinke: float
    bound_gaussian: float | None
    bound_possible: float
    shared_noise: float | None
    violations: tuple[str, ...]

    @property
    def epsilon_lower_bound(self) -> float:
        """The larger of the two bounds."""
        return max(self.bound_steinke, self.bound_gaussian or 0.0)


def audit(
    options: AuditOptions,
    *,
    randomness_for: RandomnessFor = lambda name, plan, round_number: Randomness.from_os(),
) -> AuditResult:
    """Run the audit.

    Args:
        options: what is audited.
        randomness_for: returns the honest merchants' randomness; a daemon's by default. The coins that
            include canaries are always drawn from the operating system.

    Returns:
        The bounds, and what contradicts the claim.

    Raises:
        ConfigError: the options don't make a training.
        AuditError: a round was not opened, so that nothing can be concluded.
    """
    coins = Randomness.from_os().uniform(options.canaries) < 0.5
    with tempfile.TemporaryDirectory(prefix="fedrec-audit-") as scratch:
        trained = train_with_canaries(options, coins, Path(scratch), randomness_for=randomness_for)
        claims = _claims(trained.plan, Path(scratch))
    derived = derive(trained.plan)
    noise = derived.noise
    unit = noise.clip / noise.scale
    remains = [
        (values - colluded) * unit for values, colluded in zip(trained.opened, trained.colluded, strict=True)
    ]
    # A canary with label 0 moves its first coordinate down and its second up, by C / sqrt 2 each: their
    # difference shows the canary, and their sum is noise alone.
    halves = [(total[: options.canaries], total[options.canaries :]) for total in remains]
    views = [(up - down) / math.sqrt(2.0) for down, up in halves]
    shared = _shared([up + down for down, up in halves])
    scores = np.sum(views, axis=0)
    known = coins.astype(np.float64)
    error = 1.0 - options.confidence
    steinke = lower_bound(scores, coins, delta=options.delta, error=error, bound=bound_steinke)
    gaussian = None
    possible = lower_bound(known, coins, delta=options.delta, error=error, bound=bound_steinke)
    if options.sample_rate == 1.0:
        gaussian = lower_bound(scores, coins, delta=options.delta, error=error, bound=bound_gaussian)
        possible = lower_bound(known, coins, delta=options.delta, error=error, bound=bound_gaussian)
    claimed = max(claims)
    planned = derived.spend.epsilon()
    violations = []
    if any(not math.isclose(claim, planned, rel_tol=_SAME_CLAIM) for claim in claims):
        violations.append(
            f"the ledgers claim an epsilon of {min(claims):.4g} to {claimed:.4g}, the plan's is {planned:.4g}"
        )
    # Both bounds grow with the same number of right guesses, so the larger fails no more often than either.
    best = max(steinke, gaussian or 0.0)
    if best > claimed:
        violations.append(
            f"epsilon is at least {best:.2f} with {options.confidence:.0%} confidence, "
            f"{claimed:.2f} was claimed"
        )
    if shared is not None and shared > _DEVIATIONS / math.sqrt(options.canaries):
        violations.append(
            f"two rounds share {shared:.0%} of their noise: the difference of their sums has less "
            "noise than it must"
        )
    return AuditResult(
        options=options,
        noise_multiplier=noise.noise_multiplier,
        epsilon_claimed=claimed,
        bound_steinke=steinke,
        bound_gaussian=gaussian,
        bound_possible=possible,
        shared_noise=shared,
        violations=tuple(violations),
    )


def _claims(plan: TrainingPlan, folder: Path) -> list[float]:
    """Return the epsilon that each ledger's last charge states for its training; infinite without one."""
    claims = []
    for peer in plan.roster:
        outcome, entries = read_entries(
            MerchantHome(folder / peer.name).ledger, public=bytes.fromhex(peer.signing_key), verify=verify
        )
        charged = charges(entries)
        if not outcome.ok or len(charged) != plan.rounds:
            raise AuditError(f"the ledger of {peer.name} doesn't hold the audited training: {outcome.reason}")
        claimed = charged[-1].epsilons.own_epsilon
        claims.append(math.inf if claimed is None else claimed)
    return claims


def _shared(noises: list[Vector]) -> float | None:
    """Return the largest part of the noise that any two rounds have in common; shape (m,) each.

    That part is 1 - Var(a - b) / (Var(a) + Var(b)). It is 1 / h if one of h equal shares is the same in both
    rounds, and 0 with a standard deviation of 1 / sqrt(m) if all are independent, whatever the scale of the
    noise.

    Returns:
        The part, or None for fewer than two rounds.
    """
    if len(noises) < 2:
        return None
    covariance = np.cov(np.stack(noises))
    variances = np.diag(covariance)
    parts = 2.0 * covariance / (variances[:, None] + variances[None, :])
    return float(np.max(parts[np.triu_indices(len(noises), k=1)]))
