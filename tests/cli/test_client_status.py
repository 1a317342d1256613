"""'fedrec client check', 'status' and 'budget': what a merchant is told about its own folder."""

from __future__ import annotations

import json
import math
import re
import shutil
import uuid
from collections import Counter, namedtuple
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from fedrec._internal import number_format
from fedrec.cli import client
from fedrec.clients import preflight_checks
from fedrec.clients.charging import round_charge
from fedrec.clients.merchant_home import MerchantHome
from fedrec.clients.plan_resources import load_photos
from fedrec.clients.preflight_checks import run_checks
from fedrec.clients.record_tags import RecordTags
from fedrec.clients.refusals import PAUSED
from fedrec.clients.status import read_budget, read_status, summarise_plan
from fedrec.clients.store import Kind, MerchantStore
from fedrec.clients.store_types import CountedSet, TrainingSecrets
from fedrec.clients.store_view import read_store
from fedrec.clients.training_history import histories, next_round
from fedrec.errors import BudgetExceededError
from fedrec.flower import clock
from fedrec.privacy.accounting.count_release import count_event
from fedrec.privacy.accounting.entry_contents import Charge
from fedrec.privacy.accounting.ledger import Ledger
from fedrec.privacy.accounting.ledger_creation import create_ledger
from fedrec.privacy.accounting.ledger_entries import charges
from fedrec.privacy.accounting.pld import epsilon_pld
from fedrec.privacy.accounting.privacy_filter import TrainingCost, read_filter
from fedrec.privacy.derived_parameters import derive
from fedrec.privacy.identity import SigningIdentity, verify
from fedrec.protocol.enrolment import JoinFile
from fedrec.protocol.plan import Peer, TrainingPlan
from fedrec.protocol.schema import sha256_hex
from fedrec.simulations.audit_evidence import evidence_of_client
from fedrec.vision.synthetic import generate, write
from tests.support.cohort import Cohort
from tests.support.ledgers import CHARGE, COUNT, VERSION
from tests.support.pictures import picture

NAME = "merchant-00"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    write(generate(merchants=1, per_merchant=30, size=16, seed=3, validation=0, test=0), tmp_path / "photos")
    (folder,) = (tmp_path / "photos" / "train").iterdir()
    return folder


@pytest.fixture
def home(photos: Path, tmp_path: Path) -> MerchantHome:
    home = MerchantHome.create(tmp_path / "home", name=NAME, data=photos, units=30)
    home.approve(
        JoinFile(
            address="127.0.0.1:1",
            authority="-----BEGIN CERTIFICATE-----\n",
            server_key="ab" * 32,
            roster=(Peer(name=NAME, signing_key=home.identity().public.hex()),),
        )
    )
    return home


def findings(home: MerchantHome, *, offline: bool = True) -> dict[str, tuple[bool | None, str]]:
    return {finding.what: (finding.ok, finding.text) for finding in run_checks(home, offline=offline)}


def a_plan(tmp_path: Path, **changes: object) -> TrainingPlan:
    return Cohort(tmp_path / uuid.uuid4().hex, size=4).plan(**changes)


def join(home: MerchantHome, plan: TrainingPlan) -> None:
    store = MerchantStore(home.store)
    store.join(plan.training_id, plan=plan.canonical_bytes(), seeded=False, make_secrets=TrainingSecrets)
    store.close()


@contextmanager
def opened(home: MerchantHome) -> Iterator[Ledger]:
    with Ledger(home.ledger, signer=home.identity(), verify=verify) as ledger:
        yield ledger


def charge(home: MerchantHome, cost: Charge, *, version: str = VERSION) -> None:
    with opened(home) as ledger:
        ledger.charge(cost, version=version)


def test_every_check_passes_for_a_folder_in_order(home: MerchantHome, photos: Path) -> None:
    found = findings(home)
    assert all(ok for ok, _ in found.values()), found
    assert found["photos"][1].startswith("30 photos") and "0 unusable" in found["photos"][1]
    for folder in photos.iterdir():
        assert f"{folder.name} {len(list(folder.iterdir()))}" in found["classes"][1]
    assert found["device"][1].startswith("a GPU" if torch.cuda.is_available() else "no GPU")
    assert "9.79 left of 10" in found["budget"][1]
    assert "clock" not in found and "server" not in found


