"""Find, run and copy the layers of timm's networks."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from timm.layers.attention import Attention


def attention_layers(network: nn.Module) -> dict[str, Attention]:
    """Find the layers that compute query, key and value of plain attention by one linear layer each.

    Args:
        network: a network of timm.

    Returns:
        timm's attention layers, by name, whose layer ``qkv`` gives three vectors of equal length.
    """
    from timm.layers.attention import Attention

    return {
        name: layer
        for name, layer in network.named_modules()
        if type(layer) is Attention
        and type(layer.qkv) is nn.Linear
        and layer.qkv.out_features == 3 * layer.num_heads * layer.head_dim
    }


def pooled_features(network: nn.Module, pictures: Tensor) -> Tensor:
    """Compute a timm network's pooled features.

    Args:
        network: the network.
        pictures: normalised pictures (n, 3, size, size).

    Returns:
        (n, length).
    """
    # Every network of timm has both; torch's class declares neither.
    features: Tensor = network.forward_head(network.forward_features(pictures), pre_logits=True)  # type: ignore[operator]
    return features


def shared_copy(network: nn.Module) -> nn.Module:
    """Copy a frozen network's layers, which can then be replaced; the weights' memory is shared.

    Args:
        network: the network.

    Returns:
        The copy; moving it to a device leaves the original where it is.
    """
    shared: dict[int, Tensor] = {
        id(parameter): nn.Parameter(parameter.detach(), requires_grad=False)
        for parameter in network.parameters()
    }
    shared |= {id(buffer): buffer.detach() for buffer in network.buffers()}
    return copy.deepcopy(network, shared)
