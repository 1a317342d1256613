"""Say in which language a page is: a browser chooses letters and line breaks by it."""

from __future__ import annotations

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.pages import Page

LANGUAGES = {"zh/": "zh-Hans"}
"""Folders whose pages aren't English, and their languages."""


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Set the language of a page.

    Args:
        output: the page in HTML.
        page: what mkdocs knows about it.
        config: of the site.

    Returns:
        The page in HTML.
    """
    return marked(output, page.file.src_uri)


def marked(output: str, address: str) -> str:
    """Set the language of a page.

    Args:
        output: the page in HTML.
        address: of the page, as seen from ``docs``.

    Returns:
        The page in HTML.
    """
    for folder, language in LANGUAGES.items():
        if address.startswith(folder):
            return output.replace('<html lang="en"', f'<html lang="{language}"', 1)
    return output
