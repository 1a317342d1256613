"""Check the graph of an ONNX file: what it may contain, so that running it does nothing but arithmetic.

The graph is a straight line of known operators on weights that the file itself holds. All shapes follow from
the side of the pictures alone, and so do time and memory: no photo can make a call longer than another's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fedrec._internal.extras import require_packages
from fedrec._internal.text import listed, one_line
from fedrec.errors import ConfigError
from fedrec.vision.backbones.backbone_files import LARGEST_FILE
from fedrec.vision.backbones.onnx_files.operators import (
    OPERATORS,
    SHAPE_INPUTS,
    SHAPE_READERS,
    TRAINING_ATTRIBUTE,
    TRAINING_INPUTS,
)
from fedrec.vision.backbones.onnx_files.wire_format import check_encoding

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

MOST_NODES: Final = 20_000
MOST_RANK: Final = 8
MOST_INPUTS: Final = 256
LEAST_OPSET: Final = 11
_DOMAINS: Final = ("", "ai.onnx")
# By the numbers of TensorProto.DataType: float, uint8, int8, uint16, int16, int32, int64, bool, float16,
# double, uint32, uint64, bfloat16.
_BYTES: Final = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 16: 2}
_FLOAT: Final = 1
_COLOURS_LAST: Final = ": export it with the colours before height and width"
_FEATURES: Final = (1, 10, 11)
"""Element types of a feature vector: float, float16, double."""


@dataclass(frozen=True)
class Graph:
    """What a checked graph takes and gives.

    Attributes:
        nodes: number of its operators' uses.
        opset: version of the standard operators.
        input_name: name of the input for pictures.
        input_size: side of its pictures in pixels; None where the file leaves it open.
        outputs: names of the outputs that are float tensors of rank 2 to 4.
    """

    nodes: int
    opset: int
    input_name: str
    input_size: int | None
    outputs: tuple[str, ...]


def require_extra() -> None:
    """Raise ``MissingExtraError`` unless onnx and onnxruntime are installed; imports neither."""
    require_packages("onnx", "onnxruntime", extra="onnx", purpose="a backbone from a file")


def check_graph(data: bytes) -> Graph:
    """Check an ONNX file without running anything of it.

    Args:
        data: the file's content.

    Returns:
        What the graph takes and gives.

    Raises:
        ConfigError: it is no ONNX file, or has anything that isn't allowed; the message says what.
        MissingExtraError: onnx or onnxruntime isn't installed.
    """
    model = check_model(data)
    graph = model.graph
    pictures = inputs_of(graph)
    if len(pictures) != 1:
        names = listed([one_line(value.name, most=60) for value in pictures], most=5)
        raise ConfigError(
            f"it takes {len(pictures)} inputs{names and f' ({names})'}, and only one, the pictures, is "
            "allowed: export the part for pictures alone"
        )
    return Graph(
        nodes=len(graph.node),
        opset=opset_of(model),
        input_name=pictures[0].name,
        input_size=_input_size(pictures[0]),
        outputs=_outputs(graph),
    )


def check_model(data: bytes) -> ModelProto:
    """Check operators, weights and shapes of an ONNX file, whatever its inputs are, without running it.

    Args:
        data: the file's content.

    Returns:
        The file, parsed.

    Raises:
        ConfigError: it is no ONNX file, or has anything that isn't allowed; the message says what.
        MissingExtraError: onnx or onnxruntime isn't installed.
    """
    require_extra()
    import onnx
    from google.protobuf.message import DecodeError

    if len(data) > LARGEST_FILE:
        raise ConfigError(f"it is larger than {LARGEST_FILE:,} bytes")
    if not data:
        raise ConfigError("it is empty")
    check_encoding(data, onnx.ModelProto.DESCRIPTOR)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except (DecodeError, ValueError) as error:
        raise ConfigError(f"it is no ONNX file, or it is damaged ({one_line(error)})") from None
    opset_of(model)
    graph = model.graph
    if model.functions or model.training_info or graph.sparse_initializer:
        raise ConfigError(
            "it has functions of its own, training information or sparse weights: export it for inference, "
            "with functions inlined"
        )
    if len(graph.node) > MOST_NODES:
        raise ConfigError(f"it has {len(graph.node):,} nodes, and at most {MOST_NODES:,} are allowed")
    for weights in graph.initializer:
        _check_tensor(weights, f"the weights {one_line(weights.name, most=60)!r}")
    _check_nodes(graph)
    return model


def inputs_of(graph: GraphProto) -> list[ValueInfoProto]:
    """Return the inputs of a graph that aren't weights."""
    stored = {weights.name for weights in graph.initializer}
    return [value for value in graph.input if value.name not in stored]


def opset_of(model: ModelProto) -> int:
    """Return the version of ONNX's operators that a file uses; ``ConfigError`` if it isn't one known here."""
    import onnx

    newest = onnx.defs.onnx_opset_version()
    versions = [imported.version for imported in model.opset_import if imported.domain in _DOMAINS]
    if len(versions) != 1 or not LEAST_OPSET <= versions[0] <= newest:
        raise ConfigError(
            f"it must use one version of ONNX's standard operators, {LEAST_OPSET} to {newest}, not "
            f"{listed([str(version) for version in versions], most=3) or 'none'}: export it anew with one of "
            "these, or convert it by onnx.version_converter"
        )
    return int(versions[0])


