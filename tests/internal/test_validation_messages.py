"""What a person is told of a file that doesn't fit its schema."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError

from fedrec._internal.validation_messages import problem_text


class Inner(BaseModel):
    count: int


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    parts: tuple[Inner, ...] = ()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{}", "'name' is missing"),
        ('{"name": 3}', "'name' must be text"),
        ('{"name": "a", "nmae": "b"}', "'nmae' is unknown"),
        ('{"name": "a", "parts": [{"count": 1}, {"count": "x"}]}', "'parts.1.count' must be a whole number"),
        ('{"name": "a", "parts": 1}', "'parts' must be a list"),
        ("[]", "its content must be an object or a table"),
        ("{", "its content is not JSON"),
        ('{"name": "a", "one\\nline": 1}', "'one line' is unknown"),
    ],
)
def test_the_first_problem_of_a_schema_is_told_in_plain_english(text: str, told: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate_json(text)
    assert problem_text(caught.value) == told


def test_other_errors_are_told_in_their_own_words() -> None:
    assert (
        problem_text(FileNotFoundError(2, "No such file or directory", "/x")) == "No such file or directory"
    )
    assert problem_text(KeyError("listen")) == "'listen' is missing"
    assert problem_text(ValueError("line 3:\nno number")) == "line 3: no number"
