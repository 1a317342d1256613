"""The verifier: a good bundle holds, and every kind of tampering is named with the entry where it shows."""

from __future__ import annotations

import ast
import copy
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
from dp_accounting.rdp import RdpAccountant
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedrec.clients.policy import MerchantPolicy
from fedrec.errors import RefusedError
from fedrec.privacy.accounting.data_commitment import Opening
from fedrec.privacy.accounting.events import Event
from fedrec.privacy.accounting.group_privacy import epsilon_of_copies
from fedrec.privacy.accounting.ledger import Ledger
from fedrec.privacy.accounting.ledger_creation import create_ledger
from fedrec.privacy.accounting.ledger_entries import (
    ChargeEntry,
    CountEntry,
    Entry,
    SpendingEntry,
    charges,
    spending,
)
from fedrec.privacy.accounting.pld import epsilon_pld
from fedrec.privacy.accounting.rdp import ORDERS, rdp_vector
from fedrec.privacy.audit import verify as verifier
from fedrec.privacy.audit.bundle import CONTEXT, Evidence, MerchantRecord, body_of, canonical, seal
from fedrec.privacy.audit.verify import epsilons
from fedrec.privacy.audit.verify.__main__ import main as program
from fedrec.privacy.audit.verify.forms import read_form
from fedrec.privacy.audit.verify.outcome import Merchant
from fedrec.privacy.audit.verify.policy_checks import GRACE, _broken_by_plan, _within
from fedrec.privacy.audit.verify.report_checks import _ReportChecks
from fedrec.privacy.audit.verify.reports import Report
from fedrec.privacy.derived_parameters import DUPLICATE_POLICY, derive
from fedrec.privacy.dp.quantise import sensitivity as smaller_sensitivity
from fedrec.privacy.identity import SigningIdentity, verify
from fedrec.protocol.roster_fingerprints import roster_fingerprint
from fedrec.protocol.training_report.privacy_section import MerchantLine
from fedrec.server.receipts import read_receipts
from fedrec.server.report.report_json import build_report
from fedrec.server.report.training_result import RunFacts, TrainingResult
from fedrec.simulations.simulation_report import _ledger_epsilon, _spent
from tests.support.audited_plans import audited
from tests.support.cohort import Cohort
from tests.support.training_reports import NO_PHOTOS

Bundle = dict[str, Any]
Change = Callable[[Bundle, "Scene"], None]
_NOW = datetime.now(UTC)
HOURS_OUT = (f"{_NOW + timedelta(hours=2):%H:%M}-{_NOW + timedelta(hours=4):%H:%M}",)
HOURS_IN = (f"{_NOW - timedelta(hours=2):%H:%M}-{_NOW + timedelta(hours=4):%H:%M}",)
POLICY = MerchantPolicy(lifetime_epsilon=50.0, lifetime_delta=1e-3, least_noise_multiplier=0.5)


def build(evidence: Evidence, *, signer: SigningIdentity) -> Bundle:
    """A bundle without pages, as a reader would parse it."""
    bundle: Bundle = json.loads(json.dumps(seal(body_of(evidence), signer=signer, pages={})))
    return bundle


def _with_count(some: Sequence[ChargeEntry], entries: Sequence[Entry]) -> list[SpendingEntry]:
    return [*(entry for entry in entries if isinstance(entry, CountEntry)), *some]


class Scene:
    """Four merchants, two trainings of three rounds, and the bundle of it all."""

    def __init__(self, folder: Path) -> None:
        self.cohort = Cohort(folder, policy=POLICY, seed=None)
        self.folder = folder
        self.plans = (self.cohort.plan(), self.cohort.plan(sample_rate=0.25, noise_multiplier=1.5))
        for plan in self.plans:
            self.cohort.train(plan)
        self.report = self.reported()
        self.signer = self.cohort.server
        self.bundle = self.build()

    def build(self) -> Bundle:
        records = tuple(
            MerchantRecord(
                name=name,
                public=self.cohort.identities[name].public,
                ledger=self.folder / name / "ledger.sqlite",
                policies=(POLICY.rules,),
            )
            for name in self.cohort.names
        )
        evidence = Evidence(
            merchants=records,
            plans=self.plans,
            receipts=tuple(read_receipts(self.folder / "receipts.sqlite")),
            servers=(self.cohort.server.public.hex(),),
            attachments={"report": self.report},
        )
        return build(evidence, signer=self.signer)

    def reported(self) -> dict[str, Any]:
        """What the report of the second training says of privacy, by the code that writes reports."""
        plan, rounds = self.plans[1], 3
        derived = derive(plan)
        ledgers = {name: merchant.ledger.entries() for name, merchant in self.cohort.merchants.items()}
        whole = build_report(
            TrainingResult(plan=plan, derived=derived, lines=(), metrics=None, split=None, refusals={}),
            facts=RunFacts(
                id="r",
                engine="test",
                seconds=1.0,
                peak_memory_bytes=1,
                interrupted=False,
                rounds_reserved=rounds,
                seeded=False,
            ),
            data=NO_PHOTOS,
            per_merchant=[
                MerchantLine(
                    merchant=name,
                    records=40,
                    epsilon=_ledger_epsilon(
                        _with_count(charges(entries)[rounds:], entries), delta=plan.delta
                    ),
                    epsilon_lifetime=_spent(spending(entries)),
                    rounds_charged=rounds,
                )
                for name, entries in ledgers.items()
            ],
        ).to_json()
        return {name: whole[name] for name in ("run", "privacy", "secure_aggregation", "warnings")}

    def write(self, bundle: Bundle, path: Path, *, resign: bool = True) -> Path:
        """Write a bundle; whoever made it can sign whatever it holds."""
        if resign:
            bundle = bundle | {
                "signature": self.signer.sign(canonical(bundle["body"]), context=CONTEXT).hex()
            }
        path.write_text(json.dumps(bundle))
        return path

    @staticmethod
    def chain(rows: list[Any], *, identity: SigningIdentity) -> None:
        """Chain and sign rows anew, as a merchant that cheats could."""
        previous = hashlib.sha256(b"fedrec/ledger/genesis/1" + identity.public).digest()
        for row in rows:
            previous = hashlib.sha256(b"fedrec/ledger/entry/1" + previous + row["payload"].encode()).digest()
            row["hash"] = previous.hex()
            row["signature"] = identity.sign(previous, context=b"fedrec/ledger/1").hex()


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    cohort_policy = tmp_path_factory.mktemp("audit")
    return Scene(cohort_policy)


def rows_of(bundle: Bundle, merchant: int = 1) -> list[Any]:
    rows: list[Any] = bundle["body"]["merchants"][merchant]["entries"]
    return rows


def edit(row: Any, part: str, **changes: Any) -> None:
    entry = json.loads(row["payload"])
    target = entry if part == "entry" else entry[part]
    target |= changes
    row["payload"] = json.dumps(entry, sort_keys=True, separators=(",", ":"))


def test_a_good_bundle_verifies(scene: Scene, tmp_path: Path) -> None:
    outcome = verifier.verify(scene.write(scene.bundle, tmp_path / "audit.json"))
    assert outcome.ok and outcome.complete and not outcome.alarms, (outcome.failures, outcome.gaps)
    assert len(outcome.lines) == 5 and "6 charges and 1 count hold" in outcome.lines[1]
    assert "at delta 0.001" in outcome.lines[1] and outcome.lines[1].endswith("covers entry 13")
    assert outcome.verdict == "The record holds."
    told = "\n".join(verifier.text_lines(outcome))
    for key in (scene.cohort.server, *scene.cohort.identities.values()):
        assert key.public.hex() in told
    assert "by another way" in told


