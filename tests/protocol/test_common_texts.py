"""A process that hosts many merchants reads a text that all of them get once, and no other text by it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

import pytest

from fedrec._internal.shared_results import SHARED
from fedrec.errors import ProtocolError
from fedrec.protocol.enrolment import JoinFile
from fedrec.protocol.messages import CloseRequest
from fedrec.protocol.plan import Peer
from fedrec.protocol.reading import read_json
from fedrec.protocol.roster_fingerprints import roster_fingerprint
from tests.support.daemons import SERVER_KEY

PEM = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


@pytest.fixture
def sharing() -> Iterator[None]:
    SHARED.share(2**24)
    yield
    SHARED.share(0)


def peers(count: int, *, first: int = 0) -> tuple[Peer, ...]:
    return tuple(
        Peer(name=f"merchant-{number}", signing_key=hashlib.sha256(b"%d" % number).hexdigest())
        for number in range(first, first + count)
    )


def join_file(roster: tuple[Peer, ...]) -> bytes:
    return JoinFile(
        address="server.example:8443", authority=PEM, server_key=SERVER_KEY, roster=roster
    ).canonical_bytes()


def test_the_same_text_is_read_once_and_every_other_text_is_read(sharing: None) -> None:
    text, other = join_file(peers(3)), join_file(peers(3, first=1))
    assert read_json(text, JoinFile) is read_json(bytes(bytearray(text)), JoinFile)
    assert read_json(other, JoinFile).roster == peers(3, first=1)
    # As another kind, and with one byte changed, it is refused, each time.
    for _ in range(2):
        with pytest.raises(ProtocolError):
            read_json(text, CloseRequest)
        with pytest.raises(ProtocolError):
            read_json(text.replace(b'"version":1', b'"version":2'), JoinFile)


def test_a_message_that_is_not_common_is_read_each_time(sharing: None) -> None:
    text = CloseRequest(training_id="ab" * 32).canonical_bytes()
    assert read_json(text, CloseRequest) is not read_json(text, CloseRequest)


def test_a_process_of_one_merchant_keeps_nothing() -> None:
    text = join_file(peers(3))
    assert read_json(text, JoinFile) is not read_json(text, JoinFile)


def test_fingerprints_that_are_kept_are_those_of_the_rosters() -> None:
    """Held against the definition; rosters are made and freed, so that new ones lie where old ones did."""
    for count in (*range(1, 25), 3, 3, 1):
        roster = peers(count)
        named = ["fedrec/roster/1", sorted([peer.name, peer.signing_key] for peer in roster)]
        expected = hashlib.sha256(json.dumps(named, separators=(",", ":")).encode()).hexdigest()
        assert roster_fingerprint(roster) == roster_fingerprint(roster) == expected
        assert roster_fingerprint(list(roster)) == expected
        assert roster_fingerprint(roster, peers(1, first=100)) != expected
