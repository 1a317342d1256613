"""The merchant's own rules: a plan can only be stricter, and a refusal names the rule.

The rules stand in a TOML file that the merchant owns; nothing that a server sends can change one. What a
record's sensitivity is, is no rule and no part of a plan: the merchant derives it.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Collection
from datetime import UTC, datetime, time
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from fedrec._internal.validation_messages import first_problem
from fedrec.errors import ConfigError, RefusedError
from fedrec.privacy.accounting.budget_rating import largest_delta
from fedrec.privacy.aggregation.committee import LARGEST_SEAT_RISK
from fedrec.privacy.derived_parameters import Derived
from fedrec.protocol.modes import Mode
from fedrec.protocol.plan import TrainingPlan, Unit, roster_fingerprint
from fedrec.protocol.schema import MAX_COMMITTEE, Hash, Strict, sha256_hex

_MAX_BYTES = 1 << 20
_SPAN = re.compile(r"([01][0-9]|2[0-3]):[0-5][0-9]-([01][0-9]|2[0-3]):[0-5][0-9]")


def _span(text: str) -> str:
    if _SPAN.fullmatch(text) is None or text[:5] == text[6:]:
        raise ValueError(f"must be a span of hours such as 22:00-06:00, not '{text}'")
    return text


Positive = Annotated[float, Field(gt=0)]
Size = Annotated[int, Field(ge=1)]
Delta = Annotated[float, Field(gt=0, lt=1)]
Span = Annotated[str, AfterValidator(_span)]

TEMPLATE = """\
# The rules of this merchant. A training that breaks one is refused, and the reason names the rule.
# A line that starts with '#' is a comment; a rule that is left out has the value shown here.

# The privacy budget of all trainings together, never refunded. Both lines are required.
# It is a filter, which holds for a server that chooses each training after seeing the last one's results
# (docs/accounting.md); alone in it, a training reads about an eighth more than its own epsilon. A training is
# joined only if all its rounds fit; 'fedrec client status' shows what a refused one would need.
lifetime_epsilon = 10.0
lifetime_delta = 1e-5

# What one training may cost at most: its epsilon for all its rounds, at lifetime_delta whatever delta its
# plan names. 8 is what an untouched plan asks for; one that costs more takes nearly all of the lifetime's
# budget.
largest_training_epsilon = 8.0
# The largest delta that a plan may name (no limit unless given; one above 1 / the records of the training is
# refused by any policy).
# largest_training_delta = 1e-5

# Privacy modes and schemes of secure aggregation that may be used. With schemes = ["kahe"] alone, secure
# aggregation is required, and no single merchant holds a key.
modes = ["distributed", "local"]
schemes = ["kahe"]

# What may be hidden: single photos ("record"), or whole products ("product").
units = ["record", "product"]

# The largest sampling rate, and the least noise that is guaranteed to stand in what the server sees (its
# standard deviation over the sensitivity). Less than 0.3 tells nearly all of a photo in the one round that
# uses it; plans made for epsilon 8 have 0.5 and more. Any rate is safe by itself: it is counted in epsilon.
largest_sample_rate = 1.0
least_noise_multiplier = 0.3

# The largest trainings, judged by the plan's numbers before anything is worked out or allocated, so that no
# plan takes this machine's memory or days.
# Noised steps, rounds x local_steps: each is composed into the budget, all of them before a training starts.
largest_steps = 2000
# Parameters of the model: a step needs some 60 bytes for each, so 2 GB here; resnet18 has 11 million.
largest_parameters = 30000000
# Side of the pictures in pixels: what a layer takes for one photo grows with its square. The frozen network's
# is 224.
largest_image_size = 256
# Memory of all model inputs in MiB: 4 bytes x channels x image_size^2 x views x the records of the largest
# merchant. 16384 are 28,000 photos of 224 pixels in colour, or 350,000 of 64.
largest_input_mib = 16384
# Classes that the model tells apart: a shop's categories, and their names are kept with every plan.
largest_classes = 1000

# The fewest merchants in an opened sum, and how many of them must be taken to side with the server (in
# 'distributed', and wherever updates are encrypted). Either of two merchants could take its own part off
# their sum, and would have the other's.
least_contributors = 3
least_colluders = 1

# Where a committee opens sums: its fewest seats, how many corrupt ones it must withstand, and the largest
# chance that its draw seats more colluders than that. Three merchants have a committee of 3, all of whom must
# answer; one corrupt member of it opens nothing. In large cohorts raise the second with the first.
least_committee = 3
least_corrupt_members = 1
largest_seat_risk = 1e-8

