"""Train small models on random halves of the same records, by the steps that merchants take.

The models are trained pooled: one party adds the whole noise. The sum that a cohort opens has the same
distribution, except that a sum of discrete Gaussians is only close to one; so the final model reveals as much
about a record.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedrec.privacy.dp.calibration import NoisePlan, NoiseRequest, plan_noise
from fedrec.privacy.dp.step import DpSgdSettings, contribute
from fedrec.privacy.dp.vectors import load_parameter_vector, parameter_vector
from fedrec.privacy.randomness import Randomness
from fedrec.protocol import modes
from fedrec.server.optimizers.sgd import Sgd
from fedrec.server.weights import Weights
from fedrec.simulations.attacks.lira import margins

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Recipe:
    """How a shadow model is trained.

    Attributes:
        steps: number of steps.
        sample_rate: of each step.
        learning_rate: the server's.
        clip: bound on the norm of a record's gradient.
        delta: of the whole training.
    """

    steps: int
    sample_rate: float
    learning_rate: float
    clip: float
    delta: float


@dataclass(frozen=True)
class LabelledRecords:
    """The records of which models are trained on halves.

    Attributes:
        inputs: float32 (records, 1, ...).
        labels: int64 (records,).
    """

    inputs: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.inputs)


@dataclass(frozen=True)
class Trained:
    """The scores of trained models.

    Attributes:
        margin: float64 (models, records).
        held: bool (models, records), which records each was trained on.
        accuracy_members: accuracy on those records.
        accuracy_others: accuracy on the other records.
    """

    margin: Floats
    held: Bools
    accuracy_members: float
    accuracy_others: float


def draw_halves(*, models: int, records: int, rng: Randomness) -> Bools:
    """Toss a fair coin for every model and record.

    Args:
        models: number of models.
        records: number of records.
        rng: randomness of the coins.

    Returns:
        bool (models, records), which records each model is trained on.
    """
    return rng.uniform(models * records).reshape(models, records) < 0.5


def noise_for(recipe: Recipe, *, epsilon: float | None, dimension: int, records: int) -> NoisePlan:
    """Plan the noise of a model.

    Args:
        recipe: of the training.
        epsilon: its budget; None for no noise.
        dimension: number of parameters.
        records: number of records that a model is trained on: half of all.

    Returns:
        The noise plan.
    """
    return plan_noise(
        NoiseRequest(
            mode=(modes.OFF if epsilon is None else modes.LOCAL).name,
            epsilon=epsilon,
            noise_multiplier=None,
            delta=recipe.delta,
            sample_rate=recipe.sample_rate,
            steps=recipe.steps,
            dimension=dimension,
            clip=recipe.clip,
            cohort=1,
            min_contributors=1,
            colluders=0,
            records_per_merchant=records,
        )
    )


def train_all(
    build: Callable[[], nn.Module],
    records: LabelledRecords,
    held: Bools,
    *,
    recipe: Recipe,
    plan: NoisePlan,
    rng: Randomness,
    tell: Callable[[int], None] = lambda done: None,
) -> Trained:
    """Train a model on each row of ``held``, and score all records.

    Args:
        build: makes the untrained model, always the same.
        records: all records.
        held: bool (models, records).
        recipe: of the training.
        plan: its noise, from :func:`noise_for`.
        rng: randomness; each model uses the child of its number.
        tell: called with the number of models trained.

    Returns:
        The scores of all models.

    Raises:
        ConfigError: the plan doesn't fit the model.
        DataError: a training diverged.
    """
    rows, right = [], []
    truth = records.labels.numpy()
    for number, mine in enumerate(held):
        model = build()
        parameters = _train(model, records, mine, recipe=recipe, plan=plan, rng=rng.child("model", number))
        load_parameter_vector(model, parameters)
        model.eval()
        with torch.no_grad():
            logits = model(records.inputs[:, 0]).double().numpy()
        rows.append(margins(logits, truth))
        right.append(logits.argmax(axis=1) == truth)
        tell(number + 1)
    correct = np.stack(right)
    return Trained(
        margin=np.stack(rows),
        held=held,
        accuracy_members=float(correct[held].mean()),
        accuracy_others=float(correct[~held].mean()),
    )


def _train(
    model: nn.Module,
    records: LabelledRecords,
    mine: Bools,
    *,
    recipe: Recipe,
    plan: NoisePlan,
    rng: Randomness,
) -> Floats:
    """Return the final parameters of a training on the records ``mine``."""
    chosen = torch.from_numpy(np.flatnonzero(mine))
    own_inputs, own_labels = records.inputs[chosen], records.labels[chosen]
    initial = parameter_vector(model)
    weights = Weights.start(initial, Sgd(initial.size, learning_rate=recipe.learning_rate), averaging=0.0)
    # A public number: the true size of a half would reveal something about its last record.
    denominator = recipe.sample_rate * len(records) / 2
    for step in range(recipe.steps):
        load_parameter_vector(model, weights.parameters)
        total = contribute(
            model,
            own_inputs,
            own_labels,
            settings=DpSgdSettings(clip=recipe.clip, sample_rate=recipe.sample_rate),
            plan=plan,
            rng=rng.child("step", step),
        )
        weights.step(total.astype(np.float64) * (plan.clip / plan.scale / denominator))
    return weights.reported
