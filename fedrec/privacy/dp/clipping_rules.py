"""How a gradient is brought to norm C at most: the factor that it is multiplied by, from its norm."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from fedrec.protocol.plan import Clipping

_GAMMA = 0.01


@dataclass(frozen=True)
class ClippingRule:
    """One rule; ``factors`` maps norms, float64 [n], and C to what each gradient is multiplied by.

    A factor times its norm is at most C, whatever the norm: the sensitivity rests on it.
    """

    name: Clipping
    factors: Callable[[Tensor, float], Tensor]


def _fixed(norms: Tensor, clip: float) -> Tensor:
    return torch.clamp(clip / norms.clamp(min=torch.finfo(torch.float64).tiny), max=1.0)


def _automatic(norms: Tensor, clip: float) -> Tensor:
    return clip / (norms + _GAMMA)


FIXED: Final = ClippingRule(name="fixed", factors=_fixed)
"""g * min(1, C / |g|)."""
AUTOMATIC: Final = ClippingRule(name="automatic", factors=_automatic)
"""g * C / (|g| + 0.01), below C (AUTO-S, Bu et al. 2023)."""
RULES: Final[Mapping[Clipping, ClippingRule]] = {rule.name: rule for rule in (FIXED, AUTOMATIC)}
