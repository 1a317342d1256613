"""Tell by a folder's name, or by a cell of a table, which split it is."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal

Split = Literal["train", "validation", "test"]

SPLITS: Final[tuple[Split, ...]] = ("train", "validation", "test")

_WORDS: Final[dict[Split, str]] = {
    "train": (
        "train training trn trainval trained entrainement apprentissage entrenamiento entrenar "
        "treinamento treino treinar addestramento allenamento trainieren trainings lernen "
        "opleiding träning trening treningowe szkolenie uczenie koulutus trénink eğitim pelatihan "
        "обучение обучающая обучающие обучающий тренировка тренировочная тренировочные навчання "
        "训练 訓練 学習 훈련 학습 تدريب التدريب אימון प्रशिक्षण ฝึก huấnluyện"
    ),
    "validation": (
        "validation validations valid validate validating val vals vali vld dev devel development "
        "eval evals evaluation evaluate crossvalidation validacion validación validação "
        "validazione convalida validierung validieren validierungs validatie validering validasi "
        "walidacja walidacyjne doğrulama валидация валидационная валидационные валидационный "
        "проверка проверочная 验证 驗證 検証 評価 评估 검증 평가 تحقق التحقق אימות सत्यापन "
        "xácthực"
    ),
    "test": (
        "test tests testing tst holdout heldout teste testes testy testowe testowy testi essai "
        "essais prueba pruebas collaudo prüfen prüfung pruefung pengujian toets тест тесты "
        "тестовая тестовые тестовый тестирование 测试 測試 テスト 테스트 시험 اختبار الاختبار "
        "בדיקה מבחן परीक्षण ทดสอบ kiểmtra"
    ),
}
_WEAK_WORDS: Final[dict[Split, str]] = {
    "train": "tr learning learn fit seen",
    "validation": "va vl tune tuning",
    "test": "te ts unseen prova uji",
}
"""What may be anything else: it counts only where all folders beside it mean splits, too."""
_AROUND: Final = (
    "my|x|the|for|of|data|dataset|datasets|set|sets|split|splits|fold|folder|images|image|imgs|img|photos|photo|"
    "pictures|picture|pics|samples|files|daten|datensatz|bilder|fotos|foto|datos|dati|dane|imagenes|immagini|"
    "imagens|donnees|jeu|conjunto|zbior|данные|выборка|набор|集|组|用|数据|数据集|图片|照片|データ|セット|画像|写真|용|"
    "데이터|셋|세트|사진"
)
_COMPARED: Final = re.compile(
    rf"({_AROUND})?(query|queries|gallery|galleries|probes?|distractors?|unlabell?ed|unannotated|无标签|未标注)"
    rf"({_AROUND})?\d*"
)
"""What data sets have beside a training split for search, or for learning without classes: no split here."""


def _letters(name: str) -> str:
    plain = unicodedata.normalize("NFKD", name).casefold()
    # Without accents and separators; what is composed of several signs in NFKD is put together again.
    letters = "".join(sign for sign in plain if unicodedata.category(sign)[0] in "LN" or sign in "゙゚")
    return unicodedata.normalize("NFKC", letters)


def _patterns(words: Mapping[Split, str]) -> dict[Split, re.Pattern[str]]:
    around = f"({_letters_of_all(_AROUND.split('|'))})?"
    return {
        split: re.compile(
            rf"\d{{0,2}}{around}{around}({_letters_of_all(text.split())}){around}{around}(19|20)?\d{{0,2}}"
        )
        for split, text in words.items()
    }


def _letters_of_all(words: Iterable[str]) -> str:
    return "|".join(sorted(map(_letters, words)))


_PATTERNS: Final = _patterns(_WORDS)
_WEAK_PATTERNS: Final = _patterns(_WEAK_WORDS)
_ALONE: Final[dict[str, Split]] = {
    _letters(word): split for split, text in _WORDS.items() for word in text.split()
}


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
    """Return what part of a data set a name means: a split, or "compared" for what else lies beside one.

    Args:
        name: a folder's name.

    Returns:
        The part; None for any other name.
    """
    return split_of(name) or ("compared" if _COMPARED.fullmatch(_letters(name)) else None)


def says_no_more(name: str, *, split: Split) -> bool:
    """Return whether a folder in a split's folder adds nothing by its name, as ``train/images`` does.

    Args:
        name: the inner folder's name.
        split: the split that the outer folder means.

    Returns:
        Whether it only repeats the split, or names photos in general.
    """
    return (
        _split_in(name) == split
        or re.fullmatch(_letters_of_all(_AROUND.split("|")), _letters(name)) is not None
    )


def _split_in(name: str) -> Split | None:
    told = split_word(name)
    return split_of(name) or (None if told is None else told[1])


def splits_among(names: Sequence[str]) -> dict[str, Split]:
    """Return which names of folders beside each other mean splits.

    :func:`split_of` knows some names by themselves. Others count that differ in nothing but a split's word:
    ``hats_train`` and ``hats_test``, ``train_v2`` and ``val_v2``, ``trainA`` and ``testA``. Words such as
    ``tr`` and ``te`` count where every name means a split.

    Args:
        names: the names.

    Returns:
        The split of each name that means one.
    """
    found: dict[str, Split] = {name: split for name in names if (split := split_of(name)) is not None}
    decorated: dict[str, dict[str, Split]] = {}
    for name in names:
        if name not in found and (told := split_word(name)) is not None:
            decorated.setdefault(told[0], {})[name] = told[1]
    for group in decorated.values():
        if len(set(group.values())) > 1:
            found |= group
    weak: dict[str, Split] = {
        name: split for name in names if (split := found.get(name) or _weak(name)) is not None
    }
    if len(weak) == len(set(names)) and len(set(weak.values())) > 1 and "train" in weak.values():
        return weak
    return found


def _weak(name: str) -> Split | None:
    letters = _letters(name)
    return next((split for split, pattern in _WEAK_PATTERNS.items() if pattern.fullmatch(letters)), None)


def split_word(name: str) -> tuple[str, Split] | None:
    """Return the rest of a name that has exactly one word of a split in it, and the split; None for others.

    Args:
        name: any name.
    """
    words = words_of(name)
    places = [place for place, word in enumerate(words) if word in _ALONE]
    if len(places) != 1:
        return None
    (place,) = places
    return " ".join(word for at, word in enumerate(words) if at != place), _ALONE[words[place]]


def words_of(name: str) -> list[str]:
    """Return the words and numbers in a name, without case and accents; ``trainA`` has two."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", unicodedata.normalize("NFC", name))
    return [_letters(part) for part in re.findall(r"[^\W\d_]+|\d+", apart)]
