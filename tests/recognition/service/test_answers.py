"""The service says what the model, the catalogue and the check of quality say."""

from __future__ import annotations

import base64
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedrec.recognition.catalogue.catalogue import Catalogue
from fedrec.recognition.catalogue.models import photo_model_of
from fedrec.recognition.catalogue.opening import open_searcher
from fedrec.recognition.drift.photo_statistics import photo_statistics
from fedrec.recognition.drift.reference import make_reference
from fedrec.recognition.drift.thresholds import Photos
from fedrec.recognition.drift.watch import Watch
from fedrec.recognition.model import open_model
from fedrec.recognition.service.metrics import Metrics
from fedrec.recognition.service.observing import Observer
from fedrec.recognition.service.photo_analyser import PhotoAnalyser
from fedrec.recognition.service.served_catalogue import ServedCatalogue
from fedrec.recognition.service.uploads import TYPES
from tests.recognition.catalogue.shop import Told, import_shop
from tests.recognition.service.conftest import JPEG, Service, client_of, encoded
from tests.support.bundles import write_tiny_bundle


def red() -> Image.Image:
    return Image.new("RGB", (300, 200), (240, 20, 10))


def test_classes_are_the_models(service: Service) -> None:
    answer = service.client.post(
        "/predict?top=2", content=encoded(red(), "PNG"), headers={"Content-Type": "image/png"}
    )
    expected = service.model.recognise([red()])[0].top(2)
    assert answer.status_code == 200
    assert [each["name"] for each in answer.json()["classes"]] == [
        service.model.classes[i] for i, _ in expected
    ]
    assert [each["probability"] for each in answer.json()["classes"]] == pytest.approx(
        [p for _, p in expected]
    )
    assert answer.json()["calibrated"] is False


def test_evidence_is_a_picture_of_the_photo(service: Service) -> None:
    answer = service.client.post("/evidence?name=blue", content=encoded(red()), headers=JPEG).json()
    kind, _, data = answer["picture"].partition(",")
    assert kind == "data:image/jpeg;base64" and answer["name"] == "blue" and answer["exact"] is True
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (300, 200)


def test_a_stored_photo_finds_its_own_product_first(service: Service) -> None:
    content = (service.folder / "photos" / "3-1.png").read_bytes()
    found = service.client.post("/search", content=content, headers={"Content-Type": "image/png"}).json()
    first = found["products"][0]
    assert (first["product"], first["link"], first["price"]) == ("p3", "https://shop.example/3", 30.5)
    assert first["score"] == pytest.approx(1, abs=1e-2)
    picture = service.client.get(f"/photos/{first['photo']}")
    assert (
        picture.headers["content-type"] == "image/jpeg"
        and Image.open(io.BytesIO(picture.content)).width == 24
    )


def test_conditions_scores_and_regions_narrow_the_search(service: Service) -> None:
    content = (service.folder / "photos" / "3-1.png").read_bytes()

    def names(query: str) -> list[str]:
        answer = service.client.post(
            f"/search?{query}", content=content, headers={"Content-Type": "image/png"}
        )
        return [each["product"] for each in answer.json()["products"]]

    assert set(names("only=category=shoe&only=price<30")) == {"p0", "p2"}
    assert len(names("top=3")) == 3 and len(names("all_photos=true")) == 12
    assert names("at_least=1") == [] or names("at_least=1") == ["p3"]
    # A region is looked for as if it were the photo.
    photo = Image.open(service.folder / "photos" / "3-1.png").convert("RGB")
    beside = Image.new("RGB", (48, 24), (0, 0, 0))
    beside.paste(photo, (24, 0))
    answer = service.client.post(
        "/search?crop=0.5,0,0.5,1", content=encoded(beside, "PNG"), headers={"Content-Type": "image/png"}
    ).json()
    assert answer["products"][0]["product"] == "p3"


def test_quality_names_the_flaw_and_what_to_do(service: Service) -> None:
    dark = Image.fromarray(np.random.default_rng(0).integers(0, 40, (300, 300, 3), dtype=np.uint8))
    answer = service.client.post("/quality", content=encoded(dark), headers=JPEG).json()
    assert not answer["good"] and "dark" in {each["flaw"] for each in answer["flaws"]}
    assert all(each["problem"] and each["advice"] for each in answer["flaws"])


def test_one_question_answers_all(service: Service) -> None:
    content = encoded(red())
    look = service.client.post("/look", content=content, headers=JPEG).json()
    assert look["classes"] == service.client.post("/predict", content=content, headers=JPEG).json()
    assert look["similar"] == service.client.post("/search", content=content, headers=JPEG).json()
    assert look["quality"] == service.client.post("/quality", content=content, headers=JPEG).json()
    assert look["evidence"]["name"] == "red"


