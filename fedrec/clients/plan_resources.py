"""Build the model of a plan, and load a merchant's photos as its inputs."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from fedrec.clients.records import Records, TrainingData
from fedrec.errors import (
    ConfigError,
    DataError,
    MissingExtraError,
    OperatingSystemError,
    RefusedError,
)
from fedrec.privacy.dp.failing_records import in_halves, place_of
from fedrec.privacy.dp.model_check import check_foreign_model
from fedrec.protocol.plan import TrainingPlan
from fedrec.vision import model_registry
from fedrec.vision.datasets import open_folder
from fedrec.vision.features import Progress
from fedrec.vision.folders import Layout
from fedrec.vision.imageset import ImageSet
from fedrec.vision.listing.photo_places import PhotoPlace, why_away
from fedrec.vision.model_inputs import InputShape, model_inputs, to_inputs
from fedrec.vision.model_spec import ModelSpec
from fedrec.vision.products import PRODUCT_PHOTOS, ProductSet

_log = logging.getLogger(__name__)
_ATTEMPTS = 3
"""Attempts to read a folder whose photos change meanwhile."""


def build_model(plan: TrainingPlan, spec: ModelSpec | None = None) -> nn.Module:
    """Build the plan's model. The server sends its initial weights with the first round.

    Args:
        plan: the training's plan.
        spec: the model; by default the registered model that the plan names.

    Returns:
        The network.

    Raises:
        RefusedError: the model isn't here as the plan means it, or lacks a package or file.
        ConfigError: the plan's numbers don't fit the model.
    """
    spec = _usable_spec(plan, spec)
    if plan.unit == "product" and plan.views > 1 and plan.views % PRODUCT_PHOTOS:
        raise ConfigError(
            f"{plan.views} views of a product are not a multiple of its {PRODUCT_PHOTOS} photos"
        )
    values = math.prod(spec.record_shape(plan.channels, plan.image_size))
    if plan.record_values != values:
        raise RefusedError(
            f"model {plan.model} takes {values:,} numbers of a record; the plan says {plan.record_values:,}",
            code="plan",
        )
    return spec.build(classes=len(plan.classes), channels=plan.channels, size=plan.image_size, seed=0)


def _usable_spec(plan: TrainingPlan, spec: ModelSpec | None) -> ModelSpec:
    """Return a plan's model, by name unless it is given; ``RefusedError`` if it can't be used here."""
    try:
        if spec is None:
            spec = model_registry.get_exact(plan.model, plan.model_code)
        spec.check()
    except (ConfigError, MissingExtraError) as error:
        raise RefusedError(str(error), code="model") from None
    return spec


def check_plan_model(plan: TrainingPlan) -> None:
    """Check that a plan's installed model can be trained privately; the merchant doesn't rely on the server.

    Raises:
        ConfigError: the model mixes the records of a batch, or can't be clipped.
    """
    if plan.model_code is None:
        return
    spec = model_registry.get_exact(plan.model, plan.model_code)
    classes, channels, size = len(plan.classes), plan.channels, plan.image_size
    check_foreign_model(
        lambda seed: spec.build(classes=classes, channels=channels, size=size, seed=seed),
        spec.record_shape(channels, size),
        classes=classes,
    )


def load_photos(
    plan: TrainingPlan,
    folder: Path | PhotoPlace,
    *,
    layout: Layout,
    device: torch.device,
    leave_out: Callable[[bytes], bool] = lambda digest: False,
    keep: Callable[[bytes], bool] = lambda digest: True,
    progress: Progress = lambda done, total: None,
) -> TrainingData:
    """Load a folder of photos as inputs of the plan's model. Photos of other classes are left out.

    Args:
        plan: the training's plan.
        folder: the folder of photos, or a CSV file.
        layout: its layout.
        device: the device of the tensors.
        leave_out: returns, for a photo's digest, whether the merchant has forgotten the photo.
        keep: returns, for a record's digest, whether the training uses the record. Only the digest of an
            unused record is kept in memory.
        progress: called as (done, total) while inputs are computed.

    Returns:
        The records; not those that alone can't be made an input, for any reason.

    Raises:
        ConfigError: the plan's unit is the product, and the folder has no products.
        DataError: the folder is away, empty or can't be read, or photos keep changing while they are read.
        OperatingSystemError: there is no room on the disk for the inputs.
    """
    away = why_away(folder.path if isinstance(folder, PhotoPlace) else folder)
    if away is not None:
        # Otherwise an empty mount point would be fixed as a training's set, whose photos come back unused.
        raise DataError(away)
    for attempt in range(_ATTEMPTS):
        splits = open_folder(
            folder,
            classes=plan.classes,
            layout=layout,
            unit=plan.unit,
            leave_out=leave_out,
            may_be_empty=True,
            one_merchant=True,
        )
        kept = [index for index, record in enumerate(splits.train.records) if keep(record.digest)]
        if not kept:
            none = Records.none(device)
            return TrainingData(inputs=none.inputs, labels=none.labels, digests=(), held=splits.held)

        def read(images: ImageSet, held: tuple[bytes, ...] = splits.held) -> TrainingData:
            return _read(plan, images, held=held, device=device, progress=progress)

        images = splits.train.subset(kept)
        try:
            return read(images)
        except OperatingSystemError:
            # No other choice of records makes room, and all features might be computed for each.
            raise
        # Every exception is caught: a backbone from a file can fail on one photo, with an error of any kind.
        except Exception as error:
            # A photo was removed or changed during reading; the next attempt reads the rest.
            if isinstance(error, DataError) and attempt + 1 < _ATTEMPTS:
                continue
            # One that can't be read must not keep the others from a training.
            usable = _usable(read, images)
            if not usable:
                raise
            _log.error(
                "%d of the records can't be made an input of the model and are not used: %s",
                len(images) - len(usable),
                place_of(error),
            )
            return read(images.subset(usable))
    raise DataError(f"{folder} can't be read")


def _usable(read: Callable[[ImageSet], TrainingData], images: ImageSet) -> list[int]:
    """Return the positions of the records that can be read, of some that can't be read together."""
    middle = len(images) // 2
    halves = (range(middle), range(middle, len(images))) if middle else ()
    return [
        place
        for half in halves
        for places, _ in in_halves(
            half, lambda places: read(images.subset(places)), failed=lambda error: None
        )
        for place in places
    ]


def _read(
    plan: TrainingPlan,
    images: ImageSet,
    *,
    held: tuple[bytes, ...],
    device: torch.device,
    progress: Progress,
) -> TrainingData:
    spec = model_registry.get_exact(plan.model, plan.model_code)
    inputs = model_inputs(
        images,
        spec,
        InputShape(channels=plan.channels, size=plan.image_size),
        views=plan.views,
        progress=progress,
    )
    return TrainingData(
        inputs=to_inputs(inputs, spec).to(device),
        labels=torch.tensor(images.labels).to(device),
        digests=tuple(record.digest for record in images.records),
        held=held,
        photos=images.photo_digests() if isinstance(images, ProductSet) else (),
        holds=images.holds,
    )
