"""List the photos of a folder with split, class, merchant and product, and everything else with a reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from fedrec._internal.text import counted, listed
from fedrec.vision.folders import Layout
from fedrec.vision.listing.arrangement import NOT_UNDERSTOOD, Arrangement, arrange, set_arrangement
from fedrec.vision.listing.doubtful_names import (
    doubtful_classes,
    doubtful_merchants,
    mixed_alphabets,
    named_like_other_splits,
    not_on_windows,
    told_merchants,
    unread_lists,
)
from fedrec.vision.listing.file_contents import NOT_A_PHOTO, unread
from fedrec.vision.listing.folder_names import FolderNames, as_utf8, folder_names
from fedrec.vision.listing.folder_tree import Folder, LeftOut, looks_like_photo, read_tree
from fedrec.vision.listing.split_names import Split

DEEPER: Final = "deeper than"
_LEVELS: Final[Mapping[Layout, int]] = {"class": 1, "product": 2}
"""Levels of folders above a photo, without splits and merchants."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A file that should hold a picture.

    Attributes:
        path: the file.
        label: name of its class.
        merchant: name of its merchant, None without merchant folders.
        product: name of its product, None without product folders.
    """

    path: Path
    label: str
    merchant: str | None
    product: str | None = None


@dataclass(frozen=True, slots=True)
class Unusable:
    """An entry that isn't used.

    Attributes:
        entry: the entry, and why.
        merchant: name of its merchant, None without merchant folders.
    """

    entry: LeftOut
    merchant: str | None = None


@dataclass(frozen=True)
class Listing:
    """The entries of one split, each sorted by path."""

    pictures: tuple[Picture, ...]
    unusable: tuple[Unusable, ...]


@dataclass(frozen=True)
class PhotoListing:
    """All entries of a data set.

    Attributes:
        root: the folder that paths are shown relative to.
        splits: by split; the training split is always there.
        left_out: entries of no split.
        folders: how many folders were read.
        names: how the folders' names are read.
        notes: what was decided where it isn't plain, in one line each.
        doubts: what speaks against the way in which the photos are read, in one line each.
    """

    root: Path
    splits: dict[Split, Listing]
    left_out: tuple[LeftOut, ...]
    folders: int
    names: FolderNames
    notes: tuple[str, ...]
    doubts: tuple[str, ...] = ()

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """The photos of all splits."""
        return tuple(picture for listing in self.splits.values() for picture in listing.pictures)

    @property
    def unused(self) -> tuple[Unusable, ...]:
        """Everything that isn't used, of all splits and of none."""
        own = (file for listing in self.splits.values() for file in listing.unusable)
        return (*own, *map(Unusable, self.left_out))

    def shown(self, path: Path) -> str:
        """Return a path as text, relative to the data set."""
        return self.names.shown(path, self.root)


def found_class_folders(root: Path, *, layout: Layout, names_encoding: str | None) -> tuple[str, ...]:
    """Find the folders that hold one merchant's classes to train on.

    Args:
        root: the data set's folder.
        layout: "class" or "product".
        names_encoding: encoding of folder names that are not in UTF-8; None if none was set.

    Returns:
        Their paths below ``root``; "." for itself.

    Raises:
        DataError: ``root`` can't be listed, or has no folder to train on.
    """
    tree = read_tree(root)
    names = FolderNames(names_encoding)
    plan = _arranged(tree.root, names, layout=layout, one_merchant=True, class_folders=None)
    return tuple(names.shown(folder.path, root) or "." for folder in plan.splits["train"])


def _arranged(
    root: Folder,
    names: FolderNames,
    *,
    layout: Layout,
    one_merchant: bool,
    class_folders: tuple[str, ...] | None,
) -> Arrangement:
    if class_folders is not None:
        return set_arrangement(
            root, class_folders, path_of=lambda folder: names.shown(folder.path, root.path) or "."
        )
    return arrange(
        root,
        least=_LEVELS[layout],
        one_merchant=one_merchant,
        text_of=lambda folder: names.of_file(folder.path.name),
    )


