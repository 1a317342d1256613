"""The merchant's page in a browser: what it shows, its buttons, both languages, every width, the keyboard."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar, get_args

import pytest
from PIL import Image
from playwright.sync_api import Page, Route, expect, sync_playwright

from fedrec.clients.page.process import page_beside
from fedrec.clients.page.running import TOKEN_FILE
from fedrec.clients.photo_counts import PhotoCounts
from fedrec.clients.store import MerchantStore
from fedrec.clients.store_view import read_tags
from fedrec.errors import ConnectionFault
from tests.support.browser import BROWSER, IN_BROWSER
from tests.support.shop_home import ShopHome

pytestmark = IN_BROWSER
EVERY = [(width, scheme) for width in (1280, 768, 390) for scheme in ("light", "dark")]
ENDS = [(1280, "dark"), (390, "light")]


@contextmanager
def served(home: Path, *, port: int = 0) -> Iterator[str]:
    command = [sys.executable, "-m", "fedrec.cli", "client", "page", "--home", str(home)]
    with subprocess.Popen(
        [*command, "--port", str(port), "--until-input-ends"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stdin is not None
        address = process.stdout.readline().split(" ")[1]
        # What isn't a terminal is told where the token is, and no more.
        yield f"{address}#token={(home / TOKEN_FILE).read_text()}"
        # The daemon's end of the pipe is closed however it dies; then the page ends by itself.
        process.stdin.close()
        assert process.wait(timeout=20) == 0


@pytest.fixture(scope="module")
def address(made: ShopHome) -> Iterator[str]:
    with served(made.home.folder) as found:
        yield found


@pytest.fixture
def page(request: pytest.FixtureRequest, address: str) -> Iterator[Page]:
    width, scheme = request.param
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, locale="en-GB"
        )
        shown = context.new_page()
        problems: list[str] = []
        shown.on("console", lambda line: problems.append(line.text) if line.type == "error" else None)
        shown.on("pageerror", lambda error: problems.append(str(error)))
        shown.goto(address)
        shown.locator("#photos li").first.scroll_into_view_if_needed()
        shown.wait_for_selector("#photos img[src]")
        yield shown
        browser.close()
    assert problems == []


@pytest.mark.parametrize("page", EVERY, indirect=True)
def test_the_page_says_what_happens_and_fits_its_window(page: Page, made: ShopHome) -> None:
    # The token leaves the address at once, so that it is in no history and no picture of the screen.
    assert "token" not in page.url
    assert page.inner_text("#state") == "Not running"
    assert "round 7 of 40" in page.inner_text("#facts")
    assert "It has more steps than you allow." in page.inner_text("#decisions")
    # What is no longer true is folded up.
    assert not page.is_visible("#earlier-list") and "no longer true: 1" in page.inner_text("#earlier-count")
    assert "a quarter" in page.inner_text("#budget-lead")
    # The gauge is as wide as the words say.
    wide = page.evaluate(
        "document.querySelector('#gauge-fill').offsetWidth / document.querySelector('#gauge').offsetWidth"
    )
    assert 0.1 < wide < 0.375
    assert page.inner_text("#sent dd >> nth=0") == "2 MB" and page.locator("#history > li").count() == 2
    assert "1 came to nothing" in page.inner_text("#history")
    page.click("#states button[data-state=waiting]")
    expect(page.locator("#photos li")).to_have_count(1)
    assert "new.png" in page.inner_text("#photos")
    for element in ("html", "#content", "section"):
        assert page.evaluate(
            "name => [...document.querySelectorAll(name)].every(e => e.scrollWidth <= e.clientWidth + 1)",
            element,
        )
    # Text is readable on its ground: at least 4.5 to 1.
    assert page.evaluate(CONTRAST) == []


CONTRAST = """() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const found = parse(getComputedStyle(e).backgroundColor);
      if (found.length === 3 || found[3] > 0.5) return found;
    }
    return [255, 255, 255];
  };
  return [...document.querySelectorAll("h1, h2, h3, p, li, dt, dd, button, summary, .quiet, .tag")]
    .filter((e) => e.offsetParent && e.innerText.trim())
    .map((e) => {
      const [a, b] = [light(parse(getComputedStyle(e).color)), light(ground(e))];
      return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.innerText.slice(0, 40)];
    })
    .filter(([ratio]) => ratio < 4.5);
}"""


@pytest.mark.parametrize("page", ENDS[:1], indirect=True)
def test_a_training_without_photos_is_marked(page: Page, made: ShopHome) -> None:
    history = page.locator("#history > li", has_text=made.ended.training_id[:12])
    expect(history).not_to_contain_text("Noise alone")
    store = MerchantStore(made.home.store)
    try:
        store.put_photo_counts(made.ended.training_id, PhotoCounts(unit="record", held=3))
        expect(history).to_contain_text("Noise alone was sent", timeout=15_000)
        assert page.locator("#history > li", has_text="Noise alone").count() == 1
    finally:
        store.put_photo_counts(made.ended.training_id, PhotoCounts(unit="record", held=3, used=3))
        store.close()


@pytest.mark.parametrize("page", ENDS, indirect=True)
def test_buttons_do_what_they_say(page: Page, made: ShopHome, tmp_path: Path) -> None:
    page.click("#pause")
    expect(page.locator("#pause")).to_have_text("Resume")
    assert (made.home.folder / "paused").exists()
    page.click("#pause")
    expect(page.locator("#pause")).to_have_text("Pause")
    assert not (made.home.folder / "paused").exists()
    before = read_tags(made.home.store).forgotten
    page.click("#states button[data-state=used]")
    page.wait_for_selector("#states button[data-state=used][aria-pressed=true]")
    button = page.locator("#photos button").first
    button.click()
    name = page.inner_text("#sure-name")
    page.click("#sure-no")
    assert read_tags(made.home.store).forgotten == before
    button.click()
    page.click("#sure-yes")
    expect(page.locator("#status")).to_contain_text(name)
    assert len(read_tags(made.home.store).forgotten - before) == 1
    red = tmp_path / "red.png"
    Image.new("RGB", (60, 40), (250, 10, 5)).save(red)
    page.get_by_role("button", name="Try it on a photo").click()
    page.set_input_files("#file", red)
    page.wait_for_selector("#classes li")
    assert page.locator("#classes li").first.inner_text().startswith("red")


@pytest.mark.parametrize("page", ENDS, indirect=True)
def test_the_keyboard_alone_pauses_and_forgets(page: Page, made: ShopHome) -> None:
    def focused() -> str:
        return str(page.evaluate("document.activeElement.id || document.activeElement.textContent"))

    reached: list[str] = []
    while "Forget" not in reached and len(reached) < 40:
        page.keyboard.press("Tab")
        reached.append(focused())
    assert reached[:2] == ["language", "pause"] and any("All" in each for each in reached)
    before = read_tags(made.home.store).forgotten
    page.keyboard.press("Enter")
    # The safe button has the focus, and Escape leaves everything as it was.
    assert focused() == "sure-no"
    page.keyboard.press("Escape")
    assert not page.is_visible("#sure") and read_tags(made.home.store).forgotten == before
    # While the page is polled, the focus stays where it is.
    page.wait_for_timeout(3500)
    assert focused() == "Forget"


@pytest.mark.parametrize("page", ENDS, indirect=True)
def test_chinese_is_the_whole_page(page: Page) -> None:
    page.click("#language")
    assert page.get_attribute("html", "lang") == "zh-Hans"
    told = page.evaluate(
        "[...document.querySelectorAll('h2, h3, p, dt, summary, #facts li, .chips button, .photos .quiet')]"
        ".filter(e => e.offsetParent && e.lang !== 'en' && e.id !== 'merchant' && e.innerText.trim())"
        ".map(e => e.innerText)"
    )
    plain = [text for text in told if not re.search("[\u4e00-\u9fff]", text)]
    assert len(told) > 40 and plain == []
    page.click("#language")
    assert page.inner_text("#pause") == "Pause"


class Thief(BaseHTTPRequestHandler):
    """Another user's program on the page's port: it answers everything, and keeps what it is sent."""

    sent: ClassVar[list[tuple[str, str | None]]] = []

    def do_GET(self) -> None:
        self.sent.append((self.path, self.headers.get("Authorization")))
        body = b'{"proof": "%s", "counts": {}, "photos": []}' % (b"0" * 64)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.do_GET()


def test_an_open_tab_tells_nobody_else_the_token(made: ShopHome) -> None:
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_context(locale="en-GB").new_page()
        with served(made.home.folder) as address:
            port = int(address.split("/")[2].split(":")[1])
            page.goto(address)
            expect(page.locator("#state")).to_have_text("Not running")
            # What ends by itself, such as a computer's sleep, asks for no new link.
            page.context.set_offline(True)
            expect(page.locator("#status")).to_contain_text("doesn't answer", timeout=10_000)
            page.context.set_offline(False)
            expect(page.locator("#status")).to_have_text("", timeout=10_000)
            assert not page.is_visible("#ask-token")
        with ThreadingHTTPServer(("127.0.0.1", port), Thief) as thief:
            threading.Thread(target=thief.serve_forever, daemon=True).start()
            expect(page.locator("#status")).to_contain_text("Open the link", ignore_case=True, timeout=10_000)
            expect(page.locator("#token")).to_be_visible()
            asked = len(Thief.sent)
            page.click("#pause")
            page.locator("#photos li").last.scroll_into_view_if_needed()
            page.wait_for_timeout(3500)
            assert len(Thief.sent) == asked >= 1
            assert all(path.startswith("/proof?") and token is None for path, token in Thief.sent)
            thief.shutdown()
        with served(made.home.folder, port=port) as fresh:
            assert fresh != address
            page.goto(fresh)
            expect(page.locator("#token")).to_be_hidden(timeout=10_000)
            expect(page.locator("#status")).to_have_text("")
        browser.close()


def test_a_page_that_can_not_be_served_stops_no_daemon(
    made: ShopHome, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with page_beside(made.home.folder, port=port):
            deadline = time.monotonic() + 30
            told = ""
            while "can't listen" not in told:
                assert time.monotonic() < deadline
                time.sleep(0.1)
                told += capfd.readouterr().err
    assert "Traceback" not in told


@pytest.mark.parametrize("page", ENDS[:1], indirect=True)
def test_what_is_one_is_said_in_the_singular(page: Page) -> None:
    told = page.evaluate(
        """async () => { const { en } = (await import("/texts.js")).TEXTS;
        return [1, 2].map((n) => [en.planOf("cnn", n, n), en.declared(n, en.units.product),
                                  en.photosReady(n, 9), en.added(n), en.gone(n)].join(" ")); }"""
    )
    assert re.search(
        "cnn, 1 round, 1 merchant You declared 1 product, .*1 of 9 is .*1 of them is .*was deleted", told[0]
    )
    assert re.search(
        "cnn, 2 rounds, 2 merchants You declared 2 products, .*are .*are .*were deleted", told[1]
    )


@pytest.mark.parametrize("page", [(390, "light")], indirect=True)
def test_a_lost_connection_and_a_spent_budget_have_words_in_both_languages(page: Page) -> None:
    def change(route: Route) -> None:
        found = route.fetch()
        budget = found.json()["budget"] | {"spent": 10.0, "left": 0.0}
        away = {"connected": False, "connection_reason": "told in English", "connection_fault": "proxy"}
        hours = {"hours": ["22:00-06:00"], "clock": "local"}
        changes = {"running": True, "budget": budget} | away | hours
        route.fulfill(response=found, json=found.json() | changes)

    page.route("**/status.json", change)
    page.reload()
    expect(page.locator("#facts")).to_contain_text("The way through your network's proxy fails.")
    expect(page.locator("#budget-word")).to_contain_text("Nothing is left")
    expect(page.locator("#facts")).to_contain_text("answered in 22:00-06:00 (by this machine's clock)")
    page.click("#language")
    expect(page.locator("#facts")).to_contain_text("无法通过您网络的代理连接服务器")
    expect(page.locator("#budget-word")).to_contain_text("预算已用完")
    # The merchant's name has a line of its own, so that the heading isn't squeezed.
    name, heading = page.locator("#merchant").bounding_box(), page.locator("h1").bounding_box()
    assert name is not None and heading is not None and name["y"] > heading["y"] + 20


FAULTS = {
    "not_admitted": ("hasn't enrolled this shop", "运营方尚未登记您的店铺"),
    "clock": ("This computer's clock is wrong", "本机时钟不准"),
    "certificate": ("certificate isn't the one you joined", "服务器的证书与您加入时的不一致"),
    "proxy_password": ("wants a user name and a password", "网络代理需要用户名和密码"),
    "proxy": ("The way through your network's proxy fails", "无法通过您网络的代理连接服务器"),
    "busy": ("The server is busy", "服务器正忙"),
    "unreachable": ("The server doesn't answer", "服务器没有响应"),
}


@pytest.mark.parametrize("page", ENDS, indirect=True)
def test_each_kind_of_lost_connection_has_its_own_words_in_both_languages(page: Page) -> None:
    assert set(FAULTS) == set(get_args(ConnectionFault))
    changes: dict[str, object] = {}

    def change(route: Route) -> None:
        found = route.fetch()
        route.fulfill(response=found, json=found.json() | changes)

    def look(place: str, words: str, **now: object) -> str:
        changes.update(now)
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        expect(page.locator(place)).to_contain_text(words, timeout=15_000)
        return page.inner_text("#facts")

    page.route("**/status.json", change)
    changes.update(running=True, connected=False, connection_reason="told in English")
    for language in (0, 1):
        changes.update(running=True, paused=False)
        for fault, words in FAULTS.items():
            told = look("#facts", words[language], connection_fault=fault)
            assert "told in English" in told
            assert sum(other[language] in told for other in FAULTS.values()) == 1
        # A pause is told beside whatever else holds.
        look("#state", ("Paused", "已暂停")[language], paused=True)
        look("#state", ("Not running, and paused", "未运行，且已暂停")[language], running=False)
        page.click("#language")
