"""Campaigns whose uploads arrive over days: a server that is restarted, merchants that come one by one."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message

from fedrec.clients import training_step
from fedrec.clients.contribution import compute_contribution
from fedrec.errors import RefusedError, TrainingError
from fedrec.privacy.derived_parameters import derive
from fedrec.protocol.messages import JoinReply, JoinRequest, UnmaskReply, UnmaskRequest
from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.refusals import Refusal
from fedrec.protocol.training_report.round_line import RoundRecord
from fedrec.protocol.transport import pack, unpack
from fedrec.server.attendance import CohortIncompleteError
from fedrec.server.checkpoint import Checkpoint
from fedrec.server.optimizers.interface import Vector
from fedrec.server.optimizers.sgd import Sgd
from fedrec.server.receipts import ReceiptBook, rounds_with_receipt
from fedrec.server.weights import Weights
from fedrec.server.window import campaign as campaign_module
from fedrec.server.window import campaign_uploads
from fedrec.server.window.campaign import Campaign
from fedrec.server.window.campaign_files import CampaignFiles, read_progress
from tests.support.campaigns import DIMENSION, campaign
from tests.support.cheating_parties import lying
from tests.support.cohort import Cohort, InProcessGrid

WINDOW = 7 * 86400
DAY = 86400.0
Fault = Callable[[str, str, int], bool]


class OverError(Exception):
    """A sitting ends: the server is stopped, whatever it was doing."""


@dataclass
class Sittings:
    """A campaign whose server is brought up anew, from its files, each time that somebody connects."""

    cohort: Cohort
    plan: TrainingPlan
    clock: float = 1_800_000_000.0
    records: list[RoundRecord] = field(default_factory=list)
    sums: list[Vector] = field(default_factory=list)
    requests: list[Message] = field(default_factory=list)
    refusals: dict[str, str] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return self.cohort.folder / "training"

    @property
    def files(self) -> CampaignFiles:
        return CampaignFiles(self.folder, plan=self.plan)

    def sit(
        self,
        *there: int,
        looks: int = 8,
        timeout: float = 20,
        drop: Fault = lambda *_: False,
        lose: Fault = lambda *_: False,
        tamper: Callable[[Message, int], Message] = lambda reply, index: reply,
        late: int | None = None,
        ends: Callable[[str], bool] = lambda text: False,
    ) -> None:
        """Run a new server process while these merchants are connected.

        The upload of ``late`` arrives once the set is fixed. The window ends when ``ends`` says so.
        """
        self.folder.mkdir(exist_ok=True)
        left, files, held = looks, self.files, set[str]()

        class Visits(InProcessGrid):
            def get_node_ids(self) -> Iterable[int]:
                return [index + 1 for index in there]

            def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
                sent = list(messages)
                keys = list(super().push_messages(sent))
                for key, message in zip(keys, sent, strict=True):
                    fate = message.metadata.message_type, message.metadata.dst_node_id - 1
                    held.update([key] if fate == ("train", late) else [])
                return keys

            def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
                kept = held if files.survivors() is None else set[str]()
                return super().pull_messages([key for key in message_ids if key not in kept])

        def tell(text: str) -> None:
            self.told.append(text)
            self.clock += WINDOW if ends(text) else 0.0

        def pause() -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise OverError

        def solve(sums: Vector, noise: float) -> Vector:
            self.sums.append(sums.copy())
            return sums

        grid = Visits(self.cohort.app(), self.cohort.size, drop=drop, lose=lose, tamper=tamper)
        weights = Weights.start(
            np.zeros(DIMENSION), Sgd(DIMENSION, learning_rate=1.0), averaging=0.0, solve=solve
        )
        run = Campaign(
            grid=grid,
            plan=self.plan,
            weights=weights,
            checkpoint=Checkpoint(self.folder / "server", training_id=self.plan.training_id),
            receipts=ReceiptBook(self.cohort.folder / "receipts.sqlite", identity=self.cohort.server),
            signer=self.cohort.signer(),
            on_round=self.records.append,
            timeout=timeout,
            refusals=self.refusals,
            training=self.folder,
            pause=pause,
            tell=tell,
            now=lambda: self.clock,
        )
        with suppress(OverError):
            run.run()
        self.requests += grid.requests
        self.clock += DAY / 4

    def asked(self, kind: str) -> list[str]:
        """Whom the server asked for something so far, one name a request."""
        names = self.cohort.parties
        return [names[m.metadata.dst_node_id - 1] for m in self.requests if m.metadata.message_type == kind]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """The integers that merchants encrypt, each computed once."""
    found: list[np.ndarray] = []

    def recorded(*arguments: Any, **named: Any) -> np.ndarray:
        found.append(compute_contribution(*arguments, **named))
        return found[-1]

    monkeypatch.setattr(training_step, "compute_contribution", recorded)
    return found


@pytest.fixture
def four(tmp_path: Path) -> Sittings:
    """Four merchants, all on the committee; three make a sum, and three open it."""
    return Sittings(*campaign(tmp_path, size=4, upload_window=WINDOW))


def opened(sittings: Sittings) -> np.ndarray:
    (sums,) = sittings.sums
    return np.rint(sums * derive(sittings.plan).noise.scale).astype(np.int64)


def test_merchants_that_never_meet_open_the_sum_of_their_uploads(
    four: Sittings, made: list[np.ndarray]
) -> None:
    four.sit(0)
    assert four.files.window() is None and not four.asked("train")
    assert four.told[-1] == "waits for the committee's keys: those of m1, m2, m3 are missing"
    four.sit(1, 3)
    four.sit(2, 3)
    window = four.files.window()
    assert window is not None and window.ends == window.began + WINDOW
    assert four.files.stored("upload") == ["m2", "m3"]
    assert "2 of 4 uploads; missing: m0, m1" in four.told[-1]
    for path in four.files.folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    # Lost on its way to the server: the merchant sends the same once more, and is charged once.
    four.sit(0, lose=lambda kind, group, index: kind == "train")
    assert four.files.stored("upload") == ["m2", "m3"]
    four.sit(0, 2)
    assert four.files.stored("upload") == ["m0", "m2", "m3"]
    assert sorted(four.asked("train")) == ["m0", "m0", "m2", "m3"]
    four.clock += WINDOW
    for member in (3, 0):
        four.sit(member)
        assert not four.sums
    assert "closed: 3 of 4 uploads; missing: m1; 2 of the 3 answers needed; waits for m1, m2" in four.told[-1]
    # The fourth is too late for an upload, and isn't charged; its answer opens the others' sum.
    four.sit(1)
    assert len(made) == 3 and len(four.cohort.charges("m1")) == 0
    np.testing.assert_array_equal(opened(four), np.sum(made, axis=0))
    assert all(len(four.cohort.charges(name)) == 1 for name in ("m0", "m2", "m3"))
    (record,) = four.records
    assert record.opened and record.merchants == ("m0", "m2", "m3") and record.dropouts == 1
    assert record.seconds_train > WINDOW
    assert not four.files.folder.exists()
    book = four.cohort.folder / "receipts.sqlite"
    assert rounds_with_receipt(book, training_id=four.plan.training_id) == {"m0": 1, "m2": 1, "m3": 1}
    # Once it is over, whoever comes is told so; nothing is opened again.
    four.sit(0, 1)
    assert {"m0", "m1"} <= set(four.asked("query.close"))
    assert len(four.sums) == 1 and len(four.records) == 2


def test_every_member_is_asked_about_the_same_set_across_restarts(four: Sittings) -> None:
    four.sit(0, 1, 2, 3, looks=1)
    four.sit(0, 1, 2, drop=lambda kind, group, index: kind == "query.unmask")
    assert four.files.survivors() is None
    four.clock += WINDOW
    # Killed once the set is fixed, before anybody is asked.
    four.sit(looks=1)
    fixed = four.files.survivors()
    assert fixed is not None and [one.merchant for one in fixed.survivors] == ["m0", "m1", "m2"]
    four.sit(3, lose=lambda kind, group, index: kind == "query.unmask")
    for member in (3, 1, 0):
        four.sit(member)
    sets = {
        unpack(message.content, UnmaskRequest, max_blob_bytes=1 << 24)[0].survivors
        for message in four.requests
        if message.metadata.message_type == "query.unmask"
    }
    assert len(sets) == 1 and len(four.sums) == 1 and "m3" not in four.asked("train")
    with pytest.raises(TrainingError, match="never begins or closes twice"):
        four.files.write_survivors(fixed)
        four.files.write_survivors(fixed)


@pytest.mark.parametrize("others", [(1, 2), (1, 2, 3)], ids=["nobody else", "one more"])
def test_a_campaign_takes_off_as_much_noise_as_those_who_are_there_can(
    four: Sittings, made: list[np.ndarray], others: tuple[int, ...]
) -> None:
    """m0 opens wrong shares of the layers. Three answers open the sum, and so few of right shares."""

    def tamper(reply: Message, index: int) -> Message:
        if index == 0 and reply.metadata.message_type == "query.unmask":
            body, blobs = unpack(reply.content, UnmaskReply, max_blob_bytes=10**7)
            reply.content = pack(body, blobs | {"layers": bytes(len(blobs["layers"]))})
        return reply

    for _ in range(2):
        # First the committee's keys, then the uploads.
        four.sit(0, 1, 2, 3, drop=lambda kind, group, index: kind == "query.unmask")
    assert four.files.survivors() is not None
    four.sit(0, tamper=tamper)
    assert not four.sums
    four.sit(*others)
    (record,) = four.records
    assert record.opened and len(record.merchants) == 4
    # Four come where three would do: without the layers' seeds each keeps what a sum of three needs.
    assert record.noise_kept == pytest.approx(1.0 if 3 in others else 1.5**0.5)
    # The uploads hold all layers.
    assert np.array_equal(opened(four), np.sum(made, axis=0)) is (3 not in others)
    assert "noise layers" in four.refusals["round 1, m0"]


def test_all_uploads_end_the_window_early(tmp_path: Path, made: list[np.ndarray]) -> None:
    sittings = Sittings(*campaign(tmp_path, upload_window=WINDOW))
    sittings.sit(0, 1, 2, looks=99)
    np.testing.assert_array_equal(opened(sittings), np.sum(made, axis=0))
    (record,) = sittings.records
    assert record.opened and record.seconds < 1
    assert sittings.asked("query.close") == ["m0", "m1", "m2"]


def test_witnesses_open_the_sum_of_merchants_that_came_once(tmp_path: Path, made: list[np.ndarray]) -> None:
    """Three merchants, each there for its upload alone; five witnesses and one merchant give the answers."""
    sittings = Sittings(*campaign(tmp_path, witnesses=5, upload_window=WINDOW))
    assert (len(sittings.plan.committee), sittings.plan.threshold) == (8, 6)
    witnesses = range(3, 8)
    sittings.sit(*witnesses)
    # A witness joins to bring its key, and is never asked for an upload.
    for merchant in range(3):
        sittings.sit(merchant, merchant + 3)
    sittings.sit(0, 1, 2, 7)
    assert sorted(sittings.asked("train")) == ["m0", "m1", "m2"]
    assert sittings.files.stored("answer") or sittings.sums
    for member in (*witnesses, 0):
        sittings.sit(member)
    np.testing.assert_array_equal(opened(sittings), np.sum(made, axis=0))
    record = sittings.records[0]
    assert record.opened and record.merchants == ("m0", "m1", "m2") and record.dropouts == 0
    assert set(sittings.asked("query.unmask")) <= set(sittings.plan.committee)
    book = sittings.cohort.folder / "receipts.sqlite"
    assert set(rounds_with_receipt(book, training_id=sittings.plan.training_id)) == {"m0", "m1", "m2"}


@pytest.mark.parametrize("scheme", ["none", "ckks"])
def test_other_schemes_open_the_same_sum(tmp_path: Path, made: list[np.ndarray], scheme: str) -> None:
    changes: dict[str, Any] = {"committee": (), "threshold": 0}
    if scheme == "ckks":
        changes = {"committee": ("m0",), "threshold": 1}
    sittings = Sittings(*campaign(tmp_path, upload_window=WINDOW, scheme=scheme, **changes))
    for present in ((0, 1), (0, 2), (0,)):
        sittings.sit(*present, looks=12)
    np.testing.assert_array_equal(opened(sittings), np.sum(made, axis=0))


def test_a_changed_upload_is_asked_for_again_and_not_paid_twice(
    four: Sittings, made: list[np.ndarray]
) -> None:
    four.sit(0, 1, 2, 3, looks=4, drop=lambda kind, group, index: kind == "train" and index == 3)
    assert four.files.stored("upload") == ["m0", "m1", "m2"]
    changed, swapped, cut = (four.files.path("upload", name) for name in ("m0", "m1", "m2"))
    whole = changed.read_bytes()
    changed.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    swapped.write_bytes(whole)
    cut.write_bytes(cut.read_bytes()[:-100])
    four.sit(looks=2)
    assert four.files.stored("upload") == []
    for name, reason in {"m0": "committed to", "m1": "another node", "m2": "another size"}.items():
        told = four.refusals[f"round 1, {name}"]
        assert told.startswith("its stored upload can't be used: ") and reason in told
    four.sit(0, 1, 2)
    four.clock += WINDOW
    four.sit(0, 1, 2, looks=20)
    np.testing.assert_array_equal(opened(four), np.sum(made, axis=0))
    assert len(made) == 3 and all(len(four.cohort.charges(name)) == 1 for name in ("m0", "m1", "m2"))


def test_a_changed_upload_of_the_fixed_set_ends_the_run_and_nobody_is_asked(four: Sittings) -> None:
    four.sit(0, 1, 2, 3, looks=4, drop=lambda kind, group, index: kind == "train" and index == 3)
    four.clock += WINDOW
    four.sit(looks=1)
    path = four.files.path("upload", "m0")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(TrainingError, match="survivor set is fixed, and the stored upload of m0"):
        four.sit(0, 1, 2)
    assert not four.asked("query.unmask")
    path.write_bytes(whole)
    four.sit(0, 1, 2, looks=20)
    assert four.records[0].opened


def test_a_set_whose_file_is_gone_is_not_fixed_anew(four: Sittings) -> None:
    four.sit(0, 1, 2, 3, looks=4, drop=lambda kind, group, index: kind == "train" and index == 3)
    four.clock += WINDOW
    four.sit(0, looks=3)
    path = four.files.folder / "survivors.json"
    whole = path.read_bytes()
    # The clock goes back, so that the fourth could upload, and the set would be another one.
    four.clock -= WINDOW
    path.unlink()
    with pytest.raises(TrainingError, match="survivor set was fixed before"):
        four.sit(0, 1, 2, 3)
    path.write_bytes(whole.replace(b'"fixed":1', b'"fixed":2'))
    with pytest.raises(TrainingError, match="survivor set was fixed before"):
        four.sit(0, 1, 2, 3)
    assert four.files.stored("upload") == ["m0", "m1", "m2"] and not four.cohort.charges("m3")
    path.write_bytes(whole)
    four.sit(0, 1, 2, 3, looks=20)
    assert four.records[0].opened and four.records[0].merchants == ("m0", "m1", "m2")


def test_a_paused_member_answers_after_a_restart_of_the_server(four: Sittings) -> None:
    four.sit(0, 1, 2, 3, looks=4, drop=lambda kind, group, index: kind == "query.unmask")
    for merchant in four.cohort.merchants.values():
        merchant.suspend("paused")
    four.sit(0, 1, 2, 3, looks=20)
    assert four.records[0].opened
    with pytest.raises(RefusedError, match="paused"):
        four.cohort.merchants["m0"].join(JoinRequest(plan=four.cohort.plan()))


def test_a_request_is_not_delivered_long_after_the_window(four: Sittings) -> None:
    """A merchant that went away before it got the request would be charged for an upload that is too late."""
    four.sit(
        0, 1, 2, 3, looks=4, timeout=3600, drop=lambda kind, group, index: index == 3 and kind == "train"
    )
    window = four.files.window()
    assert window is not None
    four.clock = window.ends - 50.0
    four.sit(3, looks=3, timeout=3600)
    kept = [m.metadata.ttl for m in four.requests if m.metadata.message_type == "train"]
    assert kept == [3600, 3600, 3600, 3600, 170]


def test_an_upload_after_the_set_is_fixed_stays_out_of_it(
    four: Sittings, made: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(campaign_uploads, "_LAST_SECONDS", 0.0)
    four.sit(0, 1, 2, 3, looks=1)
    four.sit(0, 1, 2, 3, looks=20, late=3, ends=lambda text: "3 of 4 uploads" in text)
    (record,) = four.records
    assert record.opened and record.merchants == ("m0", "m1", "m2")
    assert "came after the window: it is not in the sum, and stays charged" in four.refusals["round 1, m3"]
    np.testing.assert_array_equal(opened(four), np.sum(made[:3], axis=0))
    assert len(made) == 4 and len(four.cohort.charges("m3")) == 1
    book = four.cohort.folder / "receipts.sqlite"
    assert set(rounds_with_receipt(book, training_id=four.plan.training_id)) == {"m0", "m1", "m2"}


def test_nobody_can_say_for_another_that_it_has_closed_the_training(four: Sittings) -> None:
    """A merchant that answers its join in a member's name would end the campaign."""

    def lie(reply: Message, index: int) -> Message:
        if index == 3 and reply.metadata.message_type == "query.join":
            reply.content = pack(JoinReply(merchant="m0", refused=Refusal(code="training")))
        return reply

    four.sit(0, 1, 2, 3, looks=4, drop=lambda kind, group, index: kind == "query.unmask")
    four.cohort.merchants["m2"].store.finish(four.plan.training_id)
    four.sit(2, 3, tamper=lie)
    assert "was closed" in four.refusals["m2"] and not four.records
    assert "m0" not in four.refusals
    four.sit(0, 1, 3)
    assert four.records[0].opened


