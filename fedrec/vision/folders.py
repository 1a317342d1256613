"""Folders of photos: list the pictures with their class and merchant, and decode one."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Literal

from PIL import Image, ImageOps, UnidentifiedImageError

from fedrec.errors import DataError

SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif"})
"""File name endings of pictures, in lower case."""

UNREAD_SUFFIXES: Final = frozenset(
    {
        ".tif",
        ".tiff",
        ".heic",
        ".heif",
        ".avif",
        ".jxl",
        ".jp2",
        ".psd",
        ".svg",
        ".raw",
        ".dng",
        ".cr2",
        ".nef",
    }
)
"""Endings of pictures that are reported and skipped: their decoders are large, or not available everywhere.
Files with other endings are ignored."""

MAX_PIXELS: Final = 64_000_000
"""Pictures with more pixels than this are not decoded (a small file can unpack to gigabytes)."""

# Formats that are decoded, whatever the file's name says. Pillow's other decoders, some of which start
# other programs, are never tried on an untrusted file.
_FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP", "GIF")

Layout = Literal["class", "product"]


@dataclass(frozen=True)
class Picture:
    """A file that should hold a picture.

    Attributes:
        path: the file.
        label: name of its class.
        merchant: name of its merchant, None without merchant folders.
        product: name of its product, None without product folders.
    """

    path: Path
    label: str
    merchant: str | None
    product: str | None = None


@dataclass(frozen=True)
class Unusable:
    """A file that looks like a picture by its name and is not opened.

    Attributes:
        path: the file.
        reason: why not, in one line.
        merchant: name of its merchant, None without merchant folders.
    """

    path: Path
    reason: str
    merchant: str | None = None


@dataclass(frozen=True)
class Listing:
    """Pictures in a folder, and files that look like pictures and can't be used; each sorted by path."""

    pictures: tuple[Picture, ...]
    unusable: tuple[Unusable, ...]


def decode(
    source: Path | BinaryIO, *, least_side: int | None = None, most_pixels: int | None = None
) -> Image.Image:
    """Decode one picture as people see it.

    EXIF orientation is applied, transparency is laid on white, and grey, palette, CMYK and 16-bit pictures
    become 8-bit RGB. The first frame of an animation is taken. Colour profiles are ignored.

    Args:
        source: the file, or its content as a file that is open for reading.
        least_side: a short side in pixels that is enough: a JPEG may be decoded at a half, a quarter or an
            eighth of its size then, in a fraction of the time. None for all pixels.
        most_pixels: a picture with more is refused before it is decoded; None for ``MAX_PIXELS``.

    Returns:
        The picture in mode RGB.

    Raises:
        DataError: the file is not a whole picture of a known format, or has too many pixels; the text is a
            reason of one line, without the path.
    """
    most = MAX_PIXELS if most_pixels is None else most_pixels
    try:
        with Image.open(source, formats=_FORMATS) as opened:
            if opened.width * opened.height > most:
                raise DataError(f"{opened.width} x {opened.height} pixels are over the limit of {most}")
            if least_side is not None:
                opened.draft(None, (least_side, least_side))
            opened.load()
            return _to_rgb(ImageOps.exif_transpose(opened))
    except DataError:
        raise
    # Decoders of broken files raise nearly anything: OSError, SyntaxError, struct.error, ValueError.
    except Exception as error:
        raise DataError(_reason(error, source)) from error


def _reason(error: Exception, source: Path | BinaryIO) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not a picture of a known format"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"more than {MAX_PIXELS} pixels"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    shown = str(error)
    if isinstance(source, Path):
        shown = shown.replace(str(source), source.name)
    lines = shown.splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'cannot be decoded'}"


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # 16-bit grey: "I;16" in its byte orders, or "I" in older Pillow; keep the high byte.
        return image.convert("I").point(lambda value: value * (1 / 256)).convert("L").convert("RGB")
    if image.mode in {"RGBA", "LA", "PA", "La", "RGBa"} or "transparency" in image.info:
        layered = image.convert("RGBA")
        white = Image.new("RGBA", layered.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layered).convert("RGB")
    return image.convert("RGB")


