"""Read and write ``report.json``, schema ``fedrec.report/1``."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from fedrec._internal.json_files import read_checked
from fedrec.protocol.schema import Strict
from fedrec.protocol.training_report.aggregation_section import AggregationSection
from fedrec.protocol.training_report.figures_section import SiteFigures
from fedrec.protocol.training_report.metrics_section import MetricsSection
from fedrec.protocol.training_report.privacy_section import PrivacySection
from fedrec.protocol.training_report.round_line import RoundLine
from fedrec.protocol.training_report.run_section import CostSection, DataSection, RunSection

REPORT_FILE = "report.json"
SCHEMA: Final = "fedrec.report/1"
LARGEST_REPORT = 1 << 26
"""The most bytes of a report that is read."""


class TrainingReport(Strict):
    """The report of a finished or interrupted training.

    Attributes:
        schema_name: name and version of this schema; in JSON ``schema``.
        refusals: which merchant refused what, or what failed, and the reason.
        warnings: what qualifies the figures.
        run: how the training was run.
        data: its photos.
        metrics: metrics of the final model.
        site_figures: figures on the merchants' own data; None where the plan asks for none.
        privacy: the guarantee.
        secure_aggregation: how sums were encrypted and opened.
        cost: traffic, memory and time.
        rounds: every finished round, in order.
    """

    model_config = ConfigDict(populate_by_name=True)

    schema_name: Annotated[
        Literal["fedrec.report/1"], Field(validation_alias="schema", serialization_alias="schema")
    ]
    refusals: Mapping[str, str]
    warnings: tuple[str, ...]
    run: RunSection
    data: DataSection
    metrics: MetricsSection
    site_figures: SiteFigures | None
    privacy: PrivacySection
    secure_aggregation: AggregationSection
    cost: CostSection
    rounds: tuple[RoundLine, ...]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if any(one.round >= other.round for one, other in pairwise(self.rounds)):
            raise ValueError("the numbers of rounds ascend")
        return self

    @property
    def opened_rounds(self) -> int:
        """How many rounds' sums were opened."""
        return sum(line.opened for line in self.rounds)

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``report.json``, JSON values."""
        return self.model_dump(mode="json", by_alias=True)


def read_report(folder: Path) -> TrainingReport:
    """Read the report of a run or of a training.

    Args:
        folder: the run directory, or the training's folder on the server.

    Returns:
        The report.

    Raises:
        ConfigError: the file can't be read, is too large, or is no report of this version; one line says
            where it is wrong.
        FileNotFoundError: there is no such file.
    """
    return read_checked(
        folder / REPORT_FILE,
        TrainingReport.model_validate_json,
        what="report of this version",
        largest=LARGEST_REPORT,
    )