def _check_tensor(tensor: TensorProto, what: str) -> None:
    """Check that a tensor's values are in the file, exactly as many as its shape says."""
    if tensor.data_location or tensor.external_data:
        raise ConfigError(
            f"{what} are in another file, which is never opened: export it as one file, "
            "with PyTorch by external_data=False"
        )
    if tensor.data_type not in _BYTES or tensor.HasField("segment") or tensor.string_data:
        raise ConfigError(f"{what} are of a type that isn't allowed")
    if len(tensor.dims) > MOST_RANK or any(side < 0 for side in tensor.dims):
        raise ConfigError(f"{what} have a shape that isn't allowed")
    expected = math.prod(tensor.dims)
    typed = (
        len(tensor.float_data)
        + len(tensor.int32_data)
        + len(tensor.int64_data)
        + len(tensor.double_data)
        + len(tensor.uint64_data)
    )
    given, wanted = (
        (len(tensor.raw_data), expected * _BYTES[tensor.data_type])
        if tensor.raw_data or not typed
        else (typed, expected)
    )
    if given != wanted or (typed and tensor.raw_data):
        raise ConfigError(f"{what} have other values than their shape says")


def _check_nodes(graph: GraphProto) -> None:
    """Check each node, and that no shape depends on the pictures' values."""
    # For each value so far, whether it is the same for all pictures.
    fixed = dict.fromkeys((weights.name for weights in graph.initializer), True)
    fixed |= dict.fromkeys((value.name for value in inputs_of(graph)), False)
    for index, node in enumerate(graph.node):
        what = f"node {index} ({one_line(node.op_type, most=40)})"
        _check_node(node, what)
        unknown = [name for name in node.input if name and name not in fixed]
        if unknown:
            raise ConfigError(f"{what} takes a value that no node before it gives")
        for position in SHAPE_INPUTS.get(node.op_type, ()):
            if not fixed.get(_input(node, position), True):
                raise ConfigError(
                    f"{what}: the shape of its output depends on the photo, so that time and memory would too"
                )
        same = node.op_type in SHAPE_READERS or all(fixed[name] for name in node.input if name)
        for name in node.output:
            if name in fixed:
                raise ConfigError(f"{what} gives a value that is there already")
            if name:
                fixed[name] = same
    missing = [value.name for value in graph.output if value.name not in fixed]
    if missing:
        raise ConfigError("an output is given by no node")


def _check_node(node: NodeProto, what: str) -> None:
    if node.domain not in _DOMAINS:
        raise ConfigError(
            f"{what} is of the domain {one_line(node.domain, most=60)!r}: only ONNX's standard operators "
            "are allowed"
        )
    if node.op_type not in OPERATORS:
        raise ConfigError(
            f"{what} isn't allowed: no random, recurrent or control-flow operators, nor any that fedrec "
            "doesn't know"
        )
    if max(len(node.input), len(node.output), len(node.attribute)) > MOST_INPUTS:
        raise ConfigError(f"{what} has more than {MOST_INPUTS} inputs, outputs or attributes")
    training = TRAINING_INPUTS.get(node.op_type)
    if training is not None and _input(node, training):
        raise ConfigError(f"{what} is in training mode: export the network for inference")
    for attribute in node.attribute:
        if attribute.HasField("g") or attribute.graphs or attribute.ref_attr_name:
            raise ConfigError(f"{what} holds a graph of its own, which isn't allowed")
        if attribute.HasField("tp") or attribute.type_protos:
            raise ConfigError(f"{what} has an attribute of a type that isn't allowed")
        if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
            raise ConfigError(f"{what} holds sparse weights, which aren't allowed")
        if attribute.name == TRAINING_ATTRIBUTE and attribute.i:
            raise ConfigError(f"{what} is in training mode: export the network for inference")
        for tensor in (*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors):
            _check_tensor(tensor, f"the weights of {what}")


def _input(node: NodeProto, position: int) -> str:
    return node.input[position] if position < len(node.input) else ""


def _shape(value: ValueInfoProto) -> Sequence[int | None] | None:
    """Return a tensor's shape, with None for a side that is left open; None for no shape."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return [side.dim_value if side.HasField("dim_value") else None for side in tensor.shape.dim]


def _input_size(pictures: ValueInfoProto) -> int | None:
    shape = _shape(pictures)
    if not pictures.type.HasField("tensor_type") or pictures.type.tensor_type.elem_type != _FLOAT:
        raise ConfigError(
            "its input isn't a float32 tensor: export it with float32 inputs; weights may be of half "
            "precision"
        )
    if shape is None or len(shape) != 4 or shape[0] not in (None, 1) or shape[1] not in (None, 3):
        shown = "x".join("?" if side is None else str(side) for side in shape or ())
        raise ConfigError(
            f"its input is {shown or 'of no shape'}, not batch x 3 x height x width with a batch that is "
            f"open or 1{_COLOURS_LAST if shape is not None and len(shape) == 4 and shape[3] == 3 else ''}"
        )
    if shape[2] != shape[3]:
        raise ConfigError(
            f"its pictures are {shape[3] or '?'} x {shape[2] or '?'} pixels, and must be square"
        )
    return shape[2]


def _outputs(graph: GraphProto) -> tuple[str, ...]:
    found = []
    for value in graph.output:
        shape = _shape(value)
        known = value.type.HasField("tensor_type") and value.type.tensor_type.elem_type in _FEATURES
        if known and (shape is None or (2 <= len(shape) <= 4 and shape[0] in (None, 1))):
            found.append(value.name)
    if not found:
        raise ConfigError(
            "none of its outputs is a float vector of each picture (rank 2), tokens (3) or a map (4)"
        )
    return tuple(found)
