"""Make a model bundle of a finished training or of a backbone alone."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch

from fedrec._internal.files import sync_folder, write_atomically
from fedrec.errors import ConfigError
from fedrec.recognition.bundle.card import card
from fedrec.recognition.bundle.manifest import (
    CARD,
    GRAPH,
    LARGEST_GRAPH,
    MANIFEST,
    Calibration,
    Checked,
    EvidenceMethod,
    GraphFile,
    Manifest,
)
from fedrec.recognition.bundle.photo_inputs import PhotoInput
from fedrec.recognition.bundle.session import Session
from fedrec.recognition.export.canonical_graph import canonical_graph
from fedrec.recognition.export.comparison import check_temperature, compared, public_photos
from fedrec.recognition.export.composed import composed, examples, graph_files, opset_of
from fedrec.recognition.export.feature_graph import FeatureGraph
from fedrec.recognition.export.pixel_graph import PixelGraph
from fedrec.recognition.export.sources import Source
from fedrec.recognition.export.traced import OPSET, BundleGraph, output_names, traced
from fedrec.recognition.extra import require_packages

Step = Callable[[str], None]


@dataclass(frozen=True)
class Bundle:
    """A bundle in memory.

    Attributes:
        manifest: its manifest.
        graph: its graph's file.
    """

    manifest: Manifest
    graph: bytes


def make_bundle(
    source: Source,
    *,
    calibrate: Callable[[Session], Calibration] = lambda session: Calibration(),
    step: Step = lambda text: None,
) -> Bundle:
    """Export a model, and compare the graph with it.

    Args:
        source: the model.
        calibrate: calibrates the probabilities of a graph whose temperature is 1.
        step: told what is done next.

    Returns:
        The bundle.

    Raises:
        ConfigError: the model can't be exported, or the graph computes something else.
        MissingExtraError: a package that it needs isn't installed.
    """
    require_packages("onnx", "onnxscript", "onnxruntime", purpose="the export of a model")
    step("tracing the network")
    # A temperature changes no score; the comparison is made without one.
    plain, inputs = exported(source, temperature=1.0)
    if len(plain) > LARGEST_GRAPH:
        raise ConfigError(f"the graph of {source.spec.name} is larger than {LARGEST_GRAPH:,} bytes")
    session = Session(plain, inputs=inputs, classes=len(source.classes))
    step("comparing the graph with the network")
    photos = public_photos()
    difference = compared(source, session, photos)
    chosen = calibrate(session)
    graph = plain
    if chosen.temperature != 1.0:
        graph = exported(source, temperature=chosen.temperature)[0]
        changed = Session(graph, inputs=inputs, classes=len(source.classes))
        check_temperature(session, changed, photos, temperature=chosen.temperature)
    length = session.run({each.name: each.picture(photos[0])[None] for each in inputs}).embedding.shape[1]
    method: EvidenceMethod = "exact" if session.has_evidence else "occlusion"
    manifest = Manifest(
        model=source.spec.name,
        model_code=source.code,
        made_by=metadata.version("fedrec"),
        classes=source.classes,
        inputs=inputs,
        graph=GraphFile(
            sha256=hashlib.sha256(graph).hexdigest(),
            bytes=len(graph),
            opset=session.opset,
            one_photo=session.one_photo,
        ),
        embedding=length,
        evidence=method if source.classes else None,
        training=source.training,
        privacy=source.privacy,
        calibration=chosen,
        measured=source.measured,
        checked=Checked(
            photos=len(photos),
            largest_difference=difference.largest_difference,
            same_class=difference.same_class,
        ),
        warnings=source.warnings,
    )
    return Bundle(manifest, graph)


def exported(source: Source, *, temperature: float) -> tuple[bytes, tuple[PhotoInput, ...]]:
    """Export a model as one ONNX graph.

    Args:
        source: the model.
        temperature: divides the scores before they become probabilities.

    Returns:
        The graph's file, and its inputs.

    Raises:
        ConfigError: torch can't export the model.
    """
    features = source.spec.features
    if features is not None:
        model = FeatureGraph(features, source.network)
        return _of_features(model, temperature)
    if source.network is None:
        raise ConfigError(f"model {source.spec.name} has no frozen networks")
    pixels = PixelGraph(source.spec, source.shape, source.spec.on_pictures(source.network))
    graph = BundleGraph(pixels, temperature=temperature).eval()
    return _traced(graph, _pictures(pixels.inputs), pixels.inputs), pixels.inputs


def _of_features(model: FeatureGraph, temperature: float) -> tuple[bytes, tuple[PhotoInput, ...]]:
    graph = BundleGraph(model, temperature=temperature).eval()
    if not model.fed:
        return _traced(graph, _pictures(model.inputs), model.inputs), model.inputs
    files = graph_files(model)
    given = [*_pictures(model.pictures, count=1), *examples(model, files)]
    names = [*(each.name for each in model.pictures), *(each.name for each in model.fed)]
    with torch.no_grad():
        outputs = output_names(graph(*given), model.inputs)
    opset = max(OPSET, *(opset_of(each) for each in files.values()))
    head = traced(graph, given, names=names, outputs=outputs, opset=opset)
    return canonical_graph(composed(head, model, files)), model.inputs


def _traced(graph: BundleGraph, given: list[torch.Tensor], inputs: tuple[PhotoInput, ...]) -> bytes:
    with torch.no_grad():
        outputs = output_names(graph(*given), inputs)
    names = [each.name for each in inputs]
    return canonical_graph(traced(graph, given, names=names, outputs=outputs, opset=OPSET))


def _pictures(inputs: tuple[PhotoInput, ...], *, count: int = 2) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randint(
            0, 256, (count, each.size, each.size, each.channels), dtype=torch.uint8, generator=generator
        )
        for each in inputs
    ]


def write_bundle(bundle: Bundle, folder: Path) -> None:
    """Write a bundle's folder, all of it or nothing.

    Args:
        bundle: the bundle.
        folder: the folder, which doesn't exist yet.

    Raises:
        ConfigError: the folder exists.
        OSError: the disk fails.
    """
    if folder.exists():
        raise ConfigError(f"{folder} exists already: name a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    making = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        making.chmod(0o755)
        write_atomically(making / GRAPH, bundle.graph)
        write_atomically(making / MANIFEST, bundle.manifest.model_dump_json(indent=2).encode())
        write_atomically(making / CARD, card(bundle.manifest).encode())
        making.rename(folder)
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(making, ignore_errors=True)
