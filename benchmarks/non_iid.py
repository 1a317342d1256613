"""How cohorts hold whose merchants differ: in classes, in their shares of them, or in their cameras.

Run ``python benchmarks/non_iid.py --photos DIR --out DIR [--only NAME ...] [--repeat N] [--write PAGE]``.
``--photos`` holds ``clothing-small`` (train and validation). Each cohort trains by rounds and by one round,
at epsilon 1 and 4, under kahe. What is finished in the folder ``--out`` is not run again. The table goes
between the marks of ``--write docs/accuracy.md``.

The worst merchant is the one for whose own photos the model is worst: photos of its classes, in the shares
that it has of them, and from its camera. Its accuracy is taken from the validation photos, each class's
recall weighted by the merchant's share of that class.

``cameras`` is a folder made below ``--out``: each merchant's photos, and an eighth of the validation photos,
are seen through a camera of its own (white balance, gamma, blur and compression, drawn once a merchant).
"""

from __future__ import annotations

import io
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from accuracy import BEGIN_NON_IID, END_NON_IID, command_line, replace_between
from measure import fedrec_here
from numpy.typing import NDArray
from PIL import Image, ImageFilter

import fedrec
from fedrec.config import load_config
from fedrec.simulations.data_sources import DataReader, open_source
from fedrec.vision.metrics import Metrics

CAMERAS = 8
EPSILONS = (1, 4)
METHODS = ("steps", "one-round")

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Cohort:
    """How the photos are divided among how many merchants."""

    name: str
    title: str
    partition: str
    merchants: int | None = 8


COHORTS: Sequence[Cohort] = (
    Cohort("iid", "alike (iid)", "iid"),
    Cohort("dirichlet-1", "`dirichlet:1`", "dirichlet:1"),
    Cohort("dirichlet-0.3", "`dirichlet:0.3`", "dirichlet:0.3"),
    Cohort("dirichlet-0.1", "`dirichlet:0.1`", "dirichlet:0.1"),
    Cohort("classes-1", "one class each (`classes:1`, 10 merchants)", "classes:1", merchants=10),
    Cohort("cameras", "one camera each", "folder", merchants=None),
)


def through_camera(picture: Image.Image, number: int) -> Image.Image:
    """Return a picture as a merchant's camera takes it."""
    rng = np.random.default_rng(number)
    balance, gamma = rng.uniform(0.7, 1.25, 3), rng.uniform(0.6, 1.6)
    blur, quality = rng.uniform(0.0, 1.5), int(rng.integers(25, 90))
    pixels = np.asarray(picture.convert("RGB"), dtype=np.float64) / 255
    seen = np.clip(pixels * balance, 0, 1) ** gamma
    changed = Image.fromarray(np.rint(255 * seen).astype(np.uint8)).filter(ImageFilter.GaussianBlur(blur))
    file = io.BytesIO()
    changed.save(file, format="JPEG", quality=quality)
    return Image.open(file)


def make_cameras(photos: Path, folder: Path) -> None:
    """Write the photos of eight merchants with a camera each, and validation photos from all of them."""
    if folder.exists():
        return
    making = folder.with_name("making-cameras")
    for split in ("train", "validation"):
        for index, photo in enumerate(sorted((photos / "clothing-small" / split).glob("*/*"))):
            camera = index % CAMERAS
            owner = [f"merchant-{camera:02d}"]
            label, name = photo.parent.name, photo.with_suffix(".jpg").name
            targets = [making / "data" / split / Path(*(owner if split == "train" else [])) / label / name]
            if split == "validation":
                targets.append(making / "by-camera" / owner[0] / label / name)
            with Image.open(photo) as opened:
                seen = through_camera(opened, camera)
            for target in targets:
                target.parent.mkdir(parents=True, exist_ok=True)
                seen.save(target, format="JPEG", quality=95)
    making.rename(folder)


def recalls(metrics: Metrics | Mapping[str, Any]) -> NDArray[np.float64]:
    """Return the recall of each class that has records, NaN for the others."""
    confusion = np.array(metrics["confusion"] if isinstance(metrics, Mapping) else metrics.confusion)
    with np.errstate(invalid="ignore"):
        found: NDArray[np.float64] = np.diag(confusion) / confusion.sum(axis=1)
    return found


