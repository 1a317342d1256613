"""Compute per-record gradient norms and the clipped sum from one backward pass, by book-keeping.

A layer's per-record gradient is a function of the layer's input and the gradient of its output. Recording
both in one pass gives each record's norm, and then the clipped sum as a weighted sum, without a second
backward pass (Bu et al. 2023, "Differentially Private Optimization on Large Model at Small Cost", section
3.2). :mod:`layer_gradients` implements the layers; models with other layers (see :func:`covers`) use Opacus.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from fedrec.privacy.dp.gradient_forms import LayerGradients
from fedrec.privacy.dp.layer_gradients import gradients_of, is_covered, values_per_record


def _own_parameters(layer: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in layer.parameters(recurse=False) if parameter.requires_grad]


def covers(model: nn.Module) -> bool:
    """Return whether every trainable parameter belongs to exactly one layer, of a kind covered here."""
    return not unknown_layers(model)


def unknown_layers(model: nn.Module) -> tuple[str, ...]:
    """Return the class names of the layers not covered here, and a note if layers share parameters."""
    layers = [layer for layer in model.modules() if _own_parameters(layer)]
    owned = [id(parameter) for layer in layers for parameter in _own_parameters(layer)]
    trained = [id(parameter) for parameter in model.parameters() if parameter.requires_grad]
    found = sorted({type(layer).__name__ for layer in layers if not is_covered(layer)})
    return (*found, *(() if sorted(owned) == sorted(trained) else ("parameters that layers share",)))


@dataclass
class BookKeeper:
    """Runs a covered model, and records what its layers' per-record gradients are computed from.

    Attributes:
        model: the model; :func:`covers` must hold for it.
    """

    model: nn.Module
    _seen: list[tuple[nn.Module, Tensor, Tensor]] = field(default_factory=list)

    def layer_gradients(
        self, inputs: Tensor, loss_of: Callable[[Tensor], Tensor], *, views: int
    ) -> list[tuple[list[nn.Parameter], LayerGradients]]:
        """Run one forward and backward pass, and return each layer's per-record gradients.

        Args:
            inputs: (n * views, ...), n records; the views of a record are adjacent.
            loss_of: maps the model's output to the loss summed over the records, a scalar.
            views: V, views per record.

        Returns:
            For each layer that the loss depends on, its trainable parameters and their gradients.

        Raises:
            RuntimeError: a layer was used more than once in the pass.
        """
        with self._recording() as seen:
            loss = loss_of(self.model(inputs))
            if len({id(layer) for layer, _, _ in seen}) != len(seen):
                raise RuntimeError("a layer is used more than once in a pass")
            # The output of a layer that the loss reaches by no path has no gradient.
            seen = [entry for entry in seen if entry[2].requires_grad]
            gradients = torch.autograd.grad(loss, [output for _, _, output in seen], allow_unused=True)
        with torch.no_grad():
            return [
                (_own_parameters(layer), gradients_of(layer, recorded, gradient, views=views))
                for (layer, recorded, _), gradient in zip(seen, gradients, strict=True)
                if gradient is not None
            ]

    def values_per_record(self, inputs: Tensor, *, views: int) -> int:
        """Estimate the memory that per-record gradients take, beyond the pass's own activations.

        Args:
            inputs: (views, ...), one record; the model is run on it, and no gradient is computed.
            views: V, views per record.

        Returns:
            The approximate number of float32 values per record.
        """
        with self._recording() as seen:
            self.model(inputs)
            return sum(values_per_record(layer, output, views=views) for layer, _, output in seen)

    @contextmanager
    def _recording(self) -> Iterator[list[tuple[nn.Module, Tensor, Tensor]]]:
        """Record (layer, input, output) of every trainable layer that the model runs in the block."""
        layers = [layer for layer in self.model.modules() if _own_parameters(layer)]
        handles = [layer.register_forward_hook(self._record) for layer in layers]
        try:
            yield self._seen
        finally:
            self._seen = []
            for handle in handles:
                handle.remove()

    def _record(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self._seen.append((layer, inputs[0].detach(), output))
