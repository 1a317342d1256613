"""Implement the commands of ``fedrec catalogue`` that change a catalogue."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from pydantic import ValidationError

from fedrec._internal.text import counted, one_line
from fedrec._internal.validation_messages import first_problem
from fedrec.cli.console import progress_bar
from fedrec.cli.generated_options import fields_as_options
from fedrec.errors import ConfigError, DataError
from fedrec.observability.progress import Tell, message
from fedrec.recognition.catalogue.catalogue import OWN, Catalogue
from fedrec.recognition.catalogue.changes import (
    PhotoFile,
    put_photo,
    put_product,
    remove_photo,
    remove_product,
)
from fedrec.recognition.catalogue.contents import StoredProduct, find_product
from fedrec.recognition.catalogue.csv_file import attribute_value
from fedrec.recognition.catalogue.making import open_or_make
from fedrec.recognition.catalogue.photo_prints import kept_print
from fedrec.recognition.catalogue.photos import picture_of, read_file, sha256_of, stored_text
from fedrec.recognition.catalogue.places import DATABASE
from fedrec.recognition.catalogue.prices import Prices
from fedrec.recognition.catalogue.products import Product

if TYPE_CHECKING:
    from fedrec.recognition.catalogue.photo_model import PhotoModel

FOLDER = Annotated[Path, typer.Argument(metavar="CATALOGUE", help="The catalogue's folder.")]
MODEL = Annotated[
    Path | None,
    typer.Option(
        help="Folder of a model bundle. Default: the catalogue's; of a new one, the packaged backbone alone."
    ),
]


def import_file(
    catalogue: FOLDER,
    file: Annotated[
        Path, typer.Argument(help="CSV file: product, photo, title, link, price, category, attributes.")
    ],
    model: MODEL = None,
    photos: Annotated[
        Path | None,
        typer.Option(help="Folder that photos' paths start from and never leave. Default: the CSV file's."),
    ] = None,
) -> None:
    """Import products and photos from a CSV file; run it again after a stop or with new prices."""
    from fedrec.recognition.catalogue import importing

    importing.check_places(file, photos)
    used = open_catalogues_model(catalogue, model)
    with open_or_make(catalogue, used.used) as opened, progress_bar(quiet=False) as tell:
        if model is not None:
            _reindex_if_other(opened, used, tell)
        done = importing.import_file(opened, used, file, photos=photos, tell=tell)
        _write_index(opened, tell)
        typer.echo(f"{catalogue}: {done}")
        typer.echo(f"embedding: {used.used.description}")
        if done.failed and not (done.added or done.changed or done.unchanged):
            raise DataError(f"none of {counted(done.failed, 'row')} of {file} could be used")


def reindex(
    catalogue: Annotated[Path, typer.Argument(metavar="CATALOGUE", help="The catalogue's folder.")],
    model: MODEL = None,
    server: Annotated[
        str | None,
        typer.Option(
            help="Keep the vectors on the Qdrant server of this address; 'here' for on this machine."
        ),
    ] = None,
) -> None:
    """Compute all vectors and classes again, with another model; move the vectors to another server."""
    used = open_catalogues_model(catalogue, model)
    with Catalogue(catalogue, write=True) as opened, progress_bar(quiet=False) as tell:
        if server is not None:
            opened.server = _address(server)
        _reindex(opened, used, tell)
        _write_index(opened, tell)
    typer.echo(f"embedding: {used.used.description}")


_HERE: Final = "here"
"""Instead of an address: vectors stay on this machine."""


@dataclass(frozen=True)
class AddOptions:
    """Options of ``fedrec catalogue add``."""

    catalogue: Annotated[Path, typer.Argument(metavar="CATALOGUE", help="The catalogue's folder.")]
    product: Annotated[str, typer.Argument(help="Name of the product, which may be new.")]
    photo: Annotated[list[Path], typer.Argument(help="Photos of it.")]
    title: Annotated[str | None, typer.Option(help="What shoppers read. Default: the name.")] = None
    link: Annotated[str | None, typer.Option(help="Web address of its page.")] = None
    price: Annotated[str | None, typer.Option(help="Price, such as 12.50, as in a CSV file.")] = None
    category: Annotated[str | None, typer.Option(help="Category.")] = None
    attribute: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE, a further value; repeat it for several.")
    ] = None


@fields_as_options(AddOptions)
def add(options: AddOptions) -> None:
    """Add photos to a product, and change its fields; a photo's name is that of its file."""
    used = open_catalogues_model(options.catalogue, None)
    with open_or_make(options.catalogue, used.used) as opened, progress_bar(quiet=False) as tell:
        opened.check_model(used.used, labels=True)
        product = _product(options, find_product(opened, options.product))
        files, pictures = [], []
        for path in options.photo:
            try:
                data = read_file(path)
                picture = picture_of(data)
                photo = PhotoFile(
                    stored_text(path.name), stored_text(path.resolve()), sha256_of(data), kept_print(picture)
                )
            except DataError as error:
                raise DataError(f"{one_line(path)}: {error}") from None
            files.append(photo)
            pictures.append(picture)
        vectors = used.describe(pictures)
        with opened.transaction() as connection:
            key = put_product(connection, product, merchant=OWN)
            for photo, vector in zip(files, vectors, strict=True):
                put_photo(connection, key, photo, vector)
        _write_index(opened, tell)
    typer.echo(f"{product.name}: {counted(len(files), 'photo')} added")
    typer.echo(f"embedding: {used.used.description}")


