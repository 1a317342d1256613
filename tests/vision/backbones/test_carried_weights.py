"""Weights of a discriminant on the whole vectors of its networks: the same scores, up to a length."""

from __future__ import annotations

import numpy as np
import pytest

from fedrec.errors import ConfigError
from fedrec.vision.backbones.carried_weights import carried_weights
from fedrec.vision.backbones.feature_sets import FeatureSet, Source
from fedrec.vision.backbones.public_directions import ProjectedSet, public_projection
from tests.vision.backbones.test_feature_sets import SIDE
from tests.vision.backbones.test_public_directions import Classifier, block


def test_scores_of_whole_vectors_are_those_of_projected_ones_times_their_length() -> None:
    first, second = Classifier("one"), Classifier("two", seed=1)
    source = ProjectedSet((block(first), block(second, weight=0.5)), directions=3)
    # Other weights, another order, and a block that the discriminant doesn't know.
    target = FeatureSet((block(first, layer="stages"), block(second, weight=2.0), block(first, weight=0.7)))
    rng = np.random.default_rng(0)
    features = {Source(name, SIDE, "wide"): rng.normal(size=(20, 1, 7)) for name in ("one", "two")}
    weights = rng.normal(size=(4, 3))
    z = source.combine({key: value.astype(np.float16) for key, value in features.items()})[:, 0]
    x = target.combine({key: value.astype(np.float16) for key, value in features.items()})[:, 0]
    whole = FeatureSet(source.blocks).combine(
        {key: value.astype(np.float16) for key, value in features.items()}
    )[:, 0]
    lengths = np.linalg.norm(whole @ public_projection(source.blocks, directions=3), axis=1)
    found = carried_weights(weights, source=source, target=target)
    np.testing.assert_allclose(x @ found.T, lengths[:, None] * (z @ weights.T), rtol=1e-4, atol=1e-5)
    assert not found[:, :4].any()


def test_a_head_on_other_networks_is_refused() -> None:
    source = ProjectedSet((block(Classifier("one")),), directions=2)
    target = FeatureSet((block(Classifier("two")),))
    with pytest.raises(ConfigError, match="the head isn't on one as the discriminant is"):
        carried_weights(np.ones((2, 2)), source=source, target=target)
