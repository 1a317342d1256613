"""Define the clipping rules: functions from a gradient's norm to the factor that bounds the norm by C."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from fedrec.protocol.plan import Clipping

_GAMMA = 0.01  # the stability constant of AUTO-S


@dataclass(frozen=True)
class ClippingRule:
    """A clipping rule.

    Attributes:
        name: the plan's name of the rule.
        factors: maps norms, float64 (n,), and the clipping norm C to one factor per gradient, float64 (n,).
            A factor times its norm must be at most C for every norm, since the sensitivity depends on it.
    """

    name: Clipping
    factors: Callable[[Tensor, float], Tensor]


def _fixed(norms: Tensor, clip: float) -> Tensor:
    return torch.clamp(clip / norms.clamp(min=torch.finfo(torch.float64).tiny), max=1.0)


def _automatic(norms: Tensor, clip: float) -> Tensor:
    return clip / (norms + _GAMMA)


FIXED: Final = ClippingRule(name="fixed", factors=_fixed)
"""Multiply g by min(1, C / |g|) (Abadi et al. 2016, "Deep Learning with Differential Privacy")."""
AUTOMATIC: Final = ClippingRule(name="automatic", factors=_automatic)
"""Multiply g by C / (|g| + 0.01) (AUTO-S, Bu et al. 2023, "Automatic Clipping"); the norm stays below C."""
RULES: Final[Mapping[Clipping, ClippingRule]] = {rule.name: rule for rule in (FIXED, AUTOMATIC)}