def remove(
    catalogue: FOLDER,
    product: Annotated[list[str] | None, typer.Argument(help="Names of products.")] = None,
    photo: Annotated[
        list[str] | None, typer.Option(help="Remove only these photos of the one product.")
    ] = None,
    merchant: Annotated[
        str | None, typer.Option(help="Remove a merged merchant's products; without names, the merchant.")
    ] = None,
) -> None:
    """Remove products, photos, or a merged merchant."""
    names = product or []
    if not names and merchant is None:
        raise ConfigError("name the products to remove, or a merchant by --merchant")
    if photo and len(names) != 1:
        raise ConfigError("--photo removes photos of one product: name it")
    with Catalogue(catalogue, write=True) as opened, progress_bar(quiet=False) as tell:
        stored = [_existing(opened, name, merchant or OWN) for name in names]
        with opened.transaction() as connection:
            if photo:
                for key in _photo_keys(stored[0], photo):
                    remove_photo(connection, key)
            elif names:
                for one in stored:
                    remove_product(connection, one.key)
            else:
                found = connection.execute("DELETE FROM merchant WHERE name = ?", (merchant,)).rowcount
                if not found:
                    raise ConfigError(f"{catalogue} has no merchant {one_line(merchant)!r}")
                connection.execute("DELETE FROM product WHERE merchant = ?", (merchant,))
        _write_index(opened, tell)
    what = counted(len(photo), "photo") if photo else counted(len(names), "product") if names else merchant
    typer.echo(f"{catalogue}: {what} removed")


def open_catalogues_model(folder: Path, model: Path | None) -> PhotoModel:
    """Open the model that was named, or the one that a catalogue remembers, or the packaged backbone.

    Args:
        folder: the catalogue's folder, which may not exist yet.
        model: the folder that was named; None if none was.

    Returns:
        The model.
    """
    if model is None and (folder / DATABASE).exists():
        with Catalogue(folder) as opened:
            model = opened.model_folder()
    from fedrec.recognition.catalogue.models import open_photo_model

    return open_photo_model(model)


def _reindex_if_other(opened: Catalogue, used: PhotoModel, tell: Tell) -> None:
    own = opened.model
    if (own.embedding_id, own.labels_of, own.path) != (
        used.used.embedding_id,
        used.used.labels_of,
        used.used.path,
    ):
        tell(message(f"the catalogue's model was {own.description}; now it is {used.used.description}"))
        _reindex(opened, used, tell)


def _reindex(opened: Catalogue, used: PhotoModel, tell: Tell) -> None:
    from fedrec.recognition.catalogue import reindexing

    tell(message(f"{opened.folder}: {reindexing.reindex(opened, used, tell=tell)}"))


def _write_index(opened: Catalogue, tell: Tell) -> None:
    from fedrec.recognition.catalogue.opening import open_searcher

    open_searcher(opened, tell=tell)


def _address(text: str) -> str | None:
    if text == _HERE:
        return None
    from fedrec.recognition.catalogue.qdrant import check_address

    check_address(text)
    return text


def _product(options: AddOptions, stored: StoredProduct | None) -> Product:
    fields = {} if stored is None else stored.product.model_dump()
    given = {name: getattr(options, name) for name in ("title", "link", "category")}
    given["price"] = None if options.price is None else _price(options.price)
    fields |= {name: value for name, value in given.items() if value is not None}
    attributes = dict(fields.get("attributes", {}))
    for text in options.attribute or []:
        name, sign, value = text.partition("=")
        if not sign:
            raise ConfigError(f"--attribute {one_line(text, most=60)!r} isn't NAME=VALUE")
        attributes[name] = attribute_value(value)
    try:
        return Product.model_validate(
            {"title": options.product} | fields | {"name": options.product, "attributes": attributes}
        )
    except ValidationError as error:
        problem = first_problem(error)
        raise ConfigError(f"{one_line(' '.join(problem.where))} {problem.text}") from None


def _price(text: str) -> float:
    try:
        return float(Prices().read(text.strip(), line=1))
    except ValueError as error:
        raise ConfigError(f"--{error}") from None


def _existing(opened: Catalogue, name: str, merchant: str) -> StoredProduct:
    stored = find_product(opened, name, merchant=merchant)
    if stored is None:
        raise ConfigError(f"{opened.folder} has no product {one_line(name)!r}")
    return stored


def _photo_keys(stored: StoredProduct, names: list[str]) -> list[int]:
    keys = {photo.name: photo.key for photo in stored.photos}
    unknown = [name for name in names if name not in keys]
    if unknown:
        raise ConfigError(f"{stored.product.name} has no photo {one_line(unknown[0])!r}")
    return [keys[name] for name in names]