def test_unusable_files_are_named_with_their_reasons(home: MerchantHome, photos: Path) -> None:
    folder = next(photos.iterdir())
    for number in range(5):
        (folder / f"broken-{number}.png").write_bytes(b"no picture")
    ok, text = findings(home)["photos"]
    assert ok and "5 unusable" in text and "and 2 more" in text
    assert f"{folder.name}/broken-0.png (called a photo, but its content is none)" in text


def test_classes_are_compared_with_those_of_the_training(
    home: MerchantHome, photos: Path, tmp_path: Path
) -> None:
    own = sorted(folder.name for folder in photos.iterdir())
    join(home, a_plan(tmp_path, classes=("a", *own[:-1])))
    ok, text = findings(home)["classes"]
    assert ok and f"left out: {own[-1]}" in text and "without a photo here: a" in text
    join(home, a_plan(tmp_path, classes=("a", "b")))
    ok, text = findings(home)["classes"]
    assert not ok and "none of these" in text and "a, b" in text


def test_a_plan_of_another_version_is_passed_over(home: MerchantHome) -> None:
    plan = b'{"version": 0}'
    training_id = sha256_hex(plan)
    store = MerchantStore(home.store)
    store.join(training_id, plan=plan, seeded=False, make_secrets=TrainingSecrets)
    store.put_counted(CountedSet(held=frozenset(), version="ab" * 32))
    store.close()
    charge(home, replace(CHARGE, training_id=training_id), version=VERSION)
    found = findings(home)
    assert [what for what, (ok, _) in found.items() if ok is False] == []
    assert found["changes"] == (None, "not compared: the plan of the last charge is no longer stored")
    assert read_status(home).training is None


def test_changed_photos_are_reported_before_the_next_training(
    home: MerchantHome, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tuple(sorted(folder.name for folder in photos.iterdir()))
    plan = a_plan(tmp_path, classes=own, model="cnn")
    join(home, plan)
    assert "nothing was charged yet" in findings(home)["changes"][1]
    data = load_photos(plan, photos, layout="class", device=torch.device("cpu"))
    tags = RecordTags(home.identity())
    store = MerchantStore(home.store)
    store.put_counted(CountedSet(held=frozenset(map(tags.tag, data.held)), version="ab" * 32))
    store.close()
    charge(home, replace(CHARGE, training_id=plan.training_id), version=VERSION)
    assert findings(home)["changes"] == (True, "the records are those of the last charge")
    gone = next(photos.rglob("*.png"))
    kept = gone.read_bytes()
    gone.unlink()
    # What is gone needs no rule: it takes part in no step any more.
    ok, text = findings(home)["changes"]
    assert ok and text.startswith("1 record is missing since the last charge")
    picture(photos / own[0] / "new.png", 77)
    ok, text = findings(home)["changes"]
    assert ok and "counts all of them together; 1 record is missing since the last charge" in text
    rules = (home.folder / "policy.toml").read_text("utf-8")
    (home.folder / "policy.toml").write_text(
        rules.replace('changed_data = "count_together"', 'changed_data = "refuse"')
    )
    ok, text = findings(home)["changes"]
    assert ok and "1 record added" in text and "left out" in text and "count_together" in text
    # Thirty photos are no growth of what is always taken for a hundred at least.
    assert "recount" not in text
    monkeypatch.setattr(preflight_checks, "_SMALL", 1)
    monkeypatch.setattr(preflight_checks, "_GROWN", 0.01)
    assert "'fedrec client recount'" in findings(home)["changes"][1]
    (photos / own[0] / "new.png").unlink()
    gone.write_bytes(kept)
    assert findings(home)["changes"] == (True, "the records are those of the last charge")


def test_the_disk_that_is_needed_follows_from_the_plan(
    home: MerchantHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "free")
    plan = a_plan(tmp_path, dimension=2_000_000)
    upload = derive(plan).upload_bytes
    logs = 60 * 2**20

    def with_free(amount: int) -> bool:
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(amount))
        return findings(home)["disk"][0] is True

    assert with_free(logs) and not with_free(logs - 1)
    join(home, plan)
    # The upload kept, the one before, and its journal: of what is sent and of what is answered.
    assert not with_free(logs + 6 * upload) and with_free(logs + 6 * upload + 4096 * plan.rounds)


