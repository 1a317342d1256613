"""The merchant's policy: a strict file of its own, refusals that name the rule, plans only ever stricter."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.clients.charging import lost_rounds
from fedrec.clients.policy import MerchantPolicy
from fedrec.clients.policy_template import TEMPLATE
from fedrec.errors import ConfigError, RefusalCode, RefusedError
from fedrec.privacy.accounting.events import Event
from fedrec.privacy.accounting.pld import epsilon_pld
from fedrec.privacy.derived_parameters import derive
from fedrec.protocol.messages import JoinRequest, TrainRequest
from fedrec.protocol.refusals import CATALOGUE
from fedrec.protocol.roster_fingerprints import roster_fingerprint
from tests.support.cohort import LATER, Cohort, InProcessGrid, set_clock
from tests.support.layout import DOCS

CAP = "lifetime_epsilon = 10.0\nlifetime_delta = 1e-5\n"
NOON = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return Cohort(tmp_path_factory.mktemp("cohort"))


def test_the_template_says_what_the_defaults_are(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(TEMPLATE)
    policy = MerchantPolicy.load(file)
    assert policy == MerchantPolicy(lifetime_epsilon=10.0, lifetime_delta=1e-5)
    # Every rule is in it, and what it shows in comments parses as well.
    shown = "\n".join(
        line.removeprefix("# ") if line.startswith("# ") and " = " in line else line
        for line in TEMPLATE.splitlines()
    ).replace("<64 hexadecimal digits>", "ab" * 32)
    lines = [line for line in shown.splitlines() if not line.startswith("#")]
    whole = MerchantPolicy.parse(
        "\n".join(line for line in lines if "schemes = [" not in line or line[0] == "s")
    )
    assert whole.model_fields_set == set(MerchantPolicy.model_fields)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "'lifetime_epsilon' and 'lifetime_delta' are required"),
        ("lifetime_epsilon = 1.0", "go together"),
        (CAP + "colour = 'red'", "there is no rule 'colour'"),
        (CAP + "[modes]\nx = 1", "'modes'"),
        (CAP + "modes = []", "'modes'"),
        (CAP + "modes = ['open']", "'modes.0'"),
        (CAP + "largest_sample_rate = 0", "'largest_sample_rate'"),
        (CAP + "largest_sample_rate = 1.5", "'largest_sample_rate'"),
        (CAP + "largest_sample_rate = '0.5'", "'largest_sample_rate'"),
        (CAP + "least_contributors = 2.5", "'least_contributors'"),
        (CAP + "least_colluders = -1", "'least_colluders'"),
        (CAP + "least_colluders = 2\nleast_vouchers = 2", "'least_vouchers' must be at least 3"),
        (CAP + "least_noise_multiplier = nan", "'least_noise_multiplier'"),
        ("lifetime_epsilon = inf\nlifetime_delta = 1e-5", "'lifetime_epsilon'"),
        (CAP + "initial_models = ['zz']", "'initial_models.0'"),
        (CAP + "roster_fingerprint = 'abc'", "'roster_fingerprint'"),
        (CAP + "hours = ['8-12']", "'hours.0'"),
        (CAP + "hours = ['08:00-24:00']", "'hours.0'"),
        (CAP + "hours = ['08:00-08:00']", "must be a span of hours such as 22:00-06:00"),
        (CAP + "clock = 'mine'", "'clock'"),
        (CAP + "changed_data = true", "'changed_data'"),
        (CAP + "hours = 08:00:00", "a value has a type"),
        (CAP + "modes = ", "not TOML"),
        (CAP + "lifetime_delta = 1e-6", "not TOML"),
    ],
)
def test_a_bad_file_is_one_line_that_names_the_rule(tmp_path: Path, text: str, named: str) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        MerchantPolicy.load(file)
    assert named in str(caught.value)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unreadable_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be read"):
        MerchantPolicy.load(tmp_path / "absent")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe" * 10)
    with pytest.raises(ConfigError, match="bytes"):
        MerchantPolicy.load(tmp_path / "bytes")
    (tmp_path / "large").write_bytes(b"#" * (1 << 20) + b"#")
    with pytest.raises(ConfigError, match="larger"):
        MerchantPolicy.load(tmp_path / "large")


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200))
def test_every_text_is_parsed_or_refused(text: str) -> None:
    for content in (text, CAP + text):
        try:
            policy = MerchantPolicy.parse(content)
        except ConfigError:
            continue
        assert policy.lifetime_epsilon == 10.0


def _policy(**rules: Any) -> MerchantPolicy:
    given: dict[str, Any] = {"largest_training_epsilon": None} | rules
    return MerchantPolicy(**given)


@pytest.mark.parametrize(
    ("rules", "rule"),
    [
        ({"modes": frozenset({"local"})}, "modes"),
        ({"units": frozenset({"product"})}, "units"),
        ({"server_key": "cd" * 32}, "server_key"),
        ({"schemes": frozenset({"ckks"})}, "schemes"),
        ({"models": frozenset({"cnn"})}, "models"),
        ({"initial_models": frozenset({"ab" * 32})}, "initial_models"),
        ({"largest_sample_rate": 0.4}, "largest_sample_rate"),
        ({"largest_training_delta": 1e-5}, "largest_training_delta"),
        ({"least_contributors": 4}, "least_contributors"),
        ({"least_colluders": 2}, "least_colluders"),
        ({"roster_fingerprint": "cd" * 32}, "roster_fingerprint"),
        ({"least_noise_multiplier": 1.01}, "least_noise_multiplier"),
        ({"largest_training_epsilon": 1.0}, "largest_training_epsilon"),
    ],
)
def test_a_plan_that_breaks_a_rule_is_refused_by_its_name_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, rules: dict[str, Any], rule: str
) -> None:
    cohort = Cohort(tmp_path, policy=_policy(**rules))
    plan = cohort.plan()
    with pytest.raises(RefusedError, match=f"policy '{rule}'"):
        cohort.merchants["m0"].join(JoinRequest(plan=plan))
    coordinator, _ = cohort.coordinator(plan, InProcessGrid(cohort.app(), 4))
    with caplog.at_level(logging.WARNING), pytest.raises(Exception, match="0 of 4 merchants joined"):
        coordinator.run()
    assert all(f"policy '{rule}'" in reason for reason in coordinator.refusals.values())
    assert len(coordinator.refusals) == 4
    assert f"policy '{rule}'" in caplog.text
    assert cohort.charges("m0") == []


@pytest.mark.parametrize("mode", [{}, {"mode": "local"}, {"mode": "off", "noise_multiplier": None}])
@pytest.mark.parametrize("scheme", ["kahe", "ckks"])
def test_no_encrypted_plan_may_assume_that_nobody_colludes(
    tmp_path: Path, mode: dict[str, Any], scheme: str
) -> None:
    """A committee of one, with nobody on the server's side, would open every update alone."""
    modes, schemes = frozenset({"distributed", "local", "off"}), frozenset({"kahe", "ckks"})
    plan = {"scheme": scheme, "colluders": 0, "committee": ("m0",), "threshold": 1, **mode}
    for least, reason in ((1, "policy 'least_colluders'"), (0, "0 colluders")):
        policy = _policy(modes=modes, schemes=schemes, least_colluders=least, least_committee=1)
        cohort = Cohort(tmp_path / str(least), policy=policy)
        proposed = cohort.plan(**plan)
        with pytest.raises(RefusedError, match=reason):
            cohort.merchants["m0"].join(JoinRequest(plan=proposed))
    stricter = _policy(modes=modes, schemes=schemes, least_colluders=2)
    with pytest.raises(RefusedError, match="least_colluders"):
        stricter.check(cohort.plan(**(plan | {"colluders": 1})))


