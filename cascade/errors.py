"""Every error the engine raises on purpose.

::

    CascadeError
     ├── ConfigError            a YAML file is wrong; carries every problem found, each with file and line
     ├── UnknownKind            no installed package offers a stage of that kind
     ├── InputError             a corpus, query, judgment or run file, or a call's argument, is wrong
     ├── ModelError             a model is missing, unreadable or of the wrong shape
     ├── BadIndex               something about an index directory
     │    ├── IndexMissing      there is no committed index at that path
     │    ├── IndexCorrupt      a file is damaged: wrong size, checksum, header or structure
     │    ├── IndexMismatch     the index was built with other models or settings than asked for
     │    └── IndexLocked       another process is writing to it
     ├── StageError             a stage raised, or returned something impossible
     ├── DeadlineExceeded       the budget ran out under ``on_overrun: fail``; carries the ranking so far
     ├── Overloaded             the query was refused at the door; says when to come back
     └── Cancelled              the caller withdrew the query

Messages say where, what was expected, what came, and what to do next.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cascade.types import Ranking


class CascadeError(Exception):
    """The root: catch this to catch everything the engine raises on purpose."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in a configuration file.

    Args:
        path: where in the document, as in ``stages[2].batch_tokens``; empty for the whole document.
        message: what was expected, what came, what to do.
        line: line in the file, from 1; 0 when it has none.
    """

    path: str
    message: str
    line: int = 0

    def render(self, source: str) -> str:
        """``file:line: path: message``."""
        place = f"{source}:{self.line}" if self.line else source
        return f"{place}: {self.path}: {self.message}" if self.path else f"{place}: {self.message}"


class ConfigError(CascadeError):
    """A configuration is wrong; ``problems`` holds everything found, in file order."""

    def __init__(self, source: str, problems: Iterable[Problem]) -> None:
        self.source = source
        self.problems = tuple(sorted(problems, key=lambda p: (p.line, p.path)))
        super().__init__("\n".join(problem.render(source) for problem in self.problems))


class UnknownKind(CascadeError):
    """No installed package offers a stage of that kind, or the one that does cannot be imported."""


class InputError(CascadeError):
    """An input file or argument is wrong; the message names file and line where there is one."""


class ModelError(CascadeError):
    """A model is missing, unreadable, or not of the architecture that its stage needs."""


class BadIndex(CascadeError):
    """Something is wrong with an index directory."""


class IndexMissing(BadIndex):
    """There is no committed index at the path."""


class IndexCorrupt(BadIndex):
    """An index file is damaged; rebuild the index or restore it from a copy."""


class IndexMismatch(BadIndex):
    """The index was built with other models or settings than the configuration asks for."""


class IndexLocked(BadIndex):
    """Another process is writing to the index."""


class StageError(CascadeError):
    """A stage raised, hung, or returned something impossible, and was told not to degrade."""


class DeadlineExceeded(CascadeError):
    """The budget ran out under ``on_overrun: fail``; ``ranking`` is the best order known at that moment."""

    def __init__(self, message: str, ranking: Ranking) -> None:
        super().__init__(message)
        self.ranking = ranking


class Overloaded(CascadeError):
    """The engine refused a query that it could not have answered in time.

    Args:
        message: why.
        retry_after_s: seconds after which a new try is predicted to fit.
    """

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Cancelled(CascadeError):
    """The caller withdrew the query before it was answered."""
