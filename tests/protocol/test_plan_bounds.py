"""Bounds of a plan at which arithmetic would fail."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from fedrec.errors import ConfigError
from fedrec.privacy.dp.calibration import NoiseRequest, plan_noise
from tests.support.cohort import Cohort


@pytest.mark.parametrize("clip", [1e-306, 5e-324, 1e-7, 1e7, 1e300])
def test_no_plan_has_a_clip_at_which_floats_fail(tmp_path: Path, clip: float) -> None:
    """At 1e-306 scale / clip is infinite: every coordinate met the clamp, far beyond the sensitivity."""
    with pytest.raises(ValidationError, match="clip"):
        Cohort(tmp_path).plan(clip=clip)
    with pytest.raises(ConfigError, match="clip"):
        plan_noise(
            NoiseRequest(
                mode="local",
                epsilon=None,
                noise_multiplier=1.0,
                delta=1e-5,
                sample_rate=0.1,
                steps=1,
                dimension=10,
                clip=clip,
                cohort=1,
                min_contributors=1,
                colluders=0,
                records_per_merchant=100,
            )
        )


@pytest.mark.parametrize(
    "classes", [("hat", "Hat"), ("hat", "mug", "hat\u00a0"), ("a", "\u0430"), ("ｈat", "hat")]
)
def test_no_plan_has_classes_that_merchants_would_take_for_each_other(
    tmp_path: Path, classes: tuple[str, ...]
) -> None:
    with pytest.raises(ValidationError, match="look alike"):
        Cohort(tmp_path).plan(classes=classes)
