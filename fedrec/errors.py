"""Every error that fedrec raises on purpose, each with the exit code that the command line ends with.

The text of an error is one sentence for a person: what is wrong, where, and what to do. It never
holds a key, a gradient or any other secret. The catalogue of codes stands in ``docs/exit-codes.md``
and a test compares it with this module.
"""

from __future__ import annotations

from typing import ClassVar, Literal

RefusalCode = Literal["policy", "plan", "budget", "paused", "training", "request", "message", "failed"]
"""Why a merchant refuses, as the server is told; :mod:`fedrec.protocol.refusals` explains each."""


class FedrecError(Exception):
    """Base of all errors meant for a person; ``exit_code`` is stable across releases."""

    exit_code: ClassVar[int] = 1


class ConfigError(FedrecError):
    """An option, a configuration file or a combination of them cannot be used."""

    exit_code: ClassVar[int] = 2


class DataError(FedrecError):
    """The data at hand cannot be used: missing, empty, of one class only."""

    exit_code: ClassVar[int] = 3


class MissingExtraError(FedrecError):
    """An optional package that this choice needs is not installed."""

    exit_code: ClassVar[int] = 4


class UnreachableBudgetError(ConfigError):
    """No noise that fits the widest ring gives the privacy budget asked for."""

    exit_code: ClassVar[int] = 5


class RefusedError(FedrecError):
    """A merchant refuses a plan, a step or a request; the reason names the rule.

    Code and text go to the server, so they follow from plan, policy, ledger, keys and the request alone,
    never from photos.
    """

    exit_code: ClassVar[int] = 6

    def __init__(self, reason: str, *, code: RefusalCode = "request") -> None:
        super().__init__(reason)
        self.code: RefusalCode = code


class LedgerError(FedrecError):
    """A privacy ledger is broken, locked by another process, or does not fit its merchant."""

    exit_code: ClassVar[int] = 7


class BudgetExceededError(RefusedError):
    """A charge would pass the merchant's lifetime budget."""

    exit_code: ClassVar[int] = 8

    def __init__(self, reason: str) -> None:
        super().__init__(reason, code="budget")


class AggregationError(FedrecError):
    """A ciphertext, key share or opening is malformed or does not fit its training."""

    exit_code: ClassVar[int] = 9


class ProtocolError(FedrecError):
    """A message from the network is malformed, out of range, or of another training or round."""

    exit_code: ClassVar[int] = 10


class TrainingError(FedrecError):
    """A training cannot go on, e.g. too few merchants are left for a quorum."""

    exit_code: ClassVar[int] = 11


class ConnectionLostError(FedrecError):
    """The server can't be reached, or isn't the one that the join file names."""

    exit_code: ClassVar[int] = 12


class NotAdmittedError(FedrecError):
    """The server doesn't know this merchant's key, or no longer, or this machine's clock is too far off."""

    exit_code: ClassVar[int] = 13


class ServiceError(FedrecError):
    """The server can't offer its service: a port is taken, a certificate is missing, Flower won't start."""

    exit_code: ClassVar[int] = 14


class AuditError(FedrecError):
    """An audit found something that does not hold."""

    exit_code: ClassVar[int] = 15


class OperatingSystemError(FedrecError):
    """The operating system refused something: a disk is full, a file may not be written, memory is short.

    Nothing raises it; the command line ends with its code for an ``OSError`` that nobody expected.
    """

    exit_code: ClassVar[int] = 16


class IncompleteAuditError(FedrecError):
    """A bundle holds as far as it could be checked, but parts of it are missing."""

    exit_code: ClassVar[int] = 17


class UnsupportedSystemError(FedrecError):
    """This operating system isn't one that fedrec runs on."""

    exit_code: ClassVar[int] = 18


class InterruptedRunError(FedrecError):
    """The person stopped the run; what was finished is in the run directory."""

    exit_code: ClassVar[int] = 130
