"""Pictures of pages and of terminals, taken by the system's Chromium."""

from __future__ import annotations

import html
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from tests.support.browser import BROWSER

_COLOURS = 256
_TERMINAL = """<!doctype html><meta charset="utf-8"><style>
body {{ margin: 0; background: #14202b; }}
pre {{ margin: 0; padding: 18px 22px; color: #dce6ee; font: 15px/1.5 "DejaVu Sans Mono", monospace;
       white-space: pre-wrap; }}
b {{ color: #7fd6c2; font-weight: 600; }}
</style><pre>{text}</pre>"""


@contextmanager
def browser_page(size: tuple[int, int]) -> Iterator[Page]:
    """Open a browser's page of this width and height."""
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        context = browser.new_context(
            viewport={"width": size[0], "height": size[1]}, color_scheme="light", locale="en-US"
        )
        yield context.new_page()
        browser.close()


def take(page: Page, out: Path) -> None:
    """Write what a page shows as a small PNG file."""
    shown = Image.open(io.BytesIO(page.screenshot()))
    shown.convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE).save(out, optimize=True)


def terminal(command: str, printed: str, out: Path, *, size: tuple[int, int]) -> None:
    """Write the picture of a terminal with a command and what it printed."""
    text = f"<b>$ {html.escape(command)}</b>\n{html.escape(printed.strip())}"
    with browser_page(size) as page:
        page.set_content(_TERMINAL.format(text=text))
        take(page, out)


_AFAR = (64, 48)


def _grey(path: Path) -> NDArray[np.float64]:
    with Image.open(path) as opened:
        return np.asarray(opened.convert("L").resize(_AFAR, Image.Resampling.BOX), dtype=float)


def is_blank(path: Path) -> bool:
    """Return whether a picture has hardly anything on it."""
    return bool(_grey(path).std() < 4)


def likeness(first: Path, second: Path) -> float:
    """Return how alike two pictures are from afar: the correlation of their greys, 1 for equal ones."""
    return float(np.corrcoef(_grey(first).ravel(), _grey(second).ravel())[0, 1])
