"""Implement ``fedrec data``: inspect photos, generate synthetic ones, download a public data set."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from fedrec._internal.text import counted, listed, one_line
from fedrec.cli.console import stdout
from fedrec.cli.json_output import print_json
from fedrec.cli.lazy_group import PLAIN, LazyGroup
from fedrec.cli.option_values import check_layout
from fedrec.cli.wrapping import say
from fedrec.errors import DataError
from fedrec.vision.datasets import open_torchvision
from fedrec.vision.inspection import FolderSummary
from fedrec.vision.inspection import inspect as inspect_folder
from fedrec.vision.listing.found_encoding import with_found_encoding
from fedrec.vision.listing.legacy_text import checked_encoding
from fedrec.vision.listing.made_tables import make_table
from fedrec.vision.listing.photo_places import PhotoPlace
from fedrec.vision.synthetic import check_target, generate, write

_SHOWN_SKIPS, _SHOWN_GROUPS, _LONGEST_NOTE = 20, 5, 1000

app = typer.Typer(
    help="Inspect a folder of photos, generate synthetic ones, or download a public data set.",
    no_args_is_help=True,
    cls=LazyGroup,
    **PLAIN,
)


@app.command()
def inspect(
    folder: Annotated[
        Path, typer.Argument(help="Folder of class folders, or of merchant folders; or a CSV file.")
    ],
    layout: Annotated[
        str, typer.Option(help="class, or product: class folders that hold a folder per product.")
    ] = "class",
    names_encoding: Annotated[
        str | None, typer.Option(help="Encoding of names that are not in UTF-8, e.g. gbk (found by itself).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the counts as JSON.")] = False,
) -> None:
    """Account for every entry: photos by class and merchant, and what is left out or looks alike."""
    encoding = None if names_encoding is None else checked_encoding(names_encoding)
    place = with_found_encoding(PhotoPlace(folder, encoding))
    found = inspect_folder(place, layout=check_layout(layout))
    if as_json:
        print_json(asdict(found))
    else:
        _show(found)


@app.command()
def table(
    source: Annotated[Path, typer.Argument(help="A CSV file with other columns, or JSON lines.")],
    target: Annotated[Path, typer.Argument(help="The new CSV file, in a folder above the photos.")],
    path: Annotated[
        str | None, typer.Option(help="Column of photos: paths, names, or names without ending.")
    ] = None,
    label: Annotated[str | None, typer.Option(help="Column of classes.")] = None,
    product: Annotated[str | None, typer.Option(help="Column of products.")] = None,
    split: Annotated[str | None, typer.Option(help="Column of splits; '' for none.")] = None,
    photos: Annotated[
        Path | None, typer.Option(help="Folder to look for photos in; else the source's.")
    ] = None,
) -> None:
    """Make a table that is read (columns path and label) from one of a data set or a shop's export."""
    given = {"path": path, "label": label, "product": product, "split": split}
    columns = {name: column for name, column in given.items() if column is not None}
    made = make_table(source, target, columns=columns, photos=photos)
    read = listed([f"{name} from {column}" for name, column in made.columns.items()])
    say(f"{counted(made.written, 'row')} in {target}: {one_line(read)}")
    for line, reason in made.left_out[:_SHOWN_SKIPS]:
        say(f"skipped line {line}: {reason}")
    if len(made.left_out) > _SHOWN_SKIPS:
        say(f"and {len(made.left_out) - _SHOWN_SKIPS:,} more")
    say(f"next: fedrec data inspect {shlex.quote(str(target))}")


