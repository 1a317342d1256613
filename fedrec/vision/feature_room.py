"""The room that a training's features take on a merchant's disk, in the cache and mapped while it is open."""

from __future__ import annotations

import shutil
from pathlib import Path

from fedrec._internal import number_format
from fedrec.errors import OperatingSystemError
from fedrec.protocol.plan import TrainingPlan
from fedrec.vision.feature_cache import (
    KEPT_FREE,
    FeatureExtractor,
    cache_file,
    default_cache_dir,
    entry_bytes,
)
from fedrec.vision.features import MAPPED_BYTES
from fedrec.vision.model_spec import ModelSpec
from fedrec.vision.products import PRODUCT_PHOTOS


def photo_bytes(plan: TrainingPlan, spec: ModelSpec) -> int:
    """Return the bytes that the feature cache keeps of a photo.

    Args:
        plan: the training's plan.
        spec: the model that it names.

    Returns:
        The bytes; 0 for a model that takes pictures.

    Raises:
        MissingExtraError: a package that the model needs is not installed.
        ConfigError: a file that it needs is missing or damaged.
    """
    return sum(_kept(plan, extractor) for extractor in _extractors(spec))


def check_feature_room(plan: TrainingPlan, spec: ModelSpec, *, photos: int) -> str:
    """Check that a merchant's disk has room for the features of its photos.

    Args:
        plan: the training's plan.
        spec: the model that it names.
        photos: how many photos the merchant has.

    Returns:
        One line about what is kept, and where.

    Raises:
        OperatingSystemError: they don't fit.
        MissingExtraError: a package that the model needs is not installed.
        ConfigError: a file that it needs is missing or damaged.
    """
    folder, extractors = default_cache_dir(), _extractors(spec)
    if not extractors:
        return f"{spec.name} takes pictures: no features are kept"
    each = photo_bytes(plan, spec)
    needed = KEPT_FREE
    for extractor in extractors:
        size = photos * _kept(plan, extractor)
        # A file that grows is written anew beside the old one. A training maps a large matrix from a copy.
        needed += size * (_there(plan, extractor, folder) < size) + size * (size >= MAPPED_BYTES)
    free = shutil.disk_usage(next(found for found in (folder, *folder.parents) if found.is_dir())).free
    kept = number_format.size(photos * each)
    what = f"{number_format.size(each)} of a photo, {kept} in all, are kept in {folder}"
    if free < needed:
        raise OperatingSystemError(
            f"{what}: {number_format.size(free)} are free there, and {number_format.size(needed)} are "
            f"needed, {KEPT_FREE >> 20} MiB of which stay free; make room there"
        )
    return f"{what}: {number_format.size(free)} are free there"


def _extractors(spec: ModelSpec) -> list[FeatureExtractor]:
    if spec.features is not None:
        return list(spec.features.extractors().values())
    return [] if spec.tokens is None else [spec.tokens.extractor()]


def _views(plan: TrainingPlan) -> int:
    """Return how many views of a photo are kept; a product's views are those of its photos."""
    return max(1, plan.views // PRODUCT_PHOTOS) if plan.unit == "product" else plan.views


def _kept(plan: TrainingPlan, extractor: FeatureExtractor) -> int:
    return entry_bytes((_views(plan), extractor.dimension))


def _there(plan: TrainingPlan, extractor: FeatureExtractor, folder: Path) -> int:
    """Return the size of the cache's file for these features."""
    path = cache_file(extractor, views=_views(plan), cache_dir=folder)
    return path.stat().st_size if path.is_file() else 0
