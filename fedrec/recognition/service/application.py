"""The HTTP application: routes for programs, and the page."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Annotated, Any, Final, TypeVar

import anyio
from fastapi import FastAPI, Path, Query, Request
from starlette.middleware import Middleware
from starlette.responses import Response

from fedrec.observability.endpoint import CommonHeaders, TokenRequired, own_names_alone
from fedrec.observability.prometheus import CONTENT_TYPE
from fedrec.observability.token_proof import NONCE, PROOF_PATH, proof_of
from fedrec.observability.web_pages import PAGE_HEADERS, PageFile, page_files
from fedrec.recognition.catalogue.search import MOST_RESULTS
from fedrec.recognition.service import answers
from fedrec.recognition.service.error_answers import answer_errors
from fedrec.recognition.service.metrics import Metrics
from fedrec.recognition.service.photo_analyser import MOST_CLASSES, PhotoAnalyser, SearchOptions
from fedrec.recognition.service.refusals import RequestError
from fedrec.recognition.service.uploads import BODY, Receiver

T = TypeVar("T")
_READ: Final = ["GET", "HEAD"]
"""Monitors ask by HEAD whether the page and the service answer."""

_REFUSED: Final[dict[int | str, dict[str, Any]]] = {
    status: {"model": answers.Problem} for status in (404, 408, 413, 415, 422, 500, 503)
}
_PICTURE: Final[dict[int | str, dict[str, Any]]] = {200: {"content": {"image/jpeg": {}}}, **_REFUSED}
_PHOTO: Final[dict[str, Any]] = {"openapi_extra": BODY, "responses": _REFUSED}

ClassName = Annotated[
    str | None, Query(max_length=200, description="A class; the most probable one without.")
]


def make_application(analyser: PhotoAnalyser, metrics: Metrics, *, host: str, token: bytes | None) -> FastAPI:
    """Make the application.

    Args:
        analyser: answers the questions about a photo.
        metrics: counts.
        host: address that it listens on.
        token: what requests must carry, except for the page itself, a proof that it is known here, and
            health; None on loopback.

    Returns:
        The application.
    """
    page = page_files("fedrec.recognition.service", "page")
    # The page is the same for everybody; it asks for the token.
    guard = (
        own_names_alone(host)
        if token is None
        else Middleware(TokenRequired, token=token, opened=frozenset({*page, PROOF_PATH, "/health"}))
    )
    application = FastAPI(
        title="fedrec",
        summary="Recognise products, find similar ones and copies, and judge photos.",
        version=analyser.model.manifest.made_by,
        middleware=[Middleware(CommonHeaders, headers=PAGE_HEADERS), guard],
        docs_url=None,
        redoc_url=None,
    )
    answer_errors(application)
    _add_photo_routes(application, _PhotoRequests(analyser, metrics))
    _add_fact_routes(application, analyser, metrics)
    if token is not None:
        _add_proof(application, token)
    for path, file in page.items():
        application.add_api_route(
            path, functools.partial(_static, file), methods=_READ, include_in_schema=False
        )
    return application


class _PhotoRequests:
    """Receives photos and works on them, so many at a time.

    Args:
        analyser: answers the questions about a photo.
        metrics: counts.
    """

    def __init__(self, analyser: PhotoAnalyser, metrics: Metrics) -> None:
        self.analyser, self._metrics = analyser, metrics
        self._receiver = Receiver(analyser.limits)
        self._workers: anyio.CapacityLimiter | None = None

    async def answer(self, path: str, request: Request, work: Callable[[bytes], T]) -> T:
        """Receive the photo of a request, and answer it in a thread.

        Args:
            path: the route.
            request: the request.
            work: makes the answer of the photo's file.

        Returns:
            The answer.

        Raises:
            RequestError: the photo or an option can't be used.
        """
        with self._metrics.timing(path):
            if self._workers is None:
                self._workers = anyio.CapacityLimiter(self.analyser.limits.working)
            async with self._receiver.received(request) as content:
                return await anyio.to_thread.run_sync(work, content, limiter=self._workers)


def _add_photo_routes(application: FastAPI, requests: _PhotoRequests) -> None:
    analyser = requests.analyser

    @application.post("/predict", **_PHOTO)
    async def predict(
        request: Request, top: Annotated[int, Query(ge=1, le=MOST_CLASSES)] = 5
    ) -> answers.Classes:
        """Name the most probable classes."""
        return await requests.answer(
            "/predict",
            request,
            lambda content: analyser.classes(analyser.recognise(analyser.photo(content)), top=top),
        )

    @application.post("/evidence", **_PHOTO)
    async def evidence(request: Request, name: ClassName = None) -> answers.Evidence:
        """Show where the evidence for a class lies."""

        def work(content: bytes) -> answers.Evidence:
            photo = analyser.photo(content)
            return analyser.evidence(photo, analyser.recognise(photo), name=name)

        return await requests.answer("/evidence", request, work)

    @application.post("/search", **_PHOTO)
    async def search(
        request: Request,
        top: Annotated[int, Query(ge=1, le=MOST_RESULTS)] = 12,
        only: Annotated[
            list[str] | None,
            Query(max_length=20, description="Conditions such as price<50 or category=dress."),
        ] = None,
        at_least: Annotated[float | None, Query(ge=-1, le=1, allow_inf_nan=False)] = None,
        all_photos: bool = False,
        crop: Annotated[
            str | None, Query(max_length=100, description="left,top,width,height in parts of the photo.")
        ] = None,
    ) -> answers.Products:
        """Find similar products."""
        options = SearchOptions(
            top=top, filters=only or (), at_least=at_least, all_photos=all_photos, crop=_crop(crop)
        )
        return await requests.answer(
            "/search", request, lambda content: analyser.similar(analyser.photo(content), options)
        )

    @application.post("/copies", **_PHOTO)
    async def copies(request: Request) -> answers.Copies:
        """Find copies in the catalogue."""
        return await requests.answer(
            "/copies", request, lambda content: analyser.copies(analyser.photo(content))
        )

    @application.post("/quality", **_PHOTO)
    async def quality(request: Request) -> answers.Quality:
        """Judge a seller's photo."""
        return await requests.answer(
            "/quality", request, lambda content: analyser.quality(analyser.photo(content))
        )

    @application.post("/look", **_PHOTO)
    async def look(request: Request, name: ClassName = None) -> answers.Analysis:
        """Tell everything about a photo at once, as the page shows it."""
        return await requests.answer(
            "/look", request, lambda content: analyser.analyse(analyser.photo(content), name=name)
        )


