"""Read what a catalogue holds: products with their photos, and the vectors of photos."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from fedrec.recognition.catalogue.catalogue import OWN, Catalogue
from fedrec.recognition.catalogue.filters import Condition
from fedrec.recognition.catalogue.products import Product, clean_text
from fedrec.recognition.catalogue.stored_vectors import photo_keys

_PAGE: Final = 500
# A photo without a vector of the model in use has no class, and isn't found by a photo.
_VECTORS: Final = (
    " LEFT JOIN vector ON vector.photo_id = photo.id AND vector.embedding_id ="
    " (SELECT value FROM setting WHERE name = 'embedding_id')"
)
_TABLES: Final = f"FROM product JOIN photo ON photo.product_id = product.id{_VECTORS}"
_TABLES_OF_ALL: Final = f"FROM product LEFT JOIN photo ON photo.product_id = product.id{_VECTORS}"
_PRODUCT_COLUMNS: Final = 6


@dataclass(frozen=True)
class StoredPhoto:
    """A photo in a catalogue.

    Attributes:
        key: its number, which is never given again.
        name: its name among the product's photos.
        path: its file; None for one of another merchant.
        sha256: hash of its file; None for one of another merchant.
        label: the class that the model gives it; None without classes.
        probability: of that class.
        has_vector: whether photos find it.
        labels_of: hash of what gave it its class; None without one.
    """

    key: int
    name: str
    path: str | None
    sha256: bytes | None
    label: str | None
    probability: float | None
    has_vector: bool
    labels_of: str | None


@dataclass(frozen=True)
class StoredProduct:
    """A product in a catalogue.

    Attributes:
        key: its number, which is never given again.
        merchant: whose it is; empty for the catalogue's own.
        product: its fields.
        photos: its photos, or those that were asked for, the first first.
    """

    key: int
    merchant: str
    product: Product
    photos: tuple[StoredPhoto, ...]


@dataclass(frozen=True)
class Counts:
    """How much a catalogue holds.

    Attributes:
        own_products: products of its own.
        foreign_products: products of merged merchants.
        photos: all photos.
        found: photos with a vector of the model in use.
    """

    own_products: int
    foreign_products: int
    photos: int
    found: int


def counts_of(catalogue: Catalogue) -> Counts:
    """Count what a catalogue holds."""
    own = catalogue.rows("SELECT count(*) FROM product WHERE merchant = ?", (OWN,))[0][0]
    foreign = catalogue.rows("SELECT count(*) FROM product WHERE merchant != ?", (OWN,))[0][0]
    photos = catalogue.rows("SELECT count(*) FROM photo")[0][0]
    return Counts(own, foreign, photos, found=len(photo_keys(catalogue)))


def find_product(catalogue: Catalogue, name: str, *, merchant: str = OWN) -> StoredProduct | None:
    """Find a product by its name.

    Args:
        catalogue: the catalogue.
        name: the product's name, also in another form of its letters or with other spaces.
        merchant: whose product it is.

    Returns:
        The product; None if there is none.
    """
    rows = catalogue.rows(
        "SELECT id FROM product WHERE merchant = ? AND name = ?", (merchant, clean_text(name))
    )
    return products_of(catalogue, [rows[0][0]])[0] if rows else None


def products_of(
    catalogue: Catalogue, keys: Sequence[int], *, photos: Sequence[int] | None = None
) -> list[StoredProduct]:
    """Return products by their numbers.

    Args:
        catalogue: the catalogue.
        keys: the products' numbers.
        photos: numbers of the only photos to read, at most 500; None for all of each product.

    Returns:
        Those that exist, in the order of the numbers; of photos that were asked for, those that have one.
    """
    found = []
    for start in range(0, len(keys), _PAGE):
        found += _products_of(catalogue, keys[start : start + _PAGE], wanted=photos)
    return found


def _products_of(
    catalogue: Catalogue, keys: Sequence[int], *, wanted: Sequence[int] | None
) -> list[StoredProduct]:
    # The texts hold placeholders alone.
    places = ",".join("?" * len(keys))
    chosen = f"{_TABLES_OF_ALL} WHERE product.id IN ({places})"
    if wanted is not None:
        chosen = f"{_TABLES} WHERE photo.id IN ({','.join('?' * len(wanted))})"
    fields: dict[int, list[Any]] = {}
    photos: dict[int, list[StoredPhoto]] = {}
    for key, *columns in catalogue.rows(
        "SELECT product.id, merchant, product.name, title, link, price, category, photo.id, photo.name, path,"
        f" sha256, label, probability, photo_id IS NOT NULL, labels_of {chosen}"
        " ORDER BY photo.id",
        keys if wanted is None else wanted,
    ):
        fields[key] = columns[:_PRODUCT_COLUMNS]
        held = photos.setdefault(key, [])
        if columns[_PRODUCT_COLUMNS] is not None:
            held.append(StoredPhoto(*columns[_PRODUCT_COLUMNS:]))
    attributes: dict[int, dict[str, str | float]] = {key: {} for key in fields}
    for key, name, text, number in catalogue.rows(
        f"SELECT product_id, name, text, number FROM attribute WHERE product_id IN ({places})",  # noqa: S608
        keys,
    ):
        if key in attributes:
            attributes[key][name] = text if number is None else number
    found = []
    for key in keys:
        if key in fields:
            merchant, name, title, link, price, category = fields[key]
            product = Product.model_construct(
                name=name,
                title=title,
                link=link,
                price=price,
                category=category,
                attributes=attributes[key],
            )
            found.append(StoredProduct(key, merchant, product, tuple(photos[key])))
    return found


def products(catalogue: Catalogue, conditions: Sequence[Condition] = ()) -> Iterator[StoredProduct]:
    """Yield products in the order of their merchants and names.

    Args:
        catalogue: the catalogue.
        conditions: what a product, or one of its photos, must fulfil.

    Yields:
        The products.
    """
    where = "".join(f" AND {condition.text}" for condition in conditions)
    values = [value for condition in conditions for value in condition.values]
    last = ("", "")
    while True:
        rows = catalogue.rows(
            f"SELECT DISTINCT product.id, product.merchant, product.name {_TABLES}"
            f" WHERE (product.merchant, product.name) > (?, ?){where}"
            " ORDER BY product.merchant, product.name LIMIT ?",
            (*last, *values, _PAGE),
        )
        yield from products_of(catalogue, [row[0] for row in rows])
        if len(rows) < _PAGE:
            return
        last = (rows[-1][1], rows[-1][2])
