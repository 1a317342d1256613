"""The verifier: a good bundle holds, and every kind of tampering is named with the entry where it shows."""

from __future__ import annotations

import ast
import copy
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedrec.clients.policy import MerchantPolicy
from fedrec.privacy.accounting.ledger import Ledger
from fedrec.privacy.audit import verify as verifier
from fedrec.privacy.audit.bundle import CONTEXT, Evidence, MerchantRecord, build, canonical
from fedrec.privacy.identity import SigningIdentity, verify
from fedrec.server.receipts import read_receipts
from tests.cohort import Cohort

Bundle = dict[str, Any]
Change = Callable[[Bundle, "Scene"], None]
POLICY = MerchantPolicy(lifetime_epsilon=50.0, lifetime_delta=1e-3, least_noise_multiplier=0.5)


class Scene:
    """Four merchants, two trainings of three rounds, and the bundle of it all."""

    def __init__(self, folder: Path) -> None:
        self.cohort = Cohort(folder, policy=POLICY)
        self.folder = folder
        self.plans = (self.cohort.plan(), self.cohort.plan(sample_rate=0.25, noise_multiplier=1.5))
        for plan in self.plans:
            self.cohort.train(plan)
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
            receipts=tuple(read_receipts(self.folder / "receipts.jsonl")),
            server_key=self.cohort.server.public.hex(),
        )
        return build(evidence, signer=self.signer)

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


def test_a_good_bundle_holds(scene: Scene, tmp_path: Path) -> None:
    outcome = verifier.verify(scene.write(scene.bundle, tmp_path / "audit.json"))
    assert outcome.ok, outcome.failures
    assert len(outcome.lines) == 5 and "6 charges hold" in outcome.lines[1]
    assert "receipts" not in outcome.lines[1] and "policies" not in outcome.lines[1]


