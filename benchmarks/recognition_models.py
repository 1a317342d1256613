"""What a trained model's graphs do: search, and integers beside float32 in size, time, agreement, accuracy.

Needs ``clothing-small`` below the folder that the environment's FEDREC_TEST_DATA names. Its photos are the
merchants': the rows "private" are for comparison, and no bundle is made like that. Models are trained at
epsilon 8; ``cnn`` has drawn weights, since its accuracy says nothing here. ``precision@5``: every second
photo of the training split is stored, and the five nearest to a validation photo should be of its class.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import fedrec_here, finish, parse
from PIL import Image
from recognition_exports import comparison, drawn

from fedrec.errors import ConfigError
from fedrec.recognition.bundle.photo_inputs import prepared
from fedrec.recognition.bundle.session import Session
from fedrec.recognition.compression.measuring import Measurement, measured
from fedrec.recognition.compression.methods import METHODS
from fedrec.recognition.compression.photos import CALIBRATION, CompressionPhotos, synthetic_photos
from fedrec.recognition.export.bundles import Bundle, make_bundle
from fedrec.recognition.export.sources import Source, trained_source
from fedrec.vision.decoding import decode
from fedrec.vision.listing.photo_places import list_photos

DATA = Path(os.environ.get("FEDREC_TEST_DATA", "data")) / "clothing-small"
TRAINED = ("effnet-lite0-head", "effnet-lite0-discriminant", "lite0-lite2-views-head")
DRAWN = "cnn"
INTEGERS = [name for name in METHODS if name.startswith("int8")]
NEAREST = 5
Labelled = Sequence[tuple[Image.Image, str]]


def labelled(split: str, step: int) -> Labelled:
    """Return photos of a split and their classes."""
    return [(decode(each.path), each.label) for each in list_photos(DATA / split).pictures[::step]]


def trained(model: str, folder: Path) -> Source:
    """Train a model at epsilon 8."""
    run = folder / model
    given = ("--merchants", 8, "--delta", 1e-4, "--epsilon", 8, "--seed", 0)
    fedrec_here("simulate", "--data", DATA, "--model", model, *given, "--out", run)
    return trained_source(run)


def loaded(bundle: Bundle) -> Session:
    """Load a bundle's graph."""
    return Session(bundle.graph, inputs=bundle.manifest.inputs, classes=len(bundle.manifest.classes))


def found_alike(session: Session, asked: Labelled, stored: Labelled) -> float:
    """Return the share of the nearest stored photos that are of the class of the photo that is asked for."""

    def vectors(photos: Labelled) -> np.ndarray:
        return np.concatenate([session.run(prepared(session.inputs, [each])).embedding for each, _ in photos])

    nearest = np.argsort(-vectors(asked) @ vectors(stored).T, axis=1)[:, :NEAREST]
    labels = np.array([label for _, label in stored])
    return float(np.mean(labels[nearest] == np.array([label for _, label in asked])[:, None]))


def smaller(
    bundle: Bundle, photos: Labelled, calibrations: Mapping[str, CompressionPhotos]
) -> Iterator[dict[str, Any]]:
    """Make each graph of integers, and measure it beside float32 on photos."""
    session, pictures = loaded(bundle), [photo for photo, _ in photos]
    original = measured(session, pictures, beside=session)
    names = bundle.manifest.classes
    labels = [names.index(label) if label in names else None for _, label in photos]
    for kind, given in calibrations.items():
        for name in INTEGERS:
            try:
                made = METHODS[name](bundle.manifest, bundle.graph, given)
            except ConfigError as error:
                print(f"{bundle.manifest.model}: {name} is left out: {error}")
                continue
            small = loaded(Bundle(made.manifest, made.graph))
            found = measured(small, pictures, beside=session)
            again = measured(session, pictures[:1], beside=small)
            yield {
                "model": bundle.manifest.model,
                "graph": made.method,
                "calibrated": kind,
                "size ratio": len(made.graph) / len(bundle.graph),
                "time ratio": found.milliseconds / again.milliseconds,
                "agreement": same_class(original, found),
                "accuracy": found.accuracy(labels),
                "float32 accuracy": original.accuracy(labels),
            }


def same_class(one: Measurement, other: Measurement) -> float:
    """Return the share of photos to which two graphs give the same class."""
    return float(np.mean(one.probabilities.argmax(axis=1) == other.probabilities.argmax(axis=1)))


def main() -> None:
    """Measure, and print."""
    options = parse(__doc__ or "")
    torch.set_num_threads(1)
    validation = labelled("validation", 10 if options.quick else 1)
    stored = labelled("train", 40 if options.quick else 2)
    photos = [photo for photo, _ in validation]
    synthetic = synthetic_photos()
    private = replace(synthetic, calibration=[photo for photo, _ in stored][:: len(stored) // CALIBRATION])
    rows: list[dict[str, Any]] = []
    compression: list[dict[str, Any]] = []
    ratios: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for model in (*TRAINED[:1], DRAWN) if options.quick else (*TRAINED, DRAWN):
            is_trained = model in TRAINED
            source = trained(model, Path(scratch)) if is_trained else drawn(model, None, photos[0])
            row = comparison(source, photos, timed=True)
            bundle = make_bundle(source)
            kinds = (
                {"synthetic": synthetic, "private": private}
                if model == TRAINED[0]
                else {"synthetic": synthetic}
            )
            if is_trained:
                row["precision@5"] = found_alike(loaded(bundle), validation, stored)
            rows.append(row)
            compression.extend(smaller(bundle, validation, kinds))
    for line in compression:
        ratios[f"{line['model']}, {line['graph']}, {line['calibrated']}: time"] = line["time ratio"]
    finish("recognition_models", options, rows=[*rows, *compression], ratios=ratios)


if __name__ == "__main__":
    main()
