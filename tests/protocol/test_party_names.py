"""Names of merchants and witnesses: any script, one form, nothing that deceives a reader or a terminal."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from fedrec._internal.party_names import name_problem
from fedrec.clients.merchant_home import MerchantHome
from fedrec.errors import ConfigError, ProtocolError
from fedrec.privacy.audit.verify.outcome import is_name
from fedrec.protocol.canonical_pattern import pattern_of
from fedrec.protocol.enrolment import Enrolment, JoinFile, read_file
from fedrec.protocol.messages import CloseReply
from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.reading import read_json
from fedrec.protocol.schema import PartyName
from fedrec.server.server_home import ServerHome
from tests.support.cohort import Cohort
from tests.support.pictures import picture

GOOD = ["m0", "atelier", "Atelier 3", "shop-1.example", "甲店", "杯子专卖店", "帽子屋さん", "Café Zoë", "a"]
GOOD += [
    "O’Neill & Söhne",
    "חנות",
    "दुकान",
    "مغازه\u200cی ما",
    "ร้านค้า",
    "Магазин",
    "가게",
    "北京・東京",
    "𠮷野家",
]
HOSTILE = "a/b a\\b a\nb a\tb a\x1b[2J a\u202eb a\u200bb a\u200d a\u200cb <b> a:b a*b a?b a\udcffb a\0b"
BAD = [*HOSTILE.split(" "), "", " a", "a ", "a  b", ".", "..", "--", "a\u00a0b", "\u3000a", "\u0301a"]
BAD += ["e\u0301", "Cafe\u0301", "a" * 65, "杯" * 67, "😀" * 64, "a" + "\u0315" * 6]
INVISIBLE = [
    "\u3164",
    "\u1160",
    "\uffa0",
    "\u115f",
    "\uffa0\u3164",
    "a\u115fb",
    "m\u3164",
    "\u2800a",
    "A\u0303\ufe0f",
]
INVISIBLE += [
    "甲\u200d店",
    "д\u200cд",
    "가\u200d게",
    "ا\u034fب",
    "\ufc5e",
    "a\U000e0100",
    "\U00013441",
    "1\u180b2",
]
BAD += [*INVISIBLE, "-rf", "--help", "+SUM(1,2)", ".ssh", ".a", "-1"]


@pytest.mark.parametrize("name", GOOD)
def test_a_name_may_be_in_any_script(name: str) -> None:
    assert name_problem(name) is None and is_name(name)


@pytest.mark.parametrize("name", BAD)
def test_a_name_moves_no_cursor_and_leads_nowhere(name: str) -> None:
    assert name_problem(name) is not None
    with pytest.raises(ValidationError):
        TypeAdapter(PartyName).validate_python(name)


@given(name=st.text(min_size=1, max_size=64))
def test_the_auditors_program_takes_every_name_and_nothing_that_deceives(name: str) -> None:
    if name_problem(name) is None:
        assert is_name(name) and unicodedata.normalize("NFC", name) == name
        assert "/" not in name and Path(name).name == name and name not in (".", "..")
    if is_name(name):
        assert all(
            unicodedata.category(sign)[0] in "LMN" or sign.isprintable() or sign in "\u200c\u200d"
            for sign in name
        )


def test_messages_with_such_names_are_read_at_once(tmp_path: Path) -> None:
    """The expression for canonical texts takes them too: token by token, a large body takes a second."""
    plan = Cohort(tmp_path).plan()
    values = plan.model_dump()
    values["roster"] = tuple(peer | {"name": f"甲店 {n}"} for n, peer in enumerate(values["roster"]))
    values["committee"] = tuple(f"甲店 {n}" for n in range(len(values["committee"])))
    made = TrainingPlan.model_validate(values)
    raw = made.canonical_bytes()
    assert raw.isascii() and pattern_of(TrainingPlan).fullmatch(raw)
    assert read_json(raw, TrainingPlan) == made
    for bad in (r"a\\", r"\n", r"\u00zz", r"\u0041\"", "\\"):
        text = b'{"merchant":"' + bad.encode() + b'","refused":null}'
        assert not pattern_of(CloseReply).fullmatch(text)
        with pytest.raises((ProtocolError, ValueError)):
            read_json(text, CloseReply)


def test_parties_that_look_alike_are_in_no_plan_and_no_join_file(tmp_path: Path) -> None:
    values = Cohort(tmp_path).plan().model_dump()
    peers = values["roster"]
    values["roster"] = (peers[0] | {"name": "atelier"}, peers[1] | {"name": "аtelier"}, *peers[2:])
    values["committee"] = ()
    with pytest.raises(ValidationError, match="look alike"):
        TrainingPlan.model_validate(values)
    join = {
        "address": "server.example:1",
        "authority": "-----BEGIN CERTIFICATE-----\n",
        "server_key": "ab" * 32,
    }
    with pytest.raises(ValidationError, match="look alike"):
        JoinFile.model_validate(join | {"roster": values["roster"]})


def test_a_merchant_of_any_script_enrols_and_its_look_alike_does_not(tmp_path: Path) -> None:
    for shade, label in enumerate(("hat", "mug")):
        picture(tmp_path / "shop" / label / "x.png", shade)
    server = ServerHome.create(tmp_path / "server", address="127.0.0.1:9000", listen=None)

    def enrolment(name: str) -> Enrolment:
        home = MerchantHome.create(
            tmp_path / str(len(list(tmp_path.iterdir()))), name=name, data=tmp_path / "shop", units=2
        )
        return read_file(home.folder / "enrolment.json", Enrolment)

    for name in ("杯子 商店", "Café Zoë"):
        server.enroll(enrolment(name))
    assert [peer.name for peer in server.roster()] == ["Café Zoë", "杯子 商店"]
    with pytest.raises(ConfigError, match="look alike"):
        server.enroll(enrolment("café zoë"))
    with pytest.raises(ConfigError, match="letters and digits of any script"):
        enrolment("a/b")
