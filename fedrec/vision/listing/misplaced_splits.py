"""Refuse folders that are named like splits where no split is read: test photos would be trained on."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final

from fedrec._internal.text import listed
from fedrec.errors import DataError
from fedrec.vision.listing.folder_tree import Folder
from fedrec.vision.listing.split_names import SPLITS, like_split, split_of, splits_among

_BESIDE: Final = re.compile(
    r"annotations?|anno|labels?|metadata|meta|dev[_-]?kit|image[_-]?sets|attributes|b(ounding[_-]?)?boxes|"
    r"key[_-]?points|docs|scripts|jsons?|xmls?|csvs?|lists",
    re.IGNORECASE,
)
"""Folders that data sets have beside their photos."""


def main_folders(base: Folder) -> list[Folder]:
    """Return the folders in ``base`` that may hold photos."""
    return [folder for folder in base.folders if not _BESIDE.fullmatch(folder.path.name)]


def refuse_misplaced_splits(
    base: Folder, *, least: int, one_merchant: bool, text_of: Callable[[Folder], str]
) -> None:
    """Refuse a data set that was found to have no splits, but has folders that look like some.

    A single name proves nothing: a toy shop may have a class called "train". Names of two splits beside each
    other do, with nothing else there; and so do names such as ``hats_train`` and ``hats_test``, or all three
    splits, whatever is beside them. Where a level for products is missing, they do whatever is beside them.

    Args:
        base: the folder of the merchants or classes.
        least: levels of folders above a photo, without splits and merchants.
        one_merchant: there is no level of merchants.
        text_of: returns a folder's name as text.

    Raises:
        DataError: there are such folders.
    """
    if not one_merchant:
        _refuse_unequal_merchants(base, text_of=text_of)
    for folder in _down_to(base, levels=max(1, least - one_merchant)):
        main = main_folders(folder)
        splits: dict[str, str] = dict(splits_among([text_of(inner) for inner in main]))
        for name in map(text_of, main):
            if name not in splits and (kind := like_split(name)) is not None:
                splits[name] = kind
        named = [inner for inner in main if text_of(inner) in splits]
        kinds = set(splits.values())
        heights = {inner.height for inner in named}
        no_products = least > 1 and least - 1 in heights
        told = (
            len(named) == len(main)
            or (no_products and "train" in kinds)
            or kinds >= set(SPLITS)
            or any(split == "train" and split_of(name) is None for name, split in splits.items())
        )
        if len(kinds) > 1 and told:
            names = listed([text_of(inner) for inner in named])
            if no_products:
                problem = (
                    "that hold classes without a folder for each product: read them with layout class, or "
                    "put product folders below the class folders, as in train/CLASS/PRODUCT"
                )
            elif max(heights) < least:
                problem = (
                    "without class folders in them: put the splits above the classes, as in "
                    f"train/CLASS{'/PRODUCT' if least > 1 else ''}, or give a CSV file with the columns "
                    "path, label and split; files of labels or boxes beside photos aren't read"
                )
            else:
                problem = (
                    "in a place where none are read: put them above all other folders, as in train/CLASS, "
                    "with one called train"
                )
            raise DataError(
                f"{folder.path}: {names} look like splits {problem}. If they are none, give them other names"
            )


def _refuse_unequal_merchants(base: Folder, *, text_of: Callable[[Folder], str]) -> None:
    training: list[str] = []
    others: list[str] = []
    for merchant in main_folders(base):
        kinds = {like_split(text_of(inner)) for inner in main_folders(merchant)}
        if kinds and None not in kinds:
            (training if "train" in kinds else others).append(text_of(merchant))
    if training and others:
        raise DataError(
            f"{base.path}: these merchants have a train folder: {listed(training)}; and these have other "
            f"splits and no train folder: {listed(others)}. Give every merchant a train folder, or put "
            "the splits above the merchants, as in train/MERCHANT/CLASS. If they are classes, give them "
            "other names"
        )


def _down_to(base: Folder, *, levels: int) -> Iterator[Folder]:
    yield base
    if levels:
        for folder in main_folders(base):
            yield from _down_to(folder, levels=levels - 1)
