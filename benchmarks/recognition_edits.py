"""What people do to a photo that isn't theirs: edits for the measurement of copies."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps

Edit = Callable[[Image.Image, Sequence[Image.Image], np.random.Generator], Image.Image]
"""Takes a photo and three other photos."""


def jpeg(photo: Image.Image, quality: int) -> Image.Image:
    """Compress a photo."""
    file = io.BytesIO()
    photo.save(file, format="JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def crop(photo: Image.Image, share: float, rng: np.random.Generator) -> Image.Image:
    """Cut a rectangle out anywhere, with this share of both sides: 50% of the sides is 25% of the area."""
    width, height = round(photo.width * share), round(photo.height * share)
    left, top = (int(rng.integers(0, most + 1)) for most in (photo.width - width, photo.height - height))
    return photo.crop((left, top, left + width, top + height))


def turn(photo: Image.Image, degrees: float) -> Image.Image:
    """Turn a photo; its corners are lost, and others are black."""
    return photo.rotate(degrees, Image.Resampling.BICUBIC)


def watermark(photo: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Repeat a half transparent line of text at a slant."""
    layer = Image.new("RGBA", (2 * photo.width, 2 * photo.height))
    draw, font = ImageDraw.Draw(layer), ImageFont.load_default(size=photo.height // 14)
    for row in range(int(rng.integers(0, 40)), layer.height, photo.height // 5):
        draw.text((row % 90, row), "© PHOTO STOCK   " * 8, fill=(255, 255, 255, 128), font=font)
    layer = layer.rotate(30).crop(
        (photo.width // 2, photo.height // 2, 3 * photo.width // 2, 2 * photo.height)
    )
    layer = layer.crop((0, 0, photo.width, photo.height))
    return Image.alpha_composite(photo.convert("RGBA"), layer).convert("RGB")


def border(photo: Image.Image, share: float, rng: np.random.Generator) -> Image.Image:
    """Add a frame of any colour."""
    return ImageOps.expand(photo, round(share * min(photo.size)), tuple(rng.integers(0, 256, 3).tolist()))


def colours(photo: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Turn all hues, and change saturation and contrast."""
    hue, saturation, value = photo.convert("HSV").split()
    step = int(rng.integers(20, 236))
    turned = hue.point([(level + step) % 256 for level in range(256)])
    made = Image.merge("HSV", (turned, saturation, value)).convert("RGB")
    return ImageEnhance.Contrast(ImageEnhance.Color(made).enhance(1.3)).enhance(1.2)


def collage(photo: Image.Image, others: Sequence[Image.Image], rng: np.random.Generator) -> Image.Image:
    """Put a photo among others: two side by side, or four."""
    pictures = [photo, *others][: 2 if rng.random() < 0.5 else 4]
    cells = [(column, row) for row in range(len(pictures) // 2) for column in range(2)]
    made = Image.new("RGB", (2 * photo.width, len(pictures) // 2 * photo.height))
    for place, picture in zip(rng.permutation(len(pictures)), pictures, strict=True):
        column, row = cells[int(place)]
        made.paste(picture.resize(photo.size), (column * photo.width, row * photo.height))
    return made.resize((made.width // 2, made.height // 2))


def tilt(photo: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Photograph a photo at a slant."""
    width, height = photo.size
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], dtype=np.float32)
    moved = (corners + rng.uniform(-0.09, 0.09, (4, 2)) * [width, height]).astype(np.float32)
    matrix = cv2.getPerspectiveTransform(corners, moved)
    return Image.fromarray(cv2.warpPerspective(np.asarray(photo), matrix, photo.size).astype(np.uint8))


def written(photo: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Write prices and a seller's name in full colour."""
    made = photo.copy()
    for text, row in (("SALE $9.99", 0.1), ("my-shop.example", 0.8)):
        font = ImageFont.load_default(size=round(photo.height * rng.uniform(0.07, 0.11)))
        fill = tuple(rng.integers(0, 256, 3).tolist())
        ImageDraw.Draw(made).text((photo.width // 10, round(row * photo.height)), text, fill=fill, font=font)
    return made


def lit(photo: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Brighten one side and darken the other."""
    slope = np.linspace(0.5, 1.4, photo.width)[:: 1 if rng.random() < 0.5 else -1]
    pixels = np.asarray(photo, dtype=np.float64) * slope[None, :, None]
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def screenshot(photo: Image.Image) -> Image.Image:
    """Show a photo in a page of an app, with bars above and below."""
    made = Image.new("RGB", (photo.width + 40, round(1.8 * photo.height)), (245, 245, 245))
    made.paste(photo, (20, round(0.3 * photo.height)))
    draw, font = ImageDraw.Draw(made), ImageFont.load_default(size=16)
    draw.rectangle((0, 0, made.width, 30), fill=(30, 30, 60))
    draw.text((10, 6), "9:41    Marketplace", fill="white", font=font)
    draw.text((20, made.height - 60), "Great condition, worn twice", fill="black", font=font)
    return made


def third(photo: Image.Image, others: Sequence[Image.Image]) -> Image.Image:
    """Show the middle of a photo beside the middles of two others."""
    made = Image.new("RGB", (photo.width, photo.height), "white")
    size = photo.width // 3 - 2, photo.height
    for place, picture in enumerate((others[0], photo, others[1])):
        made.paste(ImageOps.fit(picture, size), (place * (photo.width // 3), 0))
    return made


def stickers(photo: Image.Image, rng: np.random.Generator, *, count: int, share: float) -> Image.Image:
    """Lay smiling faces over it anywhere, each so much of its shorter side wide."""
    made = photo.copy()
    draw, radius = ImageDraw.Draw(made), int(share * min(photo.size) / 2)
    for _ in range(count):
        x, y = (int(rng.integers(radius, side - radius)) for side in photo.size)
        draw.ellipse(
            (x - radius, y - radius, x + radius, y + radius), fill=(255, 205, 40), outline=(80, 50, 0)
        )
        for eye in (x - radius // 3, x + radius // 3):
            box = (eye - radius // 8, y - radius // 3, eye + radius // 8, y - radius // 8)
            draw.ellipse(box, fill=(60, 40, 0))
        mouth = (x - radius // 2, y - radius // 3, x + radius // 2, y + radius // 2)
        draw.arc(mouth, 20, 160, fill=(60, 40, 0), width=max(2, radius // 8))
    return made


def pixelated(photo: Image.Image) -> Image.Image:
    """Hide a part, such as a face, in large pixels."""
    made, (width, height) = photo.copy(), photo.size
    box = (round(0.35 * width), round(0.2 * height), round(0.65 * width), round(0.45 * height))
    part = photo.crop(box)
    coarse = part.resize((max(1, part.width // 14), max(1, part.height // 14)), Image.Resampling.BOX)
    made.paste(coarse.resize(part.size, Image.Resampling.NEAREST), box[:2])
    return made


def with_inset(photo: Image.Image, other: Image.Image) -> Image.Image:
    """Lay a smaller photo on a corner."""
    made = photo.copy()
    small = other.resize((int(0.35 * photo.width), int(0.35 * photo.height)))
    made.paste(small, (made.width - small.width, 0))
    return made


COPIES: Mapping[str, Edit] = {
    "JPEG, quality 20": lambda photo, others, rng: jpeg(photo, 20),
    "half the size": lambda photo, others, rng: photo.resize((photo.width // 2, photo.height // 2)),
    "crop, 90% of the sides": lambda photo, others, rng: crop(photo, 0.9, rng),
    "crop, 75% of the sides": lambda photo, others, rng: crop(photo, 0.75, rng),
    "crop, 50% of the sides": lambda photo, others, rng: crop(photo, 0.5, rng),
    "mirrored": lambda photo, others, rng: ImageOps.mirror(photo),
    "turned by 5 degrees": lambda photo, others, rng: turn(photo, 5),
    "turned by 90 degrees": lambda photo, others, rng: photo.transpose(Image.Transpose.ROTATE_90),
    "watermark": lambda photo, others, rng: watermark(photo, rng),
    "border, 10%": lambda photo, others, rng: border(photo, 0.1, rng),
    "colours": lambda photo, others, rng: colours(photo, rng),
    "blur, radius 2": lambda photo, others, rng: photo.filter(ImageFilter.GaussianBlur(2)),
    "collage of 2 or 4": collage,
    "crop 80%, mirrored, JPEG": lambda photo, others, rng: jpeg(ImageOps.mirror(crop(photo, 0.8, rng)), 40),
}
"""The edits of the requirement."""

OTHERS: Mapping[str, Edit] = {
    "seen at a slant": lambda photo, others, rng: tilt(photo, rng),
    "prices written on it": lambda photo, others, rng: written(photo, rng),
    "light from a side": lambda photo, others, rng: lit(photo, rng),
    "padded to a square": lambda photo, others, rng: ImageOps.pad(photo, (300, 300), color="white"),
    "screenshot": lambda photo, others, rng: screenshot(photo),
    "grey": lambda photo, others, rng: photo.convert("L").convert("RGB"),
    "stretched by 1.4": lambda photo, others, rng: photo.resize((round(1.4 * photo.width), photo.height)),
    "upside down": lambda photo, others, rng: photo.transpose(Image.Transpose.ROTATE_180),
    "dark": lambda photo, others, rng: ImageEnhance.Brightness(photo).enhance(0.35),
    "turned by 15 degrees, cropped": lambda photo, others, rng: crop(turn(photo, 15), 0.8, rng),
    "border, text, JPEG": lambda photo, others, rng: jpeg(written(border(photo, 0.06, rng), rng), 35),
    "crop, colours, half the size": lambda photo, others, rng: colours(
        crop(photo.resize((photo.width // 2, photo.height // 2)), 0.8, rng), rng
    ),
    "crop 75%, watermark": lambda photo, others, rng: watermark(crop(photo, 0.75, rng), rng),
    "crop 60%, mirrored, watermark, JPEG": lambda photo, others, rng: jpeg(
        watermark(ImageOps.mirror(crop(photo, 0.6, rng)), rng), 40
    ),
    "a part in large pixels": lambda photo, others, rng: pixelated(photo),
    "turned by 45 degrees, whole": lambda photo, others, rng: photo.rotate(
        45, Image.Resampling.BICUBIC, expand=True, fillcolor="white"
    ),
    "collage of three thirds": lambda photo, others, rng: third(photo, others),
    "a sticker": lambda photo, others, rng: stickers(photo, rng, count=1, share=0.33),
    "three stickers": lambda photo, others, rng: stickers(photo, rng, count=3, share=0.22),
    "a smaller photo on it": lambda photo, others, rng: with_inset(photo, others[0]),
    "negative": lambda photo, others, rng: ImageOps.invert(photo),
    "negative, crop 80%, mirrored": lambda photo, others, rng: ImageOps.invert(
        ImageOps.mirror(crop(photo, 0.8, rng))
    ),
}
"""Other edits."""
