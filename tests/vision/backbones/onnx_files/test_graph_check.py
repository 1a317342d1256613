"""What may be in an ONNX file: everything else is refused in one line, before anything of it runs."""

from __future__ import annotations

import random
from collections.abc import Callable

import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, TensorProto, helper

from fedrec.errors import ConfigError
from fedrec.vision.backbones.onnx_files import graph_check, wire_format
from fedrec.vision.backbones.onnx_files.graph_check import check_graph
from fedrec.vision.backbones.onnx_files.operators import OPERATORS, SHAPE_INPUTS
from tests.support.networks import SIDE, changed, integers, mean_of_colours, vision_transformer

VALID = changed(lambda model: None)
node = helper.make_node


def refusal(data: bytes) -> str:
    """The one line that refuses a file."""
    with pytest.raises(ConfigError) as caught:
        check_graph(data)
    text = str(caught.value)
    assert text.isprintable() and len(text) < 400
    return text


def test_a_vision_transformer_is_described() -> None:
    graph = check_graph(VALID)
    assert (graph.nodes, graph.opset, graph.input_name, graph.input_size) == (14, 18, "pictures", SIDE)
    assert graph.outputs == ("features", "tokens", "map")
    assert check_graph(changed(lambda model: None, vision_transformer(batch=1))) == graph


def test_a_side_may_be_open() -> None:
    def open_sides(model: ModelProto) -> None:
        for side in model.graph.input[0].type.tensor_type.shape.dim[2:]:
            side.dim_param = "side"

    assert check_graph(changed(open_sides)).input_size is None


def external(tensor: TensorProto) -> None:
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    tensor.ClearField("raw_data")


def constant(change: Callable[[TensorProto], object]) -> Callable[[ModelProto], object]:
    tensor = integers("hidden", 1)
    change(tensor)
    return lambda model: model.graph.node.append(node("Constant", [], ["hidden"], value=tensor))


def appended(*nodes: NodeProto) -> Callable[[ModelProto], object]:
    return lambda model: model.graph.node.extend(nodes)


def hidden_in(kind: str) -> Callable[[ModelProto], object]:
    """A node of a foreign domain in the graph of a control-flow node."""
    inner = helper.make_graph([node("Evil", [], ["y"], domain="evil")], "inner", [], [])
    return appended(node(kind, ["features"], ["z"], body=inner))


def first_weights(change: Callable[[TensorProto], object]) -> Callable[[ModelProto], object]:
    return lambda model: change(model.graph.initializer[0])


def reshaped(*dims: int) -> Callable[[ModelProto], object]:
    def change(tensor: TensorProto) -> None:
        tensor.dims[:] = dims

    return first_weights(change)


def set_type(index: int, kind: int) -> Callable[[ModelProto], object]:
    def change(model: ModelProto) -> None:
        model.graph.output[index].type.tensor_type.elem_type = kind

    return change


def only_output(rank: int, *, batch: int = 1) -> Callable[[ModelProto], object]:
    def change(model: ModelProto) -> None:
        del model.graph.output[1:]
        kind = model.graph.output[0].type.tensor_type
        kind.CopyFrom(helper.make_tensor_type_proto(TensorProto.FLOAT, [batch] * rank).tensor_type)

    return change


def pictures_are(*sides: int | str | None, kind: int = TensorProto.FLOAT) -> Callable[[ModelProto], object]:
    def change(model: ModelProto) -> None:
        model.graph.input[0].CopyFrom(helper.make_tensor_value_info("pictures", kind, sides))

    return change


def with_function(model: ModelProto) -> None:
    opset = helper.make_opsetid("", 18)
    model.functions.append(
        helper.make_function("", "Relu", ["x"], ["y"], [node("Evil", ["x"], ["y"])], [opset])
    )


def sparse(model: ModelProto) -> None:
    model.graph.sparse_initializer.add()


def at_opset(version: int) -> Callable[[ModelProto], object]:
    return lambda model: setattr(model.opset_import[0], "version", version)


