"""Define what a plan states of site figures: counts by class, accuracy and loss of the merchants' own data.

The figures are one vector per unit, summed over all merchants in one round after the training's last one.
docs/site-figures.md describes them.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from fedrec.protocol.schema import Strict


class SiteFigures(Strict):
    """The noise of the round of site figures; everything else of it follows from the plan.

    ``noise_multiplier`` is that of the opened sum, None in a privacy mode without noise.
    """

    noise_multiplier: Annotated[float, Field(gt=0, le=1e6)] | None


def figures_length(classes: int) -> int:
    """Return the length of a vector of figures: a count for each class, the correct ones, and the loss."""
    return classes + 2
