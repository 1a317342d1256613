"""Exclude photos from all later steps, even while their files stay in the merchant's folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from fedrec.clients.merchant_files import ClientSettings
from fedrec.clients.merchant_home import MerchantHome
from fedrec.clients.record_tags import RecordTags
from fedrec.clients.store import MerchantStore
from fedrec.errors import ConfigError
from fedrec.vision.datasets import open_folder
from fedrec.vision.feature_cache import default_cache_dir, drop_features
from fedrec.vision.imageset import ImageSet
from fedrec.vision.listing.photo_places import list_photos
from fedrec.vision.products import ProductSet


def forget_photos(home: MerchantHome, paths: Sequence[Path]) -> Iterator[tuple[str, int]]:
    """Exclude photos from all later steps and delete their cached features; the files are kept.

    A photo is identified by its content and class. Copies in the same class are excluded too, and moving or
    renaming the file changes nothing. If the photo belongs to a product, the open training loses the whole
    product; later trainings use the product without the photo.

    Args:
        home: the merchant's folder.
        paths: photos below its folder of photos.

    Yields:
        The name of each photo, and the number of other files with the same content and class.

    Raises:
        ConfigError: a path isn't a readable training photo of the merchant.
    """
    settings = home.settings()
    splits = open_folder(settings.place, layout=settings.layout, may_be_empty=True, one_merchant=True)
    digests = _digests_by_name(splits.train)
    names = _names_by_file(settings)
    wanted: dict[str, set[bytes]] = {}
    for path in paths:
        name = names.get(path.parent.resolve() / path.name)
        if name is None or name not in digests:
            raise ConfigError(f"--photo {path}: this is no readable photo of {settings.data}")
        wanted[name] = digests[name]
    forget_digests(home, {digest for found in wanted.values() for digest in found})
    for name, found in wanted.items():
        yield name, sum(bool(other & found) for other in digests.values()) - 1


def forget_digests(home: MerchantHome, digests: Iterable[bytes]) -> None:
    """Exclude photos from all later steps and delete their cached features.

    Args:
        home: the merchant's folder.
        digests: the photos' digests.
    """
    wanted, tags = set(digests), RecordTags(home.identity())
    store = MerchantStore(home.store)
    try:
        store.forget_photos(map(tags.tag, sorted(wanted)))
    finally:
        store.close()
    drop_features(wanted, cache_dir=default_cache_dir())


def _names_by_file(settings: ClientSettings) -> dict[Path, str]:
    """Return the name of each photo by its file, however its path is spelled."""
    listed = list_photos(settings.place, layout=settings.layout, one_merchant=True)
    folders = {folder: folder.resolve() for folder in {picture.path.parent for picture in listed.pictures}}
    return {
        folders[picture.path.parent] / picture.path.name: listed.shown(picture.path)
        for picture in listed.pictures
    }


def _digests_by_name(train: ImageSet) -> dict[str, set[bytes]]:
    """Return digests by name; a table may give a photo to several products, and names may be shown alike."""
    photos = train.photos if isinstance(train, ProductSet) else train
    found: dict[str, set[bytes]] = {}
    for record in (*photos.records, *photos.dropped):
        found.setdefault(record.name, set()).add(record.digest)
    return found
