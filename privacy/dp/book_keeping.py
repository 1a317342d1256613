"""Per-record gradients from one backward pass, without a gradient per record for the large layers.

A layer's per-record gradient follows from its input and the gradient of its output. Keeping both from
one pass gives every record's norm and then the clipped sum as a weighted product (Bu et al. 2023,
"Differentially Private Optimization on Large Model at Small Cost", section 3.2), where Opacus's hooks
would hold a copy of each parameter for each record. Covered are linear layers, convolutions and group
normalisation; :func:`covers` tells whether a model has others, which are left to Opacus.

Norm and contribution of a record come from the same values: the float32 input and output gradient of a
linear layer, the float32 per-record gradient of the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LayerGradients(Protocol):
    """One layer's gradients of n records."""

    def square_norms(self) -> Tensor:
        """Return each record's squared norm over all of the layer's parameters, float64 (n,)."""

    def weighted_sums(self, factors: Tensor) -> list[Tensor]:
        """Return, per trainable parameter, the sum of the records' gradients weighted by ``factors`` (n,)."""


@dataclass(frozen=True)
class _Outer:
    """A linear layer with one view per record: the gradient of the weight is g a^T, never formed alone."""

    outputs: Tensor  # g, float64 (n, out)
    inputs: Tensor  # a, float64 (n, in)
    weight: bool
    bias: bool

    def square_norms(self) -> Tensor:
        gradient = self.outputs.square().sum(dim=1)
        total = gradient * self.inputs.square().sum(dim=1) if self.weight else torch.zeros_like(gradient)
        return total + gradient if self.bias else total

    def weighted_sums(self, factors: Tensor) -> list[Tensor]:
        weighted = self.outputs * factors[:, None]
        sums = [weighted.T @ self.inputs] if self.weight else []
        return [*sums, weighted.sum(dim=0)] if self.bias else sums


@dataclass(frozen=True)
class _Explicit:
    """A layer whose gradients are small enough to be held for each record: float32 (n, size) each."""

    gradients: list[Tensor]

    def square_norms(self) -> Tensor:
        return torch.stack([part.double().square().sum(dim=1) for part in self.gradients]).sum(dim=0)

    def weighted_sums(self, factors: Tensor) -> list[Tensor]:
        return [factors @ part.double() for part in self.gradients]


def _per_record(rows: Tensor, views: int) -> Tensor:
    """Add up the rows of a record's views: (n * views, ...) to (n, size)."""
    return rows.reshape(-1, views, rows[0].numel()).sum(dim=1)


def _linear(layer: nn.Linear, inputs: Tensor, gradient: Tensor, views: int) -> LayerGradients:
    weight = layer.weight.requires_grad
    bias = layer.bias is not None and layer.bias.requires_grad
    if views == 1 and inputs.ndim == 2:
        return _Outer(gradient.double(), inputs.double(), weight, bias)
    # Squared norms from inner products of views would cancel; here the gradient itself is formed.
    a = inputs.reshape(-1, views * inputs[0].numel() // inputs.shape[-1], inputs.shape[-1])
    g = gradient.reshape(a.shape[0], a.shape[1], gradient.shape[-1])
    parts = [torch.einsum("nto,nti->noi", g, a).flatten(1)] if weight else []
    return _Explicit([*parts, g.sum(dim=1)] if bias else parts)


def _convolution(layer: nn.Conv2d, inputs: Tensor, gradient: Tensor, views: int) -> LayerGradients:
    parts: list[Tensor] = []
    flat = gradient.flatten(2)
    if layer.weight.requires_grad:
        if isinstance(layer.padding, str):
            raise TypeError("a convolution with named padding is not covered")
        patches = F.unfold(
            inputs, layer.kernel_size, dilation=layer.dilation, padding=layer.padding, stride=layer.stride
        )
        parts.append(_per_record(torch.bmm(flat, patches.transpose(1, 2)), views))
    if layer.bias is not None and layer.bias.requires_grad:
        parts.append(_per_record(flat.sum(dim=2), views))
    return _Explicit(parts)


def _group_norm(layer: nn.GroupNorm, inputs: Tensor, gradient: Tensor, views: int) -> LayerGradients:
    parts: list[Tensor] = []
    if layer.weight.requires_grad:
        normalised = F.group_norm(inputs, layer.num_groups, eps=layer.eps)
        parts.append(_per_record((gradient * normalised).flatten(2).sum(dim=2), views))
    if layer.bias.requires_grad:
        parts.append(_per_record(gradient.flatten(2).sum(dim=2), views))
    return _Explicit(parts)


def _gradients_of(layer: nn.Module, inputs: Tensor, gradient: Tensor, views: int) -> LayerGradients:
    if isinstance(layer, nn.Linear):
        return _linear(layer, inputs, gradient, views)
    if isinstance(layer, nn.Conv2d):
        return _convolution(layer, inputs, gradient, views)
    if isinstance(layer, nn.GroupNorm):
        return _group_norm(layer, inputs, gradient, views)
    raise TypeError(f"{type(layer).__name__} is not covered")


def _own_parameters(layer: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in layer.parameters(recurse=False) if parameter.requires_grad]


def _layer_is_covered(layer: nn.Module) -> bool:
    if type(layer) is nn.Conv2d:
        return layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return type(layer) in (nn.Linear, nn.GroupNorm)


def covers(model: nn.Module) -> bool:
    """Tell whether every trainable parameter is in one layer of a kind that is covered here."""
    layers = [layer for layer in model.modules() if _own_parameters(layer)]
    owned = [id(parameter) for layer in layers for parameter in _own_parameters(layer)]
    trained = [id(parameter) for parameter in model.parameters() if parameter.requires_grad]
    return all(map(_layer_is_covered, layers)) and sorted(owned) == sorted(trained)


@dataclass
class BookKeeper:
    """Runs passes of a covered model and keeps what its layers' per-record gradients follow from."""

    model: nn.Module
    _seen: list[tuple[nn.Module, Tensor, Tensor]] = field(default_factory=list)

    def layer_gradients(
        self, inputs: Tensor, loss_of: Callable[[Tensor], Tensor], *, views: int
    ) -> list[tuple[list[nn.Parameter], LayerGradients]]:
        """Return each layer's trainable parameters and their gradients for the records in ``inputs``.

        Args:
            inputs: (n * views, ...), the views of a record next to each other.
            loss_of: turns the model's output into the loss summed over records (a scalar).
            views: V.

        Raises:
            RuntimeError: a layer was used more than once in the pass.
        """
        layers = [layer for layer in self.model.modules() if _own_parameters(layer)]
        handles = [layer.register_forward_hook(self._keep) for layer in layers]
        try:
            loss = loss_of(self.model(inputs))
            seen = self._seen
            if len({id(layer) for layer, _, _ in seen}) != len(seen):
                raise RuntimeError("a layer is used more than once in a pass")
            gradients = torch.autograd.grad(loss, [output for _, _, output in seen], allow_unused=True)
        finally:
            self._seen = []
            for handle in handles:
                handle.remove()
        return [
            (_own_parameters(layer), _gradients_of(layer, kept, gradient, views))
            for (layer, kept, _), gradient in zip(seen, gradients, strict=True)
            if gradient is not None
        ]

    def _keep(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self._seen.append((layer, inputs[0].detach(), output))
