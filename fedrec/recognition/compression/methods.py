"""The ways to make a bundle's model smaller."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from PIL import Image

from fedrec.recognition.bundle.manifest import Calibration, GraphFile, Manifest, Precision
from fedrec.recognition.compression.distillation import distilled
from fedrec.recognition.compression.mixed_precision import later, products
from fedrec.recognition.compression.photos import CompressionPhotos
from fedrec.recognition.compression.pruning import SHARE, pruned
from fedrec.recognition.compression.quantisation import Quantiser


@dataclass(frozen=True)
class Candidate:
    """A smaller model, before it is measured.

    Attributes:
        method: what was done, for the table.
        manifest: its manifest, in which the figures are still the original's.
        graph: its graph's file.
        made_with: photos that it was made with.
    """

    method: str
    manifest: Manifest
    graph: bytes
    made_with: str


Make = Callable[[Manifest, bytes, CompressionPhotos], Candidate]


def _rounded(manifest: Manifest, graph: bytes, photos: CompressionPhotos) -> Candidate:
    quantiser = Quantiser(graph, inputs=manifest.inputs, photos=photos.calibration)
    return _of_integers(manifest, quantiser.made(), photos, method="int8, static, per channel")


def _rounded_products(manifest: Manifest, graph: bytes, photos: CompressionPhotos) -> Candidate:
    quantiser = Quantiser(graph, inputs=manifest.inputs, photos=photos.calibration)
    made = quantiser.made(products(quantiser.layers))
    return _of_integers(manifest, made, photos, method="int8, products alone")


def _rounded_later(manifest: Manifest, graph: bytes, photos: CompressionPhotos) -> Candidate:
    quantiser = Quantiser(graph, inputs=manifest.inputs, photos=photos.calibration)
    chosen = later(quantiser.layers)
    method = f"int8, the first {len(quantiser.layers) - len(chosen)} layers in float32"
    return _of_integers(manifest, quantiser.made(chosen), photos, method=method)


def _of_integers(manifest: Manifest, made: bytes, photos: CompressionPhotos, *, method: str) -> Candidate:
    changed = _same_inputs(manifest, made, precision="int8")
    return Candidate(method, changed, made, _text(photos.calibration, photos))


def _pruned(manifest: Manifest, graph: bytes, photos: CompressionPhotos) -> Candidate:
    found = pruned(graph)
    changed = _same_inputs(manifest, found, precision="float32")
    return Candidate(f"{SHARE:.0%} of the weights zero", changed, found, "no photos")


def _distilled(manifest: Manifest, graph: bytes, photos: CompressionPhotos) -> Candidate:
    student = distilled(manifest, graph, photos.fitted)
    return Candidate(
        f"distilled into {student.manifest.model}",
        student.manifest,
        student.graph,
        _text(photos.fitted, photos),
    )


METHODS: Final[Mapping[str, Make]] = {
    "int8": _rounded,
    "int8-products": _rounded_products,
    "int8-later": _rounded_later,
    "prune": _pruned,
    "distil": _distilled,
}


def _text(used: Sequence[Image.Image], photos: CompressionPhotos) -> str:
    return f"{len(used)} {photos.kind}"


def _same_inputs(manifest: Manifest, graph: bytes, *, precision: Precision) -> Manifest:
    """Return the manifest with another graph, whose probabilities aren't those that were calibrated."""
    file = GraphFile(
        sha256=hashlib.sha256(graph).hexdigest(),
        bytes=len(graph),
        opset=manifest.graph.opset,
        precision=precision,
        one_photo=manifest.graph.one_photo,
    )
    calibration = Calibration(temperature=manifest.calibration.temperature)
    return manifest.model_copy(update={"graph": file, "calibration": calibration})
