"""Registry of named data sets: the package's own, and installed ones (entry points ``fedrec.datasets``)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from fedrec._internal.registry import Registry
from fedrec.errors import ConfigError
from fedrec.protocol.plan import Unit
from fedrec.vision.datasets import open_folder, open_torchvision
from fedrec.vision.folders import Layout
from fedrec.vision.listing.photo_places import PhotoPlace
from fedrec.vision.splits import DataSplits
from fedrec.vision.synthetic import generate

SYNTHETIC_PER_MERCHANT = 750
SYNTHETIC_EVALUATION = 1000


@dataclass(frozen=True)
class DatasetRequest:
    """What a data set is asked for.

    Attributes:
        root: the folder that the user named; None where the data set takes none.
        merchants: number of merchants, for a data set that makes photos for each.
        seed: seed of every random draw.
        unit: unit of privacy, "record" or "product".
        names_encoding: encoding of a folder's names that are not in UTF-8; None if none was set.
    """

    root: Path | None
    merchants: int
    seed: int
    unit: Unit
    names_encoding: str | None = None


@dataclass(frozen=True)
class DatasetSpec:
    """One data set by name.

    Attributes:
        name: name on the command line and in reports.
        open: loads the splits; raises ``ConfigError`` or ``DataError`` with one clear line.
        root: whether a folder must, may or cannot be named for it.
        any_cohort: whether it makes photos for any number of merchants, each in a folder of its own.
        products: whether it has product folders, so that the unit of privacy can be the product.
        fixed: whether its photos are the same for any seed and any number of merchants.
    """

    name: str
    open: Callable[[DatasetRequest], DataSplits]
    root: Literal["required", "optional", "unused"]
    any_cohort: bool = False
    products: bool = False
    fixed: bool = False


def _synthetic(request: DatasetRequest) -> DataSplits:
    return generate(
        merchants=request.merchants,
        per_merchant=SYNTHETIC_PER_MERCHANT,
        seed=request.seed,
        validation=SYNTHETIC_EVALUATION,
        test=SYNTHETIC_EVALUATION,
    )


def _torchvision(name: str) -> DatasetSpec:
    return DatasetSpec(
        name, lambda request: open_torchvision(name, _root(request)), root="required", fixed=True
    )


def _folder(request: DatasetRequest) -> DataSplits:
    layout: Layout = "product" if request.unit == "product" else "class"
    return open_folder(PhotoPlace(_root(request), request.names_encoding), layout=layout, unit=request.unit)


def _root(request: DatasetRequest) -> Path:
    if request.root is None:
        raise ValueError("a data set whose root is required was asked for without one")
    return request.root


def _given(request: DatasetRequest) -> DataSplits:
    raise ConfigError(
        "the photos of this run were given as objects: only the program that gives them can repeat it"
    )


FOLDER: Final = DatasetSpec("folder", _folder, root="required", products=True, fixed=True)
"""A folder of photos, as ``--data`` names it."""
GIVEN: Final = DatasetSpec("given", _given, root="unused", products=True)
"""Photos that a program gives as objects: a run's own file names it, and nothing can be opened by it."""

REGISTRY: Final = Registry(
    DatasetSpec,
    what="data set",
    group="fedrec.datasets",
    builtin=(
        DatasetSpec("synthetic", _synthetic, root="unused", any_cohort=True),
        _torchvision("fashion-mnist"),
        _torchvision("cifar10"),
        FOLDER,
    ),
    unlisted=(GIVEN,),
)
