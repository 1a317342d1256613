"""Answer every error with its name and a sentence, also one that nobody foresaw."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from fedrec._internal.text import one_line
from fedrec._internal.validation_messages import problem_of
from fedrec.errors import FedrecError
from fedrec.observability.web_pages import PAGE_HEADERS
from fedrec.recognition.service.refusals import RequestError

_log = logging.getLogger(__name__)
_OF_PATHS: Final = {
    HTTPStatus.NOT_FOUND: ("no-such-path", "there is nothing at this path: see /openapi.json"),
    HTTPStatus.METHOD_NOT_ALLOWED: (
        "wrong-method",
        "photos are sent to this path by POST, and other paths are read by GET: see /openapi.json",
    ),
}


def answer_errors(application: FastAPI) -> None:
    """Have an application answer errors as JSON, with ``error`` and ``detail``."""
    application.add_exception_handler(FedrecError, _refused)
    application.add_exception_handler(RequestValidationError, _wrong_value)
    application.add_exception_handler(HTTPException, _wrong_path)
    application.add_exception_handler(Exception, _unforeseen)


async def _refused(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, RequestError):
        # Of the catalogue or the model, not of the request: its text may name the operator's folders.
        _log.error("the service could not answer: %s", one_line(error))
        error = _failed()
    return _problem(error.error, str(error), error.status)


async def _wrong_value(request: Request, error: Exception) -> JSONResponse:
    detail = "it can not be used"
    if isinstance(error, RequestValidationError):
        problem = problem_of(error.errors()[0])
        # The first part says where in the request: in its address, or in its path.
        detail = one_line(f"{'.'.join(problem.where[1:])} {problem.text}", most=200)
    return _problem("wrong-value", detail, HTTPStatus.UNPROCESSABLE_ENTITY)


async def _wrong_path(request: Request, error: Exception) -> JSONResponse:
    status = HTTPStatus(error.status_code) if isinstance(error, HTTPException) else HTTPStatus.NOT_FOUND
    name, detail = _OF_PATHS.get(status, ("wrong-value", status.phrase))
    answer = _problem(name, detail, status)
    answer.headers.update(getattr(error, "headers", None) or {})
    return answer


async def _unforeseen(request: Request, error: Exception) -> JSONResponse:
    """Answer; the server logs the error itself."""
    failed = _failed()
    answer = _problem(failed.error, str(failed), failed.status)
    # It is made outside of what gives other answers their headers.
    answer.headers.update(PAGE_HEADERS)
    return answer


def _failed() -> RequestError:
    return RequestError("failed", "the service can't answer now; its log says why")


def _problem(error: str, detail: str, status: HTTPStatus) -> JSONResponse:
    return JSONResponse({"error": error, "detail": detail}, status_code=status)
