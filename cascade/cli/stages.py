"""``cascade stages``."""

from __future__ import annotations

from rich.table import Table

from cascade.cli.output import say, show
from cascade.registry import Registry


def stages() -> None:
    """Lists the installed kinds of stage, ours and third parties'.

    Example: cascade stages
    """
    registry = Registry()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("kind", "role", "what it does"):
        table.add_column(name)
    kinds, wrong = registry.usable()
    for kind in kinds:
        table.add_row(kind.kind, "by settings" if callable(kind.role) else kind.role, kind.summary)
    show(table)
    for error in wrong:
        say(f"cannot be used: {error}")