HOSTILE: dict[str, tuple[Callable[[ModelProto], object], str]] = {
    "external weights": (first_weights(external), "one file, with PyTorch by external_data=False"),
    "external constant": (constant(external), "are in another file, which is never opened"),
    "foreign domain": (appended(node("Evil", ["features"], ["y"], domain="evil")), "of the domain 'evil'"),
    "unknown operator": (appended(node("Evil", ["features"], ["y"])), "isn't allowed"),
    "random": (appended(node("RandomNormalLike", ["features"], ["y"])), "isn't allowed"),
    "If": (hidden_in("If"), "isn't allowed"),
    "Loop": (hidden_in("Loop"), "isn't allowed"),
    "Scan": (hidden_in("Scan"), "isn't allowed"),
    "a graph in an allowed operator": (hidden_in("Relu"), "holds a graph of its own"),
    "function": (with_function, "has functions of its own"),
    "sparse weights": (sparse, "sparse weights"),
    "huge shape": (reshaped(2**40, 2**22), "have other values than their shape says"),
    "negative shape": (reshaped(-1, -1), "have a shape that isn't allowed"),
    "rank": (reshaped(*[1] * 9), "have a shape that isn't allowed"),
    "too many nodes": (
        appended(*(node("Relu", ["features"], [f"y{i}"]) for i in range(graph_check.MOST_NODES))),
        "at most 20,000 are allowed",
    ),
    "too many inputs": (appended(node("Sum", ["features"] * 257, ["y"])), "more than 256 inputs"),
    "a value from nowhere": (appended(node("Relu", ["nothing"], ["y"])), "no node before it gives"),
    "a value twice": (appended(node("Relu", ["features"], ["tokens"])), "is there already"),
    "a second input": (
        lambda model: model.graph.input.append(
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
        ),
        "takes 2 inputs (pictures, ",
    ),
    "an output from nowhere": (
        lambda model: model.graph.output.append(
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])
        ),
        "an output is given by no node",
    ),
    "dropout in training": (
        appended(node("Dropout", ["features", "", "flat"], ["y"])), "is in training mode",
    ),
    "batch norm in training": (
        appended(node("BatchNormalization", ["map", *["scale"] * 4], ["y"], training_mode=1)),
        "is in training mode",
    ),
    "shape from the photo": (
        appended(node("Expand", ["scale", "features"], ["y"])),
        "depends on the photo",
    ),
    "range from the photo": (appended(node("Range", ["features"] * 3, ["y"])), "depends on the photo"),
    "text": (first_weights(lambda tensor: tensor.string_data.append(b"x")), "of a type that isn't allowed"),
    "strings": (
        first_weights(lambda tensor: setattr(tensor, "data_type", TensorProto.STRING)),
        "of a type that isn't allowed",
    ),
    "rank 1": (only_output(1), "none of its outputs"),
    "rank 5": (only_output(5), "none of its outputs"),
    "one row for five pictures": (only_output(2, batch=5), "none of its outputs"),
    "grey": (pictures_are("n", 1, SIDE, SIDE), "not batch x 3 x height x width"),
    "channels last": (pictures_are("n", SIDE, SIDE, 3), "not batch x 3 x height x width"),
    "colours last": (pictures_are("n", SIDE, SIDE, 3), "with the colours before height and width"),
    "a batch of 8": (pictures_are(8, 3, SIDE, SIDE), "its input is 8x3x16x16"),
    "no square": (pictures_are("n", 3, SIDE, 2 * SIDE), "must be square"),
    "bytes": (pictures_are("n", 3, SIDE, SIDE, kind=TensorProto.UINT8), "isn't a float32 tensor"),
    "opset": (at_opset(99), "must use one version of ONNX's standard operators"),
    "old opset": (at_opset(7), "not 7"),
    "no opset": (lambda model: model.ClearField("opset_import"), "not none"),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_graphs_are_refused(what: str) -> None:
    change, message = HOSTILE[what]
    assert message in refusal(changed(change))


def test_integer_outputs_are_no_features() -> None:
    assert check_graph(changed(set_type(0, TensorProto.INT64))).outputs == ("tokens", "map")


