"""The pages of reports and of the server in a browser: nothing is cut on a phone, all text is legible."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, sync_playwright

from fedrec.report.document import Document
from fedrec.report.html import render_html
from fedrec.server.live_state import Connection, LiveState
from fedrec.server.report.report_page import render
from fedrec.server.status_document import server_status
from fedrec.server.status_page import status_blocks
from fedrec.simulations.comparison.finished_runs import read_runs
from fedrec.simulations.comparison.page import comparison_document
from fedrec.simulations.comparison.rows import compare
from tests.support.browser import BROWSER
from tests.support.finished_runs import fake_report, finished_run
from tests.support.server_homes import enrolled_home, filed, round_line, write_rounds
from tests.support.training_reports import report_of, report_values

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
VIEWS: tuple[tuple[int, Literal["light", "dark"]], ...] = (
    (390, "light"), (390, "dark"), (768, "dark"), (1280, "light"),
)  # fmt: skip
CUT = """() => [document.documentElement, ...document.querySelectorAll('.scroll, table, section, dd, code')]
  .filter(e => e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 0)
  .filter(e => getComputedStyle(e).display != 'inline')
  .map(e => `${e.tagName}.${e.className}: ${e.scrollWidth} in ${e.clientWidth}`)"""
FAINT = """() => {
  const rgb = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const linear = v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
  const behind = e => {
    for (; e; e = e.parentElement) {
      const c = rgb(getComputedStyle(e).backgroundColor);
      if (c.length == 3 || c[3] > 0.95) return c;
    }
    return [255, 255, 255];
  };
  const has_text = e => [...e.childNodes].some(n => n.nodeType == 3 && n.textContent.trim());
  return [...document.querySelectorAll('h1, h2, h3, p, td, th, dt, dd, li, span, code')]
    .filter(e => has_text(e) && !e.closest('.confusion'))
    .map(e => {
      const [a, b] = [light(rgb(getComputedStyle(e).color)), light(behind(e))];
      return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.textContent.slice(0, 40)];
    })
    .filter(([contrast]) => contrast < 4.5);
}"""
"""Text with less contrast than 4.5, as WCAG computes it for AA."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as started:
        opened = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A training's report, a deployment's, a server's status with all that it can show, and a comparison."""
    report = report_values(rounds=12)
    deployed = report_values(rounds=12, merchants=3)
    deployed["run"] |= {"engine": "deployment", "dataset": None}
    home = enrolled_home(
        tmp_path_factory.mktemp("pages") / "server",
        names=("anna", "bert", "a-shop-with-a-rather-long-name-gmbh"),
    )
    earlier, training = filed(home), filed(home)
    earlier.set_status("failed", "too many rounds are lost, " * 8)
    training.set_status("running")
    write_rounds(training, *(round_line(at, contributors=2, opened=at != 2) for at in (1, 2, 3)))
    training.keep_refusals({"round 3, anna": "policy 'hours': rounds are not answered at this time of day"})
    now = datetime.now(UTC)
    anna = Connection(connected=True, since=now, last_seen=now, round_trip_seconds=0.1, reply_seconds=2.0)
    live = LiveState(time=now, started=now, connections={"anna": anna}, training=training.number)
    status = Document(title="status", blocks=status_blocks(server_status(home, live)))
    shown = {
        "report": render(report_of(report)),
        "deployed": render(report_of(deployed)),
        "status": render_html(status),
    }
    folder = tmp_path_factory.mktemp("compared")
    runs = [
        finished_run(
            folder / f"{epsilon}-{seed}", fake_report(accuracy=0.8 + seed / 50), seed=seed, epsilon=epsilon
        )
        for epsilon in (2.0, 16.0)
        for seed in (1, 2)
    ]
    return shown | {"compared": render_html(comparison_document(compare(*read_runs(runs))))}


@pytest.mark.parametrize("name", ["report", "deployed", "status", "compared"])
def test_nothing_is_cut_at_390_pixels_and_all_text_is_legible_light_and_dark(
    browser: Browser, pages: dict[str, str], name: str, tmp_path: Path
) -> None:
    path = tmp_path / f"{name}.html"
    path.write_text(pages[name], "utf-8")
    backgrounds = set()
    for width, scheme in VIEWS:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page = context.new_page()
        page.goto(path.as_uri())
        assert page.evaluate(CUT) == [], f"{width} pixels, {scheme}"
        assert page.evaluate(FAINT) == [], f"{width} pixels, {scheme}"
        backgrounds.add((scheme, page.evaluate("getComputedStyle(document.body).backgroundColor")))
        context.close()
    assert len(backgrounds) == 2


def test_a_page_that_is_too_wide_or_too_faint_is_found(browser: Browser) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 900})
    page.set_content(
        "<body style='background:#fff'><div class=scroll style='overflow:auto'><pre>" + "x" * 400
    )
    assert page.evaluate(CUT)
    page.set_content("<body style='background:#fff'><p style='color:#ccc'>faint</p><p>plain</p>")
    assert [text for _, text in page.evaluate(FAINT)] == ["faint"]
