"""The documentation site: what is made of the repository's pages before mkdocs lays them out."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

import fedrec
from fedrec.cli.app import app
from tests.support.layout import DOCS, ROOT

pytest.importorskip("mkdocs")

from command_reference import command_names, command_page
from languages import marked
from markdown import Markdown
from markdown_it import MarkdownIt
from mkdocs.config import load_config
from navigation import completed
from outside_links import rewritten
from python_reference import imported


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for name in ("README.md", "docs/policy.md", "docs/zh/README.md", "docs/pictures/a.png", "fedrec/net.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("page", "link", "expected"),
    [
        ("README.md", "[rules](docs/policy.md#hours)", "[rules](policy.md#hours)"),
        ("README.md", "![a [b] c](docs/pictures/a.png)", "![a [b] c](pictures/a.png)"),
        ("README.md", "[over two\nlines](docs/policy.md)", "[over two\nlines](policy.md)"),
        ("docs/policy.md", "[`net`](../fedrec/net.py)", "`net` (`fedrec/net.py`)"),
        ("docs/policy.md", "[`fedrec/net.py`](../fedrec/net.py)", "`fedrec/net.py`"),
        ("docs/policy.md", "[the code](../fedrec)", "the code (`fedrec`)"),
        ("docs/zh/README.md", "[English](../../README.md)", "[English](../index.md)"),
        ("docs/zh/README.md", "[rules](../policy.md)", "[rules](../policy.md)"),
        ("docs/policy.md", "[elsewhere](https://example.org/a.md)", "[elsewhere](https://example.org/a.md)"),
        ("docs/policy.md", "[gone](../fedrec/gone.py)", "[gone](../fedrec/gone.py)"),
    ],
)
def test_a_link_leads_to_the_sites_page_or_names_the_file(
    repository: Path, page: str, link: str, expected: str
) -> None:
    address = "index.md" if page == "README.md" else page.removeprefix("docs/")
    done = rewritten(link, source=repository / page, address=address, docs=repository / "docs")
    assert done == expected


def test_every_page_has_a_place_in_the_navigation() -> None:
    nav = [{"Start": "index.md"}, {"Merchant": ["policy.md", "guide/"]}]
    pages = ["guide/1.md", "guide/2.md", "index.md", "new.md", "policy.md"]
    assert completed(nav, pages) == [
        {"Start": "index.md"},
        {"Merchant": ["policy.md", "guide/1.md", "guide/2.md"]},
        {"More": ["new.md"]},
    ]
    assert completed([*nav, "new.md"], pages)[-1] == "new.md"


def test_the_reference_has_what_every_command_prints_of_itself() -> None:
    page = command_page("client")
    shown = CliRunner().invoke(app, ["client", "join", "--help"], terminal_width=78).output
    assert shown.strip() in page and page.startswith("# fedrec client\n")
    listed = CliRunner().invoke(app, ["--help"]).output.partition("Commands:")[2]
    names = [line.split()[0] for line in listed.splitlines() if line[:3].strip()]
    assert len(names) > 8 and sorted(names) == sorted(command_names())


def test_the_reference_of_the_api_has_every_name_of_the_front_door() -> None:
    names = imported((ROOT / "fedrec" / "__init__.py").read_text("utf-8"))
    assert sorted(name.rpartition(".")[2] for name in names) == sorted(fedrec.__all__)
    assert imported("    from fedrec.a import B, C\nfrom fedrec import a\nfrom fedrec.a import C\n") == [
        "fedrec.a.B",
        "fedrec.a.C",
        "fedrec.a",
    ]


def elements(page: str) -> Counter[str]:
    return Counter(re.findall(r"<(h[1-4]|li|ol|ul|pre|table|tr|img|strong|em)\b", page))


def test_the_site_reads_pages_as_commonmark_does() -> None:
    """Python-Markdown wants a blank line before a list, and four spaces for what is inside of an item."""
    config = load_config(str(ROOT / "deploy" / "docs-site" / "mkdocs.yml"))
    commonmark = MarkdownIt("commonmark").enable("table")
    settings = {"extensions": config["markdown_extensions"], "extension_configs": config["mdx_configs"]}
    wrong = {}
    for page in [*DOCS.rglob("*.md"), *ROOT.glob("*.md")]:
        text = page.read_text("utf-8")
        expected, found = elements(commonmark.render(text)), elements(Markdown(**settings).convert(text))
        if found != expected:
            wrong[page.relative_to(ROOT).as_posix()] = {
                "missing": expected - found,
                "too many": found - expected,
            }
    assert wrong == {}


@pytest.mark.parametrize(("address", "language"), [("zh/merchant.md", "zh-Hans"), ("policy.md", "en")])
def test_a_chinese_page_says_that_it_is_chinese(address: str, language: str) -> None:
    assert marked('<html lang="en" class="no-js">', address) == f'<html lang="{language}" class="no-js">'


def test_the_site_asks_nobody_else_for_anything() -> None:
    settings = (ROOT / "deploy/docs-site/mkdocs.yml").read_text("utf-8")
    assert "://" not in settings and "font: false" in settings
