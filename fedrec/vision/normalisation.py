"""Normalise pictures by public constants per colour."""

from __future__ import annotations

import torch
from torch import Tensor

from fedrec.errors import ConfigError


def normalise(images: Tensor, *, mean: tuple[float, float, float], std: tuple[float, float, float]) -> Tensor:
    """Normalise pictures to (pixel / 255 - mean) / std per channel.

    Args:
        images: uint8 (..., H, W, C), C of 1 or 3.
        mean: public constant per colour; grey pictures take the average.
        std: public constant per colour; grey pictures take the average.

    Returns:
        float32 (..., C, H, W).

    Raises:
        ConfigError: the pictures aren't uint8 with 1 or 3 channels last.
    """
    if images.dtype != torch.uint8 or images.ndim < 3 or images.shape[-1] not in (1, 3):
        raise ConfigError(
            f"pictures to normalise are uint8 (..., H, W, 1 or 3), not {images.dtype} {tuple(images.shape)}"
        )
    middle = torch.tensor(mean, dtype=torch.float32, device=images.device)
    spread = torch.tensor(std, dtype=torch.float32, device=images.device)
    if images.shape[-1] == 1:
        middle, spread = middle.mean(dim=0, keepdim=True), spread.mean(dim=0, keepdim=True)
    scaled = (images.to(torch.float32) / 255.0 - middle) / spread
    return scaled.movedim(-1, -3).contiguous()