def test_it_runs_alone_and_imports_nothing_of_ours(
    scene: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = Path(verifier.__file__).parent
    imported = set()
    for module in source.glob("*.py"):
        for node in ast.walk(ast.parse(module.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.module is not None and node.level in (0, 1)
                if node.level == 1:
                    assert (source / f"{node.module}.py").is_file()
                else:
                    imported.add(node.module.split(".")[0])
    assert imported - set(sys.stdlib_module_names) == {"numpy", "cryptography", "dp_accounting"}
    shutil.copytree(source, tmp_path / "alone" / "verify", ignore=shutil.ignore_patterns("__pycache__"))
    good = scene.write(scene.bundle, tmp_path / "audit.json")
    without = copy.deepcopy(scene.bundle)
    without["body"]["merchants"][1]["receipts"] = []
    incomplete = scene.write(without, tmp_path / "incomplete.json")
    wrong = copy.deepcopy(scene.bundle)
    amount(wrong, scene)
    tampered = scene.write(wrong, tmp_path / "tampered.json")
    cut = tmp_path / "cut.json"
    cut.write_bytes(good.read_bytes()[:-100])
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM, str(good)],
        cwd=tmp_path / "alone",
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.endswith("The record holds.\n")
    key = f"--server-key={scene.cohort.server.public.hex()}"
    for arguments, code, says in (
        ((good, key), 0, "The record holds."),
        ((incomplete,), 3, "The record holds as far as it could be checked."),
        ((incomplete, "--allow-missing"), 0, "The record holds as far as it could be checked."),
        ((tampered,), 1, "The record does NOT hold."),
        ((good, f"--merchant=m1={'0' * 64}"), 1, "its key is not the one that was given"),
        ((cut,), 2, "not a whole JSON file"),
    ):
        assert program([str(argument) for argument in arguments]) == code
        shown = capsys.readouterr()
        assert says in shown.out + shown.err


PROGRAM = """
import runpy, sys
sys.path.insert(0, ".")
sys.modules["fedrec"] = None
runpy.run_module("verify", run_name="__main__", alter_sys=True)
"""


def amount(bundle: Bundle, scene: Scene) -> None:
    row = rows_of(bundle)[5]
    row["payload"] = row["payload"].replace('"spent_after":', '"spent_after": ')


def amount_unsigned(bundle: Bundle, scene: Scene) -> None:
    edit(rows_of(bundle)[5], "epsilons", spent_after=0.5)


def amount_signed(bundle: Bundle, scene: Scene) -> None:
    amount_unsigned(bundle, scene)
    scene.chain(rows_of(bundle), identity=scene.cohort.identities["m1"])
    bundle["body"]["merchants"][1]["receipts"] = []


def pld_signed(bundle: Bundle, scene: Scene) -> None:
    entry = json.loads(rows_of(bundle)[5]["payload"])
    rechained(bundle, scene, 5, "epsilons", own_epsilon=entry["epsilons"]["own_epsilon"] * 0.998)


def pld_above(bundle: Bundle, scene: Scene) -> None:
    entry = json.loads(rows_of(bundle)[5]["payload"])
    rechained(bundle, scene, 5, "epsilons", own_epsilon=entry["epsilons"]["own_epsilon"] * 1.002)


def dropped(bundle: Bundle, scene: Scene) -> None:
    del rows_of(bundle)[7]


def renumbered(bundle: Bundle, scene: Scene) -> None:
    del rows_of(bundle)[7]
    for number, row in enumerate(rows_of(bundle), start=1):
        edit(row, "entry", sequence=number)
    scene.chain(rows_of(bundle), identity=scene.cohort.identities["m1"])
    bundle["body"]["merchants"][1]["receipts"] = []


def reordered(bundle: Bundle, scene: Scene) -> None:
    rows = rows_of(bundle)
    rows[3], rows[4] = rows[4], rows[3]


def duplicated(bundle: Bundle, scene: Scene) -> None:
    rows_of(bundle).insert(4, copy.deepcopy(rows_of(bundle)[3]))


def charged_twice(bundle: Bundle, scene: Scene) -> None:
    rows_of(bundle).insert(4, copy.deepcopy(rows_of(bundle)[3]))
    for number, row in enumerate(rows_of(bundle), start=1):
        edit(row, "entry", sequence=number)
    scene.chain(rows_of(bundle), identity=scene.cohort.identities["m1"])


def back_dated(bundle: Bundle, scene: Scene) -> None:
    edit(rows_of(bundle)[9], "entry", created_at="2020-01-01T00:00:00+00:00")
    scene.chain(rows_of(bundle), identity=scene.cohort.identities["m1"])


def mixed_units_whole(bundle: Bundle, scene: Scene) -> None:
    rules = DUPLICATE_POLICY["product"]
    edit(rows_of(bundle)[7], "charge", unit="product", duplicate_policy=rules)
    scene.chain(rows_of(bundle), identity=scene.cohort.identities["m1"])


def mixed_units(bundle: Bundle, scene: Scene) -> None:
    edit(rows_of(bundle)[7], "charge", unit="product")
    scene.chain(rows_of(bundle), identity=scene.cohort.identities["m1"])


def swapped_key(bundle: Bundle, scene: Scene) -> None:
    stranger = SigningIdentity.generate()
    bundle["body"]["merchants"][1]["public_key"] = stranger.public.hex()


def swapped_key_signed(bundle: Bundle, scene: Scene) -> None:
    stranger = SigningIdentity.generate()
    bundle["body"]["merchants"][1]["public_key"] = stranger.public.hex()
    bundle["body"]["merchants"][1]["receipts"] = []
    scene.chain(rows_of(bundle), identity=stranger)


def older_copy(bundle: Bundle, scene: Scene) -> None:
    del rows_of(bundle)[8:]


def cut_at_the_end(bundle: Bundle, scene: Scene) -> None:
    del rows_of(bundle)[-1]


def rechained(bundle: Bundle, scene: Scene, row: int, part: str, **changes: Any) -> None:
    """Edit one entry of m1 as m1 itself could: it signs anew, and has no receipts that speak against it."""
    edit(rows_of(bundle)[row], part, **changes)
    scene.chain(rows_of(bundle), identity=scene.cohort.identities["m1"])
    bundle["body"]["merchants"][1]["receipts"] = []


def own_share_of(multiplier: float, *, sensitivity: float) -> float:
    """What one of two honest shares guarantees alone (docs/accounting.md)."""
    variance = ((multiplier * sensitivity) ** 2 + 9) / 2
    return float((variance - 9) ** 0.5 / sensitivity)


def another_noise(bundle: Bundle, scene: Scene) -> None:
    noise = dict.fromkeys(("guaranteed_noise_multiplier", "planned_noise_multiplier"), 1.01)
    delta = json.loads(rows_of(bundle)[1]["payload"])["charge"]["sensitivity"]
    own = own_share_of(1.01, sensitivity=delta)
    rechained(bundle, scene, 1, "charge", **noise, broken_noise_multiplier=own)


def more_guaranteed(bundle: Bundle, scene: Scene) -> None:
    rechained(bundle, scene, 3, "charge", guaranteed_noise_multiplier=1.02)


def own_share(bundle: Bundle, scene: Scene) -> None:
    rechained(bundle, scene, 3, "charge", broken_noise_multiplier=0.8)


def sensitivity(bundle: Bundle, scene: Scene) -> None:
    charge = json.loads(rows_of(bundle)[3]["payload"])["charge"]
    rechained(bundle, scene, 3, "charge", sensitivity=charge["sensitivity"] * 0.99)


def dimension(bundle: Bundle, scene: Scene) -> None:
    charge = json.loads(rows_of(bundle)[3]["payload"])["charge"]
    smaller = smaller_sensitivity(scale=charge["scale"], dimension=5, beta=charge["beta"], float_slack=2**-16)
    own = own_share_of(charge["planned_noise_multiplier"], sensitivity=smaller)
    changes = {"dimension": 5, "sensitivity": smaller, "broken_noise_multiplier": own}
    rechained(bundle, scene, 3, "charge", **changes)


def adjacency(bundle: Bundle, scene: Scene) -> None:
    rechained(bundle, scene, 5, "charge", adjacency="replace-one")


def duplicate_policy(bundle: Bundle, scene: Scene) -> None:
    rechained(bundle, scene, 5, "charge", duplicate_policy="none at all")


def first_model(bundle: Bundle, scene: Scene) -> None:
    rechained(bundle, scene, 7, "charge", model_hash="5" * 64)


def figures_unasked(bundle: Bundle, scene: Scene) -> None:
    """A round after the last one is one of site figures."""
    rechained(bundle, scene, 5, "charge", round_number=4, sample_rate=1.0)


def time_of_another_form(bundle: Bundle, scene: Scene) -> None:
    written = json.loads(rows_of(bundle)[9]["payload"])["created_at"]
    rechained(bundle, scene, 9, "entry", created_at=written.replace("+00:00", ".000+00:00"))


def after_the_bundle(bundle: Bundle, scene: Scene) -> None:
    rechained(bundle, scene, 11, "entry", created_at="2099-01-01T00:00:00+00:00")


def key_twice(bundle: Bundle, scene: Scene) -> None:
    row = rows_of(bundle)[7]
    row["payload"] = row["payload"].replace('"clip":1.0', '"clip":9.0,"clip":1.0')
    scene.chain(rows_of(bundle), identity=scene.cohort.identities["m1"])


def not_canonical(bundle: Bundle, scene: Scene) -> None:
    row = rows_of(bundle)[7]
    row["payload"] = row["payload"].replace('"clip":1.0', '"clip": 1.0')
    scene.chain(rows_of(bundle), identity=scene.cohort.identities["m1"])


def key_twice_in_a_policy(bundle: Bundle, scene: Scene) -> None:
    bundle["body"]["merchants"][1]["policies"].append('{"hours": null, "hours": []}')


def more_in_a_row(bundle: Bundle, scene: Scene) -> None:
    rows_of(bundle)[5]["note"] = "epsilon 0.1"


def part_missing(bundle: Bundle, scene: Scene) -> None:
    del bundle["body"]["merchants"][1]["policies"]


def changed_in_the_middle(bundle: Bundle, scene: Scene) -> None:
    """Signed anew throughout, but the server's receipts speak against it."""
    edit(rows_of(bundle)[3], "charge", code="fedrec 9")
    scene.chain(rows_of(bundle), identity=scene.cohort.identities["m1"])


def two_wrongs(bundle: Bundle, scene: Scene) -> None:
    """A figure of entry 5, and the plan's rate at entry 2: checks of different kinds."""
    edit(rows_of(bundle)[9], "epsilons", spent_after=0.5)
    edit(rows_of(bundle)[3], "charge", clip=2.0)
    scene.chain(rows_of(bundle), identity=scene.cohort.identities["m1"])
    bundle["body"]["merchants"][1]["receipts"] = []


def summary_noise(bundle: Bundle, scene: Scene) -> None:
    bundle["body"]["merchants"][1]["summary"]["least_noise_multiplier"] *= 1.01


def summary_epsilon(bundle: Bundle, scene: Scene) -> None:
    bundle["body"]["merchants"][1]["summary"]["spent"] -= 0.01


def summary_broken(bundle: Bundle, scene: Scene) -> None:
    bundle["body"]["merchants"][1]["summary"]["spent_aggregation_broken"] *= 0.99


def forged_receipt(bundle: Bundle, scene: Scene) -> None:
    bundle["body"]["merchants"][1]["receipts"][5]["signature"] = "0" * 128


def stranger_s_receipt(bundle: Bundle, scene: Scene) -> None:
    merchants = bundle["body"]["merchants"]
    merchants[1]["receipts"].append(merchants[2]["receipts"][0])


def not_a_number(bundle: Bundle, scene: Scene) -> None:
    row = rows_of(bundle)[3]
    row["payload"] = row["payload"].replace('"clip":1.0', '"clip":NaN')
    assert "NaN" in row["payload"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (amount, "entry 6: it can't be read (it is not in its one encoding)"),
        (amount_unsigned, "entry 6: its hash doesn't follow"),
        (amount_signed, "entry 6: epsilon by the lifetime filter, after it"),
        (pld_signed, "entry 6: epsilon by PLD, of its own"),
        (pld_above, "entry 6: epsilon by PLD, of its own"),
        (dropped, "entry 8: it is numbered 9"),
        (renumbered, "entry 9: epsilon by the lifetime filter, before it"),
        (reordered, "entry 4: it is numbered 5"),
        (duplicated, "entry 5: it is numbered 4"),
        (charged_twice, "entry 5: its training, round and step were charged before"),
        (back_dated, "entry 10: it is dated 2020"),
        (time_of_another_form, "entry 10: it can't be read (a time is not UTC in seconds)"),
        (after_the_bundle, "entry 12: it is dated 2099-01-01T00:00:00+00:00, after the bundle was made"),
        (mixed_units, "entry 8: it can't be read"),
        (mixed_units_whole, "entry 8: it protects a product, those before it a record"),
        (swapped_key, "entry 1: its hash doesn't follow"),
        (swapped_key_signed, "entry 2: the plan's roster has another key"),
        (older_copy, "entry 9: the ledger lacks an entry"),
        (cut_at_the_end, "entry 13: the ledger lacks an entry"),
        (changed_in_the_middle, "entry 4: the ledger lacks an entry that the receipt of round 2"),
        (another_noise, "entry 2: its noise multiplier is 1.01"),
        (more_guaranteed, "entry 4: it guarantees a noise multiplier of 1.02"),
        (own_share, "entry 4: its own share of noise is 0.8"),
        (sensitivity, "entry 4: its sensitivity is"),
        (dimension, "entry 4: its dimension is 5, the plan's is 21"),
        (adjacency, "entry 6: it can't be read (adjacency is out of range)"),
        (duplicate_policy, "entry 6: it can't be read (duplicate_policy is out of range)"),
        (first_model, "entry 8: the first round's model is not the one that the plan names"),
        (figures_unasked, "entry 6: it is of site figures, which the plan doesn't ask for"),
        (summary_noise, "the summary's least_noise_multiplier is 1.01"),
        (summary_epsilon, "the summary's spent"),
        (summary_broken, "epsilon by the lifetime filter, if aggregation were broken"),
        (forged_receipt, "entry 6: the receipt of round 3"),
        (stranger_s_receipt, "this merchant didn't sign"),
        (not_a_number, "entry 4: it can't be read"),
        (key_twice, "entry 8: it can't be read (a key comes twice)"),
        (not_canonical, "entry 8: it can't be read (it is not in its one encoding)"),
        (more_in_a_row, "entry 6: it can't be read (it is not in its one encoding)"),
        (key_twice_in_a_policy, "(ValueError: policy 2 is not JSON: a key comes twice)"),
        (part_missing, "a part can't be read (KeyError: 'policies')"),
        (two_wrongs, "entry 4: its clip is 2.0"),
    ],
)
def test_tampering_is_reported_where_it_was_done(
    scene: Scene, tmp_path: Path, change: Change, says: str
) -> None:
    bundle = copy.deepcopy(scene.bundle)
    change(bundle, scene)
    outcome = verifier.verify(scene.write(bundle, tmp_path / "audit.json"))
    # A first round's model that differs from the others' is the bundle's affair as well.
    assert set(outcome.failures) - {""} == {"m1"}, outcome.failures
    assert says in outcome.failures["m1"]
    # The others' ledgers are judged on their own.
    assert len([line for line in outcome.lines if "1 count hold" in line]) == 3


def fresh_server(bundle: Bundle, scene: Scene) -> None:
    """The last round is gone, with its answer, and receipts for the rest come from a key made up for that."""
    made_up = SigningIdentity.generate()
    bundle["body"]["servers"] = [made_up.public.hex()]
    merchant = bundle["body"]["merchants"][1]
    last = json.loads(rows_of(bundle)[-2]["payload"])["epsilons"]
    del rows_of(bundle)[-1], merchant["receipts"][-1]
    merchant["summary"] |= {"entries": 5, "head": rows_of(bundle)[-1]["hash"]}
    merchant["summary"] |= {"spent": last["spent_after"]}
    bundle["body"]["attachments"] = {}
    for merchant in bundle["body"]["merchants"]:
        for receipt in merchant["receipts"]:
            sealed = made_up.sign(canonical(receipt["head"]), context=b"fedrec/ledger-receipt/1")
            receipt |= {"server_key": made_up.public.hex(), "signature": sealed.hex()}


def same_name(bundle: Bundle, scene: Scene) -> None:
    bundle["body"]["merchants"][2]["merchant"] = "m1"


def same_key(bundle: Bundle, scene: Scene) -> None:
    merchants = bundle["body"]["merchants"]
    merchants[2]["public_key"] = merchants[1]["public_key"]


def no_name(bundle: Bundle, scene: Scene) -> None:
    del bundle["body"]["merchants"][2]["merchant"]


def other_model(bundle: Bundle, scene: Scene) -> None:
    edit(rows_of(bundle)[3], "charge", model_hash="7" * 64)
    scene.chain(rows_of(bundle), identity=scene.cohort.identities["m1"])
    bundle["body"]["merchants"][1]["receipts"] = []
    bundle["body"]["merchants"][1]["summary"]["head"] = rows_of(bundle)[-1]["hash"]


def words(bundle: Bundle, scene: Scene) -> None:
    bundle["body"]["statements"]["claims"].append("Epsilon is 0.1 for everybody.")


def key_twice_in_a_plan(bundle: Bundle, scene: Scene) -> None:
    bundle["body"]["plans"].append('{"clip": 1, "clip": 2}')


def plan_of_another_form(bundle: Bundle, scene: Scene) -> None:
    bundle["body"]["plans"].append(json.dumps(scene.plans[0].model_dump(mode="json") | {"rounds": "3"}))


def plan_without_a_field(bundle: Bundle, scene: Scene) -> None:
    bundle["body"]["plans"].append(scene.plans[0].model_dump_json(exclude={"committee"}))


def unknown_part(bundle: Bundle, scene: Scene) -> None:
    bundle["body"]["headline"] = "epsilon 0.1"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (fresh_server, "is another server's than the bundle says"),
        (same_name, "merchant m1 comes twice"),
        (same_key, "merchant m2 has another merchant's key"),
        (no_name, "merchant number 3 has no name and key"),
        (other_model, "entry 4 of m1 names another model for round 2"),
        (words, "unknown statement"),
        (key_twice_in_a_plan, "a key comes twice"),
        (plan_of_another_form, "'rounds' of the plan of training "),
        (plan_without_a_field, " has no 'committee'"),
        (unknown_part, "has one that is unknown"),
    ],
)
def test_faults_of_the_whole_are_reported_for_the_bundle(
    scene: Scene, tmp_path: Path, change: Change, says: str
) -> None:
    bundle = copy.deepcopy(scene.bundle)
    change(bundle, scene)
    outcome = verifier.verify(scene.write(bundle, tmp_path / "audit.json"))
    assert says in outcome.failures[""], outcome.failures
    # Receipts of another server than the plans' are wrong besides, for each merchant.
    receipts = {"m0", "m1", "m2", "m3"} if change is fresh_server else set()
    assert set(outcome.failures) == {""} | receipts


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("epsilon", lambda value: value * 0.99),
        ("cross_checks", lambda value: value | {"rdp": value["rdp"] * 0.99}),
        ("epsilon_at_1e-5", lambda value: value * 0.99),
        ("epsilon_of_copies", lambda value: value | {"2": value["2"] * 0.95}),
        ("epsilon_of_copies", lambda value: {"2": value["2"]}),
        ("rating", lambda value: value | {"word": "strong"}),
        ("epsilon_aggregation_broken", lambda value: value * 0.99),
        ("noise_multiplier", lambda value: value * 1.01),
        ("delta", lambda value: value / 10),
        ("steps", lambda value: value - 1),
        ("steps", lambda value: value + 1),
        ("mode", lambda value: "local"),
        ("sample_rate", lambda value: value / 2),
        ("min_contributors", lambda value: value + 1),
        ("adjacency", lambda value: "replace-one"),
        ("unit", lambda value: "product"),
        ("duplicate_policy", lambda value: DUPLICATE_POLICY["product"]),
        ("clip", lambda value: value * 1.01),
        ("colluders", lambda value: value + 1),
        # Who knows the seed can subtract the noise: no epsilon is called moderate then.
        ("seeded", lambda value: True),
        ("events", lambda value: value[1:]),
        ("events", lambda value: [value[0] | {"kind": "mean"}, *value[1:]]),
        ("events", lambda value: [value[0] | {"note": ""}, *value[1:]]),
        ("events", lambda value: [value[0] | {"noise_multiplier": 9.0}, *value[1:]]),
    ],
)
def test_the_attached_report_must_agree_with_the_ledgers(
    scene: Scene, tmp_path: Path, name: str, change: Callable[[Any], Any]
) -> None:
    bundle = copy.deepcopy(scene.bundle)
    privacy = bundle["body"]["attachments"]["report"]["privacy"]
    privacy[name] = change(privacy[name])
    outcome = verifier.verify(scene.write(bundle, tmp_path / "audit.json"))
    assert set(outcome.failures) == {""} and "attached report" in outcome.failures[""], outcome.failures