def test_the_limits_themselves_are_allowed(cohort: Cohort) -> None:
    plan = cohort.plan()
    derived = derive(plan)
    left = 1e-5 - plan.rounds * derived.noise.beta
    epsilon = epsilon_pld([Event(plan.sample_rate, derived.noise.noise_multiplier, plan.rounds)], delta=left)
    policy = _policy(
        models=frozenset({plan.model}),
        initial_models=frozenset({plan.initial_model_hash}),
        largest_sample_rate=plan.sample_rate,
        largest_training_delta=plan.delta,
        largest_training_epsilon=epsilon,
        lifetime_epsilon=50.0,
        lifetime_delta=1e-5,
        least_noise_multiplier=1.0,
        least_contributors=3,
        roster_fingerprint=roster_fingerprint(plan.roster),
    )
    policy.check(plan)
    policy.check_cost(plan, derived)
    with pytest.raises(RefusedError, match="largest_training_epsilon"):
        policy.check_cost(cohort.plan(rounds=4), derive(cohort.plan(rounds=4)))


@pytest.mark.parametrize("delta", [1e-9, 1e-5, 1e-3, 6e-3])
def test_a_plan_buys_no_epsilon_by_naming_a_larger_delta(tmp_path: Path, delta: float) -> None:
    """A plan of epsilon 4.26 passed a cap of 1 by asking for delta 0.3: caps are at the policy's delta."""
    cohort = Cohort(tmp_path, policy=_policy(lifetime_epsilon=50.0, lifetime_delta=1e-5))
    plan = cohort.plan(delta=delta)
    derived = derive(plan)
    left = 1e-5 - plan.rounds * derived.noise.beta
    whole = epsilon_pld([Event(plan.sample_rate, 1.0, plan.rounds)], delta=left)
    for cap, refused in ((whole * 1.001, False), (whole * 0.999, True)):
        policy = cohort.policy.model_copy(update={"largest_training_epsilon": cap})
        policy.check(plan)
        if refused:
            with pytest.raises(RefusedError, match="largest_training_epsilon"):
                policy.check_cost(plan, derived)
        else:
            policy.check_cost(plan, derived)


