"""Compute a graph's networks in 8-bit integers: static, per channel, as ONNX's QuantizeLinear describes it.

Activations are unsigned and weights signed 8-bit integers (Jacob et al. 2018), with the ranges that photos
give. The networks' convolutions and large products are quantised; all that follows them, with the scores, the
probabilities, the embedding and the evidence, stays in float32, so that evidence still sums to the scores.
A depthwise convolution right behind the first one, and that one, stay in float32 too: of EfficientNet-Lite0
their rounding alone changed twice as many classes as that of all other layers, and they are 2% of the time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
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
    return Quantiser(graph, inputs=inputs, photos=photos).made()


@dataclass(frozen=True)
class Layer:
    """A convolution or product, with what only bounds or adds what it gives.

    Attributes:
        nodes: names of its nodes.
        is_product: whether it is a product, no convolution.
        weights: number of its weights.
        work: number of its multiplications for a picture.
        depth: how many layers stand before it, on the longest way.
    """

    nodes: tuple[str, ...]
    is_product: bool
    weights: int
    work: int
    depth: int


class Quantiser:
    """Quantises all layers of a graph, or some of them.

    Args:
        graph: the graph's file, in float32.
        inputs: the pictures that it takes.
        photos: public photos, which give the ranges of its activations.

    Raises:
        ConfigError: nothing in it can be quantised, or onnxruntime fails.
        MissingExtraError: onnx or onnxruntime isn't installed.
    """

    def __init__(self, graph: bytes, *, inputs: Sequence[PhotoInput], photos: Sequence[Image.Image]) -> None:
        require_packages("onnx", "onnxruntime", purpose="the compression of a model")
        import onnx

        model = onnx.load_model_from_string(graph)
        self._chosen = quantisable(model.graph)
        if not self._chosen:
            raise ConfigError("the graph has no convolution and no large product to quantise")
        with _reported():
            self._model = onnx.shape_inference.infer_shapes(model)
            self._ranges = activation_ranges(self._model, operators=_OPERATORS, inputs=inputs, photos=photos)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers that can be quantised, in the order of the graph."""
        sizes = {each.name: _count(each.dims) for each in self._model.graph.initializer}
        shapes = {
            each.name: [side.dim_value or 1 for side in each.type.tensor_type.shape.dim]
            for each in self._model.graph.value_info
        }
        chosen, depths = set(self._chosen), dict[str, int]()
        found: list[Layer] = []
        for node in self._model.graph.node:
            depth = max((depths.get(each, 0) for each in node.input), default=0)
            passes = node.op_type in _PASSED or node.op_type == "Add"
            if node.name in chosen and passes:
                found[-1] = replace(found[-1], nodes=(*found[-1].nodes, node.name))
            elif node.name in chosen:
                weights = max((sizes.get(each, 0) for each in node.input), default=0)
                shape, is_product = shapes.get(node.output[0], []), node.op_type != "Conv"
                work = weights * _count(shape[1:-1] if is_product else shape[2:])
                found.append(Layer((node.name,), is_product, weights, work, depth))
                depth += 1
            depths |= dict.fromkeys(node.output, depth)
        return tuple(found)

    def made(self, layers: Iterable[Layer] | None = None) -> bytes:
        """Quantise layers.

        Args:
            layers: which; None for all.

        Returns:
            The graph's file.

        Raises:
            ConfigError: onnxruntime fails.
        """
        from onnx import ModelProto
        from onnxruntime.quantization import QDQQuantizer, QuantType

        model = ModelProto()
        model.CopyFrom(self._model)
        names = self._chosen if layers is None else [name for each in layers for name in each.nodes]
        with _reported():
            quantizer = QDQQuantizer(
                model,
                True,  # a scale for each channel
                False,  # all 8 bits
                QuantType.QInt8,
                QuantType.QUInt8,
                self._ranges,
                names,
                [],
                _OPERATORS,
                {},
            )
            quantizer.quantize_model()
            quantizer.model.topological_sort()
        return canonical_graph(_standard_alone(quantizer.model.model))


@contextmanager
def _reported() -> Iterator[None]:
    """Turn what onnx and onnxruntime raise into a ``ConfigError``."""
    try:
        yield
    except TooLittleMemoryError:
        raise ConfigError(
            f"the graph can't be quantised: it takes more than {MOST_MEMORY >> 30} GiB beside its weights"
        ) from None
    # onnx and onnxruntime raise different errors for different faults.
    except Exception as error:
        raise ConfigError(f"the graph can't be quantised: {one_line(error, most=200)}") from None


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
