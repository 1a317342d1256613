"""Generate a command's options from the fields of a pydantic schema or of a frozen dataclass."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, TypeVar, Union, get_args, get_origin, get_type_hints

import typer
from pydantic import BaseModel

Command = Callable[..., None]
_Options = TypeVar("_Options")
_PLAIN = (int, float, str, Path)


def options_of(schema: type[BaseModel]) -> Callable[[Command], Command]:
    """Give a command an option for each field of a schema, with the field's description as help.

    The command's first parameter receives a mapping of the given options by field name. The schema checks
    their values. The command's other parameters stay options of their own, listed first in the help. A schema
    that has a ``heading`` gives it to the options of the fields that it declares.

    Args:
        schema: the schema; each field has a type that one option can hold.

    Returns:
        A decorator for the command.

    Raises:
        TypeError: a field has a type that no option can hold.
    """
    generated = [
        _parameter(name, field.annotation, field.description, heading=_heading(schema, name))
        for name, field in schema.model_fields.items()
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

        return _with_parameters(run, [*own, *generated], like=command)

    return decorate


def fields_as_options(
    options: Callable[..., _Options],
) -> Callable[[Callable[[_Options], None]], Command]:
    """Give a command an option or argument for each field of a frozen dataclass.

    Each field is annotated as Typer wants a parameter. The command's only parameter receives the dataclass.

    Args:
        options: the dataclass.

    Returns:
        A decorator for the command.
    """
    hints = get_type_hints(options, include_extras=True)
    generated = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=parameter.default,
            annotation=hints[name],
        )
        for name, parameter in inspect.signature(options).parameters.items()
    ]

    def decorate(command: Callable[[_Options], None]) -> Command:
        def run(**values: Any) -> None:
            command(options(**values))

        return _with_parameters(run, generated, like=command)

    return decorate


def _with_parameters(run: Command, parameters: Iterable[inspect.Parameter], *, like: Command) -> Command:
    """Give ``run`` a signature for Typer to read, and the name and help of another command."""
    keywords = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    run.__name__, run.__doc__ = like.__name__, like.__doc__
    run.__signature__ = inspect.Signature(keywords)  # type: ignore[attr-defined]  # inspect reads it
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in keywords}
    return run


def _heading(schema: type[BaseModel], field: str) -> str | None:
    """Return the heading of the class that declares a field."""
    declaring = next(each for each in schema.__mro__ if field in inspect.get_annotations(each))
    return getattr(declaring, "heading", None)


def _parameter(
    name: str, annotation: Any, description: str | None, *, heading: str | None
) -> inspect.Parameter:
    flag = f"--{name.replace('_', '-')}"
    kind = _kind(annotation, name)
    flags = (f"{flag}/--no-{flag[2:]}",) if kind is bool else (flag,)
    option: Any = Annotated[Optional[kind], typer.Option(*flags, help=description, rich_help_panel=heading)]  # noqa: UP045 - a value
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option)


def _kind(annotation: Any, name: str) -> type:
    """Return the type that an option's text is parsed as; the schema checks its own bounds later."""
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
    raise TypeError(f"{name} has type {annotation}, which no option can hold")
