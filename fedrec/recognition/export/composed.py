"""Join a traced head with networks that are graphs already, such as an added backbone from an ONNX file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch import Tensor

from fedrec._internal.text import one_line
from fedrec.errors import ConfigError
from fedrec.recognition.export.feature_graph import FeatureGraph, Fed, view_input
from fedrec.vision.backbones.feature_sets import Block
from fedrec.vision.backbones.onnx_files.network import open_session
from fedrec.vision.backbones.traceable import GraphFile

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

_EVERYTHING: Final = -(2**31)
"""The end of a slice that goes backwards over all positions."""


def graph_files(graph: FeatureGraph) -> dict[str, ModelProto]:
    """Read the networks that are graphs, by the backbone's name.

    Args:
        graph: the head's module.

    Returns:
        The networks.

    Raises:
        ConfigError: a file is missing or damaged.
    """
    import onnx

    found: dict[str, ModelProto] = {}
    for each in graph.fed:
        backbone = each.block.backbone
        if isinstance(backbone, GraphFile) and backbone.name not in found:
            found[backbone.name] = onnx.load_model_from_string(backbone.graph())
    return found


def opset_of(model: ModelProto) -> int:
    """Return the version of ONNX's standard operators that a checked network uses."""
    return max(int(each.version) for each in model.opset_import if each.domain in ("", "ai.onnx"))


def examples(graph: FeatureGraph, files: Mapping[str, ModelProto]) -> list[Tensor]:
    """Compute what the networks give for a grey picture, in the order of :attr:`FeatureGraph.fed`.

    Args:
        graph: the head's module.
        files: the networks.

    Returns:
        A tensor for each.
    """
    found: dict[tuple[str, int, str], Tensor] = {}
    for each in graph.fed:
        key = (each.block.backbone.name, each.block.size, each.layer)
        if key not in found:
            session = open_session(files[key[0]].SerializeToString(), gpu=False)
            picture = np.zeros((1, 3, key[1], key[1]), dtype=np.float32)
            name = session.get_inputs()[0].name
            found[key] = torch.from_numpy(np.asarray(session.run([key[2]], {name: picture})[0]))
    # Torch would take one tensor that is given twice for one input.
    return [found[each.block.backbone.name, each.block.size, each.layer].clone() for each in graph.fed]


def composed(head: ModelProto, graph: FeatureGraph, files: Mapping[str, ModelProto]) -> ModelProto:
    """Join a traced head with the networks whose outputs it takes.

    A network that is used for several views stands there once for each, with the same weights.

    Args:
        head: the traced head.
        graph: its module.
        files: the networks, by the backbone's name.

    Returns:
        The whole graph, for one photo a call.

    Raises:
        ConfigError: a network's operators can't be brought to the head's version.
    """
    from onnx import TensorProto, helper

    opset = opset_of(head)
    nodes: list[NodeProto] = []
    weights: list[TensorProto] = []
    for name, file in files.items():
        network = _converted(file, opset, name=name)
        mine = [each for each in graph.fed if each.block.backbone.name == name]
        weights.extend(_renamed_weights(network, name))
        for view in dict.fromkeys((each.view, each.block.size) for each in mine):
            of_view = [each for each in mine if (each.view, each.block.size) == view]
            nodes.extend(_preparation(of_view[0], weights))
            nodes.extend(_copied(network, of_view))
    fed = {each.name for each in graph.fed}
    inputs = [
        helper.make_tensor_value_info(each.name, TensorProto.UINT8, [1, each.size, each.size, each.channels])
        for each in graph.inputs
    ]
    made = helper.make_graph(
        [*nodes, *head.graph.node],
        "fedrec",
        inputs,
        list(head.graph.output),
        [*weights, *(each for each in head.graph.initializer if each.name not in fed)],
    )
    return helper.make_model(made, opset_imports=list(head.opset_import), ir_version=head.ir_version)


def _converted(network: ModelProto, opset: int, *, name: str) -> ModelProto:
    from onnx import version_converter

    if opset_of(network) == opset:
        return network
    try:
        return version_converter.convert_version(network, opset)
    # The converter raises different errors for what it doesn't know.
    except Exception as error:
        raise ConfigError(
            f"backbone '{name}' uses version {opset_of(network)} of ONNX's operators, which can't be brought "
            f"to {opset} ({one_line(error)}): export it with {opset}"
        ) from None


def _weight(network: str, name: str) -> str:
    return f"{network}/{name}"


def _renamed_weights(network: ModelProto, name: str) -> Iterator[TensorProto]:
    for weight in network.graph.initializer:
        weight.name = _weight(name, weight.name)
        yield weight


def _value(first: Fed, name: str) -> str:
    return f"{first.block.backbone.name}/{first.block.size}/{first.view}/{name}"


def _colours(block: Block) -> tuple[np.ndarray, np.ndarray]:
    """Return what pixels are multiplied by, and what is subtracted then."""
    if not isinstance(block.backbone, GraphFile):
        raise ConfigError(f"{block.backbone.name} is no graph")
    mean, std = (np.asarray(each, dtype=np.float64) for each in block.backbone.colours)
    return (1 / (255 * std)).astype(np.float32), (mean / std).astype(np.float32)


def _preparation(first: Fed, weights: list[TensorProto]) -> Iterator[NodeProto]:
    """Make a network's input of a photo's picture, and add the constants that this takes."""
    from onnx import TensorProto, helper, numpy_helper

    def constant(name: str, values: np.ndarray) -> str:
        weights.append(numpy_helper.from_array(values, _value(first, name)))
        return weights[-1].name

    scale, shift = _colours(first.block)
    picture = view_input(first.view, size=first.block.size).name
    if first.view == "flip":
        ends = [constant(key, np.array([end])) for key, end in (("last", -1), ("first", _EVERYTHING))]
        axes = [constant(key, np.array([at])) for key, at in (("axis", 2), ("step", -1))]
        yield helper.make_node("Slice", [picture, *ends, *axes], [_value(first, "mirrored")])
        picture = _value(first, "mirrored")
    yield helper.make_node("Cast", [picture], [_value(first, "pixels")], to=TensorProto.FLOAT)
    multiplied, normalised = _value(first, "multiplied"), _value(first, "normalised")
    yield helper.make_node("Mul", [_value(first, "pixels"), constant("scale", scale)], [multiplied])
    yield helper.make_node("Sub", [multiplied, constant("shift", shift)], [normalised])
    yield helper.make_node("Transpose", [normalised], [_value(first, "picture")], perm=[0, 3, 1, 2])


def _copied(network: ModelProto, fed: Sequence[Fed]) -> Iterator[NodeProto]:
    """Copy a network's nodes for one view, from its picture to the head's inputs."""
    import onnx

    first = fed[0]
    stored = {weight.name for weight in network.graph.initializer}
    names = {name: name for name in stored}
    for value in network.graph.input:
        if _weight(first.block.backbone.name, value.name) not in stored:
            names[value.name] = _value(first, "picture")
    prefix = f"{first.block.backbone.name}/"
    names |= {name.removeprefix(prefix): name for name in stored}
    names |= {each.layer: each.name for each in fed}
    for node in network.graph.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name = _value(first, node.name)
        for values in (copy.input, copy.output):
            for place, name in enumerate(values):
                if name:
                    values[place] = names.get(name, _value(first, f"value/{name}"))
        yield copy
