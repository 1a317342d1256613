"""Set the smallest weights of a graph's networks to zero (Han et al. 2015)."""

from __future__ import annotations

from typing import Final

import numpy as np

from fedrec.recognition.compression.quantisation import quantisable
from fedrec.recognition.export.canonical_graph import canonical_graph

SHARE: Final = 0.3


def pruned(graph: bytes, *, share: float = SHARE) -> bytes:
    """Prune a graph by magnitude, each tensor of weights by itself.

    The file keeps its size, and onnxruntime computes zeros as it does other numbers: this helps only where
    something else packs or skips them.

    Args:
        graph: the graph's file.
        share: of the weights that become zero.

    Returns:
        The pruned graph's file.
    """
    import onnx
    from onnx import numpy_helper

    model = onnx.load_model_from_string(graph)
    chosen = set(quantisable(model.graph))
    taken = {node.input[1] for node in model.graph.node if node.name in chosen and len(node.input) > 1}
    for weight in model.graph.initializer:
        if weight.name not in taken or len(weight.dims) < 2:
            continue
        values = numpy_helper.to_array(weight).copy()
        limit = np.quantile(np.abs(values), share)
        values[np.abs(values) < limit] = 0
        weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    return canonical_graph(model)
