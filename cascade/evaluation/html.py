"""The gap report as one HTML page that needs no network and no script."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from html import escape

from cascade.evaluation.gap import GAIN_MEASURE, GapReport, StageReport, Verdict
from cascade.evaluation.tables import TextTable, gap_remarks, gap_tables, plain

_WIDTH, _HEIGHT = 720, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 20, 20, 48
_LINE = 15
"""Pixels between two labels that would otherwise cover each other."""

_CLASSES: dict[Verdict, str] = {
    "starts": "starts",
    "pays": "pays",
    "does not pay": "idle",
    "hurts": "hurts",
    "did not run": "idle",
}

_STYLE = """
:root { color-scheme: light dark; --pays: #18794e; --idle: #946800; --hurts: #cd2b31; --line: #8888; }
@media (prefers-color-scheme: dark) { :root { --pays: #4cc38a; --idle: #f1a10d; --hurts: #ff6369; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1.5rem 0; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding-bottom: .3rem; }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid var(--line); }
.name { text-align: left; }
.pays { color: var(--pays); } .idle { color: var(--idle); } .hurts { color: var(--hurts); }
svg { max-width: 100%; height: auto; } svg text { font: 13px system-ui, sans-serif; fill: currentColor; }
svg .grid { stroke: var(--line); } svg .way { stroke: currentColor; fill: none; } svg circle { fill: currentColor; }
"""


def report_page(report: GapReport) -> str:
    """The report as HTML: verdicts, quality against cost, the tables of the terminal, and the configuration.

    Everything that comes from outside is escaped, and the page forbids itself scripts and the network besides.
    """
    title = plain(f"cascade eval: {report.config.get('name', 'a cascade')}")
    latency = report.latency_ms
    over = "" if report.over_budget is None else f", {report.over_budget:.1%} of queries over budget"
    parts = [
        f"<h1>{_text(title)}</h1>",
        f"<p>{report.query_count} queries, {report.judged_count} judged. A query takes {latency.p50:.2f} ms (p50), "
        f"{latency.p95:.2f} ms (p95), {latency.p99:.2f} ms (p99){over}.</p>",
        "<h2>Verdicts</h2>",
        "<ul>",
        *(f'<li class="{_CLASSES[stage.verdict]}">{_text(stage.sentence)}</li>' for stage in report.stages),
        "</ul>",
        *(f'<p class="idle">{_text(remark)}</p>' for remark in gap_remarks(report)),
        f"<h2>{GAIN_MEASURE} against cost</h2>",
        _chart(report.stages),
        *map(_table, gap_tables(report)),
        "<h2>Configuration</h2>",
        f"<pre>{escape(json.dumps(dict(report.config), indent=2))}</pre>",
    ]
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _table(table: TextTable) -> str:
    def cells(tag: str, row: Sequence[str]) -> str:
        kinds = [' class="name"' if column < table.names else "" for column in range(len(row))]
        return "".join(f"<{tag}{kind}>{_text(cell)}</{tag}>" for kind, cell in zip(kinds, row, strict=True))

    rows = "\n".join(f"<tr>{cells('td', row)}</tr>" for row in table.rows)
    head = f"<thead><tr>{cells('th', table.headings)}</tr></thead>"
    return f"<table><caption>{_text(table.title)}</caption>{head}<tbody>\n{rows}\n</tbody></table>"


def _chart(stages: Sequence[StageReport]) -> str:
    """An SVG: a point for each stage at the time that has passed when it ends and the quality of its order."""
    times = [max(stage.elapsed_ms, 1e-3) for stage in stages]
    values = [stage.measures[GAIN_MEASURE] for stage in stages]
    ticks_x, ticks_y = _decades(min(times), max(times)), _steps(min(values), max(values))
    place = {
        stage.name: (
            _between(math.log10(time), math.log10(ticks_x[0]), math.log10(ticks_x[-1]), _LEFT, _WIDTH - _RIGHT),
            _between(value, ticks_y[0], ticks_y[-1], _HEIGHT - _BOTTOM, _TOP),
        )
        for stage, time, value in zip(stages, times, values, strict=True)
    }
    parts = _axes(ticks_x, ticks_y)
    for stage in stages:
        x, y = place[stage.name]
        for x0, y0 in (place[name] for name in stage.inputs):
            parts.append(f'<line class="way" x1="{x0:.1f}" y1="{y0:.1f}" x2="{x:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<g class="{_CLASSES[stage.verdict]}"><circle cx="{x:.1f}" cy="{y:.1f}" r="5"/></g>')
    lowest = math.inf
    for name, (x, y) in sorted(place.items(), key=lambda item: -item[1][1]):
        lowest = min(y + 4, lowest - _LINE)
        side, anchor = (-9, "end") if x > _WIDTH / 2 else (9, "start")
        parts.append(f'<text x="{x + side:.1f}" y="{lowest:.1f}" text-anchor="{anchor}">{_text(name)}</text>')
    label = f"{GAIN_MEASURE} of each stage against mean milliseconds until its end"
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">\n' + "\n".join(parts) + "\n</svg>"


def _axes(ticks_x: Sequence[float], ticks_y: Sequence[float]) -> list[str]:
    """Grid lines, their numbers, and what they measure."""
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = []
    for tick in ticks_x:
        x = _between(math.log10(tick), math.log10(ticks_x[0]), math.log10(ticks_x[-1]), _LEFT, right)
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{bottom}"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{tick:g}</text>')
    for tick in ticks_y:
        y = _between(tick, ticks_y[0], ticks_y[-1], bottom, _TOP)
        parts.append(f'<line class="grid" x1="{_LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:.2f}</text>')
    middle = (_LEFT + right) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 8}" text-anchor="middle">ms until the stage ends, mean</text>')
    return parts


def _decades(low: float, high: float) -> list[float]:
    """Powers of ten around both, at least two."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    return [10.0**power for power in range(first, max(last, first + 1) + 1)]


def _steps(low: float, high: float) -> list[float]:
    """Multiples of 0.05, or of 0.2 where those would be many, around both; at least two."""
    step = 0.05 if high - low < 0.4 else 0.2
    first, last = math.floor(low / step), math.ceil(high / step)
    return [step * number for number in range(first, max(last, first + 1) + 1)]


def _between(value: float, low: float, high: float, start: float, end: float) -> float:
    """Where ``value`` stands from ``start`` to ``end`` if ``low`` and ``high`` stand there."""
    return start + (value - low) / (high - low) * (end - start)


def _text(text: str) -> str:
    """``text`` as HTML shows it, on one line."""
    return escape(plain(text))
