"""The wire format: what a stranger sends is refused with one error, what we send comes back the same."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fedrec._internal.text import one_line
from fedrec.errors import ProtocolError
from fedrec.protocol import statements
from fedrec.protocol.messages import (
    CloseReply,
    JoinReply,
    JoinRequest,
)
from fedrec.protocol.plan import EarlyStopping, Objective, Peer, ServerUpdate, TrainingPlan
from fedrec.protocol.reply_encoding import decode_reply, encode_reply
from fedrec.protocol.schema import Strict
from fedrec.protocol.shape import shape_of
from fedrec.protocol.site_figures import SiteFigures
from fedrec.protocol.transport import (
    HashedBlobs,
    content_hash,
    hash_blobs,
    pack,
    request_hash,
    unpack,
)
from fedrec.protocol.trust import TrustModel
from tests.support.sample_messages import BLOB, BODIES, HASH, KINDS, OTHER_HASH, PEERS, PLAN, message

# --- what is refused -------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
config_values = st.one_of(
    st.binary(max_size=40),
    st.text(max_size=20),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.booleans(),
    st.lists(st.binary(max_size=8), max_size=3),
    st.builds(lambda value: json.dumps(value).encode(), json_values),
)
arrays = st.builds(
    lambda data, kind, shape, dtype: Array(dtype=dtype, shape=shape, stype=kind, data=data),
    st.binary(max_size=40),
    st.sampled_from([BLOB, "numpy.ndarray", ""]),
    st.lists(st.integers(0, 2**40), max_size=3).map(tuple),
    st.sampled_from(["uint8", "float32", "object"]),
)
keys = st.sampled_from(["body", "blobs", "json", "ciphertext", ""]) | st.text(max_size=6)
records = st.one_of(
    st.builds(ConfigRecord, st.dictionaries(keys, config_values, max_size=3)),
    st.builds(ArrayRecord, st.dictionaries(keys, arrays, max_size=3)),
    st.builds(MetricRecord, st.dictionaries(keys, st.integers(0, 9), max_size=2)),
)


@given(content=st.builds(RecordDict, st.dictionaries(keys, records, max_size=3)), kind=st.sampled_from(KINDS))
def test_any_record_dict_is_read_or_refused(content: RecordDict, kind: type[Strict]) -> None:
    try:
        body, blobs = unpack(content, kind, max_blob_bytes=100)
    except ProtocolError:
        return
    assert isinstance(body, kind)
    assert sum(map(len, blobs.values())) <= 100


@given(
    raw=st.binary(max_size=60) | json_values.map(lambda v: json.dumps(v).encode()),
    kind=st.sampled_from(KINDS),
)
def test_any_body_text_is_refused(raw: bytes, kind: type[Strict]) -> None:
    # None of these can hold the required fields of a message by chance.
    with pytest.raises(ProtocolError, match=kind.__name__):
        unpack(message(raw), kind, max_blob_bytes=100)


def paths(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place within a JSON value."""
    found = [here]
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, inner in steps:
        found += paths(inner, (*here, step))
    return found


@given(data=st.data(), number=st.integers(0, len(BODIES) - 1), junk=json_values)
def test_a_body_with_one_place_replaced_is_read_strictly_or_refused(
    data: st.DataObject, number: int, junk: Any
) -> None:
    body = BODIES[number]
    values = json.loads(body.canonical_bytes())
    place = data.draw(st.sampled_from(paths(values)[1:]))
    target = values
    for step in place[:-1]:
        target = target[step]
    target[place[-1]] = junk
    try:
        read, _ = unpack(message(json.dumps(values).encode()), type(body), max_blob_bytes=0)
    except ProtocolError as error:
        assert "\n" not in str(error)
        return
    # What was taken is what was sent: nothing was coerced, dropped or filled in, and words are in one line.
    refused = values.get("refused")
    if isinstance(refused, dict) and isinstance(refused.get("detail"), str):
        refused["detail"] = one_line(refused["detail"])
    assert json.loads(read.canonical_bytes()) == values


