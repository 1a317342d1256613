"""A head on frozen networks as one module: from a photo's pictures to scores, embedding and evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fedrec.errors import ConfigError
from fedrec.recognition.bundle.photo_inputs import PhotoInput
from fedrec.recognition.export.area_pooling import coarser
from fedrec.recognition.export.linear_head import LinearForm, completed, linear_form, projection_of
from fedrec.vision.backbones.feature_sets import Block, FeatureSet
from fedrec.vision.backbones.fixed_views import CROP_MARGIN
from fedrec.vision.backbones.traceable import GraphFile, Traceable
from fedrec.vision.backbones.view_names import FixedView

_MIRRORED: FixedView = "flip"


class Part(NamedTuple):
    """A part of a layer in all views, before it is pooled.

    Attributes:
        maps: (views, n, channels, height, width), or vectors (views, n, length).
        flat: whether the values themselves are the features, instead of the means of maps.
    """

    maps: Tensor
    flat: bool

    @property
    def features(self) -> Tensor:
        """The features, (views, n, length)."""
        if self.flat:
            return self.maps.flatten(2)
        return self.maps.mean(dim=(3, 4)) if self.maps.ndim == 5 else self.maps


@dataclass(frozen=True)
class _Pooled:
    """A block's vector, and what each view's features were multiplied by on the way.

    Attributes:
        vector: (n, length), of length 1.
        factors: (views, n, 1).
        parts: the layer's parts.
    """

    vector: Tensor
    factors: Tensor
    parts: Sequence[Part]


class Outputs(NamedTuple):
    """What a graph computes of n photos.

    Attributes:
        scores: (n, classes).
        vectors: (n, length), of length 1.
        offset: (n, classes), the part of the scores that no place in the photo accounts for; None without
            evidence.
        evidence: for each input (n, classes, side, side): the sum of their means, plus the offset, is the
            scores.
    """

    scores: Tensor
    vectors: Tensor
    offset: Tensor | None = None
    evidence: Sequence[Tensor] = ()


def view_input(view: FixedView, *, size: int) -> PhotoInput:
    """Return the input picture of which a fixed view is made.

    Args:
        view: the view.
        size: side of the network's pictures in pixels.

    Returns:
        The input; the mirrored view is made of the crop, in the graph.
    """
    if view == "squash":
        return PhotoInput(name=f"squash{size}", size=size, channels=3, fit="squash", margin=1.0)
    if view == "wide":
        return PhotoInput(name=f"wide{size}", size=size, channels=3, fit="crop", margin=1.0)
    return PhotoInput(name=f"crop{size}", size=size, channels=3, fit="crop", margin=CROP_MARGIN)


class Fed(NamedTuple):
    """An input that is the output of a network which is a graph already.

    Attributes:
        name: of the input.
        block: a block on that network.
        view: the fixed view.
        layer: name of the network's output.
    """

    name: str
    block: Block
    view: FixedView
    layer: str


class FeatureGraph(nn.Module):
    """A feature set's networks and a head.

    Networks that are graphs already aren't a part of the module: it takes their outputs, :attr:`fed`.

    Args:
        features: the feature set.
        head: maps the set's vectors to scores; None for the vectors alone.

    Raises:
        ConfigError: torch can't export one of the networks.
    """

    def __init__(self, features: FeatureSet, head: nn.Module | None) -> None:
        super().__init__()
        self.head = head
        self._features = features
        self._projection = projection_of(features)
        self._views: dict[tuple[str, int], tuple[FixedView, ...]] = {}
        blocks: dict[tuple[str, int], Block] = {}
        for block in features.blocks:
            seen = self._views.get(_key(block), ())
            self._views[_key(block)] = tuple(dict.fromkeys((*seen, *(view for view, _ in block.views))))
            blocks.setdefault(_key(block), block)
        graphs = {key: block for key, block in blocks.items() if is_graph(block)}
        self.networks = nn.ModuleDict(
            {_slot(key): _network(block) for key, block in blocks.items() if key not in graphs}
        )
        own = {key: block for key, block in blocks.items() if key not in graphs}
        self.pictures = self._inputs(own)
        self.inputs = tuple({each.name: each for each in (*self.pictures, *self._inputs(graphs))}.values())
        self.fed = tuple(
            Fed(f"fed_{_slot(key)}_{view}_{number}", block, view, layer)
            for key, block in graphs.items()
            for view in self._views[key]
            for number, layer in enumerate(block.backbone.layers)
        )

    def _inputs(self, blocks: Mapping[tuple[str, int], Block]) -> tuple[PhotoInput, ...]:
        made = (view_input(view, size=key[1]) for key in blocks for view in self._views[key])
        return tuple({each.name: each for each in made}.values())

    def forward(self, *given: Tensor) -> Outputs:
        """Compute the outputs.

        Args:
            given: uint8 pictures (n, size, size, 3), one for each of :attr:`pictures`, and what :attr:`fed`
                says.

        Returns:
            The outputs.
        """
        names = [*(each.name for each in self.pictures), *(each.name for each in self.fed)]
        by_name = dict(zip(names, given, strict=True))
        layers = {key: self._layers(key, by_name) for key in self._views}
        pooled = [self._pooled(block, layers[_key(block)]) for block in self._features.blocks]
        lengths = [block.weight for block in self._features.blocks]
        side_by_side = torch.cat([w * each.vector for w, each in zip(lengths, pooled, strict=True)], dim=1)
        norm = _norm(side_by_side)
        vectors = side_by_side / norm
        if self.head is None:
            return Outputs(vectors[:, :0], completed(vectors, self._projection))
        made = completed(vectors, self._projection)
        form = linear_form(self.head, vectors, self._projection)
        if form is None or not all(part.maps.ndim == 5 for each in pooled for part in each.parts):
            return Outputs(self.head(made), made)
        evidence = self._evidence(pooled, form, norm)
        return Outputs(self.head(made), made, form.offset, [evidence[each.name] for each in self.inputs])

    def _layers(self, key: tuple[str, int], given: Mapping[str, Tensor]) -> dict[str, list[Part]]:
        """Return a network's layers in all views of it that are used."""
        if _slot(key) not in self.networks:
            return self._fed_layers(key, given)
        views = self._views[key]
        made = [given[view_input(view, size=key[1]).name] for view in views]
        made = [each.flip(2) if view == _MIRRORED else each for each, view in zip(made, views, strict=True)]
        backbone = next(block.backbone for block in self._features.blocks if _key(block) == key)
        layers = self.networks[_slot(key)](torch.cat(made, dim=0))
        found: dict[str, list[Part]] = {}
        for (name, length), parts in zip(backbone.layers.items(), layers, strict=True):
            channels = sum(part.shape[1] for part in parts)
            found[name] = [
                Part(part.reshape(len(views), -1, *part.shape[1:]), channels != length) for part in parts
            ]
        return found

    def _fed_layers(self, key: tuple[str, int], given: Mapping[str, Tensor]) -> dict[str, list[Part]]:
        found: dict[str, list[Tensor]] = {}
        for each in self.fed:
            if _key(each.block) == key:
                output = given[each.name].float()
                # Tokens have no place in the photo that all networks agree on: their mean is a vector.
                found.setdefault(each.layer, []).append(output.mean(dim=1) if output.ndim == 3 else output)
        return {layer: [Part(torch.stack(views), flat=False)] for layer, views in found.items()}

    def _pooled(self, block: Block, layers: Mapping[str, list[Part]]) -> _Pooled:
        views = self._views[_key(block)]
        chosen = [views.index(view) for view, _ in block.views]
        parts = [Part(part.maps[chosen], part.flat) for part in layers[block.layer]]
        features = torch.cat([part.features for part in parts], dim=2)
        weights = torch.tensor([weight for _, weight in block.views])[:, None, None]
        factors = weights / _norm(features)
        summed = (factors * features).sum(dim=0)
        norm = _norm(summed)
        return _Pooled(summed / norm, factors / norm, parts)

    def _evidence(self, pooled: Sequence[_Pooled], form: LinearForm, norm: Tensor) -> dict[str, Tensor]:
        """Divide the linear part of the scores among the places of the inputs."""
        sides = self._sides(pooled)
        found: dict[str, Tensor] = {}
        start = 0
        for block, each in zip(self._features.blocks, pooled, strict=True):
            scale = block.weight * form.scale / norm
            for part in each.parts:
                length = int(part.features.shape[2])
                weights = form.weights[:, start : start + length]
                start += length
                for place, (view, _) in enumerate(block.views):
                    name = view_input(view, size=block.size).name
                    maps = _weighted(part, weights, place) * (scale * each.factors[place])[..., None, None]
                    maps = coarser(maps, side=sides[name])
                    maps = maps.flip(3) if view == _MIRRORED else maps
                    found[name] = found[name] + maps if name in found else maps
        return found

    def _sides(self, pooled: Sequence[_Pooled]) -> dict[str, int]:
        """Return the side of each input's evidence: that of its coarsest maps."""
        sides: dict[str, int] = {}
        for block, each in zip(self._features.blocks, pooled, strict=True):
            coarsest = min(int(part.maps.shape[-1]) for part in each.parts)
            for view, _ in block.views:
                name = view_input(view, size=block.size).name
                sides[name] = min(coarsest, sides.get(name, coarsest))
        return sides


