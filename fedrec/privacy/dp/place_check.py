"""Check that a pass computes each of its records alike, wherever the record stands in the pass.

A matrix product may compute its last rows by another kernel than its first ones, depending on the processor
and on the product's shape: the same record then gives another gradient, by a rounding error of float32, in
another place. Since records change places when one is removed, that would change the contributions of all
others. The check runs random records through the model in several orders, with random parameters, and
compares each record's gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from fedrec.privacy.dp.vectors import trainable

_SAME_GRADIENT, _SAME_NORM = 2.0**-40, 2.0**-36
"""Relative differences that float64 sums explain, and float32 roundings don't."""

_found: dict[Hashable, bool] = {}


class Pass(Protocol):
    """The gradients of the records of one pass."""

    def square_norms(self) -> Tensor:
        """Return the squared norm of each gradient, float64 (m,)."""
        ...

    def gradient(self, place: int) -> Tensor:
        """Return the gradient of the record in a place, float64 (d,)."""
        ...


def places_are_alike(model: nn.Module, inputs: Tensor, count: int, run: Callable[[Tensor], Pass]) -> bool:
    """Return whether a record's gradient is the same in each place of a pass.

    It is found out once a process and shape.

    Args:
        model: the model; its parameters are changed during the check, and restored.
        inputs: (n, V, ...), gives shape, type and device of a record. Its values aren't used.
        count: m, records in a pass.
        run: runs a pass, (m, V, ...).

    Returns:
        True if a pass has one record, or if no norm differed by more than 2**-36, nor a compared gradient by
        more than 2**-40 of its norm.
    """
    record = inputs[0]
    key = (_structure(model), record.shape, record.dtype, record.device, count, torch.get_num_threads())
    if key not in _found:
        with _random_parameters(model):
            drawn = random_values((count, *record.shape), dtype=record.dtype)
            _found[key] = _alike(drawn.to(record.device), run)
    return _found[key]


def features_are_alike(features: Callable[[Tensor], Tensor], inputs: Tensor, count: int) -> bool:
    """Return whether a pass gives a view the same features, to the last bit, in each place.

    Args:
        features: runs a pass, (m, ...) to (m, d).
        inputs: (n, V, ...), gives shape and type of a view. Its values aren't used.
        count: m, views in a pass.

    Returns:
        True if random views have the same features in three orders.
    """
    views = random_values((count, *inputs.shape[2:]), dtype=inputs.dtype)
    usual = features(views)
    return all(
        torch.equal(features(views.roll(shift, 0)).roll(-shift, 0), usual) for shift in {1, count // 2}
    )


def _alike(records: Tensor, run: Callable[[Tensor], Pass]) -> bool:
    # The gradients of two records are compared by projections on one random direction: those of two vectors
    # that differ by v differ by a normal variable of deviation ||v||. Norms are cheap for all records.
    last = len(records) - 1
    usual = run(records)
    if not last:
        return True
    squares = usual.square_norms()
    gradients = {place: usual.gradient(place) for place in (0, last)}
    direction = random_values(gradients[0].shape, dtype=torch.float64)
    direction = direction.to(squares.device)
    values = {place: (float(g @ direction), float(g.norm())) for place, g in gradients.items()}
    for shift in {1, len(records) // 2, last}:
        other = run(records.roll(shift, 0))
        if not torch.allclose(other.square_norms().roll(-shift), squares, rtol=2 * _SAME_NORM, atol=0.0):
            return False
        for place, (value, norm) in values.items():
            found = other.gradient((place + shift) % len(records))
            if abs(float(found @ direction) - value) > _SAME_GRADIENT * norm:
                return False
    return True


def random_values(shape: Sequence[int], *, dtype: torch.dtype) -> Tensor:
    """Return the same normal values each time, in the place of records: no record and no noise is drawn so.

    Args:
        shape: of the result.
        dtype: a floating-point type.

    Returns:
        Values on the CPU.
    """
    return torch.randn(shape, generator=_generator(), dtype=dtype)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _structure(model: nn.Module) -> Hashable:
    """Return what decides which kernels a model's passes use."""
    return tuple(
        (type(module), tuple(parameter.shape for parameter in module.parameters(recurse=False)))
        for module in model.modules()
    )


@contextmanager
def _random_parameters(model: nn.Module) -> Iterator[None]:
    """Give trainable parameters random values within a block: at zero, nothing would differ."""
    parameters = list(trainable(model))
    generator = _generator()
    before = [parameter.detach().clone() for parameter in parameters]
    try:
        with torch.no_grad():
            for parameter in parameters:
                drawn = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
                parameter.copy_(drawn * max(1, parameter[0].numel()) ** -0.5)
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, before, strict=True):
                parameter.copy_(value)