@pytest.mark.parametrize(
    ("name", "value"),
    [("scheme", "none"), ("trust", {"opened_by": "nobody", "reads_single_updates": "server"})],
)
def test_the_attached_report_names_the_plan_s_scheme_and_whom_it_trusts(
    scene: Scene, tmp_path: Path, name: str, value: object
) -> None:
    bundle = copy.deepcopy(scene.bundle)
    bundle["body"]["attachments"]["report"]["secure_aggregation"][name] = value
    told = verifier.verify(scene.write(bundle, tmp_path / "audit.json")).failures
    assert set(told) == {""} and told[""].startswith(f"the attached report's {name} is not the plan's: ")


def test_a_report_says_that_charges_were_seeded(scene: Scene) -> None:
    entries = [json.loads(row["payload"]) for row in rows_of(scene.bundle)]
    plan, merchant = audited(scene.plans[1]), Merchant("m1", "00", {}, entries=entries)
    report = read_form(Report, scene.report, what="it")
    assert not list(_ReportChecks(report, plan, [merchant]).settings())
    last = next(entry for entry in reversed(entries) if entry["kind"] == "charge")
    last["charge"]["seeded"] = True
    (problem,) = _ReportChecks(report, plan, [merchant]).settings()
    assert problem.reason == "the attached report's seeded is False, True follows"


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("entries", lambda value: value - 1),
        ("head", lambda value: "0" * 64),
        ("charges", lambda value: value - 1),
        ("training_epsilon", lambda value: value - 0.01),
        ("training_delta", lambda value: value / 2),
        ("cap_epsilon", lambda value: value - 1),
        ("delta", lambda value: value / 2),
        ("largest_sample_rate", lambda value: value / 2),
        ("trainings", lambda value: value - 1),
    ],
)
def test_the_summary_must_agree_with_the_entries(
    scene: Scene, tmp_path: Path, name: str, change: Callable[[Any], Any]
) -> None:
    bundle = copy.deepcopy(scene.bundle)
    summary = bundle["body"]["merchants"][1]["summary"]
    summary[name] = change(summary[name])
    outcome = verifier.verify(scene.write(bundle, tmp_path / "audit.json"))
    assert outcome.failures["m1"].startswith(f"the summary's {name} is {summary[name]}, the history's is ")


