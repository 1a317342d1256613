"""Serve the files of a page that runs in a browser, and the headers that keep other pages out of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PAGE_HEADERS: Final = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self)",
    "Cache-Control": "no-store",
    # An idle connection would take a place of those that there are.
    "Connection": "close",
}
_KINDS: Final = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
}


@dataclass(frozen=True)
class PageFile:
    """A file of a page: its content and its type."""

    content: bytes
    kind: str


def page_files(package: str, folder: str) -> Mapping[str, PageFile]:
    """Read a page: its own files, and those that all pages have in common.

    Args:
        package: the package that holds the page.
        folder: its folder in the package, with ``index.html``, ``page.css``, ``page.js`` and ``texts.js``.

    Returns:
        The files by path; the page itself is at "/".
    """
    own = files(package).joinpath(folder)
    shared = files("fedrec.observability").joinpath("web")
    names = {"/": own / "index.html", "/base.css": shared / "base.css", "/base.js": shared / "base.js"}
    names |= {f"/{name}": own / name for name in ("page.css", "page.js", "texts.js")}
    return {
        path: PageFile(found.read_bytes(), _KINDS[found.name.rpartition(".")[2]])
        for path, found in names.items()
    }
