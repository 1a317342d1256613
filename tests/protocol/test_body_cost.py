"""What a malformed body costs whoever reads it."""

from __future__ import annotations

import json

import pytest
from flwr.app import ConfigRecord, RecordDict

from fedrec.errors import ProtocolError
from fedrec.protocol.messages import (
    CloseReply,
    UnmaskRequest,
)
from fedrec.protocol.shape import shape_of
from fedrec.protocol.transport import unpack


@pytest.mark.parametrize(
    "raw",
    [
        b"{" + b",".join(b'"k%d":1' % number for number in range(300_000)) + b"}",
        b'{"training_id":"' + b"a" * 64 + b'","round_number":1,"survivors":[' + b"1," * 500_000 + b"1]}",
    ],
    ids=["unknown keys", "wrong items"],
)
def test_a_malformed_body_costs_little_more_than_its_size(raw: bytes) -> None:
    import resource

    assert len(raw) < shape_of(UnmaskRequest).bytes
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    content = RecordDict({"body": ConfigRecord({"json": raw})})
    with pytest.raises(ProtocolError, match="malformed"):
        unpack(content, UnmaskRequest, max_blob_bytes=0)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024


def test_json_of_a_close_reply_still_passes() -> None:
    raw = json.dumps({"merchant": "m0", "refused": None}).encode()
    content = RecordDict({"body": ConfigRecord({"json": raw})})
    assert unpack(content, CloseReply, max_blob_bytes=0)[0].merchant == "m0"