def test_a_summary_has_no_figure_that_nobody_checks(scene: Scene, tmp_path: Path) -> None:
    bundle = copy.deepcopy(scene.bundle)
    bundle["body"]["merchants"][1]["summary"]["epsilon"] = 0.1
    outcome = verifier.verify(scene.write(bundle, tmp_path / "audit.json"))
    assert outcome.failures == {"m1": "the summary has other figures than those that can be checked"}


@pytest.mark.parametrize(("size", "said"), [(999, False), (1000, True)])
def test_a_delta_that_allows_a_whole_record_is_said(
    scene: Scene, tmp_path: Path, size: int, said: bool
) -> None:
    """The ledger's delta is 0.001."""
    bundle = copy.deepcopy(scene.bundle)
    rows, merchant = rows_of(bundle), bundle["body"]["merchants"][1]
    recount(rows[0], size=size)
    scene.chain(rows, identity=scene.cohort.identities["m1"])
    merchant["receipts"] = []
    merchant["summary"] |= {"head": rows[-1]["hash"], "size": size}
    outcome = verifier.verify(scene.write(bundle, tmp_path / "audit.json"))
    assert outcome.ok
    assert (f"that delta alone allows a whole record of {size} to be shown" in outcome.lines[2]) is said


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda privacy: privacy | {"steps": "6"},
            "'privacy.steps' of the attached report is not a whole number",
        ),
        (
            lambda privacy: privacy | {"per_merchant": [1]},
            "'privacy.per_merchant.0' of the attached report is not an object",
        ),
        (lambda privacy: {}, "the attached report has no 'privacy.mode'"),
    ],
)
def test_a_report_of_another_form_is_named_with_the_place(
    scene: Scene, tmp_path: Path, change: Callable[[dict[str, Any]], Any], told: str
) -> None:
    bundle = copy.deepcopy(scene.bundle)
    report = bundle["body"]["attachments"]["report"]
    report["privacy"] = change(report["privacy"])
    outcome = verifier.verify(scene.write(bundle, tmp_path / "audit.json"))
    assert set(outcome.failures) == {""} and outcome.failures[""].startswith(told)