@pytest.mark.parametrize("body", BODIES, ids=lambda body: type(body).__name__)
def test_unknown_and_missing_fields_are_refused(body: Strict) -> None:
    values = json.loads(body.canonical_bytes())
    with pytest.raises(ProtocolError, match="malformed"):
        unpack(message(json.dumps(values | {"extra": 1}).encode()), type(body), max_blob_bytes=0)
    for name, field in type(body).model_fields.items():
        if field.is_required():
            less = {key: value for key, value in values.items() if key != name}
            with pytest.raises(ProtocolError, match="malformed"):
                unpack(message(json.dumps(less).encode()), type(body), max_blob_bytes=0)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", '"1.0"', "true", "1" * 5000])
def test_nan_and_infinity_are_refused(number: str) -> None:
    values = json.loads(JoinRequest(plan=PLAN).canonical_bytes())
    values["plan"]["clip"] = "HERE"
    raw = json.dumps(values).replace('"HERE"', number).encode()
    with pytest.raises(ProtocolError, match="malformed"):
        unpack(message(raw), JoinRequest, max_blob_bytes=0)


def test_a_deeply_nested_body_is_refused() -> None:
    for raw in (b"[" * 100_000, b'{"merchant":' * 100_000):
        with pytest.raises(ProtocolError, match="malformed"):
            unpack(message(raw), CloseReply, max_blob_bytes=0)


def test_the_body_has_a_largest_size_of_its_kind() -> None:
    # Spaces are valid JSON, so that size alone decides.
    raw = b'{"merchant":"m0","refused":null}'
    padded = raw + b" " * (shape_of(CloseReply).bytes - len(raw))
    assert unpack(message(padded), CloseReply, max_blob_bytes=0)[0] == CloseReply(merchant="m0")
    with pytest.raises(ProtocolError, match="longer than"):
        unpack(message(padded + b" "), CloseReply, max_blob_bytes=0)


def test_the_blobs_together_have_a_largest_size() -> None:
    content = pack(CloseReply(merchant="m0"), {"one": b"x" * 60, "two": b"y" * 40})
    assert unpack(content, CloseReply, max_blob_bytes=100)[1] == {"one": b"x" * 60, "two": b"y" * 40}
    with pytest.raises(ProtocolError, match="too large"):
        unpack(content, CloseReply, max_blob_bytes=99)


def test_large_blobs_travel_as_arrays_and_small_ones_do_not() -> None:
    blobs = {"small": b"s" * 1000, "large": b"l" * 2**20, "empty": b""}
    content = pack(CloseReply(merchant="m0"), blobs)
    assert set(content.array_records["blobs"]) == {"large/0"}
    assert unpack(content, CloseReply, max_blob_bytes=2**21)[1] == blobs
    assert set(pack(CloseReply(merchant="m0"), {"small": b"s"})) == {"body"}


def test_a_blob_that_comes_twice_is_refused() -> None:
    content = pack(CloseReply(merchant="m0"), {"model": b"l" * 2**20})
    content.config_records["body"]["blob:model"] = b"other"
    with pytest.raises(ProtocolError, match="comes twice"):
        unpack(content, CloseReply, max_blob_bytes=2**22)


@pytest.mark.parametrize("extra", [{"blob:x": "text"}, {"blob:x": 1}, {"other": b"x"}, {"": b"x"}])
def test_a_part_beside_the_body_that_is_no_blob_is_refused(extra: dict[str, Any]) -> None:
    content = pack(CloseReply(merchant="m0"))
    for name, value in extra.items():
        content.config_records["body"][name] = value
    with pytest.raises(ProtocolError, match="wrong type"):
        unpack(content, CloseReply, max_blob_bytes=100)


def test_blobs_of_another_record_type_are_refused() -> None:
    content = pack(CloseReply(merchant="m0"))
    content["blobs"] = ConfigRecord({"model": b"x"})
    with pytest.raises(ProtocolError, match="other parts"):
        unpack(content, CloseReply, max_blob_bytes=100)