def test_a_delta_that_allows_whole_records_is_refused_by_any_policy(cohort: Cohort) -> None:
    total = cohort.plan().records_total
    _policy().check(cohort.plan(delta=1 / total))
    for delta in (1.01 / total, 0.3):
        with pytest.raises(RefusedError, match="allows whole records to be disclosed") as refused:
            _policy(lifetime_epsilon=1e6, lifetime_delta=0.9).check(cohort.plan(delta=delta))
        assert refused.value.code == "plan"
    # However few records there are, one in a hundred is the largest.
    with pytest.raises(RefusedError, match=r"above 0\.01"):
        _policy().check(cohort.plan(delta=0.02, records_total=4, records_largest=1))


def test_without_secure_aggregation_the_noise_of_one_share_is_what_counts(cohort: Cohort) -> None:
    policy = _policy(schemes=frozenset({"kahe", "none"}), least_noise_multiplier=0.9)
    policy.check_cost(cohort.plan(), derive(cohort.plan()))
    clear = cohort.plan(scheme="none", committee=(), threshold=0)
    with pytest.raises(RefusedError, match="least_noise_multiplier"):
        policy.check_cost(clear, derive(clear))
    off = cohort.plan(mode="off", noise_multiplier=None)
    with pytest.raises(RefusedError, match="no privacy guarantee"):
        _policy(largest_training_epsilon=1e6, least_noise_multiplier=0.0).check_cost(off, derive(off))


@settings(max_examples=60, deadline=None)
@given(
    rate=st.floats(0.01, 1),
    limit=st.floats(0.01, 1),
    contributors=st.integers(2, 4),
    least=st.integers(1, 5),
    stricter=st.floats(0.1, 1),
)
def test_a_stricter_plan_passes_where_a_looser_one_does(
    cohort: Cohort, rate: float, limit: float, contributors: int, least: int, stricter: float
) -> None:
    policy = _policy(largest_sample_rate=limit, least_contributors=least)

    def passes(**changes: object) -> bool:
        try:
            policy.check(cohort.plan(**changes))
        except RefusedError:
            return False
        return True

    assert passes(sample_rate=rate, min_contributors=contributors) == (
        rate <= limit and contributors >= least
    )
    if passes(sample_rate=rate, min_contributors=contributors):
        assert passes(sample_rate=rate * stricter, min_contributors=min(4, contributors + 1))


@pytest.mark.parametrize(
    ("hours", "hour", "allowed"),
    [
        (("08:00-12:30",), (8, 0), True),
        (("08:00-12:30",), (12, 30), False),
        (("08:00-12:30", "13:00-14:00"), (13, 59), True),
        (("22:00-06:00",), (23, 0), True),
        (("22:00-06:00",), (5, 59), True),
        (("22:00-06:00",), (6, 0), False),
    ],
)
def test_hours_of_the_day(hours: tuple[str, ...], hour: tuple[int, int], allowed: bool) -> None:
    # The same instant, told in another zone, is still read in UTC.
    now = NOON.replace(hour=hour[0], minute=hour[1]).astimezone(timezone(timedelta(hours=9)))
    policy = _policy(hours=hours)
    if allowed:
        policy.check_round(now=now, rounds_today=0)
    else:
        with pytest.raises(RefusedError, match="policy 'hours'"):
            policy.check_round(now=now, rounds_today=0)


@contextmanager
def local_zone(name: str) -> Iterator[None]:
    """Put this process into a time zone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", name)
        time.tzset()
        try:
            yield
        finally:
            patch.undo()
            time.tzset()


def test_hours_and_days_are_those_of_the_local_clock_if_the_policy_says_so() -> None:
    with local_zone("Asia/Tokyo"):
        _policy(hours=("21:00-21:01",), clock="local").check_round(now=NOON, rounds_today=0)
        assert _policy(clock="local").day_start(NOON) == datetime(2026, 3, 3, 15, tzinfo=UTC)
    assert _policy().day_start(NOON) == datetime(2026, 3, 4, tzinfo=UTC)


@pytest.mark.parametrize(
    ("now", "start"),
    [
        # Clocks are put forward and back within these two days, by an hour.
        (datetime(2026, 3, 29, 12, tzinfo=UTC), datetime(2026, 3, 28, 23, tzinfo=UTC)),
        (datetime(2026, 10, 25, 12, tzinfo=UTC), datetime(2026, 10, 24, 22, tzinfo=UTC)),
        (datetime(2026, 10, 25, 0, 30, tzinfo=UTC), datetime(2026, 10, 24, 22, tzinfo=UTC)),
        (datetime(2026, 10, 25, 23, tzinfo=UTC), datetime(2026, 10, 25, 23, tzinfo=UTC)),
    ],
)
def test_a_local_day_begins_at_midnight_also_where_clocks_are_changed_in_it(
    now: datetime, start: datetime
) -> None:
    """A round of the first hour would count for the day before, and the day's limit be passed."""
    with local_zone("CET-1CEST,M3.5.0,M10.5.0/3"):
        assert _policy(clock="local").day_start(now) == start