@pytest.mark.parametrize("name", ["epsilon", "epsilon_lifetime", "rounds_charged"])
def test_the_attached_report_must_agree_about_each_merchant(scene: Scene, tmp_path: Path, name: str) -> None:
    bundle = copy.deepcopy(scene.bundle)
    line = bundle["body"]["attachments"]["report"]["privacy"]["per_merchant"][2]
    line[name] = line[name] - 1
    outcome = verifier.verify(scene.write(bundle, tmp_path / "audit.json"))
    assert set(outcome.failures) == {""} and "m2" in outcome.failures[""], outcome.failures


def without_plans(bundle: Bundle) -> None:
    bundle["body"]["plans"] = bundle["body"]["plans"][:1]


def without_policies(bundle: Bundle) -> None:
    bundle["body"]["merchants"][1]["policies"] = []


def without_receipts(bundle: Bundle) -> None:
    bundle["body"]["merchants"][1]["receipts"] = []


@pytest.mark.parametrize(
    ("remove", "says"),
    [
        (without_plans, "m1: 3 charges of 1 trainings whose plans aren't here"),
        (without_policies, "m1: 7 charges or counts under policies that aren't here"),
        (without_receipts, "m1: no receipts: entries may have been cut from the end"),
    ],
)
def test_missing_parts_have_their_own_verdict(
    scene: Scene, tmp_path: Path, remove: Callable[[Bundle], None], says: str
) -> None:
    bundle = copy.deepcopy(scene.bundle)
    remove(bundle)
    outcome = verifier.verify(scene.write(bundle, tmp_path / "audit.json"))
    assert outcome.ok and not outcome.complete and says in outcome.gaps, outcome
    assert outcome.verdict == "The record holds as far as it could be checked."


def test_the_newest_receipt_and_absent_merchants_are_named(scene: Scene, tmp_path: Path) -> None:
    bundle = copy.deepcopy(scene.bundle)
    del bundle["body"]["merchants"][1]["receipts"][-2:]
    del bundle["body"]["merchants"][3]
    outcome = verifier.verify(scene.write(bundle, tmp_path / "audit.json"))
    assert outcome.ok, outcome.failures
    assert "covers entry 11, 2 beyond it: later entries may have been cut" in outcome.lines[2]
    assert sum("not in this bundle: m3" in line for line in outcome.lines) == 2


def test_keys_obtained_independently_are_compared(scene: Scene, tmp_path: Path) -> None:
    path = scene.write(scene.bundle, tmp_path / "audit.json")
    server, keys = scene.cohort.server.public.hex(), scene.cohort.identities
    good = verifier.Anchors(frozenset({server}), merchants={"m1": keys["m1"].public.hex()})
    assert verifier.verify(path, anchors=good).ok
    outcome = verifier.verify(path, anchors=verifier.Anchors(frozenset({"0" * 64})))
    assert outcome.failures == {"": "the server's key is not one that was given"}
    outcome = verifier.verify(path, anchors=verifier.Anchors(frozenset({server, "0" * 64})))
    assert outcome.failures == {"": f"the server's key {'0' * 16}, which was given, is not in the bundle"}
    outcome = verifier.verify(path, anchors=verifier.Anchors(merchants={"m2": keys["m1"].public.hex()}))
    assert outcome.failures == {"m2": "its key is not the one that was given"}
    outcome = verifier.verify(path, anchors=verifier.Anchors(merchants={"m9": server}))
    assert outcome.failures == {"": "m9, whose key was given, is not in the bundle"}


def test_a_part_beside_the_signed_ones_is_reported(scene: Scene, tmp_path: Path) -> None:
    path = scene.write(scene.bundle | {"headline": "epsilon 0.1"}, tmp_path / "audit.json")
    assert verifier.verify(path).failures == {"": "the bundle lacks a part, or has one that is unknown"}


def test_a_bundle_is_ascii_as_it_was_written(scene: Scene, tmp_path: Path) -> None:
    """A text has one encoding in a bundle, in which its values are counted before they are parsed."""
    bundle = copy.deepcopy(scene.bundle)
    bundle["body"]["refusals"]["mé"] = {}
    path = scene.write(bundle, tmp_path / "audit.json")
    assert verifier.verify(path).ok
    path.write_text(json.dumps(json.loads(path.read_text()), ensure_ascii=False), encoding="utf-8")
    with pytest.raises(verifier.UnusableError, match="beyond ASCII"):
        verifier.verify(path)


def test_a_lifetime_may_span_several_servers(scene: Scene, tmp_path: Path) -> None:
    other = Cohort(tmp_path / "other", size=3, policy=POLICY, seed=4)
    plan = other.plan(rounds=2)
    other.train(plan)
    first, second = sorted([scene.cohort.server.public.hex(), other.server.public.hex()])
    records = [
        MerchantRecord(name, cohort.identities[key].public, folder / key / "ledger.sqlite", (POLICY.rules,))
        for cohort, folder, name, key in (
            (scene.cohort, scene.folder, "m1", "m1"),
            (other, tmp_path / "other", "m2", "m2"),
        )
    ]
    receipts = [
        receipt
        for folder, name in ((scene.folder, "m1"), (tmp_path / "other", "m2"))
        for receipt in read_receipts(folder / "receipts.sqlite")
        if receipt.head.statement.merchant == name
    ]
    evidence = Evidence(merchants=tuple(records), plans=(*scene.plans, plan), receipts=tuple(receipts))
    bundle = build(evidence, signer=scene.signer)
    path = scene.write(bundle, tmp_path / "audit.json")
    outcome = verifier.verify(path)
    assert outcome.ok and outcome.complete, (outcome.failures, outcome.gaps)
    assert {"server 1": first, "server 2": second}.items() <= outcome.keys.items()
    assert verifier.verify(path, anchors=verifier.Anchors(frozenset({first, second}))).ok
    told = verifier.verify(path, anchors=verifier.Anchors(frozenset({first}))).failures[""]
    assert told == "the server 2's key is not one that was given"

    # One server can't speak for another's training.
    receipt = bundle["body"]["merchants"][1]["receipts"][0]
    sealed = scene.cohort.server.sign(canonical(receipt["head"]), context=b"fedrec/ledger-receipt/1")
    receipt |= {"server_key": scene.cohort.server.public.hex(), "signature": sealed.hex()}
    outcome = verifier.verify(scene.write(bundle, path))
    assert "is not signed by the server's key" in outcome.failures["m2"]


@pytest.mark.parametrize(("scheme", "holds"), [("none", True), ("kahe", False)])
def test_who_may_open_a_sum_is_a_rule_for_local_noise_too(
    scene: Scene, tmp_path: Path, scheme: str, holds: bool
) -> None:
    lax = POLICY.model_copy(
        update={"modes": frozenset({"local"}), "schemes": frozenset({scheme}), "least_colluders": 0}
    )
    strict = lax.model_copy(update={"least_colluders": 2})
    cohort = Cohort(tmp_path / "cohort", size=4, policy=lax)
    alone: dict[str, object] = {"committee": (), "threshold": 0} if scheme == "none" else {}
    plan = cohort.plan(mode="local", scheme=scheme, rounds=1, **alone)
    cohort.train(plan)
    ledger = tmp_path / "cohort" / "m1" / "ledger.sqlite"
    record = MerchantRecord("m1", cohort.identities["m1"].public, ledger, (strict.rules,))
    bundle = build(Evidence(merchants=(record,), plans=(plan,)), signer=scene.signer)
    rows = bundle["body"]["merchants"][0]["entries"]
    edit(rows[1], "charge", policy_hash=strict.hash)
    scene.chain(rows, identity=cohort.identities["m1"])
    bundle["body"]["merchants"][0]["summary"]["head"] = rows[-1]["hash"]
    told = verifier.verify(scene.write(bundle, tmp_path / "audit.json")).failures.get("m1", "")
    assert told == ("" if holds else "entry 2: it breaks the policy's rule 'least_colluders'")


