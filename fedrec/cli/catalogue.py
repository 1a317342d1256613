"""Implement ``fedrec catalogue``: what a merchant does with the photos of its products."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from fedrec._internal.text import counted
from fedrec.cli.lazy_group import PLAIN, LazyGroup
from fedrec.cli.photo_lines import check_read, file_name
from fedrec.errors import DataError
from fedrec.recognition.photo_files import photo_files
from fedrec.recognition.quality.thresholds import default_thresholds, read_thresholds
from fedrec.recognition.quality.verdict import FLAWS, Verdict, judge
from fedrec.vision.decoding import decode


class _Commands(LazyGroup):
    lazily: ClassVar[Mapping[str, tuple[str, str]]] = {
        "import": (
            "fedrec.cli.catalogue_changes:import_file",
            "Import products and photos from a CSV file.",
        ),
        "search": ("fedrec.cli.catalogue_search:search", "Find the products that look most like a photo."),
        "list": ("fedrec.cli.catalogue_search:list_products", "List the products."),
        "info": ("fedrec.cli.catalogue_search:info", "Show what a catalogue holds, its model, and its size."),
        "add": ("fedrec.cli.catalogue_changes:add", "Add photos to a product, and change its fields."),
        "remove": ("fedrec.cli.catalogue_changes:remove", "Remove products, photos, or a merged merchant."),
        "reindex": (
            "fedrec.cli.catalogue_changes:reindex",
            "Compute all vectors and classes again, with another model; move the vectors to a server.",
        ),
        "publish": (
            "fedrec.cli.catalogue_publishing:publish",
            "Write the products to one signed file for a platform, and say what it reveals.",
        ),
        "merge": (
            "fedrec.cli.catalogue_publishing:merge",
            "Take merchants' published files into a platform's catalogue.",
        ),
        "copies": (
            "fedrec.cli.catalogue_copies:copies",
            "Find photos that were made from each other: cropped, mirrored, framed, marked, in a collage.",
        ),
    }


app = typer.Typer(
    help="Keep a catalogue of products, search it by photos, and check its photos.",
    no_args_is_help=True,
    cls=_Commands,
    **PLAIN,
)


@app.callback()
def _group() -> None:
    """Keep a catalogue of products, search it by photos, and check its photos."""


@app.command()
def quality(
    photos: Annotated[list[Path], typer.Argument(help="Photos, folders of photos, or catalogues.")],
    thresholds: Annotated[
        Path | None, typer.Option(help="TOML file of other limits; see docs/recognition.md.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a photo, one a line.")] = False,
) -> None:
    """Find photos that are blurred, dark, too bright, flat, small or framed, and say what to do."""
    limits = default_thresholds() if thresholds is None else read_thresholds(thresholds)
    judged, good, flaws = 0, 0, Counter[str]()
    unread: dict[Path, str] = {}
    places = photo_files(photos)
    for path in places:
        try:
            verdict = judge(decode(path), limits)
        except DataError as error:
            unread[path] = str(error)
            told = f"{file_name(path)}: can't be read: {error}"
            typer.echo(_as_json(path, error=str(error)) if as_json else told)
            continue
        judged += 1
        good += verdict.is_good
        flaws.update(finding.flaw for finding in verdict.findings)
        if as_json:
            typer.echo(_as_json(path, verdict))
        elif verdict.findings:
            _show(path, verdict)
    check_read(unread, of=len(places), quiet=as_json)
    if not as_json:
        counts = ", ".join(f"{count} {flaw}" for flaw, count in flaws.most_common())
        typer.echo(
            f"{good} of {counted(judged, 'photo')} are good" + (f"; found: {counts}" if counts else "")
        )


def _show(path: Path, verdict: Verdict) -> None:
    for finding in verdict.findings:
        flaw = FLAWS[finding.flaw]
        typer.echo(f"{file_name(path)}: {'perhaps: ' if flaw.hint else ''}{flaw.problem} {flaw.advice}")


def _as_json(path: Path, verdict: Verdict | None = None, *, error: str | None = None) -> str:
    findings = () if verdict is None else verdict.findings
    return json.dumps(
        {
            "photo": str(path),
            "good": None if verdict is None else verdict.is_good,
            "error": error,
            "flaws": [
                {
                    "flaw": finding.flaw,
                    "hint": FLAWS[finding.flaw].hint,
                    "value": round(finding.value, 4),
                    "limit": finding.limit,
                    "problem": FLAWS[finding.flaw].problem,
                    "advice": FLAWS[finding.flaw].advice,
                }
                for finding in findings
            ],
        }
    )
