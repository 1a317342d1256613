"""Feature sets: put together as by hand, computed once for all models, and gone with a photo."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import platformdirs
import pytest
import torch
from PIL import Image

from fedrec.clients.forgetting import forget_photos
from fedrec.clients.merchant_home import MerchantHome
from fedrec.config import load_config
from fedrec.errors import ConfigError
from fedrec.simulations import local_grid
from fedrec.simulations.harness import simulate
from fedrec.vision import feature_batches, model_registry
from fedrec.vision.backbones import packaged_sets
from fedrec.vision.backbones.feature_sets import Block, FeatureSet, Source
from fedrec.vision.backbones.fixed_views import fixed_view
from fedrec.vision.backbones.view_names import FixedView
from fedrec.vision.datasets import open_folder
from fedrec.vision.imageset import ImageSet
from fedrec.vision.model_inputs import input_shape, model_inputs, to_inputs
from fedrec.vision.model_spec import ModelSpec
from fedrec.vision.products import PRODUCT_PHOTOS
from fedrec.vision.synthetic import generate, write
from tests.support.inline import InlineWorker
from tests.vision.backbones.test_efficientnet_lite import naive

SIDE, ROWS = 8, 4


@pytest.fixture(autouse=True)
def without_the_check_of_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts of pictures are those of the photos."""
    monkeypatch.setattr(feature_batches, "_places_are_alike", lambda extractor: True)


class Colours:
    """A backbone for tests: mean colours, and brightness of four bands; counts the pictures it computes."""

    batch = 2
    dtype = torch.float32

    def __init__(self, name: str = "colours") -> None:
        self.layers = {"final": 3, "stages": ROWS}
        self.name = name
        self.computed = 0
        self.loaded = 0

    def check(self) -> None:
        pass

    def weights_hash(self) -> str:
        return hashlib.sha256(self.name.encode()).hexdigest()

    def load(self, *, size: int, dtype: torch.dtype) -> Colours:
        self.loaded += 1
        return self

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        self.computed += int(images.any(axis=(1, 2, 3)).sum())  # pictures that fill a batch are black
        values = images.astype(np.float32)
        return {
            "final": values.mean(axis=(1, 2)),
            "stages": values.reshape(len(values), ROWS, -1).mean(axis=2),
        }


def unit(vector: np.ndarray) -> Any:
    return vector / np.linalg.norm(vector, axis=-1, keepdims=True)


def by_hand(backbone: Colours, image: Image.Image, view: FixedView, layer: str) -> Any:
    return unit(backbone(fixed_view(image, view, size=SIDE)[None])[layer][0])


def model(features: FeatureSet) -> ModelSpec:
    return replace(model_registry.get("effnet-lite0-head"), features=features, image_size=features.image_size)


def inputs(images: ImageSet, features: FeatureSet, *, views: int = 1) -> np.ndarray:
    spec = model(features)
    return model_inputs(
        images, spec, input_shape(images, spec), views=views, progress=lambda done, total: None
    )


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda name: tmp_path / "cache" / name)
    return tmp_path / "cache" / "fedrec" / "features"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Oblong photos of two classes, in folders of products."""
    rng = np.random.default_rng(2)
    for number in range(6):
        path = tmp_path / "photos" / ("hat", "mug")[number % 2] / str(number // 3) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20 + number, 16, 3)).astype(np.uint8)).save(path)
    return tmp_path / "photos"


def opened(folder: Path, unit_of: Any = "record") -> ImageSet:
    return open_folder(folder, layout="product", unit=unit_of, one_merchant=True).train


def test_a_set_is_put_together_as_by_hand(folder: Path, cache: Path) -> None:
    one, two = Colours("one"), Colours("two")
    features = FeatureSet(
        (
            Block(one, size=SIDE, views=(("wide", 2.0), ("flip", 1.0))),
            Block(two, size=SIDE, views=(("squash", 1.0),), layer="stages", weight=0.5),
        )
    )
    photos = opened(folder)
    found = inputs(photos, features)
    assert found.shape == (6, 1, 3 + ROWS) == (6, 1, features.dimension)
    assert found.dtype == np.float32
    for index in range(6):
        image = photos.image(index)
        views = [by_hand(one, image, "wide", "final"), by_hand(one, image, "flip", "final")]
        blocks = [unit(2 * views[0] + views[1]), 0.5 * by_hand(two, image, "squash", "stages")]
        # The cache keeps 11 bits of a number.
        np.testing.assert_allclose(found[index, 0], unit(np.concatenate(blocks)), atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(found, axis=2), 1, rtol=1e-6)


def test_the_numbers_of_a_combination_are_exact() -> None:
    """Without the cache's rounding, and with augmented views of a plan."""
    one, two = Colours("one"), Colours("two")
    features = FeatureSet(
        (
            Block(one, size=4, views=(("wide", 2.0), ("squash", 2.0), ("crop", 1.0)), weight=3.0),
            Block(two, size=4, views=(("crop", 1.0),), layer="stages"),
        )
    )
    rng = np.random.default_rng(0)
    stored = {
        source: rng.normal(size=(1500, 2, 3 + ROWS)).astype(np.float16) for source in features.extractors()
    }
    assert len(stored) == 4
    found = features.combine(stored)
    exact = {source: values.astype(np.float64) for source, values in stored.items()}
    wide, squash, crop = (unit(exact[Source("one", 4, view)][..., :3]) for view in ("wide", "squash", "crop"))
    blocks = [3 * unit(2 * wide + 2 * squash + crop), unit(exact[Source("two", 4, "crop")][..., 3:])]
    np.testing.assert_allclose(found, unit(np.concatenate(blocks, axis=2)), atol=1e-6)


