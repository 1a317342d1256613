"""The HTTP application of a merchant's page, for this machine alone.

Any web site in the merchant's browser can send requests to this machine. Therefore a request must name this
machine in its Host header, against DNS rebinding. It needs a token that no other site has, in a header that
no form can set; only the page's own files and the proof of :mod:`fedrec.observability.token_proof` need none.
An action must come from the page itself.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from http import HTTPStatus
from typing import Any, Final

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from fedrec._internal.text import one_line
from fedrec.clients.page.model_trial import ModelTrial
from fedrec.clients.page.own_requests import OwnRequestsAlone
from fedrec.clients.page.photo_view import STATES, PhotoView
from fedrec.clients.page.status_reader import StatusReader
from fedrec.errors import DataError, FedrecError
from fedrec.observability.endpoint import CommonHeaders, TokenRequired, own_names_alone
from fedrec.observability.token_proof import PROOF_PATH, is_nonce, proof_of
from fedrec.observability.web_pages import PAGE_HEADERS, PageFile, page_files
from fedrec.recognition.service.limits import Limits
from fedrec.recognition.service.refusals import RequestError
from fedrec.recognition.service.uploads import Receiver

_log = logging.getLogger(__name__)

LARGEST_ACTION: Final = 4096
"""Largest body of an action, in bytes."""
_MOST_PHOTOS: Final = 10_000_000
Answer = Callable[[Request], Awaitable[Response]]


def make_application(
    reader: StatusReader, photos: PhotoView, models: ModelTrial, actions: Actions, *, host: str, token: bytes
) -> Starlette:
    """Make the application.

    Args:
        reader: reads the status.
        photos: tells of the photos.
        models: fetches models and tries them.
        actions: pauses and resumes.
        host: address that it listens on.
        token: what requests must carry, except for the page's own files and a proof that it is known here.

    Returns:
        The application.
    """
    page = page_files("fedrec.clients.page", "web")
    routes = [Route(path, functools.partial(_static, file), methods=["GET"]) for path, file in page.items()]
    routes.append(Route(PROOF_PATH, _answered(functools.partial(_proof, token)), methods=["GET"]))
    handlers = _Handlers(reader, photos, models, actions)
    for path, answer, method in handlers.table():
        routes.append(Route(path, _answered(answer), methods=[method]))
    return Starlette(
        routes=routes,
        middleware=[
            Middleware(CommonHeaders, headers=PAGE_HEADERS),
            own_names_alone(host),
            Middleware(OwnRequestsAlone),
            Middleware(TokenRequired, token=token, opened=frozenset((*page, PROOF_PATH))),
        ],
    )


class Actions:
    """What the page may do to a merchant, besides what its photos and models offer.

    Args:
        pause: takes part in no new round.
        resume: takes part again.
    """

    def __init__(self, *, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        self.pause, self.resume = pause, resume


class _Handlers:
    """Answers the requests of the page."""

    def __init__(self, reader: StatusReader, photos: PhotoView, models: ModelTrial, actions: Actions) -> None:
        self._reader, self._photos, self._models, self._actions = reader, photos, models, actions
        self._receiver = Receiver(Limits())

    def table(self) -> list[tuple[str, Answer, str]]:
        """Return path, handler and method of each request."""
        return [
            ("/status.json", self.status, "GET"),
            ("/photos.json", self.photos, "GET"),
            ("/photos/{scan:int}/{number:int}", self.thumbnail, "GET"),
            ("/pause", self.pause, "POST"),
            ("/resume", self.resume, "POST"),
            ("/forget", self.forget, "POST"),
            ("/models/fetch", self.fetch, "POST"),
            ("/models/{training}/try", self.recognise, "POST"),
        ]

    async def status(self, request: Request) -> Response:
        found = await run_in_threadpool(self._reader.status)
        document = asdict(found) | {
            "fetching": asdict(self._models.fetching),
            "missing_packages": self._models.missing,
        }
        return JSONResponse(document)

    async def photos(self, request: Request) -> Response:
        state, start = request.query_params.get("state"), request.query_params.get("start", "0")
        if state not in (None, *STATES) or not (start.isascii() and start.isdigit() and len(start) < 9):
            raise RequestError("wrong-value", "state or start can't be used")
        self._photos.refresh()
        return JSONResponse(
            await run_in_threadpool(self._photos.page, state=state, start=min(int(start), _MOST_PHOTOS))
        )

    async def thumbnail(self, request: Request) -> Response:
        scan, number = request.path_params["scan"], request.path_params["number"]
        try:
            content = await run_in_threadpool(self._photos.thumbnail, number, scan=scan)
        except DataError as error:
            raise RequestError("no-picture", one_line(error)) from None
        return Response(content, media_type="image/jpeg")

    async def pause(self, request: Request) -> Response:
        await run_in_threadpool(self._actions.pause)
        return JSONResponse({})

    async def resume(self, request: Request) -> Response:
        await run_in_threadpool(self._actions.resume)
        return JSONResponse({})

    async def forget(self, request: Request) -> Response:
        body = await _action(request, scan=int, number=int)
        try:
            name = await run_in_threadpool(self._photos.forget, body["number"], scan=body["scan"])
        except DataError as error:
            raise RequestError("no-picture", one_line(error)) from None
        return JSONResponse({"name": name})

    async def fetch(self, request: Request) -> Response:
        body = await _action(request, training=str)
        training = await run_in_threadpool(self._training, body["training"])
        await run_in_threadpool(self._models.fetch, training)
        return JSONResponse({})

    async def recognise(self, request: Request) -> Response:
        training = await run_in_threadpool(self._training, request.path_params["training"])
        async with self._receiver.received(request) as content:
            found = await run_in_threadpool(self._models.recognise, training, content)
        return JSONResponse({"classes": found})

    def _training(self, name: str) -> str:
        """Return the id of a training that this merchant joined; refuse any other text."""
        if name not in {each.training_id for each in self._reader.status().history}:
            raise RequestError("wrong-value", "this merchant has joined no such training")
        return name


def _answered(answer: Answer) -> Answer:
    """Turn errors into answers; what is unexpected stays in the log, without a photo's name."""

    async def safely(request: Request) -> Response:
        try:
            return await answer(request)
        except RequestError as error:
            return _problem(error.error, str(error), error.status)
        except FedrecError as error:
            return _problem("refused", one_line(error), HTTPStatus.CONFLICT)
        except ClientDisconnect:
            return _problem("failed", "the connection ended", HTTPStatus.BAD_REQUEST)
        except Exception as error:
            _log.warning("the page could not answer: %s", type(error).__name__)
            _log.debug("details", exc_info=error)
            return _problem("failed", "the request failed", HTTPStatus.INTERNAL_SERVER_ERROR)

    return safely


async def _action(request: Request, **kinds: type) -> dict[str, Any]:
    """Read the JSON object of an action, of exactly these values."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise RequestError("wrong-type", "send JSON")
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > LARGEST_ACTION:
            raise RequestError("too-large", f"an action has at most {LARGEST_ACTION:,} bytes")
    try:
        found = json.loads(bytes(body))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or {name: type(value) for name, value in found.items()} != kinds:
        raise RequestError("wrong-value", f"give {', '.join(kinds)} in JSON")
    return found


async def _static(file: PageFile, request: Request) -> Response:
    return Response(file.content, media_type=file.kind)


async def _proof(token: bytes, request: Request) -> Response:
    nonce = request.query_params.get("nonce", "")
    if not is_nonce(nonce):
        raise RequestError("wrong-value", "nonce is not 64 hexadecimal digits")
    return JSONResponse({"proof": proof_of(token, nonce=nonce)})


def _problem(error: str, detail: str, status: HTTPStatus) -> JSONResponse:
    return JSONResponse({"error": error, "detail": detail}, status_code=status)
