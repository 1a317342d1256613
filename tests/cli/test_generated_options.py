"""The command line's options and the training file's keys are generated from the fields of their schemas."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import typer
from pydantic import BaseModel, Field
from typer.testing import CliRunner

from fedrec.cli.app import app, main
from fedrec.cli.generated_options import fields_as_options, options_of
from fedrec.cli.lazy_group import PLAIN
from fedrec.config import DataOptions, SimulationConfig, TrainingOptions
from fedrec.server.training_file import TrainingFile
from tests.support.layout import DOCS


class Schema(BaseModel):
    some_count: Annotated[int, Field(ge=1)] | None = Field(default=None, description="How many.")
    kind: Literal["a", "b"] = Field(default="a", description="Which.")
    folder: Path | None = Field(default=None, description="Where.")
    share: float = Field(default=0.5, description="How much.")
    fast: bool = Field(default=False, description="Whether.")


def called(*arguments: str) -> tuple[dict[str, Any], int]:
    """Run a command with the options of Schema; returns what it was given."""
    got: list[tuple[Mapping[str, Any], int]] = []
    group = typer.Typer(**PLAIN)

    @group.command()
    @options_of(Schema)
    def command(flags: Mapping[str, Any], own: Annotated[int, typer.Option(help="Its own.")] = 3) -> None:
        """Do it."""
        got.append((flags, own))

    result = CliRunner().invoke(group, list(arguments))
    assert result.exit_code == 0, result.output
    flags, own = got[0]
    return dict(flags), own


def test_only_what_was_given_is_passed_on_and_in_its_type() -> None:
    assert called() == ({}, 3)
    # Bounds are the schema's to check: -4 gets through.
    given = ("--some-count", "-4", "--kind", "c", "--folder", "x", "--share", "1", "--own", "5")
    expected = {"some_count": -4, "kind": "c", "folder": Path("x"), "share": 1.0}
    assert called(*given) == (expected, 5)
    assert called("--fast")[0] == {"fast": True} and called("--no-fast")[0] == {"fast": False}


def test_a_field_that_no_option_can_hold_is_found_at_once() -> None:
    class Wrong(BaseModel):
        names: tuple[str, ...] = ()

    with pytest.raises(TypeError, match="names"):
        options_of(Wrong)


@dataclass(frozen=True, kw_only=True)
class Fields:
    file: Annotated[Path, typer.Argument(help="Which file.")]
    rate: Annotated[float, typer.Option(min=0.0, help="How much.")] = 0.5
    batch: Annotated[list[int] | None, typer.Option(help="How many.")] = None
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False


def test_a_command_receives_the_dataclass_whose_fields_are_its_options() -> None:
    got: list[Fields] = []
    group = typer.Typer(**PLAIN)

    @group.command()
    @fields_as_options(Fields)
    def command(given: Fields) -> None:
        """Do it."""
        got.append(given)

    def exit_code(*arguments: str) -> int:
        return CliRunner().invoke(group, list(arguments)).exit_code

    assert exit_code("x") == 0 and got == [Fields(file=Path("x"))]
    assert exit_code("x", "--rate", "1", "--batch", "8", "--batch", "1", "--json") == 0
    assert got[1] == Fields(file=Path("x"), rate=1.0, batch=[8, 1], as_json=True)
    assert exit_code() == 2 and exit_code("x", "--rate", "-1") == 2 and len(got) == 2
    shown = CliRunner().invoke(group, ["--help"]).output
    assert "Do it." in shown
    assert [text for text in ("FILE", "How much.", "How many.", "Print JSON.") if text not in shown] == []


def test_the_help_of_simulate_has_every_field_once_in_the_schemas_words() -> None:
    shown = CliRunner().invoke(app, ["simulate", "--help"], terminal_width=100).output
    text = " ".join(shown.split())
    for name, field in SimulationConfig.model_fields.items():
        flag = f"--{name.replace('_', '-')}"
        assert len(re.findall(rf"^  {flag}\b(?!-)", shown, re.MULTILINE)) == 1, flag
        assert field.description and field.description in text
    assert max(map(len, shown.splitlines())) <= 100


@pytest.mark.parametrize("schema", [DataOptions, TrainingOptions, SimulationConfig])
def test_every_field_is_described_in_a_short_sentence(schema: type[BaseModel]) -> None:
    for name, field in schema.model_fields.items():
        said = field.description or ""
        assert 10 < len(said) < 90 and "\n" not in said, name


def test_the_docs_table_of_the_training_file_has_its_keys_and_no_other() -> None:
    rows = [line for line in (DOCS / "training-file.md").read_text().splitlines() if line.startswith("| `")]
    told = [key for row in rows for key in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(told) == sorted(TrainingFile.model_fields)


def test_a_long_help_lists_each_option_once_below_the_heading_of_its_schema() -> None:
    shown = CliRunner().invoke(app, ["simulate", "--help"], env={"COLUMNS": "100"}).output
    found: dict[str, list[str]] = {}
    heading = ""
    for line in shown.splitlines():
        if re.fullmatch(r"\S.*:", line):
            heading = line.removesuffix(":")
        elif option := re.match(r"  --([a-z0-9-]+)", line):
            found.setdefault(heading, []).append(option[1].replace("-", "_"))
    listed = [name for names in found.values() for name in names]
    assert len(listed) == len(set(listed)) and set(SimulationConfig.model_fields) <= set(listed)
    assert found["Photos and merchants"] == list(DataOptions.model_fields)
    assert "epsilon" in found["Privacy and encryption"] and "seed" in found["This run"]
    assert "config" in found["Options"] and len(found) >= 5


def test_a_shell_that_completes_is_answered_with_commands_and_options(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def answers(line: str) -> set[str]:
        environment = {"_FEDREC_COMPLETE": "complete_bash", "COMP_WORDS": line}
        for name, value in (environment | {"COMP_CWORD": str(line.count(" "))}).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("sys.argv", ["fedrec"])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 0
        return set(capsys.readouterr().out.split())

    assert answers("fedrec cat") == {"catalogue"}
    assert answers("fedrec simulate --me") == {"--method", "--merchants"}