def test_seeded_charges_are_no_guarantee(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path / "cohort", size=3, policy=POLICY, seed=3)
    plan = cohort.plan(rounds=2)
    cohort.train(plan)
    record = MerchantRecord(
        "m1",
        cohort.identities["m1"].public,
        tmp_path / "cohort" / "m1" / "ledger.sqlite",
        (POLICY.rules,),
    )
    bundle = build(Evidence(merchants=(record,), plans=(plan,)), signer=cohort.server)
    bundle["body"]["servers"] = [cohort.server.public.hex()]

    def outcome() -> verifier.Outcome:
        signature = cohort.server.sign(canonical(bundle["body"]), context=CONTEXT).hex()
        (tmp_path / "audit.json").write_text(json.dumps(bundle | {"signature": signature}))
        return verifier.verify(tmp_path / "audit.json")

    assert outcome().ok and "no guarantee: seeded (2 charges or counts of m1)" in outcome().verdict
    bundle["body"]["merchants"][0]["summary"]["seeded"] = 0
    assert "the summary's seeded is 0, the history's is 2" in outcome().failures["m1"]


def test_the_pages_beside_a_bundle_are_those_that_were_made_with_it(scene: Scene, tmp_path: Path) -> None:
    bundle = copy.deepcopy(scene.bundle)
    page = b"<html>epsilon 4</html>"
    bundle["body"]["pages"] = {"audit.html": hashlib.sha256(page).hexdigest()}
    path = scene.write(bundle, tmp_path / "audit.json")
    assert verifier.verify(path).ok
    (tmp_path / "audit.html").write_bytes(page)
    assert verifier.verify(path).ok
    (tmp_path / "audit.html").write_bytes(page.replace(b"4", b"1"))
    assert "audit.html beside the bundle" in verifier.verify(path).failures[""]


def test_a_history_whose_betas_use_up_delta_has_no_bound(tmp_path: Path) -> None:
    identity = SigningIdentity.generate()
    cohort = Cohort(tmp_path / "cohort", size=3, policy=POLICY)
    create_ledger(tmp_path / "l.sqlite", signer=identity, count=cohort.count)
    with Ledger(tmp_path / "l.sqlite", signer=identity, verify=verify) as ledger:
        cohort.train(cohort.plan(rounds=1))
        charge = replace(cohort.charges("m1")[0].charge, beta=1e-4, delta=1e-4)
        bound = smaller_sensitivity(
            scale=charge.scale, dimension=charge.dimension, beta=1e-4, float_slack=2**-16
        )
        own = own_share_of(charge.planned_noise_multiplier, sensitivity=bound)
        ledger.charge(replace(charge, sensitivity=bound, broken_noise_multiplier=own), version="v")
    record = MerchantRecord("m1", identity.public, tmp_path / "l.sqlite")
    bundle = build(Evidence(merchants=(record,)), signer=identity)
    (tmp_path / "audit.json").write_text(json.dumps(bundle))
    outcome = verifier.verify(tmp_path / "audit.json")
    assert outcome.ok and "epsilon is without a bound" in outcome.lines[1], outcome


@pytest.mark.parametrize("factor", [0.998, 1.002])
@pytest.mark.parametrize("number", [5, 28, 36])
def test_every_figure_is_checked_whether_composed_again_or_not(
    long_bundle: tuple[Bundle, SigningIdentity], tmp_path: Path, number: int, factor: float
) -> None:
    bundle, identity = copy.deepcopy(long_bundle[0]), long_bundle[1]
    path = tmp_path / "audit.json"

    def write() -> Path:
        signature = identity.sign(canonical(bundle["body"]), context=CONTEXT).hex()
        path.write_text(json.dumps(bundle | {"signature": signature}))
        return path

    assert verifier.verify(write()).ok
    rows = rows_of(bundle, 0)
    row = rows[number - 1]
    edit(row, "epsilons", own_epsilon=json.loads(row["payload"])["epsilons"]["own_epsilon"] * factor)
    Scene.chain(rows, identity=identity)
    assert verifier.verify(write()).failures["m1"].startswith(f"entry {number}: epsilon by PLD, of its own")


@pytest.fixture(scope="module")
def long_bundle(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, SigningIdentity]:
    """Forty charges of one kind, on top of three of another."""
    folder, identity = tmp_path_factory.mktemp("long"), SigningIdentity.generate()
    first, second = (scene.cohort.charges("m1")[k].charge for k in (0, 3))
    noise: dict[str, Any] = {"planned_noise_multiplier": 3.0, "guaranteed_noise_multiplier": 3.0}
    own = own_share_of(3.0, sensitivity=second.sensitivity)
    second = replace(second, **noise, broken_noise_multiplier=own)
    create_ledger(folder / "ledger.sqlite", signer=identity, count=scene.cohort.count)
    first, second = (replace(charge, rounds=40) for charge in (first, second))
    with Ledger(folder / "ledger.sqlite", signer=identity, verify=verify) as ledger:
        for charge, count in ((first, 3), (second, 40)):
            ledger.prepare(charge)
            for number in range(1, count + 1):
                ledger.charge(replace(charge, round_number=number), version="v")
    record = MerchantRecord("m1", identity.public, folder / "ledger.sqlite")
    return build(Evidence(merchants=(record,)), signer=identity), identity


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        ({"modes": frozenset({"local"})}, "'modes'"),
        ({"models": frozenset({"other"})}, "'models'"),
        ({"largest_sample_rate": 0.3}, "entry 2: it breaks the policy's rule 'largest_sample_rate'"),
        ({"least_noise_multiplier": 1.2}, "'least_noise_multiplier'"),
        ({"least_contributors": 4}, "'least_contributors'"),
        ({"least_colluders": 2}, "'least_colluders'"),
        ({"largest_training_delta": 1e-5}, "'largest_training_delta'"),
        ({"largest_rounds_per_day": 4}, "entry 10: it breaks the policy's rule 'largest_rounds_per_day'"),
        ({"lifetime_epsilon": 4.5}, "entry 1: it breaks the policy's rule 'lifetime_epsilon'"),
        ({"units": frozenset({"product"})}, "'units'"),
        ({"schemes": frozenset({"none"})}, "entry 2: it breaks the policy's rule 'schemes'"),
        ({"initial_models": frozenset({"0" * 64})}, "'initial_models'"),
        ({"server_key": "0" * 64}, "'server_key'"),
        ({"roster_fingerprint": "0" * 64}, "'roster_fingerprint'"),
        (
            {"largest_training_epsilon": 3.0},
            "entry 2: it breaks the policy's rule 'largest_training_epsilon'",
        ),
        ({"lifetime_delta": 2e-3}, "entry 1: it breaks the policy's rule 'lifetime_delta'"),
        ({"hours": HOURS_OUT}, "entry 2: it breaks the policy's rule 'hours'"),
    ],
)
def test_a_charge_that_breaks_its_policy_is_named(
    scene: Scene, tmp_path: Path, rules: dict[str, Any], says: str
) -> None:
    outcome = verifier.verify(scene.write(ruled(scene, rules), tmp_path / "audit.json"))
    assert says in outcome.failures["m1"], outcome.failures


