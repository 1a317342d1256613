"""A JSON text held against its schema's shape: what is honest passes, and what is refused costs nothing."""

from __future__ import annotations

import json
import tracemalloc
from typing import Annotated, Any

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.app.message.arraychunk import ArrayChunk
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from fedrec.errors import ProtocolError
from fedrec.flower import new_message, set_task_identity
from fedrec.flower.objects import check_tree, inflate, inflate_tree
from fedrec.protocol import enrolment, messages, statements
from fedrec.protocol.messages import CloseReply, JoinReply, JoinRequest, TrainReply, UnmaskRequest
from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.reading import read_json
from fedrec.protocol.refusals import Refusal
from fedrec.protocol.schema import Strict
from fedrec.protocol.shape import shape_of
from fedrec.protocol.shape_check import check_shape
from fedrec.protocol.transport import pack, unpack
from tests.support.sample_messages import BODIES, HASH, PLAN, SIGNED

MIB = 2**20
SCHEMAS = sorted(
    {
        kind
        for module in (messages, statements, enrolment)
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, Strict) and kind is not Strict
    },
    key=lambda kind: kind.__name__,
)


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda kind: kind.__name__)
def test_every_schema_of_the_wire_is_bounded(schema: type[Strict]) -> None:
    shape = shape_of(schema)
    assert set(shape.fields or ()) == set(schema.model_fields) and shape.bytes < 28 * MIB


def test_a_schema_without_a_bound_is_a_defect() -> None:
    class Endless(BaseModel):
        text: str

    class Many(BaseModel):
        items: tuple[int, ...]

    class Bounded(BaseModel):
        items: Annotated[tuple[int, ...], Field(max_length=3)]

    for kind in (Endless, Many):
        with pytest.raises(TypeError, match="no bound"):
            shape_of(kind)
    assert shape_of(Bounded).fields is not None


def largest() -> list[Strict]:
    """Bodies whose values are as long as they may be."""
    refused = Refusal(code="training", detail="\U0001f600" * 500)
    commitment = SIGNED.commitment.model_copy(
        update={"merchant": "m" * 64, "key_commitments": ("02" + HASH,) * 100}
    )
    signed = SIGNED.model_copy(update={"commitment": commitment})
    plan = PLAN.model_dump(mode="json") | {
        "classes": ["\U0001f600" * 200] * 500,
        "roster": [{"name": f"{n:064}", "signing_key": f"{n:064x}"} for n in range(200)],
        "committee": [f"{n:064}" for n in range(100)],
    }
    return [
        JoinReply(merchant="m" * 64, refused=refused, seeded=True, signature="a" * 128),
        TrainReply(merchant="m" * 64, refused=refused, signed=signed),
        UnmaskRequest(training_id=HASH, round_number=10**6, survivors=(signed,) * 100),
        messages.UnmaskReply(merchant="m", refused=refused, complaints=("m" * 64,) * 1000),
        JoinRequest(plan=TrainingPlan.model_validate_json(json.dumps(plan))),
    ]


def test_the_largest_honest_bodies_pass() -> None:
    for body in (*BODIES, *largest()):
        raw = body.canonical_bytes()
        assert read_json(raw, type(body)).canonical_bytes() == raw
        assert len(raw) <= shape_of(type(body)).bytes
    for body in BODIES:
        loose = json.dumps(json.loads(body.canonical_bytes()), indent=1).encode()
        if len(loose) <= shape_of(type(body)).bytes:
            assert read_json(loose, type(body)) == body


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@given(number=st.integers(0, len(BODIES) - 1), data=st.data())
def test_what_the_parser_takes_the_shape_takes(number: int, data: st.DataObject) -> None:
    """A text with one value replaced: the shape refuses none that the schema accepts."""
    body = BODIES[number]
    values = json.loads(body.canonical_bytes())
    key = data.draw(st.sampled_from(sorted(values)))
    values[key] = data.draw(json_values)
    raw = json.dumps(values, ensure_ascii=data.draw(st.booleans())).encode("utf-8", "surrogatepass")
    try:
        type(body).model_validate_json(raw)
    except ValueError:
        return
    if len(raw) <= shape_of(type(body)).bytes:
        check_shape(raw, type(body))


