"""Add the layers of a merchant's noise that may be removed from a sum, each from a fresh seed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedrec.privacy.aggregation.scalar_sharing import random_scalars
from fedrec.privacy.dp.calibration import NoisePlan
from fedrec.privacy.dp.layer_noise import add_layer
from fedrec.privacy.randomness import Randomness


def add_layers(values: NDArray[np.int64], *, noise: NoisePlan, rng: Randomness) -> list[int]:
    """Draw the seeds of a round's layers, and add the layers' noise in place.

    The noise that stays in every sum is in the values already, and has no seed.

    Args:
        values: the contribution in grid units, int64 (d,).
        noise: the noise plan.
        rng: the stream of the round; its child ``layers`` alone is read.

    Returns:
        The seed of each layer, which the caller deals to the committee and drops.
    """
    seeds = _draw_seeds(noise, rng)
    for seed, std in zip(seeds, noise.layer_stds, strict=True):
        add_layer(values, seed, std=std)
    return seeds


def add_kept_layers(
    values: NDArray[np.int64], *, noise: NoisePlan, contributors: int, rng: Randomness
) -> None:
    """Add in place the layers that :func:`add_layers` adds and that stay in a sum of so many contributors.

    Args:
        values: the contribution in grid units, int64 (d,).
        noise: the noise plan.
        contributors: merchants in the sum.
        rng: the stream of the round.
    """
    kept = noise.kept_layers(contributors)
    for seed, std in zip(_draw_seeds(noise, rng)[:kept], noise.layer_stds[:kept], strict=True):
        add_layer(values, seed, std=std)


def _draw_seeds(noise: NoisePlan, rng: Randomness) -> list[int]:
    return random_scalars(len(noise.layer_stds), rng.child("layers"))