def _weighted(part: Part, weights: Tensor, place: int) -> Tensor:
    """Return each position's share in the scores, (n, classes, height, width), whose mean is the whole."""
    maps = part.maps[place]
    if not part.flat:
        means: Tensor = torch.einsum("kc,nchw->nkhw", weights, maps)
        return means
    height, width = int(maps.shape[2]), int(maps.shape[3])
    at_positions = weights.reshape(len(weights), -1, height, width)
    sums: Tensor = torch.einsum("kchw,nchw->nkhw", at_positions, maps)
    spread: Tensor = sums * float(height * width)
    return spread


def _norm(vectors: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return lengths.clamp(min=1e-12)


def _key(block: Block) -> tuple[str, int]:
    return block.backbone.name, block.size


def _slot(key: tuple[str, int]) -> str:
    # A module's name may hold no dot.
    return f"{key[0]}_{key[1]}".replace(".", "_")


def is_graph(block: Block) -> bool:
    """Tell whether a block's network is a graph already."""
    return isinstance(block.backbone, GraphFile) and block.backbone.is_graph


def _network(block: Block) -> nn.Module:
    if not isinstance(block.backbone, Traceable):
        raise ConfigError(f"the network {block.backbone.name} can't be exported")
    return block.backbone.traceable(size=block.size)
