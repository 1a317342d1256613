"""Options of a training that say what is learnt and how steps are taken; privacy and encryption aside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fedrec.protocol.plan import MAX_LEARNING_RATE, LossName, Method, Target, Unit


class LearningOptions(BaseModel):
    """What is learnt, and by which steps; None leaves the choice to the model."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    model: str = Field(
        default="cnn",
        description="A model by name (docs/models.md lists them); best takes the best packaged one.",
    )
    method: Method = Field(
        default="steps", description="steps (default), or one-round: a discriminant from one upload each."
    )
    unit: Unit = Field(
        default="record", description="What is hidden: record (default), or product, a folder in a class."
    )
    rounds: Annotated[int, Field(ge=1, le=100_000)] | None = Field(
        default=None, description="Rounds (the model's default)."
    )
    patience: Annotated[int, Field(ge=1, le=100_000)] | None = Field(
        default=None, description="End after so many rounds without a better model on evaluation data."
    )
    target: Target = Field(
        default="accuracy", description="What --patience compares: accuracy (default) or macro-f1."
    )
    learning_rate: Annotated[float, Field(gt=0, le=MAX_LEARNING_RATE)] | None = Field(
        default=None, description="Step size (the model's default)."
    )
    optimizer: str | None = Field(
        default=None, description="sgd (default), adam, adamw or yogi, and settings: sgd:momentum=0.9,..."
    )
    schedule: str = Field(
        default="constant",
        description="constant (default), cosine, linear or step, and settings: cosine:warmup=5,...",
    )
    server_learning_rate: Annotated[float, Field(gt=0, le=MAX_LEARNING_RATE)] | None = Field(
        default=None, description="Step size of the server, where merchants take their own (1)."
    )
    averaging: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        default=None, description="Decay of the parameters' moving average (the model's); 0 for none."
    )
    weight_decay: Annotated[float, Field(ge=0, le=1e6)] = Field(
        default=0.0, description="Share of the parameters that a step of learning rate 1 takes away (L2)."
    )
    l1: Annotated[float, Field(ge=0, le=1e6)] = Field(
        default=0.0, description="What such a step takes from each parameter's size, down to zero (L1)."
    )
    loss: LossName = Field(
        default="cross-entropy", description="cross-entropy (default), or hinge: a support vector machine."
    )
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="Share of a label that is spread over all classes."
    )
    class_prior: str | None = Field(
        default=None,
        description="Public shares of the classes, CLASS=WEIGHT,...: the loss is adjusted for them.",
    )
    local_steps: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=1, description="Noised steps a round, with --privacy local or off."
    )
    augment: bool = Field(default=False, description="Average augmented views of a record.")

    @model_validator(mode="before")
    @classmethod
    def _one_round_has_a_model(cls, values: Any) -> Any:
        """Take the best model for the method ``one-round``: the default is trained by steps."""
        if isinstance(values, Mapping) and values.get("method") == "one-round":
            return {"model": "best", **values}
        return values

    @model_validator(mode="after")
    def _target_has_patience(self) -> Self:
        if self.patience is None and self.target != type(self).model_fields["target"].default:
            raise ValueError("--target says what --patience compares: give that too")
        return self
