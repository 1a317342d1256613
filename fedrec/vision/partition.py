"""Division of one training set among simulated merchants."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import ConfigError, DataError
from fedrec.vision.imageset import ImageSet

_DIRICHLET_DRAWS: Final = 100
_MOST_CLASSES: Final = 1000


@dataclass(frozen=True)
class Partition:
    """How records are divided.

    Attributes:
        kind: the rule.
        alpha: concentration of the Dirichlet distribution; None for the other rules.
        classes: how many classes each merchant has; None for the other rules.
    """

    kind: Literal["iid", "dirichlet", "classes", "folder"]
    alpha: float | None = None
    classes: int | None = None

    def __str__(self) -> str:
        number = self.classes if self.alpha is None else self.alpha
        return self.kind if number is None else f"{self.kind}:{number:g}"

    @property
    def follows_folders(self) -> bool:
        """Whether the data says which merchant has which record."""
        return self.kind == "folder"


@dataclass(frozen=True)
class MerchantShare:
    """One merchant's records.

    Attributes:
        name: the merchant.
        indices: ascending int64 positions in the set that was divided.
        dropped: positions of exact copies that met in this share and were left out.
    """

    name: str
    indices: NDArray[np.int64]
    dropped: tuple[int, ...] = ()

    @property
    def duplicates_dropped(self) -> int:
        """The number of exact copies that were left out."""
        return len(self.dropped)


def merchant_names(count: int) -> list[str]:
    """Return ``count`` names that sort in order: merchant-00, merchant-01, and so on."""
    width = max(2, len(str(count - 1)))
    return [f"merchant-{number:0{width}d}" for number in range(count)]


def parse_partition(text: str) -> Partition:
    """Parse ``iid``, ``folder``, ``dirichlet:ALPHA`` or ``classes:K``.

    Args:
        text: as on the command line; ALPHA is finite and above 0, K a whole number from 1.

    Returns:
        The partition.

    Raises:
        ConfigError: the text is none of these.
    """
    kind, _, number = text.partition(":")
    if text == "iid":
        return Partition("iid")
    if text == "folder":
        return Partition("folder")
    if kind == "dirichlet":
        return Partition("dirichlet", alpha=_alpha(text, number))
    if kind == "classes":
        if not (number.isascii() and number.isdecimal() and 1 <= int(number) <= _MOST_CLASSES):
            raise ConfigError(
                f"partition {text!r} needs the number of classes of each merchant, 1 to {_MOST_CLASSES}, "
                "after the colon, e.g. classes:1"
            )
        return Partition("classes", classes=int(number))
    raise ConfigError(f"there is no partition {text!r}: give iid, folder, dirichlet:ALPHA or classes:K")


def _alpha(text: str, number: str) -> float:
    try:
        alpha = float(number)
    except ValueError:
        alpha = math.nan
    if not (math.isfinite(alpha) and alpha > 0):
        raise ConfigError(f"partition {text!r} needs a number above 0 after the colon, e.g. dirichlet:0.5")
    return alpha


def partition(
    images: ImageSet, *, spec: Partition, merchants: int | None, seed: int
) -> tuple[MerchantShare, ...]:
    """Divide a set among merchants; shares are disjoint and cover it, except for copies within a share.

    ``iid`` deals shuffled records out evenly. ``dirichlet`` draws for each class the merchants' shares
    from Dir(alpha) (Yurochkin et al. 2019, "Bayesian Nonparametric Federated Learning", section 4; the skew
    measured by Hsu et al. 2019, arXiv:1909.06335), and draws anew, up to 100 times, while a merchant has no
    record. ``classes`` gives each merchant a number of classes, in turn, and deals the records of a class out
    evenly to those that have it. ``folder`` follows the records' merchants. All records are looked at
    together, so this is for simulation: real merchants bring their own.

    Args:
        images: the training set.
        spec: how to divide it.
        merchants: number of merchants; None for ``folder`` takes as many as there are.
        seed: seed of the draws, not negative.

    Returns:
        One share per merchant.

    Raises:
        ConfigError: a number is missing or out of range, or contradicts the folders.
        DataError: a merchant would have no record, or ``folder`` is asked of data without merchants.
    """
    if merchants is not None and merchants < 1:
        raise ConfigError(f"{merchants} merchants cannot share data: give at least 1")
    if seed < 0:
        raise ConfigError(f"seed {seed} is negative: give 0 or more")
    if spec.follows_folders:
        shares = _by_folder(images, merchants)
    else:
        if merchants is None:
            raise ConfigError(f"partition {spec} needs the number of merchants")
        if len(images) < merchants:
            raise DataError(f"{len(images)} training pictures cannot be shared by {merchants} merchants")
        rng = np.random.default_rng(seed)
        if spec.alpha is not None:
            parts = _dirichlet(images.labels, merchants=merchants, alpha=spec.alpha, rng=rng)
        elif spec.classes is not None:
            parts = _by_class(images.labels, merchants=merchants, each=spec.classes, rng=rng)
        else:
            parts = np.array_split(rng.permutation(len(images)), merchants)
        shares = dict(zip(merchant_names(merchants), parts, strict=True))
    return tuple(_share(images, name, indices) for name, indices in shares.items())


def _share(images: ImageSet, name: str, indices: NDArray[np.int64]) -> MerchantShare:
    ordered = np.sort(np.asarray(indices, dtype=np.int64))
    # Copies from two folders can meet in one share, which may hold each record only once.
    first = {images.records[index].digest: index for index in reversed(ordered.tolist())}
    kept = np.array(sorted(first.values()), dtype=np.int64)
    return MerchantShare(name, kept, dropped=tuple(np.setdiff1d(ordered, kept).tolist()))


def _by_folder(images: ImageSet, merchants: int | None) -> dict[str, NDArray[np.int64]]:
    found: dict[str, list[int]] = {}
    for index, record in enumerate(images.records):
        if record.merchant is None:
            raise DataError(
                "partition folder needs a folder per merchant with class folders in it: "
                f"{record.name} has no merchant"
            )
        found.setdefault(record.merchant, []).append(index)
    if not found:
        raise DataError("partition folder found no training pictures")
    if merchants is not None and merchants != len(found):
        raise ConfigError(
            f"the data has folders of {len(found)} merchants, not {merchants}: leave the number out"
        )
    return {name: np.array(found[name], dtype=np.int64) for name in sorted(found)}


def _dirichlet(
    labels: NDArray[np.int64], *, merchants: int, alpha: float, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    classes = np.unique(labels)
    for _ in range(_DIRICHLET_DRAWS):
        parts: list[list[NDArray[np.int64]]] = [[] for _ in range(merchants)]
        for label in classes:
            members = rng.permutation(np.flatnonzero(labels == label))
            shares = rng.dirichlet(np.full(merchants, alpha))
            # With a tiny alpha numpy's draw can be 0/0; the limit is one merchant with everything.
            if not np.isfinite(shares).all():
                shares = np.eye(merchants)[rng.integers(merchants)]
            cuts = np.rint(np.cumsum(shares)[:-1] * len(members)).astype(np.int64)
            for part, piece in zip(parts, np.split(members, cuts), strict=True):
                part.append(piece)
        joined = [np.concatenate(part) for part in parts]
        if min(len(part) for part in joined) > 0:
            return joined
    raise DataError(
        f"dirichlet:{alpha:g} leaves a merchant of {merchants} without a picture: "
        "give a larger ALPHA, fewer merchants or more pictures"
    )


def _by_class(
    labels: NDArray[np.int64], *, merchants: int, each: int, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    classes = np.unique(labels)
    owners: list[list[int]] = [[] for _ in classes]
    for merchant in range(merchants):
        for place in range(merchant * each, merchant * each + min(each, len(classes))):
            owners[place % len(classes)].append(merchant)
    if not all(owners):
        raise ConfigError(
            f"classes:{each} gives {merchants} merchants {merchants * each} of {len(classes)} classes: "
            "give a larger K or more merchants, so that every class has a merchant"
        )
    parts: list[list[NDArray[np.int64]]] = [[] for _ in range(merchants)]
    for label, having in zip(classes, owners, strict=True):
        members = rng.permutation(np.flatnonzero(labels == label))
        for merchant, piece in zip(having, np.array_split(members, len(having)), strict=True):
            parts[merchant].append(piece)
    joined = [np.concatenate(part) for part in parts]
    if min(len(part) for part in joined) == 0:
        raise DataError(
            f"classes:{each} leaves a merchant of {merchants} without a picture: "
            "give fewer merchants or more pictures"
        )
    return joined
