"""What follows from a plan: grid, noise share and encryption, computed by every party for itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedrec.privacy.accounting.spend import PrivacySpend
from fedrec.privacy.aggregation.registry import check_trust, choose_parameters, create
from fedrec.privacy.aggregation.scheme import CommitteeScheme, HolderScheme, Scheme
from fedrec.privacy.aggregation.wire import ciphertext_bytes
from fedrec.privacy.dp.calibration import NoisePlan, NoiseRequest, plan_noise
from fedrec.privacy.identity import SEAL_OVERHEAD
from fedrec.protocol.plan import TrainingPlan, Unit

ADJACENCY = "add-or-remove"
DUPLICATE_POLICY: Mapping[Unit, str] = {
    "record": "exact duplicates (decoded pixels and label) dropped",
    "product": "products with the same photos and label dropped; a photo may stand in several products",
}


@dataclass(frozen=True)
class Derived:
    """The noise plan, spend and scheme of a training, and the most bytes that messages' blobs may have.

    ``spend`` is what all its steps spend as it is charged and reported: where the scheme lets single updates
    be read, the server's view is that of one share.

    ``upload_bytes`` is a whole upload, ``train_bytes`` what a round is opened with, ``unmask_bytes`` what a
    committee member or the holder of a key is sent for the whole cohort.
    """

    noise: NoisePlan
    spend: PrivacySpend
    scheme: Scheme
    upload_bytes: int
    train_bytes: int
    unmask_bytes: int

    @property
    def unit(self) -> float:
        """The value of one grid step, in units of the gradient."""
        return self.noise.clip / self.noise.scale


def derive(plan: TrainingPlan) -> Derived:
    """Derive noise plan and scheme from a plan.

    Raises ``ConfigError`` when the plan's numbers don't go together, or it states of its scheme what the one
    installed here doesn't say, ``AggregationError`` when no encryption parameters fit them.
    """
    check_trust(plan)
    noise = plan_noise(
        NoiseRequest(
            mode=plan.mode,
            epsilon=None,
            noise_multiplier=plan.noise_multiplier,
            delta=plan.delta,
            sample_rate=plan.sample_rate,
            steps=plan.rounds * plan.local_steps,
            dimension=plan.dimension,
            clip=plan.clip,
            cohort=plan.cohort,
            min_contributors=plan.min_contributors,
            colluders=plan.colluders,
            records_per_merchant=plan.records_largest,
            local_steps=plan.local_steps,
        )
    )
    parameters = choose_parameters(
        plan.scheme, dimension=plan.dimension, cohort=plan.cohort, max_abs_sum=noise.max_abs_sum
    )
    scheme = create(plan.scheme, parameters)
    ciphertext, box, public_key, part = ciphertext_bytes(parameters), 0, 0, 0
    if isinstance(scheme, CommitteeScheme):
        box = part = scheme.parcel_bytes + SEAL_OVERHEAD
    elif isinstance(scheme, HolderScheme):
        public_key, part = scheme.public_key_bytes, ciphertext
    return Derived(
        noise=noise,
        spend=noise.spend if plan.trust.epsilon_of == "sum" else noise.spend.of_one_share(),
        scheme=scheme,
        upload_bytes=ciphertext + len(plan.committee) * box,
        train_bytes=4 * plan.dimension + public_key,
        unmask_bytes=plan.cohort * part,
    )
