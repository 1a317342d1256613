"""A service of a tiny model and a small catalogue, in this process."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image
from starlette.testclient import TestClient

from fedrec.recognition.catalogue.catalogue import Catalogue
from fedrec.recognition.catalogue.models import photo_model_of
from fedrec.recognition.catalogue.opening import open_searcher
from fedrec.recognition.model import RecognitionModel, open_model
from fedrec.recognition.service.application import make_application
from fedrec.recognition.service.limits import Limits
from fedrec.recognition.service.metrics import Metrics
from fedrec.recognition.service.observing import Observer
from fedrec.recognition.service.photo_analyser import PhotoAnalyser
from fedrec.recognition.service.served_catalogue import ServedCatalogue
from tests.recognition.catalogue.shop import Told, import_shop, write_shop
from tests.support.bundles import write_tiny_bundle

JPEG = {"Content-Type": "image/jpeg"}
LIMITS = Limits(body_bytes=1 << 20, pixels=1_000_000, seconds=1.0)


@dataclass(frozen=True)
class Service:
    """The running parts.

    Attributes:
        client: asks.
        model: the model.
        catalogue: the open catalogue.
        folder: of the shop's photos.
    """

    client: TestClient
    model: RecognitionModel
    catalogue: Catalogue
    folder: Path


def encoded(photo: Image.Image, kind: str = "JPEG") -> bytes:
    file = io.BytesIO()
    photo.save(file, kind)
    return file.getvalue()


def client_of(analyser: PhotoAnalyser, *, token: bytes | None = None) -> TestClient:
    application = make_application(analyser, metrics_of(analyser), host="127.0.0.1", token=token)
    return TestClient(application, base_url="http://127.0.0.1", raise_server_exceptions=False)


def metrics_of(analyser: PhotoAnalyser) -> Metrics:
    return Metrics(analyser.model.classes)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    root = tmp_path_factory.mktemp("service")
    model = open_model(write_tiny_bundle(root / "m"))
    import_shop(root / "catalogue", write_shop(root / "shop"), model=photo_model_of(model, path=None))
    with Catalogue(root / "catalogue") as catalogue:
        metrics = Metrics(model.classes)
        served = ServedCatalogue(catalogue, open_searcher(catalogue, tell=Told()), model)
        analyser = PhotoAnalyser(model, served, limits=LIMITS, seen=Observer(metrics, None))
        application = make_application(analyser, metrics, host="127.0.0.1", token=None)
        with TestClient(application, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
            yield Service(client, model, catalogue, root / "shop")