def test_too_few_uploads_lose_the_campaign_and_no_member_is_asked(four: Sittings) -> None:
    four.sit(0, 1, 2, 3, looks=4, drop=lambda kind, group, index: kind == "train" and index > 1)
    four.clock += WINDOW
    four.sit(0, 1, 2, 3)
    (record,) = four.records
    assert not record.opened and record.merchants == ("m0", "m1")
    assert record.reason is not None and record.reason.startswith("2 contributors by the end of the window")
    assert not four.asked("query.unmask") and len(four.cohort.charges("m0")) == 1


def test_a_campaign_whose_committee_never_comes_lets_others_go_first(
    four: Sittings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(campaign_module, "OPENING_SECONDS", 0.0)
    with pytest.raises(CohortIncompleteError, match="committee is not complete"):
        four.sit()
    assert Checkpoint(four.folder / "server", training_id=four.plan.training_id).last_reserved() == 0


def test_members_whose_keys_are_gone_are_counted_out(four: Sittings) -> None:
    four.sit(0, 1, 2, 3, looks=4, drop=lambda kind, group, index: kind == "query.unmask")
    for name in ("m0", "m1"):
        four.cohort.merchants[name].store.finish(four.plan.training_id)
    four.sit(0, 1, 2, 3, looks=20)
    (record,) = four.records
    assert not record.opened and record.reason is not None
    assert record.reason.startswith("2 committee members can answer, fewer than the threshold of 3")


def test_a_member_that_answers_wrongly_is_named_and_not_asked_again(
    four: Sittings, made: list[np.ndarray]
) -> None:
    four.sit(0, 1, 2, 3, looks=4, drop=lambda kind, group, index: (kind, index) == ("train", 3))
    four.clock += WINDOW
    four.sit(looks=1)
    before = four.asked("query.unmask").count("m0")
    four.sit(0, tamper=lying({0}))
    assert "not the sum of the key shares" in four.refusals["round 1, m0"] and not four.records
    four.refusals.clear()
    four.sit(0, 1)  # its answer is on the server's disk, and as wrong after a restart
    assert four.asked("query.unmask").count("m0") == before + 1
    assert "not the sum of the key shares" in four.refusals["round 1, m0"] and not four.records
    four.sit(2, 3)
    assert four.records[0].opened
    np.testing.assert_array_equal(opened(four), np.sum(made, axis=0))


def test_too_many_wrong_answers_end_the_campaign_with_the_members_names(four: Sittings) -> None:
    four.sit(0, 1, 2, 3, looks=20, tamper=lying({0, 3}))
    (record,) = four.records
    assert not record.opened and record.reason is not None
    assert "2 committee members can answer, fewer than the threshold of 3" in record.reason
    assert "m0: its answer" in record.reason and "m3: its answer" in record.reason


def test_a_member_that_would_delete_its_key_too_soon_refuses_the_plan(four: Sittings) -> None:
    policy = four.cohort.policy.model_copy(update={"training_expires_days": 7})
    with pytest.raises(RefusedError, match=r"^policy 'training_expires_days': .* window of 7d"):
        policy.check_window(four.plan)
    four.cohort.policy.check_window(four.plan)
    four.cohort.merchants["m0"].use_policy(policy)
    four.sit(0, looks=3)
    assert "window of 7d" in four.refusals["m0"]


def test_progress_is_told_from_the_files_alone(four: Sittings) -> None:
    four.folder.mkdir()
    found = read_progress(four.folder, four.plan)
    assert found is not None and found.text == "begins once the committee's keys are known"
    assert read_progress(four.folder, four.plan.model_copy(update={"upload_window": None})) is None
