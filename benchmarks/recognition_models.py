"""What an exported and a compressed model do beside torch: time of one photo on one core, size, accuracy.

Needs ``clothing-small`` below the folder that the environment's FEDREC_TEST_DATA names. Its photos are the
merchants': the rows "private" are for comparison, and no bundle is made like that.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import fedrec_here, finish, parse
from PIL import Image

from fedrec.recognition.bundle.photo_inputs import PhotoInput, prepared
from fedrec.recognition.bundle.session import Session
from fedrec.recognition.compression.measuring import measured
from fedrec.recognition.compression.photos import CALIBRATION
from fedrec.recognition.compression.quantisation import quantised
from fedrec.recognition.export.bundles import exported
from fedrec.recognition.export.comparison import compared, public_photos
from fedrec.recognition.export.sources import Source, trained_source
from fedrec.vision import model_registry
from fedrec.vision.decoding import decode
from fedrec.vision.listing.photo_places import list_photos
from fedrec.vision.model_inputs import InputShape
from fedrec.vision.normalisation import normalise

DATA = Path(os.environ.get("FEDREC_TEST_DATA", "data")) / "clothing-small"
CLASSES = 10
SIZES = {"cnn": 64, "resnet18": 224}
REPEATS = 15


def milliseconds(*works: Callable[[], object]) -> list[float]:
    """Return the median CPU milliseconds of each, run in turn."""
    times: list[list[float]] = [[] for _ in works]
    for _ in range(REPEATS):
        for work, taken in zip(works, times, strict=True):
            work()
            started = time.process_time()
            work()
            taken.append(time.process_time() - started)
    return [1000 * statistics.median(taken) for taken in times]


def torch_work(source: Source, photo: Image.Image, inputs: Sequence[PhotoInput]) -> Callable[[], object]:
    """Return the network's own computation of a photo that is prepared."""
    network = source.network
    assert network is not None
    if source.spec.features is None:
        picture = torch.from_numpy(inputs[0].picture(photo)[None])
        pixels = normalise(picture, mean=source.spec.mean, std=source.spec.std)

        def of_pixels() -> object:
            with torch.inference_mode():
                return network(pixels)

        return of_pixels
    features = source.spec.features
    extractors = features.extractors(dtype=torch.float32)
    pictures = {place: each.prepare(photo)[None] for place, each in extractors.items()}

    def of_features() -> object:
        with torch.inference_mode():
            found = {place: each(pictures[place])[None] for place, each in extractors.items()}
            return network(torch.from_numpy(features.combine(found)[:, 0]))

    return of_features


def random_source(model: str) -> Source:
    """Return a model with the weights that it starts from."""
    spec = model_registry.get(model)
    network = spec.build(classes=CLASSES, channels=3, size=SIZES[model], seed=0).eval()
    names = tuple(f"class-{number}" for number in range(CLASSES))
    return Source(spec=spec, shape=InputShape(3, SIZES[model]), network=network, classes=names)


def labelled(split: str, step: int) -> list[tuple[Image.Image, str]]:
    """Return photos of a split and their classes."""
    return [(decode(each.path), each.label) for each in list_photos(DATA / split).pictures[::step]]


def trained(model: str, folder: Path) -> Source:
    """Train a model at epsilon 8."""
    run = folder / model
    given = ("--merchants", 8, "--delta", 1e-4, "--epsilon", 8, "--seed", 0)
    fedrec_here("simulate", "--data", DATA, "--model", model, *given, "--out", run)
    return trained_source(run)


def exports(source: Source, photos: Sequence[Image.Image]) -> tuple[bytes, Session, dict[str, Any]]:
    """Export a model, and compare the graph with it."""
    graph, inputs = exported(source, temperature=1.0)
    session = Session(graph, inputs=inputs, classes=len(source.classes))
    difference = compared(source, session, photos)
    pictures = prepared(inputs, photos[:1])
    by_torch, by_onnx = milliseconds(torch_work(source, photos[0], inputs), lambda: session.run(pictures))
    row = {
        "export": source.spec.name,
        "MB": len(graph) / 1e6,
        "torch ms": by_torch,
        "onnxruntime ms": by_onnx,
        "largest difference": difference.largest_difference,
        "same class": difference.same_class,
    }
    return graph, session, row


def main() -> None:
    """Measure, and print."""
    options = parse(__doc__ or "")
    torch.set_num_threads(1)
    validation = labelled("validation", 10 if options.quick else 1)
    photos = [photo for photo, _ in validation]
    private = [photo for photo, _ in labelled("train", 64)][:CALIBRATION]
    rows: list[dict[str, Any]] = []
    compression: list[dict[str, Any]] = []
    ratios: dict[str, float] = {}
    models = ["effnet-lite0-head"] if options.quick else ["effnet-lite0-head", "lite0-lite2-views-head"]
    with tempfile.TemporaryDirectory() as scratch:
        for model in models:
            source = trained(model, Path(scratch))
            graph, session, row = exports(source, photos)
            rows.append(row)
            ratios[f"{model}: torch / onnxruntime"] = row["torch ms"] / row["onnxruntime ms"]
            labels = [source.classes.index(label) for _, label in validation]
            original = measured(session, photos, beside=session)
            kinds = {"synthetic": public_photos(CALIBRATION), "private": private}
            for kind, given in kinds.items():
                made = quantised(graph, inputs=session.inputs, photos=given)
                small = Session(made, inputs=session.inputs, classes=len(source.classes))
                found = measured(small, photos, beside=session)
                again = measured(session, photos[:1], beside=small)
                same = original.probabilities.argmax(axis=1) == found.probabilities.argmax(axis=1)
                line: dict[str, Any] = {
                    "int8": model,
                    "calibrated": kind,
                    "size ratio": len(made) / len(graph),
                    "time ratio": found.milliseconds / again.milliseconds,
                    "agreement": float(np.mean(same)),
                    "accuracy": found.accuracy(labels),
                    "float32 accuracy": original.accuracy(labels),
                }
                compression.append(line)
                ratios[f"{model}, {kind}: int8 / float32 time"] = line["time ratio"]
    for model in SIZES:
        _, _, row = exports(random_source(model), photos[:24])
        rows.append(row)
        ratios[f"{model}: torch / onnxruntime"] = row["torch ms"] / row["onnxruntime ms"]
    finish("recognition_models", options, rows=[*rows, *compression], ratios=ratios)


if __name__ == "__main__":
    main()
