"""A network on pictures as one module: from uint8 pictures to scores, embedding and exact evidence."""

from __future__ import annotations

import copy
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedrec.recognition.bundle.photo_inputs import PhotoInput
from fedrec.recognition.export.feature_graph import Outputs
from fedrec.recognition.export.linear_head import centred_form
from fedrec.vision.model_inputs import InputShape
from fedrec.vision.model_spec import ModelSpec
from fedrec.vision.models.centred_head import CentredHead
from fedrec.vision.normalisation import normalise


@runtime_checkable
class PooledMaps(Protocol):
    """A network whose scores are linear in the means of maps, so that places of a picture have exact shares.

    Attributes:
        scores: the last layer.
    """

    scores: nn.Linear

    def maps(self, images: Tensor) -> Tensor:
        """Compute the maps (n, channels, height, width) whose means over positions the scores are made of."""
        ...


@runtime_checkable
class CentredMaps(Protocol):
    """A network whose scores are those of a centred head on the means of maps, brought to unit length.

    Attributes:
        head: the head.
    """

    head: CentredHead

    def maps(self, images: Tensor) -> Tensor:
        """Compute the maps (n, channels, height, width) whose means over positions the head takes."""
        ...


class PixelGraph(nn.Module):
    """A network that takes pictures, with their public normalisation.

    The embedding is what the last linear layer takes, or the centred scores where no linear layer comes last.

    Args:
        spec: the model.
        shape: shape of its pictures.
        network: the trained network.
    """

    def __init__(self, spec: ModelSpec, shape: InputShape, network: nn.Module) -> None:
        super().__init__()
        self.inputs = (
            PhotoInput(
                name=f"photo{shape.size}",
                size=shape.size,
                channels=3 if shape.channels == 3 else 1,
                fit="crop",
                margin=spec.margin,
            ),
        )
        self._mean, self._std = spec.mean, spec.std
        self.network = network
        self._opened, self._length = opened_last_layer(network, self._example(shape))

    def forward(self, pictures: Tensor) -> Outputs:
        """Compute the outputs of uint8 pictures (n, size, size, channels)."""
        images = normalise(pictures, mean=self._mean, std=self._std)
        if isinstance(self.network, PooledMaps):
            maps = self.network.maps(images)
            last = self.network.scores
            means = maps.mean(dim=(2, 3))
            scores = last(means)
            offset = (scores * 0 + last.bias) if last.bias is not None else scores * 0
            evidence = torch.einsum("kc,nchw->nkhw", last.weight, maps)
            return Outputs(scores, F.normalize(means, dim=1), offset, (evidence,))
        if isinstance(self.network, CentredMaps):
            return _of_centred_maps(self.network.maps(images), self.network.head)
        if self._opened is None:
            scores = self.network(images)
            return Outputs(scores, F.normalize(scores - scores.mean(dim=1, keepdim=True), dim=1))
        both = self._opened(images)
        return Outputs(both[:, self._length :], F.normalize(both[:, : self._length], dim=1))

    def _example(self, shape: InputShape) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        sides = (2, shape.size, shape.size, shape.channels)
        pictures = torch.randint(0, 256, sides, dtype=torch.uint8, generator=generator)
        return normalise(pictures, mean=self._mean, std=self._std)


def _of_centred_maps(maps: Tensor, head: CentredHead) -> Outputs:
    """Return the outputs of a centred head on the means of maps; each place has its share of them."""
    means = maps.mean(dim=(2, 3))
    length = means.norm(dim=1, keepdim=True).clamp(min=1e-12)
    centred = head.centring(means / length)
    form = centred_form(head, means / length)
    shares = torch.einsum("kc,nchw->nkhw", form.weights, maps) * (form.scale / length)[..., None, None]
    return Outputs(head.scores(centred), centred, form.offset, (shares,))


class _WithInput(nn.Module):
    """A linear layer that gives its input beside its output."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.cat((inputs, self.linear(inputs)), dim=-1)


def opened_last_layer(network: nn.Module, example: Tensor) -> tuple[nn.Module | None, int]:
    """Make a copy of a network that gives the last layer's input beside the scores.

    Args:
        network: any network.
        example: pictures that it takes.

    Returns:
        The copy, and the length of what stands before the scores; None and 0 where the network's output isn't
        that of a linear layer.
    """
    network.eval()
    with torch.no_grad():
        expected = network(example)
        for name, module in reversed(list(network.named_modules())):
            if not isinstance(module, nn.Linear) or module.out_features != expected.shape[1] or not name:
                continue
            opened = copy.deepcopy(network)
            parent, _, own = name.rpartition(".")
            setattr(opened.get_submodule(parent), own, _WithInput(module))
            try:
                both = opened(example)
            # A later layer doesn't take the longer vector.
            except RuntimeError:
                continue
            length = module.in_features
            if both.shape == (len(example), length + expected.shape[1]) and torch.equal(
                both[:, length:], expected
            ):
                return opened, length
    return None, 0
