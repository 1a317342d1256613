"""The public photos that a compression needs: synthetic ones, or a folder of the user's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from PIL import Image

from fedrec._internal.text import counted
from fedrec.errors import DataError
from fedrec.recognition.compression.measuring import PhotoSample
from fedrec.recognition.export.comparison import public_photos
from fedrec.vision.decoding import decode
from fedrec.vision.listing.found_encoding import with_found_encoding
from fedrec.vision.listing.photo_places import list_photos

CALIBRATION: Final = 48
TESTED: Final = 200
FITTED: Final = 600
LEAST_PHOTOS: Final = 100
MOST_PHOTOS: Final = 2000


@dataclass(frozen=True)
class CompressionPhotos:
    """Photos to make smaller models with, and others to measure on.

    Attributes:
        calibration: photos that give the ranges of integers.
        fitted: photos that a student is fitted to.
        kind: what these are.
        tested: photos to measure on.
    """

    calibration: Sequence[Image.Image]
    fitted: Sequence[Image.Image]
    kind: str
    tested: PhotoSample


def synthetic_photos() -> CompressionPhotos:
    """Return synthetic product photos."""
    made = public_photos(FITTED + TESTED)
    tested = PhotoSample(
        made[FITTED:],
        [None] * TESTED,
        text=f"{TESTED} synthetic photos, those of which the original is surest",
        foreign=True,
    )
    return CompressionPhotos(made[:CALIBRATION], made[:FITTED], "synthetic photos", tested)


def folder_photos(folder: Path, classes: Sequence[str]) -> CompressionPhotos:
    """Read public photos, every other one to calibrate on, and the rest to measure on.

    Args:
        folder: folders of photos, each with a class's name where they are labelled.
        classes: the model's classes.

    Returns:
        The photos.

    Raises:
        DataError: there are too few that can be read.
    """
    listed = list_photos(with_found_encoding(folder)).pictures
    step = -(-len(listed) // MOST_PHOTOS)
    photos: list[Image.Image] = []
    labels: list[int | None] = []
    for picture in listed[::step] if step else ():
        try:
            photos.append(decode(picture.path))
        except DataError:
            continue
        labels.append(classes.index(picture.label) if picture.label in classes else None)
    if len(photos) < LEAST_PHOTOS:
        raise DataError(
            f"{folder} has {counted(len(photos), 'readable photo')}, and {LEAST_PHOTOS} are needed: half to "
            "calibrate on, half to measure on"
        )
    calibration = photos[::2]
    spread = calibration[:: -(-len(calibration) // CALIBRATION)]
    tested = PhotoSample(
        photos[1::2], labels[1::2], text=f"{len(photos[1::2])} public photos of --calibrate", foreign=False
    )
    return CompressionPhotos(spread, calibration, "public photos of --calibrate", tested)
