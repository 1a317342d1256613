"""The data sets that a simulation can name: the package's own, and installed ones (``fedrec.datasets``)."""

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
from fedrec.vision.splits import DataSplits
from fedrec.vision.synthetic import generate

SYNTHETIC_PER_MERCHANT = 750
SYNTHETIC_EVALUATION = 1000


@dataclass(frozen=True)
class DatasetRequest:
    """What a data set is asked for.

    Attributes:
        root: the folder that a person named, where the data set takes one.
        merchants: how many there are to be, for a data set that makes photos for each.
        seed: of whatever is drawn.
        unit: what is hidden, records or products.

    """

    root: Path | None
    merchants: int
    seed: int
    unit: Unit


@dataclass(frozen=True)
class DatasetSpec:
    """One data set by name.

    Attributes:
        name: as on the command line and in reports.
        open: loads the splits; raises ``ConfigError`` or ``DataError`` in one clear line.
        root: whether a folder must, may or can't be named for it.
        any_cohort: whether it has photos for as many merchants as are asked for, each in a folder of its own.
        products: whether it has folders of products, so that a product can be the unit.

    """

    name: str
    open: Callable[[DatasetRequest], DataSplits]
    root: Literal["required", "optional", "unused"]
    any_cohort: bool = False
    products: bool = False


def _synthetic(request: DatasetRequest) -> DataSplits:
    return generate(
        merchants=request.merchants,
        per_merchant=SYNTHETIC_PER_MERCHANT,
        seed=request.seed,
        validation=SYNTHETIC_EVALUATION,
        test=SYNTHETIC_EVALUATION,
    )


def _torchvision(name: str) -> DatasetSpec:
    return DatasetSpec(name, lambda request: open_torchvision(name, _root(request)), root="required")


def _folder(request: DatasetRequest) -> DataSplits:
    layout: Layout = "product" if request.unit == "product" else "class"
    return open_folder(_root(request), layout=layout, unit=request.unit)


def _root(request: DatasetRequest) -> Path:
    if request.root is None:
        raise ValueError("a data set whose root is required was asked for without one")
    return request.root


def _given(request: DatasetRequest) -> DataSplits:
    raise ConfigError(
        "the photos of this run were given as objects: only the program that gives them can repeat it"
    )


FOLDER: Final = DatasetSpec("folder", _folder, root="required", products=True)
"""A folder of photos, as ``--data`` names it."""
GIVEN: Final = DatasetSpec("given", _given, root="unused", products=True)
"""Photos that a program gives as objects: it opens none itself, and a run's own file names it."""

REGISTRY: Final = Registry(
    DatasetSpec,
    what="data set",
    group="fedrec.datasets",
    builtin=(
        DatasetSpec("synthetic", _synthetic, root="unused", any_cohort=True),
        _torchvision("fashion-mnist"),
        _torchvision("cifar10"),
        FOLDER,
        GIVEN,
    ),
)
