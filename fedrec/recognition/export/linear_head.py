"""What a linear head computes from a feature set's vector, in a form that divides among its inputs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedrec.vision.backbones.feature_sets import FeatureSet
from fedrec.vision.backbones.public_directions import ProjectedSet, public_projection
from fedrec.vision.models.centred_head import CentredHead
from fedrec.vision.models.discriminant_head import DiscriminantHead


class LinearForm(NamedTuple):
    """Scores of a vector v as ``scale * (weights @ v) + offset``.

    Attributes:
        weights: (classes, length).
        scale: (n, 1), a number of each record.
        offset: (n, classes).
    """

    weights: Tensor
    scale: Tensor
    offset: Tensor


def projection_of(features: FeatureSet) -> Tensor | None:
    """Return the projection that completes a set's vectors, float32 (length, directions), if it has one."""
    if not isinstance(features, ProjectedSet):
        return None
    directions = public_projection(features.blocks, directions=features.directions)
    return torch.tensor(directions, dtype=torch.float32)


def linear_form(head: nn.Module, vectors: Tensor, projection: Tensor | None) -> LinearForm | None:
    """Divide a head's scores into what is linear in the blocks side by side, and the rest.

    Args:
        head: the head.
        vectors: (n, length), blocks side by side, of length 1.
        projection: what completes them, (length, directions), or None.

    Returns:
        The form; None for a head of another kind.
    """
    if isinstance(head, CentredHead) and projection is None:
        return centred_form(head, vectors)
    if isinstance(head, DiscriminantHead) and projection is not None:
        scale = 1.0 / (vectors @ projection).norm(dim=1, keepdim=True).clamp(min=1e-12)
        return LinearForm(head.weight @ projection.T, scale, head.bias.expand(vectors.shape[0], -1))
    return None


def centred_form(head: CentredHead, vectors: Tensor) -> LinearForm:
    """Divide a centred head's scores into what is linear in the vectors, and the rest.

    Args:
        head: the head.
        vectors: (n, length), of length 1.

    Returns:
        The form.
    """
    mean, weights = head.centring.mean, head.scores.weight
    scale = 1.0 / (vectors - mean).norm(dim=1, keepdim=True).clamp(min=1e-12)
    return LinearForm(weights, scale, -scale * (weights @ mean))


def completed(vectors: Tensor, projection: Tensor | None) -> Tensor:
    """Turn blocks side by side into a set's vectors.

    Args:
        vectors: (n, length), of length 1.
        projection: (length, directions), or None.

    Returns:
        The vectors, of length 1.
    """
    return vectors if projection is None else F.normalize(vectors @ projection, dim=1)
