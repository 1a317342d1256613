"""The catalogue of exit codes in ``docs/exit-codes.md`` against ``fedrec.errors``, both ways."""

from __future__ import annotations

import inspect
import re

from fedrec import errors
from tests.support.layout import DOCS

PAGE = DOCS / "exit-codes.md"


def catalogue() -> dict[str, tuple[int, str, str]]:
    """Class name -> (code, meaning, what to do), from the rows of the page's table."""
    rows = re.findall(
        r"^\| *(\d+) *\| *`(\w+)` *\| *(.+?) *\| *(.+?) *\|$", PAGE.read_text("utf-8"), re.MULTILINE
    )
    listed = {name: (int(code), meaning, remedy) for code, name, meaning, remedy in rows}
    assert len(listed) == len(rows), "a class stands in the table twice"
    return listed


def error_classes() -> dict[str, type[errors.FedrecError]]:
    return {
        name: member
        for name, member in inspect.getmembers(errors, inspect.isclass)
        if issubclass(member, errors.FedrecError) and member.__module__ == errors.__name__
    }


def test_every_error_is_in_the_catalogue_with_its_code() -> None:
    listed = catalogue()
    assert {name: cls.exit_code for name, cls in error_classes().items()} == {
        name: code for name, (code, _, _) in listed.items()
    }


def test_codes_are_distinct_and_can_be_exit_codes() -> None:
    codes = [cls.exit_code for cls in error_classes().values()]
    assert len(set(codes)) == len(codes)
    assert all(1 <= code <= 255 for code in codes)
    # 126 to 165 belong to the shell; 130 is what a shell itself gives for an interrupt.
    assert {code for code in codes if 126 <= code <= 165} == {130}
    # A subclass that forgets its own code would take its parent's.
    assert all("exit_code" in vars(cls) for cls in error_classes().values())


def test_rows_are_in_order_and_say_what_to_do() -> None:
    listed = catalogue()
    codes = [code for code, _, _ in listed.values()]
    assert codes == sorted(codes)
    assert all(meaning.endswith(".") and remedy.endswith(".") for _, meaning, remedy in listed.values())
