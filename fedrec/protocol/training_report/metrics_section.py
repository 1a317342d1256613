"""Define the section of a training's report on the final model's metrics."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from fedrec.protocol.schema import Strict
from fedrec.protocol.training_report.values import Count, Share


class ClassLine(Strict):
    """Metrics of one class against the rest; see :class:`fedrec.vision.metrics.ClassMetrics`."""

    label: str
    precision: Share
    recall: Share
    f1: Share
    support: Count


class MetricsSection(Strict):
    """Metrics of the final model; None or empty, all of them, where nothing was measured.

    Attributes:
        accuracy: share of records predicted right.
        accuracy_interval: its 95% interval for the number of records.
        precision_macro: mean over all classes.
        recall_macro: likewise.
        f1_macro: likewise.
        roc_auc_macro: mean over the classes that have records and are not alone; None if there is none.
        confusion: ``confusion[i][j]`` counts records of class i predicted as class j.
        per_class: metrics of each class.
        split: name of the data measured on; None without any.
    """

    accuracy: Share | None
    accuracy_interval: tuple[Share, Share] | None
    precision_macro: Share | None
    recall_macro: Share | None
    f1_macro: Share | None
    roc_auc_macro: Share | None
    confusion: tuple[tuple[Count, ...], ...]
    per_class: tuple[ClassLine, ...]
    split: str | None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        measured = (self.accuracy, self.accuracy_interval, self.precision_macro, self.recall_macro)
        if len({value is None for value in (*measured, self.f1_macro)}) > 1:
            raise ValueError("metrics are measured all together, or none is")
        if any(len(part) != len(self.per_class) for part in (self.confusion, *self.confusion)):
            raise ValueError("the confusion matrix has a row and a column for each class")
        if (self.accuracy is None) != (not self.per_class):
            raise ValueError("there are metrics of classes where, and only where, accuracy was measured")
        return self

    @property
    def records(self) -> int:
        """The number of records measured on."""
        return sum(line.support for line in self.per_class)
