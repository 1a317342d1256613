"""Compare a head that starts from a campaign's discriminant with one from zero, at equal noise.

No merchant, key or encryption takes part: each opened sum is the exact one with Gaussian noise of the plan's
standard deviation, for eight merchants of whom one colludes and one may be missing. The discriminant, its
weights in the head's place, the steps and their settings are the package's own. Prints one line a setting.

    python benchmarks/start_from.py clothing-small --repeat 5
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fedrec.privacy.accounting.privacy_spend import least_multiplier
from fedrec.privacy.dp.calibration import BETA
from fedrec.privacy.dp.class_statistics import clipped_statistics_sum
from fedrec.server.discriminant import solver_of
from fedrec.server.starting_points import ROW_NORM
from fedrec.server.weights import shortened
from fedrec.vision import model_registry
from fedrec.vision.backbones.carried_weights import carried_weights
from fedrec.vision.backbones.public_directions import ProjectedSet
from fedrec.vision.datasets import open_folder
from fedrec.vision.imageset import ImageSet
from fedrec.vision.model_inputs import InputShape, model_inputs, to_inputs
from fedrec.vision.models.discriminant_head import DiscriminantHead
from fedrec.vision.training_recipes import PublicNumbers, head_recipe

Matrix = NDArray[np.float64]
DELTA = 1e-4
SHARES = math.sqrt(8 / 6)
"""Eight shares of noise are in a sum whose six surest make the planned one."""
SETTINGS = ((0.5, 0.5), (1.0, 0.5), (1.0, 1.0), (4.0, 1.0), (1.0, 4.0), (4.0, 4.0))


def deviation(epsilon: float, steps: int) -> float:
    """Return the noise of a sum of vectors of norm 1, for so many sums within a budget."""
    return SHARES * least_multiplier(epsilon, delta=DELTA, sample_rate=1.0, steps=steps, beta=BETA)


def features(images: ImageSet, model: str) -> torch.Tensor:
    """Return the vectors of a model's networks, (n, d)."""
    spec = model_registry.get(model)
    shape = InputShape(channels=3, size=spec.image_size or 0)
    inputs = model_inputs(images, spec, shape, views=1, progress=lambda done, total: None)
    return to_inputs(inputs, spec)[:, 0]


def campaign(
    z: torch.Tensor, labels: NDArray[np.int64], *, classes: int, epsilon: float, rng: np.random.Generator
) -> tuple[Matrix, Matrix]:
    """Return weights and biases of a discriminant from one noised sum."""
    solve = solver_of(DiscriminantHead(classes=classes, dimension=z.shape[1]))
    assert solve is not None
    sums = clipped_statistics_sum(z[:, None], torch.tensor(labels.tolist()), classes=classes, clip=1.0)
    noise = deviation(epsilon, 1)
    solved = solve(sums + rng.normal(0.0, noise, sums.shape), noise)
    cut = classes * z.shape[1]
    return solved[:cut].reshape(classes, -1), solved[cut : cut + classes]


def train(
    x: Matrix, labels: NDArray[np.int64], start: Matrix, *, epsilon: float, rng: np.random.Generator
) -> tuple[Matrix, Matrix]:
    """Train a head by the package's recipe; return its weights and the released mean."""

    def multiplier(rate: float, steps: int) -> float:
        return least_multiplier(epsilon, delta=DELTA, sample_rate=rate, steps=steps, beta=BETA)

    settings = head_recipe(PublicNumbers(records=len(x), noise_multiplier=multiplier))
    noise = deviation(epsilon, settings.rounds)
    mean = shortened((x.sum(axis=0) + rng.normal(0.0, noise, x.shape[1])) / len(x), noise=noise / len(x))
    centred = unit(x - mean)
    weights, velocity = start.copy(), np.zeros_like(start)
    truth = np.eye(len(start))[labels]
    for _ in range(settings.rounds - 1):
        scores = centred @ weights.T
        likely = np.exp(scores - scores.max(axis=1, keepdims=True))
        pulls = likely / likely.sum(axis=1, keepdims=True) - truth
        norms = np.linalg.norm(pulls, axis=1, keepdims=True)
        pulls *= np.minimum(1.0, settings.clip / np.maximum(norms, 1e-12))
        total = pulls.T @ centred + rng.normal(0.0, noise * settings.clip, weights.shape)
        gradient = total / len(x)
        velocity = settings.momentum * velocity + gradient
        step = gradient + settings.momentum * velocity if settings.nesterov else velocity
        weights = weights - settings.learning_rate * step
    return weights, mean


def unit(vectors: Matrix) -> Matrix:
    """Scale rows to length 1."""
    scaled: Matrix = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return scaled


def main() -> None:
    """Print the accuracy on the folder's validation photos, mean of the repeats."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="lite0-lite2-views-head")
    parser.add_argument("--repeat", type=int, default=5)
    given = parser.parse_args()
    photos = open_folder(given.data)
    head = model_registry.get(given.model)
    solved = model_registry.get(head.one_round or "")
    if photos.validation is None or head.features is None or not isinstance(solved.features, ProjectedSet):
        raise SystemExit("give a folder with validation photos, and a head with a discriminant")
    x, z, xv, zv = (
        features(images, name)
        for images in (photos.train, photos.validation)
        for name in (head.name, solved.name)
    )
    labels, truth = np.asarray(photos.train.labels), np.asarray(photos.validation.labels)
    whole, held = x.double().numpy(), xv.double().numpy()
    classes = len(photos.train.classes)
    for first, second in SETTINGS:
        found: dict[str, list[float]] = {"campaign": [], "head from zero": [], "head from campaign": []}
        for seed in range(given.repeat):
            own, biases = campaign(
                z, labels, classes=classes, epsilon=first, rng=np.random.default_rng([seed, 1])
            )
            right = (zv.double().numpy() @ own.T + biases).argmax(axis=1) == truth
            found["campaign"].append(float(right.mean()))
            carried = carried_weights(own, source=solved.features, target=head.features)
            carried *= ROW_NORM / math.sqrt(float((carried**2).sum(axis=1).mean()))
            for name, start in (("zero", np.zeros_like(carried)), ("campaign", carried)):
                rng = np.random.default_rng([seed, 2])
                weights, mean = train(whole, labels, start, epsilon=second, rng=rng)
                scores = unit(held - mean) @ weights.T
                found[f"head from {name}"].append(float((scores.argmax(axis=1) == truth).mean()))
        means = ", ".join(f"{name} {100 * float(np.mean(values)):.1f}%" for name, values in found.items())
        print(f"campaign at epsilon {first:g}, head at {second:g}: {means}", flush=True)


if __name__ == "__main__":
    main()
