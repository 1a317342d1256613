"""Small networks in ONNX's format, of random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, helper, numpy_helper

SIDE, WIDTH, PATCH = 16, 12, 4
TOKENS = (SIDE // PATCH) ** 2
ADD_OPTIONS: dict[str, object] = {"size": SIDE, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def weights(name: str, *shape: int, seed: int = 0) -> onnx.TensorProto:
    rng = np.random.default_rng([seed, *name.encode()])
    return numpy_helper.from_array((rng.standard_normal(shape) / 2).astype(np.float32), name)


def integers(name: str, *values: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, dtype=np.int64), name)


def vision_transformer(*, batch: int | str = "n", seed: int = 0) -> ModelProto:
    """One block of attention on patches: outputs ``features``, and ``tokens`` and ``map`` before pooling."""
    node = helper.make_node
    nodes = [
        node("Conv", ["pictures", "patches"], ["map"], kernel_shape=[PATCH, PATCH], strides=[PATCH, PATCH]),
        node("Reshape", ["map", "flat"], ["rows"]),
        node("Transpose", ["rows"], ["columns"], perm=[0, 2, 1]),
        node("Add", ["columns", "places"], ["embedded"]),
        node("LayerNormalization", ["embedded", "scale"], ["normed"]),
        *(node("MatMul", ["normed", name], [f"{name}s"]) for name in ("query", "key", "value")),
        node("Transpose", ["keys"], ["turned"], perm=[0, 2, 1]),
        node("MatMul", ["querys", "turned"], ["products"]),
        node("Softmax", ["products"], ["attention"]),
        node("MatMul", ["attention", "values"], ["attended"]),
        node("Add", ["attended", "embedded"], ["tokens"]),
        node("ReduceMean", ["tokens", "axes"], ["features"], keepdims=0),
    ]
    stored = [
        weights("patches", WIDTH, 3, PATCH, PATCH, seed=seed),
        weights("places", 1, TOKENS, WIDTH, seed=seed),
        weights("scale", WIDTH, seed=seed),
        *(weights(name, WIDTH, WIDTH, seed=seed) for name in ("query", "key", "value")),
        integers("flat", 0, WIDTH, -1),
        integers("axes", 1),
    ]
    shapes = {
        "features": [batch, WIDTH],
        "tokens": [batch, TOKENS, WIDTH],
        "map": [batch, WIDTH, SIDE // PATCH, SIDE // PATCH],
    }
    return network(nodes, stored, shapes, batch=batch)


def network(
    nodes: list[NodeProto], stored: list[onnx.TensorProto], shapes: dict[str, Any], *, batch: int | str = "n"
) -> ModelProto:
    """A model of some nodes that take ``pictures`` and give float outputs of these shapes."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "graph",
        [value("pictures", onnx.TensorProto.FLOAT, [batch, 3, SIDE, SIDE])],
        [value(name, onnx.TensorProto.FLOAT, shape) for name, shape in shapes.items()],
        stored,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def mean_of_colours(*more: NodeProto, stored: list[onnx.TensorProto] | None = None) -> ModelProto:
    """``mean`` (n, 3) of pixels, and ``features`` (n, 3) by further nodes, or the same without any."""
    first = helper.make_node("ReduceMean", ["pictures", "axes"], ["mean"], keepdims=0)
    last = more or (helper.make_node("Identity", ["mean"], ["features"]),)
    return network([first, *last], [integers("axes", 2, 3), *(stored or [])], {"features": ["n", "length"]})


def changed(change: Callable[[ModelProto], object], model: ModelProto | None = None) -> bytes:
    """The encoding of a model after a change."""
    model = vision_transformer() if model is None else model
    change(model)
    encoded: bytes = model.SerializeToString()
    return encoded


def written(path: Path, model: ModelProto | None = None) -> Path:
    """Write a model to a file."""
    path.write_bytes(changed(lambda model: None, model))
    return path
