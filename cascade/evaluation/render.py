"""The gap report as tables for a terminal."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table
from rich.text import Text

from cascade.evaluation.gap import GAIN_MEASURE, PRECISION, GapReport, Verdict

_STYLES: dict[Verdict, str] = {"starts": "", "pays": "green", "does not pay": "yellow", "hurts": "red"}


def render(report: GapReport) -> Group:
    """Quality by stage, cost by stage, and one sentence for each stage's verdict."""
    parts: list[Table | Text] = [_quality(report), _cost(report)]
    parts += [Text(stage.sentence, style=_STYLES[stage.verdict]) for stage in report.stages]
    if report.missing:
        parts.append(Text(f"{len(report.missing)} judged queries have no results and count as zero.", style="yellow"))
    if report.unjudged:
        parts.append(
            Text(f"{len(report.unjudged)} queries have no judgments and count for latency only.", style="yellow")
        )
    return Group(*parts)


def _quality(report: GapReport) -> Table:
    table = Table(title=f"Quality after each stage, {report.judged_count} judged queries")
    table.add_column("stage", no_wrap=True)
    names = list(report.stages[0].measures)
    for name in (*names, f"gain in {GAIN_MEASURE}", f"{PRECISION} before", "recall ceiling", "relevant lost"):
        table.add_column(name, justify="right")
    for stage in report.stages:
        gain = stage.gain
        table.add_row(
            stage.name,
            *(f"{stage.measures[name]:.3f}" for name in names),
            "" if gain is None else f"{gain.difference:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]",
            _number(stage.precision_before, ".3f"),
            f"{stage.recall_ceiling:.3f}",
            str(stage.relevant_lost),
        )
    return table


def _cost(report: GapReport) -> Table:
    table = Table(title=f"Cost of each stage, {report.query_count} queries")
    table.add_column("stage", no_wrap=True)
    for name in ("scored", "p50 ms", "p95 ms", "p99 ms", "over budget", f"ms per point of {GAIN_MEASURE}"):
        table.add_column(name, justify="right")
    for stage in report.stages:
        latency = stage.latency_ms
        table.add_row(
            stage.name,
            f"{stage.scored_mean:.1f}",
            *(f"{value:.2f}" for value in (latency.p50, latency.p95, latency.p99)),
            _number(stage.over_budget, ".1%"),
            _number(stage.ms_per_point, ".3g"),
        )
    latency = report.latency_ms
    table.add_section()
    table.add_row(
        "all",
        "",
        *(f"{value:.2f}" for value in (latency.p50, latency.p95, latency.p99)),
        _number(report.over_budget, ".1%"),
        "",
    )
    return table


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
