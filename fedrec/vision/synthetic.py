"""Synthetic product photos: products differ in shape, merchants in style.

A product shows in its outline alone: colour, texture, pose, size, light and background are drawn
independently of it. Each merchant has a style of its own (backdrop, light, camera), as sellers do. The
photos are public and made from a seed with numpy's generator, so the same call gives the same pixels;
nothing here may serve as a source of privacy noise.
"""

from __future__ import annotations

import csv
import io
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from fedrec._internal.files import naming
from fedrec.errors import ConfigError
from fedrec.vision.imageset import ImageSet, drop_duplicates
from fedrec.vision.partition import merchant_names
from fedrec.vision.product_shapes import SHAPES, Pen
from fedrec.vision.splits import DataSplits

CLASSES: Final[tuple[str, ...]] = tuple(sorted(SHAPES))
"""The product classes, in label order."""

_OVERSAMPLING: Final = 3
_STYLE, _TRAIN, _VALIDATION, _TEST = 0, 1, 2, 3

_SHOP: Final = "https://shop.example"
_COLUMNS: Final = ("product", "photo", "title", "link", "price", "category")

Backdrop = Literal["plain", "gradient", "patterned", "cluttered"]
_BACKDROPS: Final[tuple[Backdrop, ...]] = ("plain", "gradient", "patterned", "cluttered")
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Style:
    """How one merchant takes photos: backdrop, light and camera."""

    backdrop: Backdrop
    backdrop_colour: tuple[float, float, float]
    light_angle: float
    light_slope: float
    warmth: float
    brightness: float
    tilt: float
    zoom: float
    blur: float
    noise: float
    jpeg_quality: int


def merchant_style(seed: int, merchant: int) -> Style:
    """Return a merchant's style; it depends on these two numbers alone.

    Args:
        seed: seed of the data set.
        merchant: the merchant's number.

    Returns:
        The style.
    """
    rng = np.random.default_rng([seed, _STYLE, merchant])
    grey = rng.uniform(0.1, 0.95)
    tint = rng.uniform(-0.12, 0.12, 3)
    red, green, blue = np.clip(grey + tint, 0.02, 1.0).tolist()
    return Style(
        backdrop=_BACKDROPS[merchant % len(_BACKDROPS)],
        backdrop_colour=(red, green, blue),
        light_angle=rng.uniform(0, 2 * math.pi),
        light_slope=rng.uniform(0.0, 0.3),
        warmth=rng.uniform(-0.12, 0.12),
        brightness=rng.uniform(0.75, 1.15),
        tilt=rng.uniform(-8, 8),
        zoom=rng.uniform(0.88, 1.1),
        blur=rng.uniform(0.0, 0.6),
        noise=rng.uniform(0.005, 0.04),
        jpeg_quality=int(rng.integers(45, 96)),
    )


def _grid(size: int) -> tuple[Floats, Floats]:
    axis = (np.arange(size) + 0.5) / size * 2 - 1
    x, y = np.meshgrid(axis, axis)
    return x, y


def _backdrop(style: Style, size: int, rng: np.random.Generator) -> Floats:
    """Draw the scene behind the product, float64 (size, size, 3)."""
    x, y = _grid(size)
    colour = np.clip(np.asarray(style.backdrop_colour) + rng.normal(0, 0.04, 3), 0, 1)
    scene: Floats = np.broadcast_to(colour, (size, size, 3)).copy()
    if style.backdrop == "gradient":
        angle = rng.uniform(0, 2 * np.pi)
        scene += (rng.uniform(0.05, 0.2) * (x * np.cos(angle) + y * np.sin(angle)))[..., None]
    elif style.backdrop == "patterned":
        angle, pitch = rng.uniform(0, np.pi), rng.uniform(6, 14)
        wave = np.sin(pitch * (x * np.cos(angle) + y * np.sin(angle)) + rng.uniform(0, 6))
        scene += (rng.uniform(0.03, 0.09) * wave)[..., None]
    elif style.backdrop == "cluttered":
        canvas = Image.fromarray((np.clip(scene, 0, 1) * 255).astype(np.uint8))
        draw = ImageDraw.Draw(canvas)
        for _ in range(int(rng.integers(2, 6))):
            left, top = rng.uniform(-0.2, 0.9, 2) * size
            width, height = rng.uniform(0.15, 0.5, 2) * size
            tone = np.clip((colour + rng.normal(0, 0.1, 3)) * 255, 0, 255).astype(int).tolist()
            kind = draw.ellipse if rng.random() < 0.5 else draw.rectangle
            kind((left, top, left + width, top + height), fill=tuple(tone))
        scene = np.asarray(canvas, dtype=np.float64) / 255
    return scene


