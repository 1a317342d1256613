"""From the options to splits, merchants' shares and model inputs on disk for the workers."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedrec.config import AUGMENTED_VIEWS, SimulationConfig
from fedrec.errors import ConfigError, DataError
from fedrec.vision.datasets import open_folder, open_torchvision
from fedrec.vision.features import default_cache_dir, feature_matrix
from fedrec.vision.imageset import ImageSet, Skipped
from fedrec.vision.models.registry import ModelSpec
from fedrec.vision.partition import MerchantShare, parse_partition, partition
from fedrec.vision.splits import ResolvedSplits, resolve_splits
from fedrec.vision.synthetic import generate
from fedrec.vision.transforms import augmented_views, to_model_input

DEFAULT_MERCHANTS = 8
SYNTHETIC_PER_MERCHANT = 750
SYNTHETIC_EVALUATION = 1000
_SPLIT_KEY = b"fedrec/simulation/split/1"
_FOLDER_SIZE = 64

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Source:
    """The data of a run: splits, who holds what, and what was left out."""

    name: str
    splits: ResolvedSplits
    shares: tuple[MerchantShare, ...]
    skipped: tuple[Skipped, ...]
    duplicates_dropped: int

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the model's outputs."""
        return self.splits.train.classes


def open_source(config: SimulationConfig) -> Source:
    """Load the data that the options name and divide it among merchants.

    Raises ``DataError`` or ``ConfigError`` with one clear line.
    """
    seed = config.seed or 0
    wanted = config.merchants
    if config.data is not None:
        name, splits = str(config.data), open_folder(config.data)
    elif config.dataset == "synthetic":
        name = "synthetic"
        splits = generate(
            merchants=wanted or DEFAULT_MERCHANTS,
            per_merchant=SYNTHETIC_PER_MERCHANT,
            seed=seed,
            validation=SYNTHETIC_EVALUATION,
            test=SYNTHETIC_EVALUATION,
        )
    else:
        if config.data_root is None:
            raise ConfigError(f"--dataset {config.dataset} needs --data-root, the folder it is kept in")
        name, splits = config.dataset, open_torchvision(config.dataset, config.data_root)
    resolved = resolve_splits(splits, key=_SPLIT_KEY)
    if config.eval_data is not None:
        public = open_folder(config.eval_data, classes=resolved.train.classes).train
        resolved = ResolvedSplits(
            resolved.train, resolved.validation, public, "eval-data", resolved.leaked_dropped
        )
    spec = parse_partition(config.partition)
    merchants = wanted if spec.kind == "folder" else (wanted or DEFAULT_MERCHANTS)
    shares = partition(resolved.train, spec=spec, merchants=merchants, seed=seed)
    loaded = [part for part in (splits.train, splits.validation, splits.test) if part is not None]
    return Source(
        name=name,
        splits=resolved,
        shares=shares,
        skipped=tuple(skip for part in loaded for skip in part.skipped),
        duplicates_dropped=splits.train.duplicates_dropped
        + sum(share.duplicates_dropped for share in shares),
    )


@dataclass(frozen=True)
class InputShape:
    """How photos enter the model: channels, and the side in pixels that they are brought to."""

    channels: int
    size: int


def input_shape(images: ImageSet, spec: ModelSpec) -> InputShape:
    """Return the shape of the model's inputs: the model's own side, else the data's, else 64 pixels."""
    pixels = images.pixels()
    channels = 3 if pixels is None else int(pixels.shape[3])
    if spec.backbone is not None:
        channels = 3
    if spec.image_size is not None:
        return InputShape(channels, spec.image_size)
    if pixels is None or pixels.shape[1] != pixels.shape[2]:
        return InputShape(channels, _FOLDER_SIZE)
    return InputShape(channels, int(pixels.shape[1]))


def model_inputs(
    images: ImageSet, spec: ModelSpec, shape: InputShape, *, augment: bool, progress: Progress
) -> NDArray[np.uint8] | NDArray[np.float32]:
    """Return the inputs of all photos: uint8 (n, views, H, W, C), or float32 features (n, views, dim).

    A view depends on its own record's content alone.
    """
    views = AUGMENTED_VIEWS if augment else 1
    digests = [record.digest for record in images.records]
    if spec.backbone is not None:
        return feature_matrix(
            spec.backbone.create(),
            images.image,
            digests,
            views=views,
            cache_dir=default_cache_dir(),
            workers=os.cpu_count() or 1,
            progress=progress,
        )
    pixels = images.pixels()
    if pixels is None or pixels.shape[1:] != (shape.size, shape.size, shape.channels):
        rows = []
        for index in range(len(images)):
            rows.append(
                to_model_input(
                    images.image(index), size=shape.size, channels=shape.channels, margin=spec.margin
                )
            )
            progress(index + 1, len(images))
        if not rows:
            raise DataError("a split holds no picture")
        pixels = np.stack(rows)
    if not augment:
        return pixels[:, None]
    return augmented_views(pixels, views=views, seeds=digests)


def write_arrays(folder: Path, inputs: NDArray[np.generic], labels: NDArray[np.int64]) -> None:
    """Write a merchant's model inputs and labels for its worker to map into memory."""
    folder.mkdir(parents=True, mode=0o700)
    np.save(folder / "inputs.npy", inputs, allow_pickle=False)
    np.save(folder / "labels.npy", labels, allow_pickle=False)
