"""Compress a bundle: make candidates, measure them beside the original, keep the fastest that is sound."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fedrec._internal.text import listed
from fedrec.errors import ConfigError
from fedrec.recognition.bundle.manifest import (
    Checked,
    Compression,
    CompressionRow,
    Manifest,
    Measured,
)
from fedrec.recognition.bundle.session import Session
from fedrec.recognition.compression.choosing import LEAST_AGREEMENT, best, judged
from fedrec.recognition.compression.measuring import Measurement, PhotoSample, agreement, measured
from fedrec.recognition.compression.methods import METHODS, Candidate
from fedrec.recognition.compression.photos import CompressionPhotos
from fedrec.recognition.export.bundles import Bundle

Step = Callable[[str], None]


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
    methods: Sequence[str] | None = None,
    step: Step = lambda text: None,
) -> Compressed:
    """Compress a bundle.

    Args:
        manifest: its manifest.
        graph: its graph's file.
        photos: public photos, to make smaller models with and to measure on.
        methods: names of :data:`METHODS`; None for all that work for this bundle.
        step: told what is done next.

    Returns:
        All candidates' rows, and the bundle of the one that was chosen.

    Raises:
        ConfigError: the bundle is a backbone alone or compressed already, a method is unknown, one that was
            named fails, or all fail.
        MissingExtraError: onnx or onnxruntime isn't installed.
    """
    if not manifest.classes:
        raise ConfigError("a backbone alone has no classes in which a smaller one could agree with it")
    if manifest.graph.precision != "float32":
        raise ConfigError(f"the model is {manifest.graph.precision} already: compress the one it came from")
    names = tuple(METHODS if methods is None else dict.fromkeys(methods))
    unknown = [name for name in names if name not in METHODS]
    if unknown or not names:
        raise ConfigError(f"--methods takes {listed(list(METHODS))}, not {listed(unknown) or 'nothing'}")
    tested = photos.tested
    original_session = _session(manifest, graph)
    step(f"measuring the original on {len(tested.photos)} photos")
    original = measured(original_session, tested.photos, beside=original_session)
    rows = [_row("original", graph, original, original, tested)]
    made: dict[str, tuple[Candidate, Measurement]] = {}
    for name in names:
        step(f"making and measuring: {name}")
        try:
            candidate = METHODS[name](manifest, graph, photos)
        except ConfigError as error:
            if methods is not None:
                raise
            step(f"{name} is left out: {error}")
            continue
        session = _session(candidate.manifest, candidate.graph)
        found = measured(session, tested.photos, beside=original_session)
        made[candidate.method] = candidate, found
        rows.append(_row(candidate.method, candidate.graph, found, original, tested))
    if not made:
        raise ConfigError("no method can make this model smaller")
    verdicts = judged(rows)
    chosen = best(verdicts)
    if chosen is None:
        return Compressed(verdicts, None)
    candidate, found = made[chosen.method]
    compression = Compression(
        original=manifest.graph.sha256,
        calibrated_on=candidate.made_with,
        measured_on=tested.text,
        counted=agreement(original, found, foreign=tested.foreign)[1],
        rows=verdicts,
    )
    values = _changed(candidate.manifest, chosen, compression) | {"checked": _checked(original, found)}
    return Compressed(verdicts, Bundle(candidate.manifest.model_copy(update=values), candidate.graph))


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


def _changed(manifest: Manifest, row: CompressionRow, compression: Compression) -> dict[str, object]:
    """Return the figures and warnings of a compressed model's manifest."""
    earlier = tuple(
        each.model_copy(update={"name": f"{each.name}, before compression"}) for each in manifest.measured
    )
    if row.accuracy is not None:
        earlier = (
            *earlier,
            Measured(name="accuracy", value=row.accuracy, photos=compression.measured_on, covered=None),
        )
    return {
        "measured": earlier,
        "compression": compression,
        "warnings": (
            *manifest.warnings,
            f"compressed ({row.method}): it agrees with the original in {row.agreement:.1%} of the photos "
            f"that count, at least {LEAST_AGREEMENT:.0%} is asked for; its vectors "
            "don't mix with the original's",
        ),
    }