@pytest.mark.parametrize(
    "raw",
    [
        b"", b" ", b"{", b"[]", b"null", b'"x"', b'{"merchant"', b'{"merchant":', b'{"merchant":"m"',
        b'{"merchant":"m",}', b'{,"merchant":"m"}', b'{"merchant":"m"}}', b'{"merchant":"m"} x',
        b'{"merchant":"m" "refused":null}', b'{"merchant":"m","merchant":"m"}', b"{merchant:1}",
        b'{"merchant":"m\\"}', b'{"merchant":"m","refused":nul}', b'{"merchant":"m","refused":01x}',
        b'{"merchant":"m","refused":' + b"9" * 33 + b"}", b'{"refused":null}', b'{"\\u006derchant":"m"}',
        b'{"merchant":["m"]}', b'{"merchant":{}}', b"\xef\xbb\xbf{}", b"{\x00}", b'{"merchant":"m","' * 50,
    ],
)  # fmt: skip
def test_texts_that_are_not_json_are_refused(raw: bytes) -> None:
    with pytest.raises(ProtocolError):
        read_json(raw, CloseReply)


ROUND = b'{"training_id":"' + HASH.encode() + b'","round_number":1,"survivors":['
PLANNED = b'{"plan":{"classes":['
HOSTILE: dict[str, tuple[type[Strict], bytes]] = {
    "arrays": (UnmaskRequest, ROUND + b"[]," * (5 * MIB // 3)),
    "objects": (UnmaskRequest, ROUND + b"{}," * (5 * MIB // 3)),
    "numbers": (UnmaskRequest, ROUND + b"1," * (5 * MIB // 2)),
    "keys": (UnmaskRequest, b"{" + b",".join(b'"k%d":1' % n for n in range(400_000)) + b"}"),
    "one key": (JoinRequest, b"{" + b'"plan":1,' * (5 * MIB // 9)),
    "brackets": (JoinRequest, b"[" * (4 * MIB)),
    "braces": (JoinRequest, b'{"plan":' * (MIB // 2)),
    "a text": (JoinRequest, PLANNED + b'"' + b"a" * (4 * MIB) + b'"]}}'),
    "escapes": (JoinRequest, PLANNED + b'"' + b"\\u0041" * (4 * MIB // 6) + b'"]}}'),
    "backslashes": (JoinRequest, PLANNED + b'"' + b"\\" * (4 * MIB)),
    "a number": (JoinRequest, b'{"plan":{"clip":' + b"9" * (4 * MIB) + b"}}"),
    "a fraction": (JoinRequest, b'{"plan":{"clip":0.' + b"0" * (4 * MIB) + b"1}}"),
    "texts": (JoinRequest, PLANNED + b",".join([b'"x"'] * MIB) + b"]}}"),
    "empty classes": (JoinRequest, PLANNED + b",".join([b'""'] * 10_000) + b"]}}"),
    "spaces": (JoinRequest, b" " * (5 * MIB)),
    "wrong leaves": (
        UnmaskRequest,
        ROUND
        + b",".join([SIGNED.canonical_bytes().replace(b'"00ff"', b'"zz"').replace(b"aaa", b"zzz")] * 200)
        + b"]}",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_refusing_a_body_costs_less_than_its_size(name: str) -> None:
    """The parser's own memory, which is Rust's, shows in ``benchmarks/hostile.py``, as resident memory."""
    kind, raw = HOSTILE[name]
    content = RecordDict({"body": ConfigRecord({"json": raw})})
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError) as refused:
            unpack(content, kind, max_blob_bytes=0)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < max(2**17, len(raw)) and len(str(refused.value)) < 400 and "zzz" not in str(refused.value)


# --- the objects that it travels in --------------------------------------------------------------------


def head(kind: str, children: list[str], body: bytes) -> bytes:
    return f"{kind} {','.join(children)} {len(body)}".encode() + b"\0" + body


def test_a_message_is_put_together_as_flower_does() -> None:
    set_task_identity(run_id=1, node_id=1)
    blobs = {"model": bytes(11 * MIB), "small": b"s" * 1000, "ciphertext": bytes(range(256)) * 4096}
    content = pack(CloseReply(merchant="m0"), blobs)
    message = new_message(content, message_type="train", node_id=1, group_id="1", ttl=60)
    tree = get_object_tree(message)
    check_tree(tree)
    contents = {key: made.deflate() for key, made in get_all_nested_objects(message).items()}
    again = inflate_tree(tree, contents)
    assert contents == {}
    assert unpack(again.content, CloseReply, max_blob_bytes=16 * MIB)[1] == blobs  # type: ignore[attr-defined]


def test_an_array_names_its_one_piece_once() -> None:
    """Flower's own reading puts 5 MiB together a million times over, for 2 MB of JSON."""
    piece = ArrayChunk(memoryview(b"x" * 1000))
    for named in ([0, 0], [0] * 10**6, [], [1], [True], [-1], "0", {"0": 0}, [0.0, 0]):
        said = {"dtype": "uint8", "shape": [1000], "stype": "fedrec.bytes/1", "arraychunk_ids": named}
        raw = head("Array", [piece.object_id], json.dumps(said).encode())
        tracemalloc.start()
        with pytest.raises((ValueError, TypeError)):
            inflate(raw, {piece.object_id: piece})
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 2**16 + 3 * len(raw)


def config(values: Any) -> bytes:
    return ConfigRecord(values).deflate()


@pytest.mark.parametrize(
    "raw",
    [
        config({"x": [1] * 10**5}),
        config({"x": [b"a"] * 10**4}),
        config({"x": 1}),
        config({"x": "text"}),
        config({f"k{n}": b"" for n in range(2000)}),
        config({"k" * 65: b""}),
        config({"x": b"1"})[:-1],
        head("ConfigRecord", [], b"\x0a\xff\xff\xff\xff\xff\xff\xff"),
        head("ConfigRecord", [], b"\x0a\x00" * 10**5),
        head("ConfigRecord", [], b"\x12\x00"),
        head("ConfigRecord", ["a" * 64], b""),
        MetricRecord({"x": 1}).deflate(),
        head("CustomDataClass", [], b""),
        head("ArrayChunk", [], bytes(5 * MIB + 1)),
        head("Array", [], b"{}"),
        head("RecordDict", [], b"{}" + b" " * 2**10),
        b"no head",
        b"",
    ],
)
def test_objects_of_no_message_of_ours_are_refused(raw: bytes) -> None:
    with pytest.raises((ValueError, TypeError, KeyError)):
        inflate(raw, {})


def test_children_are_of_their_kind() -> None:
    record = ArrayRecord({"x/0": Array(dtype="uint8", shape=(3,), stype="fedrec.bytes/1", data=b"abc")})
    outer = RecordDict({"body": ConfigRecord({"json": b"{}"})})
    for parent, child in ((record, outer), (outer, ArrayChunk(memoryview(b"x")))):
        (named,) = (parent.children or {}).keys()
        with pytest.raises(ValueError, match="wrong kind"):
            inflate(parent.deflate(), {named: child})
        with pytest.raises(ValueError, match="not those"):
            inflate(parent.deflate(), {})


def test_the_size_of_object_trees_is_limited() -> None:
    wide = ObjectTree(object_id="f" * 64)
    wide.children.extend(ObjectTree(object_id=f"{number:064x}") for number in range(4000))
    with pytest.raises(ValueError, match="tree"):
        check_tree(wide)
    del wide.children[3999:]
    check_tree(wide)
