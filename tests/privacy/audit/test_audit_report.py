"""``fedrec audit``: from a run or from merchants' folders to a bundle that holds, and pages that say it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime, timedelta
from html import unescape
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from fedrec._internal import number_format
from fedrec.cli import app as cli
from fedrec.config import load_config
from fedrec.privacy.accounting.privacy_spend import PrivacySpend
from fedrec.privacy.aggregation import clear
from fedrec.privacy.audit import verify as verifier
from fedrec.privacy.audit.audit_document import audit_document
from fedrec.privacy.audit.timeline import _time_ticks
from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.schema import sha256_hex
from fedrec.report import pdf
from fedrec.report.document import Alert, Code, Figures, Named, Paragraph, Plots, Section, Table, Tag
from fedrec.report.html import render_html
from fedrec.simulations import local_grid
from fedrec.simulations.harness import simulate
from fedrec.vision.synthetic import generate, write
from tests.support.commands import command_here
from tests.support.inline import InlineWorker
from tests.support.layout import DOCS

Command = Callable[..., tuple[int, str]]
PAGE = DOCS / "audit.md"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run of three merchants."""
    folder = tmp_path_factory.mktemp("run")
    photos = generate(merchants=3, per_merchant=40, size=16, seed=1, validation=20, test=20)
    write(photos, folder / "photos")
    options = {
        "data": folder / "photos",
        "partition": "folder",
        "model": "cnn-tanh",
        "rounds": 3,
        "sample_rate": 0.05,
    }
    options |= {"device": "cpu", "workers": 1, "out": folder / "run"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local_grid, "WorkerProcess", InlineWorker)
        simulate(load_config(None, options))
    return folder / "run"


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
    command_here("audit", "report", "--run", run, "--out", out)
    return out


def test_a_run_s_bundle_verifies_and_the_command_says_so(bundle: Path, command: Command) -> None:
    code, shown = command("audit", "verify", bundle / "audit.json")
    assert code == 0 and "The record holds." in shown
    assert shown.count("3 charges and 1 count hold") == 3 and "MISSING" not in shown
    key = json.loads((bundle / "audit.json").read_text("utf-8"))["body"]["servers"][0]
    assert f"key     {key} server" in shown
    assert command("audit", "verify", bundle / "audit.json", "--server-key", key)[0] == 0
    code, shown = command("audit", "verify", bundle / "audit.json", "--server-key", "0" * 64)
    assert code == 15 and "the server's key is not one that was given" in shown
    code, shown = command("audit", "verify", bundle / "audit.json", "--merchant", "nonsense")
    assert code == 2 and "not NAME=KEY" in shown


def test_a_file_that_is_no_bundle_is_an_error_of_usage(command: Command, tmp_path: Path) -> None:
    (tmp_path / "audit.json").write_text("{")
    for name, says in (("audit.json", "not a whole JSON file"), ("nowhere.json", "No such file")):
        code, shown = command("audit", "verify", tmp_path / name)
        assert code == 2 and says in shown and shown.count("\n") == 1


def test_a_missing_part_has_its_own_exit_code(run: Path, command: Command, tmp_path: Path) -> None:
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    (copied / "server" / "receipts.sqlite").unlink()
    assert command("audit", "report", "--run", copied, "--out", tmp_path / "out")[0] == 0
    code, shown = command("audit", "verify", tmp_path / "out" / "audit.json")
    assert code == 17 and "MISSING merchant-00: no receipts" in shown and "--allow-missing" in shown
    code, shown = command("audit", "verify", tmp_path / "out" / "audit.json", "--allow-missing")
    assert code == 0 and "holds as far as it could be checked" in shown


def test_a_page_that_was_changed_is_named(bundle: Path, command: Command, tmp_path: Path) -> None:
    for name in ("audit.json", "audit.html", "audit.pdf"):
        shutil.copy(bundle / name, tmp_path / name)
    assert command("audit", "verify", tmp_path / "audit.json")[0] == 0
    page = tmp_path / "audit.html"
    page.write_text(page.read_text("utf-8").replace("The guarantee", "The guaranty"))
    code, shown = command("audit", "verify", tmp_path / "audit.json")
    assert code == 15 and "audit.html beside the bundle" in shown


def test_a_tampered_bundle_ends_with_its_own_code_and_one_line(
    bundle: Path, command: Command, tmp_path: Path
) -> None:
    text = (bundle / "audit.json").read_text("utf-8")
    (tmp_path / "audit.json").write_text(text.replace('"spent": ', '"spent": 1', 1))
    code, shown = command("audit", "verify", tmp_path / "audit.json")
    assert code == 15 and "signature doesn't hold" in shown and "The record holds" not in shown