@pytest.mark.parametrize("file", ["node.key", "identity.key", "policy.toml", "ledger.sqlite"])
def test_a_broken_file_fails_its_check_and_the_others_still_run(home: MerchantHome, file: str) -> None:
    (home.folder / file).write_bytes(b"rubbish")
    (home.folder / file).chmod(0o600)
    found = findings(home)
    wrong = {what for what, (ok, _) in found.items() if ok is False}
    cause = {"node.key": "keys", "identity.key": "keys", "policy.toml": "policy", "ledger.sqlite": "ledger"}
    assert wrong == {cause[file]}, "one fault is one line"
    left = {text for ok, text in found.values() if ok is None}
    assert left == ({f"not checked: see {cause[file]}"} if file != "node.key" else set())
    assert found["photos"][0] and found["disk"][0] and len(found) == 15
    shown = CliRunner().invoke(client.app, ["check", "--offline", "--home", str(home.folder)])
    assert "failed for" in str(shown.exception)


def test_each_fault_fails_its_own_check(home: MerchantHome, photos: Path, tmp_path: Path) -> None:
    fresh = MerchantHome.create(tmp_path / "fresh", name=NAME, data=photos, units=30)
    found = findings(fresh, offline=False)
    assert [what for what, (ok, _) in found.items() if ok is False] == ["joined"]
    assert found["policy"][0] and found["budget"][0] and found["server"] == (None, "not checked: see joined")
    shutil.rmtree(photos)
    found = findings(home)
    assert [what for what, (ok, _) in found.items() if ok is False] == ["photos"]
    assert found["classes"] == (None, "not checked: see photos")
    home.store.write_bytes(b"rubbish")
    assert [what for what, (ok, _) in findings(home).items() if ok is False] == ["photos", "store"]


def test_an_older_copy_of_the_ledger_is_reported(home: MerchantHome) -> None:
    charge(home, CHARGE)
    older = home.ledger.read_bytes()
    charge(home, replace(CHARGE, round_number=1))
    assert findings(home)["ledger"] == (True, "3 entries, the hash chain is valid, none is missing")
    home.ledger.write_bytes(older)
    ok, text = findings(home)["ledger"]
    assert not ok and "restored to an older state" in text
    home.ledger.unlink()
    ok, text = findings(home)["ledger"]
    assert not ok and "never replaced" in text


def test_a_spent_budget_is_reported(home: MerchantHome) -> None:
    charge(home, replace(CHARGE, mode="off", guaranteed_noise_multiplier=0.0))
    ok, text = findings(home)["budget"]
    assert not ok and "epsilon 10 is spent" in text


