"""Further things that people do to a photo that isn't theirs, none of which set a limit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps
from recognition_edits import Edit, crop, jpeg

Draws = np.random.Generator


def colour(rng: Draws) -> tuple[int, int, int]:
    """Draw a colour."""
    red, green, blue = (int(level) for level in rng.integers(0, 256, 3))
    return red, green, blue


def curved(photo: Image.Image, curve: Callable[[np.ndarray], np.ndarray]) -> Image.Image:
    """Map the pixels, from 0 to 1, by a function."""
    values = curve(np.asarray(photo, dtype=np.float64) / 255)
    return Image.fromarray(np.clip(np.rint(255 * values), 0, 255).astype(np.uint8))


def heart(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, fill: tuple[int, int, int]) -> None:
    """Draw a heart."""
    turn = np.linspace(0, 2 * np.pi, 60)
    across = 16 * np.sin(turn) ** 3
    up = 13 * np.cos(turn) - 5 * np.cos(2 * turn) - 2 * np.cos(3 * turn) - np.cos(4 * turn)
    draw.polygon([(x + radius * a / 17, y - radius * b / 17) for a, b in zip(across, up, strict=True)], fill)


def star(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, fill: tuple[int, int, int]) -> None:
    """Draw a star."""
    turns = np.arange(10) * np.pi / 5 - np.pi / 2
    sizes = np.where(np.arange(10) % 2, 0.45 * radius, radius)
    draw.polygon(
        [(x + r * np.cos(t), y + r * np.sin(t)) for r, t in zip(sizes, turns, strict=True)], fill, "white"
    )


def emoji(photo: Image.Image, rng: Draws, *, count: int, share: float) -> Image.Image:
    """Lay hearts and stars over it anywhere, each so much of its shorter side wide."""
    made = photo.copy()
    draw, radius = ImageDraw.Draw(made), share * min(photo.size) / 2
    for number in range(count):
        x, y = (float(rng.uniform(radius, side - radius)) for side in photo.size)
        (heart, star)[number % 2](draw, x, y, radius, colour(rng))
    return made


def middle(photo: Image.Image, rng: Draws, *, share: float) -> Image.Image:
    """Cover a share of the area, in the middle, by a patterned sticker."""
    made = photo.copy()
    width, height = (round(np.sqrt(share) * side) for side in photo.size)
    left, top = (photo.width - width) // 2, (photo.height - height) // 2
    draw = ImageDraw.Draw(made)
    box = (left, top, left + width, top + height)
    if rng.random() < 0.5:
        draw.rounded_rectangle(box, radius=width // 8, fill=colour(rng), outline="black", width=3)
    else:
        draw.rectangle(box, fill=colour(rng))
    font = ImageFont.load_default(size=max(10, height // 4))
    draw.text((left + width // 10, top + height // 5), "SOLD\nOUT", fill=colour(rng), font=font)
    return made


def phone(photo: Image.Image, rng: Draws) -> Image.Image:
    """Show it in a dark app of a phone: bars, a name, buttons, a caption, rounded corners."""
    width = 320
    height = round(width * photo.height / photo.width)
    dark = bool(rng.random() < 0.5)
    paper, ink = ((18, 18, 20), (235, 235, 235)) if dark else ((255, 255, 255), (20, 20, 20))
    made = Image.new("RGB", (width, height + 250), paper)
    draw = ImageDraw.Draw(made)
    draw.text((12, 6), "18:04", fill=ink, font=ImageFont.load_default(size=14))
    draw.ellipse((12, 36, 52, 76), fill=colour(rng))
    draw.text((62, 46), "vintage.closet", fill=ink, font=ImageFont.load_default(size=16))
    corners = Image.new("L", (width - 16, height))
    ImageDraw.Draw(corners).rounded_rectangle((0, 0, width - 16, height), 18, fill=255)
    made.paste(photo.resize((width - 16, height)), (8, 90), corners)
    for place in range(3):
        heart(draw, 30 + 44 * place, height + 118, 14, (220, 40, 60) if place == 0 else (130, 130, 130))
    for line in range(3):
        draw.text((12, height + 146 + 22 * line), "so pretty!! only today, dm me", fill=ink)
    return made


def of_a_screen(photo: Image.Image, rng: Draws) -> Image.Image:
    """Photograph a screen: at a slant, with a moire of its lines, a reflection, noise, and compressed."""
    pixels = np.asarray(photo, dtype=np.float64)
    rows, columns = np.indices(pixels.shape[:2])
    angle, period = rng.uniform(-0.3, 0.3), rng.uniform(2.2, 4.5)
    wave = np.sin(2 * np.pi * (columns * np.cos(angle) + rows * np.sin(angle)) / period)
    beat = np.sin(2 * np.pi * (columns + 1.3 * rows) / rng.uniform(30, 60))
    pixels *= (1 + 0.08 * wave * (1 + beat))[..., None]
    away = np.hypot(rows - rng.uniform(0, rows.max()), columns - rng.uniform(0, columns.max()))
    pixels += 70 * np.exp(-((away / (0.3 * min(photo.size))) ** 2))[..., None]
    pixels = pixels * [0.92, 0.98, 1.06] + rng.normal(0, 5, pixels.shape)
    width, height = photo.size
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], dtype=np.float32)
    moved = (corners * 0.84 + [0.08 * width, 0.08 * height]).astype(np.float32)
    moved += (rng.uniform(-0.05, 0.05, (4, 2)) * [width, height]).astype(np.float32)
    matrix = cv2.getPerspectiveTransform(corners, moved)
    shown = cv2.warpPerspective(
        np.clip(pixels, 0, 255).astype(np.uint8), matrix, photo.size, borderValue=(25, 24, 28)
    )
    return jpeg(Image.fromarray(shown.astype(np.uint8)), 60)


def passed_on(photo: Image.Image) -> Image.Image:
    """Send it on four times: reduced and compressed each time."""
    made = photo
    for quality, scale in ((30, 0.9), (20, 0.85), (15, 0.9), (12, 1.2)):
        made = jpeg(made.resize((round(scale * made.width), round(scale * made.height))), quality)
    return made


def framed_turn(photo: Image.Image, rng: Draws) -> Image.Image:
    """Turn it by three degrees on a coloured page, with a frame."""
    degrees = 3.0 if rng.random() < 0.5 else -3.0
    page = photo.rotate(degrees, Image.Resampling.BICUBIC, expand=True, fillcolor=colour(rng))
    return ImageOps.expand(page, round(0.05 * min(photo.size)), colour(rng))


def vignette(photo: Image.Image) -> Image.Image:
    """Darken the corners."""
    y, x = np.indices((photo.height, photo.width))
    away = np.hypot(2 * x / photo.width - 1, 2 * y / photo.height - 1)
    return curved(photo, lambda values: values * np.clip(1.15 - 0.62 * away**2, 0.1, 1)[..., None])


def film(photo: Image.Image, rng: Draws) -> Image.Image:
    """Fade it as old film: a curve for each colour, lifted blacks, grain."""
    grain = cv2.GaussianBlur(rng.normal(0, 0.09, (photo.height, photo.width)), (0, 0), 0.8)
    powers = rng.uniform(0.7, 1.5, 3)
    return curved(photo, lambda values: 0.12 + 0.8 * values**powers + grain[..., None])


def large_pixels(photo: Image.Image, side: int) -> Image.Image:
    """Show all of it in large pixels."""
    few = photo.resize((photo.width // side, photo.height // side), Image.Resampling.BOX)
    return few.resize(photo.size, Image.Resampling.NEAREST)


def mirrored_collage(photo: Image.Image, others: Sequence[Image.Image], rng: Draws) -> Image.Image:
    """Put the mirrored photo beside or above another one, with a gap and a line of text."""
    upright = bool(rng.random() < 0.5)
    gap, (width, height) = 8, photo.size
    size = (width, 2 * height + gap) if upright else (2 * width + gap, height)
    made = Image.new("RGB", (size[0], size[1] + 40), colour(rng))
    pictures = [ImageOps.mirror(photo), ImageOps.fit(others[0], photo.size)]
    for place, picture in enumerate(pictures[:: 1 if rng.random() < 0.5 else -1]):
        made.paste(picture, (0, place * (height + gap)) if upright else (place * (width + gap), 0))
    ImageDraw.Draw(made).text((10, size[1] + 8), "NEW IN | size S-XL", fill="white", font_size=22)
    return made


def gif(photo: Image.Image, colours: int) -> Image.Image:
    """Save it with few colours, dithered."""
    return photo.quantize(colours, dither=Image.Dither.FLOYDSTEINBERG).convert("RGB")


def solarised(photo: Image.Image, level: int) -> Image.Image:
    """Turn the levels above one round."""
    return ImageOps.solarize(photo, level)


def stamped(photo: Image.Image, rng: Draws) -> Image.Image:
    """Repeat a name densely, in another font size, slant and colour than those that are known."""
    layer = Image.new("RGBA", (2 * max(photo.size), 2 * max(photo.size)))
    draw, size = ImageDraw.Draw(layer), int(rng.integers(11, 20))
    fill = (*colour(rng), int(rng.integers(90, 150)))
    for row in range(0, layer.height, round(size * rng.uniform(1.7, 2.6))):
        draw.text((-(row * 7 % 60), row), "lookbook.example * " * 20, fill=fill, font_size=size)
    layer = layer.rotate(float(rng.uniform(-35, -10)))
    left, top = (layer.width - photo.width) // 2, (layer.height - photo.height) // 2
    layer = layer.crop((left, top, left + photo.width, top + photo.height))
    return Image.alpha_composite(photo.convert("RGBA"), layer).convert("RGB")


def row_of(photo: Image.Image, others: Sequence[Image.Image], rng: Draws, *, count: int) -> Image.Image:
    """Show a part of the photo, cut to fit, beside parts of others."""
    pictures = [photo, *others][:count]
    height = photo.height
    width = round(rng.uniform(0.35, 0.55) * height)
    made = Image.new("RGB", (count * (width + 6) - 6, height), colour(rng))
    for place, picture in zip(rng.permutation(count), pictures, strict=True):
        middle = (float(rng.uniform(0.4, 0.6)), 0.5)
        made.paste(ImageOps.fit(picture, (width, height), centering=middle), (int(place) * (width + 6), 0))
    return made


def banner(photo: Image.Image, rng: Draws) -> Image.Image:
    """Lay an opaque bar with a text across it."""
    made = photo.copy()
    draw, height = ImageDraw.Draw(made), round(rng.uniform(0.14, 0.24) * photo.height)
    top = int(rng.integers(0, photo.height - height))
    draw.rectangle((0, top, photo.width, top + height), fill=colour(rng))
    draw.text((12, top + height // 4), "-50% THIS WEEK", fill=colour(rng), font_size=height // 2)
    return made


def two_colours(photo: Image.Image, rng: Draws) -> Image.Image:
    """Map light to one colour and dark to another."""
    dark, light = ([int(level * share) for level in colour(rng)] for share in (0.4, 1))
    light = [max(150, level) for level in light]
    return ImageOps.colorize(photo.convert("L"), tuple(dark), tuple(light))


def local_contrast(photo: Image.Image) -> Image.Image:
    """Raise the contrast of each part, as "HDR" filters do."""
    lab = cv2.cvtColor(np.asarray(photo), cv2.COLOR_RGB2LAB)
    lab[..., 0] = cv2.createCLAHE(4.0, (6, 6)).apply(np.ascontiguousarray(lab[..., 0]))
    return Image.fromarray(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB).astype(np.uint8))


def noisy(photo: Image.Image, rng: Draws) -> Image.Image:
    """Add strong noise."""
    return curved(photo, lambda values: values + rng.normal(0, 0.1, values.shape))


def round_picture(photo: Image.Image) -> Image.Image:
    """Cut a circle out of it, on white."""
    side = min(photo.size)
    mask = Image.new("L", (side, side))
    ImageDraw.Draw(mask).ellipse((0, 0, side - 1, side - 1), fill=255)
    made = Image.new("RGB", (side, side), "white")
    made.paste(ImageOps.fit(photo, (side, side)), (0, 0), mask)
    return made


def slanted(photo: Image.Image) -> Image.Image:
    """Shear it."""
    return photo.transform(
        photo.size, Image.Transform.AFFINE, (1, 0.2, -0.1 * photo.height, 0, 1, 0), Image.Resampling.BICUBIC
    )


MORE: Mapping[str, Edit] = {
    "hearts and stars, five of 18%": lambda photo, others, rng: emoji(photo, rng, count=5, share=0.18),
    "a heart of 45%": lambda photo, others, rng: emoji(photo, rng, count=1, share=0.45),
    "covered in the middle, 25%": lambda photo, others, rng: middle(photo, rng, share=0.25),
    "covered in the middle, 40%": lambda photo, others, rng: middle(photo, rng, share=0.40),
    "a bar of text": lambda photo, others, rng: banner(photo, rng),
    "in an app on a phone": lambda photo, others, rng: phone(photo, rng),
    "photographed from a screen": lambda photo, others, rng: of_a_screen(photo, rng),
    "passed on four times": lambda photo, others, rng: passed_on(photo),
    "turned by 3 degrees, framed": lambda photo, others, rng: framed_turn(photo, rng),
    "dark corners": lambda photo, others, rng: vignette(photo),
    "film": lambda photo, others, rng: film(photo, rng),
    "8 levels a colour": lambda photo, others, rng: ImageOps.posterize(photo, 3),
    "4 levels a colour": lambda photo, others, rng: ImageOps.posterize(photo, 2),
    "in pixels of 4": lambda photo, others, rng: large_pixels(photo, 4),
    "in pixels of 8": lambda photo, others, rng: large_pixels(photo, 8),
    "mirrored, in a collage with text": mirrored_collage,
    "GIF of 16 colours": lambda photo, others, rng: gif(photo, 16),
    "GIF of 4 colours": lambda photo, others, rng: gif(photo, 4),
    "solarised at 128": lambda photo, others, rng: solarised(photo, 128),
    "solarised at 90": lambda photo, others, rng: solarised(photo, 90),
    "dense small stamps": lambda photo, others, rng: stamped(photo, rng),
    "crop 75%, dense stamps": lambda photo, others, rng: stamped(crop(photo, 0.75, rng), rng),
    "crop 60%, mirrored, stamps": lambda photo, others, rng: stamped(
        ImageOps.mirror(crop(photo, 0.6, rng)), rng
    ),
    "one of two parts in a row": lambda photo, others, rng: row_of(photo, others, rng, count=2),
    "one of three parts in a row": lambda photo, others, rng: row_of(photo, others, rng, count=3),
    "in two colours": lambda photo, others, rng: two_colours(photo, rng),
    "local contrast": lambda photo, others, rng: local_contrast(photo),
    "sharpened": lambda photo, others, rng: photo.filter(ImageFilter.UnsharpMask(3, 250, 0)),
    "noise": lambda photo, others, rng: noisy(photo, rng),
    "a circle of it": lambda photo, others, rng: round_picture(photo),
    "sheared": lambda photo, others, rng: slanted(photo),
    "crop, 40% of the sides": lambda photo, others, rng: crop(photo, 0.4, rng),
    "a quarter of the size": lambda photo, others, rng: photo.resize((photo.width // 4, photo.height // 4)),
}
"""Edits by name."""
