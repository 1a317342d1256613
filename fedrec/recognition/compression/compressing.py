"""Compress a bundle: make candidates, measure them beside the original, keep the fastest that is sound."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from fedrec._internal.text import listed
from fedrec.errors import ConfigError
from fedrec.recognition.bundle.manifest import (
    Checked,
    Compression,
    CompressionRow,
    GraphFile,
    Manifest,
    Measured,
    Precision,
)
from fedrec.recognition.bundle.session import Session
from fedrec.recognition.compression.choosing import LEAST_AGREEMENT, best, judged
from fedrec.recognition.compression.measuring import Measurement, PhotoSample, agreement, measured
from fedrec.recognition.compression.photos import CompressionPhotos
from fedrec.recognition.compression.pruning import SHARE, pruned
from fedrec.recognition.compression.quantisation import quantised
from fedrec.recognition.export.bundles import Bundle

Step = Callable[[str], None]
Make = Callable[[Manifest, bytes, CompressionPhotos], bytes]


@dataclass(frozen=True)
class Method:
    """A way to make a graph smaller.

    Attributes:
        text: what it does, for the table.
        precision: number format of the weights afterwards.
        make: makes the graph.
    """

    text: str
    precision: Precision
    make: Make


METHODS: Final[Mapping[str, Method]] = {
    "int8": Method(
        "int8, static, per channel",
        "int8",
        lambda manifest, graph, photos: quantised(graph, inputs=manifest.inputs, photos=photos.calibration),
    ),
    "prune": Method(
        f"{SHARE:.0%} of the weights zero", "float32", lambda manifest, graph, photos: pruned(graph)
    ),
}


@dataclass(frozen=True)
class Compressed:
    """What came of it.

    Attributes:
        rows: the original and all candidates, with verdicts.
        bundle: the fastest one that is kept; None if none is.
    """

    rows: tuple[CompressionRow, ...]
    bundle: Bundle | None


def compressed(
    manifest: Manifest,
    graph: bytes,
    *,
    photos: CompressionPhotos,
    methods: Sequence[str] = tuple(METHODS),
    step: Step = lambda text: None,
) -> Compressed:
    """Compress a bundle.

    Args:
        manifest: its manifest.
        graph: its graph's file.
        photos: public photos, to calibrate and to measure on.
        methods: names of :data:`METHODS`.
        step: told what is done next.

    Returns:
        All candidates' rows, and the bundle of the one that was chosen.

    Raises:
        ConfigError: the bundle is a backbone alone or compressed already, a method is unknown, or fails.
        MissingExtraError: onnx or onnxruntime isn't installed.
    """
    if not manifest.classes:
        raise ConfigError("a backbone alone has no classes in which a smaller one could agree with it")
    if manifest.graph.precision != "float32":
        raise ConfigError(f"the model is {manifest.graph.precision} already: compress the one it came from")
    unknown = [name for name in methods if name not in METHODS]
    if unknown or not methods:
        raise ConfigError(f"--methods takes {listed(list(METHODS))}, not {listed(unknown) or 'nothing'}")
    tested = photos.tested
    original_session = _session(manifest, graph)
    step(f"measuring the original on {len(tested.photos)} photos")
    original = measured(original_session, tested.photos, beside=original_session)
    rows = [_row("original", graph, original, original, tested)]
    made: dict[str, tuple[Method, bytes, Measurement]] = {}
    for name in dict.fromkeys(methods):
        method = METHODS[name]
        step(f"making and measuring: {method.text}")
        candidate = method.make(manifest, graph, photos)
        found = measured(_session(manifest, candidate), tested.photos, beside=original_session)
        made[method.text] = method, candidate, found
        rows.append(_row(method.text, candidate, found, original, tested))
    verdicts = judged(rows)
    chosen = best(verdicts)
    if chosen is None:
        return Compressed(verdicts, None)
    method, candidate, found = made[chosen.method]
    compression = Compression(
        original=manifest.graph.sha256,
        calibrated_on=photos.text,
        measured_on=tested.text,
        counted=agreement(original, found, foreign=tested.foreign)[1],
        rows=verdicts,
    )
    values = _changed(manifest, candidate, method, chosen, compression)
    checked = _checked(original, found)
    return Compressed(verdicts, Bundle(manifest.model_copy(update=values | {"checked": checked}), candidate))


def _session(manifest: Manifest, graph: bytes) -> Session:
    return Session(graph, inputs=manifest.inputs, classes=len(manifest.classes), embedding=manifest.embedding)


def _row(
    method: str, graph: bytes, found: Measurement, original: Measurement, tested: PhotoSample
) -> CompressionRow:
    return CompressionRow(
        method=method,
        bytes=len(graph),
        milliseconds=round(found.milliseconds, 3),
        agreement=agreement(original, found, foreign=tested.foreign)[0],
        accuracy=found.accuracy(tested.labels),
        verdict="",
    )


def _checked(original: Measurement, found: Measurement) -> Checked:
    difference = np.abs(original.probabilities - found.probabilities)
    return Checked(
        photos=len(difference),
        largest_difference=min(1.0, float(difference.max())),
        same_class=agreement(original, found, foreign=False)[0],
    )


def _changed(
    manifest: Manifest, graph: bytes, method: Method, row: CompressionRow, compression: Compression
) -> dict[str, object]:
    """Return the fields of the manifest that a compressed graph changes."""
    earlier = tuple(
        each.model_copy(update={"name": f"{each.name}, before compression"}) for each in manifest.measured
    )
    if row.accuracy is not None:
        earlier = (
            *earlier,
            Measured(name="accuracy", value=row.accuracy, photos=compression.measured_on, covered=None),
        )
    return {
        "graph": GraphFile(
            sha256=hashlib.sha256(graph).hexdigest(),
            bytes=len(graph),
            opset=manifest.graph.opset,
            precision=method.precision,
            one_photo=manifest.graph.one_photo,
        ),
        "measured": earlier,
        "compression": compression,
        "warnings": (
            *manifest.warnings,
            f"compressed ({row.method}): it agrees with the original in {row.agreement:.1%} of the photos "
            f"that count, at least {LEAST_AGREEMENT:.0%} is asked for; its vectors "
            "don't mix with the original's",
        ),
    }
