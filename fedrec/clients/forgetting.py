"""Exclude photos from all later steps, even while their files stay in the merchant's folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from fedrec.clients.merchant_home import MerchantHome
from fedrec.clients.record_tags import RecordTags
from fedrec.clients.store import MerchantStore
from fedrec.errors import ConfigError
from fedrec.vision.datasets import open_folder
from fedrec.vision.feature_cache import default_cache_dir, drop_features
from fedrec.vision.imageset import ImageSet
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
    splits = open_folder(settings.data, layout=settings.layout, may_be_empty=True, one_merchant=True)
    names = _digests_by_name(splits.train)
    root = settings.data.resolve()
    wanted: dict[str, bytes] = {}
    for path in paths:
        name = _name(path, root)
        if name is None or name not in names:
            raise ConfigError(f"--photo {path}: this is no readable photo below {root}")
        wanted[name] = names[name]
    tags = RecordTags(home.identity())
    store = MerchantStore(home.store)
    try:
        store.forget_photos(map(tags.tag, wanted.values()))
    finally:
        store.close()
    drop_features(set(wanted.values()), cache_dir=default_cache_dir())
    for name, digest in wanted.items():
        yield name, sum(other == digest for other in names.values()) - 1


def _name(path: Path, root: Path) -> str | None:
    """Return a photo's path relative to the folder of photos; None if it is outside."""
    resolved = path.parent.resolve() / path.name
    return resolved.relative_to(root).as_posix() if resolved.is_relative_to(root) else None


def _digests_by_name(train: ImageSet) -> dict[str, bytes]:
    photos = train.photos if isinstance(train, ProductSet) else train
    return {record.name: record.digest for record in (*photos.records, *photos.dropped)}
