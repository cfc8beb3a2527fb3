"""``cascade stages``."""

from __future__ import annotations

from rich.table import Table

from cascade.cli.output import show
from cascade.registry import Registry


def stages() -> None:
    """Lists the installed kinds of stage, ours and third parties'.

    Example: cascade stages
    """
    registry = Registry()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("kind", "role", "what it does"):
        table.add_column(name)
    for name in registry.names():
        kind = registry.get(name)
        table.add_row(name, "by settings" if callable(kind.role) else kind.role, kind.summary)
    show(table)