# Models by name, and their starting parameters by SHA-256 (any unless given).
# models = ["cnn"]
# initial_models = ["<64 hexadecimal digits>"]

# Models of packages that you installed beside fedrec, by the SHA-256 of their code, as 'fedrec client check'
# shows it (none unless given). Their code runs here with all that this user may do: read it before.
# model_code = ["<64 hexadecimal digits>"]

# The roster that this merchant approved, by the roster_fingerprint that 'fedrec client join' shows (that of
# the join file unless given).
# roster_fingerprint = "<64 hexadecimal digits>"

# The server, by the key that signs its receipts (that of the join file unless given).
# server_key = "<64 hexadecimal digits>"

# Rounds a day at most, and the hours in which rounds are answered (any unless given); clock says whether
# days and hours are "utc" or this machine's "local" time.
# largest_rounds_per_day = 100
# hours = ["22:00-06:00"]
clock = "utc"

# The largest share of a training's rounds that this merchant is charged for and that come to nothing, as it
# sees when the next one starts from the same model. Where more are lost, some participant spoils them, or
# nothing is learnt.
largest_lost_share = 0.5

# An upload leaves so many seconds after it was asked for, or as soon as it is made where that is later: how
# long a merchant works tells how many photos it has (at once unless given).
# reply_seconds = 60.0

# After so many days without a request of a training, this merchant finishes it and deletes its keys.
training_expires_days = 30