def list_folder(
    root: Path,
    *,
    layout: Layout = "class",
    one_merchant: bool = False,
    names_encoding: str | None = None,
    class_folders: tuple[str, ...] | None = None,
) -> PhotoListing:
    """Find the photos below ``root``: ``CLASS/photo``, or ``MERCHANT/CLASS/photo``, perhaps in splits.

    Splits are above all that, or in each merchant's folder: ``MERCHANT/SPLIT/CLASS/photo``.

    In layout "product" each class holds a folder per product: ``CLASS/PRODUCT/photo``, or
    ``MERCHANT/CLASS/PRODUCT/photo``. The first level is merchants where most photos lie one level deeper.
    A folder's name in NFC form is its class. What is a photo is told by its first bytes.

    Args:
        root: the folder.
        layout: "class" or "product".
        one_merchant: all photos belong to one merchant: there is no merchant level.
        names_encoding: encoding of folder names that are not in UTF-8; None if none was set.
        class_folders: the folders that hold the classes to train on, as paths below ``root``; None to find
            them, with those of other splits.

    Returns:
        The photos, and every other entry with the reason why it isn't used.

    Raises:
        DataError: ``root`` can't be listed, or has no folder to train on.
    """
    tree = read_tree(root)
    walked = list(tree.root.walk())
    names = folder_names((as_utf8(folder.path.name) for folder in walked[1:]), encoding=names_encoding)
    plan = _arranged(tree.root, names, layout=layout, one_merchant=one_merchant, class_folders=class_folders)
    reader = _Reader(layout, _LEVELS[layout], one_merchant, names, in_merchants=plan.in_merchants)
    owned: dict[Split, Listing] = {
        split: reader.read(folders, [entry for entry in tree.left_out if _within(entry.path, folders)])
        for split, folders in plan.splits.items()
    }
    left_out = [
        entry
        for entry in tree.left_out
        if not any(_within(entry.path, folders) for folders in plan.splits.values())
    ]
    for folder in plan.passed:
        left_out += [_misplaced(folder.path / name, reader.outside) for name in folder.files]
    for top in plan.not_understood:
        left_out += [
            LeftOut(folder.path / name, NOT_UNDERSTOOD, looks_like_photo(name))
            for folder in top.walk()
            for name in folder.files
        ]
    listing = PhotoListing(
        root=root,
        splits=owned,
        left_out=tuple(sorted(left_out, key=lambda entry: entry.path)),
        folders=sum(not folder.unlistable for folder in walked[1:]),
        names=names,
        notes=(*names.notes, *plan.notes),
    )
    merchants = () if plan.in_merchants else _merchants(listing)
    notes = (*listing.notes, *told_merchants(merchants, layout=layout), *_empty(walked, tree.left_out, names))
    return replace(listing, notes=notes, doubts=tuple(_doubts(listing)))


def _merchants(listing: PhotoListing) -> tuple[str, ...]:
    return tuple({picture.merchant for picture in listing.pictures if picture.merchant is not None})


def _empty(folders: list[Folder], left_out: tuple[LeftOut, ...], names: FolderNames) -> list[str]:
    """Say which folders have nothing in them: a class of such a folder is missing without a word."""
    told = {entry.path.parent for entry in left_out}
    found = [
        names.shown(folder.path, folders[0].path)
        for folder in folders[1:]
        if not (folder.files or folder.folders or folder.unlistable or folder.path in told)
    ]
    if not found:
        return []
    return [f"{counted(len(found), 'folder is', plural='folders are')} empty: {listed(found, most=5)}"]


