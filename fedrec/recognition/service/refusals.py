"""Refusals of requests, each with a stable name and an HTTP status."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from fedrec.errors import FedrecError

STATUSES: Final = {
    "not-a-photo": HTTPStatus.UNPROCESSABLE_ENTITY,
    "too-large": HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    "busy": HTTPStatus.SERVICE_UNAVAILABLE,
    "too-slow": HTTPStatus.REQUEST_TIMEOUT,
    "wrong-type": HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    "wrong-value": HTTPStatus.UNPROCESSABLE_ENTITY,
    "no-classes": HTTPStatus.NOT_FOUND,
    "no-catalogue": HTTPStatus.NOT_FOUND,
    "no-copies": HTTPStatus.NOT_FOUND,
    "no-picture": HTTPStatus.NOT_FOUND,
    "failed": HTTPStatus.INTERNAL_SERVER_ERROR,
}


class RequestError(FedrecError):
    """A request that isn't answered.

    Args:
        error: a name of :data:`STATUSES`.
        detail: the reason, in one sentence.
    """

    def __init__(self, error: str, detail: str) -> None:
        super().__init__(detail)
        self.error = error
        self.status = STATUSES[error]