def test_an_installed_model_that_the_policy_does_not_name_breaks_its_rule(scene: Scene) -> None:
    entries = [json.loads(row["payload"]) for row in rows_of(scene.bundle)]
    charge = next(entry["charge"] for entry in entries if entry["kind"] == "charge")
    code = "ab" * 32
    for allowed, installed, broken in (
        (frozenset(), None, False),
        (frozenset(), code, True),
        (frozenset({"cd" * 32}), code, True),
        (frozenset({code}), code, False),
    ):
        rules = json.loads(POLICY.model_copy(update={"model_code": allowed}).rules)
        plan = audited(scene.plans[0], model_code=installed)
        assert _broken_by_plan(rules, plan, charge)["model_code"] is broken


def ruled(scene: Scene, rules: dict[str, Any], **changes: Any) -> Bundle:
    """Put m1's charges and count under other rules; ``changes`` go into its fourth charge."""
    policy = POLICY.model_copy(update=rules)
    bundle = copy.deepcopy(scene.bundle)
    # All of one day, also where midnight passed while the trainings ran.
    written = json.loads(rows_of(bundle)[-1]["payload"])["created_at"]
    for row in rows_of(bundle):
        kind = json.loads(row["payload"])["kind"]
        edit(row, "entry", created_at=written)
        if kind != "answer":
            edit(row, kind, policy_hash=policy.hash)
    edit(rows_of(bundle)[7], "charge", **changes)
    scene.chain(rows_of(bundle), identity=scene.cohort.identities["m1"])
    merchant = bundle["body"]["merchants"][1]
    merchant |= {"policies": [policy.rules], "receipts": []}
    merchant["summary"]["head"] = rows_of(bundle)[-1]["hash"]
    return bundle


@pytest.mark.parametrize("span", ["21:00-21:01", "23:58-00:01", "08:00-12:30", "22:00-06:00"])
def test_a_charge_may_be_written_a_little_after_the_hours_of_its_check(span: str) -> None:
    """By every second of the time that may have passed since; a span may be shorter than that."""
    start, end = (datetime.fromisoformat(f"2026-03-04T{part}:00+00:00") for part in span.split("-"))

    def allowed(moment: datetime) -> bool:
        try:
            MerchantPolicy(hours=(span,)).check_round(now=moment, rounds_today=0)
        except RefusedError:
            return False
        return True

    for border in (start, end, end + GRACE):
        for seconds in (-61, -1, 0, 1, 61):
            written = border + timedelta(seconds=seconds)
            passed = range(int(GRACE.total_seconds()) + 1)
            checked = any(allowed(written - timedelta(seconds=ago)) for ago in passed)
            assert _within(written.isoformat(), [span]) is checked, written


def test_rules_that_are_kept_are_no_failure(scene: Scene, tmp_path: Path) -> None:
    plan = scene.plans[0]
    kept = {
        "hours": HOURS_IN,
        "largest_rounds_per_day": 6,
        "server_key": plan.server_key,
        "roster_fingerprint": roster_fingerprint(plan.roster),
        "initial_models": frozenset({plan.initial_model_hash}),
        "largest_training_epsilon": 20.0,
    }
    outcome = verifier.verify(scene.write(ruled(scene, kept), tmp_path / "audit.json"))
    assert outcome.ok and outcome.gaps == ["m1: no receipts: entries may have been cut from the end"]
    local = kept | {"clock": "local"}
    outcome = verifier.verify(scene.write(ruled(scene, local), tmp_path / "audit.json"))
    assert "m1: 6 charges whose hours or days go by the merchant's own clock" in outcome.gaps


def test_changed_photos_are_held_against_the_rule_for_them(scene: Scene, tmp_path: Path) -> None:
    """Where the merchant discloses which charges were of the same photos; else nobody can tell."""

    def disclosing(rules: dict[str, Any], *, openings: bool = True) -> verifier.Outcome:
        bundle = ruled(scene, rules)
        rows, merchant = rows_of(bundle), bundle["body"]["merchants"][1]
        for number, row in enumerate(rows[1::2]):
            opening = Opening.fresh("old" if number < 3 else "new")
            edit(row, "entry", data=opening.commitment)
            told = {"salt": opening.salt.hex(), "version": opening.version}
            merchant["openings"] |= {str(2 * number + 2): told} if openings else {}
        scene.chain(rows, identity=scene.cohort.identities["m1"])
        merchant["summary"]["head"] = rows[-1]["hash"]
        return verifier.verify(scene.write(bundle, tmp_path / "audit.json"))

    refusing = {"changed_data": "refuse"}
    assert "entry 8: it breaks the policy's rule 'changed_data'" in disclosing(refusing).failures["m1"]
    assert disclosing({"changed_data": "count_together"}).ok
    closed = disclosing(refusing, openings=False)
    assert closed.ok and "'changed_data' was not checked" in closed.lines[2]


def test_disclosed_versions_match_their_commitments(scene: Scene, tmp_path: Path) -> None:
    home = scene.folder / "m1"
    public = scene.cohort.identities["m1"].public
    record = MerchantRecord("m1", public, home / "ledger.sqlite", (POLICY.rules,), discloses_data=True)
    good = build(Evidence(merchants=(record,), plans=scene.plans), signer=scene.signer)
    openings = good["body"]["merchants"][0]["openings"]
    assert sorted(map(int, openings)) == [2, 4, 6, 8, 10, 12]
    assert len({opening["version"] for opening in openings.values()}) == 1
    outcome = verifier.verify(scene.write(good, tmp_path / "audit.json"))
    assert outcome.ok and "not disclosed" not in outcome.lines[1]
    for change, says in (
        ({"version": "0" * 64}, "entry 4: what is disclosed"),
        ({"salt": "00" * 32}, "entry 4: what is disclosed"),
        ({"salt": ""}, "entry 4: what is disclosed"),
    ):
        bundle = copy.deepcopy(good)
        bundle["body"]["merchants"][0]["openings"]["4"] |= change
        outcome = verifier.verify(scene.write(bundle, tmp_path / "audit.json"))
        assert says in outcome.failures["m1"]
    bundle = copy.deepcopy(good)
    bundle["body"]["merchants"][0]["openings"]["3"] = openings["4"]
    outcome = verifier.verify(scene.write(bundle, tmp_path / "audit.json"))
    assert "for entries that aren't there" in outcome.failures["m1"]