@pytest.mark.parametrize("kept", [0, 1, 100, len(VALID) // 2, len(VALID) - 1])
def test_a_truncated_file_is_refused(kept: int) -> None:
    refusal(VALID[:kept])


def field(number: int, content: bytes) -> bytes:
    size, encoded = len(content), b""
    while size >= 128:
        encoded += bytes([size & 127 | 128])
        size >>= 7
    return bytes([number << 3 | 2]) + encoded + bytes([size]) + content


def test_a_million_nodes_are_not_even_parsed() -> None:
    alone = field(1, node("Relu", ["x"], ["y"]).SerializeToString())
    assert "more than 300,000 fields" in refusal(field(7, alone * 10**6))


def test_deep_messages_and_packed_integers_are_bounded() -> None:
    inner = b""
    for _ in range(30):
        inner = field(1, field(5, field(6, inner)))  # a node, its attribute, that one's graph
    assert "nested more than 24 deep" in refusal(field(7, inner))
    packed = field(5, field(7, bytes(wire_format.MOST_PACKED + 1)))  # integers of an initializer
    assert "packed integers" in refusal(field(7, packed))


@pytest.mark.parametrize(
    "data", [b"root:x:0:0:root:/root:/bin/bash\n", b"\xff" * 64, b"\x0b" * 64, b"PK\x03\x04" * 9]
)
def test_other_files_are_refused(data: bytes) -> None:
    assert "no ONNX file" in refusal(data)


def test_the_limit_of_a_file_s_size_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_check, "LARGEST_FILE", len(VALID) - 1)
    assert "larger than" in refusal(VALID)


def test_the_lists_name_operators_that_exist() -> None:
    known = {schema.name for schema in onnx.defs.get_all_schemas() if not schema.domain}
    # Newer versions of onnx have them all.
    assert OPERATORS - known <= {
        "SwiGLU",
        "Swish",
        "RotaryEmbedding",
        "RMSNormalization",
        "Attention",
        "Upsample",
    }
    assert set(SHAPE_INPUTS) <= OPERATORS
    for schema in (onnx.defs.get_schema(name) for name in sorted(OPERATORS & known)):
        kinds = [str(attribute.type).rpartition(".")[2] for attribute in schema.attributes.values()]
        assert not {"GRAPH", "GRAPHS"} & set(kinds), schema.name
    loop = onnx.defs.get_schema("Loop").attributes.values()
    assert [str(attribute.type).rpartition(".")[2] for attribute in loop] == ["GRAPH"]


def mutated(data: bytes, edits: list[tuple[int, str, bytes]]) -> bytes:
    result = bytearray(data)
    for place, kind, new in edits:
        at = place % (len(result) + 1)
        if kind == "replace":
            result[at : at + len(new)] = new
        elif kind == "insert":
            result[at:at] = new
        elif kind == "cut":
            del result[at : at + len(new) * 8]
        else:
            result[at:at] = result[at : at + len(new) * 16]
    return bytes(result)


EDITS = st.lists(
    st.tuples(
        st.integers(0, 2**16),
        st.sampled_from(["replace", "insert", "cut", "repeat"]),
        st.binary(min_size=1, max_size=12),
    ),
    min_size=1,
    max_size=4,
)


def survives(edits: list[tuple[int, str, bytes]]) -> None:
    for model in (VALID, changed(lambda model: None, mean_of_colours())):
        try:
            check_graph(mutated(model, edits))
        except ConfigError as error:
            assert str(error).isprintable()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(EDITS)
def test_spoilt_files_end_in_one_line(edits: list[tuple[int, str, bytes]]) -> None:
    survives(edits)


@pytest.mark.slow
def test_many_spoilt_files_end_in_one_line() -> None:
    chance = random.Random(1)
    for _ in range(50_000):
        survives(
            [
                (
                    chance.randrange(2**16),
                    chance.choice(["replace", "insert", "cut", "repeat"]),
                    chance.randbytes(chance.randint(1, 12)),
                )
                for _ in range(chance.randint(1, 3))
            ]
        )