@pytest.mark.slow
def test_the_script_in_the_docs_computes_the_same_epsilons(bundle: Path, tmp_path: Path) -> None:
    found = re.search(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert found is not None and len(found[1].splitlines()) <= 30
    assert "fedrec" not in found[1]
    (tmp_path / "recheck.py").write_text(found[1])
    done = subprocess.run(
        [sys.executable, str(tmp_path / "recheck.py"), str(bundle / "audit.json")],
        check=True,
        capture_output=True,
        text=True,
        timeout=200,
    )
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == ["merchant-00", "merchant-01", "merchant-02"]
    for _, recorded, pld, rdp in lines:
        assert float(recorded) == pytest.approx(float(pld), rel=1e-3)
        assert float(recorded) <= 1.01 * float(rdp)


def loaded(bundle: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((bundle / "audit.json").read_text("utf-8"))["body"]
    return found


def parts(value: Any) -> Iterator[Any]:
    """Everything that a document is made of, blocks in blocks too."""
    if is_dataclass(value):
        yield value
        for field in fields(value):
            yield from parts(getattr(value, field.name))
    elif isinstance(value, tuple):
        for item in value:
            yield from parts(item)


def found(body: dict[str, Any]) -> list[Any]:
    return list(parts(audit_document(body, signer="0" * 64)))


def html(body: dict[str, Any]) -> str:
    return render_html(audit_document(body, signer="0" * 64))


def alarms(body: dict[str, Any]) -> list[str]:
    return [text for part in found(body) if isinstance(part, Alert) for text in part.texts]


def texts(body: dict[str, Any]) -> str:
    paragraphs = [part.text for part in found(body) if isinstance(part, Paragraph)]
    return " ".join([*alarms(body), *paragraphs])


def plain(cell: Any) -> str:
    if isinstance(cell, (Tag, Code)):
        return cell.text
    return cell.name if isinstance(cell, Named) else str(cell)


def tables(body: dict[str, Any]) -> dict[str, list[tuple[str, ...]]]:
    """The rows of tables, as plain text, by their first column's title."""
    return {
        part.columns[0].title: [tuple(map(plain, row)) for row in part.rows]
        for part in found(body)
        if isinstance(part, Table)
    }


def test_the_pages_show_what_the_bundle_says(bundle: Path) -> None:
    body = loaded(bundle)
    page = (bundle / "audit.html").read_text("utf-8")
    summary = body["merchants"][0]["summary"]
    for name in ("spent", "spent_aggregation_broken"):
        assert number_format.epsilon(summary[name]) in page
    said = (text for part in body["statements"].values() for text in part)
    for text in (*said, "What each party could see", "Threat model", body["servers"][0]):
        assert text in unescape(page)
    for name in ("fedrec", "torch", "dp-accounting"):
        assert body["software"][name] in page
    assert "<script" not in page and "http://" not in page and "https://" not in page
    assert (bundle / "audit.pdf").read_bytes().startswith(b"%PDF-")


def test_a_training_has_the_epsilon_of_its_own_report_wherever_it_is_shown(bundle: Path) -> None:
    """The count that a merchant declared is in it: 7.98 stood beside the 7.99 of the report."""
    body = loaded(bundle)
    privacy = body["attachments"]["report"]["privacy"]
    shown = number_format.epsilon(privacy["epsilon"])
    (figure,) = (
        item
        for part in found(body)
        if isinstance(part, Figures)
        for item in part.items
        if item.name == "Training that cost most"
    )
    assert figure.value == shown
    assert {row[3] for row in tables(body)["merchant"]} == {shown}
    assert [row[7] for row in tables(body)["training"]] == [shown]
    assert privacy["rating"]["sentence"].split(", when one")[0] in texts(body)
    assert f"epsilon {shown} at delta" in texts(body)
    outcome = verifier.verify(bundle / "audit.json")
    assert outcome.ok
    assert any(f"largest training's epsilon is {privacy['epsilon']:.3g}" in line for line in outcome.lines)


def test_party_views_follow_mode_and_scheme(bundle: Path) -> None:
    body = loaded(bundle)
    assert "The server with up to 1 merchant" in [row[0] for row in tables(body)["party"]]
    plan, entries = json.loads(body["plans"][0]), body["merchants"][0]["entries"]
    other = TrainingPlan.model_validate_json(
        json.dumps(plan | {"scheme": "none", "trust": clear.SPEC.trust.model_dump()})
    )
    body["plans"] = [other.canonical_bytes().decode()]
    body["merchants"] = body["merchants"][:1]
    training = other.training_id
    for row in entries:
        entry = json.loads(row["payload"])
        if entry["kind"] == "charge":
            row["payload"] = json.dumps(entry | {"charge": entry["charge"] | {"training_id": training}})
    rows = {row[0]: row for row in tables(body)["party"]}
    assert rows["The server"][2] == "exposed" and "in clear" in rows["The server"][1]
    assert any("not encrypted" in text for text in alarms(body))


def test_a_ledger_without_noise_has_no_guarantee_on_any_page(bundle: Path) -> None:
    body = loaded(bundle)
    for merchant in body["merchants"]:
        merchant["summary"] |= {"training_epsilon": None, "spent": None, "spent_aggregation_broken": None}
        for row in merchant["entries"]:
            row["payload"] = re.sub(
                '"guaranteed_noise_multiplier":[^,]*', '"guaranteed_noise_multiplier":0.0', row["payload"]
            )
    assert len(alarms(body)) == 1 and "NO privacy guarantee" in alarms(body)[0]
    assert "formal terms" not in texts(body)
    assert all(row[4] == "no bound" for row in tables(body)["merchant"])
    assert "NO privacy guarantee" in html(body)


def test_seeded_noise_raises_an_alarm(bundle: Path) -> None:
    body = loaded(bundle)
    assert not any("seed" in text for text in alarms(body))
    body["merchants"][1]["summary"]["seeded"] = 3
    (told,) = (text for text in alarms(body) if "seed" in text)
    assert "came from a seed" in told and "merchant-01" in told and "merchant-00" not in told
    # No card may show an epsilon in large letters that nobody guarantees.
    page = html(body)
    assert page.count("<dd>none</dd>") == 3 and "no guarantee: noise came from a seed" in page


def test_an_overrun_cap_is_shown_as_one(bundle: Path) -> None:
    body = loaded(bundle)
    merchant = body["merchants"][0]
    rules = json.loads(merchant["policies"][-1])
    spent = merchant["summary"]["spent"]

    def left(cap: float, *, named: bool = True) -> str:
        text = json.dumps(rules | {"lifetime_epsilon": cap, "lifetime_delta": 1e-5})
        merchant["policies"] = [text, merchant["policies"][-1]]
        for row in merchant["entries"] if named else ():
            entry = json.loads(row["payload"])
            part = entry["kind"]
            if "policy_hash" in entry[part]:
                named_now = entry[part] | {"policy_hash": sha256_hex(text.encode())}
                row["payload"] = json.dumps(entry | {part: named_now})
        return tables(body)["merchant"][0][6]

    # A policy that no charge names says nothing of what was charged.
    assert left(spent + 1, named=False) == "no cap"
    assert left(spent + 1) in ("0.99", "1.00")
    assert left(spent - 0.5) == f"overrun by {number_format.epsilon(0.5)}"
    merchant["policies"] = []
    assert tables(body)["merchant"][0][6] == "policy not here"


def test_little_protection_is_never_called_protected(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = loaded(bundle)
    own = 0.0
    monkeypatch.setattr(PrivacySpend, "epsilon", lambda self, view="server": own)
    for own, word, protects in (
        (10.5, "Little protection", False),
        (9.9, "Weak", True),
        (0.9, "Strong", True),
    ):
        for merchant in body["merchants"]:
            merchant["summary"] |= {"spent": own}
        assert f"{word}: whatever anybody concludes" in texts(body) and "at most" in texts(body)
        assert bool(alarms(body)) is not protects
        verdicts = {row[2] for row in tables(body)["party"]}
        assert verdicts == ({"protected"} if protects else {"little protection"})
        assert (">protected</span>" in html(body)) is protects


def test_refusals_are_grouped_and_those_not_collected_are_said(bundle: Path) -> None:
    body = loaded(bundle)
    body["refusals"] = {"server": {f"m{k}, round {k}": "policy 'hours'" for k in range(9)}, "m1": None}
    (row,) = tables(body)["recorded by"]
    assert row[:2] == ("server", "policy 'hours'") and row[2].startswith("9 x: ") and "6 more" in row[2]
    assert "Not collected from: m1." in texts(body)
    body["refusals"] = {"m1": {"train, 6 times, the last at noon": "policy 'hours'"}}
    (row,) = tables(body)["recorded by"]
    assert row[2] == "train, 6 times, the last at noon"
    body["refusals"] = {"m1": {}}
    assert "Recorded by m1: none." in texts(body) and "Not collected from: the server." in texts(body)


def scaled(merchant: dict[str, Any], factor: float) -> list[dict[str, Any]]:
    """A merchant's entries, with every epsilon multiplied."""
    entries = []
    for row in merchant["entries"]:
        entry = json.loads(row["payload"])
        epsilons = {
            name: value if name == "delta" or not isinstance(value, int | float) else value * factor
            for name, value in entry.get("epsilons", {}).items()
        }
        changed = {"epsilons": epsilons} if epsilons else {}
        entries.append(row | {"payload": json.dumps(entry | changed)})
    return entries


def last_spent(merchant: dict[str, Any]) -> float:
    entries = [json.loads(row["payload"]) for row in merchant["entries"]]
    return float([entry["epsilons"]["spent_after"] for entry in entries if "epsilons" in entry][-1])


def test_merchants_with_nearly_the_same_curves_are_one_band_and_one_row(bundle: Path) -> None:
    body = loaded(bundle)
    one = body["merchants"][0]
    factors = [1.0, 1.02, 0.96, 1.05, 0.99]
    body["merchants"] = [
        one | {"merchant": f"m{k}", "entries": scaled(one, factor)} for k, factor in enumerate(factors)
    ]
    (drawn,) = (part for part in found(body) if isinstance(part, Plots))
    (plot,) = drawn.items
    assert plot.name == "5 merchants" and len(plot.chart.bands) == len(plot.chart.lines) == 2
    spent = last_spent(one)
    last = plot.chart.bands[1].places[-1]
    assert last == pytest.approx((1.0, 0.96 * spent, 1.05 * spent))
    assert plot.value == f"{number_format.epsilon(1.05 * spent)} at most"
    (row,) = tables(body)["merchant"]
    assert row[0] == "5 merchants" or row[0].startswith("5 merchants")
    # Further apart, or too few, each has a picture and a row of its own.
    body["merchants"][4]["entries"] = scaled(one, 1.5)
    (drawn,) = (part for part in found(body) if isinstance(part, Plots))
    assert len(drawn.items) == 5
    body["merchants"] = body["merchants"][:3]
    (drawn,) = (part for part in found(body) if isinstance(part, Plots))
    assert len(drawn.items) == 3 and len(tables(body)["merchant"]) == 3


def test_the_band_of_charges_within_one_second_ends_at_the_last_of_them(bundle: Path) -> None:
    body = loaded(bundle)
    one = body["merchants"][0]
    one["entries"] = scaled(one, 1.0)
    for k, row in enumerate(one["entries"]):
        second = min(k, len(one["entries"]) - 2)
        entry = json.loads(row["payload"]) | {"created_at": f"2026-01-10T00:00:0{second}+00:00"}
        row["payload"] = json.dumps(entry)
    body["merchants"] = [one | {"merchant": f"m{k}"} for k in range(4)]
    (drawn,) = (part for part in found(body) if isinstance(part, Plots))
    (plot,) = drawn.items
    spent = last_spent(one)
    assert plot.chart.bands[1].places[-1] == pytest.approx((1.0, spent, spent))
    assert plot.chart.lines[1].points[-1] == pytest.approx((1.0, spent))


def test_sections_without_content_are_left_out(bundle: Path) -> None:
    body = loaded(bundle)
    body["refusals"], body["attachments"] = {"m1": None}, {}
    titles = [part.title for part in found(body) if isinstance(part, Section)]
    assert not {"Refusals", "Empirical audit", "Membership inference", "Inversion"} & set(titles)
    assert "Not part of this bundle: empirical audit ('fedrec audit empirical')" in texts(body)
    body["attachments"] = {"empirical": {"epsilon_lower_bound": 1.0}}
    titles = [part.title for part in found(body) if isinstance(part, Section)]
    assert "Empirical audit" in titles and "empirical audit ('fedrec" not in texts(body)


def test_every_merchant_has_a_panel_with_dates_and_its_cap(bundle: Path) -> None:
    body = loaded(bundle)
    one = body["merchants"][0]
    for k, row in enumerate(one["entries"]):
        entry = json.loads(row["payload"])
        row["payload"] = json.dumps(entry | {"created_at": f"2026-0{k + 1}-10T00:00:00+00:00"})
    body["merchants"] = [one | {"merchant": f"m{k}", "entries": scaled(one, 1 + k)} for k in range(14)]
    (drawn,) = (part for part in found(body) if isinstance(part, Plots))
    assert [plot.name for plot in drawn.items] == [f"m{k}" for k in range(14)]
    spent = last_spent(one)
    for k, plot in enumerate(drawn.items):
        assert plot.value == number_format.epsilon(spent * (1 + k))
        assert plot.chart.y_ticks == drawn.items[0].chart.y_ticks
        assert plot.chart.x_ticks and all("2026" in tick.text for tick in plot.chart.x_ticks)
        assert all(0.0 <= tick.at <= 1.0 for tick in plot.chart.x_ticks)
        for line in plot.chart.lines:
            places = [place for place, _ in line.points]
            assert places == sorted(places) and places[0] == 0.0 and places[-1] == 1.0
    assert all(f"<b>m{k}</b>" in html(body) for k in range(14))


def test_names_of_strangers_are_escaped(bundle: Path) -> None:
    body = loaded(bundle)
    body["refusals"] = {"server": {"<script>alert(1)</script>": "\u2028 & \u4e16"}}
    page = html(body)
    assert "<script>" not in page and "&lt;script&gt;" in page and "\u4e16" in page


def test_without_the_extra_the_bundle_has_no_pdf_and_says_so(
    run: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pdf, "find_spec", lambda name: None)
    code, shown = command("audit", "report", "--run", run, "--out", tmp_path / "out")
    assert code == 0 and "pip install 'fedrec[pdf]'" in shown
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"audit.json", "audit.html"}
    assert command("audit", "verify", tmp_path / "out" / "audit.json")[0] == 0


def test_the_attacks_figures_are_tables(bundle: Path) -> None:
    body = loaded(bundle)
    rates = {"tpr": 0.218, "tpr_low": 0.199, "tpr_high": 0.238, "auc": 0.876}
    level = {"lira": rates, "threshold": {"tpr": 0.043}, "accuracy_members": 0.98, "accuracy_others": 0.69}
    body["attachments"]["membership"] = {
        "fpr": 0.01,
        "levels": [level | {"epsilon": None}, level | {"epsilon": 8.0, "bound": 0.35}],
    }
    view = {"view": "raw_update", "psnr": 46.1, "best_psnr": 47.0, "ssim": 0.99, "shows_something": True}
    body["attachments"]["inversion"] = {
        "exposed": ["opened_sum at batch 8"],
        "batches": [{"photos": 8, "grey_psnr": 15.9, "grey_ssim": 0.1, "views": [view]}],
    }
    shown = tables(body)
    assert shown["noise"][0] == (
        "no noise",
        "21.8% (19.9% to 23.8%)",
        "0.876",
        "4.3%",
        "–",
        "98.0% / 69.0%",
    )
    assert shown["noise"][1][4] == "35.0%"
    assert shown["8 photos"][0] == ("raw update", "46.1", "47.0", "0.99", "yes")
    assert any("opened sum at batch 8" in text for text in alarms(body))


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
        (("--run", "nowhere"), "no whole run directory (plan.json: No such file or directory)"),
        (("--client", "nowhere"), "holds no merchant"),
    ],
)
def test_what_is_missing_is_one_line(
    command: Command, tmp_path: Path, options: tuple[str, ...], says: str
) -> None:
    code, shown = command("audit", "report", "--out", tmp_path / "a", *options)
    assert code == 2 and says in shown and shown.count("\n") == 1


@pytest.mark.parametrize("name", ["report.json", "policy.json"])
@pytest.mark.parametrize("content", ["", "[]", "null", "{"])
def test_a_run_with_a_damaged_file_is_one_line(
    command: Command, run: Path, tmp_path: Path, name: str, content: str
) -> None:
    damaged = tmp_path / "run"
    shutil.copytree(run, damaged)
    (damaged / name).write_text(content)
    code, shown = command("audit", "report", "--run", damaged, "--out", tmp_path / "a")
    assert code == 2 and shown.count("\n") == 1
    assert f"--run {damaged} is no whole run directory (" in shown and name in shown


@pytest.mark.parametrize("seconds", [3, 31, 61, 95, 119, 300, 3600, 86400, 9e5, 9e6, 3e7, 1e8])
def test_labels_of_times_never_run_into_each_other(seconds: float) -> None:
    """A small chart is about 32 signs wide at 390 pixels, on a phone."""
    start = datetime(2026, 1, 30, 7, 27, 1, tzinfo=UTC)
    ticks, _ = _time_ticks(start, start + timedelta(seconds=seconds))
    assert ticks
    for before, after in pairwise(ticks):
        assert 32 * (after.at - before.at) > (len(before.text) + len(after.text)) / 2 + 1
