"""The fixed half of a low-rank change (LoRA): a public matrix that every machine draws alike."""

from __future__ import annotations

import hashlib
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

RANK: Final = 8
"""Default rank of each change: the parameters, and so the noise, grow with it."""


def fixed_projection(name: str, *, inputs: int, outputs: int) -> nn.Linear:
    """Make the matrix A of a change alpha / rank * B A (Hu et al. 2022, "LoRA"), which isn't trained.

    Each entry is a sign, of a hash of the layer's name, over the square root of its inputs. It needs no noise
    then, and noise enters the change once instead of as a product (Sun et al. 2024, "Improving LoRA in
    Privacy-preserving Federated Learning").

    Args:
        name: of the layer in its network.
        inputs: of the layer.
        outputs: rows, the rank of the change or of several changes together.

    Returns:
        A frozen layer without a bias.
    """
    layer = nn.Linear(inputs, outputs, bias=False).requires_grad_(False)
    with torch.no_grad():
        layer.weight.copy_(_signs(name, outputs * inputs).reshape(outputs, inputs) * inputs**-0.5)
    return layer


def zero_matrix(*, inputs: int, outputs: int) -> nn.Linear:
    """Make the trained matrix B: zero at first, so that the network starts as it was.

    Args:
        inputs: the rank.
        outputs: of the changed layer.

    Returns:
        A layer without a bias.
    """
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.zeros_(layer.weight)
    return layer


def _signs(name: str, count: int) -> Tensor:
    """Draw signs that every machine draws alike, float32 (count,)."""
    drawn = hashlib.shake_256(f"fedrec/lora/1 {name}".encode()).digest((count + 7) // 8)
    bits = np.unpackbits(np.frombuffer(drawn, dtype=np.uint8))[:count]
    return torch.from_numpy(2.0 * bits.astype(np.float32) - 1.0)
