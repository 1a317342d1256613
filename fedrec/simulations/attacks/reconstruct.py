"""Invert gradients: reconstruct photos from an update of the small network, its weights and the labels.

The update's rows for the hidden layer are delta^T A: the inputs of that layer (A, one row per record) mixed
by the records' errors (delta). So A's rows lie in the span of the first n right singular vectors. For a
single record the row is known up to its length (the closed form of a dense layer, Phong et al. 2018). The
search finds pictures whose features lie in that span and whose dense layers' gradients equal the update's.
Both are explicit functions of the features, so no second derivative of the convolutions is needed, which
limits gradient matching (Geiping et al. 2020) in networks with ReLU and max pooling. ReLU and max pooling are
computed exactly, but differentiated as smooth versions, which sharpen as the search goes on.

The attacker is given more than a server has: the labels, in order, and the number of records.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from fedrec.errors import ConfigError
from fedrec.vision.models.cnn import SmallCnn

_SPAN_WEIGHT = 10.0
_SMOOTHNESS_WEIGHT = 3e-4
_STEP, _FACTOR_STEP = 0.1, 0.02
_LAST_SHARE = 0.01
"""The step size falls along a cosine to this share of the first."""
_SHARPEST = 64.0


@dataclass(frozen=True)
class Search:
    """How long to search, and from which random start."""

    steps: int
    seed: int


@dataclass(frozen=True)
class _Dense:
    """The update's part for the hidden and the last layer, and the span of the features, (n, features)."""

    hidden: Tensor
    hidden_bias: Tensor
    scores: Tensor
    scores_bias: Tensor
    span: Tensor

    @classmethod
    def read(cls, model: SmallCnn, update: NDArray[np.float64], *, records: int) -> _Dense:
        """Split an update into the parameters' shapes, and compute the span of its rows."""
        sizes = [parameter.numel() for parameter in model.parameters()]
        if update.shape != (sum(sizes),) or not np.isfinite(update).all():
            raise ConfigError(f"an update to invert has {sum(sizes)} finite values, not shape {update.shape}")
        # Only ratios within a layer matter, and values read from a ciphertext may overflow float32.
        scaled = torch.from_numpy(update / max(float(np.abs(update).max()), 1e-300)).float()
        named = {
            name: part.view_as(parameter)
            for (name, parameter), part in zip(
                model.named_parameters(), torch.split(scaled, sizes), strict=True
            )
        }
        _, _, right = torch.linalg.svd(named["hidden.weight"], full_matrices=False)
        return cls(
            hidden=named["hidden.weight"],
            hidden_bias=named["hidden.bias"],
            scores=named["scores.weight"],
            scores_bias=named["scores.bias"],
            span=right[:records],
        )


def reconstruct(
    model: nn.Module, update: NDArray[np.float64], labels: Tensor, *, colours: int, size: int, search: Search
) -> NDArray[np.float64]:
    """Search for photos whose gradients at ``model`` sum to ``update``, up to a factor for each record.

    Args:
        model: a ``SmallCnn`` on the CPU; the attacker knows its weights.
        update: float64 (d,), in any unit.
        labels: int64 (n,), the photos' labels.
        colours: number of colour channels.
        size: side of a photo in pixels.
        search: number of steps, and seed of the start.

    Returns:
        float64 (n, size, size, colours), values in 0 to 1, in no particular order.

    Raises:
        ConfigError: the model is another, or the update doesn't fit it.
    """
    if not isinstance(model, SmallCnn):
        raise ConfigError("gradient inversion is made for the model cnn: it reads its dense layers")
    frozen = [parameter.requires_grad for parameter in model.parameters()]
    model.requires_grad_(False)
    try:
        found = _search(model, update, labels, shape=(len(labels), colours, size, size), search=search)
    finally:
        for parameter, wanted in zip(model.parameters(), frozen, strict=True):
            parameter.requires_grad_(wanted)
    pictures: NDArray[np.float64] = (found.double().movedim(1, -1).numpy() + 1.0) / 2.0
    return pictures