def _doubts(listing: PhotoListing) -> list[str]:
    notes = doubtful_classes(picture.label for picture in listing.pictures)
    notes += doubtful_merchants(_merchants(listing))
    names = {
        name
        for picture in listing.pictures
        for name in (picture.label, picture.product, picture.merchant)
        if name is not None
    }
    notes += mixed_alphabets(names) + not_on_windows(names)
    for split, owned in listing.splits.items():
        photos = [picture.path for picture in owned.pictures]
        notes += named_like_other_splits(
            photos, split, shown=lambda path: listing.names.shown(path, listing.root)
        )
    unread_files = (
        file.entry.path for file in listing.unused if file.entry.reason in (NOT_A_PHOTO, NOT_UNDERSTOOD)
    )
    return notes + unread_lists(unread_files)


def _within(path: Path, folders: tuple[Folder, ...]) -> bool:
    return any(path.is_relative_to(folder.path) for folder in folders)


def _misplaced(path: Path, place: str) -> LeftOut:
    """Return a file that is in no class folder: as a photo, or as what else it is."""
    found = unread(path)
    return LeftOut(path, place, True) if found is None else found


@dataclass(frozen=True)
class _Reader:
    layout: Layout
    least: int
    one_merchant: bool
    names: FolderNames
    in_merchants: bool

    @property
    def outside(self) -> str:
        return f"not in a {self.layout} folder"

    def read(self, folders: tuple[Folder, ...], left_out: list[LeftOut]) -> Listing:
        """List one split."""
        found: list[tuple[tuple[str, ...], Path]] = []
        wrong: list[tuple[tuple[str, ...], LeftOut]] = []
        for folder in folders:
            above = (folder.path.parent.name,) if self.in_merchants else ()
            for below, path in _files(folder):
                chain = (*above, *below)
                problem = unread(path)
                if problem is None:
                    found.append((chain, path))
                else:
                    wrong.append((chain, problem))
            for entry in left_out:
                if entry.path.is_relative_to(folder.path):
                    wrong.append(((*above, *entry.path.parent.relative_to(folder.path).parts), entry))
        depth = self._depth(found, wrong)
        pictures = []
        for chain, path in found:
            if len(chain) == depth:
                label = self.names.of_file(chain[depth - self.least])
                product = self.names.of_file(chain[-1]) if self.layout == "product" else None
                pictures.append(Picture(path, label, self._merchant(chain, depth), product))
            else:
                wrong.append((chain, LeftOut(path, self._misplaced(chain, depth), True)))
        unusable = [Unusable(entry, self._merchant(chain, depth)) for chain, entry in wrong]
        return Listing(
            tuple(sorted(pictures, key=lambda picture: picture.path.as_posix())),
            tuple(sorted(unusable, key=lambda file: file.entry.path)),
        )

    def _depth(
        self, found: list[tuple[tuple[str, ...], Path]], wrong: list[tuple[tuple[str, ...], LeftOut]]
    ) -> int:
        """Return how many folders lie above a photo: with a level of merchants where most photos have one."""
        if self.one_merchant or self.in_merchants:
            return self.least + self.in_merchants
        counts = Counter(len(chain) for chain, _ in found)
        if not counts[self.least] and not counts[self.least + 1]:
            counts = Counter(len(chain) for chain, entry in wrong if entry.photo)
        return self.least + (counts[self.least + 1] > counts[self.least])

    def _merchant(self, chain: tuple[str, ...], depth: int) -> str | None:
        return self.names.of_file(chain[0]) if depth > self.least and chain else None

    def _misplaced(self, chain: tuple[str, ...], depth: int) -> str:
        if len(chain) < depth:
            most = (
                "" if depth == self.least or len(chain) < self.least else ", and most photos are in MERCHANT/"
            )
            return self.outside + (f"{most}CLASS/" if most else "")
        return f"{DEEPER} the {self.layout} folders"


def _files(top: Folder) -> Iterator[tuple[tuple[str, ...], Path]]:
    for folder in top.walk():
        chain = folder.path.relative_to(top.path).parts
        for name in folder.files:
            yield chain, folder.path / name