def _product_colour(backdrop: Floats, rng: np.random.Generator) -> Floats:
    """Draw a random colour, again until it stands out from the backdrop."""
    colour: Floats = rng.uniform(0.03, 0.97, 3)
    for _ in range(20):
        if abs(float(colour.mean() - backdrop.mean())) > 0.25:
            break
        colour = rng.uniform(0.03, 0.97, 3)
    return colour


def _layers(label: int, style: Style, size: int, rng: np.random.Generator) -> Floats:
    """Return coverage of the product, its accents and its lines, float64 (size, size, 3) in [0, 1]."""
    side = size * _OVERSAMPLING
    angle = math.radians(style.tilt + rng.normal(0, 8))
    scale = side / 2 * 0.82 * style.zoom * rng.uniform(0.72, 1.08)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    stretch = np.array([[rng.uniform(0.88, 1.12), rng.normal(0, 0.08)], [0.0, 1.0]])
    stretch[:, 0] *= 1 if rng.random() < 0.5 else -1
    shift = rng.normal(0, 0.06, 2) * side + side / 2
    pen = Pen(side, scale * turn @ stretch, (float(shift[0]), float(shift[1])))
    SHAPES[CLASSES[label]](pen, rng)
    return np.asarray(pen.layers.reduce(_OVERSAMPLING), dtype=np.float64) / 255


def _occlude(scene: Floats, rng: np.random.Generator) -> Floats:
    """Cover one edge of the picture, as a finger, a tag or the frame would."""
    x, y = _grid(scene.shape[0])
    angle = rng.uniform(0, 2 * np.pi)
    depth = x * np.cos(angle) + y * np.sin(angle) - rng.uniform(0.5, 0.85)
    cover = np.clip(depth * scene.shape[0] / 2, 0, 1)[..., None]
    blended: Floats = scene * (1 - cover) + rng.uniform(0, 1, 3) * cover
    return blended


