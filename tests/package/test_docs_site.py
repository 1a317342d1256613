"""The documentation site: what is made of the repository's pages before mkdocs lays them out."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

import fedrec
from fedrec.cli.app import app
from tests.support.layout import ROOT

pytest.importorskip("mkdocs")

from command_reference import command_pages
from languages import marked
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
    pages = command_pages()
    shown = CliRunner().invoke(app, ["client", "join", "--help"], terminal_width=78).output
    assert shown.strip() in pages["client"]
    listed = CliRunner().invoke(app, ["--help"]).output.partition("Commands:")[2]
    names = [line.split()[0] for line in listed.splitlines() if line[:3].strip()]
    assert len(names) > 8 and sorted(names) == sorted(pages)
    assert "## fedrec catalogue import" in pages["catalogue"]


def test_the_reference_of_the_api_has_every_name_of_the_front_door() -> None:
    names = imported((ROOT / "fedrec" / "__init__.py").read_text("utf-8"))
    assert sorted(name.rpartition(".")[2] for name in names) == sorted(fedrec.__all__)
    assert imported("    from fedrec.a import B, C\nfrom fedrec import a\nfrom fedrec.a import C\n") == [
        "fedrec.a.B",
        "fedrec.a.C",
        "fedrec.a",
    ]


@pytest.mark.parametrize(("address", "language"), [("zh/merchant.md", "zh-Hans"), ("policy.md", "en")])
def test_a_chinese_page_says_that_it_is_chinese(address: str, language: str) -> None:
    assert marked('<html lang="en" class="no-js">', address) == f'<html lang="{language}" class="no-js">'


def test_the_site_asks_nobody_else_for_anything() -> None:
    settings = (ROOT / "deploy/docs-site/mkdocs.yml").read_text("utf-8")
    assert "://" not in settings and "font: false" in settings
