"""Read the rules of a merchant or a witness from TOML, and refuse plans that break one."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError

from fedrec._internal.durations import duration_text
from fedrec._internal.suggestions import did_you_mean
from fedrec._internal.toml_files import read_toml
from fedrec._internal.validation_messages import first_problem
from fedrec.errors import ConfigError, RefusedError
from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.roster_fingerprints import roster_fingerprint as fingerprint_of
from fedrec.protocol.schema import Strict, sha256_hex


class PolicyFile(Strict):
    """A party's rules. Only the party writes the file; no message of a server can change a rule."""

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a policy file.

        Returns:
            The rules.

        Raises:
            ConfigError: the file can't be read, isn't TOML, has an unknown rule or a value out of range, or
                lacks a required rule. The message is one line that names the rule.
        """
        values = read_toml(path)
        try:
            return cls.checked(values)
        except ConfigError as error:
            raise ConfigError(f"policy {path}: {error}") from error

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse the text of a policy file; raise ``ConfigError`` as :meth:`load` does."""
        try:
            values = tomllib.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"this is not TOML: {error}.") from error
        return cls.checked(values)

    @classmethod
    def checked(cls, values: dict[str, Any]) -> Self:
        """Check the values of a policy file; raise ``ConfigError`` for a rule that is unknown or wrong."""
        try:
            # Validated as JSON: there an array is accepted for a set, and no other type is converted.
            return cls.model_validate_json(json.dumps(values))
        except (TypeError, ValueError, RecursionError) as error:
            raise ConfigError(_first_problem(error, cls.model_fields)) from error

    @property
    def rules(self) -> str:
        """All rules as JSON text, for auditors."""
        values = {
            # The values of a set are dumped in any order.
            name: sorted(value) if isinstance(getattr(self, name), frozenset) else value
            for name, value in self.model_dump(mode="json").items()
        }
        return json.dumps(values, sort_keys=True)

    @property
    def hash(self) -> str:
        """SHA-256 of :attr:`rules`; ledger entries identify their policy by it."""
        return sha256_hex(self.rules.encode())


def check_one_of(rule: str, value: str, allowed: frozenset[str] | None, *, what: str) -> None:
    """Check a value against a rule that lists the allowed ones.

    Args:
        rule: the rule.
        value: the plan's value.
        allowed: the allowed values; None for any.
        what: what the value is, in words.

    Raises:
        RefusedError: the value is not allowed.
    """
    if allowed is not None and value not in allowed:
        raise RefusedError(f"policy '{rule}': {what} '{value}' is not allowed", code="policy")


def check_at_most(rule: str, value: float, limit: float | None) -> None:
    """Check a number against a rule.

    Args:
        rule: the rule.
        value: the plan's number.
        limit: the largest that is allowed; None for any.

    Raises:
        RefusedError: the number is above the limit, or not a number.
    """
    if limit is not None and not value <= limit:
        raise RefusedError(f"policy '{rule}': {value:.6g} > {limit:.6g}", code="policy")


def check_at_least(rule: str, value: float, limit: float) -> None:
    """Check a number against a rule.

    Args:
        rule: the rule.
        value: the plan's number.
        limit: the smallest that is allowed.

    Raises:
        RefusedError: the number is below the limit, or not a number.
    """
    if not value >= limit:
        raise RefusedError(f"policy '{rule}': {value:.6g} < {limit:.6g}", code="policy")


def check_approved(plan: TrainingPlan, *, roster_fingerprint: str | None, server_key: str | None) -> None:
    """Check that a plan has the approved roster and comes from the approved server.

    Args:
        plan: the plan.
        roster_fingerprint: the fingerprint of the approved roster and its witnesses; None for any.
        server_key: the server's key; None for any.

    Raises:
        RefusedError: it has another roster, or another server's key.
    """
    if roster_fingerprint is not None and fingerprint_of(plan.roster, plan.witnesses) != roster_fingerprint:
        raise RefusedError(
            "policy 'roster_fingerprint': the plan has a roster that was not approved", code="policy"
        )
    if server_key is not None and plan.server_key != server_key:
        raise RefusedError("policy 'server_key': the plan is from another server", code="policy")


def check_keeps_key(plan: TrainingPlan, *, days: int) -> None:
    """Check that a member of the committee keeps its key of a campaign until the sum is opened.

    Args:
        plan: the plan.
        days: the policy's ``training_expires_days``.

    Raises:
        RefusedError: the plan's window is as long as the time after which the key is deleted, or longer.
    """
    if plan.upload_window is not None and plan.upload_window >= days * 86400:
        raise RefusedError(
            f"policy 'training_expires_days': the plan's upload window of "
            f"{duration_text(plan.upload_window)} isn't over before a key is deleted, after {days} days",
            code="policy",
        )


def _first_problem(error: Exception, rules: Iterable[str]) -> str:
    if not isinstance(error, ValidationError):
        return "a value has a type that no rule accepts; use strings, numbers and arrays of strings."
    problem = first_problem(error)
    where = ".".join(problem.where)
    if problem.kind == "extra_forbidden":
        hint = did_you_mean(where, rules)
        return f"there is no rule '{where}'{hint or '.'}"
    return f"'{where}' {problem.text}." if where else f"{problem.text}."
