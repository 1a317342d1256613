"""Split a vision transformer between two of its blocks.

When the last blocks alone are adapted, the tokens that enter them never change: the leading part computes
them once for each photo, and the following part is trained on them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from fedrec.errors import ConfigError
from fedrec.vision.backbones.weights_files.layers import attention_layers, pooled_features, shared_copy

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

_SAME: Final = 1e-4
"""Largest relative difference between the features of the whole network and those of its two parts."""


def block_count(network: nn.Module) -> int:
    """Count the blocks between which a network can be split.

    Args:
        network: a network of timm.

    Returns:
        The number of blocks of a plain vision transformer, each of which has one attention layer that can be
        adapted; 0 for any other network.
    """
    from timm.models.vision_transformer import VisionTransformer

    if not isinstance(network, VisionTransformer) or not isinstance(network.blocks, nn.Sequential):
        return 0
    if type(network).forward_features is not VisionTransformer.forward_features:
        return 0
    names = {f"blocks.{number}.attn" for number in range(len(network.blocks))}
    return len(names) if names == set(attention_layers(network)) else 0


class LeadingPart(nn.Module):
    """A vision transformer up to one of its blocks: pictures to the tokens that enter it.

    Args:
        network: a network of its own, which is changed.
        blocks: the number of blocks that belong to this part.

    Raises:
        ConfigError: the network can't be split there.
    """

    def __init__(self, network: nn.Module, *, blocks: int) -> None:
        super().__init__()
        split = _checked(network, blocks)
        split.blocks = split.blocks[:blocks]
        split.norm = nn.Identity()
        self.network = split

    def forward(self, pictures: Tensor) -> Tensor:
        """Map normalised pictures (n, 3, size, size) to tokens (n, count, width)."""
        tokens: Tensor = self.network.forward_features(pictures)
        return tokens


def following_part(network: nn.Module, *, blocks: int) -> nn.Module:
    """Take the leading blocks out of a vision transformer; the others keep their names.

    Args:
        network: the network, which is changed.
        blocks: how many blocks are taken out.

    Returns:
        The network; :func:`following_features` computes what is left of it.

    Raises:
        ConfigError: the network can't be split there.
    """
    split = _checked(network, blocks)
    for number in range(blocks):
        split.blocks[number] = nn.Identity()
    split.patch_embed = nn.Identity()
    return split


def following_features(network: nn.Module, tokens: Tensor) -> Tensor:
    """Compute a network's pooled features from the tokens that enter the blocks which are left of it.

    Args:
        network: what :func:`following_part` returned.
        tokens: (n, count, width).

    Returns:
        (n, length).
    """
    parts: Any = network
    features: Tensor = parts.forward_head(parts.norm(parts.blocks(tokens)), pre_logits=True)
    return features


def _checked(network: nn.Module, blocks: int) -> VisionTransformer:
    count = block_count(network)
    if not 0 <= blocks < count:
        raise ConfigError(
            f"the network can't be split after {blocks} blocks: it has {count} blocks of plain attention"
        )
    split: VisionTransformer = network  # type: ignore[assignment]  # it has blocks
    return split


def token_shape(network: nn.Module, *, size: int) -> tuple[int, int]:
    """Return the number and the width of a vision transformer's tokens.

    Args:
        network: a network of its own on torch's meta device, which is changed.
        size: side of the pictures in pixels.

    Returns:
        (count, width), the same before each block.
    """
    with torch.no_grad():
        tokens = LeadingPart(network.eval(), blocks=0)(torch.empty(1, 3, size, size, device="meta"))
    return int(tokens.shape[1]), int(tokens.shape[2])


def check_split(network: nn.Module, *, blocks: int, size: int) -> None:
    """Check that a network's two parts compute together what the whole computes.

    Args:
        network: the network, which is left as it was.
        blocks: the number of blocks that belong to the leading part.
        size: side of the pictures in pixels.

    Raises:
        ConfigError: the network can't be split there, or the parts compute something else.
    """
    pictures = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = pooled_features(network, pictures)
        tokens = LeadingPart(shared_copy(network), blocks=blocks)(pictures)
        found = following_features(following_part(shared_copy(network), blocks=blocks), tokens)
    if not torch.linalg.vector_norm(found - expected) <= _SAME * torch.linalg.vector_norm(expected):
        raise ConfigError("its last blocks can't be computed apart from the others: adapt all of them")
