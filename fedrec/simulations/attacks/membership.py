"""``fedrec audit membership``: infer from the final model who was in its training.

Trainings with privacy are compared with one without.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedrec.errors import ConfigError, DataError
from fedrec.privacy.dp.calibration import NoisePlan
from fedrec.privacy.dp.vectors import parameter_count
from fedrec.privacy.randomness import Randomness
from fedrec.simulations.attacks.lira import Rates, largest_tpr, likelihood_ratios, loss_threshold, rates
from fedrec.simulations.attacks.shadow_models import (
    LabelledRecords,
    Recipe,
    Trained,
    draw_halves,
    noise_for,
    train_all,
)
from fedrec.vision import model_registry
from fedrec.vision.datasets import open_folder
from fedrec.vision.imageset import ImageSet
from fedrec.vision.listing.found_encoding import with_found_encoding
from fedrec.vision.model_inputs import InputShape, model_inputs, to_inputs
from fedrec.vision.model_spec import ModelSpec
from fedrec.vision.synthetic import generate

SCHEMA = "fedrec.membership/1"
FPR = 0.01
LEAST_LEAKAGE = 0.05
"""The attack works if it finds more than this share of members at 1% false positives, without privacy."""
FEWEST_MODELS, FEWEST_RECORDS = 6, 20
_SYNTHETIC_SIZE = 32

Tell = Callable[[str], None]


@dataclass(frozen=True)
class MembershipSettings:
    """The attacked trainings and the attack.

    Attributes:
        epsilons: privacy budgets of the trainings; one without noise is added before them.
        recipe: of every training.
        data: a folder of photos as ``fedrec simulate --data`` takes it; synthetic photos if None.
        records: number of photos; every model is trained on a random half of them.
        models: number of models trained at each budget; each is the target once, with the others as shadow
            models.
        model: its name in the registry; of a model with a feature set, the head is trained.
        size: side of the photos in pixels, if the model takes any size.
        seed: of photos, halves, sampling and noise.
    """

    epsilons: tuple[float, ...]
    recipe: Recipe
    data: Path | None = None
    records: int = 300
    models: int = 16
    model: str = "cnn"
    size: int = 16
    seed: int = 0


@dataclass(frozen=True)
class Level:
    """The results at one budget.

    Attributes:
        epsilon: the budget; None without noise.
        noise_multiplier: of the trainings.
        accuracy_members: the models' accuracy on records that they were trained on.
        accuracy_others: their accuracy on the other records.
        lira: rates of LiRA.
        threshold: rates of the loss threshold.
        bound: upper bound on any attack's TPR.
        plain_bound: the bound from (epsilon, delta) alone.
    """

    epsilon: float | None
    noise_multiplier: float
    accuracy_members: float
    accuracy_others: float
    lira: Rates
    threshold: Rates
    bound: float
    plain_bound: float

    @property
    def within_bound(self) -> bool:
        """Whether no attack's TPR is above the bound by more than chance explains."""
        return max(self.lira.tpr_low, self.threshold.tpr_low) <= self.bound


@dataclass(frozen=True)
class MembershipResult:
    """The results of all levels, the one without noise first."""

    settings: MembershipSettings
    photo_source: str
    shape: InputShape
    parameters: int
    levels: tuple[Level, ...]

    @property
    def attack_works(self) -> bool:
        """Whether the attack finds members where there is no noise."""
        return self.levels[0].lira.tpr_low > LEAST_LEAKAGE

    @property
    def exposed(self) -> tuple[float, ...]:
        """The budgets whose models revealed more than the guarantee allows."""
        return tuple(
            level.epsilon for level in self.levels if level.epsilon is not None and not level.within_bound
        )

    def report(self) -> dict[str, Any]:
        """Return the JSON form, schema ``fedrec.membership/1``."""
        best = self.levels[-1]
        return {
            "schema": SCHEMA,
            "attack_works": self.attack_works,
            "exposed": list(self.exposed),
            "fpr": FPR,
            "tpr_without_privacy": self.levels[0].lira.tpr,
            "auc_without_privacy": self.levels[0].lira.auc,
            f"tpr_at_epsilon_{best.epsilon:g}": best.lira.tpr,
            f"auc_at_epsilon_{best.epsilon:g}": best.lira.auc,
            "model": self.settings.model,
            "parameters": self.parameters,
            "photos": self.photo_source,
            "records": self.settings.records,
            "models": self.settings.models,
            "size": self.shape.size,
            "seed": self.settings.seed,
            "training": "pooled: the noise of the opened sum, added by one party",
            "recipe": asdict(self.settings.recipe),
            "levels": [asdict(level) | {"within_bound": level.within_bound} for level in self.levels],
        }


