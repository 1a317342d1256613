"""Names in less usual encodings are read by how often languages use their letters."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fedrec.vision.listing.found_encoding import with_found_encoding
from fedrec.vision.listing.photo_places import list_photos
from tests.support.pictures import picture

WORDS = {
    "cp949": "모자 시계 쌰츠 햏숖 가방",
    "euc_jp": "帽子 時計 靴 コップ シャツ 財布",
    "cp932": "ﾎﾞｳｼ ｸﾂ ｺｯﾌﾟ ｼｬﾂ ｶﾊﾞﾝ",
    "cp1125": "капелюхи взуття кухлі спідниці їжа",
    "cp850": "Hüte Gürtel Röcke Mäntel Töpfe",
    "cp1250": "żakiety spódnice książki piłki łyżki",
    "cp852": "čepice boty_dětské hrníčky brýle sukně",
    "cp1253": "καπέλα ρολόγια τσάντες γυαλιά φούστες",
    "cp737": "καπέλα ρολόγια τσάντες γυαλιά φούστες",
    "cp1254": "şapkalar ayakkabı çantalar yüzük eşarp",
    "cp1255": "כובעים שעונים נעליים תיקים כוסות משקפיים",
    "cp1256": "قبعات ساعات أحذية حقائب أكواب",
    "cp1257": "kepurės batai_žiemai sijonai_ilgį žiedai šalikai",
    "iso8859_2": "żakiety spódnice książki piłki łyżki",
    "iso8859_5": "Шапка Обувь сумки Куртка платье",
    "mac_roman": "Mützen Röcke Gürtel Mäntel Töpfe",
    "mac_latin2": "čepice boty_dětské hrníčky brýle sukně",
    "mac_romanian": "căciulă încălțăminte cămașă geantă pălării brățară mănuși",
    "mac_turkish": "şapkalar ayakkabı çantalar yüzük eşarp",
    "mac_greek": "καπέλα ρολόγια τσάντες γυαλιά φούστες",
    "mac_cyrillic": "Шапка Обувь Сумки Куртка ПЛАТЬЯ",
    "cp874": "หมวก นาฬิกา รองเท้า กระเป๋า แก้ว",
}


@pytest.mark.parametrize("encoding", WORDS)
def test_folders_of_a_language_are_read_as_they_were_called(tmp_path: Path, encoding: str) -> None:
    words = WORDS[encoding].split()
    for word in words:
        folder = tmp_path / os.fsdecode(word.encode(encoding))
        folder.mkdir()
        picture(folder / "1.png", len(word))
    found = list_photos(with_found_encoding(tmp_path))
    assert {photo.label for photo in found.pictures} == set(words)
    assert any("not in UTF-8, and read as" in note for note in found.notes)
