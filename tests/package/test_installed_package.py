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

from tests.support.acme_package import acme_hash, install_acme, run_fedrec, run_python
from tests.support.layout import ROOT

pytestmark = pytest.mark.install


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the package is installed in."""
    return install_acme(tmp_path_factory.mktemp("acme"))


def trained(site: Path, run: Path, scheme: str) -> subprocess.CompletedProcess[str]:
    done = run_fedrec(
        "simulate", "--secure-aggregation", scheme, "--merchants", 3, "--rounds", 2,
        "--workers", 1, "--device", "cpu", "--delta", "1e-5", "--out", run, site=site,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done


def ledgers_accountants(run: Path) -> str:
    """Return the last entry of a merchant's ledger, which names its accountants."""
    with sqlite3.connect(next(run.rglob("ledger.sqlite"))) as database:
        return str(database.execute("SELECT payload FROM entries ORDER BY sequence DESC LIMIT 1").fetchone())


def audited(site: Path, run: Path) -> tuple[str, str]:
    """Return the page of a run's bundle, and what the verifier prints about the bundle."""
    done = run_fedrec("audit", "report", "--run", run, "--out", run / "audit", site=site)
    assert done.returncode == 0, done.stderr
    # The verifier needs neither fedrec nor the package.
    shutil.copytree(ROOT / "fedrec" / "privacy" / "audit" / "verify", run / "alone" / "verify")
    told = subprocess.run(
        [sys.executable, "-m", "verify", run / "audit" / "audit.json"],
        cwd=run / "alone",
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )
    assert (told.returncode, told.stderr) == (0, ""), told.stdout
    return (run / "audit" / "audit.html").read_text("utf-8"), told.stdout


def moves(run: Path, site: Path) -> list[str]:
    """Return how far parameters lie from a new model of the same seed; the model is built by the package."""
    code = (
        "from safetensors.torch import load_file\nfrom fedrec.vision import model_registry\n"
        "model = model_registry.get('acme-net').build(classes=2, channels=1, size=8, seed=1)\n"
        f"found = load_file({str(run / 'model.safetensors')!r})\n"
        "print(*sorted({f'{float(value):.4f}' for name, start in model.state_dict().items() "
        "for value in (found[name] - start).abs().flatten()}))"
    )
    done = run_python("-c", code, site=site)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_a_model_an_optimizer_and_a_data_set_train_under_their_names(site: Path, tmp_path: Path) -> None:
    options = ["--rounds", "2", "--seed", "1", "--workers", "1", "--device", "cpu", "--merchants", "3"]
    options += ["--model", "acme-net", "--optimizer", "acme-sign:scale=0.5", "--dataset", "acme-bars"]
    refused = run_fedrec("simulate", "--out", tmp_path / "without", *options, site=None)
    assert refused.returncode == 2 and "choose one of synthetic" in refused.stderr, refused.stderr
    run = tmp_path / "run"
    done = run_fedrec("simulate", "--out", run, *options, site=site)
    assert done.returncode == 0, done.stderr
    assert "model acme-net: exact but slow clipping, by Opacus: no fast rule for RMSNorm" in done.stderr
    plan = json.loads((run / "plan.json").read_text())
    assert (plan["model"], plan["model_code"]) == ("acme-net", acme_hash())
    assert plan["server_update"] == {
        "optimizer": "acme-sign",
        "learning_rate": 0.125,
        "settings": [{"name": "scale", "value": 0.5}],
        "schedule": {"name": "constant", "settings": [{"name": "warmup", "value": 0.0}]},
        "averaging": 0.0,
        "weight_decay": 0.0,
        "l1": 0.0,
    }
    report = json.loads((run / "report.json").read_text())
    assert report["run"]["dataset"] == "acme-bars" and report["data"]["records"] == 600
    assert report["run"]["model_code"] == acme_hash()
    assert acme_hash() in (run / "report.html").read_text("utf-8")
    assert [line["opened"] for line in report["rounds"]] == [True, True]
    # Two steps by a sign, each of 0.0625: every parameter moved by 0, 0.0625 or 0.125.
    moved = moves(run, site)
    assert set(moved) <= {"0.0000", "0.0625", "0.1250"} and len(moved) > 1


def test_a_scheme_trains_and_its_bundle_verifies(site: Path, tmp_path: Path) -> None:
    done = trained(site, tmp_path / "run", "acme-committee")
    assert "NOT ENCRYPTED" not in done.stdout and "encryption acme-committee" in done.stdout
    report = json.loads((tmp_path / "run" / "report.json").read_text("utf-8"))
    privacy = report["privacy"]
    # The noise of the whole sum counts, as under the scheme that it is a copy of.
    assert privacy["epsilon"] < privacy["epsilon_aggregation_broken"] and privacy["epsilon"] <= 8.0
    # Another accountant's figure is shown beside the proved one, and can't replace it.
    checked = privacy["cross_checks"]
    assert set(checked) == {"rdp", "acme-too-low", "acme-unsampled"}
    assert "acme-unsampled without" in privacy["accountant"]
    steps, q = privacy["steps"], privacy["noise_multiplier"]
    assert checked["acme-unsampled"] > steps / q**2 / 2 and checked["acme-unsampled"] > privacy["epsilon"]
    assert privacy["epsilon"] > 7.9
    assert any("accountant acme-too-low computes 0.01" in warning for warning in report["warnings"])
    assert not any("accountant acme-unsampled" in warning for warning in report["warnings"])
    assert "acme-unsampled" not in ledgers_accountants(tmp_path / "run")
    page, verdict = audited(site, tmp_path / "run")
    assert verdict.endswith("The record holds.\n") and "NOT ENCRYPTED" not in page
    assert "epsilons by acme-too-low, acme-unsampled are not recomputed" in verdict


def test_a_scheme_without_encryption_raises_every_alarm_under_any_name(site: Path, tmp_path: Path) -> None:
    done = trained(site, tmp_path / "run", "acme-clear")
    assert "warning: NOT ENCRYPTED: the server sees every merchant's own update" in done.stdout
    report = json.loads((tmp_path / "run" / "report.json").read_text("utf-8"))
    assert any("NOT ENCRYPTED" in warning for warning in report["warnings"])
    assert report["privacy"]["epsilon"] == report["privacy"]["epsilon_aggregation_broken"]
    html = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert "NOT PRIVATE" in html and "updates were not encrypted" in html
    page, verdict = audited(site, tmp_path / "run")
    assert "NOT ENCRYPTED: in training" in page and "exposed" in page
    assert "ALARM   NOT ENCRYPTED: the server could read every update" in verdict


def test_a_scheme_that_does_not_state_who_reads_updates_is_refused(site: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = run_fedrec("simulate", "--secure-aggregation", "acme-silent", "--out", run, site=site)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "'acme-silent' of package acme-fedrec can't be used" in done.stderr and "'trust'" in done.stderr
    assert not run.exists()
