"""Implement the commands of ``fedrec catalogue`` that show what a catalogue holds."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from fedrec._internal import number_format
from fedrec._internal.text import counted, one_line
from fedrec.cli.catalogue_changes import open_catalogues_model
from fedrec.cli.console import progress_bar
from fedrec.cli.generated_options import fields_as_options
from fedrec.cli.json_output import print_json
from fedrec.errors import ConfigError, DataError
from fedrec.recognition.catalogue.catalogue import OWN, Catalogue
from fedrec.recognition.catalogue.contents import (
    StoredPhoto,
    StoredProduct,
    counts_of,
    find_product,
    products,
)
from fedrec.recognition.catalogue.filters import parse_filter, to_conditions
from fedrec.recognition.catalogue.photos import parse_crop, picture_of, read_file
from fedrec.recognition.catalogue.stored_vectors import vectors_of

_FILTER = "Condition, such as 'price<50' or category=dress; repeat it for several."


@dataclass(frozen=True)
class SearchOptions:
    """Options of ``fedrec catalogue search``."""

    catalogue: Annotated[Path, typer.Argument(metavar="CATALOGUE", help="The catalogue's folder.")]
    photo: Annotated[Path | None, typer.Argument(help="The photo to look for.")] = None
    stored: Annotated[
        str | None, typer.Option(help="PRODUCT or PRODUCT/PHOTO: look for a photo of the catalogue instead.")
    ] = None
    top: Annotated[int, typer.Option(help="Results, 1 to 100.")] = 10
    filters: Annotated[list[str] | None, typer.Option("--filter", help=_FILTER)] = None
    at_least: Annotated[float | None, typer.Option(help="Lowest score, -1 to 1.")] = None
    crop: Annotated[
        str | None, typer.Option(help="x,y,width,height: look for this region of the photo, in pixels.")
    ] = None
    all_photos: Annotated[
        bool, typer.Option("--all-photos", help="Show every photo, not a product's nearest alone.")
    ] = False
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False


@fields_as_options(SearchOptions)
def search(options: SearchOptions) -> None:
    """Find the products that look most like a photo."""
    if (options.photo is None) == (options.stored is None):
        raise ConfigError("name a photo, or a stored one by --stored")
    if options.crop is not None and options.photo is None:
        raise ConfigError("--crop is for a photo, not for --stored")
    filters = [parse_filter(text) for text in options.filters or []]
    with Catalogue(options.catalogue) as opened, progress_bar(quiet=options.as_json) as tell:
        label: tuple[str, float] | None = None
        product = photo = None
        if options.photo is not None:
            vector, label = _look_at(opened, options.photo, options.crop)
        else:
            stored, chosen = _stored(opened, options.stored or "")
            vector = _vector_of(opened, chosen)
            product, photo = (None, chosen.key) if options.all_photos else (stored.key, None)
        from fedrec.recognition.catalogue.opening import open_searcher
        from fedrec.recognition.catalogue.search import Query

        query = Query(
            vector,
            top=options.top,
            filters=filters,
            at_least=options.at_least,
            all_photos=options.all_photos,
            without_product=product,
            without_photo=photo,
        )
        found = open_searcher(opened, tell=tell).search(query)
        description = opened.model.description
    if options.as_json:
        results = [
            {"score": round(one.score, 6), **_as_json(one.product), "photo": _photo_json(one.photo)}
            for one in found
        ]
        document = {"embedding": description, "photo": _class_json(label), "results": results}
        print_json(document)
        return
    for one in found:
        typer.echo(
            f"{one.score:.3f}  {_line(one.product)}{_class(one.photo)}  {one.product.product.link or ''}"
        )
    if not found:
        typer.echo("nothing was found")
    if label is not None:
        typer.echo(f"the photo shows: {one_line(label[0])} ({label[1]:.0%})")
    typer.echo(f"embedding: {description}")


@dataclass(frozen=True)
class ListOptions:
    """Options of ``fedrec catalogue list``."""

    catalogue: Annotated[Path, typer.Argument(metavar="CATALOGUE", help="The catalogue's folder.")]
    filters: Annotated[list[str] | None, typer.Option("--filter", help=_FILTER)] = None
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a product, one a line.")] = False


@fields_as_options(ListOptions)
def list_products(options: ListOptions) -> None:
    """List the products."""
    filters = [parse_filter(text) for text in options.filters or []]
    count = 0
    with Catalogue(options.catalogue) as opened:
        for stored in products(opened, to_conditions(opened, filters)):
            count += 1
            if options.as_json:
                photos = [_photo_json(photo) for photo in stored.photos]
                typer.echo(json.dumps({**_as_json(stored), "photos": photos}))
            else:
                first = next((photo for photo in stored.photos if photo.label is not None), None)
                shown = "" if first is None else _class(first)
                typer.echo(f"{_line(stored)}, {counted(len(stored.photos), 'photo')}{shown}")
        if not options.as_json:
            typer.echo(counted(count, "product"))
            typer.echo(f"embedding: {opened.model.description}")


def info(
    catalogue: Annotated[Path, typer.Argument(metavar="CATALOGUE", help="The catalogue's folder.")],
) -> None:
    """Show what a catalogue holds, its model, and its size."""
    with Catalogue(catalogue) as opened:
        model, counts = opened.model, counts_of(opened)
        size = sum(file.stat().st_size for file in catalogue.iterdir() if file.is_file())
        others = f", {counts.foreign_products:,} of merchants" if counts.foreign_products else ""
        typer.echo(f"products   {counts.own_products:,} of its own{others}")
        typer.echo(f"photos     {counts.photos:,}, of which {counts.found:,} can be found")
        typer.echo(f"embedding  {model.description}")
        typer.echo(f"model      {model.path or 'the packaged backbone'}")
        typer.echo(f"vectors    {model.dimension:,} values, embedding {model.embedding_id[:16]}")
        typer.echo(f"index      {opened.server or 'on this machine'}")
        typer.echo(f"size       {number_format.size(size)}")
        for name, public, published in opened.rows(
            "SELECT name, public, published FROM merchant ORDER BY name"
        ):
            typer.echo(f"merchant   {name}, key {bytes(public).hex()}, published {published}")


def _look_at(
    opened: Catalogue, path: Path, crop: str | None
) -> tuple[NDArray[np.float32], tuple[str, float] | None]:
    model = open_catalogues_model(opened.folder, None)
    opened.check_model(model.used, labels=False)
    try:
        picture = picture_of(read_file(path), None if crop is None else parse_crop(crop))
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    (output,) = model.run([picture])
    named = None if output.label is None or output.probability is None else (output.label, output.probability)
    return output.vector, named


def _stored(opened: Catalogue, text: str) -> tuple[StoredProduct, StoredPhoto]:
    """Find PRODUCT or PRODUCT/PHOTO; both may hold slashes."""
    whole = find_product(opened, text, merchant=OWN)
    if whole is not None:
        first = next((photo for photo in whole.photos if photo.has_vector), None)
        if first is None:
            raise ConfigError(f"product {one_line(text)!r} has no photo that can be found")
        return whole, first
    parts = text.split("/")
    for end in range(1, len(parts)):
        stored = find_product(opened, "/".join(parts[:end]), merchant=OWN)
        name = "/".join(parts[end:])
        for photo in stored.photos if stored is not None else ():
            if stored is not None and photo.name == name and photo.has_vector:
                return stored, photo
    raise ConfigError(f"{opened.folder} has no product or photo {one_line(text)!r}")


def _vector_of(opened: Catalogue, photo: StoredPhoto) -> NDArray[np.float32]:
    vectors = vectors_of(opened, np.array([photo.key]), dimension=opened.model.dimension)[1]
    if not len(vectors):
        raise ConfigError(f"photo {one_line(photo.name)!r} was removed")
    vector: NDArray[np.float32] = vectors[0].astype(np.float32)
    return vector


def _line(stored: StoredProduct) -> str:
    product = stored.product
    price = None if product.price is None else f"{product.price:.2f}"
    merchant = f"{stored.merchant}: " if stored.merchant else ""
    parts = [part for part in (product.title, price, product.category) if part]
    return one_line(f"{merchant}{product.name}  {', '.join(parts)}", most=400)


def _class(photo: StoredPhoto) -> str:
    if photo.label is None or photo.probability is None:
        return ""
    return f", shows {one_line(photo.label)} ({photo.probability:.0%})"


def _class_json(label: tuple[str, float] | None) -> dict[str, Any] | None:
    return None if label is None else {"class": label[0], "probability": round(label[1], 4)}


def _as_json(stored: StoredProduct) -> dict[str, Any]:
    product = stored.product
    return {
        "product": product.name,
        "merchant": stored.merchant or None,
        "title": product.title,
        "link": product.link,
        "price": product.price,
        "category": product.category,
        "attributes": dict(product.attributes),
    }


def _photo_json(photo: StoredPhoto) -> dict[str, Any]:
    return {
        "name": photo.name,
        "path": photo.path,
        "class": photo.label,
        "probability": None if photo.probability is None else round(photo.probability, 4),
    }
