"""Options of a command from the fields of a schema: names, types and help are written there alone."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, Union, get_args, get_origin, get_type_hints

import typer
from pydantic import BaseModel

Command = Callable[..., None]
_PLAIN = (int, float, str, Path)


def options_of(schema: type[BaseModel]) -> Callable[[Command], Command]:
    """Give a command an option for each field of ``schema``, with the field's description as its help.

    The command's first parameter takes the options that were given, by the fields' names; the schema checks
    their values. The command's other parameters stay as they are, and come first in the help.
    """
    generated = [
        _parameter(name, field.annotation, field.description) for name, field in schema.model_fields.items()
    ]

    def decorate(command: Command) -> Command:
        hints = get_type_hints(command, include_extras=True)
        own = [
            parameter.replace(annotation=hints[parameter.name])
            for parameter in list(inspect.signature(command).parameters.values())[1:]
        ]

        def run(**values: Any) -> None:
            kept = {parameter.name: values.pop(parameter.name) for parameter in own}
            command({name: value for name, value in values.items() if value is not None}, **kept)

        parameters = [*own, *generated]
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
        )
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


def _parameter(name: str, annotation: Any, description: str | None) -> inspect.Parameter:
    flag = f"--{name.replace('_', '-')}"
    kind = _kind(annotation, name)
    flags = (f"{flag}/--no-{flag[2:]}",) if kind is bool else (flag,)
    option: Any = Annotated[Optional[kind], typer.Option(*flags, help=description)]  # noqa: UP045 - a value
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option)


def _kind(annotation: Any, name: str) -> type:
    """Return the type that a terminal's text is read as; the schema's bounds are left to the schema."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kind(get_args(annotation)[0], name)
    if origin is Literal:
        return str
    if origin in (Union, types.UnionType):
        parts = [part for part in get_args(annotation) if part is not type(None)]
        if len(parts) == 1:
            return _kind(parts[0], name)
    if annotation is bool or annotation in _PLAIN:
        found: type = annotation
        return found
    raise TypeError(f"{name} has a type that no option has: {annotation}")
