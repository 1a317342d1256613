"""The merchant's own rules: a plan can only be stricter, and a refusal names the rule."""

from __future__ import annotations

from dataclasses import dataclass

from fedrec.errors import RefusedError
from fedrec.protocol import Mode, TrainingPlan


@dataclass(frozen=True)
class MerchantPolicy:
    """What a merchant lets be done with its photos.

    ``lifetime_epsilon`` at ``lifetime_delta`` is a cap over all trainings, None for no cap; a merchant
    that needs a cap for its photos never allows the mode ``off``.
    """

    modes: frozenset[Mode] = frozenset({"distributed", "local"})
    schemes: frozenset[str] = frozenset({"kahe"})
    largest_sample_rate: float = 1.0
    least_colluders: int = 1
    lifetime_epsilon: float | None = None
    lifetime_delta: float | None = None

    def check(self, plan: TrainingPlan) -> None:
        """Raise ``RefusedError`` naming the rule that this plan breaks."""
        if plan.mode not in self.modes:
            raise RefusedError(f"policy 'modes': privacy mode '{plan.mode}' is not allowed")
        if plan.scheme not in self.schemes:
            raise RefusedError(f"policy 'schemes': secure aggregation '{plan.scheme}' is not allowed")
        if plan.sample_rate > self.largest_sample_rate:
            raise RefusedError(
                f"policy 'largest_sample_rate': {plan.sample_rate} > {self.largest_sample_rate}"
            )
        if plan.mode == "distributed" and plan.colluders < self.least_colluders:
            raise RefusedError(f"policy 'least_colluders': {plan.colluders} < {self.least_colluders}")