def test_without_a_catalogue_or_classes_the_rest_is_answered(tmp_path: Path) -> None:
    client = client_of(PhotoAnalyser(open_model(write_tiny_bundle(tmp_path / "m", classes=False))))
    content = encoded(red())
    look = client.post("/look", content=content, headers=JPEG).json()
    assert look["classes"] is look["similar"] is look["copies"] is None and look["quality"] is not None
    for path, error in (
        ("/predict", "no-classes"),
        ("/evidence", "no-classes"),
        ("/search", "no-catalogue"),
        ("/copies", "no-catalogue"),
    ):
        answer = client.post(path, content=content, headers=JPEG)
        assert (answer.status_code, answer.json()["error"]) == (404, error)
    facts = client.get("/model").json()
    assert facts["classes"] == [] and facts["products"] is facts["training"] is None
    assert "without any training" in facts["title"] and facts["title"].startswith(facts["model"])


def test_metrics_count_classes_confidence_and_time(service: Service) -> None:
    service.client.post("/predict", content=encoded(red()), headers=JPEG)
    text = service.client.get("/metrics").text
    assert 'fedrec_service_photos_total{class="red"}' in text
    assert "fedrec_service_confidence_bucket" in text
    assert 'fedrec_service_seconds_count{outcome="answered",path="/predict"}' in text


def test_the_documentation_names_every_route_and_that_the_body_is_a_photo(service: Service) -> None:
    described = service.client.get("/openapi.json").json()
    routes = {
        "/predict",
        "/evidence",
        "/search",
        "/copies",
        "/quality",
        "/look",
        "/model",
        "/photos/{number}",
    }
    assert routes <= set(described["paths"])
    assert "image/jpeg" in described["paths"]["/search"]["post"]["requestBody"]["content"]


def test_fifty_at_once_are_all_answered(service: Service) -> None:
    photos = [encoded(Image.new("RGB", (60, 60), (5 * i, 250 - 5 * i, 0))) for i in range(50)]
    expected = [
        service.model.recognise([Image.open(io.BytesIO(each)).convert("RGB")])[0].label for each in photos
    ]
    with ThreadPoolExecutor(50) as pool:
        answers = list(
            pool.map(lambda each: service.client.post("/predict", content=each, headers=JPEG), photos)
        )
    assert [each.json()["classes"][0]["name"] for each in answers] == [
        service.model.classes[i] for i in expected
    ]


def test_a_catalogue_that_has_another_models_vectors_now_is_no_fault_of_the_request(
    service: Service, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import_shop(tmp_path / "c", service.folder / "shop.csv", model=photo_model_of(service.model, path=None))
    with Catalogue(tmp_path / "c") as catalogue:
        analyser = PhotoAnalyser(
            service.model, ServedCatalogue(catalogue, open_searcher(catalogue, tell=Told()), service.model)
        )
        with Catalogue(tmp_path / "c", write=True) as other, other.transaction() as connection:
            connection.execute("UPDATE setting SET value = 'another' WHERE name = 'embedding_id'")
        client = client_of(analyser)
        for path in ("/search", "/copies", "/look"):
            answer = client.post(path, content=encoded(red()), headers=JPEG)
            assert (answer.status_code, answer.json()["error"]) == (500, "failed")
            assert str(tmp_path) not in answer.text
        assert caplog.text.count("has the vectors of another model now") == 3
        assert client.post("/predict", content=encoded(red()), headers=JPEG).status_code == 200


def test_photos_that_differ_from_the_reference_raise_an_alarm(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    rng = np.random.default_rng(3)
    usual = [Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(120)]
    seen = service.model.recognise(usual)
    reference = make_reference(
        Photos(
            embeddings=np.stack([each.embedding for each in seen]),
            probabilities=np.stack([each.probabilities for each in seen]),
            looks=[photo_statistics(photo) for photo in usual],
        ),
        embedding_id=service.model.embedding_id,
        classes=service.model.classes,
    )
    metrics = Metrics(service.model.classes)
    observer = Observer(metrics, Watch(reference))
    dark = [Image.fromarray(np.asarray(photo) // 4) for photo in usual[:100]]
    for photo, found in zip(dark, service.model.recognise(dark), strict=True):
        observer(photo, found)
    assert any("dark" in line.message for line in caplog.records)
    text = metrics.exposition().decode()
    assert 'fedrec_service_alarm{measure="dark"} 1.0' in text
    assert "fedrec_service_photos_total" in text


def test_each_format_that_is_read_may_be_sent_by_its_own_type(service: Service) -> None:
    for kind in TYPES[:-1]:
        content = encoded(red(), kind.removeprefix("image/").upper())
        answer = service.client.post("/predict", content=content, headers={"Content-Type": kind})
        assert (answer.status_code, answer.json().get("classes", [{}])[0].get("name")) == (200, "red"), kind
