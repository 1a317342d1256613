"""Leave the layers of a graph in float32 that 8-bit integers serve worst: by error, or by speed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from fedrec.errors import ConfigError
from fedrec.recognition.compression.quantisation import Layer

MOST_COST: Final = 0.1
"""Part of the weights, and of the multiplications, that may stay in float32 for accuracy."""
_PRODUCTS: Final = 0.5
"""Part of the weights that products must have, so that quantising them alone saves much."""


def products(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """Choose the products alone.

    onnxruntime computes float32's convolutions, and what pools between them, in a blocked layout that it has
    no integers for. Where each convolution is followed by what it computes in float32, such as a pooling or a
    normalisation, conversions and slower pooling cost more than integers save.

    Args:
        layers: the layers that can be quantised.

    Returns:
        Those that are products.

    Raises:
        ConfigError: convolutions hold most of the weights, or there are none.
    """
    chosen = tuple(layer for layer in layers if layer.is_product)
    if len(chosen) == len(layers):
        raise ConfigError("it has no convolutions that could stay in float32")
    if sum(layer.weights for layer in chosen) < _PRODUCTS * sum(layer.weights for layer in layers):
        raise ConfigError("most of its weights are those of convolutions")
    return chosen


def later(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """Choose all layers but the first ones, which cost at most :data:`MOST_COST` in float32.

    Of EfficientNet-Lite0, quantised one by one, the first four of 47 have half of the sum of the squared
    errors, 9% of the multiplications and 0.2% of the weights. Float32 layers between others would cost
    conversions.

    Args:
        layers: the layers that can be quantised.

    Returns:
        The later ones.

    Raises:
        ConfigError: the first ones cost more already.
    """
    weights, work = (
        max(1, sum(values)) for values in ([each.weights for each in layers], [each.work for each in layers])
    )
    first = 0
    for depth in sorted({each.depth for each in layers}):
        before = [each for each in layers if each.depth <= depth]
        cost = max(sum(each.weights for each in before) / weights, sum(each.work for each in before) / work)
        if cost > MOST_COST:
            break
        first = depth + 1
    if not first:
        raise ConfigError("its first layers have too large a part of it to stay in float32")
    return tuple(each for each in layers if each.depth >= first)