def _search(
    model: SmallCnn,
    update: NDArray[np.float64],
    labels: Tensor,
    *,
    shape: tuple[int, int, int, int],
    search: Search,
) -> Tensor:
    """Descend from faint noise; pictures are in the model's own scale, -1 to 1."""
    seen = _Dense.read(model, update, records=len(labels))
    generator = torch.Generator().manual_seed(search.seed)
    pictures = (0.1 * torch.randn(shape, generator=generator)).requires_grad_()
    # Logarithms of the factors by which clipping and the update's unit scaled each record's gradient.
    factors = torch.zeros(len(labels), requires_grad=True)
    optimizer = torch.optim.Adam(
        [{"params": [pictures], "lr": _STEP}, {"params": [factors], "lr": _FACTOR_STEP}]
    )
    wanted = F.one_hot(labels, model.scores.out_features).float()
    unit = _unit(model, seen, wanted, records=len(labels))
    for step in range(search.steps):
        progress = step / search.steps
        optimizer.param_groups[0]["lr"] = _STEP * (0.5 * (1 + math.cos(math.pi * progress)) + _LAST_SHARE)
        optimizer.zero_grad()
        features = _features(model, pictures, sharpness=_SHARPEST**progress)
        loss = _mismatch(model, seen, features, wanted, weights=unit * factors.exp())
        loss = loss + _SPAN_WEIGHT * _outside(features, seen.span) + _SMOOTHNESS_WEIGHT * _roughness(pictures)
        torch.autograd.backward(loss)
        optimizer.step()
        with torch.no_grad():
            pictures.clamp_(-1.0, 1.0)
    return pictures.detach()


def _unit(model: SmallCnn, seen: _Dense, wanted: Tensor, *, records: int) -> float:
    """Estimate the update's unit: the last bias's gradient is the sum of softmax minus one-hot labels."""
    guess = (1.0 / model.scores.out_features - wanted).sum(dim=0)
    norm = float(guess.norm())
    return float(seen.scores_bias.norm()) / norm if norm > 1e-6 else 1.0 / records


def _blend(exact: Tensor, smooth: Tensor) -> Tensor:
    """Return the exact value with the derivative of the smooth one."""
    return smooth + (exact - smooth).detach()


def _rectified_and_pooled(values: Tensor, *, sharpness: float) -> Tensor:
    active = _blend(F.relu(values), F.softplus(values, beta=2.0 * sharpness))
    n, channels, height, width = active.shape
    # Max pooling drops an odd last row and column.
    height, width = height // 2, width // 2
    even = active[:, :, : 2 * height, : 2 * width]
    fields = even.reshape(n, channels, height, 2, width, 2).transpose(3, 4).flatten(4)
    smooth = (fields * torch.softmax(sharpness * fields, dim=-1)).sum(dim=-1)
    return _blend(F.max_pool2d(active, 2), smooth)


def _features(model: SmallCnn, pictures: Tensor, *, sharpness: float) -> Tensor:
    """Return the hidden layer's inputs, (n, features)."""
    first = _rectified_and_pooled(model.norm1(model.convolution1(pictures)), sharpness=sharpness)
    second = _rectified_and_pooled(model.norm2(model.convolution2(first)), sharpness=sharpness)
    return second.flatten(1)


def _mismatch(model: SmallCnn, seen: _Dense, features: Tensor, wanted: Tensor, *, weights: Tensor) -> Tensor:
    """Return the squared relative errors of the dense layers' gradients, summed."""
    before = model.hidden(features)
    hidden = F.relu(before)
    errors = (torch.softmax(model.scores(hidden), dim=1) - wanted) * weights[:, None]
    active = _blend((before > 0).float(), torch.sigmoid(4.0 * before))
    deltas = (errors @ model.scores.weight) * active
    pairs = (
        (deltas.T @ features, seen.hidden),
        (deltas.sum(dim=0), seen.hidden_bias),
        (errors.T @ hidden, seen.scores),
        (errors.sum(dim=0), seen.scores_bias),
    )
    apart = [
        (mine - theirs).square().sum() / theirs.square().sum().clamp(min=1e-30) for mine, theirs in pairs
    ]
    return torch.stack(apart).sum()


def _outside(features: Tensor, span: Tensor) -> Tensor:
    """Return the mean share of the features' squared norm that lies outside the span."""
    rest = features - (features @ span.T) @ span
    share = rest.square().sum(dim=1) / features.square().sum(dim=1).clamp(min=1e-12)
    return share.mean()


def _roughness(pictures: Tensor) -> Tensor:
    """Return the mean total variation."""
    across = pictures[..., 1:, :-1] - pictures[..., :-1, :-1]
    down = pictures[..., :-1, 1:] - pictures[..., :-1, :-1]
    return (across.square() + down.square() + 1e-6).sqrt().mean()
