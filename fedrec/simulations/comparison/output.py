"""Write a comparison into a folder: as JSON, as an HTML page, and as a PDF where that can be made."""

from __future__ import annotations

from pathlib import Path

from fedrec._internal.files import write_atomically
from fedrec._internal.json_files import write_json
from fedrec.report.html import render_html
from fedrec.report.pdf import can_render_pdf, render_pdf
from fedrec.simulations.comparison.page import comparison_document
from fedrec.simulations.comparison.rows import Comparison

PAGE = "comparison.html"


def write_comparison(folder: Path, comparison: Comparison) -> None:
    """Write ``comparison.json``, ``.html`` and, if it can be made, ``.pdf``; earlier ones are replaced.

    Args:
        folder: the folder, which exists.
        comparison: the comparison.
    """
    document = comparison_document(comparison)
    write_json(folder / "comparison.json", comparison.to_dict())
    write_atomically(folder / PAGE, render_html(document).encode())
    if can_render_pdf():
        write_atomically(folder / "comparison.pdf", render_pdf(document))
