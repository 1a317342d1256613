"""A catalogue as the service uses it: similar products, copies, and small pictures of stored photos."""

from __future__ import annotations

import io
import threading
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from PIL import Image

from fedrec.errors import DataError
from fedrec.recognition.catalogue.catalogue import Catalogue
from fedrec.recognition.catalogue.contents import StoredPhoto, StoredProduct, products_of
from fedrec.recognition.catalogue.search import Query, Searcher
from fedrec.recognition.catalogue.stored_photos import StoredPhotos, photo_file
from fedrec.recognition.embedding import Embedder
from fedrec.recognition.service import answers
from fedrec.recognition.service.refusals import RequestError
from fedrec.vision.decoding import decode

if TYPE_CHECKING:
    from fedrec.recognition.copies.finder import Finder

_THUMBNAIL: Final = 320
_QUALITY: Final = 85
_KEPT: Final = 256
"""Small pictures of the catalogue's own photos that stay in memory."""


class ServedCatalogue:
    """A catalogue that is open.

    Args:
        catalogue: the catalogue.
        searcher: searches it.
        embedder: the model that its vectors are of.
    """

    def __init__(self, catalogue: Catalogue, searcher: Searcher, embedder: Embedder) -> None:
        self._catalogue, self._searcher, self._embedder = catalogue, searcher, embedder
        self._mutex = threading.Lock()
        self._finder: tuple[str, StoredPhotos, Finder] | None = None
        self._picture = lru_cache(maxsize=_KEPT)(self._thumbnail)

    @property
    def has_copies(self) -> bool:
        """Whether copies can be looked for: the packages for it are installed."""
        return find_spec("cv2") is not None and find_spec("pdqhash") is not None

    def products(self) -> int:
        """Count the products."""
        return int(self._catalogue.rows("SELECT count(*) FROM product")[0][0])

    def similar(self, query: Query) -> answers.Products:
        """Find similar products.

        Args:
            query: what is looked for.

        Returns:
            The products.

        Raises:
            ConfigError: a filter can't be used.
            DataError: the catalogue is damaged.
        """
        found = self._searcher.search(query)
        return answers.Products(
            products=[
                answers.Similar(
                    score=round(one.score, 4),
                    product=one.product.product.name,
                    title=one.product.product.title,
                    merchant=one.product.merchant,
                    link=one.product.product.link,
                    price=one.product.product.price,
                    category=one.product.product.category,
                    photo=one.photo.key,
                    has_picture=one.photo.path is not None,
                )
                for one in found
            ],
            compared_by=self._catalogue.model.description,
        )

    def copies(self, photo: Image.Image) -> answers.Copies:
        """Find stored photos that a photo was made from, or that were made from it.

        Args:
            photo: the photo.

        Returns:
            The copies.

        Raises:
            RequestError: the packages for it aren't installed.
        """
        if not self.has_copies:
            raise RequestError("no-copies", "finding copies needs the packages of fedrec[recognition]")
        stored, finder = self._open_finder()
        found = []
        for one in finder.find(photo):
            place = self._owner(int(stored.keys[one.number]))
            if place is None:
                continue
            product, kept = place
            found.append(
                answers.Copy(
                    score=round(one.match.score, 4),
                    test=one.match.test,
                    changes=one.transformation.words(),
                    product=product.product.name,
                    title=product.product.title,
                    merchant=product.merchant,
                    link=product.product.link,
                    photo=kept.key,
                    has_picture=kept.path is not None,
                )
            )
        return answers.Copies(copies=found)

    def picture(self, key: int) -> bytes:
        """Return a stored photo as a small JPEG; ``RequestError`` if there is none."""
        try:
            return self._picture(self._catalogue.content_key, key)
        except DataError:
            raise RequestError("no-picture", "there is no such picture here") from None

    def _thumbnail(self, content: str, key: int) -> bytes:
        photo = decode(io.BytesIO(photo_file(self._catalogue, key)), least_side=_THUMBNAIL)
        photo.thumbnail((_THUMBNAIL, _THUMBNAIL))
        file = io.BytesIO()
        photo.save(file, "JPEG", quality=_QUALITY)
        return file.getvalue()

    def _open_finder(self) -> tuple[StoredPhotos, Finder]:
        from fedrec.recognition.copies.finder import Finder

        with self._mutex:
            content = self._searcher.refresh()
            if self._finder is None or self._finder[0] != content:
                stored = StoredPhotos(self._catalogue, self._searcher)
                finder = Finder(stored, embedder=self._embedder, search=stored, read_all=False, kept=stored)
                self._finder = (content, stored, finder)
            return self._finder[1], self._finder[2]

    def _owner(self, key: int) -> tuple[StoredProduct, StoredPhoto] | None:
        rows = self._catalogue.rows("SELECT product_id FROM photo WHERE id = ?", (key,))
        for product in products_of(self._catalogue, [row[0] for row in rows]):
            for photo in product.photos:
                if photo.key == key:
                    return product, photo
        return None
