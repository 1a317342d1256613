"""Per-record gradients of single layers, from a layer's inputs and the gradients of its outputs.

Three forms, each giving norms and weighted sums from the very same float32 values: an outer product that is
never formed for one record (``_Outer``), a gradient held for every record (``Rows``), and one tensor a
record (``_PerRecord``), where a native kernel makes it fastest. Which one a convolution takes depends on
shapes alone, never on the data. Norms and sums are float64 throughout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedrec.vision.models.layers import WSConv2d

# Below this many multiplications a record, a call a record costs more than it saves.
_WORTH_A_CALL = 1_000_000
# With fewer positions than this, two matrix products in float64 beat reading and writing whole gradients.
_FEW_POSITIONS = 32
# From this many values on, rows are added one after another rather than copied to float64 together.
_WIDE = 4096
_UNIT = 2.0**-53
# A record whose squared norm is less than this part of what its terms could reach is formed by itself.
_LEAST_SHARE = 2.0**-10


class LayerGradients(Protocol):
    """One layer's gradients of n records."""

    def square_norms(self) -> Tensor:
        """Return each record's squared norm over all of the layer's parameters, float64 (n,).

        It is never below the true one of the values that :meth:`add_weighted` adds by more than float64's
        rounding of a sum of squares.
        """
        ...

    def add_weighted(self, factors: Tensor, totals: Sequence[Tensor]) -> None:
        """Add the records' gradients weighted by ``factors``, float64 (n,), to one total a parameter.

        ``totals`` are flat, float64, in the order of the layer's trainable parameters.
        """
        ...


@dataclass(frozen=True)
class _Outer:
    """A weight's gradient sum over t of g_t a_t^T, for t = 1..T positions of a record.

    The squared norm is the sum over pairs of positions of (g_t . g_u)(a_t . a_u) (Goodfellow 2015, for T = 1;
    Li et al. 2022). With L = sum over t of |g_t||a_t| (the reach), rounding moves it by no more than
    (in + out + T^2 + 2) * 2**-53 * L^2 (Higham 2002, section 3.1), so that twice that is added, lest it be
    too small. Where the terms cancel so far that the norm is below L / 2**5, that would be much, and so would
    be the rounding of the weighted sum, whose terms are of L's size: such a record's gradient is formed by
    itself, in float64, and norm and contribution are then those of the values formed. Which it is depends on
    the record alone.
    """

    outputs: Tensor  # g, float64 (n, T, out)
    inputs: Tensor  # a, float64 (n, T, in)

    def square_norms(self) -> Tensor:
        return self._measured[0]

    def add_weighted(self, factors: Tensor, totals: Sequence[Tensor]) -> None:
        formed = self._measured[1]
        together = factors.clone()
        together[formed] = 0.0
        weighted = (self.outputs * together[:, None, None]).flatten(0, 1)
        totals[0].add_((weighted.T @ self.inputs.flatten(0, 1)).reshape(-1))
        for record in formed:
            totals[0].add_(self._formed(record).reshape(-1), alpha=float(factors[record]))

    @cached_property
    def _measured(self) -> tuple[Tensor, list[int]]:
        """Squared norms, and the records that are formed by themselves."""
        positions = self.inputs.shape[1]
        if positions == 1:
            return self.outputs.square().sum(dim=(1, 2)) * self.inputs.square().sum(dim=(1, 2)), []
        outputs = torch.bmm(self.outputs, self.outputs.transpose(1, 2))
        inputs = torch.bmm(self.inputs, self.inputs.transpose(1, 2))
        lengths = outputs.diagonal(dim1=1, dim2=2) * inputs.diagonal(dim1=1, dim2=2)
        reach = lengths.sqrt().sum(1).square()
        error = 2.0 * (self.inputs.shape[2] + self.outputs.shape[2] + positions**2 + 2) * _UNIT
        squares = (outputs * inputs).sum(dim=(1, 2)).clamp(min=0) + error * reach
        formed: list[int] = torch.nonzero(squares < _LEAST_SHARE * reach).flatten().tolist()
        for record in formed:
            squares[record] = self._formed(record).square().sum()
        return squares, formed

    def _formed(self, record: int) -> Tensor:
        return self.outputs[record].T @ self.inputs[record]


@dataclass(frozen=True)
class Rows:
    """A gradient held for every record in one matrix: (n, size)."""

    gradients: Tensor

    def square_norms(self) -> Tensor:
        """Return squared norms; see :class:`LayerGradients`."""
        norms: Tensor = torch.linalg.vector_norm(self.gradients, dim=1, dtype=torch.float64)
        return norms.square()

    def add_weighted(self, factors: Tensor, totals: Sequence[Tensor]) -> None:
        """Add weighted gradients; see :class:`LayerGradients`."""
        if self.gradients.shape[1] < _WIDE:
            totals[0].add_(factors @ self.gradients.double())
        else:
            _add_each(self.gradients, factors, totals[0])