def test_the_proxy_is_shown_and_a_faulty_one_is_the_fault(
    home: MerchantHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    ok, text = findings(home, offline=False)["proxy"]
    assert ok and "reached directly" in text
    monkeypatch.setenv("HTTPS_PROXY", "http://user:secret@127.0.0.1:9")
    ok, text = findings(home, offline=False)["proxy"]
    assert ok and text.endswith("through the proxy http://127.0.0.1:9 of HTTPS_PROXY")
    monkeypatch.setenv("HTTPS_PROXY", "gopher://user:secret@127.0.0.1:9")
    found = findings(home, offline=False)
    assert found["proxy"][0] is False and "isn't supported" in found["proxy"][1]
    assert found["server"] == (None, "not checked: see proxy")
    assert "secret" not in str(found)


def test_a_running_daemon_is_no_false_alarm(home: MerchantHome, monkeypatch: pytest.MonkeyPatch) -> None:
    found = findings(home, offline=False)
    assert found["server"][0] is False and "authority" in found["server"][1]
    with opened(home):
        home.note_connection(connected=True)
        ok, text = findings(home, offline=False)["server"]
        assert ok and "the daemon runs" in text and "is connected" in text
        home.note_connection(connected=False, reason="nobody answers")
        ok, text = findings(home, offline=False)["server"]
        assert ok is False and "the daemon runs, but isn't connected" in text and "nobody answers" in text
    monkeypatch.setattr(clock, "ask_clock", lambda address, *, ca: 3600.0)
    ok, text = findings(home, offline=False)["clock"]
    assert not ok and "3600 s ahead" in text


def test_a_plan_s_cost_is_what_the_ledger_will_ask_for(tmp_path: Path) -> None:
    probe = Cohort(tmp_path / "probe")
    plan = probe.plan(rounds=3)
    shown = summarise_plan(plan, (), lifetime_delta=1e-5)
    assert shown.epsilon is not None and shown.cap_needed is not None
    assert shown.epsilon < shown.cap_needed, "the lifetime's delta is the smaller one"

    # What a merchant is asked for that has declared its count and no more.
    needed = summarise_plan(plan, probe.merchants["m0"].ledger.entries(), lifetime_delta=1e-5).cap_needed
    assert needed is not None and shown.cap_needed < needed < shown.cap_needed + 0.3

    cost = round_charge(
        plan, derive(plan), round_number=1, model_hash="ab" * 32, policy_hash="cd" * 32, seeded=False
    )

    def joins(cap: float) -> bool:
        identity, path = SigningIdentity.generate(), tmp_path / f"{cap}"
        create_ledger(path, signer=identity, count=COUNT)
        with Ledger(
            path, signer=identity, verify=verify, epsilon_lifetime=cap, delta_lifetime=1e-5
        ) as ledger:
            try:
                ledger.check_ahead(cost)
            except BudgetExceededError:
                return False
        return True

    assert joins(needed) and not joins(needed - 0.01)
    # Part of it spent, the same end is foreseen.
    probe.train(plan)
    entries = probe.merchants["m0"].ledger.entries()
    for spent in (1, 2, 3):
        later = summarise_plan(plan, [entries[0], *charges(entries)[:spent]], lifetime_delta=1e-5)
        assert later.last_round == spent and later.cap_needed == needed
    assert (
        summarise_plan(probe.plan(mode="off", noise_multiplier=None), (), lifetime_delta=1e-5).epsilon is None
    )


def told(home: MerchantHome, command: str, *options: str) -> str:
    shown = CliRunner().invoke(client.app, [command, "--home", str(home.folder), *options])
    assert shown.exit_code == 0, shown.exception
    return shown.output


def test_status_and_budget_as_text_and_json(home: MerchantHome, tmp_path: Path) -> None:
    plan, refused = a_plan(tmp_path), a_plan(tmp_path)
    join(home, plan)
    charge(home, replace(CHARGE, training_id=plan.training_id, round_number=2))
    store = MerchantStore(home.store)
    for _ in range(3):
        store.note_refusal(kind="query.join", reason="policy 'models': no", plan=refused.canonical_bytes())
    store.close()
    home.note_connection(connected=True)
    stopped = json.loads(told(home, "status", "--json"))
    assert not stopped["running"] and not stopped["connected"], "what was noted before the end isn't believed"
    with opened(home) as ledger:
        shown = json.loads(told(home, "status", "--json"))
        assert shown["running"] and shown["connected"]
        assert shown["training"]["training_id"] == plan.training_id and shown["training"]["last_round"] == 2
        assert (shown["ledger_entries"], shown["ledger_head"]) == (2, ledger.head()[1].hex())
        spent = ledger.reading().spent
        assert shown["budget"]["spent"] == pytest.approx(spent)
        assert shown["budget"]["left"] == pytest.approx(10 - spent)
        broken = ledger.reading(view="aggregation_broken").spent
        own = epsilon_pld([CHARGE.event(), count_event()], delta=CHARGE.delta - CHARGE.beta)
        assert shown["budget"]["trainings"][0]["epsilon"] == pytest.approx(own)
        assert shown["budget"]["spent_broken"] == pytest.approx(broken) and broken > spent
        (line,) = shown["refusals"]
        assert line["times"] == 3 and line["plan"]["training_id"] == refused.training_id
        text = told(home, "status")
    for part in (
        "connected since",
        plan.training_id[:16],
        "round 2",
        "3 times",
        "needs a lifetime_epsilon",
        "rating",
    ):
        assert part in text
    assert json.loads(told(home, "budget", "--json")) == shown["budget"]
    # For people: no ISO times and no 1e-05, as in 'server status'.
    for shown_text in (text, told(home, "budget")):
        assert re.search(r"\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2} UTC", shown_text)
        assert "1.0 × 10⁻⁵" in shown_text and not re.search(r"\dT\d|\+00:00|\de-\d", shown_text)
    # Once it is joined, what it would have cost at its refusal is of no use.
    join(home, refused)
    assert [line["plan"] for line in json.loads(told(home, "status", "--json"))["refusals"]] == [None]
    assert "1 charge of cnn" in told(home, "budget")
    # A policy that can't be read hides nothing else.
    (home.folder / "policy.toml").write_text("= =")
    assert read_status(home).policy_problem is not None
    assert "can't be used" in told(home, "status")


def test_refusals_that_are_no_longer_true_fade(home: MerchantHome, tmp_path: Path) -> None:
    """Each is examined again: by the rules, the pause, the budget and the charges of now."""
    plan = a_plan(tmp_path, min_contributors=3)
    policy = home.folder / "policy.toml"
    rules = policy.read_text("utf-8").replace("largest_steps = 2000", "largest_steps = 1")
    policy.write_text(rules)
    peers = tuple(plan.roster)
    known = home.joined().model_copy(update={"roster": peers, "server_key": plan.server_key})
    (home.folder / "join.json").write_bytes(known.canonical_bytes())

    def note(reason: str, *, with_plan: bool = True, kind: str = "query.join") -> None:
        store = MerchantStore(home.store)
        store.note_refusal(kind=kind, reason=reason, plan=plan.canonical_bytes() if with_plan else None)
        store.close()

    def standing() -> list[str]:
        return [each.reason.partition(":")[0] for each in read_status(home).refusals if each.standing]

    note("policy 'largest_steps': 3 > 1")
    note(PAUSED)
    note("policy 'hours': rounds are not answered at this time of day", with_plan=False, kind="train")
    assert standing() == ["policy 'largest_steps'"]
    home.pause()
    assert standing()[1:] == [PAUSED.partition(":")[0]]
    home.resume()
    policy.write_text(rules.replace("largest_steps = 1", "largest_steps = 2000"))
    assert standing() == []
    policy.write_text(rules.replace("lifetime_epsilon = 10.0", "lifetime_epsilon = 0.5"))
    assert standing() == ["policy 'largest_steps'"]
    assert told(home, "status").count("refused ") == 1
    # A round that was uploaded since, be it within the same second: the server has gone on.
    store = MerchantStore(home.store)
    store.put_answer(plan.training_id, 1, request_hash="ab" * 32, body=b"x")
    assert standing() == ["policy 'largest_steps'"]
    store.put_upload(plan.training_id, 2, request_hash="ab" * 32, body=b"x")
    assert standing() == [] and "refused " not in told(home, "status")
    # And one that is refused within the second after.
    store.note_refusal(kind="query.join", reason="policy 'largest_steps': 3 > 1", plan=plan.canonical_bytes())
    store.close()
    assert standing() == ["policy 'largest_steps'"]


def test_a_refused_round_fades_as_soon_as_its_rule_is_loosened(home: MerchantHome, tmp_path: Path) -> None:
    """The request of a round brings no plan: its rule is examined by the plan of the open training."""
    plan = a_plan(tmp_path, min_contributors=3)
    known = home.joined().model_copy(update={"roster": plan.roster, "server_key": plan.server_key})
    (home.folder / "join.json").write_bytes(known.canonical_bytes())
    join(home, plan)
    policy = home.folder / "policy.toml"
    rules = policy.read_text("utf-8")
    refused = {
        "policy 'largest_steps': 3 > 1": ("largest_steps = 2000", "largest_steps = 1"),
        "policy 'least_contributors': 3 < 9": ("least_contributors = 3", "least_contributors = 9"),
        "privacy budget: this step would bring it to 9": (
            "lifetime_epsilon = 10.0",
            "lifetime_epsilon = 0.5",
        ),
    }
    for reason, (loose, strict) in refused.items():
        assert loose in rules
        store = MerchantStore(home.store)
        store.note_refusal(kind="train", reason=reason)
        store.close()
        for text, holds in ((rules.replace(loose, strict), True), (rules, False)):
            policy.write_text(text)
            assert read_status(home).refusals[-1].standing is holds, reason
    # A training that is over asks for no round.
    policy.write_text(rules.replace("largest_steps = 2000", "largest_steps = 1"))
    assert read_status(home).refusals[0].standing
    store = MerchantStore(home.store)
    store.finish(plan.training_id)
    store.close()
    assert not any(each.standing for each in read_status(home).refusals)


def test_status_tells_what_left_what_it_cost_and_what_comes_next(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    merchant, made = cohort.merchants["m0"], []
    kept = merchant.store._insert

    def insert(kind: Kind, training_id: str, round_number: int, *, request_hash: str, body: bytes) -> None:
        made.append((kind, len(body)))
        kept(kind, training_id, round_number, request_hash=request_hash, body=body)

    merchant.store._insert = insert  # type: ignore[method-assign]
    plan = cohort.plan(rounds=3)
    cohort.train(plan)
    home = MerchantHome(cohort.folder / "m0")
    entries = merchant.ledger.entries()
    view = read_store(home.store)
    kinds = Counter(kind for kind, _ in made)
    assert kinds["upload"] == 3 and kinds["answer"] > 0
    assert {kind: pair[0] for kind, pair in view.sent[plan.training_id].items()} == dict(kinds)
    assert sum(pair[1] for pair in view.sent[plan.training_id].values()) == sum(size for _, size in made)
    budget = read_budget(home, None)[0]
    (found,) = histories(view, entries, budget, home=home.folder)
    assert (found.charged, found.lost, found.rounds, found.uploads) == (3, 0, 3, 3)
    assert found.bytes_sent == sum(size for _, size in made) and found.epsilon == budget.trainings[0].epsilon
    assert next_round(plan, entries) is None
    coming = next_round(plan, charges(entries)[:2])
    assert coming is not None and (coming.number, coming.rounds) == (3, 3)
    assert coming.seconds_between is not None and coming.seconds_between >= 0
    # A round that starts from the model of the one before shows that the one before came to nothing.
    again = [replace(entry, charge=replace(entry.charge, model_hash="ab" * 32)) for entry in charges(entries)]
    assert histories(view, again, budget, home=home.folder)[0].lost == 2


def test_a_merchant_that_takes_part_again_says_so_until_its_next_round(
    home: MerchantHome, tmp_path: Path
) -> None:
    assert told(home, "resume") == "this merchant was not paused\n" and read_status(home).resumed is None
    join(home, a_plan(tmp_path, min_contributors=3))
    home.pause()
    assert "paused: 'fedrec client resume'" in findings(home)["joined"][1]
    assert "\npaused " in told(home, "status")
    assert "takes part again" not in told(home, "status")
    assert "the server asks next" in told(home, "resume")
    shown = told(home, "status")
    assert "\nresumed     at 2" in shown and "paused" not in shown
    earlier = datetime.now(UTC) - timedelta(minutes=5)
    (home.folder / "resumed").write_text(earlier.isoformat(timespec="seconds"))
    assert read_status(home).resumed == earlier.isoformat(timespec="seconds")
    charge(home, CHARGE)
    assert read_status(home).resumed is None
    (home.folder / "resumed").write_text("no time")
    assert read_status(home).resumed is None


def test_a_plan_of_another_version_hides_nothing_else(home: MerchantHome, tmp_path: Path) -> None:
    store = MerchantStore(home.store)
    store.join("ab" * 32, plan=b"{}", seeded=False, make_secrets=TrainingSecrets)
    store.note_refusal(kind="query.join", reason="policy 'models': no", plan=b'{"old": 1}')
    store.close()
    plan = a_plan(tmp_path)
    join(home, plan)
    charge(home, replace(CHARGE, training_id=plan.training_id))
    found = read_status(home)
    assert [each.model for each in found.history] == ["linear", ""]
    assert [each.plan for each in found.refusals] == [None]
    assert "history" in told(home, "status")


def test_a_new_folder_has_a_status(tmp_path: Path, photos: Path) -> None:
    fresh = MerchantHome.create(tmp_path / "fresh", name=NAME, data=photos, units=30)
    text = told(fresh, "status")
    assert "none was joined yet" in text and "doesn't run" in text and "none is open" in text
    budget = told(fresh, "budget")
    assert "charged for no round" in budget and f"{fresh.declared_count().size} photos declared" in budget
    spent = math.ceil(100 * epsilon_pld([count_event()], delta=1e-5 / 32)) / 100
    assert f"epsilon {spent:.2f}" in budget


def test_stored_refusals_are_limited_however_many_a_server_causes(home: MerchantHome) -> None:
    store = MerchantStore(home.store)
    for number in range(100):
        store.note_refusal(kind="train", reason=f"number {number}", plan=b"x" * (2**20 + 1))
    store.close()
    kept = read_store(home.store).refusals
    assert [line.reason for line in kept] == [f"number {number}" for number in range(80, 100)]
    assert {line.plan for line in kept} == {None}


def test_a_bundle_says_how_often_a_merchant_refused(home: MerchantHome, tmp_path: Path) -> None:
    join(home, a_plan(tmp_path))
    store = MerchantStore(home.store)
    for reason in ("hours", "hours", "rate"):
        store.note_refusal(kind="train", reason=reason)
    store.close()
    evidence, _ = evidence_of_client(home.folder)
    told = evidence.refusals[NAME]
    assert told is not None
    often, once = sorted(told, key=lambda where: told[where])
    assert often.startswith("train, 2 times, the last at 20") and once.startswith("train at 20")


def test_the_log_s_size_is_the_one_that_is_reckoned_with() -> None:
    from fedrec.cli import logs

    assert (logs._FILES + 1) * logs._BYTES == preflight_checks._LOG_BYTES


def test_spent_and_left_are_counted_at_the_delta_of_today(home: MerchantHome) -> None:
    """3.25 was shown after lifetime_delta fell, 7.38 was true: no entry of another delta is believed."""
    for number in range(3):
        charge(home, replace(CHARGE, round_number=number, rounds=3))
    policy = home.folder / "policy.toml"
    rules = policy.read_text("utf-8")
    training = TrainingCost(CHARGE.event(), planned=3, charged=3, beta=CHARGE.beta)
    seen = []
    for cap, delta in ((10.0, 1e-5), (10.0, 1e-10), (7.0, 1e-7)):
        policy.write_text(
            rules.replace("lifetime_epsilon = 10.0", f"lifetime_epsilon = {cap}").replace(
                "lifetime_delta = 1e-5", f"lifetime_delta = {delta}"
            )
        )
        exact = read_filter([training], releases=[count_event()], epsilon=cap, delta=delta)
        seen.append(exact.spent)
        shown = json.loads(told(home, "budget", "--json"))
        assert shown["spent"] == pytest.approx(exact.spent) and shown["delta"] == delta
        assert shown["left"] == pytest.approx(exact.left) and shown["cap"] == cap
        assert json.loads(told(home, "status", "--json"))["budget"] == shown
        assert f"{math.floor(exact.left * 100) / 100:.2f} left of {cap:g}" in findings(home)["budget"][1]
        assert shown["sentence"] in told(home, "status")
    assert seen[1] > 1.3 * seen[0]


@pytest.mark.parametrize(
    ("left", "shown"),
    [(9.799, "9.79"), (9.8, "9.80"), (0.0, "0.00"), (-0.001, "overrun by 0.01"), (None, "–")],
)
def test_epsilon_left_is_never_shown_as_more(left: float | None, shown: str) -> None:
    assert number_format.epsilon_left(left) == shown
