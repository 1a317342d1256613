"""Tell by a table's header which column holds what.

The header alone decides: rows are units of privacy, and none of them may decide about another.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from fedrec._internal.text import listed, one_line
from fedrec.errors import DataError
from fedrec.vision.listing.folder_names import FolderNames
from fedrec.vision.listing.legacy_text import SHOWN_AS, raw_name
from fedrec.vision.listing.split_names import Split, split_of, words_of

COLUMNS: Final = ("path", "label", "product", "split", "merchant")
_SPELLINGS: Final = {
    "path": (
        "path file filename filepath image imagepath imagefile imagename img imgpath imgfile "
        "imgname photo photofile photopath picture relativepath relpath 路径 文件 文件名 图片 "
        "图片路径 照片 图像 画像 写真 ファイル パス 파일 이미지 사진 datei dateiname dateipfad "
        "pfad bild fichier chemin archivo ruta imagen foto путь файл"
    ),
    "label": (
        "label labels class classname classlabel category categoryname target 类别 标签 类 分类 "
        "品类 種類 クラス ラベル カテゴリ 라벨 레이블 클래스 카테고리 klasse kategorie classe "
        "catégorie categoria categoría clase etiqueta étiquette класс категория метка"
    ),
    "product": (
        "product productid sku 产品 商品 产品编号 商品编号 produkt produit producto prodotto товар 상품 제품"
    ),
    "split": (
        "split splits set subset partition splitname splitset datasplit dataset datasetsplit "
        "subsetname usage phase traintest trainval trainvaltest trainortest traintestsplit "
        "trainvalsplit trainvaltestsplit 划分 数据划分 数据集 数据集划分 集合 子集 分组 分割 "
        "データ分割 セット 데이터분할 분할 aufteilung teilmenge conjunto subconjunto partición "
        "partição particion ensemble répartition insieme suddivisione выборка разбиение"
    ),
    "merchant": "merchant seller shop vendor store 商家 店铺 卖家 händler vendeur vendedor magasin 판매자",
}


def _plain(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text).casefold()
    letters = "".join(sign for sign in plain if unicodedata.category(sign)[0] in "LN" or sign in "゙゚")
    return unicodedata.normalize("NFKC", letters)


_KNOWN: Final = {_plain(word): name for name, words in _SPELLINGS.items() for word in words.split()}


def known_column(cell: str) -> str | None:
    """Return which of ``COLUMNS`` a name in a header means; None for any other name."""
    return _KNOWN.get(_plain(cell))


def read_header(
    table: Path, cells: Sequence[str], *, encoding: str | None = None
) -> tuple[list[str], list[str]]:
    """Return the known name of each column, empty for others, and the names of the others.

    Args:
        table: the file, for messages.
        cells: the header, with lone surrogates for bytes that are not in UTF-8.
        encoding: encoding of text that is not in UTF-8; None for the one in which the columns are known.

    Returns:
        The names, and the cells of columns that are not used.

    Raises:
        DataError: a needed column is missing, two mean the same, or one that is none of the known ones seems
            to say which rows are not to be trained on.
    """
    names: list[str] = []
    unused: list[str] = []
    cells = _decoded(cells, encoding)
    for cell in cells:
        names.append(_KNOWN.get(_plain(cell), ""))
        if not names[-1] and _plain(cell):
            unused.append(one_line(cell.strip(), most=40))
    for needed in ("path", "label"):
        if needed not in names:
            shown = one_line(listed([cell.strip() for cell in cells]) or "nothing")
            raise DataError(
                f"{table} has no column {needed!r}; its header, the first line, names {shown}; path and "
                "label are needed, product, split and merchant are read. 'fedrec data table' makes such a "
                "file from this one"
            )
    twice = [name for name in COLUMNS if names.count(name) > 1]
    if twice:
        raise DataError(f"{table} has two columns for {twice[0]!r}: leave one")
    if "split" not in names:
        _refuse_other_splits(table, unused)
    return names, unused


def _decoded(cells: Sequence[str], encoding: str | None) -> list[str]:
    """Return the header's text: Excel in China writes CSV files in GBK, and their header with them."""
    if all(raw_name(cell) is None for cell in cells):
        return list(cells)
    for candidate in SHOWN_AS if encoding is None else (encoding,):
        names = FolderNames(candidate)
        texts = [names.text(cell) for cell in cells]
        if {"path", "label"} <= {_KNOWN.get(_plain(text)) for text in texts}:
            return texts
    return [FolderNames(encoding).text(cell) for cell in cells]


def _refuse_other_splits(table: Path, unused: Sequence[str]) -> None:
    """Raise ``DataError`` for a column such as is_test: without it, all rows would be trained on."""
    for cell in unused:
        words = words_of(cell)
        kinds: set[Split] = {split for word in words if (split := split_of(word)) is not None}
        if kinds or re.search("split|partition|holdout", _plain(cell)):
            raise DataError(
                f"{table} has a column {cell!r}, which seems to say which rows are not to be trained on, but "
                "isn't understood: name one column 'split', with train, validation or test in each row; if "
                "it means something else, give it another name"
            )