@dataclass(frozen=True)
class _PerRecord:
    """A gradient held for every record in a tensor of its own."""

    gradients: list[Tensor]

    def square_norms(self) -> Tensor:
        norms = [torch.linalg.vector_norm(one, dtype=torch.float64) for one in self.gradients]
        return torch.stack(norms).square()

    def add_weighted(self, factors: Tensor, totals: Sequence[Tensor]) -> None:
        _add_each(self.gradients, factors, totals[0])


@dataclass(frozen=True)
class Several:
    """The gradients of a layer's parameters, one after another."""

    parts: list[LayerGradients]

    def square_norms(self) -> Tensor:
        """Return squared norms; see :class:`LayerGradients`."""
        return torch.stack([part.square_norms() for part in self.parts]).sum(dim=0)

    def add_weighted(self, factors: Tensor, totals: Sequence[Tensor]) -> None:
        """Add weighted gradients; see :class:`LayerGradients`."""
        for part, total in zip(self.parts, totals, strict=True):
            part.add_weighted(factors, [total])


@dataclass(frozen=True)
class Scattered:
    """A whole model's gradients: layers, each with the places of its parameters among all of them."""

    layers: list[tuple[list[int], LayerGradients]]

    def square_norms(self) -> Tensor:
        """Return squared norms; see :class:`LayerGradients`."""
        return torch.stack([layer.square_norms() for _, layer in self.layers]).sum(dim=0)

    def add_weighted(self, factors: Tensor, totals: Sequence[Tensor]) -> None:
        """Add weighted gradients; see :class:`LayerGradients`."""
        for places, layer in self.layers:
            layer.add_weighted(factors, [totals[place] for place in places])


def _add_each(gradients: Sequence[Tensor] | Tensor, factors: Tensor, total: Tensor) -> None:
    # float32 values become float64 before they are multiplied, since the total is float64.
    for gradient, factor in zip(gradients, factors.tolist(), strict=True):
        total.add_(gradient.reshape(-1), alpha=factor)


def _per_record(rows: Tensor, views: int) -> Tensor:
    """Add up the rows of a record's views: (n * views, ...) to (n, size)."""
    flat = rows.reshape(-1, views, rows[0].numel())
    return flat[:, 0] if views == 1 else flat.sum(dim=1)


def _linear(layer: nn.Linear, inputs: Tensor, gradient: Tensor, views: int) -> LayerGradients:
    positions = views * inputs[0].numel() // inputs.shape[-1]
    a = inputs.reshape(-1, positions, inputs.shape[-1])
    g = gradient.reshape(-1, positions, gradient.shape[-1])
    parts: list[LayerGradients] = []
    if layer.weight.requires_grad:
        if positions <= _FEW_POSITIONS:
            parts.append(_Outer(g.double(), a.double()))
        else:
            parts.append(Rows(torch.bmm(g.transpose(1, 2), a).flatten(1)))
    if layer.bias is not None and layer.bias.requires_grad:
        parts.append(Rows(g.sum(dim=1)))
    return Several(parts)


def _patches(layer: nn.Conv2d, inputs: Tensor) -> Tensor:
    """Return what each output position of a convolution sees: (m, in * kh * kw, positions)."""
    return F.unfold(
        inputs,
        layer.kernel_size,
        dilation=layer.dilation,
        padding=_pair(layer.padding),
        stride=layer.stride,
    )


def _pair(padding: str | tuple[int, ...]) -> tuple[int, ...]:
    if isinstance(padding, str):
        raise TypeError("a convolution with named padding is not covered")
    return padding


def _weight_of_one(layer: nn.Conv2d, inputs: Tensor, gradient: Tensor) -> Tensor:
    """Return a convolution's weight gradient for one record (its views make the batch), by torch's kernel."""
    found: Tensor = torch.ops.aten.convolution_backward(
        gradient,
        inputs,
        layer.weight.detach(),
        None,
        layer.stride,
        _pair(layer.padding),
        layer.dilation,
        False,
        [0, 0],
        layer.groups,
        [False, True, False],
    )[1]
    return found


def _convolution(layer: nn.Conv2d, inputs: Tensor, gradient: Tensor, views: int) -> LayerGradients:
    parts: list[LayerGradients] = []
    flat = gradient.flatten(2)
    if layer.weight.requires_grad:
        parts.append(_convolution_weight(layer, inputs, gradient, views))
        if isinstance(layer, WSConv2d):
            parts[-1] = _of_raw_weight(layer, parts[-1])
    if layer.bias is not None and layer.bias.requires_grad:
        parts.append(Rows(_per_record(flat.sum(dim=2), views)))
    return Several(parts)


