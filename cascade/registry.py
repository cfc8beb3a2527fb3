"""From the name of a kind to its ``StageKind``, through the entry points of installed packages, lazily."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from cascade.errors import UnknownKind
from cascade.stage import StageKind

STAGES_GROUP = "cascade.stages"


def load_entry(entry: EntryPoint) -> Any:
    """What an entry point names.

    Raises:
        UnknownKind: its module does not import.
    """
    try:
        return entry.load()
    except Exception as error:
        raise UnknownKind(f"{entry.name!r} is offered by {entry.value}, which does not import: {error}") from error


def offered(group: str, name: str, unknown: str) -> EntryPoint:
    """The entry point of that name in a group.

    Raises:
        UnknownKind: with ``unknown`` and what is installed, when nothing offers it.
    """
    entries = {entry.name: entry for entry in entry_points(group=group)}
    if name not in entries:
        known = ", ".join(sorted(entries)) if entries else "none; install the package again"
        raise UnknownKind(f"{unknown}; installed: {known}")
    return entries[name]


class Registry:
    """The kinds of stage that are installed. A kind's module is imported when the kind is first asked for."""

    def __init__(self, kinds: Iterable[StageKind] = ()) -> None:
        """Starts from ``kinds``, which win over entry points of the same name; tests and notebooks use this."""
        self._kinds: dict[str, StageKind] = {kind.kind: kind for kind in kinds}
        self._entry_points: Mapping[str, EntryPoint] = {e.name: e for e in entry_points(group=STAGES_GROUP)}

    def names(self) -> list[str]:
        """All kinds, sorted."""
        return sorted({*self._kinds, *self._entry_points})

    def usable(self) -> tuple[list[StageKind], list[UnknownKind]]:
        """All kinds that can be imported, sorted by name, and what is wrong with the others."""
        found, wrong = [], []
        for name in self.names():
            try:
                found.append(self.get(name))
            except UnknownKind as error:
                wrong.append(error)
        return found, wrong

    def get(self, kind: str) -> StageKind:
        """The kind of that name.

        Raises:
            UnknownKind: with the nearest name, when nothing offers it or its module does not import.
        """
        if kind in self._kinds:
            return self._kinds[kind]
        if kind not in self._entry_points:
            near = difflib.get_close_matches(kind, self.names(), n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"installed kinds: {', '.join(self.names())}"
            raise UnknownKind(f"unknown {kind!r}; {hint}")
        entry = self._entry_points[kind]
        found = load_entry(entry)
        if not isinstance(found, StageKind):
            raise UnknownKind(f"{kind!r}: {entry.value} is a {type(found).__name__}, expected a StageKind")
        self._kinds[kind] = found
        return found

    def add(self, kind: StageKind) -> None:
        """Makes a kind known to this registry without an entry point, as a notebook would."""
        self._kinds[kind.kind] = kind
