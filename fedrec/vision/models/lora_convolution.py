"""Fine-tune a frozen network's last convolution by a low-rank change (LoRA), with a head on top."""

from __future__ import annotations

from typing import Final

from torch import Tensor, nn
from torch.nn import functional as F

from fedrec.vision.models.centred_head import CentredHead
from fedrec.vision.models.low_rank import fixed_projection, zero_matrix

RANK: Final = 2
ALPHA: Final = 0.5
"""The change is multiplied by alpha / rank."""


class LowRankPointwise(nn.Module):
    """A frozen convolution of 1 x 1 as a linear layer over positions, with a change alpha / rank * B A.

    A record's gradient of B is the sum of its positions' outer products, a matrix of (outputs, rank). B is
    trained, and A is fixed (:mod:`fedrec.vision.models.low_rank`).

    Args:
        frozen: the convolution, whose memory the layer shares.
        rank: of the change.
        alpha: what the change is multiplied by, times the rank.
        name: of the layer in its network.
    """

    def __init__(self, frozen: nn.Conv2d, *, rank: int, alpha: float, name: str) -> None:
        super().__init__()
        outputs, inputs = frozen.weight.shape[:2]
        # Parameters of its own: moving this layer to another device leaves the convolution where it is.
        self.weight = nn.Parameter(frozen.weight.detach().flatten(1), requires_grad=False)
        bias = frozen.weight.new_zeros(outputs) if frozen.bias is None else frozen.bias.detach()
        self.bias = nn.Parameter(bias, requires_grad=False)
        self.down = fixed_projection(name, inputs=inputs, outputs=rank)
        self.up = zero_matrix(inputs=rank, outputs=outputs)
        self._scale = alpha / rank

    def forward(self, positions: Tensor) -> Tensor:
        """Map (n, positions, inputs) to (n, positions, outputs)."""
        change: Tensor = self.up(self._scale * self.down(positions))
        return F.linear(positions, self.weight, self.bias) + change


class FineTunedConvolution(nn.Module):
    """Map the tokens (n, count, width) that enter a network's last convolution to class scores (n, classes).

    Behind the convolution come ReLU6 and the mean over positions. The head takes these features, brought to
    unit length. It centres them by the mean that a training releases in its first round, when the network is
    still as it was.

    Args:
        frozen: the convolution, of 1 x 1, without a batch norm.
        classes: k, the number of classes.
        name: of the convolution in its network.
        rank: of its change.
        alpha: what the change is multiplied by, times the rank.

    Raises:
        ConfigError: there is no class.
    """

    def __init__(
        self, frozen: nn.Conv2d, *, classes: int, name: str, rank: int = RANK, alpha: float = ALPHA
    ) -> None:
        super().__init__()
        self.convolution = LowRankPointwise(frozen, rank=rank, alpha=alpha, name=name)
        self.head = CentredHead(classes=classes, dimension=frozen.out_channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the class scores (logits)."""
        # Not the mean, whose gradient is a tensor of the maps' size: unit length takes the count away.
        scores: Tensor = self.head(F.normalize(self._activated(tokens).sum(dim=1), dim=1))
        return scores

    def maps(self, tokens: Tensor) -> Tensor:
        """Compute the maps (n, channels, side, side) whose means over positions the head takes."""
        records, count, _ = tokens.shape
        side = int(count**0.5)
        return self._activated(tokens).reshape(records, side, side, -1).permute(0, 3, 1, 2)

    def _activated(self, tokens: Tensor) -> Tensor:
        # The cache keeps fewer digits than the network computes with.
        return F.relu6(self.convolution(tokens.to(self.head.centring.mean.dtype)))
