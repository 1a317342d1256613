"""Small vision transformers of random weights, as timm's architecture and a safetensors file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

ARCHITECTURE, SIDE, WIDTH, BLOCKS = "test_vit", 32, 64, 6
ADD_OPTIONS: dict[str, object] = {
    "size": SIDE,
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "architecture": ARCHITECTURE,
}


def weights(*, seed: int = 0, classes: int = 0) -> dict[str, Tensor]:
    """The weights of ``test_vit`` for pictures of 32 pixels; with a classifier if it has classes."""
    timm = pytest.importorskip("timm")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = timm.create_model(ARCHITECTURE, num_classes=classes, img_size=SIDE)
        # timm starts class token and biases at zero or nearly so, where a wrong use of them isn't seen.
        return {name: value + 0.05 * torch.randn(value.shape) for name, value in network.state_dict().items()}


def encoded(tensors: dict[str, Tensor] | None = None) -> bytes:
    """A safetensors file's content."""
    import safetensors.torch

    content: bytes = safetensors.torch.save(weights() if tensors is None else tensors)
    return content


def written_weights(path: Path, *, seed: int = 0) -> Path:
    """Write the weights to a file."""
    path.write_bytes(encoded(weights(seed=seed)))
    return path


def tiny_network(seed: int = 0) -> nn.Module:
    """Two blocks of width 32 for pictures of 32 pixels, 16 patches and a class token."""
    pytest.importorskip("timm")
    from timm.models.vision_transformer import VisionTransformer

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return VisionTransformer(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=4, num_classes=0)


def changed(change: Callable[[dict[str, Tensor]], object]) -> bytes:
    """The content of a file after a change of its tensors."""
    tensors = weights()
    change(tensors)
    return encoded(tensors)
