"""``fedrec audit``: from a run or from merchants' folders to a bundle that holds, and pages that say it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedrec.cli import app as cli
from fedrec.config import load_config
from fedrec.privacy.audit import verify as verifier
from fedrec.privacy.audit.content import Table, Text, blocks
from fedrec.privacy.audit.pages import render_html, render_pdf
from fedrec.simulations.harness import simulate

Command = Callable[..., tuple[int, str]]
DOCS = Path(__file__).parents[1] / "docs" / "audit.md"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run over two processes' worth of merchants, with dropouts."""
    folder = tmp_path_factory.mktemp("run") / "run"
    options = {"merchants": 3, "rounds": 3, "sample_rate": 0.05, "device": "cpu", "workers": 1, "out": folder}
    simulate(load_config(None, options))
    return folder


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    def call(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["fedrec", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        shown = capsys.readouterr()
        return int(ended.value.code or 0), shown.out + shown.err

    return call


@pytest.fixture(scope="module")
def bundle(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("audit") / "audit"
    subprocess.run(
        [sys.executable, "-m", "fedrec.cli", "audit", "report", "--run", str(run), "--out", str(out)],
        check=True,
        capture_output=True,
        timeout=120,
    )
    return out


def test_a_run_s_bundle_holds_and_its_command_says_so(bundle: Path, command: Command) -> None:
    code, shown = command("audit", "verify", bundle / "audit.json")
    assert code == 0 and "The record holds." in shown
    assert shown.count("3 charges hold") == 3 and "no receipts" not in shown and "aren't here" not in shown


def test_a_tampered_bundle_ends_with_its_own_code_and_one_line(
    bundle: Path, command: Command, tmp_path: Path
) -> None:
    text = (bundle / "audit.json").read_text("utf-8")
    (tmp_path / "audit.json").write_text(text.replace('"epsilon_rdp": ', '"epsilon_rdp": 1', 1))
    code, shown = command("audit", "verify", tmp_path / "audit.json")
    assert code == 15 and "signature doesn't hold" in shown and "The record holds" not in shown


def test_the_script_in_the_docs_arrives_at_the_same_epsilons(bundle: Path, tmp_path: Path) -> None:
    found = re.search(r"```python\n(.*?)```", DOCS.read_text("utf-8"), re.DOTALL)
    assert found is not None and len(found[1].splitlines()) <= 30
    assert "fedrec" not in found[1]
    (tmp_path / "recheck.py").write_text(found[1])
    done = subprocess.run(
        [sys.executable, str(tmp_path / "recheck.py"), str(bundle / "audit.json")],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == ["merchant-00", "merchant-01", "merchant-02"]
    for _, pld, pld_found, rdp, rdp_found in lines:
        assert float(pld_found) * 0.999 <= float(pld) <= float(pld_found) * 1.01
        assert float(rdp) == pytest.approx(float(rdp_found), rel=1e-3)


def loaded(bundle: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((bundle / "audit.json").read_text("utf-8"))
    return found


def test_the_pages_show_what_the_bundle_says(bundle: Path) -> None:
    document = loaded(bundle)
    page = (bundle / "audit.html").read_text("utf-8")
    summary = document["body"]["merchants"][0]["summary"]
    for value in (summary["epsilon_pld"], summary["epsilon_rdp"], summary["epsilon_aggregation_broken"]):
        assert f"{value:.2f}" in page
    for text in (*document["body"]["statements"]["exclusions"], "What each party could see", "Refusals"):
        assert text.replace("'", "&#x27;") in page
    assert "<script" not in page and "http://" not in page and "https://" not in page
    assert (bundle / "audit.pdf").read_bytes().startswith(b"%PDF-")


def test_the_holder_of_a_key_and_what_any_one_merchant_opens_are_told(bundle: Path) -> None:
    def rows(scheme: str) -> dict[str, str]:
        document = loaded(bundle)
        plans = [json.loads(text) | {"scheme": scheme} for text in document["body"]["plans"]]
        document["body"]["plans"] = [json.dumps(plan) for plan in plans]
        shown = [block for block in blocks(document) if isinstance(block, Table) and "party" in block.columns]
        return {row[0]: row[1] for row in shown[0].rows}

    assert (
        "one merchant sides with it, whether that one holds the key or not"
        in rows("ckks")["the server (ckks)"]
    )
    assert "opens any of them" in rows("ckks")["the merchant that holds the key (ckks)"]
    assert not any("holds the key" in party for party in (*rows("kahe"), *rows("none")))


def test_a_ledger_without_noise_has_no_guarantee_on_any_page(bundle: Path) -> None:
    document = loaded(bundle)
    for merchant in document["body"]["merchants"]:
        merchant["summary"] |= {"epsilon_pld": None, "epsilon_rdp": None, "epsilon_aggregation_broken": None}
    alarms = [block for block in blocks(document) if isinstance(block, Text) and block.alarm]
    assert len(alarms) == 1 and "NO privacy guarantee" in alarms[0].text
    rows = next(block for block in blocks(document) if isinstance(block, Table)).rows
    assert all(row[3] == "no bound" for row in rows)
    assert "NO privacy guarantee" in render_html(document) and render_pdf(document).startswith(b"%PDF-")


def test_names_of_strangers_are_escaped(bundle: Path) -> None:
    document = loaded(bundle)
    document["body"]["refusals"] = {"<script>alert(1)</script>": "\u2028 & \u4e16"}
    page = render_html(document)
    assert "<script>" not in page and "&lt;script&gt;" in page
    assert render_pdf(document).startswith(b"%PDF-")


def test_attachments_are_checked_signed_and_shown(run: Path, command: Command, tmp_path: Path) -> None:
    (tmp_path / "e.json").write_text('{"schema": "fedrec.empirical/1", "epsilon_lower_bound": 2.75}')
    (tmp_path / "wrong.json").write_text('{"schema": "other/1"}')
    code, shown = command(
        "audit", "report", "--run", run, "--out", tmp_path / "a", "--empirical", tmp_path / "wrong.json"
    )
    assert code == 2 and "schema" in shown and not (tmp_path / "a").exists()
    code, _ = command(
        "audit", "report", "--run", run, "--out", tmp_path / "b", "--empirical", tmp_path / "e.json"
    )
    assert code == 0 and "2.75" in (tmp_path / "b" / "audit.html").read_text("utf-8")
    assert verifier.verify(tmp_path / "b" / "audit.json").ok
    text = (tmp_path / "b" / "audit.json").read_text("utf-8")
    (tmp_path / "b" / "audit.json").write_text(text.replace("2.75", "0.10"))
    assert not verifier.verify(tmp_path / "b" / "audit.json").ok


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "an audit needs ledgers"),
        (("--run", "nowhere"), "no whole run directory"),
        (("--client", "nowhere"), "holds no merchant"),
    ],
)
def test_what_is_missing_is_one_line(
    command: Command, tmp_path: Path, options: tuple[str, ...], says: str
) -> None:
    code, shown = command("audit", "report", "--out", tmp_path / "a", *options)
    assert code == 2 and says in shown and shown.count("\n") == 1
