"""Expand the seed of a noise layer, and add its noise to a vector or take it off again.

Whoever knows a seed gets the same noise on every machine: the keystream is ChaCha20's, and the sampler of
:mod:`fedrec.privacy.dp.noise` decides by integers. Noise is made in chunks, so that no layer is in memory as
a whole.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fedrec.privacy.dp.noise import discrete_gaussian
from fedrec.privacy.randomness import Randomness

_CHUNK = 1 << 16
"""Coordinates that are drawn together; part of the definition of a layer's noise."""
_DOMAIN = b"fedrec/noise-layer/1"


def add_layer(values: NDArray[np.int64], seed: int, *, std: float) -> None:
    """Add a layer's noise in place.

    Args:
        values: int64 (d,), in grid units.
        seed: the layer's seed, below 2**256.
        std: the layer's parameter, in grid units.
    """
    for part, noise in _chunks(values, seed, std=std):
        part += noise


def remove_layer(values: NDArray[np.int64], seed: int, *, std: float) -> None:
    """Subtract in place what :func:`add_layer` adds.

    Args:
        values: int64 (d,), in grid units.
        seed: the layer's seed, below 2**256.
        std: the layer's parameter, in grid units.
    """
    for part, noise in _chunks(values, seed, std=std):
        part -= noise


def _chunks(
    values: NDArray[np.int64], seed: int, *, std: float
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield views of the values, chunk by chunk, each with the layer's noise for it."""
    # Not the stream of any other use of the same bytes.
    stream = Randomness.expanding(seed.to_bytes(32, "big"), domain=_DOMAIN)
    for start in range(0, values.size, _CHUNK):
        part = values[start : start + _CHUNK]
        yield part, discrete_gaussian(part.size, sigma=std, rng=stream)