def infer_membership(settings: MembershipSettings, *, tell: Tell = lambda line: None) -> MembershipResult:
    """Train models without noise and at every budget, and attack the final models.

    Args:
        settings: the attacked trainings and the attack.
        tell: called with a line of text per trained model.

    Returns:
        The results of all levels.

    Raises:
        ConfigError: the settings are out of range.
        UnreachableBudgetError: no noise reaches a budget.
        DataError: there are too few photos, or a training diverged.
    """
    if settings.models < FEWEST_MODELS or settings.records < FEWEST_RECORDS:
        raise ConfigError(f"--models is at least {FEWEST_MODELS}, and --records at least {FEWEST_RECORDS}")
    if not settings.epsilons:
        raise ConfigError("--epsilon is missing: give at least one budget to compare with no noise")
    spec = model_registry.get(settings.model)
    if spec.solved:
        raise ConfigError(f"--model {spec.name}: this attack trains models by steps, and that one is solved")
    images, source = _photos(settings)
    order = np.random.default_rng([settings.seed]).permutation(len(images))[: settings.records]
    chosen = images.subset([int(i) for i in order])
    shape = _shape(settings, spec)
    taken = model_inputs(chosen, spec, shape, views=1, progress=lambda done, total: None)
    records = LabelledRecords(to_inputs(taken, spec), torch.tensor(chosen.labels))
    classes = len(images.classes)

    def build() -> torch.nn.Module:
        return spec.build(classes=classes, channels=shape.channels, size=shape.size, seed=settings.seed)

    dimension = parameter_count(build())
    levels = []
    for epsilon in (None, *settings.epsilons):
        name = "no noise" if epsilon is None else f"epsilon {epsilon:g}"
        # Fresh halves at every level, so that the levels are independent.
        rng = Randomness.seeded(settings.seed, "membership", name)
        plan = noise_for(settings.recipe, epsilon=epsilon, dimension=dimension, records=settings.records // 2)
        trained = train_all(
            build,
            records,
            draw_halves(models=settings.models, records=len(order), rng=rng.child("halves")),
            recipe=settings.recipe,
            plan=plan,
            rng=rng.child("training"),
            tell=_counting(tell, name, settings.models),
        )
        levels.append(_measured(trained, epsilon=epsilon, plan=plan))
    return MembershipResult(settings, source, shape, dimension, tuple(levels))


def _shape(settings: MembershipSettings, spec: ModelSpec) -> InputShape:
    """Return the shape of model inputs: grey, except for a frozen network, which takes colours."""
    return InputShape(channels=spec.channels or 1, size=spec.image_size or settings.size)


def _counting(tell: Tell, name: str, models: int) -> Callable[[int], None]:
    return lambda done: tell(f"{name}: {done} of {models} models")


def _photos(settings: MembershipSettings) -> tuple[ImageSet, str]:
    """Return the photos to draw from, and their source."""
    if settings.data is None:
        images = generate(
            merchants=1,
            per_merchant=settings.records,
            size=max(_SYNTHETIC_SIZE, settings.size),
            seed=settings.seed,
            validation=0,
            test=0,
        ).train
        source = "synthetic"
    else:
        images, source = open_folder(with_found_encoding(settings.data)).train, "folder"
    if len(images) < settings.records:
        raise DataError(
            f"there are {len(images)} usable photos, and --records {settings.records} asks for more"
        )
    return images, source


def _measured(trained: Trained, *, epsilon: float | None, plan: NoisePlan) -> Level:
    """Attack the models of one level in turn."""
    bound = plain = 1.0
    if epsilon is not None:
        bound = largest_tpr(plan.spend.events(), fpr=FPR, extra_delta=plan.spend.betas)
        plain = min(1.0, float(np.exp(epsilon)) * FPR + plan.delta)
    return Level(
        epsilon=epsilon,
        noise_multiplier=plan.noise_multiplier,
        accuracy_members=trained.accuracy_members,
        accuracy_others=trained.accuracy_others,
        lira=rates(likelihood_ratios(trained.margin, trained.held), fpr=FPR),
        threshold=rates(loss_threshold(trained.margin, trained.held), fpr=FPR),
        bound=bound,
        plain_bound=plain,
    )
