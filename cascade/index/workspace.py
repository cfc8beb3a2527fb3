"""The folder of an index: which generation is committed, what is under way, and the switch from one to the other."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

from cascade.errors import IndexCorrupt, IndexMissing, InputError
from cascade.index import arrays, files

logger = logging.getLogger(__name__)

CURRENT = "CURRENT"
LOCK = "LOCK"
BUILDING = "building"
STATE = "state.json"

_GENERATION = re.compile(r"generation-(\d{6,9})")
_MOST_STATE_BYTES = 1 << 24


def current_generation(target: Path) -> str:
    """The name of the committed generation.

    Raises:
        IndexMissing: there is none.
        IndexCorrupt: CURRENT does not name one.
    """
    path = target / CURRENT
    if not path.exists():
        if (target / BUILDING).is_dir():
            raise IndexMissing(f"{target}: holds an index whose building was interrupted; index again to finish it")
        raise IndexMissing(f"{target}: there is no index here; make one with 'cascade index'")
    data = arrays.read_small(path, 64)
    name = data.decode("ascii", "replace").removesuffix("\n")
    if _GENERATION.fullmatch(name) is None or data != f"{name}\n".encode():
        raise IndexCorrupt(f"{path}: expected the name of a generation, got {data!r}; {arrays.REBUILD}")
    return name


def check_target(target: Path) -> None:
    """Makes sure that ``target`` is an index folder or can become one, so that nothing else is ever touched.

    Raises:
        InputError: it is a file, or a folder with other things in it.
    """
    if not target.exists():
        return
    if not target.is_dir():
        raise InputError(f"{target}: expected a folder for the index, got a file; name another place")
    names = {path.name for path in target.iterdir()}
    if names and LOCK not in names and CURRENT not in names:
        raise InputError(f"{target}: expected an index or an empty folder, got other files; name another place")


class Workspace:
    """A writer's view of the index folder, whose lock it holds.

    Args:
        target: the index folder.
        recipe: all that decides what is built; work that was begun under an equal one is taken up again.
    """

    def __init__(self, target: Path, recipe: dict[str, Any]) -> None:
        self._target = target
        self._building = target / BUILDING
        self._recipe = recipe
        self._name = self._next_name()
        self.generation = self._building / "generation"
        self._done = self._take_up()

    def is_done(self, step: str) -> bool:
        """Whether a step was finished, in this run or an earlier one."""
        return step in self._done

    def folder(self, relative: str, *, fresh: bool) -> Path:
        """A folder of the new generation: emptied if ``fresh``, else as an interrupted run left it."""
        path = self.generation / relative
        if fresh:
            files.remove_tree(path)
        files.make_folder(path)
        return path

    def finish(self, step: str, folder: Path) -> None:
        """Makes a step's files durable, then notes that it need not be done again."""
        files.sync_tree(folder)
        for parent in folder.relative_to(self._building).parents:
            files.sync(self._building / parent)
        self._done = [*self._done, step]
        self._write_state(self._done)

    def commit(self) -> Path:
        """Makes the new generation the committed one. Readers of the older one keep what they have mapped."""
        committed = self._target / self._name
        files.replace(self.generation, committed)
        files.sync(self._building)
        files.sync(self._target)
        files.write_atomically(self._target / CURRENT, f"{self._name}\n".encode())
        self._remove_leftovers()
        return committed

    def _next_name(self) -> str:
        numbers = [
            int(match[1]) for path in self._target.iterdir() if (match := _GENERATION.fullmatch(path.name)) is not None
        ]
        try:
            number = int(current_generation(self._target).rpartition("-")[2])
        except IndexMissing:
            number = 0
        except IndexCorrupt:
            number = max(numbers, default=0)  # one of them is an index with a damaged CURRENT: leave all alone
        return f"generation-{number + 1:06d}"

    def _take_up(self) -> list[str]:
        """The steps that are done: those of an interrupted run of the same recipe, or none, after clearing up."""
        renamed = self._target / self._name
        done = self._steps_done()
        if done and renamed.exists() and not self.generation.exists():
            files.replace(renamed, self.generation)  # interrupted between the two renames of a commit
        if done and self.generation.exists():
            logger.info("%s: going on with an interrupted build; done: %s", self._target, ", ".join(done))
            return done
        files.remove_tree(renamed)
        files.remove_tree(self._building)
        files.make_folder(self.generation)
        self._write_state([])
        return []

    def _steps_done(self) -> list[str]:
        """What the state file says is done; nothing if it is missing, unreadable or of another recipe."""
        path = self._building / STATE
        if not path.exists():
            return []
        try:
            state = json.loads(arrays.read_small(path, _MOST_STATE_BYTES))
            return [str(step) for step in state["done"]] if state["recipe"] == self._recipe else []
        except (IndexCorrupt, ValueError, KeyError, TypeError, RecursionError) as error:
            logger.warning("%s: unreadable: %s; building from the start", path, error)
            return []

    def _write_state(self, done: list[str]) -> None:
        files.write_atomically(self._building / STATE, json.dumps({"recipe": self._recipe, "done": done}).encode())

    def _remove_leftovers(self) -> None:
        """Removes what the committed generation replaces; failing to costs only disk space."""
        old = [
            path
            for path in self._target.iterdir()
            if path.name != self._name and _GENERATION.fullmatch(path.name) is not None
        ]
        for folder in [*old, self._building]:
            _try_to_remove(folder)


def _try_to_remove(folder: Path) -> None:
    try:
        files.remove_tree(folder)
    except OSError as error:
        logger.warning("%s: could not be removed: %s; the next build will try again", folder, error)
