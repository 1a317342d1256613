"""The page in a browser: a photo's class, the reason, similar products, and what its seller should mend."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page, Route, expect, sync_playwright

from fedrec.recognition.catalogue.models import photo_model_of
from fedrec.recognition.model import open_model
from tests.recognition.catalogue.shop import import_shop, write_shop
from tests.support.browser import BROWSER, IN_BROWSER
from tests.support.bundles import write_tiny_bundle
from tests.support.colour_embedder import save_photo

pytestmark = IN_BROWSER
BARE = "שמלת פשתן קיצית"
"""Title of a product without link and price, whose photo is gone."""


@contextmanager
def serving(*arguments: str) -> Iterator[str]:
    """Run the service, and give its address."""
    command = [sys.executable, "-m", "fedrec.cli", "serve", *arguments, "--listen", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split(" ")[0]
        finally:
            process.terminate()
            assert process.wait(timeout=20) == 0


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root = tmp_path_factory.mktemp("page")
    model = open_model(write_tiny_bundle(root / "m"))
    shop = write_shop(root / "shop", products=13, photos=1)
    gone = save_photo(root / "shop" / "gone.png", 5)
    with shop.open("a", encoding="utf-8") as rows:
        rows.write(f"bare,gone.png,{BARE},,,,,\n")
    import_shop(root / "catalogue", shop, model=photo_model_of(model, path=None))
    gone.unlink()
    with serving(f"{root}/m", "--catalogue", f"{root}/catalogue") as shown:
        yield shown


def test_the_page_tells_the_token_to_a_server_that_knows_it_alone(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("k" * 40)
    token.chmod(0o600)
    write_tiny_bundle(tmp_path / "m")
    sent: list[tuple[str, str | None]] = []
    with serving(f"{tmp_path}/m", "--token-file", f"{token}") as shown, sync_playwright() as started:
        browser = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_context(locale="en-US").new_page()
        page.on("request", lambda request: sent.append((request.url, request.headers.get("authorization"))))
        page.goto(shown)
        page.fill("#token", "w" * 40)
        page.click("#ask-token button")
        expect(page.locator("#status")).to_contain_text("another program answers")
        assert any("/proof?nonce=" in url for url, _ in sent) and {told for _, told in sent} == {None}
        page.fill("#token", "k" * 40)
        page.click("#ask-token button")
        expect(page.locator("#token")).to_be_hidden()
        expect(page.locator("#status")).to_have_text("")
        assert {told for url, told in sent if "/model" in url} == {None, f"Bearer {'k' * 40}"}
        browser.close()


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "red.jpg"
    Image.new("RGB", (400, 300), (250, 10, 5)).save(path)
    return path


@pytest.fixture(params=[(375, "light"), (768, "dark"), (1280, "light")], ids=["phone", "tablet", "desktop"])
def page(request: pytest.FixtureRequest, address: str) -> Iterator[Page]:
    width, scheme = request.param
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        context = browser.new_context(
            viewport={"width": width, "height": 800},
            color_scheme=scheme,
            locale="en-US",
            has_touch=width < 500,
            is_mobile=width < 500,
        )
        shown = context.new_page()
        problems: list[str] = []
        shown.on("console", lambda line: problems.append(line.text) if line.type == "error" else None)
        shown.on("pageerror", lambda error: problems.append(str(error)))
        shown.goto(address)
        yield shown
        browser.close()
    # The browser reports by itself what was refused, wasn't there, or was cut off.
    reported = ("status of 422", "status of 404", "net::ERR_FAILED")
    assert [text for text in problems if not any(part in text for part in reported)] == []


def test_a_photo_is_recognised_explained_and_compared(page: Page, photo: Path) -> None:
    page.set_input_files("#file", photo)
    page.wait_for_selector("#result:not([hidden])")
    assert page.locator("#classes button").first.inner_text().startswith("red")
    assert page.locator("#similar li").count() == 12
    assert (page.locator("#similar a").first.get_attribute("href") or "").startswith("https://shop.example/")
    assert "The photo is blurred." in page.inner_text("#flaws")
    # Nothing is wider than the window.
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    before = page.get_attribute("#photo", "src")
    page.check("#why")
    assert page.get_attribute("#photo", "src") != before
    page.locator("#classes button", has_text="blue").press("Enter")
    page.locator("#why-text", has_text="blue").wait_for()
    # The keyboard's place isn't lost with what was there before.
    expect(page.locator("#classes button", has_text="blue")).to_be_focused()
    page.click("#more")
    expect(page.locator("#similar li")).to_have_count(14)
    expect(page.locator("#more")).to_be_hidden()


def test_a_product_of_which_little_is_known_is_shown_all_the_same(page: Page, photo: Path) -> None:
    page.set_input_files("#file", photo)
    page.click("#more", timeout=60_000)
    bare = page.locator("#similar li", has_text=BARE)
    expect(bare.locator(".blank")).to_have_text("no picture", timeout=20_000)
    assert bare.locator("a, .price").count() == 0
    assert bare.locator(".title").evaluate("e => getComputedStyle(e).direction") == "rtl"


def test_the_photo_stands_there_while_it_is_looked_at_and_can_be_sent_again(page: Page, photo: Path) -> None:
    waiting: list[Route] = []
    page.route("**/look", lambda route: waiting.append(route))
    page.set_input_files("#file", photo)
    expect(page.locator("#photo")).to_be_visible()
    expect(page.locator("#status")).to_have_class("working")
    waiting[0].abort()
    expect(page.locator("#status")).to_contain_text("can't be reached")
    page.unroute("**/look")
    page.click("#again")
    page.wait_for_selector("#result:not([hidden])")
    expect(page.locator("#again")).to_be_hidden()


def test_a_finger_takes_a_photo_and_a_mouse_drops_one(page: Page) -> None:
    touch = page.evaluate("matchMedia('(hover: none)').matches")
    assert page.locator("#camera").is_visible() == touch
    assert ("Drop a photo" in page.inner_text("#drop")) != touch


def test_the_keyboard_alone_is_enough(page: Page) -> None:
    reached = []
    for _ in range(4):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
    assert {"language", "file"} <= set(reached)
    assert ("camera" in reached) == page.evaluate("matchMedia('(hover: none)').matches")


def test_chinese_is_the_whole_page(page: Page, photo: Path) -> None:
    page.set_input_files("#file", photo)
    page.wait_for_selector("#result:not([hidden])")
    page.click("#language")
    assert page.get_attribute("html", "lang") == "zh-Hans"
    told = page.evaluate(
        "[...document.querySelectorAll('h1, h2, h3, label, #flaws, #status, .quiet')]"
        ".filter(e => e.offsetParent && e.innerText.trim()).map(e => e.innerText)"
    )
    assert told and all(re.search("[\u4e00-\u9fff]", text) for text in told)


def test_what_is_no_photo_is_said_so(page: Page, tmp_path: Path, photo: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(photo.read_bytes()[:100])
    answers: list[int] = []
    page.on("response", lambda response: answers.append(response.status))
    page.set_input_files("#file", broken)
    page.wait_for_selector("#status.bad")
    assert "can't be read as a photo" in page.inner_text("#status")
    assert 422 in answers
    assert page.input_value("#file") == "", "a browser tells of the same file once while it is chosen"