def test_it_runs_alone_and_imports_nothing_of_ours(scene: Scene, tmp_path: Path) -> None:
    source = Path(verifier.__file__)
    imported = set()
    for node in ast.walk(ast.parse(source.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module is not None
            imported.add(node.module.split(".")[0])
    assert imported - set(sys.stdlib_module_names) == {"numpy", "cryptography", "dp_accounting"}
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "verify.py").write_bytes(source.read_bytes())
    good = scene.write(scene.bundle, tmp_path / "audit.json")
    cut = tmp_path / "cut.json"
    cut.write_bytes(good.read_bytes()[:-100])
    for path, code, says in ((good, 0, "The record holds."), (cut, 1, "not a whole JSON file")):
        done = subprocess.run(
            [sys.executable, "-P", "verify.py", str(path)],
            cwd=tmp_path / "alone",
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stderr) == (code, "")
        assert says in done.stdout


def amount(bundle: Bundle, scene: Scene) -> None:
    edit(rows_of(bundle)[2], "epsilons", rdp_after=0.5)


def amount_signed(bundle: Bundle, scene: Scene) -> None:
    amount(bundle, scene)
    scene.chain(rows_of(bundle), identity=scene.cohort.identities["m1"])
    bundle["body"]["merchants"][1]["receipts"] = []


def pld_signed(bundle: Bundle, scene: Scene) -> None:
    entry = json.loads(rows_of(bundle)[2]["payload"])
    edit(rows_of(bundle)[2], "epsilons", pld_after=entry["epsilons"]["pld_after"] * 0.998)
    scene.chain(rows_of(bundle), identity=scene.cohort.identities["m1"])
    bundle["body"]["merchants"][1]["receipts"] = []


def dropped(bundle: Bundle, scene: Scene) -> None:
    del rows_of(bundle)[3]


def renumbered(bundle: Bundle, scene: Scene) -> None:
    del rows_of(bundle)[3]
    for number, row in enumerate(rows_of(bundle), start=1):
        edit(row, "entry", sequence=number)
    scene.chain(rows_of(bundle), identity=scene.cohort.identities["m1"])
    bundle["body"]["merchants"][1]["receipts"] = []


def reordered(bundle: Bundle, scene: Scene) -> None:
    rows = rows_of(bundle)
    rows[1], rows[2] = rows[2], rows[1]


def duplicated(bundle: Bundle, scene: Scene) -> None:
    rows_of(bundle).insert(2, copy.deepcopy(rows_of(bundle)[1]))


def charged_twice(bundle: Bundle, scene: Scene) -> None:
    rows_of(bundle).insert(2, copy.deepcopy(rows_of(bundle)[1]))
    for number, row in enumerate(rows_of(bundle), start=1):
        edit(row, "entry", sequence=number)
    scene.chain(rows_of(bundle), identity=scene.cohort.identities["m1"])


def back_dated(bundle: Bundle, scene: Scene) -> None:
    edit(rows_of(bundle)[4], "entry", created_at="2020-01-01T00:00:00+00:00")
    scene.chain(rows_of(bundle), identity=scene.cohort.identities["m1"])


def mixed_units(bundle: Bundle, scene: Scene) -> None:
    edit(rows_of(bundle)[3], "charge", unit="product")
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
    del rows_of(bundle)[4:]


def cut_at_the_end(bundle: Bundle, scene: Scene) -> None:
    del rows_of(bundle)[-1]


def another_noise(bundle: Bundle, scene: Scene) -> None:
    for row in rows_of(bundle)[:3]:
        edit(row, "charge", guaranteed_noise_multiplier=1.01, planned_noise_multiplier=1.01)
    scene.chain(rows_of(bundle), identity=scene.cohort.identities["m1"])
    bundle["body"]["merchants"][1]["receipts"] = []


def summary_noise(bundle: Bundle, scene: Scene) -> None:
    bundle["body"]["merchants"][1]["summary"]["least_noise_multiplier"] *= 1.01


def summary_epsilon(bundle: Bundle, scene: Scene) -> None:
    bundle["body"]["merchants"][1]["summary"]["epsilon_rdp"] -= 0.01


def summary_broken(bundle: Bundle, scene: Scene) -> None:
    bundle["body"]["merchants"][1]["summary"]["epsilon_aggregation_broken"] *= 0.99


def forged_receipt(bundle: Bundle, scene: Scene) -> None:
    bundle["body"]["merchants"][1]["receipts"][2]["signature"] = "0" * 128


def stranger_s_receipt(bundle: Bundle, scene: Scene) -> None:
    merchants = bundle["body"]["merchants"]
    merchants[1]["receipts"].append(merchants[2]["receipts"][0])


def not_a_number(bundle: Bundle, scene: Scene) -> None:
    row = rows_of(bundle)[1]
    row["payload"] = row["payload"].replace('"clip":1.0', '"clip":NaN')
    assert "NaN" in row["payload"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (amount, "entry 3: its hash doesn't follow"),
        (amount_signed, "entry 3: epsilon by RDP, after it"),
        (pld_signed, "entry 3: epsilon by PLD, after it"),
        (dropped, "entry 4: it is numbered 5"),
        (renumbered, "entry 4: epsilon by RDP, before it"),
        (reordered, "entry 2: it is numbered 3"),
        (duplicated, "entry 3: it is numbered 2"),
        (charged_twice, "entry 3: its training, round and step were charged before"),
        (back_dated, "entry 5: it is dated 2020"),
        (mixed_units, "entry 4: it hides a product, those before it a record"),
        (swapped_key, "entry 1: its hash doesn't follow"),
        (swapped_key_signed, "entry 1: the plan's roster has another key"),
        (older_copy, "entry 5: the ledger lacks an entry"),
        (cut_at_the_end, "entry 6: the ledger lacks an entry"),
        (another_noise, "entry 1: its noise multiplier is 1.01"),
        (summary_noise, "the summary's least_noise_multiplier is 1.01"),
        (summary_epsilon, "the summary's epsilon_rdp"),
        (summary_broken, "epsilon by PLD, if aggregation were broken"),
        (forged_receipt, "not signed by the server's key"),
        (stranger_s_receipt, "this merchant didn't sign"),
        (not_a_number, "entry 2: it can't be read"),
    ],
)
def test_tampering_is_named_where_it_shows(scene: Scene, tmp_path: Path, change: Change, says: str) -> None:
    bundle = copy.deepcopy(scene.bundle)
    change(bundle, scene)
    outcome = verifier.verify(scene.write(bundle, tmp_path / "audit.json"))
    assert set(outcome.failures) == {"m1"}, outcome.failures
    assert says in outcome.failures["m1"]
    # The others' ledgers are judged on their own.
    assert len(outcome.lines) == 4


