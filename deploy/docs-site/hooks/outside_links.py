"""Make the links of the repository's pages those of the site.

In the repository a page may link to any file. A link to a page or a picture of the site leads there; one to
another file of the repository, which the site doesn't have, becomes its text with the file's name. A link
that leads to no file is left as it is, and the strict build fails.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page
from top_level_pages import PAGES

_LINK = re.compile(
    r"\[(?P<text>[^\[\]]*(?:\[[^\[\]]*\][^\[\]]*)*)\]\((?P<target>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)"
)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite the links of a page.

    Args:
        markdown: the page.
        page: what mkdocs knows about it.
        config: of the site.
        files: the site's files.

    Returns:
        The page with links that the site has.
    """
    source = page.file.abs_src_path
    if source is None:
        return markdown
    docs = Path(config.docs_dir)
    return rewritten(markdown, source=Path(source), address=page.file.src_uri, docs=docs)


def rewritten(markdown: str, *, source: Path, address: str, docs: Path) -> str:
    """Rewrite the links of a page.

    Args:
        markdown: the page.
        source: its file in the repository.
        address: its place in the site, as seen from ``docs``.
        docs: the folder ``docs`` of the repository.

    Returns:
        The page.
    """

    def replaced(found: re.Match[str]) -> str:
        text, target, anchor = found["text"], found["target"], found["anchor"] or ""
        if re.match(r"[a-z]+:", target):
            return found[0]
        path = Path(os.path.normpath(source.parent / target))
        if not path.exists():
            return found[0]
        name = path.relative_to(docs.parent).as_posix()
        if name in PAGES:
            to = PAGES[name]
        elif path.is_relative_to(docs) and path.is_file():
            to = path.relative_to(docs).as_posix()
        else:
            return text if name in text else f"{text} (`{name}`)"
        return f"[{text}]({os.path.relpath(to, Path(address).parent)}{anchor})"

    return _LINK.sub(replaced, markdown)
