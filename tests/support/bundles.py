"""A bundle of a tiny model, written by hand without torch: classes by the mean colours of a photo."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from fedrec.recognition.bundle.card import card
from fedrec.recognition.bundle.manifest import (
    CARD,
    GRAPH,
    MANIFEST,
    Calibration,
    Checked,
    GraphFile,
    Manifest,
    Privacy,
    Training,
)
from fedrec.recognition.bundle.photo_inputs import PhotoInput

SIDE = 16
CLASSES = ("red", "green", "blue")
SCALE = 8.0
"""Score of a photo that has nothing but the class's colour."""
INPUT = PhotoInput(name="wide16", size=SIDE, channels=3, fit="crop")


def tiny_graph(*, classes: bool = True, scale: float = SCALE) -> onnx.ModelProto:
    """Scores are ``scale`` times the mean colours; the embedding is that of bundles with classes."""
    node = helper.make_node
    nodes = [
        node("Cast", ["wide16"], ["floats"], to=TensorProto.FLOAT),
        node("Mul", ["floats", "to_one"], ["colours"]),
        node("Transpose", ["colours"], ["maps"], perm=[0, 3, 1, 2]),
        node("ReduceMean", ["maps", "places"], ["means"], keepdims=0),
        node("LpNormalization", ["means"], ["vectors"], axis=1, p=2),
    ]
    outputs: list[tuple[str, list[int | str]]] = [("embedding", ["n", 3])]
    if classes:
        nodes += [
            node("Mul", ["means", "scale"], ["scores"]),
            node("Softmax", ["scores"], ["probabilities"], axis=1),
            node("Sqrt", ["probabilities"], ["roots"]),
            node("Mul", ["roots", "half"], ["halves"]),
            node("Concat", ["vectors", "halves"], ["both"], axis=1),
            node("LpNormalization", ["both"], ["embedding"], axis=1, p=2),
            node("Mul", ["maps", "scale"], ["evidence_wide16"]),
            node("Mul", ["scores", "zero"], ["offset"]),
        ]
        outputs = [
            ("scores", ["n", 3]),
            ("probabilities", ["n", 3]),
            ("embedding", ["n", 6]),
            ("offset", ["n", 3]),
            ("evidence_wide16", ["n", 3, SIDE, SIDE]),
        ]
    else:
        nodes.append(node("Identity", ["vectors"], ["embedding"]))
    values = {"to_one": 1 / 255, "scale": scale, "half": 0.5, "zero": 0.0}
    stored = [numpy_helper.from_array(np.array(value, np.float32), name) for name, value in values.items()]
    stored.append(numpy_helper.from_array(np.array([2, 3], dtype=np.int64), "places"))
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "tiny",
        [value("wide16", TensorProto.UINT8, ["n", SIDE, SIDE, 3])],
        [value(name, TensorProto.FLOAT, shape) for name, shape in outputs],
        stored,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def tiny_manifest(graph: bytes, *, classes: bool = True) -> Manifest:
    """The manifest of :func:`tiny_graph`."""
    training = Training(training_id="ab" * 32, run="run", deployed=True, rounds=3, merchants=4, records=100)
    privacy = Privacy(
        mode="distributed",
        unit="record",
        scheme="kahe",
        epsilon=2.0,
        epsilon_aggregation_broken=6.0,
        delta=1e-5,
        seeded=False,
    )
    return Manifest(
        model="tiny",
        model_code=None,
        made_by="0",
        classes=CLASSES if classes else (),
        inputs=(INPUT,),
        graph=GraphFile(sha256=hashlib.sha256(graph).hexdigest(), bytes=len(graph), opset=18),
        embedding=6 if classes else 3,
        evidence="exact" if classes else None,
        training=training if classes else None,
        privacy=privacy if classes else None,
        calibration=Calibration(),
        checked=Checked(photos=1, largest_difference=0.0, same_class=1.0),
    )


def write_tiny_bundle(folder: Path, *, classes: bool = True, scale: float = SCALE) -> Path:
    """Write the bundle; returns the folder."""
    graph = tiny_graph(classes=classes, scale=scale).SerializeToString()
    manifest = tiny_manifest(graph, classes=classes)
    folder.mkdir(parents=True)
    (folder / GRAPH).write_bytes(graph)
    (folder / MANIFEST).write_text(manifest.model_dump_json())
    (folder / CARD).write_text(card(manifest))
    return folder
