"""Photos that a merchant no longer lets be used, whatever lies in its folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from fedrec.clients.merchant_home import MerchantHome
from fedrec.clients.store import MerchantStore
from fedrec.clients.training_set import RecordTags
from fedrec.errors import ConfigError
from fedrec.vision.datasets import open_folder
from fedrec.vision.features import default_cache_dir, drop_features
from fedrec.vision.imageset import ImageSet
from fedrec.vision.products import ProductSet


def forget_photos(home: MerchantHome, paths: Sequence[Path]) -> Iterator[tuple[str, int]]:
    """Leave photos out of every step to come, and delete their cached features; the files stay.

    A photo is known by its content and class: its copies within the class are forgotten with it, and moving
    or renaming the file changes nothing. Of a product the whole product drops out of the training that is
    open; later ones use it without the photo.

    Args:
        home: the merchant's folder.
        paths: photos below its folder of photos.

    Returns:
        The name of each photo, and how many other files hold the same.

    Raises:
        ConfigError: a path is no readable photo of the merchant's training photos.

    """
    settings = home.settings()
    splits = open_folder(settings.data, layout=settings.layout, may_be_empty=True, one_merchant=True)
    names = _digests_by_name(splits.train)
    root = settings.data.resolve()
    wanted: dict[str, bytes] = {}
    for path in paths:
        name = _name(path, root)
        if name is None or name not in names:
            raise ConfigError(f"--photo {path}: that is no readable photo below {root}")
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
    """Return a photo's name as a loaded folder has it, None for one that lies elsewhere."""
    resolved = path.parent.resolve() / path.name
    return resolved.relative_to(root).as_posix() if resolved.is_relative_to(root) else None


def _digests_by_name(train: ImageSet) -> dict[str, bytes]:
    photos = train.photos if isinstance(train, ProductSet) else train
    return {record.name: record.digest for record in (*photos.records, *photos.dropped)}
