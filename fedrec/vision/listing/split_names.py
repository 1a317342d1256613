"""Tell by a folder's name, or by a cell of a table, which split it is."""

from __future__ import annotations

import re
import unicodedata
from typing import Final, Literal

Split = Literal["train", "validation", "test"]

SPLITS: Final[tuple[Split, ...]] = ("train", "validation", "test")

_WORDS: Final[dict[Split, tuple[str, ...]]] = {
    "train": (
        "train", "training", "trn", "trainval",
        "训练", "訓練", "学習", "entrainement", "entrenamiento", "treino", "обучение", "훈련", "학습",
    ),
    "validation": (
        "validation", "validations", "valid", "validate", "validating", "val", "vals", "vali", "vld", "dev",
        "devel", "development", "eval", "evals", "evaluation", "evaluate", "crossvalidation",
        "验证", "驗證", "検証", "validacion", "validacao", "validierung", "валидация", "검증",
    ),
    "test": (
        "test", "tests", "testing", "tst", "holdout", "heldout",
        "测试", "測試", "テスト", "prueba", "pruebas", "тест", "테스트",
    ),
}  # fmt: skip
_AROUND: Final = "my|x|data|dataset|datasets|set|sets|split|splits|fold|folder|images|image|imgs|img|"
_THINGS: Final = f"({_AROUND}photos|photo|pictures|picture|pics|samples|files|集|数据|数据集|データ|セット)?"
_PATTERNS: Final[dict[Split, re.Pattern[str]]] = {
    split: re.compile(rf"\d{{0,2}}{_THINGS}({'|'.join(words)}){_THINGS}(19|20)?\d{{0,2}}")
    for split, words in _WORDS.items()
}
_COMPARED: Final = re.compile(rf"{_THINGS}(query|queries|gallery|galleries|probes?|distractors?){_THINGS}\d*")
"""What data sets for search have beside a training split; none of it is a split here."""


def split_of(name: str) -> Split | None:
    """Return the split that a name means, in any usual spelling; None for any other name.

    Case, accents, separators, a word such as "set" or "images", and a year or number don't matter: ``Train``,
    ``VAL``, ``testing``, ``train_set``, ``images-val``, ``test2017``.

    Args:
        name: a folder's name, or the text of a cell.
    """
    letters = _letters(name)
    for split, pattern in _PATTERNS.items():
        if pattern.fullmatch(letters):
            return split
    return None


def like_split(name: str) -> str | None:
    """Return what part of a data set a name means: a split, or "compared" for what a search is tested with.

    Args:
        name: a folder's name.

    Returns:
        The part; None for any other name.
    """
    return split_of(name) or ("compared" if _COMPARED.fullmatch(_letters(name)) else None)


def _letters(name: str) -> str:
    plain = unicodedata.normalize("NFKD", name).casefold()
    # Without accents and separators; what is composed of several signs in NFKD is put together again.
    letters = "".join(sign for sign in plain if unicodedata.category(sign)[0] in "LN" or sign in "゙゚")
    return unicodedata.normalize("NFKC", letters)
