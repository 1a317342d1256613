"""Look up a choice (scheme, optimizer, model, ...) by name: built in, or from an entry point of a package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, Protocol, TypeVar

from pydantic import ValidationError

from fedrec._internal.suggestions import did_you_mean
from fedrec._internal.validation_messages import first_problem
from fedrec.errors import ConfigError


class Named(Protocol):
    """A specification with a name."""

    @property
    def name(self) -> str:
        """The name in configurations, plans and reports."""
        ...


Spec = TypeVar("Spec", bound=Named)


class Registry(Generic[Spec]):
    """Hold the specifications of one kind of choice, by name.

    A package adds a specification by an entry point of ``group``: the entry point has the specification's
    name and refers to the specification. It is loaded on first use. A program adds one for itself with
    :meth:`add`. Names are unique.

    Args:
        kind: the class of the specifications.
        what: the kind's name in messages, such as "aggregation scheme".
        group: the entry-point group, such as "fedrec.schemes".
        builtin: the specifications of this package, the default first.
        unlisted: further ones that are found by name, and no choice to offer.
    """

    def __init__(
        self,
        kind: type[Spec],
        *,
        what: str,
        group: str,
        builtin: Sequence[Spec],
        unlisted: Sequence[Spec] = (),
    ) -> None:
        self._kind = kind
        self._what = what
        self._group = group
        self._builtin = {spec.name: spec for spec in (*builtin, *unlisted)}
        self._unlisted = {spec.name for spec in unlisted}
        self._loaded: dict[str, Spec] = {}
        self._own: dict[str, Spec] = {}

    def add(self, spec: Spec) -> None:
        """Add a specification in this process only; replace one that was added under the same name.

        Raises:
            ConfigError: a built-in specification or a package has that name, or the object is not a
                specification of this kind.
        """
        if not isinstance(spec, self._kind):
            raise ConfigError(
                f"a {type(spec).__name__} does not specify a {self._what}: it must be a {self._kind.__name__}"
            )
        if spec.name in self._builtin or spec.name in self._added:
            raise ConfigError(f"{self._what} {spec.name!r} has a name that is taken: give it another")
        self._own[spec.name] = spec

    def names(self) -> tuple[str, ...]:
        """Return the names to choose from, the default first; ``ConfigError`` if two are equal."""
        listed = (name for name in self._builtin if name not in self._unlisted)
        return (*listed, *self._added, *self._own)

    def get(self, name: str) -> Spec:
        """Return a specification.

        Returns:
            The specification of that name, loaded from its package if necessary.

        Raises:
            ConfigError: the name is unknown, or the object that a package registers under it can't be used;
                the message says what is wrong or missing.
        """
        added = self._added
        if name in self._builtin:
            return self._builtin[name]
        if name in self._own:
            return self._own[name]
        if name not in added:
            known = self.names()
            hint = did_you_mean(name, known) or ";"
            raise ConfigError(f"there is no {self._what} {name!r}{hint} choose one of {', '.join(known)}")
        if name not in self._loaded:
            self._loaded[name] = self._load(added[name])
        return self._loaded[name]

    def entry(self, name: str) -> EntryPoint | None:
        """Return the entry point that an installed package adds a specification by, without loading it."""
        return self._added.get(name)

    @cached_property
    def _added(self) -> Mapping[str, EntryPoint]:
        found: dict[str, EntryPoint] = {}
        for entry in sorted(entry_points(group=self._group), key=lambda entry: entry.name):
            if entry.name in self._builtin or entry.name in found:
                raise ConfigError(
                    f"{_package(entry)} registers {self._what} {entry.name!r}, a name that is taken: "
                    "uninstall it, or give its entry point another name"
                )
            found[entry.name] = entry
        return found

    def _load(self, entry: EntryPoint) -> Spec:
        where = f"{self._what} {entry.name!r} of {_package(entry)} can't be used"
        try:
            spec = entry.load()
        except ValidationError as error:
            problem = first_problem(error)
            raise ConfigError(f"{where}: {'.'.join(problem.where)} {problem.text}".rstrip()) from error
        # A package's code may raise anything during import; the user gets one line.
        except Exception as error:
            raise ConfigError(f"{where}: {error}") from error
        if not isinstance(spec, self._kind):
            raise ConfigError(
                f"{where}: its entry point is a {type(spec).__name__}, not a {self._kind.__name__}"
            )
        if spec.name != entry.name:
            raise ConfigError(f"{where}: its specification has another name, {spec.name!r}")
        return spec


def _package(entry: EntryPoint) -> str:
    return "a package" if entry.dist is None else f"package {entry.dist.name}"
