"""Add the pages at the repository's top level to the site; README.md is its first page."""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/reporting.md",
    "CHANGELOG.md": "project/changelog.md",
}
"""Files at the top level, and where the site has them."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages.

    Args:
        files: the site's files.
        config: of the site.

    Returns:
        The files with the pages.
    """
    root = Path(config.docs_dir).parent
    for name, address in PAGES.items():
        files.append(File.generated(config, address, abs_src_path=str(root / name)))
    return files
