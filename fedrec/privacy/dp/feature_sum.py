"""Sum features, each clipped to the same norm as a gradient: one noised round of it releases their mean."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedrec.errors import ConfigError
from fedrec.privacy.dp.bounds import MAX_RECORDS

FEATURES_AT_ONCE: Final = 4096
"""Records that are held in float64 at once."""


def clipped_feature_sum(inputs: Tensor, *, clip: float) -> NDArray[np.float64]:
    """Sum the records' feature vectors, each scaled by the clip and clipped to it.

    A record's vector is the average over its views, scaled by ``clip``, so that features of unit length use
    the whole norm that the noise hides; longer vectors are clipped. A vector that isn't finite counts as
    zero. The sum's L2 sensitivity is therefore ``clip``, as that of a sum of clipped gradients. All
    operations are in float64.

    Args:
        inputs: float32 or float64 (n, V, d), V views per record; n may be 0.
        clip: C, the clipping norm.

    Returns:
        float64 (d,).

    Raises:
        ConfigError: the shape differs, or there are more than 2**17 records.
    """
    if inputs.ndim != 3 or inputs.shape[1] < 1:
        raise ConfigError(f"feature sum: expects inputs [n, views, d], not {tuple(inputs.shape)}.")
    if inputs.shape[0] > MAX_RECORDS:
        raise ConfigError(f"feature sum: {inputs.shape[0]} records, the limit is {MAX_RECORDS}.")
    total = torch.zeros(inputs.shape[2], dtype=torch.float64, device=inputs.device)
    for start in range(0, inputs.shape[0], FEATURES_AT_ONCE):
        vectors = inputs[start : start + FEATURES_AT_ONCE].double().mean(dim=1)
        lengths = torch.linalg.vector_norm(vectors, dim=1)
        factors = clip / lengths.clamp(min=1.0)
        # 0 * NaN is NaN, so such vectors are replaced; a factor of zero would not be enough.
        vectors[~torch.isfinite(lengths)] = 0.0
        factors[~torch.isfinite(lengths)] = 0.0
        total += factors @ vectors
    result: NDArray[np.float64] = total.cpu().numpy()
    return result