def of_merchants(held: Counts, seen: Sequence[NDArray[np.float64]]) -> list[float]:
    """Return the accuracy for each merchant's own mixture of classes.

    Args:
        held: (merchants, classes), records that each merchant has.
        seen: recall of each class, for one merchant each, or once for all.
    """
    found = []
    for number, counts in enumerate(held):
        recall = seen[number % len(seen)]
        known = ~np.isnan(recall)
        found.append(
            float(np.average(recall[known], weights=counts[known])) if counts[known].any() else np.nan
        )
    return found


def measure(run: Path, reader: DataReader, by_camera: Path | None) -> tuple[float, float]:
    """Return a run's accuracy, and that for its worst merchant."""
    report = json.loads((run / "report.json").read_text())
    source = open_source(load_config(run / "config.toml", {}), reader=reader)
    labels, classes = source.splits.train.labels, len(source.splits.train.classes)
    held = np.array([np.bincount(labels[share.indices], minlength=classes) for share in source.shares])
    if by_camera is None:
        seen = [recalls(report["metrics"])]
    else:
        model = fedrec.load_model(run)
        seen = [recalls(model.evaluate(folder)) for folder in sorted(by_camera.iterdir())]
    return report["metrics"]["accuracy"], float(np.nanmin(of_merchants(held, seen)))


def rows(cohort: Cohort, method: str, *, photos: Path, out: Path, repeat: int) -> Iterable[Sequence[str]]:
    """Run what is left of a cohort's sweep, and yield the cells of each budget's row."""
    cameras = out / "cameras"
    if cohort.merchants is None:
        make_cameras(photos, cameras)
    data = cameras / "data" if cohort.merchants is None else photos / "clothing-small"
    folder = out / f"{cohort.name}-{method}"
    if not (folder / "comparison.json").exists():
        options: dict[str, object] = {
            "data": data, "partition": cohort.partition, "model": "best", "method": method, "delta": 1e-4,
            "secure-aggregation": "kahe", "seed": 0, "sweep": "epsilon=" + ",".join(map(str, EPSILONS)),
            "repeat": repeat, "out": folder,
        }  # fmt: skip
        options |= {} if cohort.merchants is None else {"merchants": cohort.merchants}
        again: dict[str, object] = {"resume": folder}
        chosen = again if (folder / "sweep.json").exists() else options
        fedrec_here("simulate", *(text for name, value in chosen.items() for text in (f"--{name}", value)))
    reader = DataReader()
    for epsilon in EPSILONS:
        found = [
            measure(Path(run), reader, cameras / "by-camera" if cohort.merchants is None else None)
            for row in json.loads((folder / "comparison.json").read_text())["rows"]
            if 0.97 * epsilon < row["epsilon"] <= epsilon
            for run in row["folders"]
        ]
        overall, worst = (100 * statistics.fmean(values) for values in zip(*found, strict=True))
        yield cohort.title, method, f"{epsilon}", f"{overall:.1f}%", f"{worst:.1f}%", f"{len(found)}"


def main() -> None:
    """Run the cohorts that are asked for, and write their table."""
    parser = command_line(__doc__, [cohort.name for cohort in COHORTS])
    parser.add_argument("--repeat", type=int, default=3, help="runs of each")
    asked = parser.parse_args()
    columns = ("merchants", "method", "epsilon", "accuracy", "worst merchant", "runs")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for cohort in COHORTS:
        if asked.only and cohort.name not in asked.only:
            continue
        for method in METHODS:
            made = rows(
                cohort, method, photos=asked.photos.resolve(), out=asked.out.resolve(), repeat=asked.repeat
            )
            for cells in made:
                lines.append(f"| {' | '.join(cells)} |")
                print(lines[-1], flush=True)
    if asked.write is not None:
        replace_between(asked.write, BEGIN_NON_IID, END_NON_IID, "\n".join(lines))


if __name__ == "__main__":
    main()