def test_a_blob_of_numpys_format_is_refused() -> None:
    content = pack(CloseReply(merchant="m0"))
    content["blobs"] = ArrayRecord({"model": Array(np.zeros(3, np.float32))})
    with pytest.raises(ProtocolError, match="wrong type"):
        unpack(content, CloseReply, max_blob_bytes=10**6)


def test_a_body_that_is_text_is_refused() -> None:
    content = pack(CloseReply(merchant="m0"))
    content["body"] = ConfigRecord({"json": '{"merchant":"m0"}'})
    with pytest.raises(ProtocolError, match="not bytes"):
        unpack(content, CloseReply, max_blob_bytes=0)


def test_a_message_with_a_third_part_is_refused() -> None:
    content = pack(CloseReply(merchant="m0"))
    content["metrics"] = MetricRecord({"accuracy": 1.0})
    with pytest.raises(ProtocolError, match="other parts"):
        unpack(content, CloseReply, max_blob_bytes=0)


# --- what comes back -------------------------------------------------------------------------------------

blob_maps = st.dictionaries(
    st.from_regex(r"[a-z][a-z0-9-]{0,9}", fullmatch=True), st.binary(max_size=60), max_size=5
)


@given(body=st.sampled_from(BODIES), blobs=blob_maps)
def test_pack_and_unpack_give_the_same_message(body: Strict, blobs: dict[str, bytes]) -> None:
    assert unpack(pack(body, blobs), type(body), max_blob_bytes=300) == (body, blobs)


@given(body=st.sampled_from(BODIES), blobs=blob_maps)
def test_freeze_and_thaw_give_the_same_message(body: Strict, blobs: dict[str, bytes]) -> None:
    read, back = decode_reply(encode_reply(body, blobs), type(body))
    assert read == body
    assert list(back.items()) == list(blobs.items())
    # The same bytes go out: a signature or hash over them still holds.
    assert read.canonical_bytes() == body.canonical_bytes()
    assert encode_reply(read, back) == encode_reply(body, blobs)


@given(blobs=blob_maps, other=blob_maps)
def test_request_hashes_are_equal_for_equal_requests_alone(
    blobs: dict[str, bytes], other: dict[str, bytes]
) -> None:
    body = BODIES[2]
    shuffled = dict(reversed(blobs.items()))
    assert request_hash(body, blobs) == request_hash(body, shuffled)
    assert (request_hash(body, blobs) == request_hash(body, other)) == (blobs == other)
    later = body.model_copy(update={"round_number": 3})
    assert request_hash(body, blobs) != request_hash(later, blobs)
    received = pack(body, blobs)
    hashed = HashedBlobs(blobs, hashes=hash_blobs(received))
    assert request_hash(body, hashed) == request_hash(body, blobs) == content_hash(received, hashed.hashes)


# --- the plan --------------------------------------------------------------------------------------------

CHANGES: dict[str, Any] = {
    "server_key": OTHER_HASH,
    "unit": "product",
    "nonce": "1" * 32,
    "model": "other",
    "model_code": OTHER_HASH,
    "initial_model_hash": OTHER_HASH,
    "classes": ("a", "c"),
    "channels": 1,
    "image_size": 33,
    "record_values": 3073,
    "dimension": 22,
    "views": 2,
    "mode": "distributed",
    "rounds": 4,
    "upload_window": 3600,
    "local_steps": 2,
    "local_learning_rate": 0.25,
    "early_stopping": EarlyStopping(patience=3),
    "site_figures": SiteFigures(noise_multiplier=4.0),
    "server_update": ServerUpdate(optimizer="adam", learning_rate=1.0),
    "sample_rate": 0.25,
    "clip": 2.0,
    "clipping": "automatic",
    "objective": Objective(loss="hinge"),
    "delta": 1e-5,
    "noise_multiplier": 1.5,
    "records_total": 161,
    "records_largest": 41,
    "roster": (*PEERS[:3], Peer(name="m3", signing_key="f" * 64)),
    "witnesses": (Peer(name="w0", signing_key="e" * 64),),
    "committee": ("m0", "m2", "m1"),
    "threshold": 2,
    "min_contributors": 4,
    "colluders": 2,
    "noise_levels": (4, 3),
    "corrupt_members": 2,
    "corrupt_witnesses": 1,
    "seat_risk": 0.5,
    "scheme": "none",
    "trust": TrustModel(opened_by="committee", reads_single_updates="server", epsilon_of="share"),
}