def recount(row: Any, **changes: Any) -> None:
    edit(row, "count", **changes)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"number": 2}, "entry 1: its count is not the next one"),
        ({"sigma": 40.0}, "entry 1: epsilon by"),
        ({"sigma": 3.0}, "entry 1: it can't be read (sigma is out of range)"),
        ({"size": 0}, "entry 1: it can't be read (size is out of range)"),
        ({"size": 41}, "the summary's size is 40"),
        ({"unit": "product"}, "entry 2: it protects a record, those before it a product"),
        ({"seeded": True}, "the summary's seeded is 0"),
    ],
)
def test_a_count_that_was_changed_is_found(
    scene: Scene, tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    bundle = copy.deepcopy(scene.bundle)
    rows = rows_of(bundle)
    recount(rows[0], **change)
    scene.chain(rows, identity=scene.cohort.identities["m1"])
    merchant = bundle["body"]["merchants"][1]
    merchant["receipts"] = []
    merchant["summary"]["head"] = rows[-1]["hash"]
    outcome = verifier.verify(scene.write(bundle, tmp_path / "audit.json"))
    assert says in outcome.failures["m1"]


@pytest.mark.parametrize("gone", [0, 2])
def test_a_count_or_an_answer_can_t_be_left_out(scene: Scene, tmp_path: Path, gone: int) -> None:
    """Renumbered and signed anew: without its count it is no ledger; an answer is missed by its receipt."""
    bundle = copy.deepcopy(scene.bundle)
    del rows_of(bundle)[gone]
    for number, row in enumerate(rows_of(bundle), start=1):
        edit(row, "entry", sequence=number)
    scene.chain(rows_of(bundle), identity=scene.cohort.identities["m1"])
    outcome = verifier.verify(scene.write(bundle, tmp_path / "audit.json"))
    said = "begins with the count" if gone == 0 else "the ledger lacks an entry"
    assert said in outcome.failures["m1"]


def test_two_answers_of_a_round_are_found(scene: Scene, tmp_path: Path) -> None:
    bundle = copy.deepcopy(scene.bundle)
    rows = rows_of(bundle)
    rows.insert(3, copy.deepcopy(rows[2]))
    edit(rows[3], "answer", request_hash="0" * 64)
    for number, row in enumerate(rows, start=1):
        edit(row, "entry", sequence=number)
    scene.chain(rows, identity=scene.cohort.identities["m1"])
    outcome = verifier.verify(scene.write(bundle, tmp_path / "audit.json"))
    assert "entry 4: its round was answered before" in outcome.failures["m1"]


def test_a_bundle_changed_after_it_was_signed_is_refused(scene: Scene, tmp_path: Path) -> None:
    bundle = copy.deepcopy(scene.bundle)
    bundle["body"]["refusals"]["m9"] = {"round 1": "invented"}
    outcome = verifier.verify(scene.write(bundle, tmp_path / "audit.json", resign=False))
    assert outcome.failures == {
        "": "the bundle's own signature doesn't hold: it was changed after it was made"
    }


def test_a_changed_entry_is_named_though_the_bundle_s_own_signature_is_broken_too(
    scene: Scene, tmp_path: Path
) -> None:
    bundle = copy.deepcopy(scene.bundle)
    edit(rows_of(bundle)[3], "charge", sample_rate=0.01)
    edit(rows_of(bundle, merchant=2)[1], "charge", clip=9.0)
    outcome = verifier.verify(scene.write(bundle, tmp_path / "audit.json", resign=False))
    assert outcome.failures.keys() == {"", "m1", "m2"}
    assert "own signature doesn't hold" in outcome.failures[""]
    assert outcome.failures["m1"].startswith("entry 4: its hash doesn't follow")
    assert outcome.failures["m2"].startswith("entry 2: its hash doesn't follow")


def test_the_lifetime_is_said_against_the_policy_s_cap_or_none(scene: Scene, tmp_path: Path) -> None:
    """Without a cap entries are still read for one, which isn't the merchant's."""
    capped = verifier.verify(scene.write(scene.bundle, tmp_path / "capped.json"))
    assert any(line.startswith("m1: ") and " of 50 at delta 0.001" in line for line in capped.lines)
    unknown = copy.deepcopy(scene.bundle)
    unknown["body"]["merchants"][1]["policies"] = []
    lines = verifier.verify(scene.write(unknown, tmp_path / "unknown.json")).lines
    assert any(line.startswith("m1: ") and "whether 50 is its cap, a policy" in line for line in lines)

    policy = MerchantPolicy.without_limits(modes={"distributed"}, schemes={"kahe"})
    cohort = Cohort(tmp_path / "free", policy=policy, seed=None)
    plan = cohort.plan()
    cohort.train(plan)
    record = MerchantRecord(
        name="m1",
        public=cohort.identities["m1"].public,
        ledger=tmp_path / "free" / "m1" / "ledger.sqlite",
        policies=(policy.rules,),
    )
    free = build(Evidence(merchants=(record,), plans=(plan,)), signer=cohort.server)
    path = tmp_path / "free.json"
    path.write_text(json.dumps(free))
    (line,) = [line for line in verifier.verify(path).lines if line.startswith("m1: ")]
    assert "(no cap) at delta" in line
    assert " of 10" not in line


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def places(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [here]
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, inner in steps:
        found += places(inner, (*here, step))
    return found


@settings(
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    deadline=None,
)
@given(data=st.data(), junk=json_values)
def test_any_value_replaced_is_checked_or_refused_without_a_crash(
    scene: Scene, tmp_path: Path, data: st.DataObject, junk: Any
) -> None:
    bundle = copy.deepcopy(scene.bundle)
    place = data.draw(st.sampled_from(places(bundle["body"])[1:]))
    target = bundle["body"]
    for step in place[:-1]:
        target = target[step]
    target[place[-1]] = junk
    outcome = verifier.verify(scene.write(bundle, tmp_path / "audit.json"))
    assert all("\n" not in reason for reason in outcome.failures.values())


@pytest.mark.parametrize(
    "raw", [b"", b"[" * 100_000, b"{}", b"[1]", b"\xff\xfe", b'{"schema": NaN}', b"null", b'{"a": 1, "a": 2}']
)
def test_a_damaged_bundle_is_refused_in_one_line(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "audit.json").write_bytes(raw)
    for name in ("audit.json", "missing.json"):
        with pytest.raises(verifier.UnusableError) as refused:
            verifier.verify(tmp_path / name)
        assert "\n" not in str(refused.value)


def test_no_foreign_name_moves_the_cursor(scene: Scene, tmp_path: Path) -> None:
    bundle = copy.deepcopy(scene.bundle)
    bundle["body"]["servers"] = ["\x1b[2Jall is well"]
    outcome = verifier.verify(scene.write(bundle, tmp_path / "audit.json"))
    assert not outcome.ok and all(line.isprintable() for line in verifier.text_lines(outcome))


@pytest.mark.parametrize(("rate", "noise"), [(0.01, 0.6), (0.25, 3.0), (1.0, 2.0)])
def test_renyi_divergences_are_those_of_google_s_accountant(rate: float, noise: float) -> None:
    whole = epsilons.ORDERS.astype(int) == epsilons.ORDERS
    accountant = RdpAccountant(epsilons.ORDERS[whole].tolist())
    accountant.compose(PoissonSampledDpEvent(rate, GaussianDpEvent(noise)))
    assert epsilons.rdp_step(rate, noise)[whole] == pytest.approx(accountant.rdp, rel=1e-9)


@pytest.mark.parametrize(
    ("history", "finite"),
    [
        (((0.0026, 4.55, 3), (1.0, 0.845, 300)), True),
        (((1.0, 0.04, 1),), True),
        (((0.03, 4.0, 3), (1.0, 0.035, 1)), True),
        (((0.5, 0.2, 60),), True),
        (((1.0, 0.58, 1), (1.0, 0.516, 300)), False),
        (((0.1, 1.0, 1), (1.0, 0.01, 1)), False),
        (((0.1, 0.04, 1), (1.0, 20.0, 1)), False),
    ],
)
def test_epsilons_in_the_hundreds_are_the_accountant_s(history: epsilons.Steps, *, finite: bool) -> None:
    """As of a single share where many are counted on: a true report must not be called false."""
    ours = epsilon_pld([Event(*step) for step in history], delta=1e-5)
    assert (200 < ours < epsilons.LARGEST) == finite
    assert epsilons.matches(ours, epsilons.checked_pld_epsilon(history, 1e-5))
    assert not epsilons.matches(0.99 * min(ours, 700.0), epsilons.checked_pld_epsilon(history, 1e-5))


@pytest.mark.parametrize(
    "history",
    [
        ((0.3, 2.0, 8),),
        ((1.0, 3.4, 11), (1.0, 25.0, 1)),
        ((1.0, 19.8, 1), (0.9, 0.8, 2), (1.0, 0.83, 1)),
        ((0.5, 0.3, 2),),
        ((0.05, 20.0, 10),),
    ],
)
@pytest.mark.parametrize("copies", [2, 4])
def test_epsilon_of_copies_is_the_accountant_s(history: epsilons.Steps, copies: int) -> None:
    """Google's distributions here, ours there."""
    ours = epsilon_of_copies([Event(*step) for step in history], copies=copies, delta=1e-5)
    assert epsilons.pld_epsilon_of_copies(history, 1e-5, copies=copies) == pytest.approx(ours, rel=5e-3)


@pytest.mark.parametrize(
    ("rate", "noise"), [(1e-4, 0.5), (0.01, 0.3), (0.05, 0.65), (0.25, 6.7), (0.9, 40.0)]
)
def test_both_ways_to_a_divergence_of_real_order_agree(rate: float, noise: float) -> None:
    """Gauss's rule here, the trapezoidal rule there, which is rounded up: two programs, one figure."""
    ours = rdp_vector(Event(rate, noise, 1))
    assert np.array_equal(epsilons.ORDERS, ORDERS)
    assert np.all(ours >= epsilons.rdp_step(rate, noise))
    np.testing.assert_allclose(ours, epsilons.rdp_step(rate, noise), rtol=1e-9, atol=2e-12)
