"""Leave out of a graph whatever says how it was made: one model makes one file on every machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import ModelProto


def canonical_graph(model: ModelProto) -> bytes:
    """Return a graph's file without notes of the program that made it.

    Args:
        model: the graph; it is changed.

    Returns:
        The file's content, the same for the same graph.
    """
    model.producer_name, model.producer_version, model.doc_string = "fedrec", "", ""
    model.domain, model.model_version = "", 0
    del model.metadata_props[:]
    graph = model.graph
    graph.name, graph.doc_string = "fedrec", ""
    del graph.value_info[:]
    del graph.metadata_props[:]
    for number, node in enumerate(graph.node):
        node.name, node.doc_string = f"node{number}", ""
        del node.metadata_props[:]
    for weight in graph.initializer:
        weight.doc_string = ""
        del weight.metadata_props[:]
    for value in (*graph.input, *graph.output):
        value.doc_string = ""
        del value.metadata_props[:]
    content: bytes = model.SerializeToString(deterministic=True)
    return content