def test_rounds_a_day_are_counted_by_the_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cohort = Cohort(tmp_path, policy=_policy(largest_rounds_per_day=2))
    for name in cohort.merchants:
        set_clock(cohort, name, LATER, monkeypatch)
    grid = InProcessGrid(cohort.app(), 4)
    coordinator, records = cohort.coordinator(cohort.plan(), grid)
    coordinator.run()
    assert [record.opened for record in records] == [True, True, False]
    assert any(
        "policy 'largest_rounds_per_day': at most 2 a day are charged" in why
        for why in coordinator.refusals.values()
    )
    assert len(cohort.charges("m0")) == 2
    # Another day, another two.
    merchant = cohort.merchants["m0"]
    set_clock(cohort, "m0", LATER + timedelta(days=1), monkeypatch)
    plan = cohort.plan()
    replies = [other.join(JoinRequest(plan=plan))[0] for other in cohort.merchants.values()]
    keys = tuple(reply.sealing_key for reply in replies if reply.sealing_key is not None)
    request = TrainRequest(
        training_id=plan.training_id,
        round_number=1,
        model_hash=plan.initial_model_hash,
        sealing_keys=keys,
        receipt=cohort.last_receipt("m0"),
    )
    assert merchant.train(request, {"model": bytes(4 * plan.dimension)})[0].signed is not None


def test_rounds_that_come_to_nothing_are_capped_and_seen_by_the_model_that_stays(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path, policy=_policy(largest_lost_share=0.5))
    bad = {"1", "2", "4", "5", "6"}
    grid = InProcessGrid(
        cohort.app(), 4, drop=lambda kind, group, index: kind == "query.unmask" and group in bad
    )
    coordinator, records = cohort.coordinator(cohort.plan(rounds=8), grid)
    coordinator.run()
    # The fifth round that is lost is more than half of eight: what comes after it is refused, and not
    # charged.
    assert [record.opened for record in records] == [False, False, True, False, False, False, False, False]
    assert [record.contributors for record in records] == [4] * 6 + [0, 0]
    assert "policy 'largest_lost_share': 0.625 > 0.5" in coordinator.refusals["round 7, m0"]
    entries = cohort.merchants["m0"].ledger.entries()
    assert len(cohort.charges("m0")) == 6
    assert lost_rounds(entries, training_id=coordinator.plan.training_id, model_hash="0" * 64) == 4
    assert lost_rounds(entries, training_id="0" * 64, model_hash="0" * 64) == 0


def test_the_hash_depends_on_the_rules_alone() -> None:
    first = _policy(modes=frozenset({"distributed", "local"}), schemes=frozenset({"kahe", "ckks"}))
    again = _policy(modes=frozenset({"local", "distributed"}), schemes=frozenset({"ckks", "kahe"}))
    assert first.hash == again.hash != _policy().hash


def test_a_roster_fingerprint_does_not_depend_on_order(cohort: Cohort) -> None:
    plan = cohort.plan()
    assert roster_fingerprint(plan.roster) == roster_fingerprint(cohort.roster[::-1])
    other = (cohort.roster[0].model_copy(update={"signing_key": "ab" * 32}), *cohort.roster[1:])
    assert roster_fingerprint(plan.roster) != roster_fingerprint(other)


def test_an_overfull_step_is_refused_at_the_join_whatever_the_merchant_holds(cohort: Cohort) -> None:
    merchant = cohort.merchants["m0"]
    for plan in (
        cohort.plan(records_largest=10**6, records_total=4 * 10**6, delta=1e-7),
        cohort.plan(records_largest=420_000, records_total=16 * 10**5, sample_rate=0.31, delta=1e-7),
    ):
        with pytest.raises(RefusedError, match="a step of one merchant takes"):
            merchant.join(JoinRequest(plan=plan))
    assert not merchant.ledger.begun


def test_the_docs_list_every_code_of_a_refusal() -> None:
    page = (DOCS / "policy.md").read_text("utf-8")
    listed = re.findall(r"^\| `([a-z]+)` \|", page.partition("## What a refusal says")[2], flags=re.MULTILINE)
    assert listed == list(CATALOGUE) == list(get_args(RefusalCode))