def test_the_training_id_changes_with_every_field() -> None:
    # The version can have one value only.
    assert set(CHANGES) == set(TrainingPlan.model_fields) - {"version"}
    changed = {PLAN.training_id}
    for name, value in CHANGES.items():
        values = {field: getattr(PLAN, field) for field in TrainingPlan.model_fields}
        changed.add(TrainingPlan(**(values | {name: value})).training_id)
    assert len(changed) == len(CHANGES) + 1


@pytest.mark.parametrize("deep", [False, True])
def test_a_changed_copy_has_its_own_id_and_keys(deep: bool) -> None:
    assert PLAN.training_id and PLAN.signing_keys
    changed = PLAN.model_copy(update={"roster": PLAN.roster[::-1]}, deep=deep)
    assert changed.training_id == TrainingPlan(**changed.model_dump()).training_id != PLAN.training_id
    assert list(changed.signing_keys) == [peer.name for peer in PLAN.roster[::-1]]


def test_the_training_id_survives_the_wire() -> None:
    read, _ = unpack(pack(JoinRequest(plan=PLAN)), JoinRequest, max_blob_bytes=0)
    assert read.plan.training_id == PLAN.training_id


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"roster": (*PEERS, PEERS[0])}, "twice"),
        ({"roster": (*PEERS, Peer(name="m9", signing_key=PEERS[0].signing_key))}, "twice"),
        ({"committee": ("m0", "m0")}, "not a set"),
        ({"committee": ("m0", "stranger")}, "not a set"),
        ({"noise_multiplier": None}, "noise multiplier"),
        ({"mode": "off"}, "noise multiplier"),
        ({"mode": "distributed", "local_steps": 2}, "one step"),
        ({"min_contributors": 5}, "more contributors"),
    ],
)
def test_a_plan_that_contradicts_itself_is_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        TrainingPlan(**({field: getattr(PLAN, field) for field in TrainingPlan.model_fields} | changes))


def test_foreign_text_contains_no_control_characters() -> None:
    reply = JoinReply.model_validate_json(
        json.dumps(
            {"merchant": "m0", "refused": {"code": "plan", "detail": "no\n\x1b[2Jtraining    0001 done"}}
        )
    )
    assert str(reply.refused) == "no  [2Jtraining    0001 done"
    honest = PLAN.model_dump(mode="json") | {
        "classes": ["\u06a9\u062a\u0627\u0628\u200c\u0647\u0627", "a\u00a0b", "\u978b"]
    }
    assert TrainingPlan.model_validate_json(json.dumps(honest)).classes[1] == "a\u00a0b"
    for field, value in (
        ("model", "cnn\n"),
        ("scheme", "\x1b[2J"),
        ("classes", ["hat", "shoe\r"]),
        ("classes", ["hat", "\u202eshoe"]),
    ):
        with pytest.raises(ValidationError, match=field):
            TrainingPlan.model_validate_json(json.dumps(PLAN.model_dump(mode="json") | {field: value}))


def test_a_share_is_bound_to_its_training_round_dealer_and_member() -> None:
    values: dict[str, Any] = {"training_id": HASH, "round_number": 1, "dealer": "m0", "member": "m1"}
    other: dict[str, Any] = {"training_id": OTHER_HASH, "round_number": 11, "dealer": "m", "member": "0m1"}
    bindings = {statements.box_binding(**values)}
    bindings |= {statements.box_binding(**(values | {name: value})) for name, value in other.items()}
    # Names that run together the other way round are another binding.
    bindings.add(statements.box_binding(**dict(values, dealer="m", member="0m1")))
    assert len(bindings) == 6