@app.command()
def synth(
    folder: Annotated[Path, typer.Argument(help="New folder to write the photos to.")],
    merchants: Annotated[int, typer.Option(help="Number of merchants, each with its own style.")] = 8,
    per_merchant: Annotated[int, typer.Option(help="Training photos per merchant.")] = 750,
    validation: Annotated[int, typer.Option(help="Validation photos.")] = 1000,
    test: Annotated[int, typer.Option(help="Test photos.")] = 1000,
    size: Annotated[int, typer.Option(help="Width and height in pixels.")] = 32,
    seed: Annotated[int, typer.Option(help="The same seed gives the same photos.")] = 0,
) -> None:
    """Generate synthetic product photos of ten classes, as 'fedrec simulate' does by default."""
    # Generating takes minutes, so a wrong folder is reported first.
    check_target(folder)
    splits = generate(
        merchants=merchants,
        per_merchant=per_merchant,
        size=size,
        seed=seed,
        validation=validation,
        test=test,
    )
    say(f"{counted(write(splits, folder), 'photo')} in {folder}")


@app.command()
def download(
    dataset: Annotated[str, typer.Argument(help="fashion-mnist or cifar10.")],
    data_root: Annotated[Path, typer.Option(help="Folder to store it in.")],
) -> None:
    """Download a public data set through torchvision, unless it is present already."""
    splits = open_torchvision(dataset, data_root)
    if splits.test is None:
        raise DataError(f"{dataset} below {data_root} has no test split")
    say(f"{dataset}: {len(splits.train)} training and {len(splits.test)} test photos in {data_root}")


def _show(found: FolderSummary) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("class")
    for split in found.splits:
        table.add_column(split.name, justify="right")
    for label in found.splits[0].classes:
        table.add_row(escape(one_line(label)), *(str(split.classes.get(label, 0)) for split in found.splits))
    table.add_row("all", *(str(split.photos) for split in found.splits), end_section=True)
    if found.splits[0].products:
        table.add_row("products", *(str(split.products) for split in found.splits), end_section=True)
    for name in found.splits[0].merchants:
        table.add_row(
            f"merchant {escape(one_line(name))}",
            *(str(split.merchants.get(name, "")) for split in found.splits),
        )
    stdout.print(table)
    stdout.print(f"{found.duplicates_dropped} exact copies in train would be dropped")
    if found.splits[0].products:
        stdout.print(
            f"with products as the unit: {found.products_dropped} copies of products in train would be "
            f"dropped, {len(found.in_several_products)} photos belong to several products and count in each"
        )
    _show_alike(found)
    for group in found.in_several_products[:_SHOWN_GROUPS]:
        say("shared  " + ", ".join(group[:_SHOWN_GROUPS]) + (", ..." if group[_SHOWN_GROUPS:] else ""))
    for skip in found.skipped[:_SHOWN_SKIPS]:
        say(f"skipped {skip.name}: {skip.reason}")
    if len(found.skipped) > _SHOWN_SKIPS:
        say(f"and {len(found.skipped) - _SHOWN_SKIPS} more; --json lists all")
    _show_account(found)


def _show_account(found: FolderSummary) -> None:
    """Say what became of every entry, and what was decided about names and folders."""
    for reason, names in found.ignored_by_reason.items():
        say(f"ignored {len(names)}, {reason}: {listed(names, most=_SHOWN_GROUPS)}")
    say(found.totals)
    for note in found.notes:
        say(f"note    {one_line(note, most=_LONGEST_NOTE)}")
    for warning in found.warnings:
        say(f"warning: {warning}")


def _show_alike(found: FolderSummary) -> None:
    groups = found.near_duplicates
    if not groups:
        return
    photos = sum(map(len, groups))
    look = "looks" if photos == 1 else "look"
    say(
        f"{counted(photos, 'photo')} in train {look} like another photo of the same merchant; each one counts"
    )
    for group in groups[:_SHOWN_GROUPS]:
        say("alike   " + ", ".join(group[:_SHOWN_GROUPS]) + (", ..." if group[_SHOWN_GROUPS:] else ""))
    if len(groups) > _SHOWN_GROUPS:
        say(f"and {len(groups) - _SHOWN_GROUPS} more groups; --json lists all")
