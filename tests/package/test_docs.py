"""What the docs name exists: files, tests, modules, commands with options, and pages that are linked to."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import click
import pytest
import typer

from fedrec.cli.app import app
from tests.support.layout import DOCS, PACKAGE, ROOT

PAGES = [*sorted(DOCS.rglob("*.md")), *sorted(ROOT.glob("*.md"))]
FOLDERS = ("fedrec", "tests", "benchmarks", "examples")
FILES = [
    path.relative_to(ROOT).as_posix() for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))
]
TRANSLATED = [page.relative_to(DOCS / "zh") for page in sorted((DOCS / "zh").glob("*.md"))]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def files_named(name: str) -> list[str]:
    """Return the files of this name, with or without leading folders."""
    return [file for file in FILES if f"/{file}".endswith(f"/{name}")]


@each_page
def test_every_python_file_that_a_page_names_exists(page: Path) -> None:
    named = re.findall(r"(?:\.\./)*([\w/-]*\w\.py)\b", page.read_text("utf-8"))
    assert [name for name in named if not files_named(name)] == []


def test_every_test_that_the_table_of_attacks_names_is_in_its_file() -> None:
    found = re.findall(r"(test_\w+\.py)|(?<=::)(test_\w+)", (DOCS / "security.md").read_text("utf-8"))
    assert len(found) > 100
    missing, source = [], ""
    for file, test in found:
        if file:
            source = "".join((ROOT / path).read_text("utf-8") for path in files_named(file))
        elif f"def {test}(" not in source:
            missing.append(test)
    assert missing == []


@each_page
def test_every_module_that_a_page_imports_from_has_the_name(page: Path) -> None:
    for module, names in re.findall(r"^from (fedrec[\w.]*) import ([\w, ]+)$", page.read_text("utf-8"), re.M):
        source = PACKAGE.parent.joinpath(*module.split(".")).with_suffix(".py").read_text("utf-8")
        for name in names.split(", "):
            assert re.search(rf"\b{name}\b", source), f"{module} has no {name}"


@each_page
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)", page.read_text("utf-8"))
    here = [target for target in targets if "://" not in target]
    assert [target for target in here if not (page.parent / target).exists()] == []


def commands_and_figures(page: Path) -> tuple[list[str], list[str]]:
    """Return a page's commands without remarks, and the fractions and percentages of its tables."""
    lines = page.read_text("utf-8").splitlines()
    entered = [line.strip() for line in lines if re.match(r" *(fedrec|make|python3|pip) [^|]", line)]
    commands = [line.split("  #")[0].strip() for line in entered]
    rows = [line for line in lines if line.startswith("|")]
    return commands, [figure for row in rows for figure in re.findall(r"\d+\.\d+%?|\d+%", row)]


@pytest.mark.parametrize("name", TRANSLATED, ids=str)
def test_a_translated_page_has_the_commands_and_the_figures_of_the_english_one(name: Path) -> None:
    english = ROOT / name if (ROOT / name).exists() else DOCS / name
    commands, figures = commands_and_figures(DOCS / "zh" / name)
    assert (commands, figures) == commands_and_figures(english)
    assert commands


@functools.cache
def command_at(path: tuple[str, ...]) -> click.Command | None:
    """Return the command of these words; None if there is none."""
    if not path:
        return typer.main.get_command(app)
    group = command_at(path[:-1])
    return group.get_command(click.Context(group), path[-1]) if isinstance(group, click.Group) else None


def options_named(text: str) -> list[tuple[str, str, bool]]:
    """Return each option that is shown with its command: the command, the option, and whether it has it."""
    found = []
    # A command goes on in lines that are indented further, or behind a backslash.
    text = re.sub(r"\\\n|\n {17,}", " ", text)
    for words in re.findall(r"(?<![\w/.'-])fedrec ([^`\n#;&|']+)", text):
        path: tuple[str, ...] = ()
        for word in words.split():
            if command_at((*path, word)) is None:
                break
            path = (*path, word)
        command = command_at(path)
        if not path or command is None:
            continue
        known = {"--help"}.union(*([*each.opts, *each.secondary_opts] for each in command.params))
        options = re.findall(r"(?<![\w-])--[a-z][\w-]*", words)
        found += [(" ".join(path), option, option in known) for option in options]
    return found


@each_page
def test_every_command_that_a_page_shows_has_the_options(page: Path) -> None:
    shown = options_named(page.read_text("utf-8"))
    assert [(command, option) for command, option, known in shown if not known] == []


def test_an_option_that_no_command_has_is_found() -> None:
    assert options_named("`fedrec serve m --catalogue c --no-such`") == [
        ("serve", "--catalogue", True),
        ("serve", "--no-such", False),
    ]
    assert len([each for page in PAGES for each in options_named(page.read_text("utf-8"))]) > 200
