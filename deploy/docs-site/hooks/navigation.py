"""Complete the navigation.

An entry FOLDER/ becomes the pages of that folder, and pages without an entry go below "More".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files

REST = "More"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Complete the navigation of ``config``.

    Args:
        files: the site's files, with all pages.
        config: of the site.

    Returns:
        The same files.
    """
    pages = sorted(file.src_uri for file in files.documentation_pages())
    config.nav = completed(config.nav or [], pages)
    return files


def completed(nav: list[Any], pages: list[str]) -> list[Any]:
    """Return the navigation with every page in it.

    Args:
        nav: entries as mkdocs.yml has them.
        pages: addresses of all pages.

    Returns:
        The entries; the section "More" is there only if it has a page.
    """
    filled = [_filled(entry, pages) for entry in nav]
    known = {address for entry in filled for address in _addresses(entry)}
    rest = [page for page in pages if page not in known]
    return [*filled, {REST: rest}] if rest else filled


def _filled(entry: Any, pages: list[str]) -> Any:
    if isinstance(entry, dict):
        return {title: _filled(below, pages) for title, below in entry.items()}
    if isinstance(entry, list):
        filled = [_filled(below, pages) for below in entry]
        return [each for below in filled for each in (below if isinstance(below, list) else [below])]
    return [page for page in pages if page.startswith(entry)] if entry.endswith("/") else entry


def _addresses(entry: Any) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
    else:
        for below in entry.values() if isinstance(entry, dict) else entry:
            yield from _addresses(below)