def test_a_figure_between_two_that_are_composed_anew_is_held_as_well(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path / "cohort", size=3, policy=POLICY)
    cohort.train(cohort.plan(rounds=40, noise_multiplier=3.0))
    identity = cohort.identities["m1"]
    record = MerchantRecord("m1", identity.public, tmp_path / "cohort" / "m1" / "ledger.sqlite")
    bundle = build(Evidence(merchants=(record,)), signer=cohort.server)
    path = tmp_path / "audit.json"
    knots = set(verifier._knots(2 * 40 - 1))
    hidden = next(number for number in range(25, 40) if not {2 * number - 2, 2 * number - 1} & knots)

    def write(changed: Bundle) -> Path:
        signature = cohort.server.sign(canonical(changed["body"]), context=CONTEXT).hex()
        path.write_text(json.dumps(changed | {"signature": signature}))
        return path

    assert verifier.verify(write(bundle)).ok
    rows = rows_of(bundle, 0)
    for part, row in (("pld_after", rows[hidden - 1]), ("pld_before", rows[hidden])):
        epsilons = json.loads(row["payload"])["epsilons"]
        edit(row, "epsilons", **{part: epsilons[part] * 0.996})
    Scene.chain(rows, identity=identity)
    outcome = verifier.verify(write(bundle))
    assert outcome.failures["m1"].startswith(f"entry {hidden}: epsilon by PLD, after it")


def test_without_receipts_a_cut_is_not_seen_and_that_is_said(scene: Scene, tmp_path: Path) -> None:
    bundle = copy.deepcopy(scene.bundle)
    merchant = bundle["body"]["merchants"][1]
    identity = scene.cohort.identities["m1"]
    shorter = Ledger(
        tmp_path / "short.sqlite", signer=identity, verify=verify, epsilon_lifetime=50.0, delta_lifetime=1e-3
    )
    for entry in scene.cohort.merchants["m1"].ledger.entries()[:-1]:
        shorter.charge(entry.charge)
    shorter.close()
    record = MerchantRecord(name="m1", public=identity.public, ledger=tmp_path / "short.sqlite")
    cut = build(
        Evidence(merchants=(record,), server_key=scene.cohort.server.public.hex()), signer=scene.signer
    )
    bundle["body"]["merchants"][1] = cut["body"]["merchants"][0] | {"policies": merchant["policies"]}
    outcome = verifier.verify(scene.write(bundle, tmp_path / "audit.json"))
    assert outcome.ok and "entries may have been cut from the end" in outcome.lines[2]


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        ({"modes": frozenset({"local"})}, "'modes'"),
        ({"largest_sample_rate": 0.3}, "entry 1: it breaks the policy's rule 'largest_sample_rate'"),
        ({"least_noise_multiplier": 1.2}, "'least_noise_multiplier'"),
        ({"least_contributors": 4}, "'least_contributors'"),
        ({"least_colluders": 2}, "'least_colluders'"),
        ({"largest_training_delta": 1e-5}, "'largest_training_delta'"),
        ({"largest_rounds_per_day": 4}, "entry 5: it breaks the policy's rule 'largest_rounds_per_day'"),
        ({"lifetime_epsilon": 4.5}, "entry 3: it breaks the policy's rule 'lifetime_epsilon'"),
        ({"units": frozenset({"product"})}, "'units'"),
    ],
)
def test_a_charge_that_breaks_its_policy_is_named(
    scene: Scene, tmp_path: Path, rules: dict[str, Any], says: str
) -> None:
    policy = POLICY.model_copy(update=rules)
    bundle = copy.deepcopy(scene.bundle)
    for row in rows_of(bundle):
        edit(row, "charge", policy_hash=policy.hash)
    scene.chain(rows_of(bundle), identity=scene.cohort.identities["m1"])
    merchant = bundle["body"]["merchants"][1]
    merchant |= {"policies": [policy.rules], "receipts": []}
    merchant["summary"]["head"] = rows_of(bundle)[-1]["hash"]
    outcome = verifier.verify(scene.write(bundle, tmp_path / "audit.json"))
    assert says in outcome.failures["m1"]


def test_a_bundle_changed_after_it_was_signed_is_refused(scene: Scene, tmp_path: Path) -> None:
    bundle = copy.deepcopy(scene.bundle)
    bundle["body"]["refusals"]["m9"] = "invented"
    outcome = verifier.verify(scene.write(bundle, tmp_path / "audit.json", resign=False))
    assert outcome.failures == {
        "": "the bundle's own signature doesn't hold: it was changed after it was made"
    }


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


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data(), junk=json_values)
def test_any_place_replaced_is_held_or_refused_and_never_crashes(
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
    "raw", [b"", b"[" * 100_000, b"{}", b"[1]", b"\xff\xfe", b'{"schema": NaN}', b"null"]
)
def test_rubbish_is_one_line(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "audit.json").write_bytes(raw)
    outcome = verifier.verify(tmp_path / "audit.json")
    assert list(outcome.failures) == [""] and "\n" not in outcome.failures[""]
    assert verifier.verify(tmp_path / "missing.json").failures[""].endswith("No such file or directory")
