"""Say which names speak against the way in which folders and photos are read.

All of it is told to the owner of the photos and changes nothing: a class may have any name, and a photo's
name decides about no photo.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from fedrec._internal.csv_lines import CsvLines, open_csv
from fedrec._internal.look_alikes import mixed_words
from fedrec._internal.text import counted, listed
from fedrec.errors import DataError
from fedrec.vision.folders import Layout
from fedrec.vision.listing.folder_names import quoted
from fedrec.vision.listing.folder_tree import looks_like_photo
from fedrec.vision.listing.split_names import Split, split_of, split_word, splits_among, words_of
from fedrec.vision.listing.table_columns import read_header

_MOST: Final = 5
_SELDOM_A_CLASS: Final = re.compile(
    # What file managers call a copy, and a new folder.
    r".+[ _-]?\(\d+\)|.+[ _-]+(copy|kopie|copie|copia|cópia|副本|コピー|복사본)( ?\(?\d+\)?)?|.+[-_]副本|"
    r"(copy|kopie|copie|copia) (of|von|de|di) .+|.+conflict(ed)?[ _-]copy.*|"
    r".+[ ._-](sync-)?conflict([ ._-].*)?|"
    # What servers and programs keep for themselves.
    r"[@#$~].+|.+\.(tmp|part|crdownload|lrdata|app|download)|"
    r"(new|untitled) folder.*|neuer ordner.*|nouveau dossier.*|nueva carpeta.*|nova pasta.*|"
    r"nuova cartella.*|новая папка.*|新建文件夹.*|新增資料夾.*|新しいフォルダー?.*|새 폴더.*|"
    # What isn't sorted, or no longer wanted.
    r"uns?orted|(un-?)?label?led|uncategori[sz]ed|unclassified|to[ _-]?sort|unsortiert|未分类|待分类|未整理|"
    r"trash|rubbish|recycle bin|deleted.*|papierkorb|corbeille|papelera|回收站|backups?|old|tmp|temp|cache|"
    r"node_modules|"
    # Versions of photos.
    r"originals?|cropped|resized|scaled|augment(ed|ation)s?|previews?|"
    r"[_@]?thumb(s|nails?)?|\d{2,4} ?x ?\d{2,4}|"
    # Views of a product, and what shops use its photos for.
    r"(front|back|rear|left|right|side)([ _-]?(view|side))?|(top|bottom)[ _-]?view|"
    r"(main|detail|gallery|white)[ _-]?(images?|photos?|pics)|details?|close[ _-]?ups?|lifestyle|"
    r"正面|背面|反面|侧面|側面|细节|細節|主图|主圖|详情图?|詳情圖?|白底图|白底圖|场景图|sku图|大图|小图|"
    r"vorderseite|rückseite|avant|arrière|détails?|frente|"
    # Collections of them.
    r"images?|imgs?|photos?|pictures?|pics|fotos|bilder|jpe?g(images)?s?|pngs?|data(set)?s?|图片|照片|写真|画像|사진|"
    r"sent|received|camera( roll)?|dcim|\d{3}[a-z]{5}|screenshots?|downloads?|whatsapp .*|albums?|"
    r"(photos from )?(19|20)\d\d([-_. ]?(0\d|1[0-2])([-_. ]?\d\d)?)?|"
    # Parts of a data set.
    r"(fold|part|batch|chunk|shard)[ _-]?\d+|annotations?|segmentation[ _-]?(s|class|object|masks?)?|"
    r"ground[ _-]?truth|bounding[ _-]?boxes"
)
_SELDOM_A_MERCHANT: Final = re.compile(r"masks?|mattes?|overlays?|heat[ _-]?maps?|depth([ _-]?maps?)?")
_WINDOWS_DEVICE: Final = re.compile(r"(con|prn|aux|nul|com[1-9¹²³]|lpt[1-9¹²³])(\..*)?", re.IGNORECASE)
_NUMBERED: Final = re.compile(r"([^\W\d_]\D{0,60}?)[ ._()-]{0,3}\d{1,12}\)?(\.\w+)?")
_WINDOWS_SIGNS: Final = frozenset('<>:"|?*\\')
_LISTS: Final = re.compile(
    r"\.(txt|csv|tsv|tab|json|jsonl|ndjson|lst|list|xml|ya?ml|xlsx?|ods|parquet)", re.IGNORECASE
)
_LIST_WORDS: Final = frozenset(
    {"split", "splits", "annotations", "annotation", "labels", "label", "metadata", "manifest"}
)
_TABLES: Final = (".csv", ".tsv")


def doubtful_classes(labels: Iterable[str]) -> list[str]:
    """Say which names of classes seem to be none.

    Args:
        labels: names of the folders that are read as classes.

    Returns:
        One line for names that classes seldom have, and one for those of a split.
    """
    names = sorted(set(labels))
    notes = []
    seldom = [name for name in names if _SELDOM_A_CLASS.fullmatch(name.casefold())]
    if seldom:
        notes.append(
            f"names that classes seldom have, and that are read as classes: {listed(seldom, most=_MOST)}; if "
            "they are none, move these folders away, or their photos to where they belong"
        )
    told = splits_among(names)
    splits = [name for name in names if name in told]
    if splits:
        others = listed([name for name in names if name not in splits], most=_MOST)
        notes.append(
            f"{listed(splits)} {'is' if len(splits) == 1 else 'are'} read as {_classes(len(splits))} beside "
            f"{others or 'no other'}, and not as {'a split' if len(splits) == 1 else 'splits'}"
        )
    return notes


def _classes(number: int) -> str:
    return "a class" if number == 1 else "classes"


def told_merchants(merchants: Iterable[str], *, layout: Layout) -> list[str]:
    """Say that the first level of folders is read as merchants.

    Args:
        merchants: the names of the folders.
        layout: "class" or "product".

    Returns:
        One line; none without merchants.
    """
    names = sorted(set(merchants))
    if not names:
        return []
    hint = "; if they are classes with a folder for each product, use --layout product"
    return [
        f"the folders at the top are taken for {counted(len(names), 'merchant')}, since most photos lie one "
        f"folder deeper than classes do: {listed(names, most=_MOST)}{hint if layout == 'class' else ''}"
    ]


def doubtful_merchants(merchants: Iterable[str]) -> list[str]:
    """Say which names of merchants seem to be none.

    Args:
        merchants: names of the folders that are read as merchants.

    Returns:
        One line; none without such names.
    """
    plain = {name: name.casefold() for name in sorted(set(merchants))}
    seldom = [
        name
        for name, text in plain.items()
        if _SELDOM_A_CLASS.fullmatch(text) or _SELDOM_A_MERCHANT.fullmatch(text)
    ]
    if not seldom:
        return []
    return [
        f"names that merchants seldom have, and that are read as merchants: {listed(seldom, most=_MOST)}; if "
        "they are none, give the folder that holds the classes, and move away what holds none"
    ]


def named_like_other_splits(
    photos: Sequence[Path], split: Split, *, shown: Callable[[Path], str]
) -> list[str]:
    """Say which photos of one split have another one's word in their own names, as in ``test_12.jpg``.

    Args:
        photos: the split's photos.
        split: the split that they are read as.
        shown: returns a path as text.

    Returns:
        One line; none without such photos. A word counts where names have the words of several splits, or
        nothing else but numbers: a shop may sell test tubes.
    """
    found: dict[Split, list[Path]] = {}
    alone: list[Path] = []
    for photo in photos:
        told = split_word(photo.stem)
        if told is not None:
            rest, kind = told
            found.setdefault(kind, []).append(photo)
            if kind != split and not any(sign.isalpha() for sign in rest):
                alone.append(photo)
    others = [photo for kind, named in found.items() if kind != split for photo in named]
    doubtful = sorted(others if len(found) > 1 else alone)
    if not doubtful:
        return []
    examples = listed([shown(photo) for photo in doubtful], most=3)
    what = counted(len(doubtful), f"photo of the {split} split is", plural=f"photos of the {split} split are")
    return [
        f"{what} named like another split ({examples}): names of photos decide nothing, and they are read as "
        f"{split}; if that is wrong, move them to a folder for their split, above the classes"
    ]


def in_folders_of_other_splits(
    photos: Sequence[Path], *, root: Path, shown: Callable[[Path], str]
) -> list[str]:
    """Say which photos that a table has trained on lie in folders for validation or test.

    Args:
        photos: photos of the training split.
        root: the table's folder.
        shown: returns a path as text.

    Returns:
        One line; none without such photos.
    """
    others = {
        folder
        for folder in {photo.parent for photo in photos}
        if any(split_of(part) not in (None, "train") for part in folder.relative_to(root).parts)
    }
    doubtful = [photo for photo in photos if photo.parent in others]
    if not doubtful:
        return []
    examples = listed([shown(photo) for photo in doubtful], most=3)
    what = counted(len(doubtful), "photo lies in a folder", plural="photos lie in folders")
    return [
        f"{what} named like another split ({examples}), and {'is' if len(doubtful) == 1 else 'are'} read as "
        "train, as the table says; a column split would say otherwise"
    ]


def classes_in_names(photos: Iterable[str]) -> list[str]:
    """Say that photos' names may tell their classes, as in ``dog.12.jpg`` and ``cat_3.png``.

    Args:
        photos: names of photos that lie in no class folder.

    Returns:
        One line; none unless most names are a word and a number, with few different words.
    """
    names = list(photos)
    words = Counter(found[1] for name in names if (found := _NUMBERED.fullmatch(name)) is not None)
    if len(words) < 2 or words.total() * 2 <= len(names) or len(words) * 2 > words.total():
        return []
    told = listed(sorted(words, key=lambda word: (-words[word], word)), most=_MOST)
    return [
        f"the photos' names may say what they show ({told}), but names of photos decide nothing: make a "
        "folder for each class, or a CSV file with the columns path and label"
    ]


def mixed_alphabets(names: Iterable[str]) -> list[str]:
    """Say which names have words of two alphabets, whose letters people take for each other.

    Args:
        names: names of classes, products and merchants.

    Returns:
        One line; none without such names.
    """
    mixed = sorted(name for name in set(names) if mixed_words(name))
    if not mixed:
        return []
    shown = [f"{quoted(name)} ({listed(_foreign(name), most=3)})" for name in mixed]
    return [
        "names mix Latin letters with ones of another alphabet within a word, and are used as they are: "
        f"{listed(shown, most=5)}"
    ]


def _foreign(name: str) -> list[str]:
    """Return the names of the letters in mixed words that are not Latin."""
    signs = dict.fromkeys("".join(mixed_words(name)))
    found = [unicodedata.name(sign, "an unnamed sign") for sign in signs]
    return [text.replace(" LETTER", "").lower() for text in found if not text.startswith("LATIN ")]


def not_on_windows(names: Iterable[str]) -> list[str]:
    """Say which names no folder on Windows can have.

    Args:
        names: names of folders.

    Returns:
        One line; none without such names.
    """
    found = sorted(
        name
        for name in set(names)
        if name.endswith(".")
        or _WINDOWS_DEVICE.fullmatch(name)
        or any(sign in _WINDOWS_SIGNS for sign in name)
    )
    if not found:
        return []
    return [
        "names that no folder on Windows can have, so that another shop's folder may lack them, and that are "
        f"used as they are: {listed([quoted(name) for name in found], most=5)}"
    ]


def unread_lists(files: Iterable[Path]) -> list[str]:
    """Say which files beside the photos may tell what these are, and aren't read.

    Args:
        files: files that are no photos.

    Returns:
        One line; none without such files.
    """
    names = list(dict.fromkeys(file.name for file in sorted(files) if _is_list(file)))
    if not names:
        return []
    return [
        f"{listed(names, most=_MOST)} may say what photos show, or which are not to be trained on, and "
        f"{'is' if len(names) == 1 else 'are'} not read: the folders alone decide; give a CSV file with the "
        "columns path, label and split in place of the folder to have it decide"
    ]


def _is_list(file: Path) -> bool:
    # A photo's own data, as in x.jpg.supplemental-metadata.json, and Google's of an album.
    beside = any(looks_like_photo(file.name[:at]) for at, sign in enumerate(file.name) if sign == ".")
    if not _LISTS.fullmatch(file.suffix) or beside or file.name == "metadata.json":
        return False
    words = set(words_of(file.stem))
    if words & _LIST_WORDS or split_word(file.stem) is not None or split_of(file.stem) is not None:
        return True
    return file.suffix.lower() in _TABLES and _has_splits(file)


def _has_splits(table: Path) -> bool:
    """Return whether a table's header has columns for paths, classes and splits."""
    try:
        with open_csv(table) as lines:
            return "split" in read_header(table, CsvLines(lines).header(table).cells)[0]
    except (DataError, OSError):
        return False