def _add_fact_routes(application: FastAPI, analyser: PhotoAnalyser, metrics: Metrics) -> None:
    @application.get("/model")
    def model() -> answers.ModelFacts:
        """Say what is in use."""
        return analyser.facts()

    @application.get("/photos/{number}", responses=_PICTURE)
    def photos(number: Annotated[int, Path(ge=0, lt=1 << 63)]) -> Response:
        """Return a stored photo as a small picture."""
        if analyser.catalogue is None:
            raise RequestError("no-catalogue", "the service was started without a catalogue")
        return Response(analyser.catalogue.picture(number), media_type="image/jpeg")

    @application.head("/health", include_in_schema=False)
    @application.get("/health")
    def health() -> dict[str, str]:
        """Say that the service answers."""
        return {"status": "ok"}

    @application.get("/metrics", include_in_schema=False)
    def exposition() -> Response:
        return Response(metrics.exposition(), media_type=CONTENT_TYPE)


def _add_proof(application: FastAPI, token: bytes) -> None:
    @application.get(PROOF_PATH, include_in_schema=False)
    def proof(nonce: Annotated[str, Query(pattern=NONCE)]) -> dict[str, str]:
        return {"proof": proof_of(token, nonce=nonce)}


def _static(file: PageFile) -> Response:
    return Response(file.content, media_type=file.kind)


def _crop(text: str | None) -> tuple[float, float, float, float] | None:
    if text is None:
        return None
    try:
        left, top, width, height = (float(part) for part in text.split(","))
    except ValueError:
        raise RequestError("wrong-value", "crop is left,top,width,height in parts of the photo") from None
    return left, top, width, height
