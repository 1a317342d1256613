"""Accuracy at a budget: every table of docs/accuracy.md, by sweeps of ``fedrec simulate`` under kahe.

Run ``python benchmarks/accuracy.py --photos DIR --out DIR [--only NAME ...] [--write docs/accuracy.md]``.
``--photos`` holds ``clothing-small`` (train and validation), ``fashion-mnist``, and ``cifar10`` as folders of
classes below ``train`` and ``test``. A campaign whose sweep is finished in the folder ``--out`` is not run
again, and one that was stopped goes on where it was. The tables go to the terminal and, with ``--write``,
between the marks of that page, in the place of those with the same titles. A campaign takes minutes, and
longer until its photos' features are cached.

Folds of the cross-validation, and the small colour pictures, are folders made below ``--out``; photos of the
folds are links.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from measure import fedrec_here
from PIL import Image

FOLDS = 4
SMALL_SIDE = 32
BEGIN, END = "<!-- measured -->", "<!-- /measured -->"
BEGIN_NON_IID, END_NON_IID = "<!-- non-iid -->", "<!-- /non-iid -->"

Options = dict[str, object]


@dataclass(frozen=True)
class Campaign:
    """One table: a sweep of budgets, repeated with other seeds.

    ``asked`` has the least accuracy that was asked for, in percent, by epsilon. ``folds`` counts the sweeps
    of a cross-validation; 1 for a single one.
    """

    name: str
    title: str
    options: Options
    epsilons: Sequence[float]
    photos: Callable[[Path, Path, int], Options]
    repeats: int = 3
    asked: Mapping[float, float] = field(default_factory=dict)
    folds: int = 1


def clothing(photos: Path, scratch: Path, fold: int) -> Options:
    """The clothing photos as they are: training and validation."""
    return {"data": photos / "clothing-small"}


def clothing_fold(photos: Path, scratch: Path, fold: int) -> Options:
    """One fold of the training photos for validation, and the others for training; all of them links."""
    folder = scratch / f"fold-{fold}"
    if not folder.exists():
        making = scratch / f"making-fold-{fold}"
        found = sorted((photos / "clothing-small" / "train").glob("*/*"))
        for number, photo in enumerate(found):
            split = "validation" if number % FOLDS == fold else "train"
            link = making / split / photo.parent.name / photo.name
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.is_symlink():
                link.symlink_to(photo.resolve())
        making.rename(folder)
    return {"data": folder}


def small_clothing(photos: Path, scratch: Path, fold: int) -> Options:
    """The clothing photos at 32 pixels."""
    folder = scratch / f"clothing-{SMALL_SIDE}"
    if not folder.exists():
        making = scratch / f"making-clothing-{SMALL_SIDE}"
        for photo in sorted((photos / "clothing-small").glob("*/*/*")):
            path = making / photo.relative_to(photos / "clothing-small").with_suffix(".png")
            path.parent.mkdir(parents=True, exist_ok=True)
            with Image.open(photo) as opened:
                opened.convert("RGB").resize((SMALL_SIDE, SMALL_SIDE), Image.Resampling.BOX).save(path)
        making.rename(folder)
    return {"data": folder}


def fashion(photos: Path, scratch: Path, fold: int) -> Options:
    """Fashion-MNIST, measured on its test split."""
    return {"dataset": "fashion-mnist", "data_root": photos / "fashion-mnist"}


def small_colour(photos: Path, scratch: Path, fold: int) -> Options:
    """CIFAR-10 as a folder of PNG files, measured on its test split."""
    return {"data": photos / "cifar10"}


_CLOTHING: Options = {"merchants": 8, "delta": 1e-4}
_FASHION: Options = {"merchants": 10, "delta": 1e-5}

CAMPAIGNS: Sequence[Campaign] = (
    Campaign(
        "clothing",
        "Clothing photos, validation (341 photos), 8 merchants, `--model best`",
        _CLOTHING | {"model": "best"},
        (0.5, 1, 2, 4, 8),
        clothing,
        repeats=5,
        asked={0.5: 77.5, 1: 82.5, 4: 86.5, 8: 88},
    ),
    Campaign(
        "clothing-folds",
        "Clothing photos, 4-fold cross-validation inside the training photos (3,068)",
        _CLOTHING | {"model": "best"},
        (0.5, 1, 2, 4, 8),
        clothing_fold,
        repeats=2,
        folds=FOLDS,
    ),
    Campaign(
        "clothing-one-round",
        "Clothing photos, validation, `--method one-round`",
        _CLOTHING | {"model": "best", "method": "one-round"},
        (0.5, 1, 2, 4, 8),
        clothing,
        repeats=5,
        asked={1: 77.5, 4: 83},
    ),
    Campaign(
        "clothing-small-pictures",
        f"Clothing photos at {SMALL_SIDE} pixels, validation, `--model best`",
        _CLOTHING | {"model": "best"},
        (1, 3, 8),
        small_clothing,
    ),
    Campaign(
        "fashion",
        "Fashion-MNIST, test (10,000 pictures), 10 merchants, `--model best`",
        _FASHION | {"model": "best"},
        (1, 2.7, 4),
        fashion,
        asked={1: 89.6, 2.7: 91.0, 4: 91.3},
    ),
    Campaign(
        "fashion-scattering",
        "The same, `--model scattering-head`: no pretrained network",
        _FASHION | {"model": "scattering-head"},
        (1, 2.7, 4),
        fashion,
        asked={1: 88.3, 2.7: 89.8, 4: 90.3},
    ),
    Campaign(
        "fashion-dirichlet",
        "Fashion-MNIST, test, 10 merchants, `--partition dirichlet:0.3`, `--model best`",
        _FASHION | {"model": "best", "partition": "dirichlet:0.3"},
        (2.7,),
        fashion,
        asked={2.7: 90.8},
    ),
    Campaign(
        "cifar10",
        "CIFAR-10 (colour, 32 pixels), test (10,000 pictures), 10 merchants, `--model best`",
        _FASHION | {"model": "best"},
        (3,),
        small_colour,
        asked={3: 77},
    ),
)


def run(campaign: Campaign, *, photos: Path, out: Path) -> list[dict[str, Any]]:
    """Run what is left of a campaign's sweeps; return the rows of each budget over all of them."""
    scratch = out / "pictures"
    scratch.mkdir(parents=True, exist_ok=True)
    folders = []
    for fold in range(campaign.folds):
        folder = out / (campaign.name if campaign.folds == 1 else f"{campaign.name}-{fold}")
        folders.append(folder)
        if (folder / "comparison.json").exists():
            continue
        if (folder / "sweep.json").exists():
            fedrec_here("simulate", "--resume", folder)
            continue
        options = {"secure_aggregation": "kahe", "seed": 0} | dict(campaign.options)
        options |= campaign.photos(photos, scratch, fold)
        flags = [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", value)]
        swept = "epsilon=" + ",".join(f"{value:g}" for value in campaign.epsilons)
        fedrec_here("simulate", *flags, "--sweep", swept, "--repeat", campaign.repeats, "--out", folder)
    rows = [row for folder in folders for row in json.loads((folder / "comparison.json").read_text())["rows"]]
    return [_row(campaign, epsilon, rows) for epsilon in campaign.epsilons]


def _row(campaign: Campaign, epsilon: float, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    # What was spent is at most what was asked for, and within a percent of it.
    mine = [row for row in rows if 0.97 * epsilon < row["epsilon"] <= epsilon]
    reports = [json.loads((Path(run) / "report.json").read_text()) for row in mine for run in row["folders"]]
    accuracies = [100 * report["metrics"]["accuracy"] for report in reports]
    return {
        "asked epsilon": epsilon,
        "asked": campaign.asked.get(epsilon),
        "accuracy": statistics.fmean(accuracies),
        "interval": None if campaign.folds > 1 else mine[0]["accuracy"]["interval"],
        "least": min(accuracies),
        "most": max(accuracies),
        "macro F1": statistics.fmean(report["metrics"]["f1_macro"] for report in reports),
        "epsilon": max(row["epsilon"] for row in mine),
        "rounds": max(row["rounds"] for row in mine),
        "bytes": statistics.fmean(row["bytes_up"] for row in mine),
        "runs": len(reports),
        "model": reports[0]["run"]["model"],
    }


def table(campaign: Campaign, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a campaign's table as Markdown."""
    interval = "least to most" if campaign.folds > 1 else "95% interval"
    columns = ("epsilon", "asked for", "accuracy", interval, "macro F1", "epsilon spent", "rounds",
               "a merchant sends")  # fmt: skip
    lines = [
        f"{_heading(campaign)} (`{rows[0]['model']}`, {rows[0]['runs']} runs a row)",
        "",
        f"| {' | '.join(columns)} |",
        "|---" * len(columns) + "|",
    ]
    for row in rows:
        low, high = row["interval"] or (row["least"] / 100, row["most"] / 100)
        cells = (
            f"{row['asked epsilon']:g}",
            "-" if row["asked"] is None else f"{row['asked']:g}%",
            f"{row['accuracy']:.1f}%",
            f"{100 * low:.1f} to {100 * high:.1f}",
            f"{row['macro F1']:.3f}",
            f"{row['epsilon']:.2f}",
            f"{row['rounds']:.0f}",
            f"{row['bytes'] / 1e6:.1f} MB",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _heading(campaign: Campaign) -> str:
    return f"**{campaign.title}**"


def with_tables(written: str, measured: Mapping[str, str]) -> str:
    """Replace tables of a page's marked part.

    Args:
        written: what stands there: tables, each after a line that begins with its heading.
        measured: tables by their headings.

    Returns:
        The same tables in the same order, those measured in the place of the former ones; new ones follow.
    """
    headings = [_heading(each) for each in CAMPAIGNS]
    kept: dict[str, str] = {}
    for block in (text.strip() for text in written.split("\n\n")):
        begun = [heading for heading in headings if block.startswith(heading)]
        if begun:
            kept[begun[0]] = block
        elif kept and block:
            kept[[*kept][-1]] += f"\n\n{block}"
    kept |= measured
    return "\n\n".join(kept.values())


def between(page: Path, begin: str, end: str) -> str:
    """Return what stands between two marks of a page."""
    return page.read_text().partition(begin)[2].partition(end)[0]


def replace_between(page: Path, begin: str, end: str, text: str) -> None:
    """Replace what stands between two marks of a page."""
    before, _, rest = page.read_text().partition(begin)
    _, _, after = rest.partition(end)
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")


def command_line(description: str | None, names: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser of a benchmark whose finished sweeps are kept, and whose tables go to a page."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--photos", type=Path, required=True, help="the folder with the data sets")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the sweeps; finished ones are kept"
    )
    parser.add_argument("--only", nargs="*", choices=list(names), help="not all of them")
    parser.add_argument("--write", type=Path, help="page whose marked part is replaced by what was measured")
    return parser


def main() -> None:
    """Run the campaigns that are asked for, and write their tables."""
    parser = command_line(__doc__, [each.name for each in CAMPAIGNS])
    asked = parser.parse_args()
    chosen = [each for each in CAMPAIGNS if not asked.only or each.name in asked.only]
    tables = {}
    for campaign in chosen:
        rows = run(campaign, photos=asked.photos.resolve(), out=asked.out.resolve())
        tables[_heading(campaign)] = table(campaign, rows)
        print(f"{tables[_heading(campaign)]}\n", flush=True)
    if asked.write is not None:
        replace_between(asked.write, BEGIN, END, with_tables(between(asked.write, BEGIN, END), tables))


if __name__ == "__main__":
    main()
