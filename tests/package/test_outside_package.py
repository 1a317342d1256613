"""What an installed package adds to fedrec: trained with, reported and verified without touching fedrec."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.layout import ROOT

SOURCE = Path(__file__).with_name("outside")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the package and install it into a folder of its own, without a network."""
    source, target = tmp_path_factory.mktemp("source") / "outside", tmp_path_factory.mktemp("target")
    shutil.copytree(SOURCE, source)
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", target, source], check=True, capture_output=True, timeout=120)
    return target


def fedrec(installed: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command line where the package is installed."""
    paths = os.pathsep.join((str(installed), str(ROOT)))
    return subprocess.run(
        [sys.executable, "-m", "fedrec.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        env=os.environ | {"PYTHONPATH": paths},
    )


def trained(installed: Path, run: Path, scheme: str) -> subprocess.CompletedProcess[str]:
    done = fedrec(
        installed, "simulate", "--secure-aggregation", scheme, "--merchants", 3, "--rounds", 2,
        "--workers", 1, "--device", "cpu", "--delta", "1e-5", "--out", run,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done


def ledgers_accountants(run: Path) -> str:
    """What the entries of a merchant's ledger name."""
    with sqlite3.connect(next(run.rglob("ledger.sqlite"))) as database:
        return str(database.execute("SELECT payload FROM entries ORDER BY sequence DESC LIMIT 1").fetchone())


def audited(installed: Path, run: Path) -> tuple[str, str]:
    """What the bundle of a run shows on its page, and what verify says of it."""
    done = fedrec(installed, "audit", "report", "--run", run, "--out", run / "audit")
    assert done.returncode == 0, done.stderr
    # The verifier needs neither fedrec nor the package.
    shutil.copytree(ROOT / "fedrec" / "privacy" / "audit" / "verify", run / "alone" / "verify")
    told = subprocess.run(
        [sys.executable, "-m", "verify", run / "audit" / "audit.json"],
        cwd=run / "alone",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )
    assert (told.returncode, told.stderr) == (0, ""), told.stdout
    return (run / "audit" / "audit.html").read_text("utf-8"), told.stdout


@pytest.mark.install
def test_a_scheme_of_another_package_trains_and_its_bundle_holds(installed: Path, tmp_path: Path) -> None:
    done = trained(installed, tmp_path / "run", "outside-committee")
    assert "NOT ENCRYPTED" not in done.stdout and "encryption outside-committee" in done.stdout
    report = json.loads((tmp_path / "run" / "report.json").read_text("utf-8"))
    privacy = report["privacy"]
    # The noise of the whole sum counts, as under the scheme that it is a copy of.
    assert privacy["epsilon"] < privacy["epsilon_aggregation_broken"] and privacy["epsilon"] <= 8.0
    # Another accountant's figure stands beside the proved one, and can't take its place.
    checked = privacy["cross_checks"]
    assert (
        set(checked) == {"rdp", "hopeful", "whole-orders"} and "whole-orders without" in privacy["accountant"]
    )
    steps, q = privacy["steps"], privacy["noise_multiplier"]
    assert checked["whole-orders"] > steps / q**2 / 2 and checked["whole-orders"] > privacy["epsilon"]
    assert privacy["epsilon"] > 7.9 and any(
        "accountant hopeful computes 0.01" in w for w in report["warnings"]
    )
    assert not any("accountant whole-orders" in warning for warning in report["warnings"])
    assert "whole-orders" not in ledgers_accountants(tmp_path / "run")
    page, verdict = audited(installed, tmp_path / "run")
    assert verdict.endswith("The record holds.\n") and "NOT ENCRYPTED" not in page
    assert "epsilons by hopeful, whole-orders are not recomputed" in verdict


@pytest.mark.install
def test_updates_in_clear_are_alarmed_under_any_name(installed: Path, tmp_path: Path) -> None:
    done = trained(installed, tmp_path / "run", "outside-clear")
    assert "warning: NOT ENCRYPTED: the server sees every merchant's own update" in done.stdout
    report = json.loads((tmp_path / "run" / "report.json").read_text("utf-8"))
    assert any("NOT ENCRYPTED" in warning for warning in report["warnings"])
    assert report["privacy"]["epsilon"] == report["privacy"]["epsilon_aggregation_broken"]
    html = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert "NOT PRIVATE" in html and "updates were not encrypted" in html
    page, verdict = audited(installed, tmp_path / "run")
    assert "NOT ENCRYPTED: in training" in page and "exposed" in page
    assert "ALARM   NOT ENCRYPTED: the server could read every update" in verdict


@pytest.mark.install
def test_a_scheme_that_says_nothing_of_readers_is_refused(installed: Path, tmp_path: Path) -> None:
    done = fedrec(installed, "simulate", "--secure-aggregation", "outside-silent", "--out", tmp_path / "run")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "'outside-silent' of package outside can't be used" in done.stderr and "'trust'" in done.stderr
    assert not (tmp_path / "run").exists()
