"""Hold the gradients of all records of a pass, in one of four forms, and compute norms and weighted sums.

The forms are one outer product per record (:class:`OuterProduct`) or several (:class:`OuterProducts`), which
are not computed record by record, one matrix of all records' gradients (:class:`GradientMatrix`), and one
tensor per record (:class:`GradientList`), for which torch's convolution kernel is fastest. Each computes
norms and weighted sums from the same float32 values. Norms and sums are float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

# From this many values per record, gradients are added one by one, without a float64 copy of all of them.
_MIN_LONG_GRADIENT = 4096
# Values that are converted to float64 at once: half a MiB of them, which caches hold.
_BLOCK = 2**16
_UNIT_ROUNDOFF = 2.0**-53
# A record whose squared norm is below this part of its largest possible value is computed by itself.
_MIN_CANCELLATION_RATIO = 2.0**-10


class LayerGradients(Protocol):
    """The gradients of one layer for n records."""

    def square_norms(self) -> Tensor:
        """Return each record's squared L2 norm over all of the layer's parameters, float64 (n,).

        It is smaller than the squared norm of the values that :meth:`add_weighted` adds by at most the
        float64 rounding error of a sum of squares.
        """
        ...

    def add_weighted(self, factors: Tensor, totals: Sequence[Tensor]) -> None:
        """Add the weighted sum of the records' gradients to the totals.

        Args:
            factors: float64 (n,), one weight per record.
            totals: one flat float64 tensor per trainable parameter, in the layer's order; changed in place.
        """
        ...


@dataclass(frozen=True)
class OuterProduct:
    """Gradients of a weight as one outer product g a^T per record, such as those of a head on features.

    The norm is |g||a| (Goodfellow 2015, "Efficient Per-Example Gradient Computations").

    Attributes:
        outputs: g, (n, out), gradients of the layer's output.
        inputs: a, (n, in), the layer's input.
    """

    outputs: Tensor
    inputs: Tensor

    def square_norms(self) -> Tensor:
        """Return squared norms; see :class:`LayerGradients`."""
        return _square_norms(self.outputs) * _square_norms(self.inputs)

    def add_weighted(self, factors: Tensor, totals: Sequence[Tensor]) -> None:
        """Add the weighted sum of the records' gradients; see :class:`LayerGradients`.

        Args:
            factors: float64 (n,), one weight per record.
            totals: one flat float64 tensor, changed in place.
        """
        weighted = (self.outputs.double() * factors[:, None]).T
        total = totals[0].view(self.outputs.shape[1], self.inputs.shape[1])
        columns = max(1, _BLOCK // len(self.inputs))
        parts = zip(torch.split(total, columns, 1), torch.split(self.inputs, columns, 1), strict=True)
        for part, inputs in parts:
            part.addmm_(weighted, inputs.double())


@dataclass(frozen=True)
class OuterProducts:
    """Gradients of a weight as a sum of outer products g_t a_t^T over a record's positions t = 1..T.

    The squared norm is the sum over pairs of positions of (g_t . g_u)(a_t . a_u) (Li et al. 2022, "Large
    Language Models Can Be Strong Differentially Private Learners"). Let L = sum over t of |g_t||a_t|, the
    largest possible norm. Rounding changes the squared norm by at most (in + out + T^2 + 2) * 2**-53 * L^2
    (Higham 2002, "Accuracy and Stability of Numerical Algorithms", section 3.1). Twice this is added, so that
    the norm is never underestimated.

    If the terms cancel so much that the norm is below L / 2**5, this addition would be too large relative to
    the norm, and so would the rounding error of the weighted sum, whose terms have the size of L. The
    gradient of such a record is therefore computed by itself, in float64, and both its norm and its
    contribution are taken from these values. Whether this is done depends on the record alone.

    Attributes:
        outputs: g, float64 (n, T, out), gradients of the layer's output; T >= 2.
        inputs: a, float64 (n, T, in), the layer's input.
    """

    outputs: Tensor
    inputs: Tensor

    def square_norms(self) -> Tensor:
        """Return squared norms; see :class:`LayerGradients`."""
        return self._norms_and_cancelled[0]

    def add_weighted(self, factors: Tensor, totals: Sequence[Tensor]) -> None:
        """Add the weighted sum of the records' gradients; see :class:`LayerGradients`.

        Args:
            factors: float64 (n,), one weight per record.
            totals: one flat float64 tensor, changed in place.
        """
        cancelled = self._norms_and_cancelled[1]
        together = factors.clone()
        together[cancelled] = 0.0
        weighted = (self.outputs * together[:, None, None]).flatten(0, 1)
        totals[0].add_((weighted.T @ self.inputs.flatten(0, 1)).reshape(-1))
        for record in cancelled:
            totals[0].add_(self._gradient(record).reshape(-1), alpha=float(factors[record]))

    @cached_property
    def _norms_and_cancelled(self) -> tuple[Tensor, list[int]]:
        """Squared norms, float64 (n,), and the records whose gradients are computed by themselves."""
        positions = self.inputs.shape[1]
        outputs = torch.bmm(self.outputs, self.outputs.transpose(1, 2))
        inputs = torch.bmm(self.inputs, self.inputs.transpose(1, 2))
        lengths = outputs.diagonal(dim1=1, dim2=2) * inputs.diagonal(dim1=1, dim2=2)
        largest = lengths.sqrt().sum(1).square()  # L^2
        error = 2.0 * (self.inputs.shape[2] + self.outputs.shape[2] + positions**2 + 2) * _UNIT_ROUNDOFF
        squares = (outputs * inputs).sum(dim=(1, 2)).clamp(min=0) + error * largest
        cancelled: list[int] = torch.nonzero(squares < _MIN_CANCELLATION_RATIO * largest).flatten().tolist()
        for record in cancelled:
            squares[record] = self._gradient(record).square().sum()
        return squares, cancelled

    def _gradient(self, record: int) -> Tensor:
        return self.outputs[record].T @ self.inputs[record]


@dataclass(frozen=True)
class GradientMatrix:
    """Gradients of one parameter for all records, a matrix (n, size)."""

    gradients: Tensor

    def square_norms(self) -> Tensor:
        """Return squared norms; see :class:`LayerGradients`."""
        return _square_norms(self.gradients)

    def add_weighted(self, factors: Tensor, totals: Sequence[Tensor]) -> None:
        """Add the weighted sum of the records' gradients; see :class:`LayerGradients`.

        Args:
            factors: float64 (n,), one weight per record.
            totals: one flat float64 tensor per parameter; changed in place.
        """
        if self.gradients.shape[1] < _MIN_LONG_GRADIENT:
            totals[0].add_(factors @ self.gradients.double())
        else:
            _add_each(self.gradients, factors, totals[0])


@dataclass(frozen=True)
class GradientList:
    """Gradients of one parameter, one tensor per record."""

    gradients: list[Tensor]

    def square_norms(self) -> Tensor:
        """Return squared norms; see :class:`LayerGradients`."""
        norms = [torch.linalg.vector_norm(one, dtype=torch.float64) for one in self.gradients]
        return torch.stack(norms).square()

    def add_weighted(self, factors: Tensor, totals: Sequence[Tensor]) -> None:
        """Add the weighted sum of the records' gradients; see :class:`LayerGradients`.

        Args:
            factors: float64 (n,), one weight per record.
            totals: one flat float64 tensor, changed in place.
        """
        _add_each(self.gradients, factors, totals[0])


@dataclass(frozen=True)
class ParameterGradients:
    """Gradients of several parameters, one part per parameter."""

    parts: list[LayerGradients]

    def square_norms(self) -> Tensor:
        """Return squared norms; see :class:`LayerGradients`."""
        return torch.stack([part.square_norms() for part in self.parts]).sum(dim=0)

    def add_weighted(self, factors: Tensor, totals: Sequence[Tensor]) -> None:
        """Add the weighted sum of the records' gradients; see :class:`LayerGradients`.

        Args:
            factors: float64 (n,), one weight per record.
            totals: one flat float64 tensor per parameter; changed in place.
        """
        for part, total in zip(self.parts, totals, strict=True):
            part.add_weighted(factors, [total])


@dataclass(frozen=True)
class ModelGradients:
    """Gradients of a whole model: its layers, each with the indices of its parameters in the model's list."""

    layers: list[tuple[list[int], LayerGradients]]

    def square_norms(self) -> Tensor:
        """Return squared norms; see :class:`LayerGradients`."""
        return torch.stack([layer.square_norms() for _, layer in self.layers]).sum(dim=0)

    def add_weighted(self, factors: Tensor, totals: Sequence[Tensor]) -> None:
        """Add the weighted sum of the records' gradients; see :class:`LayerGradients`.

        Args:
            factors: float64 (n,), one weight per record.
            totals: one flat float64 tensor per parameter; changed in place.
        """
        for indices, layer in self.layers:
            layer.add_weighted(factors, [totals[index] for index in indices])


def _square_norms(rows: Tensor) -> Tensor:
    """Return the squared norms of the rows of a matrix, added up in float64."""
    blocks = torch.split(rows, max(1, _BLOCK // max(1, rows.shape[1])))
    norms = [torch.linalg.vector_norm(block, dim=1, dtype=torch.float64) for block in blocks]
    return torch.cat(norms).square()


def _add_each(gradients: Sequence[Tensor] | Tensor, factors: Tensor, total: Tensor) -> None:
    # Torch converts float32 values to float64 before multiplying them, since the total is float64.
    for gradient, factor in zip(gradients, factors.tolist(), strict=True):
        total.add_(gradient.reshape(-1), alpha=factor)
