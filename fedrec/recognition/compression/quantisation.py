"""Compute a graph's networks in 8-bit integers: static, per channel, as ONNX's QuantizeLinear describes it.

Activations are unsigned and weights signed 8-bit integers (Jacob et al. 2018), with the ranges that photos
give. The networks' convolutions and large products are quantised; all that follows them, with the scores, the
probabilities, the embedding and the evidence, stays in float32, so that evidence still sums to the scores.
A depthwise convolution right behind the first one, and that one, stay in float32 too: of EfficientNet-Lite0
their rounding alone changed twice as many classes as that of all other layers, and they are 2% of the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from PIL import Image

from fedrec._internal.text import one_line
from fedrec.errors import ConfigError
from fedrec.recognition.bundle.graph_outputs import SCORES
from fedrec.recognition.bundle.photo_inputs import PhotoInput
from fedrec.recognition.compression.activation_ranges import activation_ranges
from fedrec.recognition.export.canonical_graph import canonical_graph
from fedrec.recognition.extra import require_packages
from fedrec.vision.backbones.onnx_files.shared_pool import MOST_MEMORY, TooLittleMemoryError

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

LEAST_WEIGHTS: Final = 1 << 16
"""A matrix of fewer weights stays in float32: it is a head's, and brings nothing."""
_OPERATORS: Final = ("Conv", "Gemm", "MatMul", "Add", "Clip", "Relu")
_PASSED: Final = ("Clip", "Relu", "Identity")


def quantised(graph: bytes, *, inputs: Sequence[PhotoInput], photos: Sequence[Image.Image]) -> bytes:
    """Quantise a graph.

    Args:
        graph: the graph's file, in float32.
        inputs: the pictures that it takes.
        photos: public photos, which give the ranges of its activations.

    Returns:
        The quantised graph's file.

    Raises:
        ConfigError: nothing in it can be quantised, or onnxruntime fails.
        MissingExtraError: onnx or onnxruntime isn't installed.
    """
    require_packages("onnx", "onnxruntime", purpose="the compression of a model")
    import onnx
    from onnxruntime.quantization import QDQQuantizer, QuantType

    model = onnx.load_model_from_string(graph)
    chosen = quantisable(model.graph)
    if not chosen:
        raise ConfigError("the graph has no convolution and no large product to quantise")
    try:
        inferred = onnx.shape_inference.infer_shapes(model)
        ranges = activation_ranges(inferred, operators=_OPERATORS, inputs=inputs, photos=photos)
        quantizer = QDQQuantizer(
            inferred,
            True,  # a scale for each channel
            False,  # all 8 bits
            QuantType.QInt8,
            QuantType.QUInt8,
            ranges,
            chosen,
            [],
            _OPERATORS,
            {},
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
    except TooLittleMemoryError:
        raise ConfigError(
            f"the graph can't be quantised: it takes more than {MOST_MEMORY >> 30} GiB beside its weights"
        ) from None
    # onnx and onnxruntime raise different errors for different faults.
    except Exception as error:
        raise ConfigError(f"the graph can't be quantised: {one_line(error, most=200)}") from None
    return canonical_graph(_standard_alone(quantizer.model.model))


def quantisable(graph: GraphProto) -> list[str]:
    """Name the nodes to quantise: convolutions, large products, sums of those, and what only bounds them.

    Args:
        graph: the graph.

    Returns:
        Names of nodes.
    """
    producers = {output: node for node in graph.node for output in node.output}
    weights = {each.name: each for each in graph.initializer}
    chosen: set[str] = set()

    def source(value: str) -> NodeProto | None:
        node = producers.get(value)
        while node is not None and node.op_type in _PASSED:
            node = producers.get(node.input[0])
        return node

    def is_chosen(value: str) -> bool:
        node = source(value)
        return node is not None and node.name in chosen

    kept = _first_depthwise(graph)
    for node in graph.node:
        if node.op_type == "Conv":
            taken = node.name not in kept
        elif node.op_type in ("Gemm", "MatMul"):
            sizes = [_count(weights[name].dims) for name in node.input if name in weights]
            taken = SCORES not in node.output and max(sizes, default=0) >= LEAST_WEIGHTS
        elif node.op_type == "Add":
            taken = all(is_chosen(value) for value in node.input)
        else:
            taken = node.op_type in _PASSED and is_chosen(node.input[0])
        if taken:
            chosen.add(node.name)
    return [node.name for node in graph.node if node.name in chosen]


def _first_depthwise(graph: GraphProto) -> set[str]:
    """Name the depthwise convolutions that take what a first convolution gives, and those first ones."""
    last: dict[str, tuple[NodeProto, ...]] = {}
    found: set[str] = set()
    for node in graph.node:
        before = tuple(each for value in node.input for each in last.get(value, ()))
        if node.op_type == "Conv":
            groups = next((each.i for each in node.attribute if each.name == "group"), 1)
            if groups > 1 and len(before) == 1 and not _has_convolution(before[0], last):
                found |= {node.name, before[0].name}
            before = (node,)
        elif node.op_type not in _PASSED:
            before = before[:1]
        for output in node.output:
            last[output] = before
    return found


def _has_convolution(node: NodeProto, last: dict[str, tuple[NodeProto, ...]]) -> bool:
    """Return whether a convolution stands before a node."""
    return any(last.get(value) for value in node.input)


def _count(dims: Sequence[int]) -> int:
    count = 1
    for side in dims:
        count *= side
    return count


def _standard_alone(model: ModelProto) -> ModelProto:
    """Leave out operator sets that no node uses: onnxruntime names its own."""
    used = {node.domain for node in model.graph.node} | {""}
    kept = [each for each in model.opset_import if each.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    return model
