"""Grid, noise share and encryption parameters, computed from a plan by each party for itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from fedrec.errors import ConfigError
from fedrec.privacy.accounting.privacy_spend import PrivacySpend
from fedrec.privacy.aggregation.layer_seeds import opened_bytes, part_bytes
from fedrec.privacy.aggregation.scheme import CommitteeScheme, HolderScheme, Scheme
from fedrec.privacy.aggregation.scheme_registry import check_trust, choose_parameters, create
from fedrec.privacy.aggregation.wire import ciphertext_bytes
from fedrec.privacy.dp.calibration import NoisePlan, NoiseRequest, plan_noise
from fedrec.privacy.dp.figures_noise import figures_request
from fedrec.privacy.dp.losses import check_objective
from fedrec.privacy.identity import SEAL_OVERHEAD
from fedrec.protocol.plan import TrainingPlan, Unit

ADJACENCY: Final = "add-or-remove"
DUPLICATE_POLICY: Mapping[Unit, str] = {
    "record": "exact duplicates (decoded pixels and label) dropped",
    "product": "products with the same photos and label dropped; a photo may stand in several products",
}


@dataclass(frozen=True)
class Derived:
    """Parameters of a training, and the largest sizes of its messages' blobs.

    Attributes:
        noise: the noise plan.
        spend: privacy cost of all steps, as it is charged and reported; where the scheme lets single
            updates be read, the server's view is that of one share.
        scheme: the aggregation scheme with its parameters.
        upload_bytes: most bytes of a whole upload.
        train_bytes: most bytes of the message that opens a round.
        unmask_bytes: most bytes sent to a committee member, or to the holder of a key, for the whole cohort.
        answer_bytes: most bytes of the answer to that.
        figures: the parameters of the round of site figures, with a noise, a spend and a scheme of its own;
            None where the plan asks for none.
        figures_round: the number of that round, 0 without one.

    The sizes are the largest of all rounds, that of site figures included.
    """

    noise: NoisePlan
    spend: PrivacySpend
    scheme: Scheme
    upload_bytes: int
    train_bytes: int
    unmask_bytes: int
    answer_bytes: int
    figures: Derived | None = None
    figures_round: int = 0

    @property
    def unit(self) -> float:
        """The value of one grid step, in units of the gradient."""
        return self.noise.clip / self.noise.scale

    @property
    def whole_spend(self) -> PrivacySpend:
        """The privacy cost of all rounds, that of site figures included."""
        return self.spend if self.figures is None else self.spend.with_figures(self.figures.spend)

    def of_round(self, round_number: int) -> Derived:
        """Return the parameters of a round: the training's, or those of the round of site figures."""
        if self.figures is not None and round_number == self.figures_round:
            return self.figures
        return self


def noise_of(plan: TrainingPlan) -> NoisePlan:
    """Plan the noise of a plan's numbers; ``ConfigError`` if they contradict each other."""
    return plan_noise(
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
            layered=plan.trust.opened_by == "committee",
        )
    )


def derive(plan: TrainingPlan) -> Derived:
    """Compute the noise plan, the privacy cost and the scheme of a plan.

    Args:
        plan: the training's plan.

    Returns:
        The parameters.

    Raises:
        ConfigError: the plan's numbers contradict each other, or what it states of its scheme differs from
            what the scheme installed here says.
        AggregationError: no encryption parameters fit the plan.
    """
    check_trust(plan)
    check_objective(plan.objective)
    noise = noise_of(plan)
    if plan.noise_levels != noise.levels:
        raise ConfigError(
            f"the plan states noise levels {list(plan.noise_levels)}, but its numbers give "
            f"{list(noise.levels)}: the server must make a new plan"
        )
    if plan.site_figures is None:
        return _derived(plan, noise, dimension=plan.dimension, max_abs_sum=noise.max_abs_sum)
    counted = plan_noise(figures_request(plan, plan.site_figures))
    if plan.trust.opened_by == "holder":
        # The holder's one key pair fits one set of parameters.
        if counted.dimension > plan.dimension:
            raise ConfigError(
                f"site figures have {counted.dimension} numbers, the model only {plan.dimension}: with "
                f"scheme '{plan.scheme}' they must fit it"
            )
        most = max(noise.max_abs_sum, counted.max_abs_sum)
        main = _derived(plan, noise, dimension=plan.dimension, max_abs_sum=most)
        figures = _derived(plan, counted, dimension=plan.dimension, max_abs_sum=most)
    else:
        main = _derived(plan, noise, dimension=plan.dimension, max_abs_sum=noise.max_abs_sum)
        figures = _derived(plan, counted, dimension=counted.dimension, max_abs_sum=counted.max_abs_sum)
    return replace(
        main,
        upload_bytes=max(main.upload_bytes, figures.upload_bytes),
        train_bytes=max(main.train_bytes, figures.train_bytes),
        unmask_bytes=max(main.unmask_bytes, figures.unmask_bytes),
        answer_bytes=max(main.answer_bytes, figures.answer_bytes),
        figures=figures,
        figures_round=plan.rounds + 1,
    )


def _derived(plan: TrainingPlan, noise: NoisePlan, *, dimension: int, max_abs_sum: int) -> Derived:
    """Choose the scheme's parameters for sums of ``dimension`` numbers, and return all of them."""
    parameters = choose_parameters(
        plan.scheme, dimension=dimension, cohort=plan.cohort, max_abs_sum=max_abs_sum
    )
    scheme = create(plan.scheme, parameters)
    ciphertext, box, public_key, part = ciphertext_bytes(parameters), 0, 0, 0
    if isinstance(scheme, CommitteeScheme):
        box = part = scheme.parcel_bytes + part_bytes(len(noise.layer_stds)) + SEAL_OVERHEAD
    elif isinstance(scheme, HolderScheme):
        public_key, part = scheme.public_key_bytes, ciphertext
    return Derived(
        noise=noise,
        spend=noise.spend if plan.trust.epsilon_of == "sum" else noise.spend.of_one_share(),
        scheme=scheme,
        upload_bytes=ciphertext + len(plan.committee) * box,
        train_bytes=4 * plan.dimension + public_key,
        unmask_bytes=plan.cohort * part,
        answer_bytes=scheme.answer_bytes + plan.cohort * opened_bytes(len(noise.layer_stds)),
    )
