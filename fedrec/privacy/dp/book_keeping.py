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
from torch.autograd.graph import GradientEdge, get_gradient_edge

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


@dataclass(frozen=True)
class BookKeeper:
    """Runs a covered model, and computes its layers' per-record gradients during the backward pass.

    Attributes:
        model: the model; :func:`covers` must hold for it.
    """

    model: nn.Module

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
        backward = _BackwardPass(views)
        with self._hooked(backward.record):
            loss = loss_of(self.model(inputs))
        if len({id(layer) for layer in backward.layers}) != len(backward.layers):
            raise RuntimeError("a layer is used more than once in a pass")
        return backward.run(loss)

    def values_per_record(self, inputs: Tensor, *, views: int) -> int:
        """Estimate the memory that per-record gradients take, beyond the pass's own activations.

        Args:
            inputs: (views, ...), one record; the model is run on it, and no gradient is computed.
            views: V, views per record.

        Returns:
            The approximate number of float32 values per record.
        """
        seen: list[tuple[nn.Module, Tensor]] = []
        with self._hooked(lambda layer, _, output: seen.append((layer, output))):
            self.model(inputs)
        return sum(values_per_record(layer, output, views=views) for layer, output in seen)

    @contextmanager
    def _hooked(self, record: Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]) -> Iterator[None]:
        """Call ``record`` with (layer, inputs, output) of every trainable layer that runs in the block."""
        layers = [layer for layer in self.model.modules() if _own_parameters(layer)]
        handles = [layer.register_forward_hook(record) for layer in layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


@dataclass(frozen=True)
class _BackwardPass:
    """Computes each layer's gradients as soon as the backward pass reaches it.

    A layer's input, and the gradient of its output, are then freed at once: keeping those of all layers to
    the end takes memory, and the time to get it from the system.

    Attributes:
        views: views per record.
        layers: the layers in the order in which the forward pass used them.
    """

    views: int
    layers: list[nn.Module] = field(default_factory=list)
    _inputs: dict[int, Tensor] = field(default_factory=dict)
    _ends: list[GradientEdge] = field(default_factory=list)
    _found: dict[int, LayerGradients] = field(default_factory=dict)

    def record(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Take up a layer that the forward pass has run."""
        place = len(self.layers)
        self.layers.append(layer)
        # The output of a layer that no trained parameter reaches has no gradient.
        if not output.requires_grad:
            return
        self._inputs[place] = inputs[0].detach()
        # The pass goes on through every other layer, to those before it.
        if not (self._ends and inputs[0].requires_grad):
            # The edge stays this layer's where an operation in place changes its output.
            self._ends.append(get_gradient_edge(output))

        def reached(gradient: Tensor | None) -> None:
            recorded = self._inputs.pop(place)
            if gradient is not None:
                with torch.no_grad():
                    self._found[place] = gradients_of(layer, recorded, gradient, views=self.views)

        output.register_hook(reached)  # type: ignore[no-untyped-call]  # torch declares no types

    def run(self, loss: Tensor) -> list[tuple[list[nn.Parameter], LayerGradients]]:
        """Run the pass; layers that the loss doesn't depend on are left out."""
        torch.autograd.grad(loss, self._ends, allow_unused=True)
        return [(_own_parameters(self.layers[place]), self._found[place]) for place in sorted(self._found)]
