"""Decide what the folders of a data set mean: splits, a wrapper around all, classes or merchants.

The decision looks at folders and their names alone, never at photos. A photo that is added or removed
therefore changes nothing for the others. Where products are protected, their folders count, too: a merchant's
training then takes the arrangement from a setting.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Final

from fedrec._internal.text import listed
from fedrec.errors import DataError
from fedrec.vision.listing.folder_tree import Folder
from fedrec.vision.listing.misplaced_splits import main_folders, refuse_misplaced_splits
from fedrec.vision.listing.split_names import SPLITS, Split, like_split, says_no_more, splits_among

NOT_UNDERSTOOD: Final = "in a folder that is no split and holds no classes that are used"


@dataclass(frozen=True)
class Arrangement:
    """Where a data set's class or merchant folders are.

    Attributes:
        splits: the folders that hold them, by split; without split folders only the training split.
        not_understood: folders beside the splits' that are none.
        passed: folders that hold these folders; files directly in them are in no class folder.
        notes: what was decided, in one line each, where it isn't plain.
        in_merchants: each of the splits' folders lies in its merchant's folder, and holds classes.
    """

    splits: Mapping[Split, tuple[Folder, ...]]
    not_understood: tuple[Folder, ...]
    passed: tuple[Folder, ...]
    notes: tuple[str, ...]
    in_merchants: bool = False


def arrange(root: Folder, *, least: int, one_merchant: bool, text_of: Callable[[Folder], str]) -> Arrangement:
    """Decide what the folders below ``root`` mean.

    Folders at the top are splits if their names say so and they hold class folders: a class may be called
    "train". A single folder at the top that holds class folders is a wrapper, such as an archive has. If all
    folders at the top hold splits and nothing else, they are merchants.

    Args:
        root: the data set's folder.
        least: levels of folders above a photo, without splits and merchants: 1, or 2 with products.
        one_merchant: there is no level of merchants.
        text_of: returns a folder's name as text.

    Returns:
        The arrangement.

    Raises:
        DataError: there are folders for validation or test, but none for training, or splits beside classes
            in merchants' folders, or folders that look like splits where none are read.
    """
    passed: list[Folder] = []
    beside: list[Folder] = []
    notes: list[str] = []
    base = root
    while not _are_splits(base, least=least, one_merchant=one_merchant, text_of=text_of):
        if not _is_wrapped(base, least=least):
            within = None if one_merchant else _splits_of_merchants(base, least=least, text_of=text_of)
            if within is not None:
                return replace(
                    within,
                    not_understood=(*beside, *within.not_understood),
                    passed=(*passed, base, *within.passed),
                    notes=(*notes, *within.notes),
                )
            refuse_misplaced_splits(base, least=least, one_merchant=one_merchant, text_of=text_of)
            return Arrangement({"train": (base,)}, tuple(beside), tuple(passed), tuple(notes))
        passed.append(base)
        beside += [folder for folder in base.folders if folder not in main_folders(base)]
        (base,) = main_folders(base)
        notes.append(f"the folder {text_of(base)} holds all the others, and is taken for the data's folder")
    passed.append(base)
    found: dict[Split, list[Folder]] = {}
    others: list[Folder] = []
    for folder, split in _named(base, text_of):
        if split is None:
            others.append(folder)
            continue
        found.setdefault(split, []).append(folder)
        if text_of(folder) != split:
            notes.append(f"the folder {text_of(folder)} is read as the {split} split")
    if "train" not in found:
        raise DataError(
            f"{base.path} has a folder for {listed(sorted(found))} ({_names(base.folders, text_of)}), but "
            "none called train: rename the one to train on"
        )
    if others:
        notes.append(
            f"next to the splits, these folders are not understood and not used: {_names(others, text_of)}"
        )
    splits: dict[Split, tuple[Folder, ...]] = {}
    for split in SPLITS:
        for folder in found.get(split, ()):
            while _is_wrapped(folder, least=least):
                (inner,) = main_folders(folder)
                # Where there are merchants, a single folder in a split is one, unless its name says no more.
                if not one_merchant and not says_no_more(text_of(inner), split=split):
                    break
                passed.append(folder)
                beside += [other for other in folder.folders if other is not inner]
                folder = inner
            splits[split] = (*splits.get(split, ()), folder)
    return Arrangement(splits, (*beside, *others), tuple(passed), tuple(notes))


def set_arrangement(
    root: Folder, class_folders: Collection[str], *, path_of: Callable[[Folder], str]
) -> Arrangement:
    """Arrange a data set by a setting alone, whatever its folders look like.

    Args:
        root: the data set's folder.
        class_folders: the folders that hold the classes to train on, as paths below ``root``; "." for itself.
        path_of: returns a folder's path below ``root`` as text.

    Returns:
        The arrangement, with the training split alone.
    """
    tops: list[Folder] = []
    passed: list[Folder] = []
    others: list[Folder] = []
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        path = path_of(folder)
        if path in class_folders:
            tops.append(folder)
        elif folder is root or any(place.startswith(f"{path}/") for place in class_folders):
            passed.append(folder)
            waiting.extend(reversed(folder.folders))
        else:
            others.append(folder)
    return Arrangement({"train": tuple(tops)}, tuple(others), tuple(passed), ())


def _splits_of_merchants(base: Folder, *, least: int, text_of: Callable[[Folder], str]) -> Arrangement | None:
    """Arrange a data set whose merchants' folders hold the splits; give None if they don't.

    Args:
        base: the folder that holds the merchants'.
        least: levels of folders above a photo, without splits and merchants.
        text_of: returns a folder's name as text.

    Returns:
        The arrangement.

    Raises:
        DataError: some of them do and others don't, or there are folders beside the splits that may be
            classes.
    """
    # What is lower holds no classes: a stray folder.
    merchants = [folder for folder in main_folders(base) if folder.height >= least]
    held = [_held_splits(folder, least=least, text_of=text_of) for folder in merchants]
    if not merchants or not any("train" in splits for splits in held):
        return None
    if not all("train" in splits for splits in held):
        if not any({"train"} < splits for splits in held):
            return None
        with_splits = [folder for folder, splits in zip(merchants, held, strict=True) if "train" in splits]
        without = [folder for folder in merchants if folder not in with_splits]
        raise DataError(
            f"{base.path}: {_names(with_splits, text_of)} hold splits with a folder to train on, and "
            f"{_names(without, text_of)} don't: give every merchant the same splits, or put the splits above "
            "the merchants, as in train/MERCHANT/CLASS"
        )
    first = merchants[0]
    splits: dict[Split, tuple[Folder, ...]] = {}
    notes = [f"each of {_names(merchants, text_of)} holds splits, and is taken for a merchant"]
    others = [folder for folder in base.folders if folder not in merchants]
    for folder in merchants:
        for inner, split in _named(folder, text_of):
            if split is not None:
                splits[split] = (*splits.get(split, ()), inner)
                if text_of(inner) != split:
                    notes.append(f"the folders {text_of(inner)} are read as the {split} split")
            elif inner not in main_folders(folder):
                others.append(inner)
            else:
                raise DataError(
                    f"{base.path}: {text_of(folder)} holds splits and other folders "
                    f"({_names(folder.folders, text_of)}): move away what is no split, or put the splits "
                    f"above the merchants, as in train/{text_of(first)}/CLASS"
                )
    ordered: dict[Split, tuple[Folder, ...]] = {split: splits[split] for split in SPLITS if split in splits}
    return Arrangement(
        ordered, tuple(others), tuple(merchants), tuple(dict.fromkeys(notes)), in_merchants=True
    )


def _named(base: Folder, text_of: Callable[[Folder], str]) -> list[tuple[Folder, Split | None]]:
    """Return the folders in ``base``, each with the split that its name means beside the others."""
    splits = splits_among([text_of(folder) for folder in main_folders(base)])
    return [(folder, splits.get(text_of(folder))) for folder in base.folders]


def _held_splits(folder: Folder, *, least: int, text_of: Callable[[Folder], str]) -> set[Split]:
    """Return the splits whose folders in a folder hold class folders."""
    found: set[Split] = set()
    for inner, split in _named(folder, text_of):
        if split is not None and inner.height >= least:
            found.add(split)
    return found


def _are_splits(base: Folder, *, least: int, one_merchant: bool, text_of: Callable[[Folder], str]) -> bool:
    """Return whether the folders in ``base`` are splits, or too much like splits to be anything else."""
    named = _named(base, text_of)
    high = {split: folder for folder, split in named if split is not None and folder.height >= least}
    main = main_folders(base)
    others = [folder for folder, split in named if split is None and folder in main]
    if not high:
        return False
    if not others:
        return True
    if "train" in high:
        if len(high) > 1 or any(_holds_compared(other, least, text_of) for other in others):
            return True
        # Photos for test, or without classes, often lie in one folder; as a class, they would be trained on.
        if all(like_split(text_of(other)) is not None for other in others):
            return True
    if "train" not in high and one_merchant:
        # Classes, one of which has a name such as "test" and a folder in it.
        return False
    # Splits have the same classes or merchants in them; folders in several classes have names of their own.
    inside = {text_of(inner) for folder in high.values() for inner in folder.folders}
    return any(text_of(inner) in inside for folder in others for inner in folder.folders)


def _holds_compared(folder: Folder, least: int, text_of: Callable[[Folder], str]) -> bool:
    return folder.height >= least and like_split(text_of(folder)) is not None


def _is_wrapped(base: Folder, *, least: int) -> bool:
    """Return whether the only folder in ``base`` holds class folders, perhaps in another such folder."""
    if len(main_folders(base)) != 1:
        return False
    (inner,) = main_folders(base)
    while len(inner.folders) == 1:
        inner = inner.folders[0]
    # The only folder of a shop that sells hats alone is a class, even with a folder in it.
    return len(inner.folders) > 1 and inner.height >= least


def _names(folders: list[Folder], text_of: Callable[[Folder], str]) -> str:
    return listed([text_of(folder) for folder in folders])
