"""Add the reference of the Python API: the docstrings of what a script or a package imports from fedrec."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ERRORS = "fedrec.errors"
_IMPORT = re.compile(r"^ *from (fedrec[\w.]*) import ([\w, ]+)$", re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages.

    Args:
        files: the site's files.
        config: of the site.

    Returns:
        The files with the pages.
    """
    root = Path(config.docs_dir).parent
    front = imported((root / "fedrec" / "__init__.py").read_text("utf-8"))
    extending = imported((root / "docs" / "extending.md").read_text("utf-8"))
    # A name is described on one page alone, so that a link to it leads to one place.
    pages = {
        "api": reference(
            "Python: import fedrec",
            "What `import fedrec` offers to a script or a notebook.",
            [name for name in front if not name.startswith(f"{ERRORS}.")],
        ),
        "extending": reference(
            "Python: for packages that add a choice",
            "What a package imports that adds a model, an optimizer, a data set, a scheme or an accountant "
            "([how to](../extending.md)).",
            [name for name in extending if name not in front],
        ),
        "errors": reference(
            "Python: errors",
            "All errors that the commands and the API raise, each with its [exit code](../exit-codes.md).",
            [ERRORS],
        ),
    }
    for name, text in pages.items():
        files.append(File.generated(config, f"reference/python-{name}.md", content=text))
    return files


def imported(text: str) -> list[str]:
    """Return the full names that the import lines of a text name, each once."""
    found = [f"{module}.{name}" for module, names in _IMPORT.findall(text) for name in names.split(", ")]
    return list(dict.fromkeys(found))


def reference(title: str, summary: str, names: list[str]) -> str:
    """Return a page in the notation of mkdocstrings.

    Args:
        title: of the page.
        summary: its first sentence.
        names: full names of what it describes.

    Returns:
        The page.
    """
    return "\n\n".join([f"# {title}", summary, *(f"::: {name}" for name in names)])
