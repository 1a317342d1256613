"""Read a merchant's status for its page: the ledger is composed only when something has changed."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import Final

from fedrec._internal.files import file_stamp
from fedrec.clients.liveness import liveness
from fedrec.clients.merchant_home import JOIN_FILE, MerchantHome
from fedrec.clients.status import read_status
from fedrec.clients.status_types import MerchantStatus
from fedrec.clients.training_history import MODELS

_LONGEST: Final = 60.0
"""Seconds after which it is read in any case: hours and the age of a refusal change by themselves."""


class StatusReader:
    """Reads the status; thread-safe.

    Args:
        home: the merchant's folder.
    """

    def __init__(self, home: MerchantHome) -> None:
        self._home = home
        self._mutex = threading.Lock()
        self._stamp: tuple[object, ...] = ()
        self._at = -_LONGEST
        self._status: MerchantStatus | None = None

    def status(self) -> MerchantStatus:
        """Return the status of now.

        Raises:
            FedrecError: a file of the folder can't be read.
        """
        with self._mutex:
            stamp = self._files()
            if self._status is None or stamp != self._stamp or time.monotonic() > self._at + _LONGEST:
                self._status, self._stamp, self._at = read_status(self._home), stamp, time.monotonic()
            return replace(self._status, **vars(liveness(self._home)))

    def _files(self) -> tuple[object, ...]:
        folder = self._home.folder
        paths = [self._home.ledger, self._home.store, folder / "client.toml", folder / MODELS]
        paths += [folder / name for name in ("policy.toml", JOIN_FILE, "paused", "resumed", "node.key.next")]
        return tuple(map(file_stamp, paths))