# Photos that weren't there at the last charge: "refuse" leaves them out of every training and goes on with
# the others ('fedrec client check' and 'status' say so, the server isn't told); "count_together" lets them
# in, and charges them as if they had been there from the start. A photo that went needs no rule: no step uses
# it any more.
changed_data = "refuse"
"""


class MerchantPolicy(Strict):
    """What a merchant lets be done with its photos; :data:`TEMPLATE` explains every rule.

    ``lifetime_epsilon`` at ``lifetime_delta`` is a cap over all trainings, held by the lifetime filter. None,
    for no cap, is for simulations: :meth:`load` requires both. A merchant with a cap can't take part in mode
    ``off``, whatever ``modes`` says. The limits on a training's size are None, for no limit, in simulations
    alone too.
    """

    lifetime_epsilon: Positive | None = None
    lifetime_delta: Delta | None = None
    largest_training_epsilon: Positive | None = 8.0
    largest_training_delta: Delta | None = None
    modes: Annotated[frozenset[Mode], Field(min_length=1)] = frozenset({"distributed", "local"})
    units: Annotated[frozenset[Unit], Field(min_length=1)] = frozenset({"record", "product"})
    schemes: Annotated[frozenset[str], Field(min_length=1)] = frozenset({"kahe"})
    largest_sample_rate: Annotated[float, Field(gt=0, le=1)] = 1.0
    least_noise_multiplier: Annotated[float, Field(ge=0)] = 0.3
    least_contributors: Annotated[int, Field(ge=1)] = 3
    least_colluders: Annotated[int, Field(ge=0)] = 1
    least_committee: Annotated[int, Field(ge=1, le=MAX_COMMITTEE)] = 3
    least_corrupt_members: Annotated[int, Field(ge=1, le=MAX_COMMITTEE)] = 1
    largest_seat_risk: Annotated[float, Field(ge=0, lt=1)] = 1e-8
    largest_steps: Size | None = 2000
    largest_parameters: Size | None = 30_000_000
    largest_image_size: Size | None = 256
    largest_input_mib: Size | None = 16_384
    largest_classes: Size | None = 1000
    models: frozenset[str] | None = None
    initial_models: frozenset[Hash] | None = None
    model_code: frozenset[Hash] = frozenset()
    roster_fingerprint: Hash | None = None
    server_key: Hash | None = None
    largest_rounds_per_day: Annotated[int, Field(ge=0)] | None = None
    hours: tuple[Span, ...] | None = None
    clock: Literal["utc", "local"] = "utc"
    largest_lost_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    reply_seconds: Annotated[float, Field(gt=0, le=3600)] | None = None
    training_expires_days: Annotated[int, Field(ge=1, le=36500)] = 30
    changed_data: Literal["refuse", "count_together"] = "refuse"

    @model_validator(mode="after")
    def _cap_is_whole(self) -> Self:
        if (self.lifetime_epsilon is None) != (self.lifetime_delta is None):
            raise ValueError("'lifetime_epsilon' and 'lifetime_delta' go together")
        return self

    @classmethod
    def without_limits(
        cls, *, modes: Collection[Mode], schemes: Collection[str], model_code: Collection[Hash] = ()
    ) -> MerchantPolicy:
        """Return the rules of a virtual merchant: these modes, schemes and installed models; no limits."""
        return cls(
            modes=frozenset(modes),
            schemes=frozenset(schemes),
            model_code=frozenset(model_code),
            largest_training_epsilon=None,
            least_noise_multiplier=0.0,
            least_contributors=1,
            least_committee=1,
            largest_seat_risk=LARGEST_SEAT_RISK,
            largest_steps=None,
            largest_parameters=None,
            largest_image_size=None,
            largest_input_mib=None,
            largest_classes=None,
            largest_lost_share=1.0,
        )

    @classmethod
    def load(cls, path: Path) -> MerchantPolicy:
        """Read a merchant's policy file.

        Raises:
            ConfigError: it can't be read, isn't TOML, has an unknown rule or a value out of range, or no
                lifetime cap; one line that names the rule.

        """
        try:
            with path.open("rb") as file:
                data = file.read(_MAX_BYTES + 1)
        except OSError as error:
            raise ConfigError(f"policy {path}: it cannot be read ({error.strerror}).") from error
        if len(data) > _MAX_BYTES:
            raise ConfigError(f"policy {path}: it is larger than {_MAX_BYTES} bytes.")
        try:
            return cls.parse(data.decode())
        except (ConfigError, UnicodeDecodeError) as error:
            raise ConfigError(f"policy {path}: {error}") from error

    @classmethod
    def parse(cls, text: str) -> MerchantPolicy:
        """Read a policy from the text of its file; raises :class:`ConfigError` as :meth:`load`."""
        try:
            # By way of JSON, in which an array may stand for a set and nothing else is converted.
            policy = cls.model_validate_json(json.dumps(tomllib.loads(text)))
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"this is not TOML: {error}.") from error
        except (TypeError, ValueError, RecursionError) as error:
            raise ConfigError(_first_problem(error)) from error
        if policy.lifetime_epsilon is None:
            raise ConfigError("'lifetime_epsilon' and 'lifetime_delta' are required; give the lifetime cap.")
        return policy

    @property
    def rules(self) -> str:
        """All rules as one JSON text, as an auditor reads them."""
        return json.dumps(_sorted(self.model_dump(mode="json")), sort_keys=True)

    @property
    def hash(self) -> str:
        """SHA-256 of :attr:`rules`, as ledger entries name the policy of their time."""
        return sha256_hex(self.rules.encode())

    def check(self, plan: TrainingPlan) -> None:
        """Raise ``RefusedError`` naming the rule that this plan breaks.

        Sizes come first, and cost a few multiplications whatever the plan asks for.
        """
        self._check_size(plan)
        check_delta(plan)
        _one_of("modes", plan.mode, self.modes, what="privacy mode")
        _one_of("units", plan.unit, self.units, what="unit")
        _one_of("schemes", plan.scheme, self.schemes, what="secure aggregation")
        _one_of("models", plan.model, self.models, what="model")
        if plan.model_code is not None and plan.model_code not in self.model_code:
            raise RefusedError(
                f"policy 'model_code': model '{plan.model}' with the code {plan.model_code} is not allowed",
                code="policy",
            )
        _one_of("initial_models", plan.initial_model_hash, self.initial_models, what="initial model")
        _at_most("largest_sample_rate", plan.sample_rate, self.largest_sample_rate)
        _at_most("largest_training_delta", plan.delta, self.largest_training_delta)
        _at_least("least_contributors", plan.min_contributors, self.least_contributors)
        if plan.privacy_mode.shares_noise or plan.trust.opened_by != "nobody":
            _at_least("least_colluders", plan.colluders, self.least_colluders)
        if plan.trust.opened_by == "committee":
            _at_least("least_committee", len(plan.committee), self.least_committee)
            _at_least("least_corrupt_members", plan.corrupt_members, self.least_corrupt_members)
            _at_most("largest_seat_risk", plan.seat_risk, self.largest_seat_risk)
        if self.roster_fingerprint is not None and roster_fingerprint(plan.roster) != self.roster_fingerprint:
            raise RefusedError(
                "policy 'roster_fingerprint': the plan has a roster that was not approved", code="policy"
            )
        if self.server_key is not None and plan.server_key != self.server_key:
            raise RefusedError("policy 'server_key': the plan is another server's", code="policy")

    def _check_size(self, plan: TrainingPlan) -> None:
        _at_most("largest_steps", plan.rounds * plan.local_steps, self.largest_steps)
        _at_most("largest_parameters", plan.dimension, self.largest_parameters)
        _at_most("largest_classes", len(plan.classes), self.largest_classes)
        _at_most("largest_image_size", plan.image_size, self.largest_image_size)
        _at_most("largest_input_mib", plan.input_bytes / 2**20, self.largest_input_mib)

    def check_cost(self, plan: TrainingPlan, derived: Derived) -> None:
        """Raise ``RefusedError`` naming the rule that the plan's noise or whole epsilon breaks.

        Both are the merchant's own derivation, in the view that it reports. Epsilon is the proved one (PLD)
        of all the plan's steps at the policy's own ``lifetime_delta``: a plan buys nothing by naming a
        larger. (At the plan's where there is none, as in simulations.)
        """
        spend = derived.spend
        _at_least("least_noise_multiplier", spend.multiplier, self.least_noise_multiplier)
        if self.largest_training_epsilon is None:
            return
        epsilon = spend.with_delta(
            plan.delta if self.lifetime_delta is None else self.lifetime_delta
        ).epsilon()
        if epsilon == math.inf:
            raise RefusedError(
                "policy 'largest_training_epsilon': the plan has no privacy guarantee", code="policy"
            )
        _at_most("largest_training_epsilon", epsilon, self.largest_training_epsilon)

    def day_start(self, now: datetime) -> datetime:
        """Return when the day of ``now`` (with a time zone) began by the policy's clock."""
        return self._by_clock(now).replace(hour=0, minute=0, second=0, microsecond=0)

    def check_round(self, *, now: datetime, rounds_today: int) -> None:
        """Raise ``RefusedError`` unless another round may be charged at ``now``, after so many that day."""
        if self.hours is not None:
            here = self._by_clock(now).time()
            if not any(_within(here, span) for span in self.hours):
                raise RefusedError(
                    "policy 'hours': rounds are not answered at this time of day", code="policy"
                )
        if self.largest_rounds_per_day is not None and rounds_today >= self.largest_rounds_per_day:
            raise RefusedError(
                f"policy 'largest_rounds_per_day': {self.largest_rounds_per_day} were charged", code="policy"
            )

    def check_lost(self, *, lost: int, rounds: int) -> None:
        """Raise ``RefusedError`` where too many of a training's ``rounds`` came to nothing."""
        _at_most("largest_lost_share", lost / rounds, self.largest_lost_share)

    def _by_clock(self, now: datetime) -> datetime:
        return now.astimezone(UTC if self.clock == "utc" else None)


def check_delta(plan: TrainingPlan) -> None:
    """Raise ``RefusedError`` for a delta above one in the plan's records: it may show whole ones."""
    most = largest_delta(plan.records_total)
    if plan.privacy_mode.private and plan.delta > most:
        raise RefusedError(
            f"the plan's delta of {plan.delta:.3g} is above {most:.3g}: with {plan.records_total} records it "
            "allows whole ones to be shown",
            code="plan",
        )


def _within(here: time, span: str) -> bool:
    """Whether ``here`` lies in a span such as 08:00-12:30, or past midnight, 22:00-06:00; not its end."""
    start, end = (time.fromisoformat(part) for part in span.split("-"))
    return start <= here < end if start < end else here >= start or here < end


def _one_of(
    rule: str, value: str, allowed: frozenset[str] | frozenset[Mode] | frozenset[Unit] | None, *, what: str
) -> None:
    if allowed is not None and value not in allowed:
        raise RefusedError(f"policy '{rule}': {what} '{value}' is not allowed", code="policy")


def _at_most(rule: str, value: float, limit: float | None) -> None:
    if limit is not None and not value <= limit:
        raise RefusedError(f"policy '{rule}': {value:.6g} > {limit:.6g}", code="policy")


def _at_least(rule: str, value: float, limit: float) -> None:
    if not value >= limit:
        raise RefusedError(f"policy '{rule}': {value:.6g} < {limit:.6g}", code="policy")


def _sorted(values: dict[str, object]) -> dict[str, object]:
    """Put sets, which come out of a dump in any order, into one."""
    unordered = {"modes", "units", "schemes", "models", "initial_models", "model_code"}
    return {
        name: sorted(value) if name in unordered and isinstance(value, list) else value
        for name, value in values.items()
    }


def _first_problem(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return "a value has a type that no rule takes; strings, numbers and arrays of strings are used."
    problem = first_problem(error)
    where = ".".join(problem.where)
    if problem.kind == "extra_forbidden":
        return f"there is no rule '{where}'."
    return f"'{where}' {problem.text}." if where else f"{problem.text}."
