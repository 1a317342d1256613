"""Project a feature set on public directions: the principal ones of the network's own classifier.

The classifier that a packaged network was trained with is public. Its rows span what its features were made
to distinguish, so that a few of their principal directions keep most of what a new set of classes needs. No
picture is looked at, and the projection is the same for every merchant.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import ConfigError
from fedrec.vision.backbones.backbone import unit
from fedrec.vision.backbones.feature_sets import Block, FeatureSet

_POWER: Final = 0.25
"""A direction of variance v is divided by about v ** 0.25, half of the way to equal standard deviations."""
_LEVELLING: Final = 0.1
"""Part of the mean variance that is added to each, so that weak directions aren't blown up."""


@runtime_checkable
class Classifying(Protocol):
    """A network with the classifier that it was trained with."""

    def classifier(self) -> NDArray[np.float64]:
        """Return the weights of the classifier on the layer ``final``, (classes, length)."""
        ...


@dataclass(frozen=True)
class ProjectedSet(FeatureSet):
    """A feature set on its first public directions; vectors have length 1 after the projection.

    Attributes:
        directions: k, how many.
    """

    directions: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        known = sum(block.dimension for block in self.blocks)
        if not 1 <= self.directions <= known:
            raise ConfigError(
                f"{self.directions} directions of vectors of {known} numbers: give 1 to {known}"
            )
        for block in self.blocks:
            if block.layer != "final" or not isinstance(block.backbone, Classifying):
                raise ConfigError(
                    f"{block.backbone.name}, layer {block.layer}: no public directions are known of a layer "
                    "without a classifier"
                )

    @property
    def dimension(self) -> int:
        """Length of a record's vector, k."""
        return self.directions

    def completed(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Project blocks side by side (..., all blocks) on the directions, and bring them to length 1."""
        projection = public_projection(self.blocks, directions=self.directions).astype(np.float32)
        return unit(vectors @ projection)


@lru_cache(maxsize=8)
def public_projection(blocks: tuple[Block, ...], *, directions: int) -> NDArray[np.float64]:
    """Compute the projection on the principal directions of the networks' own classifiers.

    Rows of the classifiers, each of length 1, stand side by side as the blocks do. The directions are the
    eigenvectors of their second moments, each scaled by (variance + levelling) ** -0.25. They are computed in
    float64 with a fixed sign, so that every machine has the same up to rounding.

    Args:
        blocks: the blocks of a feature set, on layers with a classifier of as many classes each.
        directions: k, how many.

    Returns:
        float64 (all blocks' dimensions, k); not to be changed.

    Raises:
        MissingExtraError: a package is not installed.
        ConfigError: a weights file is damaged, or the classifiers have different classes.
    """
    rows = []
    for block in blocks:
        if not isinstance(block.backbone, Classifying):
            raise ConfigError(f"{block.backbone.name} has no classifier of its own")
        weights = block.backbone.classifier()
        rows.append(block.weight * weights / np.linalg.norm(weights, axis=1, keepdims=True))
    if len({len(each) for each in rows}) > 1:
        raise ConfigError("networks whose classifiers have different classes have no directions in common")
    stacked = np.concatenate(rows, axis=1)
    variances, vectors = np.linalg.eigh(stacked.T @ stacked / len(stacked))
    variances, vectors = variances[::-1][:directions], vectors[:, ::-1][:, :directions]
    # An eigenvector's sign is the library's choice: the largest entry is made positive.
    largest = np.abs(vectors).argmax(axis=0)
    vectors = vectors * np.sign(vectors[largest, np.arange(directions)])
    projection: NDArray[np.float64] = vectors / (variances + _LEVELLING * variances.mean()) ** _POWER
    projection.setflags(write=False)
    return projection
