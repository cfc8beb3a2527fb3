"""Reports and comparisons for a terminal."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table
from rich.text import Text

from cascade.evaluation.compare import Comparison
from cascade.evaluation.gap import GapReport, Verdict
from cascade.evaluation.probability import Calibrated
from cascade.evaluation.tables import (
    TextTable,
    comparison_remarks,
    comparison_tables,
    gap_remarks,
    gap_tables,
    pair_tables,
    plain,
)

_STYLES: dict[Verdict, str] = {
    "starts": "",
    "pays": "green",
    "does not pay": "yellow",
    "hurts": "red",
    "did not run": "yellow",
}


def render(report: GapReport) -> Group:
    """Quality, gains, cuts and cost by stage, one sentence for each stage's verdict, and what to bear in mind."""
    parts = [part for table in gap_tables(report) for part in _titled(table)]
    parts += [Text(plain(stage.sentence), style=_STYLES[stage.verdict]) for stage in report.stages]
    parts += [Text(plain(remark), style="yellow") for remark in gap_remarks(report)]
    return Group(*parts)


def render_comparison(comparison: Comparison) -> Group:
    """The means, then for every pair a verdict, the tests and the worst losses."""
    parts = [part for table in comparison_tables(comparison) for part in _titled(table)]
    for pair in comparison.pairs:
        for table in pair_tables(pair):
            parts += _titled(table)
    parts += [Text(plain(pair.sentence)) for pair in comparison.pairs]
    parts += [Text(plain(remark), style="dim") for remark in comparison_remarks(comparison)]
    return Group(*parts)


def render_calibration(fitted: Calibrated) -> Group:
    """What was fitted to what, and how far off it is."""
    return Group(
        Text(f"{fitted.stage}: probability of relevance", style="bold"),
        Text(
            f"Fitted to {fitted.scores} scores of {fitted.queries} queries, {fitted.relevant} of them of relevant "
            f"documents; calibration error on queries left out of the fit: {fitted.error:.4f}."
        ),
    )


def _titled(table: TextTable) -> list[Table | Text]:
    """A title flush left, the table, an empty line."""
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for column, heading in enumerate(table.headings):
        drawn.add_column(Text(heading), justify="left" if column < table.names else "right", overflow="fold")
    for row in table.rows:
        drawn.add_row(*map(Text, row))
    return [Text(table.title, style="bold"), drawn, Text()]
