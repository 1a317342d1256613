"""The reference of a watch: what photos usually look like, in a file without a photo or a photo's vector."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal, Self

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from fedrec._internal.files import write_atomically
from fedrec._internal.json_files import read_checked
from fedrec.errors import ConfigError, DataError
from fedrec.recognition.drift.measures import MEASURES, Means
from fedrec.recognition.drift.thresholds import Photos, limits

REFERENCE: Final = "reference.json"
"""The file's name in a bundle's folder."""
SCHEMA: Final = "fedrec/drift-reference/1"
_LARGEST_FILE: Final = 1 << 22
_LONGEST_VECTOR: Final = 1 << 16
_MOST_CLASSES: Final = 10_000


def _known(values: dict[str, float]) -> dict[str, float]:
    if unknown := sorted(values.keys() - MEASURES.keys()):
        raise ValueError(f"there is no measure {unknown[0]!r}")
    return values


Limits = Annotated[dict[str, float], AfterValidator(_known)]


class Reference(BaseModel):
    """What a watch compares with.

    Attributes:
        schema_name: of the file.
        embedding_id: which embedding the mean vector is of.
        classes: the model's classes.
        photos: how many photos the reference was made from.
        embedding: mean vector.
        shares: share of photos by class.
        confidence: mean of the largest probability.
        luminance: mean of the photos' luminance.
        sharpness: mean of the photos' sharpness.
        limits: of each measure, by the number of photos in a window.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    schema_name: Literal["fedrec/drift-reference/1"] = Field(SCHEMA, alias="schema")
    embedding_id: Annotated[str, Field(max_length=200)]
    classes: Annotated[tuple[Annotated[str, Field(max_length=1000)], ...], Field(max_length=_MOST_CLASSES)]
    photos: Annotated[int, Field(ge=1)]
    embedding: Annotated[tuple[float, ...], Field(min_length=1, max_length=_LONGEST_VECTOR)]
    shares: Annotated[tuple[float, ...], Field(max_length=_MOST_CLASSES)]
    confidence: float
    luminance: float
    sharpness: float
    limits: Annotated[
        dict[Annotated[int, Field(ge=1, le=100_000)], Limits], Field(min_length=1, max_length=16)
    ]

    @model_validator(mode="after")
    def _one_share_a_class(self) -> Self:
        if len(self.shares) != len(self.classes):
            raise ValueError("there isn't one share for each class")
        return self

    @property
    def means(self) -> Means:
        """Return the means that windows are compared with."""
        return Means(
            embedding=np.array(self.embedding),
            shares=np.array(self.shares, dtype=np.float64),
            confidence=np.array(self.confidence),
            luminance=np.array(self.luminance),
            sharpness=np.array(self.sharpness),
        )

    def check_model(self, embedding_id: str, classes: tuple[str, ...]) -> None:
        """Check that the reference is of a model.

        Args:
            embedding_id: the model's.
            classes: the model's.

        Raises:
            ConfigError: it is of another one.
        """
        if (self.embedding_id, self.classes) != (embedding_id, classes):
            raise ConfigError("the reference is of another model: make one with 'fedrec model reference'")


def make_reference(photos: Photos, *, embedding_id: str, classes: tuple[str, ...]) -> Reference:
    """Make a reference.

    Args:
        photos: what a model says of public or synthetic photos; nothing of a single one is kept.
        embedding_id: the model's.
        classes: the model's.

    Returns:
        The reference.

    Raises:
        DataError: there are too few photos.
    """
    found = limits(photos)
    means = photos.means(np.full(len(photos.looks), 1 / len(photos.looks)))
    return Reference(
        schema=SCHEMA,
        embedding_id=embedding_id,
        classes=classes,
        photos=len(photos.looks),
        embedding=tuple(round(float(value), 7) for value in means.embedding),
        shares=tuple(float(value) for value in means.shares),
        confidence=float(means.confidence),
        luminance=float(means.luminance),
        sharpness=float(means.sharpness),
        limits=found,
    )


def write_reference(path: Path, reference: Reference) -> None:
    """Write a reference to a file.

    Args:
        path: the file.
        reference: what to write.
    """
    write_atomically(path, reference.model_dump_json(by_alias=True).encode() + b"\n")


def read_reference(path: Path) -> Reference:
    """Read a reference from a file; ``DataError`` if it can't be read or is none."""
    try:
        return read_checked(
            path,
            Reference.model_validate_json,
            what="reference of a watch",
            error=DataError,
            largest=_LARGEST_FILE,
        )
    except FileNotFoundError:
        raise DataError(f"there is no reference {path}: 'fedrec model reference' makes one") from None
