"""How soon a watch over a model raises an alarm, and how seldom it does so for nothing.

Run ``python benchmarks/recognition_drift.py --photos DIR [--quick] [--json FILE]``; ``--photos`` holds
``clothing-small`` and ``fashion-mnist``. The model is a packaged backbone with a logistic regression that was
fitted to half of ``clothing-small``'s training split; the reference is made from 600 photos of the other
half. Windows of 100 photos are drawn from the validation split, as it is and changed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from measure import Options, Row, cpu_seconds, finish
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter
from recognition_edits import jpeg
from sklearn.linear_model import LogisticRegression

from fedrec.recognition.drift.photo_statistics import photo_statistics
from fedrec.recognition.drift.reference import Reference, make_reference
from fedrec.recognition.drift.thresholds import CHECKS, LEAST_PHOTOS, Photos
from fedrec.recognition.drift.watch import Watch
from fedrec.recognition.embedding import Embedder
from fedrec.recognition.model import open_model
from fedrec.recognition.zero_training import backbone_bundle
from fedrec.vision.datasets import open_torchvision
from fedrec.vision.synthetic import generate

SEED = 3
FOREIGN = 100
SMALL = 12
"""References of the fewest photos that are tried."""
Change = Callable[[Image.Image], Image.Image]

CHANGES: Mapping[str, tuple[str, Change]] = {
    "blur, sigma 2": ("blur", lambda photo: photo.filter(ImageFilter.GaussianBlur(2))),
    "blur, sigma 1": ("blur", lambda photo: photo.filter(ImageFilter.GaussianBlur(1))),
    "blur, sigma 0.7": ("blur", lambda photo: photo.filter(ImageFilter.GaussianBlur(0.7))),
    "80% of the light": ("dark", lambda photo: ImageEnhance.Brightness(photo).enhance(0.8)),
    "30% of the light": ("dark", lambda photo: ImageEnhance.Brightness(photo).enhance(0.3)),
    "60% of the light": ("dark", lambda photo: ImageEnhance.Brightness(photo).enhance(0.6)),
    "twice the light": ("bright", lambda photo: ImageEnhance.Brightness(photo).enhance(2.0)),
    "upside down": ("foreign", lambda photo: photo.transpose(Image.Transpose.ROTATE_180)),
    "grey": ("foreign", lambda photo: photo.convert("L").convert("RGB")),
    "JPEG, quality 20": ("foreign", lambda photo: jpeg(photo, 20)),
}


@dataclass(frozen=True)
class Model:
    """A backbone and a head."""

    backbone: Embedder
    head: LogisticRegression

    def seen(self, photos: Sequence[Image.Image]) -> Photos:
        """Return what is seen of photos."""
        embeddings = self.backbone.embed(photos)
        probabilities = self.head.predict_proba(embeddings).astype(np.float32)
        return Photos(embeddings, probabilities, [photo_statistics(photo) for photo in photos])


def photo_of(path: Path) -> Image.Image:
    """Open a photo."""
    return Image.open(path).convert("RGB")


def first_alarms(
    reference: Reference, photos: Photos, rng: np.random.Generator, *, windows: int, wanted: str
) -> tuple[list[int], list[bool]]:
    """Photos of each window until its first alarm, 0 without one; and whether the wanted one was raised."""
    first, named = [], []
    for _ in range(windows):
        watch, size = Watch(reference), CHECKS[-1]
        enough = len(photos.looks) >= size
        places: NDArray[np.int64] = rng.choice(len(photos.looks), size, replace=not enough)
        alarms = [
            (count, alarm.measure)
            for count, place in enumerate(places, 1)
            for alarm in watch.add(photos.embeddings[place], photos.probabilities[place], photos.looks[place])
        ]
        first.append(alarms[0][0] if alarms else 0)
        named.append(wanted in {name for _, name in alarms})
    return first, named


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, required=True, help="holds clothing-small and fashion-mnist")
    parser.add_argument("--quick", action="store_true", help="fewer photos and windows")
    parser.add_argument(
        "--sure", type=float, default=100, help="of the regression: larger is surer of itself"
    )
    parser.add_argument("--json", type=Path, help="write the results to this file too")
    asked = parser.parse_args()
    rng = np.random.default_rng(SEED)
    files = {
        part: sorted((asked.photos / "clothing-small" / part).glob("*/*")) for part in ("train", "validation")
    }
    training = [files["train"][int(place)] for place in rng.permutation(len(files["train"]))]
    step, windows = (4, 100) if asked.quick else (1, 1000)
    backbone: Embedder = open_model(backbone_bundle())
    half = training[: len(training) // 2 : step]
    vectors = np.concatenate([backbone.embed([photo_of(path)]) for path in half])
    head = LogisticRegression(C=asked.sure, max_iter=500).fit(vectors, [path.parent.name for path in half])
    model, classes = Model(backbone, head), tuple(head.classes_)
    usual = model.seen([photo_of(path) for path in training[len(training) // 2 :][:600:step]])
    reference = make_reference(usual, embedding_id=backbone.embedding_id, classes=classes)
    photos = [photo_of(path) for path in files["validation"]]
    as_they_are = model.seen(photos)
    rows: list[Row] = []

    def measure(name: str, seen: Photos, *, wanted: str, count: int) -> float:
        first, named = first_alarms(reference, seen, rng, windows=count, wanted=wanted)
        raised = [photo for photo in first if photo]
        rows.append(
            {
                "photos": name,
                "windows with an alarm": len(raised) / count,
                "after photos": float(np.median(raised)) if raised else None,
                "measure": wanted or None,
                "windows with its alarm": float(np.mean(named)) if wanted else None,
            }
        )
        return len(raised) / count

    ratios = {"false_alarms": measure("as they are", as_they_are, wanted="", count=windows)}
    few, some = max(20, windows // 10), photos[:: 2 * step]
    small: list[float] = []
    for _ in range(SMALL):
        places = rng.choice(len(usual.looks), LEAST_PHOTOS, replace=False)
        drawn = make_reference(usual.some(places), embedding_id=backbone.embedding_id, classes=classes)
        first, _ = first_alarms(drawn, as_they_are, rng, windows=few, wanted="")
        small.append(float(np.mean([photo > 0 for photo in first])))
    ratios[f"false_alarms_of_{LEAST_PHOTOS}_photos, mean"] = float(np.mean(small))
    ratios[f"false_alarms_of_{LEAST_PHOTOS}_photos, most"] = max(small)
    for name, (wanted, change) in CHANGES.items():
        ratios[name] = measure(name, model.seen([change(one) for one in some]), wanted=wanted, count=few)
    labels = np.array([path.parent.name for path in files["validation"]])
    for label in classes:
        of_class = as_they_are.some(np.flatnonzero(labels == label))
        ratios[f"only {label}"] = measure(f"only {label}", of_class, wanted="one-class", count=few)
    sets = {
        "fashion-mnist": open_torchvision(
            "fashion-mnist", asked.photos / "fashion-mnist", download=False
        ).test,
        "synthetic products": generate(
            merchants=4, per_merchant=1, size=128, seed=1, validation=0, test=FOREIGN
        ).test,
    }
    for name, pictures in sets.items():
        if pictures is None:
            raise RuntimeError(f"{name} has no test split")
        foreign = [pictures.image(place).convert("RGB").resize((256, 256)) for place in range(FOREIGN)]
        seen = model.seen(foreign)
        ratios[name] = measure(f"foreign: {name}", seen, wanted="foreign", count=few)
        mixed = Photos(
            np.concatenate([seen.embeddings, as_they_are.embeddings[:: 3 * step][: len(foreign)]]),
            np.concatenate([seen.probabilities, as_they_are.probabilities[:: 3 * step][: len(foreign)]]),
            [*seen.looks, *as_they_are.looks[:: 3 * step][: len(foreign)]],
        )
        ratios[f"half {name}"] = measure(f"half foreign: {name}", mixed, wanted="foreign", count=few)
    ratios["look_cpu_ms"] = 1000 * cpu_seconds(lambda: photo_statistics(photos[0]), repeats=9)
    watch = Watch(reference)
    one = as_they_are.embeddings[0], as_they_are.probabilities[0], as_they_are.looks[0]
    ratios["add_cpu_ms"] = 10 * cpu_seconds(lambda: [watch.add(*one) for _ in range(100)], repeats=9)
    finish("recognition_drift", Options(quick=asked.quick, json=asked.json), rows=rows, ratios=ratios)


if __name__ == "__main__":
    main()
