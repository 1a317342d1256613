"""A merchant fetches a training's model through the guarded listener; of a hostile one it keeps nothing."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from PIL import Image

from fedrec.clients.merchant_files import private_pem
from fedrec.clients.merchant_home import JOIN_FILE, MerchantHome
from fedrec.clients.model_fetching import fetch_model
from fedrec.clients.page.model_trial import ModelTrial
from fedrec.errors import (
    ConfigError,
    ConnectionLostError,
    DataError,
    FedrecError,
    NotAdmittedError,
    ProtocolError,
    RefusedError,
)
from fedrec.flower.downloads import Download
from fedrec.flower.guard import Guard
from fedrec.flower.listener import Listener
from fedrec.privacy.endorsements import sign_rotation
from fedrec.privacy.identity import SigningIdentity
from fedrec.protocol.bundle_offer import BUNDLE_CONTEXT, BundleOffer, OfferedFile, SignedBundleOffer
from fedrec.protocol.enrolment import JoinFile, Statement
from fedrec.protocol.messages import JoinRequest
from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.statements import RECEIPT_CONTEXT
from fedrec.protocol.tls import Certificates
from fedrec.recognition.bundle.manifest import CARD, GRAPH, MANIFEST, Manifest
from fedrec.recognition.model import open_model
from fedrec.server.model_bundles import BundleOffers
from fedrec.server.server_home import ServerHome
from fedrec.server.statement_book import StatementBook
from fedrec.server.training_files import Filing
from fedrec.server.trainings import Training
from tests.support.bundles import tiny_graph, tiny_manifest
from tests.support.cohort import Cohort
from tests.support.daemons import eventually, public_pem

MIB = 2**20


@dataclass
class Federation:
    """A server that has one finished training's bundle, and the merchants m0 to m3 that took part."""

    server: ServerHome
    identity: SigningIdentity
    home: MerchantHome
    plan: TrainingPlan
    keys: dict[str, ec.EllipticCurvePrivateKey]
    others: dict[str, Callable[[], Download | None]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._honest = BundleOffers(self.server)

    def download(self, key: bytes, path: str) -> Download | None:
        part = path.rpartition("/")[2]
        self.asked.append(part)
        return self.others[part]() if part in self.others else self._honest(key, path)

    @property
    def training(self) -> Path:
        return self.server.trainings / "0001"

    @property
    def bundle(self) -> Path:
        return self.training / "bundle"

    def manifest(self, graph: bytes, **changes: Any) -> Manifest:
        made = tiny_manifest(graph)
        assert made.training is not None and made.privacy is not None
        training = made.training.model_copy(
            update={
                "training_id": self.plan.training_id,
                "merchants": len(self.plan.roster),
                "records": self.plan.records_total,
            }
        )
        privacy = made.privacy.model_copy(update={"delta": self.plan.delta})
        values: dict[str, Any] = {"model": self.plan.model, "classes": self.plan.classes}
        values |= {"training": training, "privacy": privacy}
        return made.model_copy(update=values | changes)

    def offers(
        self,
        manifest: bytes,
        graph: bytes,
        *,
        training_id: str | None = None,
        size: int | None = None,
        identity: SigningIdentity | None = None,
        context: bytes = BUNDLE_CONTEXT,
    ) -> None:
        """Let the server offer these files, by a signed statement."""
        statement = BundleOffer(
            training_id=training_id or self.plan.training_id,
            manifest=OfferedFile(sha256=hashlib.sha256(manifest).hexdigest(), bytes=len(manifest)),
            graph=OfferedFile(sha256=hashlib.sha256(graph).hexdigest(), bytes=size or len(graph)),
        )
        signature = (identity or self.identity).sign(statement.canonical_bytes(), context=context).hex()
        signed = SignedBundleOffer(statement=statement, signature=signature).canonical_bytes()
        for part, content in (("offer", signed), ("manifest", manifest), ("graph", graph)):
            self.sends(part, content)

    def sends(self, part: str, content: bytes) -> None:
        self.others[part] = lambda: Download.of_bytes(content)


@pytest.fixture(scope="module")
def made(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    folder = tmp_path_factory.mktemp("federation")
    cohort = Cohort(folder / "homes", size=4)
    plan = cohort.plan()
    cohort.merchants["m0"].join(JoinRequest(plan=plan))
    home = MerchantHome(folder / "homes" / "m0")
    keys = {name: ec.generate_private_key(ec.SECP384R1()) for name in cohort.names}
    home.node_key_file.write_bytes(private_pem(keys["m0"]))
    home.authority.write_bytes(certificates.authority.read_bytes())
    server = ServerHome.create(folder / "server", address="127.0.0.1:1", listen=None)
    server.identity_file.write_bytes(cohort.server.private_bytes())
    enrolled = [
        Statement(
            name=name,
            signing_key=cohort.identities[name].public.hex(),
            node_key=public_pem(key).decode("ascii"),
            unit="record",
            size=40,
        )
        for name, key in keys.items()
    ]
    text = json.dumps([entry.model_dump(mode="json") for entry in enrolled])
    (server.folder / "roster.json").write_text(text)
    federation = Federation(server, cohort.server, home, plan, keys)
    federation.training.mkdir()
    (federation.training / "plan.json").write_bytes(plan.canonical_bytes())
    filing = Filing(
        training_id=plan.training_id, eval_data=None, initial_seed=1, run_id=None, start_from=None
    )
    (federation.training / "own.json").write_text(filing.model_dump_json())
    federation.bundle.mkdir()
    graph = tiny_graph().SerializeToString()
    (federation.bundle / GRAPH).write_bytes(graph)
    (federation.bundle / MANIFEST).write_text(federation.manifest(graph).model_dump_json())
    nodes = {public_pem(key): number for number, key in enumerate(keys.values(), start=1)}

    async def nothing(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("a request for a model doesn't reach Flower")

    guard = Guard(nothing, admitted=nodes.get, on_refusal=lambda *told: None, downloads=federation.download)
    listener = Listener(guard, host="127.0.0.1", port=0, certificates=certificates, lifespan=False)
    listener.start()
    join = JoinFile(
        address=f"127.0.0.1:{listener.port}",
        authority=certificates.authority.read_text("ascii"),
        server_key=cohort.server.public.hex(),
        roster=plan.roster,
    )
    (home.folder / JOIN_FILE).write_bytes(join.canonical_bytes())
    yield federation
    listener.stop()
    for merchant in cohort.merchants.values():
        merchant.close()


@pytest.fixture
def federation(made: Federation) -> Federation:
    made.others.clear()
    made.asked.clear()
    Training(made.training).set_status("done")
    return made


def refused(federation: Federation, folder: Path, error: type[FedrecError], match: str, **given: Any) -> None:
    with pytest.raises(error, match=match):
        fetch_model(federation.home, folder / "model", **given)
    assert list(folder.iterdir()) == []


def test_a_merchant_gets_the_bundle_byte_for_byte(federation: Federation, tmp_path: Path) -> None:
    found = fetch_model(federation.home, tmp_path / "model", training=federation.plan.training_id[:8])
    assert found.training is not None and found.training.training_id == federation.plan.training_id
    for name in (GRAPH, MANIFEST):
        assert (tmp_path / "model" / name).read_bytes() == (federation.bundle / name).read_bytes()
    assert found.title in (tmp_path / "model" / CARD).read_text("utf-8")
    assert open_model(tmp_path / "model").classes == federation.plan.classes
    assert list(tmp_path.iterdir()) == [tmp_path / "model"]
    with pytest.raises(ConfigError, match="exists already"):
        fetch_model(federation.home, tmp_path / "model")


def test_a_bundle_that_was_replaced_is_offered_as_it_is_now(federation: Federation, tmp_path: Path) -> None:
    kept = {name: (federation.bundle / name).read_bytes() for name in (GRAPH, MANIFEST)}
    graph = tiny_graph(scale=4.0).SerializeToString()
    fetch_model(federation.home, tmp_path / "first")
    (federation.bundle / GRAPH).write_bytes(graph)
    (federation.bundle / MANIFEST).write_text(federation.manifest(graph).model_dump_json())
    try:
        found = fetch_model(federation.home, tmp_path / "second")
    finally:
        for name, content in kept.items():
            (federation.bundle / name).write_bytes(content)
    assert found.graph.sha256 == hashlib.sha256(graph).hexdigest()


def test_only_the_roster_of_a_training_that_is_done_gets_its_bundle(federation: Federation) -> None:
    offers, path = BundleOffers(federation.server), f"/v1/fedrec/model/{federation.plan.training_id}/graph"
    key = public_pem(federation.keys["m1"])
    assert offers(key, path) is not None
    for wrong in (
        f"/v1/fedrec/model/{'0' * 64}/graph",
        path + "/../../own.json",
        path.replace("graph", "plan.json"),
        path.upper(),
    ):
        assert offers(key, wrong) is None
    assert offers(public_pem(ec.generate_private_key(ec.SECP384R1())), path) is None
    Training(federation.training).set_status("running")
    assert offers(key, path) is None


def test_a_merchant_that_enrolled_later_gets_no_bundle(federation: Federation) -> None:
    """Its node key is admitted, and its name is on the roster, but not with its signing key."""
    path = f"/v1/fedrec/model/{federation.plan.training_id}/offer"
    roster = federation.server.folder / "roster.json"
    kept = roster.read_text()
    entries = json.loads(kept)
    entries[1]["signing_key"] = SigningIdentity.generate().public.hex()
    roster.write_text(json.dumps(entries))
    try:
        found = [
            BundleOffers(federation.server)(public_pem(federation.keys[name]), path) for name in ("m1", "m2")
        ]
    finally:
        roster.write_text(kept)
    assert found[0] is None and found[1] is not None


def test_a_merchant_that_exchanged_its_key_gets_the_models_of_before(federation: Federation) -> None:
    path = f"/v1/fedrec/model/{federation.plan.training_id}/offer"
    roster, new = federation.server.folder / "roster.json", SigningIdentity.generate()
    kept = roster.read_text()
    entries = json.loads(kept)
    entries[0]["signing_key"] = new.public.hex()
    roster.write_text(json.dumps(entries))
    exchanged = sign_rotation("m0", old=federation.home.identity(), new=new)
    StatementBook(rotations=(exchanged,)).write(federation.server.statements_file)
    try:
        found = BundleOffers(federation.server)(public_pem(federation.keys["m0"]), path)
    finally:
        roster.write_text(kept)
        federation.server.statements_file.unlink()
    assert found is not None


def test_a_key_that_is_not_admitted_gets_nothing(
    federation: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = ec.generate_private_key(ec.SECP384R1())
    monkeypatch.setattr(MerchantHome, "node_key", lambda home: stranger)
    refused(federation, tmp_path, NotAdmittedError, "doesn't admit")
    assert federation.asked == []


def test_a_training_that_the_merchant_never_joined_is_not_asked_for(
    federation: Federation, tmp_path: Path
) -> None:
    refused(federation, tmp_path, ConfigError, "not the beginning of one training", training="f" * 64)
    assert federation.asked == []


def test_a_training_without_a_bundle_says_so(federation: Federation, tmp_path: Path) -> None:
    Training(federation.training).set_status("failed")
    refused(federation, tmp_path, ConfigError, "has no model of training")


def test_an_offer_must_be_signed_by_the_server_for_this_purpose_and_training(
    federation: Federation, tmp_path: Path
) -> None:
    graph = tiny_graph().SerializeToString()
    manifest = federation.manifest(graph).model_dump_json().encode()
    federation.offers(manifest, graph, identity=SigningIdentity.generate())
    refused(federation, tmp_path, ProtocolError, "not signed by the server")
    federation.offers(manifest, graph, context=RECEIPT_CONTEXT)
    refused(federation, tmp_path, ProtocolError, "not signed by the server")
    federation.offers(manifest, graph, training_id="ab" * 32)
    refused(federation, tmp_path, ProtocolError, "another training")
    for rubbish in (b"", b"{}", b"[" * 4000, b"\xff" * 100):
        federation.sends("offer", rubbish)
        refused(federation, tmp_path, ProtocolError, ".")
    federation.sends("offer", b" " * 5000)
    refused(federation, tmp_path, ConnectionLostError, "more than 4,096 bytes")
    assert set(federation.asked) == {"offer"}


def test_a_model_above_the_merchants_own_limit_is_not_read(federation: Federation, tmp_path: Path) -> None:
    graph = tiny_graph().SerializeToString()
    manifest = federation.manifest(graph).model_dump_json().encode()
    federation.offers(manifest, graph, size=300 * MIB)
    refused(federation, tmp_path, RefusedError, "315 MB, and 268 are allowed")
    federation.offers(manifest, graph)
    refused(federation, tmp_path, RefusedError, "are allowed", most_bytes=len(graph))
    assert set(federation.asked) == {"offer"}


def test_a_file_must_be_the_one_that_was_signed(federation: Federation, tmp_path: Path) -> None:
    graph = tiny_graph().SerializeToString()
    manifest = federation.manifest(graph).model_dump_json().encode()
    federation.offers(manifest, graph)
    federation.sends("graph", bytes([graph[0] ^ 1]) + graph[1:])
    refused(federation, tmp_path, ProtocolError, "isn't the file that the server has signed")
    for other in (graph + b"x", graph[:-1], bytes(50 * MIB)):
        federation.sends("graph", other)
        refused(federation, tmp_path, ConnectionLostError, "not of the size")
    # The answer states the size that was signed, and ends before.
    federation.others["graph"] = lambda: Download(Download.of_bytes(graph[:-9]).file, len(graph))
    refused(federation, tmp_path, ConnectionLostError, ".")
    federation.others["graph"] = lambda: None
    refused(federation, tmp_path, ConnectionLostError, "not of the size")
    federation.offers(manifest, graph)
    federation.sends("manifest", manifest.replace(b"linear", b"linfar"))
    refused(federation, tmp_path, ProtocolError, "isn't the file")


def test_what_the_server_signed_must_fit_the_plan_and_be_a_model(
    federation: Federation, tmp_path: Path
) -> None:
    graph = tiny_graph().SerializeToString()
    privacy = federation.manifest(graph).privacy
    assert privacy is not None
    wrong = [
        (tiny_manifest(graph), "of another training"),
        (federation.manifest(graph, classes=("a", "b", "x")), "doesn't fit the plan"),
        (federation.manifest(graph, model="other"), "doesn't fit the plan"),
        *(
            (federation.manifest(graph, privacy=privacy.model_copy(update=change)), "doesn't fit the plan")
            for change in ({"delta": 1e-12}, {"mode": "local"}, {"unit": "product"}, {"epsilon": None})
        ),
        (federation.manifest(tiny_graph(scale=2.0).SerializeToString()), "another graph"),
    ]
    for manifest, match in wrong:
        federation.offers(manifest.model_dump_json().encode(), graph)
        refused(federation, tmp_path, ProtocolError, match)
    federation.offers(b"{}", graph)
    refused(federation, tmp_path, DataError, "no manifest")
    for rubbish in (b"\x00" * 1000, graph[:-7]):
        federation.offers(federation.manifest(rubbish).model_dump_json().encode(), rubbish)
        refused(federation, tmp_path, DataError, ".")


def test_the_page_fetches_a_model_beside_its_requests_and_tries_it(federation: Federation) -> None:
    trial = ModelTrial(federation.home)
    trial.fetch(federation.plan.training_id)
    eventually(lambda: trial.fetching.state != "running")
    assert trial.fetching.state == "done", trial.fetching.detail
    red = io.BytesIO()
    Image.new("RGB", (60, 40), (250, 10, 5)).save(red, "PNG")
    found = trial.recognise(federation.plan.training_id, red.getvalue())
    assert found[0]["name"] == federation.plan.classes[0]
    # A second request for it is answered from the folder.
    asked = len(federation.asked)
    trial.fetch(federation.plan.training_id)
    eventually(lambda: trial.fetching.state == "done")
    assert len(federation.asked) == asked
