"""Define every error that fedrec raises on purpose, and the exit code of the command line for each.

An error's text is one sentence for a person: what is wrong, where, and what to do. It never contains a key, a
gradient or any other secret. ``docs/exit-codes.md`` lists the codes; a test compares it with this module.
"""

from __future__ import annotations

from typing import ClassVar, Literal

RefusalCode = Literal[
    "policy", "plan", "model", "budget", "paused", "training", "request", "message", "failed"
]
"""The reason of a refusal as sent to the server; :mod:`fedrec.protocol.refusals` explains each code."""


class FedrecError(Exception):
    """Base class of all errors shown to a person; ``exit_code`` is stable across releases."""

    exit_code: ClassVar[int] = 1


class ConfigError(FedrecError):
    """An option, a configuration file or a combination of them cannot be used."""

    exit_code: ClassVar[int] = 2


class DataError(FedrecError):
    """The data cannot be used: it is missing, empty, or has only one class."""

    exit_code: ClassVar[int] = 3


class MissingExtraError(FedrecError):
    """An optional package that the chosen option needs is not installed."""

    exit_code: ClassVar[int] = 4


class UnreachableBudgetError(ConfigError):
    """No noise multiplier whose sums fit the widest ring reaches the requested privacy budget."""

    exit_code: ClassVar[int] = 5


class RefusedError(FedrecError):
    """A merchant refuses a plan, a step or a request; the reason names the rule.

    Code and text are sent to the server. They must depend only on the plan, the policy, the ledger, the keys
    and the request, never on photos.
    """

    exit_code: ClassVar[int] = 6

    def __init__(self, reason: str, *, code: RefusalCode = "request") -> None:
        super().__init__(reason)
        self.code: RefusalCode = code


class LedgerError(FedrecError):
    """A privacy ledger is corrupt, locked by another process, or belongs to another merchant."""

    exit_code: ClassVar[int] = 7


class BudgetExceededError(RefusedError):
    """A charge would exceed the merchant's lifetime budget."""

    exit_code: ClassVar[int] = 8

    def __init__(self, reason: str) -> None:
        super().__init__(reason, code="budget")


class AggregationError(FedrecError):
    """A ciphertext, key share or opening is malformed or does not match its training."""

    exit_code: ClassVar[int] = 9


class ProtocolError(FedrecError):
    """A network message is malformed, out of range, or belongs to another training or round."""

    exit_code: ClassVar[int] = 10


class TrainingError(FedrecError):
    """A training cannot continue, e.g. too few merchants are left for a quorum."""

    exit_code: ClassVar[int] = 11


ConnectionFault = Literal[
    "not_admitted", "clock", "certificate", "proxy_password", "proxy", "busy", "unreachable"
]
"""Why there is no connection, for programs; what has no name here has a text alone."""


class ConnectionLostError(FedrecError):
    """The server can't be reached, or isn't the one that the join file names.

    Args:
        message: for a person.
        fault: the same for programs; None for what has no name.
    """

    exit_code: ClassVar[int] = 12

    def __init__(self, message: str, *, fault: ConnectionFault | None = None) -> None:
        super().__init__(message)
        self.fault: ConnectionFault | None = fault


class ServerBusyError(ConnectionLostError):
    """The server has no room for another connection now, and says when to come again.

    Args:
        message: for a person.
        seconds: after how long to connect again.
    """

    exit_code: ClassVar[int] = 19

    def __init__(self, message: str, *, seconds: float) -> None:
        super().__init__(message, fault="busy")
        self.seconds = seconds


class NotAdmittedError(FedrecError):
    """The server doesn't know the merchant's key or has revoked it, or the local clock is too far off.

    Args:
        message: for a person.
        fault: the same for programs.
    """

    exit_code: ClassVar[int] = 13

    def __init__(self, message: str, *, fault: ConnectionFault = "not_admitted") -> None:
        super().__init__(message)
        self.fault: ConnectionFault = fault


class ServiceError(FedrecError):
    """The server can't start its service: a port is in use, a certificate is missing, or Flower fails."""

    exit_code: ClassVar[int] = 14


class AuditError(FedrecError):
    """An audit found a claim that is false."""

    exit_code: ClassVar[int] = 15


class OperatingSystemError(FedrecError):
    """The operating system refused an operation: a full disk, a read-only file, too little memory.

    The command line uses its exit code for an ``OSError`` that nothing else handles, too.
    """

    exit_code: ClassVar[int] = 16


class IncompleteAuditError(FedrecError):
    """Every check that could be made on a bundle passed, but parts of the bundle are missing."""

    exit_code: ClassVar[int] = 17


class UnsupportedSystemError(FedrecError):
    """fedrec does not support this operating system."""

    exit_code: ClassVar[int] = 18


class InterruptedRunError(FedrecError):
    """The user stopped the run; the run directory holds the finished rounds."""

    exit_code: ClassVar[int] = 130
