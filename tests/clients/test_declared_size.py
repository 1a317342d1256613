"""The number of units that a merchant declares: noised, charged before it leaves, and all that is told."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from numpy.typing import NDArray
from typer.testing import CliRunner

from fedrec._internal.files import write_atomically
from fedrec.cli import client
from fedrec.clients import merchant_home as home_module
from fedrec.clients.merchant_home import MerchantHome
from fedrec.config import load_config
from fedrec.errors import ConfigError, UnreachableBudgetError
from fedrec.privacy.accounting.count_release import COUNT_SIGMA, count_event, noised_size
from fedrec.privacy.accounting.ledger_entries import CountEntry, last_count
from fedrec.privacy.accounting.ledger_reader import read_entries
from fedrec.privacy.accounting.pld import epsilon_pld
from fedrec.privacy.accounting.rdp import epsilon_rdp
from fedrec.privacy.identity import verify
from fedrec.privacy.randomness import Randomness
from fedrec.protocol.enrolment import Enrolment, read_file
from fedrec.simulations.harness import simulate
from fedrec.vision.synthetic import generate, write

PHOTOS = 30


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    made = generate(merchants=1, per_merchant=PHOTOS, size=16, seed=3, validation=0, test=0)
    write(made, tmp_path / "photos")
    (folder,) = (tmp_path / "photos" / "train").iterdir()
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(client.app, [str(argument) for argument in arguments])


def init(photos: Path, home: Path) -> MerchantHome:
    shown = run("init", "--name", "m0", "--data", photos, "--home", home)
    assert shown.exit_code == 0, shown.output
    made = MerchantHome.open(home)
    # The exact number is for the merchant's eyes, beside what everybody else will read.
    assert (
        f"{PHOTOS} distinct photos" in shown.output
        and f"will see {made.declared_count().size}:" in shown.output
    )
    assert "noisy count" in shown.output and "public keys only" not in shown.output
    return made


def enrolment(home: MerchantHome) -> Enrolment:
    return read_file(home.folder / "enrolment.json", Enrolment)


def counts(home: MerchantHome) -> list[CountEntry]:
    outcome, entries = read_entries(home.ledger, public=home.identity().public, verify=verify)
    assert outcome.ok
    return [entry for entry in entries if isinstance(entry, CountEntry)]


def law(units: int, *, reach: int = 400) -> NDArray[np.float64]:
    """The probabilities of a declared size from 1 on, by the definition."""
    noise = np.arange(-reach, reach + 1)
    weights = np.exp(-(noise.astype(float) ** 2) / (2 * COUNT_SIGMA**2))
    sizes = np.maximum(1, units + noise)
    found: NDArray[np.float64] = np.bincount(
        sizes, weights / weights.sum(), minlength=units + reach + 2
    ).astype(np.float64)
    return found


def test_a_size_has_the_law_that_it_is_accounted_by() -> None:
    rng = Randomness.seeded(11, "size")
    for units in (5, 500):
        drawn = np.array([noised_size(units, rng=rng) for _ in range(4000)])
        assert drawn.min() >= 1
        exact = law(units)
        values = np.arange(exact.size)
        # Kolmogorov and Smirnov's distance; 1.95 / sqrt(n) is passed by chance one time in a thousand.
        found = np.searchsorted(np.sort(drawn), values, side="right") / drawn.size
        assert np.abs(found - np.cumsum(exact)).max() < 1.95 / math.sqrt(drawn.size)


@pytest.mark.parametrize("units", [0, 1, 3, 60, 500])
@pytest.mark.parametrize("releases", [1, 2])
def test_one_unit_more_or_less_is_hidden_as_charged(units: int, releases: int) -> None:
    """Both directions, by brute force: the whole law of one or two releases, clamped at 1."""
    first, second = law(units, reach=260), law(units + 1, reach=260)
    size = max(first.size, second.size)
    first, second = (np.pad(one, (0, size - one.size)) for one in (first, second))
    if releases == 2:
        first, second = (np.multiply.outer(one, one).ravel() for one in (first, second))
    for delta in (1e-3, 1e-5, 1e-7):
        for epsilon in (
            epsilon_pld([count_event()] * releases, delta=delta),
            epsilon_rdp([count_event()] * releases, delta=delta),
        ):
            for here, there in ((first, second), (second, first)):
                # What the law's cut tails hold is far below: exp(-13^2 / 2) is 2e-37.
                assert np.maximum(here - math.exp(epsilon) * there, 0.0).sum() <= delta


def test_the_enrolment_file_holds_keys_and_one_noised_count_that_was_charged_first(
    photos: Path, tmp_path: Path
) -> None:
    homes = [init(photos, tmp_path / f"home-{number}") for number in range(4)]
    for home in homes:
        statement = json.loads((home.folder / "enrolment.json").read_text("utf-8"))["statement"]
        assert set(statement) == {"version", "name", "role", "signing_key", "node_key", "unit", "size"}
        (entry,) = counts(home)
        assert (statement["unit"], statement["size"]) == ("record", entry.count.size)
        assert (entry.count.sigma, entry.count.seeded) == (COUNT_SIGMA, False)
        assert entry.epsilons.spent_after == pytest.approx(epsilon_pld([count_event()], delta=1e-5 / 32))
        # Nothing in the folder has the exact number: no count of photos or of files.
        kept = {file.name for file in home.folder.iterdir()}
        assert kept == {
            *("client.toml", "enrolment.json", "identity.key", "ledger.sqlite", "ledger.sqlite.head"),
            *("ledger.sqlite.lock", "node.key", "policy.toml", "store.sqlite"),
        }
        assert f"{PHOTOS}" not in (home.folder / "client.toml").read_text("utf-8").split("data")[0]
    # Drawn anew for each, from the operating system: 30 has a chance of 2% each time.
    assert len({enrolment(home).statement.size for home in homes}) > 1


def test_one_release_holds_until_the_merchant_asks_for_another(photos: Path, tmp_path: Path) -> None:
    home = init(photos, tmp_path / "home")
    first = enrolment(home).statement
    for path in list(photos.rglob("*.png"))[:8]:
        path.unlink()
    assert run("rotate", "--home", home.folder).exit_code == 0
    rotated = enrolment(home).statement
    assert rotated.size == first.size and rotated.node_key != first.node_key and len(counts(home)) == 1
    shown = run("recount", "--home", home.folder)
    assert shown.exit_code == 0 and f"{PHOTOS - 8} distinct photos" in shown.output
    again = counts(home)
    assert [entry.count.number for entry in again] == [1, 2]
    assert enrolment(home).statement.size == again[1].count.size == home.declared_count().size
    # The key that waits stays the one that is asked for, and the second count was charged on top.
    assert enrolment(home).statement.node_key == rotated.node_key
    both = [epsilon_pld([count_event()], delta=1e-5 / 16 / part) for part in (2, 6)]
    assert again[1].epsilons.spent_after == pytest.approx(sum(both))
    assert again[1].epsilons.spent_before == again[0].epsilons.spent_after


def test_a_count_is_charged_before_its_file_is_written(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = write_atomically

    def full(path: Path, data: bytes, *, mode: int | None = None) -> None:
        if path.name == "enrolment.json":
            raise OSError("the disk is full")
        if mode is None:
            real(path, data)
        else:
            real(path, data, mode=mode)

    monkeypatch.setattr(home_module, "write_atomically", full)
    shown = run("init", "--name", "m0", "--data", photos, "--home", tmp_path / "home")
    assert isinstance(shown.exception, OSError)
    assert len(counts(MerchantHome(tmp_path / "home"))) == 1
    assert not (tmp_path / "home" / "enrolment.json").exists()
    with pytest.raises(ConfigError, match="holds no merchant"):
        MerchantHome.open(tmp_path / "home")


def test_a_count_over_the_cap_is_not_redrawn(photos: Path, tmp_path: Path) -> None:
    home = init(photos, tmp_path / "home")
    policy = home.folder / "policy.toml"
    policy.write_text(policy.read_text("utf-8").replace("lifetime_epsilon = 10.0", "lifetime_epsilon = 0.2"))
    before = (home.folder / "enrolment.json").read_bytes()
    assert run("recount", "--home", home.folder).exit_code != 0
    assert len(counts(home)) == 1 and (home.folder / "enrolment.json").read_bytes() == before


def test_a_unit_is_chosen_once(tmp_path: Path, photos: Path) -> None:
    shown = run("init", "--name", "m0", "--data", photos, "--home", tmp_path / "a", "--unit", "product")
    assert isinstance(shown.exception, ConfigError) and "--layout product" in str(shown.exception)
    shown = run("init", "--name", "m0", "--data", photos, "--home", tmp_path / "a", "--unit", "photo")
    assert isinstance(shown.exception, ConfigError) and "record or product" in str(shown.exception)
    assert not (tmp_path / "a").exists()


@pytest.mark.usefixtures("few_synthetic_photos")
def test_a_simulation_charges_the_counts_that_its_plan_is_made_of(tmp_path: Path) -> None:
    options = {
        "merchants": 3,
        "model": "cnn-tanh",
        "rounds": 2,
        "workers": 1,
        "device": "cpu",
        "seed": 5,
        "epsilon": 4.0,
    }
    result = simulate(load_config(None, options | {"out": tmp_path / "run"}))
    plan = json.loads((result.folder / "plan.json").read_text("utf-8"))
    sizes = []
    for peer in plan["roster"]:
        outcome, entries = read_entries(
            result.folder / "merchants" / peer["name"] / "ledger.sqlite",
            public=bytes.fromhex(peer["signing_key"]),
            verify=verify,
        )
        declared = last_count(entries)
        assert outcome.ok and declared is not None and declared.seeded
        sizes.append(declared.size)
    assert (plan["records_total"], plan["records_largest"]) == (sum(sizes), max(sizes))
    exact = [line["records"] for line in result.report.to_json()["privacy"]["per_merchant"]]
    assert sizes != exact and all(abs(a - b) < 8 * COUNT_SIGMA for a, b in zip(sizes, exact, strict=True))
    privacy = result.report.to_json()["privacy"]
    training, count = privacy["events"]
    assert training == {
        "kind": "training",
        "sample_rate": plan["sample_rate"],
        "noise_multiplier": privacy["noise_multiplier"],
        "steps": 2,
    }
    assert count == {"kind": "count", "sample_rate": 1.0, "noise_multiplier": COUNT_SIGMA, "steps": 1}
    # The target covers the count as well.
    assert 0.98 * 4.0 < privacy["epsilon"] <= 4.0


@pytest.mark.usefixtures("few_synthetic_photos")
def test_an_epsilon_below_that_of_a_count_is_out_of_reach(tmp_path: Path) -> None:
    options = {
        "merchants": 3,
        "model": "cnn-tanh",
        "rounds": 2,
        "device": "cpu",
        "epsilon": 0.1,
        "out": tmp_path / "run",
    }
    with pytest.raises(UnreachableBudgetError, match="counts of records that are declared"):
        simulate(load_config(None, options))
