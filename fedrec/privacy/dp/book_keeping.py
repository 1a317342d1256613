"""Per-record gradients from one backward pass, without a second one for the clipped sum.

A layer's per-record gradient follows from its input and the gradient of its output. Keeping both from one
pass gives every record's norm and then the clipped sum as a weighted one (Bu et al. 2023, "Differentially
Private Optimization on Large Model at Small Cost", section 3.2). :mod:`layer_gradients` has the layers;
:func:`covers` tells whether a model has others, which are left to Opacus.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from fedrec.privacy.dp.layer_gradients import LayerGradients, gradients_of, held_values, is_covered


def _own_parameters(layer: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in layer.parameters(recurse=False) if parameter.requires_grad]


def covers(model: nn.Module) -> bool:
    """Tell whether every trainable parameter is in one layer of a kind that is covered here."""
    return not unknown_layers(model)


def unknown_layers(model: nn.Module) -> tuple[str, ...]:
    """Name the kinds of layers that are not covered here, and say where layers share parameters."""
    layers = [layer for layer in model.modules() if _own_parameters(layer)]
    owned = [id(parameter) for layer in layers for parameter in _own_parameters(layer)]
    trained = [id(parameter) for parameter in model.parameters() if parameter.requires_grad]
    found = sorted({type(layer).__name__ for layer in layers if not is_covered(layer)})
    return (*found, *(() if sorted(owned) == sorted(trained) else ("parameters that layers share",)))


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
        with self._keeping() as seen:
            loss = loss_of(self.model(inputs))
            if len({id(layer) for layer, _, _ in seen}) != len(seen):
                raise RuntimeError("a layer is used more than once in a pass")
            gradients = torch.autograd.grad(loss, [output for _, _, output in seen], allow_unused=True)
        with torch.no_grad():
            return [
                (_own_parameters(layer), gradients_of(layer, kept, gradient, views=views))
                for (layer, kept, _), gradient in zip(seen, gradients, strict=True)
                if gradient is not None
            ]

    def held_values(self, inputs: Tensor, *, views: int) -> int:
        """Return about how many float32 values a pass holds of one record, beside the pass's own.

        ``inputs`` is one record, (views, ...); the model is run on it without gradients.
        """
        with torch.no_grad(), self._keeping() as seen:
            self.model(inputs)
        return sum(held_values(layer, output, views=views) for layer, _, output in seen)

    @contextmanager
    def _keeping(self) -> Iterator[list[tuple[nn.Module, Tensor, Tensor]]]:
        """Keep (layer, input, output) of every trained layer that the model runs in the block."""
        layers = [layer for layer in self.model.modules() if _own_parameters(layer)]
        handles = [layer.register_forward_hook(self._keep) for layer in layers]
        try:
            yield self._seen
        finally:
            self._seen = []
            for handle in handles:
                handle.remove()

    def _keep(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self._seen.append((layer, inputs[0].detach(), output))