def test_views_are_computed_once_and_shared_between_sets(folder: Path, cache: Path) -> None:
    backbone = Colours()
    photos = opened(folder)
    narrow = FeatureSet((Block(backbone, size=SIDE, views=(("wide", 1.0),)),))
    inputs(photos, narrow)
    assert backbone.computed == 6 and len(list(cache.iterdir())) == 1
    broad = FeatureSet(
        (
            Block(backbone, size=SIDE, views=(("wide", 2.0), ("squash", 1.0))),
            # The other layer of views that are there already costs nothing.
            Block(backbone, size=SIDE, views=(("wide", 1.0),), layer="stages"),
        )
    )
    first = inputs(photos, broad)
    assert backbone.computed == 12 and len(list(cache.iterdir())) == 2
    loaded = backbone.loaded
    np.testing.assert_array_equal(inputs(photos, broad), first)
    # From the cache alone, no network is loaded.
    assert backbone.computed == 12 and backbone.loaded == loaded
    # The same view at another size is another picture.
    inputs(photos, FeatureSet((Block(backbone, size=4, views=(("wide", 1.0),)),)))
    assert backbone.computed == 18 and len(list(cache.iterdir())) == 3


@pytest.mark.parametrize("views", [PRODUCT_PHOTOS, 2 * PRODUCT_PHOTOS])
def test_each_slot_of_a_product_is_its_photo_s_vector(folder: Path, cache: Path, views: int) -> None:
    backbone = Colours()
    features = FeatureSet((Block(backbone, size=SIDE, views=(("wide", 1.0), ("flip", 1.0))),))
    photos = {record.digest: index for index, record in enumerate(opened(folder).records)}
    alone = inputs(opened(folder), features, views=views // PRODUCT_PHOTOS)
    products: Any = opened(folder, "product")
    found = inputs(products, features, views=views)
    assert found.shape == (4, views, 3)
    for row, digests in zip(found, products.photo_digests(), strict=True):
        slots = [alone[photos[digests[slot % len(digests)]]] for slot in range(PRODUCT_PHOTOS)]
        np.testing.assert_array_equal(row, np.concatenate(slots))
    # For evaluation, a product is its first photo.
    first = inputs(products, features)
    for row, digests in zip(first, products.photo_digests(), strict=True):
        np.testing.assert_array_equal(row, inputs(opened(folder), features)[photos[digests[0]]])


def test_a_forgotten_photo_leaves_no_features_behind(folder: Path, cache: Path, tmp_path: Path) -> None:
    backbone = Colours()
    features = FeatureSet(
        (Block(backbone, size=SIDE, views=(("wide", 1.0), ("squash", 1.0), ("crop", 1.0), ("flip", 1.0))),)
    )
    photos, products = opened(folder), opened(folder, "product")
    inputs(photos, features)
    for views in (1, PRODUCT_PHOTOS):
        inputs(products, features, views=views)
    assert backbone.computed == 4 * 6, "products are made of the same features as photos"
    home = MerchantHome.create(tmp_path / "home", name="m0", data=folder, units=6, layout="product")
    gone = photos.records[0]
    assert list(forget_photos(home, [folder / gone.name])) == [(gone.name, 0)]
    files = list(cache.iterdir())
    assert len(files) == 4
    for path in files:
        content = path.read_bytes()
        assert gone.digest not in content
        assert all(record.digest in content for record in photos.records[1:])
    inputs(photos, features)
    assert backbone.computed == 4 * 7


def test_blocks_and_sets_that_mean_nothing_are_refused() -> None:
    backbone = Colours()
    with pytest.raises(ConfigError, match="final, stages"):
        Block(backbone, size=8, views=(("wide", 1.0),), layer="last")
    for views in ((), (("wide", 1.0), ("wide", 1.0)), (("tilt", 1.0),)):
        with pytest.raises(ConfigError, match="wide, squash, crop, flip"):
            Block(backbone, size=8, views=cast(Any, views))
    with pytest.raises(ConfigError, match="above 0"):
        Block(backbone, size=8, views=(("wide", 0.0),))
    with pytest.raises(ConfigError, match="above 0"):
        Block(backbone, size=8, views=(("wide", 1.0),), weight=-1.0)
    with pytest.raises(ConfigError, match="at least one"):
        FeatureSet(())


PACKAGED = {
    "effnet-lite0-head": packaged_sets.LITE0_WIDE,
    "lite0-views-head": packaged_sets.LITE0_VIEWS,
    "lite2-views-head": packaged_sets.LITE2_VIEWS,
    "lite0-lite2-views-head": packaged_sets.LITE0_LITE2_VIEWS,
    "lite0-small-head": packaged_sets.LITE0_SMALL,
    "scattering-head": packaged_sets.SCATTERING,
    "scattering-lite0-head": packaged_sets.SCATTERING_LITE0,
}


def test_models_share_what_their_sets_have_in_common() -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    for name, features in PACKAGED.items():
        assert model_registry.get(name).features is features
    sources = [set(features.extractors()) for features in PACKAGED.values()]
    assert [len(found) for found in sources] == [1, 4, 2, 6, 1, 1, 2]
    assert sources[0] < sources[1] < sources[3] and sources[2] < sources[3]
    assert sources[4] | sources[5] == sources[6]


@pytest.fixture
def clothes(tmp_path: Path) -> Path:
    """Nine photos of three merchants, and four to evaluate on."""
    folder = tmp_path / "clothes"
    write(generate(merchants=3, per_merchant=3, size=40, seed=3, validation=0, test=4), folder)
    return folder


@pytest.mark.parametrize("name", ["lite0-lite2-views-head", "lite0-small-head"])
def test_features_are_those_of_the_plain_networks(name: str, folder: Path, cache: Path) -> None:
    """In float32 with batch norms, the package's padding and no cache."""
    pytest.importorskip("efficientnet_lite_pytorch")
    photos = opened(folder).subset([0])
    spec = model_registry.get(name)
    assert spec.features is not None
    found = to_inputs(inputs(photos, spec.features), spec).numpy()
    image = photos.image(0)
    blocks = []
    for block in spec.features.blocks:
        backbone = cast(Any, block.backbone)
        layers = [
            weight * unit(naive(backbone, fixed_view(image, view, size=block.size)[None])[block.layer][0])
            for view, weight in block.views
        ]
        blocks.append(block.weight * unit(np.sum(layers, axis=0)))
    assert unit(np.concatenate(blocks)) @ found[0, 0] > 0.999


def test_a_training_on_nine_photos_runs_to_its_report(
    clothes: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    monkeypatch.setattr(local_grid, "WorkerProcess", InlineWorker)
    options: dict[str, object] = {"data": clothes, "partition": "folder", "model": "lite0-small-head"}
    options |= {"rounds": 1, "seed": 1, "workers": 1, "device": "cpu", "out": tmp_path / "run"}
    result = simulate(load_config(None, options))
    assert (result.folder / "report.html").is_file()
    assert len(list(cache.iterdir())) == 1