def list_pictures(root: Path, *, layout: Layout = "class", one_merchant: bool = False) -> Listing:
    """Find the pictures below ``root``: ``CLASS/picture``, or ``MERCHANT/CLASS/picture``.

    In layout "product" each class holds a folder per product: ``CLASS/PRODUCT/picture``, or
    ``MERCHANT/CLASS/PRODUCT/picture``. The first level is merchants when all pictures lie one level deeper.
    Hidden files and folders are ignored. A folder's name in NFC form is its class. A picture is a regular
    file, or a link to one: opening anything else could block.

    Args:
        root: the folder.
        layout: "class" or "product".
        one_merchant: all pictures belong to one merchant: there is no merchant level. An unlistable folder
            or a picture at another depth is then listed as unusable and leaves the others as they are.

    Returns:
        The pictures and the unusable files.

    Raises:
        DataError: ``root`` cannot be listed, or mixes depths.
    """
    least = 1 if layout == "class" else 2
    most = least if one_merchant else least + 1
    found: dict[bool, list[Picture]] = {False: [], True: []}
    unusable: list[Unusable] = []
    walked = _walk(root, (), deepest=least + 2, unlisted=unusable if one_merchant else None)
    for folders, files in walked:
        nested = len(folders) > least
        merchant = _name(folders[0]) if nested and not one_merchant else None
        if not least <= len(folders) <= most:
            where = "not in a class folder" if layout == "class" else "not in a product folder"
            unusable += [Unusable(path, where, merchant) for path in files]
            continue
        wrong = {path: reason for path in files if (reason := _not_read(path)) is not None}
        unusable += [Unusable(path, reason, merchant) for path, reason in wrong.items()]
        files = [path for path in files if path not in wrong]
        label = _name(folders[nested])
        product = None if layout == "class" else _name(folders[-1])
        found[nested] += [Picture(path, label, merchant, product) for path in files]
    if found[False] and found[True]:
        shape = "CLASS/" if layout == "class" else "CLASS/PRODUCT/"
        raise DataError(
            f"{root} mixes pictures in {shape} ({found[False][0].path.relative_to(root)}) with pictures in "
            f"MERCHANT/{shape} ({found[True][0].path.relative_to(root)}): use one layout"
        )
    pictures = sorted(
        found[False] or found[True], key=lambda picture: picture.path.relative_to(root).as_posix()
    )
    return Listing(tuple(pictures), tuple(sorted(unusable, key=lambda file: file.path)))


def _not_read(path: Path) -> str | None:
    """Return why a file that looks like a picture is not opened; None where it is opened."""
    suffix = path.suffix.lower()
    if suffix in UNREAD_SUFFIXES:
        return f"{suffix[1:].upper()} pictures are not read: save it as JPEG or PNG"
    try:
        return None if path.is_file() else "not a regular file"
    except OSError as error:
        return error.strerror or "not a regular file"


def _walk(
    folder: Path, above: tuple[Path, ...], *, deepest: int, unlisted: list[Unusable] | None
) -> Iterator[tuple[tuple[Path, ...], list[Path]]]:
    """Yield (folders from the root down, files that look like pictures in the last one), down to ``deepest``.

    Args:
        folder: where to start.
        above: folders from the root to ``folder``; empty for the root itself.
        deepest: number of levels below the root.
        unlisted: receives folders below the root that can't be listed; None to raise instead.

    Yields:
        The folders' chain, and the files.

    Raises:
        DataError: a folder can't be listed, and it is the root or ``unlisted`` is None.
    """
    try:
        files, folders = children(folder)
    except DataError:
        if unlisted is None or not above:
            raise
        unlisted.append(Unusable(folder, "can't be listed: check its permissions"))
        return
    yield above, files
    if len(above) < deepest:
        for inner in folders:
            yield from _walk(inner, (*above, inner), deepest=deepest, unlisted=unlisted)


def _name(folder: Path) -> str:
    # Names that are not valid UTF-8 arrive with lone surrogates, which can be neither printed nor hashed.
    readable = folder.name.encode("utf-8", "replace").decode("utf-8")
    return unicodedata.normalize("NFC", readable)


def children(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return a folder's files that look like pictures, and its folders; each sorted, without hidden ones."""
    try:
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
        folders = [entry for entry in entries if _is_folder(entry)]
    except OSError as error:
        raise DataError(f"{folder} cannot be listed ({error.strerror}): check its permissions") from error
    looks, inner = SUFFIXES | UNREAD_SUFFIXES, set(folders)
    return [entry for entry in entries if entry.suffix.lower() in looks and entry not in inner], folders


def _is_folder(entry: Path) -> bool:
    """Return whether an entry is a folder; False for a link whose target can't be read."""
    try:
        return entry.is_dir()
    except OSError:
        return False
