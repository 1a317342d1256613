"""``fedrec compare``: rows of runs against figures computed otherwise, honest labels, and broken folders."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

import fedrec
from fedrec.cli import app as cli
from fedrec.errors import ConfigError
from fedrec.report.html import render_html
from fedrec.server.training_files import Status
from fedrec.server.trainings import Training
from fedrec.simulations.comparison.finished_runs import read_runs
from fedrec.simulations.comparison.page import comparison_document
from fedrec.simulations.comparison.rows import Comparison, compare
from fedrec.simulations.sweep_folder import write_sweep
from tests.support.finished_runs import fake_report, finished_run
from tests.support.pages import Outline
from tests.support.training_reports import report_of

ACCURACIES = (0.81, 0.84, 0.83)


def compared(*folders: Path) -> Comparison:
    return compare(*read_runs(folders))


@pytest.fixture
def repeats(tmp_path: Path) -> list[Path]:
    """Three runs of one setting that differ in seed and workers, and one of another setting."""
    runs = [
        finished_run(
            tmp_path / f"run-{seed}",
            fake_report(accuracy=accuracy, epsilon=3.9 + seed / 100, seconds=10.0 + seed),
            seed=seed,
            workers=seed + 1,
            epsilon=4.0,
        )
        for seed, accuracy in enumerate(ACCURACIES)
    ]
    return [*runs, finished_run(tmp_path / "eight", fake_report(accuracy=0.9, epsilon=8.0))]


def test_repeats_are_one_row_with_means_and_intervals(repeats: list[Path]) -> None:
    row, single = compared(*repeats).rows
    assert (row.label, row.runs, single.label, single.runs) == ("epsilon=4", 3, "epsilon=8", 1)
    mean = sum(ACCURACIES) / 3
    error = math.sqrt(sum((value - mean) ** 2 for value in ACCURACIES) / 2 / 3)
    assert row.accuracy is not None and row.macro_f1 is not None and row.seconds is not None
    assert row.accuracy.value == pytest.approx(mean)
    assert row.accuracy.interval == pytest.approx(stats.t.interval(0.95, 2, loc=mean, scale=error))
    assert row.macro_f1.interval == pytest.approx(stats.t.interval(0.95, 2, loc=mean - 0.1, scale=error))
    assert row.seconds.value == pytest.approx(11.0)
    # 180 of 200 records.
    wilson = stats.binomtest(180, 200).proportion_ci(0.95, method="wilson")
    assert single.accuracy_of_records == pytest.approx((wilson.low, wilson.high))
    assert single.accuracy is not None and single.accuracy.interval is None
    # The largest loss of any run, never a mean.
    assert (row.epsilon, row.epsilon_broken) == pytest.approx((3.92, 3 * 3.92))
    assert (row.rounds, row.bytes_up, row.bytes_down) == (2, 1_000_000, 2_000_000)


def test_an_option_that_one_run_set_to_what_the_others_had_names_no_row(tmp_path: Path) -> None:
    given = finished_run(tmp_path / "given", fake_report(epsilon=4.0), epsilon=4.0, clip=0.5)
    derived = finished_run(tmp_path / "derived", fake_report(epsilon=8.0))
    found = compared(given, derived)
    assert [row.label for row in found.rows] == ["epsilon=4", "epsilon=8"]
    assert found.varied == ("epsilon",)


@pytest.mark.parametrize(
    ("places", "shown"),
    [
        (["/srv/photos/summer", "/srv/photos/winter 24"], ["data=summer", "data=winter 24"]),
        (["/a/photos", "/b/photos", "/b/hats"], ["data=/a/photos", "data=/b/photos", "data=hats"]),
        (["synthetic", "/b/synthetic"], ["data=synthetic (run-0)", "data=synthetic (run-1)"]),
    ],
)
def test_rows_name_a_data_sets_folder_and_its_whole_path_only_where_names_are_equal(
    places: list[str], shown: list[str], tmp_path: Path
) -> None:
    runs = [
        finished_run(tmp_path / f"run-{number}", fake_report(epsilon=8.0), data=place)
        for number, place in enumerate(places)
    ]
    found = compared(*runs)
    assert [row.label for row in found.rows] == shown
    assert [row.options["data"] for row in found.rows] == places


def test_the_majority_baseline_is_that_of_always_answering_alike(repeats: list[Path]) -> None:
    majority = compared(*repeats).majority
    truth = ["hat"] * 50 + ["shoe"] * 120 + ["bag"] * 30
    scores = []
    for label in ("hat", "shoe", "bag"):
        hits = sum(label == "shoe" == one for one in truth)
        claimed, real = (200 if label == "shoe" else 0), truth.count(label)
        scores.append(2 * hits / (claimed + real))
    assert majority is not None
    assert (majority.label, majority.accuracy) == ("shoe", 0.6)
    assert majority.macro_f1 == pytest.approx(sum(scores) / 3)


def test_runs_measured_on_other_records_share_no_baseline(repeats: list[Path], tmp_path: Path) -> None:
    other = fake_report()
    other["metrics"]["per_class"][0]["support"] += 1
    found = compared(*repeats, finished_run(tmp_path / "other", other, clip=1.0))
    assert found.majority is None
    assert any("not all measured on the same records" in note for note in found.notes)


def test_what_privacy_costs_is_shown_by_the_best_run_without_noise(
    repeats: list[Path], tmp_path: Path
) -> None:
    assert compared(*repeats).without_noise is None
    assert any("No run without noise" in note for note in compared(*repeats).notes)
    for name, accuracy in (("low", 0.91), ("high", 0.95)):
        report = fake_report(accuracy=accuracy, epsilon=None)
        finished_run(tmp_path / name, report, privacy="off", clip={"low": 1.0, "high": 2.0}[name])
    found = compared(*repeats, tmp_path / "low", tmp_path / "high")
    assert found.without_noise == "privacy=off, clip=2"
    assert any(
        "Without noise (privacy=off, clip=2): 95.0%. It is NOT PRIVATE" in note for note in found.notes
    )
    row = next(row for row in found.rows if row.label == found.without_noise)
    assert row.epsilon is None and not row.private


def clear(report: dict[str, Any]) -> None:
    report["secure_aggregation"] |= {"scheme": "none", "trust": {
        "opened_by": "nobody", "reads_single_updates": "server", "epsilon_of": "share",
    }}  # fmt: skip


def seeded(report: dict[str, Any]) -> None:
    report["privacy"]["seeded"] = True


def noiseless(report: dict[str, Any]) -> None:
    report["privacy"] |= {"mode": "off", "epsilon": None}


@pytest.mark.parametrize(
    ("change", "words"),
    [(clear, "the server could read every"), (seeded, "came from a seed"), (noiseless, "no noise was added")],
)
def test_insecure_runs_are_marked_in_table_and_page(
    change: Callable[[dict[str, Any]], None],
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    report = fake_report()
    change(report)
    good = finished_run(tmp_path / "good", fake_report())
    bad = finished_run(tmp_path / "bad", report, clip=2.0)
    monkeypatch.setattr(
        "sys.argv", ["fedrec", "compare", str(good), str(bad), "--out", str(tmp_path / "out")]
    )
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("warning: NOT PRIVATE, clip=2: ") and words in line for line in lines)
    marked = [line for line in lines if line.startswith("clip=") and "NOT PRIVATE" in line]
    assert [line.split()[0] for line in marked] == ["clip=2"]
    page = (tmp_path / "out" / "comparison.html").read_text("utf-8")
    assert page.count("NOT PRIVATE") >= 2 and words in page


def test_the_page_has_one_plot_and_a_line_for_every_setting(repeats: list[Path]) -> None:
    outline = Outline(render_html(comparison_document(compared(*repeats))))
    text = outline.text
    assert text.count("Accuracy and macro F1") == 1
    wilson = stats.binomtest(180, 200).proportion_ci(0.95, method="wilson")
    for said in (
        "82.7%",
        "78.9% to 86.5% over runs",
        f"{100 * wilson.low:.1f}% to {100 * wilson.high:.1f}% for 200 records",
        "1. epsilon=4",
        "3.92",
        "11.76",
    ):
        assert said in text


def test_hostile_names_are_escaped(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>"
    report = fake_report()
    report["metrics"]["per_class"][1]["label"] = hostile
    runs = [
        finished_run(tmp_path / "a", report, model=hostile),
        finished_run(tmp_path / "b", report, model="cnn"),
    ]
    assert hostile not in render_html(comparison_document(compared(*runs)))


def test_a_run_without_final_figures_is_told_and_not_averaged(tmp_path: Path) -> None:
    runs = [
        finished_run(tmp_path / "good", fake_report(accuracy=0.8)),
        finished_run(tmp_path / "ended", fake_report(accuracy=None)),
    ]
    found = compared(*runs)
    assert [(row.runs, row.measured) for row in found.rows] == [(2, 1)]
    assert found.rows[0].accuracy is not None and found.rows[0].accuracy.value == 0.8
    assert any("1 of 2 runs ended without final figures" in note for note in found.notes)
    alone = compared(runs[1])
    assert alone.rows[0].accuracy is None and alone.majority is None
    render_html(comparison_document(alone))


def test_a_sweep_stands_for_its_finished_runs(tmp_path: Path) -> None:
    statuses: tuple[Status, ...] = ("done", "done", "running")
    for number, status in enumerate(statuses, start=1):
        run = finished_run(tmp_path / "sweep" / f"{number}" / "repeat-1", fake_report(), clip=float(number))
        Training(run).set_status(status)
    write_sweep(tmp_path / "sweep", swept={"clip": ["1", "2", "3"]}, repeats=1)
    assert json.loads((tmp_path / "sweep" / "sweep.json").read_text()) == {
        "schema": "fedrec.sweep/1",
        "sweep": {"clip": ["1", "2", "3"]},
        "repeat": 1,
    }
    # A run that is also named by itself counts once.
    found = compared(tmp_path / "sweep", tmp_path / "sweep" / "1" / "repeat-1")
    assert [row.label for row in found.rows] == ["clip=1", "clip=2"] and found.rows[0].runs == 1
    assert any("1 of 3 runs are not finished" in note for note in found.notes)


def broken_text(path: Path) -> None:
    path.write_text("{")


def other_schema(path: Path) -> None:
    path.write_text(json.dumps({"schema": "other/1"}))


def absurd_share(path: Path) -> None:
    path.write_text(json.dumps(fake_report(accuracy=7.0)))


def no_section(path: Path) -> None:
    report = fake_report()
    del report["privacy"]
    path.write_text(json.dumps(report))


def not_a_number(path: Path) -> None:
    path.write_text(json.dumps(fake_report(accuracy=math.nan)))


def missing(path: Path) -> None:
    path.unlink()


def deep(path: Path) -> None:
    path.write_text('{"a":' * 100_000)


def not_text(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\x00")


@pytest.mark.parametrize("damage", [
    broken_text, other_schema, absurd_share, no_section, not_a_number, missing, deep, not_text,
])  # fmt: skip
def test_a_broken_report_ends_with_one_line_that_names_it(
    damage: Callable[[Path], None], tmp_path: Path
) -> None:
    run = finished_run(tmp_path / "run", fake_report())
    damage(run / "report.json")
    with pytest.raises(ConfigError, match=str(run)) as found:
        read_runs([run])
    assert "\n" not in str(found.value) and len(str(found.value)) < 400


def test_only_a_run_that_was_begun_is_said_to_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such folder"):
        read_runs([tmp_path / "nowhere"])
    with pytest.raises(ConfigError, match=r"holds no report\.json: .* sweeps$"):
        read_runs([tmp_path])
    run = finished_run(tmp_path / "run", fake_report())
    (run / "report.json").unlink()
    (run / "state.json").write_text("{}")
    (run / "config.toml").write_text("")
    with pytest.raises(ConfigError, match=r"--resume .*/run' finishes one that was stopped"):
        read_runs([run])


@pytest.mark.parametrize("text", ["[simulate", "simulate = 3", "[other]\nx = 1", "\x00"])
def test_a_broken_file_of_options_ends_with_one_line(text: str, tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run", fake_report())
    (run / "config.toml").write_text(text)
    with pytest.raises(ConfigError, match=r"config\.toml"):
        read_runs([run])


def test_a_folder_of_a_sweep_with_a_broken_run_ends_with_one_line(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "sweep" / "1" / "repeat-1", fake_report())
    write_sweep(tmp_path / "sweep", swept={}, repeats=1)
    (run / "state.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"state\.json is broken"):
        read_runs([tmp_path / "sweep"])


def test_python_compares_results_and_folders(repeats: list[Path]) -> None:
    result = fedrec.Result(folder=repeats[0], report=report_of(fake_report()), rounds=())
    found = fedrec.compare([result, str(repeats[1]), *repeats[2:]])
    assert isinstance(found, fedrec.Comparison)
    assert found == compared(*repeats)
    with pytest.raises(ConfigError, match="no finished run"):
        fedrec.compare([])
