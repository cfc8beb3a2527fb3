"""What reports and comparisons say, as tables and sentences of plain text, for a terminal and for HTML alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from cascade.evaluation.compare import Comparison, Pair
from cascade.evaluation.gap import GAIN_MEASURE, PRECISION, GapReport, three_digits
from cascade.evaluation.runs import Latency

MEASURES_ACROSS = 5
"""Columns of measures that fit into a terminal 80 characters wide."""

MOST_CHARACTERS = 100
"""Of a query's text."""

_SHARED = "Without a budget queries may share batches, so that times are not those that a single client would see."
_ENDED = "ended by a stage that says on_overrun: fail, which counts as zero"
_PERCENTILES = ("p50 ms", "p95 ms", "p99 ms")


@dataclass(frozen=True, slots=True)
class TextTable:
    """A table whose first columns name things, and whose others hold numbers.

    Args:
        title: what it shows.
        headings: one for each column.
        rows: as many cells as headings, each.
        names: how many of the first columns hold names.
    """

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    names: int = 1


def plain(text: str) -> str:
    """``text`` on one line, without what would move a terminal's cursor or change its colours."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def gap_tables(report: GapReport) -> list[TextTable]:
    """Quality by stage, what each stage changes, what each cut keeps, and what it all costs."""
    judged = _count(report.judged_count, "judged query", "judged queries")
    tables = _means(
        f"Quality after each stage, before its cut ({judged})", [(s.name, s.measures) for s in report.stages]
    )
    gains = tuple(
        (
            plain(stage.name),
            plain(stage.gain.compared_with),
            f"{stage.gain.difference:+.3f}",
            f"[{stage.gain.low:+.3f}, {stage.gain.high:+.3f}]",
            f"{stage.precision_before:.3f} → {stage.precision_after:.3f}",
        )
        for stage in report.stages
        if stage.gain is not None
    )
    if gains:
        headings = ("stage", "over", "change", "95 % interval", PRECISION)
        tables.append(
            TextTable(
                f"What each stage changes in {GAIN_MEASURE}; {PRECISION} before → after", headings, gains, names=2
            )
        )
    cuts = tuple(
        (plain(stage.name), f"{stage.recall_ceiling:.3f}", str(stage.relevant_received), str(stage.relevant_lost))
        for stage in report.stages
    )
    tables.append(
        TextTable(
            "What each cut leaves to the stages after it",
            ("stage", "recall ceiling", "relevant documents given", "of them lost"),
            cuts,
        )
    )
    return [*tables, _cost(report), _elapsed(report)]


def gap_remarks(report: GapReport) -> list[str]:
    """What to bear in mind when reading the report."""
    remarks = [] if report.over_budget is not None else [_SHARED]
    if report.unanswered:
        count = _count(len(report.unanswered), "query was", "queries were")
        remarks.append(f"{count} {_ENDED}: {_some(report.unanswered)}.")
    missing = [query_id for query_id in report.missing if query_id not in report.unanswered]
    if missing:
        count = _count(len(missing), "judged query has no results", "judged queries have no results")
        remarks.append(f"{count}, which counts as zero: {_some(missing)}.")
    if report.unjudged:
        count = _count(len(report.unjudged), "query without judgments", "queries without judgments")
        remarks.append(f"{count}, for latency only: {_some(report.unjudged)}.")
    return remarks


def comparison_tables(comparison: Comparison) -> list[TextTable]:
    """The systems by themselves: their means, and their latency where it is known."""
    judged = _count(comparison.query_count, "judged query", "judged queries")
    tables = _means(f"Means over {judged}", [(system.name, system.means) for system in comparison.systems], "run")
    rows = tuple(
        (plain(system.name), *_percentiles(system.latency_ms), _number(system.over_budget, ".1%"))
        for system in comparison.systems
        if system.latency_ms is not None
    )
    return [*tables, TextTable("Latency of a query", ("run", *_PERCENTILES, "over budget"), rows)] if rows else tables


def pair_tables(pair: Pair) -> Iterator[TextTable]:
    """What changes from one system to another, and for which queries for the worse."""
    rows = tuple(
        (
            change.measure,
            f"{change.difference:+.3f}",
            f"[{change.low:+.3f}, {change.high:+.3f}]",
            f"{change.t_test.p_adjusted:.2g}",
            f"{change.randomisation.p_adjusted:.2g}",
            str(change.wins),
            str(change.losses),
            str(change.ties),
        )
        for change in pair.changes
    )
    changes: tuple[str, ...] = ("measure", "change", "95 % interval", "p t-test", "p random.", "wins", "losses", "ties")
    yield TextTable(f"From {plain(pair.before)} to {plain(pair.after)}", changes, rows)
    if pair.worst:
        texts = [plain(loss.text) for loss in pair.worst]
        losses: tuple[tuple[str, ...], ...] = tuple(
            (loss.query_id, *([_short(text)] if any(texts) else []), f"{loss.before:.3f}", f"{loss.after:.3f}")
            for loss, text in zip(pair.worst, texts, strict=True)
        )
        headings = ("query", "text", "before", "after") if any(texts) else ("query", "before", "after")
        yield TextTable(f"Worst losses in {pair.changes[0].measure}", headings, losses, names=len(headings) - 2)


def comparison_remarks(comparison: Comparison) -> list[str]:
    """What the p-values mean, and what to bear in mind."""
    remarks = [
        "p-values of the paired t-test and the paired randomisation test, two-sided, Holm-corrected for "
        f"{_count(comparison.test_count, 'comparison', 'comparisons')}; intervals are not."
    ]
    if comparison.too_few_queries:
        remarks.append(
            f"Too few queries: with {comparison.query_count} of them and {comparison.test_count} comparisons no "
            f"difference can show a p below {comparison.smallest_p:.2g}; judge more queries, or compare less."
        )
    if any(system.latency_ms is not None and system.over_budget is None for system in comparison.systems):
        remarks.append(_SHARED)
    for system in comparison.systems:
        if system.unanswered:
            count = _count(system.unanswered, "query was", "queries were")
            remarks.append(f"{plain(system.name)}: {count} {_ENDED}.")
        if system.missing:
            count = _count(system.missing, "judged query has", "judged queries have")
            remarks.append(f"{plain(system.name)}: {count} no results, which counts as zero.")
    return remarks


def _means(title: str, means: Sequence[tuple[str, Mapping[str, float]]], kind: str = "stage") -> list[TextTable]:
    """A row for each name; several tables where there are many measures."""
    measures = tuple(means[0][1])
    parts = [measures[start : start + MEASURES_ACROSS] for start in range(0, len(measures), MEASURES_ACROSS)]
    return [
        TextTable(
            title if number == 0 else f"{title}, continued",
            (kind, *part),
            tuple((plain(name), *(f"{values[measure]:.3f}" for measure in part)) for name, values in means),
        )
        for number, part in enumerate(parts)
    ]


def _cost(report: GapReport) -> TextTable:
    rows = tuple(
        (
            plain(stage.name),
            f"{stage.scored_mean:.1f}",
            *_percentiles(stage.latency_ms),
            _number(stage.over_budget, ".1%"),
            "–" if stage.ms_per_point is None else three_digits(stage.ms_per_point),
        )
        for stage in report.stages
    )
    whole = ("whole query", "", *_percentiles(report.latency_ms), _number(report.over_budget, ".1%"), "")
    queries = _count(report.query_count, "query", "queries")
    return TextTable(
        f"Cost of each stage ({queries}; a point is 0.01 of {GAIN_MEASURE})",
        ("stage", "scored", *_PERCENTILES, "over budget", "ms per point"),
        (*rows, whole),
    )


def _elapsed(report: GapReport) -> TextTable:
    rows = tuple((plain(stage.name), *_percentiles(stage.until_end_ms)) for stage in report.stages)
    return TextTable("Time until the end of each stage, all before it included", ("stage", *_PERCENTILES), rows)


def _short(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else text[: MOST_CHARACTERS - 1] + "…"


def _percentiles(latency: Latency) -> tuple[str, str, str]:
    return f"{latency.p50:.2f}", f"{latency.p95:.2f}", f"{latency.p99:.2f}"


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _some(query_ids: Sequence[str]) -> str:
    """The first few of them."""
    return ", ".join(query_ids[:5]) + (" …" if len(query_ids) > 5 else "")
