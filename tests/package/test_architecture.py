"""``docs/architecture.md``: its picture and its ten steps say what the code is."""

from __future__ import annotations

import ast
import re
from xml.etree import ElementTree

from tests.support.layout import LAYERS, PACKAGE

DOCS = PACKAGE.parent / "docs"
PAGE = (DOCS / "architecture.md").read_text("utf-8")
SVG = "{http://www.w3.org/2000/svg}"


def test_the_picture_has_every_folder_in_its_layer() -> None:
    drawn = {}
    for group in ElementTree.parse(DOCS / "pictures" / "layers.svg").iter(f"{SVG}g"):
        for text in group.iter(f"{SVG}text"):
            if text.get("class") == "folder":
                drawn[text.text] = group.get("data-layer")
    assert drawn.pop("__init__.py") == "6"
    assert drawn == {folder: str(layer) for folder, layer in LAYERS.items()}


def symbols(text: str) -> list[tuple[str, str]]:
    """Return the symbols that a text links to, each with its file; every one must be defined there."""
    links = re.findall(r"\[`(\w+)`\]\((\.\./fedrec/[\w/]+\.py)\)", text)
    for symbol, target in links:
        tree = ast.parse((DOCS / target).read_text("utf-8"))
        defined = {node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
        assert symbol in defined, f"{target} has no {symbol}"
    return links


def test_the_walk_has_ten_named_steps_that_each_lead_to_the_code_that_takes_it() -> None:
    walk = PAGE.partition("## From a photo to the opened sum")[2].partition("\n## ")[0]
    steps = re.split(r"^(\d+)\. \*\*([A-Z][a-z ]+)\*\*", walk, flags=re.MULTILINE)[1:]
    assert steps[::3] == [str(number) for number in range(1, 11)]
    for name, text in zip(steps[1::3], steps[2::3], strict=True):
        assert symbols(text), f"step {name} has no link"


def test_the_table_of_where_to_change_what_leads_to_code_and_files_that_are_there() -> None:
    table = PAGE.partition("## Where to change what")[2].partition("\n## ")[0]
    assert len(symbols(table)) > 20
    for path in re.findall(r"`((?:\w+/)+(?:\w+\.py)?)`", table):
        assert (PACKAGE / path).exists(), path
