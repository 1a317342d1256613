"""A JSON file of one form is read within bounds; whatever else stands there is one line that names it."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedrec._internal.json_files import read_checked
from fedrec.errors import ServiceError, TrainingError
from fedrec.protocol.schema import Strict


class Answer(Strict):
    """A form with one number."""

    number: int


def read(path: Path, *, largest: int = 100, remedy: str = "") -> Answer:
    return read_checked(
        path,
        Answer.model_validate_json,
        what="answer",
        error=TrainingError,
        largest=largest,
        remedy=remedy,
    )


def test_a_file_of_the_form_is_read_up_to_its_bound(tmp_path: Path) -> None:
    path = tmp_path / "answer.json"
    path.write_text('{"number": 3}')
    assert read(path, largest=13) == Answer(number=3)
    with pytest.raises(TrainingError) as caught:
        read(path, largest=12)
    assert str(caught.value) == f"{path} is too large: more than 12 bytes"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "its content is not JSON"),
        (b"{", "its content is not JSON"),
        (b"\xff\xfe", "its content is not JSON"),
        (b"[" * 90, "its content is not JSON"),
        (b"[]", "its content must be an object or a table"),
        (b"{}", "'number' is missing"),
        (b'{"number": "3"}', "'number' must be a whole number"),
        (b'{"number": NaN}', "'number' must be a whole number"),
        (b'{"number": 3, "more": 4}', "'more' is unknown"),
    ],
)
def test_another_content_is_one_line_with_the_place(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "answer.json"
    path.write_bytes(content)
    with pytest.raises(TrainingError) as caught:
        read(path, remedy="ask again")
    assert str(caught.value) == f"{path} is no answer: {told}; ask again"


def test_no_file_is_left_to_the_caller_and_a_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "absent.json")
    with pytest.raises(ServiceError) as caught:
        read_checked(tmp_path, Answer.model_validate_json, what="answer", error=ServiceError)
    assert str(caught.value).startswith(f"{tmp_path} can't be read: ")