def _convolution_weight(layer: nn.Conv2d, inputs: Tensor, gradient: Tensor, views: int) -> LayerGradients:
    size = layer.weight.numel()
    positions = views * gradient[0, 0].numel()
    if positions <= _FEW_POSITIONS and not isinstance(layer, WSConv2d):
        # (n * V, k, T) to (n, V * T, k): a record's views are more positions of it.
        a = _patches(layer, inputs).double().transpose(1, 2)
        g = gradient.flatten(2).double().transpose(1, 2)
        return _Outer(g.reshape(-1, positions, g.shape[2]), a.reshape(-1, positions, a.shape[2]))
    if inputs.device.type == "cpu" and size * positions >= _WORTH_A_CALL:
        pairs = zip(torch.split(inputs, views), torch.split(gradient, views), strict=True)
        return _PerRecord([_weight_of_one(layer, one, its) for one, its in pairs])
    products = torch.bmm(gradient.flatten(2), _patches(layer, inputs).transpose(1, 2))
    return Rows(_per_record(products, views))


def _of_raw_weight(layer: WSConv2d, part: LayerGradients) -> LayerGradients:
    """Turn gradients of a standardised weight v = (w - mean) / s into those of w, record by record.

    By the chain rule, for each output channel, (g - mean(g) - v mean(g v)) / s. The values that come out are
    those that norms are taken of and that are added.
    """
    deviation, weight = layer.deviation().flatten(1), layer.standardised().flatten(1)

    def raw(gradients: Tensor) -> Tensor:
        by_channel = gradients.reshape(*gradients.shape[:-1], *weight.shape)
        slope = (by_channel * weight).mean(dim=-1, keepdim=True)
        centred = by_channel - by_channel.mean(dim=-1, keepdim=True)
        return ((centred - weight * slope) / deviation).flatten(-2)

    if isinstance(part, Rows):
        return Rows(raw(part.gradients))
    if isinstance(part, _PerRecord):
        return _PerRecord([raw(one.reshape(-1)) for one in part.gradients])
    raise TypeError("a standardised weight's gradients are formed for every record")


def _group_norm(layer: nn.GroupNorm, inputs: Tensor, gradient: Tensor, views: int) -> LayerGradients:
    parts: list[LayerGradients] = []
    if layer.weight.requires_grad:
        normalised = F.group_norm(inputs, layer.num_groups, eps=layer.eps)
        parts.append(Rows(_per_record((gradient * normalised).flatten(2).sum(dim=2), views)))
    if layer.bias.requires_grad:
        parts.append(Rows(_per_record(gradient.flatten(2).sum(dim=2), views)))
    return Several(parts)


def gradients_of(layer: nn.Module, inputs: Tensor, gradient: Tensor, *, views: int) -> LayerGradients:
    """Return a covered layer's per-record gradients, its trainable parameters in their own order.

    ``inputs`` and ``gradient``, of its output, are (n * views, ...), a record's views next to each other.
    Raises ``TypeError`` for a layer that :func:`is_covered` refuses.
    """
    if isinstance(layer, nn.Linear):
        return _linear(layer, inputs, gradient, views)
    if isinstance(layer, nn.Conv2d):
        return _convolution(layer, inputs, gradient, views)
    if isinstance(layer, nn.GroupNorm):
        return _group_norm(layer, inputs, gradient, views)
    raise TypeError(f"{type(layer).__name__} is not covered")


def is_covered(layer: nn.Module) -> bool:
    """Tell whether :func:`gradients_of` knows this layer."""
    if isinstance(layer, nn.Conv2d) and type(layer) in (nn.Conv2d, WSConv2d):
        return layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return type(layer) in (nn.Linear, nn.GroupNorm)


def held_values(layer: nn.Module, output: Tensor, *, views: int) -> int:
    """Return about how many float32 values :func:`gradients_of` holds of a record, from an output's shape."""
    size = sum(parameter.numel() for parameter in layer.parameters(recurse=False) if parameter.requires_grad)
    if isinstance(layer, nn.Linear):
        return 0 if views * output[0].numel() // output.shape[-1] <= _FEW_POSITIONS else size
    if isinstance(layer, nn.Conv2d):
        positions = views * output[0, 0].numel()
        patches = positions * layer.weight[0].numel()
        if positions <= _FEW_POSITIONS and not isinstance(layer, WSConv2d):
            return 2 * patches
        return size if size * positions >= _WORTH_A_CALL else size + patches
    return size
