"""Every kind of model as an ONNX graph, beside its own network in torch: differences, evidence, and time.

Needs ``clothing-small`` below the folder that the environment's FEDREC_TEST_DATA names. The models have drawn
weights, with scores that spread as a trained model's do. Of heads on a network from an ONNX file no time is
given: both sides would run onnxruntime. Times are CPU milliseconds for a photo that is prepared, medians, on
one core, in turn.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from file_backbones import deit_small
from file_backbones import exported as onnx_file
from fine_tuning import network as transformer
from measure import fedrec_here, finish, parse
from PIL import Image

from fedrec.recognition.bundle.photo_inputs import prepared
from fedrec.recognition.bundle.session import Session
from fedrec.recognition.export.as_trained import tokens_as_trained, vectors_as_trained
from fedrec.recognition.export.bundles import exported
from fedrec.recognition.export.comparison import compared
from fedrec.recognition.export.sources import Source
from fedrec.vision import model_registry
from fedrec.vision.decoding import decode
from fedrec.vision.listing.photo_places import list_photos
from fedrec.vision.model_inputs import InputShape
from fedrec.vision.normalisation import normalise
from fedrec.vision.transforms import to_model_input

DATA = Path(os.environ.get("FEDREC_TEST_DATA", "data")) / "clothing-small"
CLASSES = 10
SPREAD = 3.0
"""Standard deviation of the scores: the largest of ten probabilities is then 0.6 on average."""
OWN_SIZE = 64
"""Side of the pictures of a model that takes the data's own size."""
SIZES: tuple[tuple[str, int | None], ...] = (
    *((name, None) for name in model_registry.REGISTRY.names()),
    ("resnet18", 224),
    ("cnn", 28),
    ("cnn-tanh", 28),
)
QUICK = ("effnet-lite0-head", "cnn", "resnet18")
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


def torch_work(source: Source, photo: Image.Image, session: Session) -> Callable[[], object]:
    """Return the network's own computation of a photo that is prepared."""
    network = source.network
    if network is None:
        raise RuntimeError(f"{source.spec.name} has no network")
    if source.spec.features is None:
        whole = source.spec.on_pictures(network).eval()
        pixels = normalise(
            torch.from_numpy(session.inputs[0].picture(photo)[None]),
            mean=source.spec.mean,
            std=source.spec.std,
        )

        def of_pixels() -> object:
            with torch.inference_mode():
                return whole(pixels)

        return of_pixels
    features = source.spec.features
    extractors = features.extractors(dtype=torch.float32)
    pictures = {place: each.prepare(photo)[None] for place, each in extractors.items()}

    def of_features() -> object:
        with torch.inference_mode():
            found = {place: each(pictures[place])[None] for place, each in extractors.items()}
            return network(torch.from_numpy(features.combine(found)[:, 0]))

    return of_features


def drawn(name: str, size: int | None, photo: Image.Image) -> Source:
    """Return a model with drawn weights."""
    spec = model_registry.get(name)
    side = size or spec.image_size or OWN_SIZE
    network = spec.build(classes=CLASSES, channels=3, size=side, seed=0).eval()
    generator = torch.Generator().manual_seed(1)
    last = [each for each in network.parameters() if each.shape[0] == CLASSES]
    with torch.no_grad():
        for each in network.parameters():
            scale = each.std() if each.numel() > 1 and each.std() > 0 else torch.tensor(0.01)
            each.add_(0.1 * scale * torch.randn(each.shape, generator=generator))
        for each in last:
            each.copy_(torch.randn(each.shape, generator=generator))
    names = tuple(f"class-{number}" for number in range(CLASSES))
    source = Source(spec=spec, shape=InputShape(3, side), network=network, classes=names)
    with torch.no_grad():
        spread = float(scores(source, photo).std())
        for each in last:
            each.mul_(SPREAD / spread)
    return source


def scores(source: Source, photo: Image.Image) -> torch.Tensor:
    """Compute a photo's scores by the network alone."""
    spec, network = source.spec, source.network
    if network is None:
        raise RuntimeError(f"{spec.name} has no network")
    if spec.features is not None:
        found: torch.Tensor = network(torch.from_numpy(vectors_as_trained(spec.features, [photo])))
    elif spec.tokens is not None:
        found = network(torch.from_numpy(tokens_as_trained(spec.tokens, [photo])))
    else:
        pixels = to_model_input(photo, size=source.shape.size, channels=3, margin=spec.margin)
        found = network(normalise(torch.from_numpy(pixels[None]), mean=spec.mean, std=spec.std))
    return found


def comparison(source: Source, photos: Sequence[Image.Image], *, timed: bool) -> dict[str, Any]:
    """Export a model, and compare the graph with it."""
    graph, inputs = exported(source, temperature=1.0)
    session = Session(graph, inputs=inputs, classes=len(source.classes))
    difference = compared(source, session, photos)
    evidence = None
    if session.has_evidence:
        found = [session.run(prepared(inputs, [photo]), evidence=True) for photo in photos]
        evidence = max(
            float(
                np.abs(
                    sum(m.mean(axis=(2, 3)) for m in each.evidence.values()) + each.offset - each.scores
                ).max()
            )
            for each in found
        )
    pictures = prepared(inputs, photos[:1])
    works = [lambda: session.run(pictures), *([torch_work(source, photos[0], session)] if timed else ())]
    by_onnx, by_torch = [*milliseconds(*works), None][:2]
    return {
        "export": source.spec.name,
        "pixels": source.shape.size,
        "MB": len(graph) / 1e6,
        "torch ms": by_torch,
        "onnxruntime ms": by_onnx,
        "torch / onnxruntime": None if by_torch is None or by_onnx is None else by_torch / by_onnx,
        "largest difference": difference.largest_difference,
        "same class": difference.same_class,
        "evidence off by": evidence,
    }


def added(folder: Path) -> Iterator[str]:
    """Add networks from files, and name the models on them."""
    os.environ["XDG_DATA_HOME"], os.environ["XDG_CACHE_HOME"] = str(folder / "data"), str(folder / "cache")
    colours = ["--size", 224, "--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5"]
    fedrec_here(
        "backbone", "add", onnx_file(deit_small(), folder / "deit.onnx", 224), "--name", "file", *colours
    )
    path = folder / "tiny.safetensors"
    safetensors.torch.save_file(transformer("tiny").state_dict(), path)
    architecture = ["--architecture", "vit_tiny_patch16_224"]
    fedrec_here("backbone", "add", path, "--name", "tokens", *architecture, *colours)
    yield from ("file-head", "tokens-head", "tokens-lora")


def main() -> None:
    """Measure, and print."""
    options = parse(__doc__ or "")
    torch.set_num_threads(1)
    listed = list_photos(DATA / "validation").pictures
    photos = [decode(each.path) for each in listed[::10]]
    wanted = [(name, size) for name, size in SIZES if not options.quick or name in QUICK]
    rows = [comparison(drawn(name, size, photos[0]), photos, timed=True) for name, size in wanted]
    if not options.quick:
        with tempfile.TemporaryDirectory() as scratch:
            for name in added(Path(scratch)):
                source = drawn(name, None, photos[0])
                rows.append(comparison(source, photos, timed=name != "file-head"))
    ratios = {
        f"{row['export']} at {row['pixels']}: torch / onnxruntime": row["torch / onnxruntime"]
        for row in rows
        if row["torch / onnxruntime"] is not None
    }
    finish("recognition_exports", options, rows=rows, ratios=ratios)


if __name__ == "__main__":
    main()
