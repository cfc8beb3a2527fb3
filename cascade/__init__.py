"""cascade: a multi-stage cascade ranking engine under one latency budget.

Everything named in ``__all__`` is imported when it is first used, so that ``import cascade`` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cascade.api import Cascade, index_corpus
    from cascade.arguments import FROM_CONFIG
    from cascade.clock import Deadline
    from cascade.cost import CostProfile
    from cascade.errors import (
        BadIndex,
        Cancelled,
        CascadeError,
        ConfigError,
        DeadlineExceeded,
        IndexCorrupt,
        IndexLocked,
        IndexMismatch,
        IndexMissing,
        InputError,
        ModelError,
        Overloaded,
        StageError,
        UnknownKind,
    )
    from cascade.index import Index
    from cascade.io import read_corpus, read_qrels, read_queries, read_run, write_run
    from cascade.load import load_config, parse_config
    from cascade.registry import Registry
    from cascade.trace import StageTrace, Trace
    from cascade.types import Document, Hit, Qrel, Query, Ranking, ScoredDoc

_PUBLIC = {
    "cascade.api": ("Cascade", "index_corpus"),
    "cascade.arguments": ("FROM_CONFIG",),
    "cascade.clock": ("Deadline",),
    "cascade.cost": ("CostProfile",),
    "cascade.errors": (
        "BadIndex",
        "Cancelled",
        "CascadeError",
        "ConfigError",
        "DeadlineExceeded",
        "IndexCorrupt",
        "IndexLocked",
        "IndexMismatch",
        "IndexMissing",
        "InputError",
        "ModelError",
        "Overloaded",
        "StageError",
        "UnknownKind",
    ),
    "cascade.index": ("Index",),
    "cascade.io": ("read_corpus", "read_qrels", "read_queries", "read_run", "write_run"),
    "cascade.load": ("load_config", "parse_config"),
    "cascade.registry": ("Registry",),
    "cascade.trace": ("StageTrace", "Trace"),
    "cascade.types": ("Document", "Hit", "Qrel", "Query", "Ranking", "ScoredDoc"),
}
_MODULE_OF = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = [
    "FROM_CONFIG",
    "BadIndex",
    "Cancelled",
    "Cascade",
    "CascadeError",
    "ConfigError",
    "CostProfile",
    "Deadline",
    "DeadlineExceeded",
    "Document",
    "Hit",
    "Index",
    "IndexCorrupt",
    "IndexLocked",
    "IndexMismatch",
    "IndexMissing",
    "InputError",
    "ModelError",
    "Overloaded",
    "Qrel",
    "Query",
    "Ranking",
    "Registry",
    "ScoredDoc",
    "StageError",
    "StageTrace",
    "Trace",
    "UnknownKind",
    "index_corpus",
    "load_config",
    "parse_config",
    "read_corpus",
    "read_qrels",
    "read_queries",
    "read_run",
    "write_run",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULE_OF[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