def photo(label: int, style: Style, *, size: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw one photo of a product.

    Args:
        label: position of its class in ``CLASSES``.
        style: its merchant's style.
        size: width and height in pixels.
        rng: source of everything that varies.

    Returns:
        uint8 (size, size, 3).
    """
    x, y = _grid(size)
    scene = _backdrop(style, size, rng)
    layers = _layers(label, style, size, rng)
    body, accent, line = layers[..., :1], layers[..., 1:2], layers[..., 2:]
    colour = _product_colour(scene, rng)
    trim = np.clip(colour + rng.normal(0, 0.18, 3), 0, 1)
    angle, pitch = rng.uniform(0, np.pi), rng.uniform(3, 12)
    texture = 1 + rng.uniform(0, 0.16) * np.sin(pitch * (x * np.cos(angle) + y * np.sin(angle)))[..., None]
    drop = (int(rng.integers(-2, 3)) * size // 32, int(rng.integers(0, 3)) * size // 32)
    shadow = np.roll(body, drop[::-1], axis=(0, 1)) * rng.uniform(0, 0.35)
    scene *= 1 - shadow
    parts = colour * np.clip(body - accent - line, 0, 1) + trim * accent + 0.45 * colour * line
    scene = scene * (1 - body) + parts * texture
    if rng.random() < 0.2:
        scene = _occlude(scene, rng)
    slope = style.light_slope * (x * math.cos(style.light_angle) + y * math.sin(style.light_angle))
    warmth = np.array([1 + style.warmth, 1.0, 1 - style.warmth])
    scene *= (style.brightness * rng.uniform(0.9, 1.1) * (1 + slope))[..., None] * warmth
    scene += rng.normal(0, style.noise, scene.shape)
    picture = Image.fromarray((np.clip(scene, 0, 1) * 255).astype(np.uint8))
    picture = picture.filter(ImageFilter.GaussianBlur(style.blur))
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=style.jpeg_quality)
    with Image.open(buffer) as compressed:
        return np.asarray(compressed.convert("RGB"))


def generate(
    *, merchants: int, per_merchant: int, size: int = 32, seed: int, validation: int, test: int
) -> DataSplits:
    """Draw a training split of ``merchants`` x ``per_merchant`` photos, and two evaluation splits.

    Classes take turns, so each merchant has about as many of each. Evaluation photos have no merchant;
    each is in the style of one of the merchants, drawn at random. A photo of the training split depends
    on (seed, merchant, its number, size) alone.

    Args:
        merchants: number of sellers, at least 1.
        per_merchant: training photos of each, at least 1.
        size: width and height in pixels, 16 to 512.
        seed: not negative.
        validation: photos in the validation split; with 0 there is none.
        test: photos in the test split; with 0 there is none.

    Returns:
        The splits.

    Raises:
        ConfigError: a number is out of range.
    """
    for name, value, least, most in (
        ("merchants", merchants, 1, None),
        ("per merchant", per_merchant, 1, None),
        ("validation", validation, 0, None),
        ("test", test, 0, None),
        ("seed", seed, 0, None),
        ("size", size, 16, 512),
    ):
        if value < least or (most is not None and value > most):
            limit = f"{least} or more" if most is None else f"from {least} to {most}"
            raise ConfigError(f"synthetic photos: {name} {value} must be {limit}")
    styles = [merchant_style(seed, merchant) for merchant in range(merchants)]
    names = merchant_names(merchants)
    pictures, labels, owners, titles = [], [], [], []
    for merchant, style in enumerate(styles):
        for index in range(per_merchant):
            # Each merchant starts at another class, so that few photos each still cover all classes.
            label = (index + merchant) % len(CLASSES)
            rng = np.random.default_rng([seed, _TRAIN, merchant, index])
            pictures.append(photo(label, style, size=size, rng=rng))
            labels.append(label)
            owners.append(names[merchant])
            titles.append(f"train/{names[merchant]}/{CLASSES[label]}/{index:06d}.png")
    train = ImageSet.from_arrays(CLASSES, np.stack(pictures), labels, names=titles, merchants=owners)
    return DataSplits(
        drop_duplicates(train),
        _evaluation("validation", validation, styles, size=size, seed=seed),
        _evaluation("test", test, styles, size=size, seed=seed),
    )


def _evaluation(
    split: Literal["validation", "test"], count: int, styles: list[Style], *, size: int, seed: int
) -> ImageSet | None:
    if count == 0:
        return None
    stream = _VALIDATION if split == "validation" else _TEST
    pictures, labels, titles = [], [], []
    for index in range(count):
        label = index % len(CLASSES)
        rng = np.random.default_rng([seed, stream, index])
        pictures.append(photo(label, styles[int(rng.integers(len(styles)))], size=size, rng=rng))
        labels.append(label)
        titles.append(f"{split}/{CLASSES[label]}/{index:06d}.png")
    return ImageSet.from_arrays(CLASSES, np.stack(pictures), labels, names=titles)


def check_target(folder: Path) -> None:
    """Check that photos can be written to a folder.

    Args:
        folder: a new or an empty folder.

    Raises:
        ConfigError: it is a file, holds something, or can't be made or read.
    """
    try:
        taken = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    except OSError as error:
        raise ConfigError(f"{folder} can't be used: {error.strerror}") from None
    above = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not os.access(above, os.W_OK | os.X_OK):
        raise ConfigError(f"{folder} can't be made: {above} can't be written")
    if taken:
        raise ConfigError(f"{folder} is there already: name a new folder or an empty one")


def write(splits: DataSplits, folder: Path) -> int:
    """Write photos as PNG files in the layout that :func:`fedrec.vision.datasets.open_folder` reads.

    That is ``train/MERCHANT/CLASS/NUMBER.png`` (without merchants ``train/CLASS/NUMBER.png``), and the
    same below ``validation/`` and ``test/``. A slash in a class name becomes a hyphen. Beside them,
    ``products.csv`` lists the training photos as products of a shop, for ``fedrec catalogue import``.

    Args:
        splits: the photos.
        folder: a new or an empty folder.

    Returns:
        The number of photos written.

    Raises:
        ConfigError: ``folder`` exists and is not an empty folder.
        OSError: a file cannot be written.
    """
    root = Path(folder)
    check_target(root)
    products: list[tuple[str, ...]] = []
    splits_present = (("train", splits.train), ("validation", splits.validation), ("test", splits.test))
    written = 0
    for name, images in splits_present:
        if images is None:
            continue
        for index, record in enumerate(images.records):
            owner = (record.merchant,) if record.merchant else ()
            label = images.classes[record.label].replace("/", "-")
            target = root.joinpath(name, *owner, label, f"{index:06d}.png")
            target.parent.mkdir(parents=True, exist_ok=True)
            with naming(target), target.open("wb") as file:
                images.image(index).save(file, format="PNG")
            written += 1
            if images is splits.train:
                products.append(_product(written, target.relative_to(root), label))
    _write_products(root / "products.csv", products)
    return written


def _product(number: int, photo: Path, label: str) -> tuple[str, ...]:
    """Return a photo's row in the list of products; its price is made up."""
    price = 5 + (number * 7919 % 9000) / 100
    name = f"{number:06d}"
    return name, photo.as_posix(), f"{label.capitalize()} {number}", f"{_SHOP}/{name}", f"{price:.2f}", label


def _write_products(path: Path, rows: list[tuple[str, ...]]) -> None:
    with naming(path), path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([_COLUMNS, *rows])
