"""Bring maps to a coarser grid with the same mean."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def area_matrix(fine: int, coarse: int) -> Tensor:
    """Return the matrix that averages ``fine`` cells of a line into ``coarse`` ones by the area they share.

    Every fine cell has the same weight in total, so that the mean stays what it was.

    Args:
        fine: number of cells.
        coarse: number of cells afterwards, at most as many.

    Returns:
        float32 (coarse, fine), with rows that sum to 1.
    """
    edges = np.arange(coarse + 1) * (fine / coarse)
    cells = np.arange(fine)
    low, high = edges[:-1, None], edges[1:, None]
    shared = np.clip(np.minimum(high, cells + 1) - np.maximum(low, cells), 0, None)
    return torch.from_numpy((shared * (coarse / fine)).astype(np.float32))


def coarser(maps: Tensor, *, side: int) -> Tensor:
    """Average maps onto a coarser grid with the same mean.

    Args:
        maps: (..., h, w).
        side: cells a side of the grid, at most h and w.

    Returns:
        (..., side, side).
    """
    height, width = int(maps.shape[-2]), int(maps.shape[-1])
    if (height, width) == (side, side):
        return maps
    return area_matrix(height, side) @ maps @ area_matrix(width, side).T
