"""The report page: well-formed, self-contained, honest about privacy, safe with hostile or missing input."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec._internal import number_format
from fedrec.report.charts import Chart, Line, draw, y_axis
from fedrec.server.report.report_page import render
from tests.support.pages import Outline
from tests.support.training_reports import CLASSES, aggregation, changed, report_of, report_values, unmeasured


def render_values(values: dict[str, Any]) -> str:
    return render(report_of(values))


def test_headline_figures_are_on_the_page() -> None:
    report = report_values()
    text = Outline(render_values(report)).text
    accuracy = report["metrics"]["accuracy"]
    for shown in (
        f"{100 * accuracy:.1f}%",
        "83.1% to 86.8%",
        "0.838",
        "8.00",
        "31.42",
        "δ = 1.6 × 10⁻⁵",
        "4 min 14 s",
        "539,146",
    ):
        assert shown in text
    assert "NOT PRIVATE" not in text


def test_each_card_and_setting_shows_its_own_figure() -> None:
    report = report_values(rounds=5)
    for line, kept in zip(report["rounds"], (1.0, 0.875, 1.25, 1.0, None), strict=True):
        line["noise_kept"] = kept
    report["rounds"].pop()
    text = Outline(render_values(report)).text
    supports = [line["support"] for line in report["metrics"]["per_class"]]
    for shown in (
        "Epsilon 8.00 ",
        "at δ = 1.0 × 10⁻⁵: 8.20",
        "If aggregation were broken 31.42 ",
        f"largest class alone {100 * max(supports) / sum(supports):.1f}%",
        "Rounds 4 of 5",
        "4 of 5 rounds; none lost",
        "a part of the guaranteed 87.5% to 125.0%",
        "Largest upload of a merchant in a round 1.6 MB",
        "Skipped 1 ",
    ):
        assert shown in text, shown


def test_the_page_loads_nothing_from_outside() -> None:
    page = render_values(report_values())
    outline = Outline(page)
    assert not {"script", "iframe", "img", "link", "object", "embed", "base", "form"} & set(outline.tags)
    assert not {"src", "href", "xlink:href", "action"} & {name for name, _ in outline.attributes}
    assert not re.search(r"url\(|@import|https?://", page)
    assert "default-src 'none'" in page and "prefers-color-scheme: dark" in page and "@media print" in page


@pytest.mark.parametrize(
    "hostile",
    [
        "<script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "' onmouseover='alert(1)",
        "</title></style><svg/onload=alert(1)>",
        "$title ${banner} $$ %s {0}",
        "&lt;b&gt; & é 商品",
    ],
)
def test_hostile_text_stays_text(hostile: str) -> None:
    chosen = {
        ("run", "id"), ("run", "dataset"), ("run", "model"), ("run", "optimizer"), ("metrics", "split"),
        ("data", "skipped", "name"), ("data", "skipped", "reason"), ("data", "notes"), ("warnings",),
        ("metrics", "per_class", "label"), ("privacy", "per_merchant", "merchant"), ("rounds", "reason"),
    }  # fmt: skip

    def replace(value: Any, at: tuple[str, ...] = ()) -> Any:
        if isinstance(value, dict):
            return {key: replace(item, (*at, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [replace(item, at) for item in value]
        return hostile if isinstance(value, str) and at in chosen else value

    values = report_values()
    values["data"]["notes"] = ["names are read as UTF-8"]
    plain, outline = Outline(render_values(values)), Outline(render_values(replace(values)))
    assert not set(outline.tags) - set(plain.tags)
    assert not {name for name, _ in outline.attributes} - {name for name, _ in plain.attributes}
    assert hostile in "".join(outline.texts)
    assert any(row[0] == hostile for row in outline.rows)


def test_mistakes_and_matrix_match_a_plain_count() -> None:
    report = report_values()
    outline = Outline(render_values(report))
    confusion = report["metrics"]["confusion"]
    start = next(i for i, row in enumerate(outline.rows) if row[0].startswith("true"))
    assert outline.rows[start][1:] == list(CLASSES)
    for name, row, shown in zip(CLASSES, confusion, outline.rows[start + 1 :], strict=False):
        assert shown == [name, *(str(cell) if cell else "" for cell in row)]
    hovers = {value for name, value in outline.attributes if name == "title"}
    for i, row in enumerate(confusion):
        for j, cell in enumerate(row):
            share = f"{100 * cell / sum(row):.1f}%"
            assert f"{CLASSES[i]} taken for {CLASSES[j]}: {cell} ({share})" in hovers
    worst = max((c, i, j) for i, row in enumerate(confusion) for j, c in enumerate(row) if i != j)
    assert f"{CLASSES[worst[1]]} taken for {CLASSES[worst[2]]} ({worst[0]})" in outline.text


def test_every_merchant_and_class_has_a_row() -> None:
    report = report_values(classes=30, merchants=100, rounds=400)
    outline = Outline(render_values(report))
    rows = {tuple(row) for row in outline.rows}
    for item in report["privacy"]["per_merchant"]:
        lifetime = f"{math.ceil(item['epsilon_lifetime'] * 100 - 1e-6) / 100:.2f}"
        charged = str(item["rounds_charged"])
        assert (item["merchant"], f"{item['records']:,}", "8.00", lifetime, charged) in rows
    for item in report["metrics"]["per_class"]:
        scores = [f"{item[key]:.3f}" for key in ("precision", "recall", "f1")]
        assert (item["label"], *scores, str(item["support"])) in rows
    assert sum(len(row) == 31 for row in outline.rows) == 31


def test_the_code_of_an_installed_model_is_a_setting() -> None:
    code = "1f" * 32
    assert code in Outline(render(changed(run={"model_code": code}))).text
    assert "Model code" not in Outline(render(changed(run={"model_code": None}))).text


def test_more_classes_than_fit_leave_the_matrix_out() -> None:
    outline = Outline(render_values(report_values(classes=41, rounds=2)))
    assert "too many for a table" in outline.text and max(map(len, outline.rows)) < 41


def test_lost_rounds_are_marked_in_both_charts() -> None:
    page = render_values(report_values())
    for number in (17, 58, 59):
        assert page.count(f"<title>round {number} was lost</title>") == 2
    assert page.count("was lost</title>") == 6 and "3 lost: not opened, yet charged" in page


def test_equal_merchants_are_one_row_with_their_number() -> None:
    report = report_values(merchants=9, rounds=5)
    for item in report["privacy"]["per_merchant"]:
        item |= {"records": 750, "epsilon_lifetime": 9.29, "rounds_charged": 5}
    report["privacy"]["per_merchant"][2]["records"] = 812
    report["privacy"]["per_merchant"][8]["rounds_charged"] = 4
    rows = [row for row in Outline(render_values(report)).rows if row[0][:9] in ("8 merchan", "merchant-")]
    assert len(rows) == 2 and rows[0][0].startswith("8 merchantsmerchant-0, merchant-1, ")
    assert rows[0][1:] == ["750 to 812", "8.00", "9.29", "5"]
    assert rows[1] == ["merchant-8", "750", "8.00", "9.29", "4"]
    # Three are listed, though they are equal.
    few = report_values(merchants=3, rounds=5)
    for item in few["privacy"]["per_merchant"]:
        item |= {"records": 750, "epsilon_lifetime": 9.29, "rounds_charged": 5}
    assert sum("merchant-" in row[0] for row in Outline(render_values(few)).rows) == 3


def test_a_deployments_report_speaks_of_no_simulation_and_shows_only_what_is_known() -> None:
    report = report_values(rounds=5)
    simulated = Outline(render_values(report)).text
    report["run"] |= {"engine": "deployment", "dataset": None, "partition": None, "workers": None}
    report["run"] |= {"learning_rate": 0.25, "local_steps": 1}
    report["privacy"] |= {"clipping": "automatic"}
    report["cost"] |= {"seconds_train": None}
    for item in report["privacy"]["per_merchant"]:
        item["epsilon_lifetime"] = None
    text = Outline(render_values(report)).text
    assert "simulation" in simulated and "simulation" not in text
    assert "on the operator's own photos" in text and "validation data" not in text
    assert "Epsilon, lifetime" not in text and "Workers" not in text and "Training, CPU time" not in text
    assert "Learning rate 0.25" in text and "Clipping automatic" in text
    assert "Peak memory of the server" in text and "Sent by all merchants, in all rounds" in text
    without = report | {"metrics": unmeasured(report["metrics"])}
    without["rounds"] = [entry | {"accuracy": None} for entry in report["rounds"]]
    text = Outline(render_values(without)).text
    assert "names no eval_data" in text and "Macro F1" not in text and "Confusion matrix" not in text
    assert "no round has a value" not in render_values(without)


def test_a_run_that_was_stopped_before_its_first_round_claims_no_epsilon() -> None:
    report = report_values(rounds=100)
    report["rounds"], report["metrics"] = [], unmeasured(report["metrics"])
    report["privacy"] |= {"steps": 0, "epsilon": 0.004, "epsilon_aggregation_broken": 0.004}
    outline = Outline(render_values(report))
    text = outline.text
    assert "No round was charged to any merchant" in text and "0 of 100" in text
    assert "times as likely" not in text and "0.00 " not in text and "protected" not in text
    assert "noised counts that merchants declared before: epsilon 0.0040" in text or "epsilon 0.01" in text


def test_interrupted_run_without_rounds_or_results() -> None:
    report = report_values()
    report["rounds"] = []
    report["metrics"] = unmeasured(report["metrics"])
    text = Outline(render_values(report)).text
    assert "No round was finished" in text and "No evaluation was finished" in text
    assert "None" not in text and "nan" not in text
    stopped = report_values()
    stopped["rounds"] = stopped["rounds"][:37]
    assert "37 of 100 rounds" in render_values(stopped)


@pytest.mark.parametrize(
    ("privacy", "scheme", "words"),
    [
        (
            {"mode": "off", "epsilon": None, "epsilon_aggregation_broken": None},
            "kahe",
            "differential privacy was off",
        ),
        ({"seeded": True}, "kahe", "came from a seed"),
        ({"epsilon": 31.418}, "none", "were not encrypted"),
    ],
)
def test_a_run_that_is_not_private_is_watermarked(privacy: dict[str, Any], scheme: str, words: str) -> None:
    text = Outline(render(changed(privacy=privacy, secure_aggregation=aggregation(scheme)))).text
    assert re.search(rf"NOT PRIVATE: [^.]*{words}", text)


def test_a_run_without_noise_never_shows_a_guarantee() -> None:
    # A figure that slipped into the report of such a run must not become a claim.
    text = Outline(render(changed(privacy={"mode": "off", "epsilon": 3.0}))).text
    assert "There is no privacy guarantee" in text and "times as likely" not in text
    assert "3.00" not in text.split("Merchants")[0]


def test_the_guarantee_states_factor_delta_and_condition() -> None:
    text = Outline(render(changed(privacy={"epsilon": 1.0, "delta": 1e-5, "colluders": 2}))).text
    assert "at most 2.72 times as likely" in text and "1.0 × 10⁻⁵" in text
    assert "as long as at most 2 merchants side with the server" in text
    product = changed(privacy={"unit": "product"})
    assert "adding or removing any one product with all its photos" in render(product).lower()


def exposed(mode: str, scheme: str) -> dict[str, bool]:
    rows = Outline(render(changed(privacy={"mode": mode}, secure_aggregation=aggregation(scheme)))).rows
    start = next(i for i, row in enumerate(rows) if row[0] == "The server")
    end = next(i for i, row in enumerate(rows) if row[0] == "The network")
    return {row[0]: row[2] == "exposed" for row in rows[start : end + 1]}


def test_what_each_party_sees_follows_scheme_and_mode() -> None:
    for mode in ("distributed", "local"):
        assert not any(exposed(mode, "kahe").values())
        assert exposed(mode, "ckks") == {
            "The server": False,
            "The server with any one merchant": True,
            "A merchant without the key": False,
            "The merchant that holds the key": True,
            "The network": False,
        }
        assert list(exposed(mode, "none").values()) == [True, True, False, False]
    for scheme in ("kahe", "ckks", "none"):
        shown = exposed("off", scheme)
        assert not shown.pop("The network") and all(shown.values())


def test_what_was_ignored_is_counted_entry_by_entry() -> None:
    """Seven entries for two reasons are seven, not two."""
    text = Outline(render_values(report_values(rounds=2))).text
    assert "Ignored 7" in text and "5 ignored: not a photo" in text and "2 ignored: hidden" in text


def test_a_verdict_has_the_colour_of_what_it_says() -> None:
    weak, none = ({"rating": {"word": word, "sentence": "."}} for word in ("weak", "little protection"))
    told = {
        name: set(re.findall(r'class="tag (\w+)">([^<]*)<', render(page)))
        for name, page in {
            "sealed": changed(privacy=weak),
            "clear": changed(privacy=weak, secure_aggregation=aggregation("none")),
            "spent": changed(privacy=none),
        }.items()
    }
    assert told["sealed"] == {("good", "protected")}
    assert told["clear"] == {("bad", "exposed"), ("good", "protected")}
    assert told["spent"] == {("bad", "little protection")}


@given(st.floats(min_value=0, max_value=1e6))
def test_epsilon_and_delta_are_never_shown_too_small(value: float) -> None:
    shown = float(number_format.epsilon(value).replace(",", ""))
    assert value * (1 - 1e-8) <= shown <= value + (0.0101 if value < 100 else 1.01)
    small = value / 1e6
    text = number_format.delta(small)
    if small > 1e-300:
        exponents = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
        mantissa, exponent = text.split(" × 10")
        back = float(f"{mantissa}e{exponent.translate(exponents)}")
        assert small * (1 - 1e-8) <= back <= small * 1.11


@given(
    st.one_of(st.none(), st.booleans(), st.text(max_size=8), st.integers(), st.floats(), st.lists(st.none()))
)
@settings(max_examples=300)
def test_formatters_accept_any_value(value: Any) -> None:
    for show in (
        number_format.percent,
        number_format.ratio,
        number_format.count,
        number_format.epsilon,
        number_format.delta,
        number_format.size,
    ):
        assert "nan" not in show(value) and "inf" not in show(value)
    assert number_format.duration(value) and isinstance(number_format.general(value), str)


@given(st.floats(min_value=1e-12, max_value=1e12))
def test_ticks_are_even_and_reach_the_top(top: float) -> None:
    ticks = number_format.nice_ticks(top)
    gaps = [b - a for a, b in pairwise(ticks)]
    assert ticks[0] == 0 and 2 <= len(ticks) <= 7
    assert ticks[-1] >= top * (1 - 1e-6) and max(gaps) <= min(gaps) * (1 + 1e-6)


@given(st.lists(st.floats(min_value=0, max_value=1), min_size=1, max_size=60), st.integers(0, 1000))
@settings(max_examples=50)
def test_chart_points_stand_where_their_values_say(values: list[float], first: int) -> None:
    rounds = range(first, first + len(values))
    svg = draw(
        Chart(
            describes="x over rounds",
            x_range=(first, first + len(values) - 1),
            x_ticks=(),
            y_ticks=y_axis(1.0),
            lines=(Line(tuple((float(n), value) for n, value in zip(rounds, values, strict=True))),),
        )
    )
    dots = [(float(a), float(b)) for a, b in re.findall(r'<circle[^>]*cx="([^"]+)" cy="([^"]+)"', svg)]
    assert len(dots) == (len(values) if len(values) <= 40 else 1)
    grid = [float(y) for y in re.findall(r'class="grid"[^>]*y1="([^"]+)"', svg)]
    bottom, top = max(grid), min(grid)
    for (_, y), value in zip(dots, values[-len(dots) :], strict=True):
        assert y == pytest.approx(bottom - value * (bottom - top), abs=0.1)
    assert [x for x, _ in dots] == sorted(x for x, _ in dots)
