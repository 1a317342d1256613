"""Fine-tune a frozen vision transformer by low-rank changes of its attention (LoRA), with a head on top."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedrec.errors import ConfigError
from fedrec.vision.backbones.weights_files.layers import attention_layers, pooled_features
from fedrec.vision.backbones.weights_files.split import following_features, following_part
from fedrec.vision.models.centred_head import CentredHead
from fedrec.vision.models.low_rank import RANK, fixed_projection, zero_matrix

ALPHA: Final = 0.1
"""A change is multiplied by alpha / rank."""


class LowRankQueryValue(nn.Module):
    """A frozen layer that computes query, key and value, with a low-rank change of query and value.

    The change is alpha / rank * B A (Hu et al. 2022, "LoRA"). Keys are left as they are: at equal numbers of
    parameters, changing query and value gains most (their section 7.1), and each parameter needs noise.

    B is trained, and A is fixed (:mod:`fedrec.vision.models.low_rank`).

    Args:
        frozen: maps tokens (..., inputs) to query, key and value side by side (..., 3 * width).
        rank: of each change.
        alpha: what a change is multiplied by, times the rank.
        name: of the layer in its network.
    """

    def __init__(self, frozen: nn.Linear, *, rank: int, alpha: float, name: str) -> None:
        super().__init__()
        width = frozen.out_features // 3
        self.frozen = frozen
        self.down = fixed_projection(name, inputs=frozen.in_features, outputs=2 * rank)
        self.query = zero_matrix(inputs=rank, outputs=width)
        self.value = zero_matrix(inputs=rank, outputs=width)
        self._scale = alpha / rank

    def forward(self, tokens: Tensor) -> Tensor:
        """Return query, key and value side by side."""
        query, key, value = self.frozen(tokens).chunk(3, dim=-1)
        for_query, for_value = (self._scale * self.down(tokens)).chunk(2, dim=-1)
        return torch.cat([query + self.query(for_query), key, value + self.value(for_value)], dim=-1)


class FineTuned(nn.Module):
    """Map pictures (n, 3, size, size) to class scores (n, classes): an adapted network, and a linear head.

    The head takes the network's pooled features, brought to unit length. It centres them by the mean that a
    training releases in its first round, when the network is still as it was.

    With frozen blocks its inputs are the tokens (n, count, width) that enter the first adapted block, in any
    number format.

    Args:
        network: a frozen network of timm's, with plain attention; its attention layers are replaced.
        classes: k, the number of classes.
        dimension: length of its pooled features.
        rank: of each change.
        alpha: what a change is multiplied by, times the rank.
        frozen_blocks: leading blocks of a vision transformer that aren't adapted; None to take pictures.

    Raises:
        ConfigError: there is no class, or the network has no attention that can be adapted.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        classes: int,
        dimension: int,
        rank: int = RANK,
        alpha: float = ALPHA,
        frozen_blocks: int | None = None,
    ) -> None:
        super().__init__()
        if frozen_blocks is not None:
            network = following_part(network, blocks=frozen_blocks)
        found = attention_layers(network)
        if classes < 1 or not found:
            raise ConfigError(
                "fine-tuning needs at least one class and a network with plain attention: it was given "
                f"{classes} classes and {len(found)} attention layers"
            )
        self.network = network.requires_grad_(False)
        for name, attention in found.items():
            changed = LowRankQueryValue(attention.qkv, rank=rank, alpha=alpha, name=name)
            attention.register_module("qkv", changed)
        self.head = CentredHead(classes=classes, dimension=dimension)
        self._takes_tokens = frozen_blocks is not None

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the class scores (logits)."""
        if self._takes_tokens:
            # The cache keeps fewer digits than the network computes with.
            features = following_features(self.network, inputs.to(self.head.centring.mean.dtype))
        else:
            features = pooled_features(self.network, inputs)
        scores: Tensor = self.head(F.normalize(features, dim=1))
        return scores
