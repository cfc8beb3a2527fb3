"""The Pareto plot as a page of its own: an SVG to hover over, a table, and nothing from the network."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from html import escape
from typing import Any

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 860, 480, 64, 20, 20, 52

_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
svg { width: 100%; height: auto; } svg text { font-size: 12px; fill: currentColor; }
.grid { stroke: currentColor; stroke-opacity: .15; } .tried { fill: currentColor; fill-opacity: .22; }
.front { fill: none; stroke: #1f77b4; stroke-width: 2; } .best { fill: #1f77b4; } .chosen { fill: #d62728; }
.interval { stroke: #ff7f0e; stroke-width: 2; } .budget { stroke: #d62728; stroke-dasharray: 5 4; }
circle:hover, circle:focus { stroke: currentColor; stroke-width: 2; outline: none; }
#said { min-height: 3em; font-variant-numeric: tabular-nums; white-space: pre-line; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .2rem .5rem; border-bottom: 1px solid #8884; }
th:last-child, td:last-child { text-align: left; } tr.chosen { font-weight: 600; }
"""

_SCRIPT = """
const said = document.getElementById("said");
const names = JSON.parse(document.getElementById("data").textContent);
for (const circle of document.querySelectorAll("circle")) {
  const tell = () => { said.textContent = names[Number(circle.dataset.i)]; };
  circle.addEventListener("pointerenter", tell);
  circle.addEventListener("focus", tell);
}
"""


class _Scale:
    """From latency (logarithmic) and quality to places in the SVG."""

    def __init__(self, latencies: Sequence[float], qualities: Sequence[float]) -> None:
        least, most = min(latencies), max(latencies)
        self._left = math.log10(max(least, 1e-3) / 1.15)
        self._width = math.log10(max(most, 1e-3) * 1.15) - self._left
        spread = max(qualities) - min(qualities) or 0.1
        self._bottom = min(qualities) - 0.06 * spread
        self._height = 1.12 * spread

    def x(self, latency_ms: float) -> float:
        """Pixels from the left."""
        share = (math.log10(max(latency_ms, 1e-3)) - self._left) / self._width
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def y(self, quality: float) -> float:
        """Pixels from the top."""
        return round(HEIGHT - BOTTOM - (quality - self._bottom) / self._height * (HEIGHT - TOP - BOTTOM), 1)

    def latency_ticks(self) -> list[float]:
        """1, 2 and 5 times powers of ten."""
        powers = range(math.floor(self._left), math.ceil(self._left + self._width) + 1)
        ticks = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
        return [tick for tick in ticks if LEFT <= self.x(tick) <= WIDTH - RIGHT]

    def quality_ticks(self) -> list[float]:
        """Round numbers, about six."""
        step = 10.0 ** math.floor(math.log10(self._height / 3))
        while self._height / step > 8:
            step *= 2
        first = math.ceil(self._bottom / step)
        return [tick * step for tick in range(first, math.floor((self._bottom + self._height) / step) + 1)]


def page(report: dict[str, Any], summary: Sequence[str]) -> str:
    """The page.

    Args:
        report: as ``report.to_json`` gives it.
        summary: lines for people.
    """
    tried = [trial for trial in report["tried"] if trial["latency_ms"] is not None]
    goal, measure, points = report["goal"], report["measure"], _shown(report)
    bounds = [point[name] for point in points for name in ("low", "high", "quality")]
    latencies = [trial["latency_ms"] for trial in tried] + [goal["budget_ms"]]
    scale = _Scale(latencies, [trial["quality"] for trial in tried] + bounds)
    names = [f"{t['label']}\n{measure} {t['quality']:.4f}, {t['latency_ms']:.2f} ms" for t in tried]
    names += [_told(point, measure, goal) for point in points]
    parts = [*_axes(scale, measure, goal)]
    parts += [_circle(scale, trial, "tried", 3, i) for i, trial in enumerate(tried)]
    parts.append(f'<path class="front" d="{_steps(scale, report["points"])}"/>')
    for number, point in enumerate(points, start=len(tried)):
        x = scale.x(point["latency_ms"])
        low, high = scale.y(point["low"]), scale.y(point["high"])
        parts.append(f'<line class="interval" x1="{x}" x2="{x}" y1="{low}" y2="{high}"/>')
        kind = "chosen" if point is report["chosen_point"] else "best"
        parts.append(_circle(scale, point, kind, 5, number))
    data = json.dumps(names).replace("<", "\\u003c")
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Pareto front: {escape(measure)} and latency</title>
<style>{_STYLE}</style>
<h1>{escape(measure)} and p{goal["percentile"]:g} latency</h1>
<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="Quality over latency of every cascade that was tried">
{chr(10).join(parts)}
</svg>
<p id="said">Hover over a point, or step through them with the tab key.</p>
{_table(report)}
<pre>{escape(chr(10).join(summary))}</pre>
<script type="application/json" id="data">{data}</script>
<script>{_SCRIPT}</script>
</html>
"""


def _shown(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The front, and the chosen point, which need not be on it, by rising latency."""
    chosen: dict[str, Any] = report["chosen_point"]
    others = [point for point in report["points"] if point["details"] != chosen["details"]]
    return sorted([*others, chosen], key=lambda point: float(point["latency_ms"]))


def _told(point: dict[str, Any], measure: str, goal: dict[str, Any]) -> str:
    return (
        f"{point['label']}\n{measure} {point['quality']:.4f}, p{goal['percentile']:g} {point['latency_ms']:.2f} ms; "
        f"on queries left out {point['validated']:.4f} ({point['low']:.4f} to {point['high']:.4f})"
    )


def _circle(scale: _Scale, point: dict[str, Any], kind: str, radius: int, number: int) -> str:
    x, y = scale.x(point["latency_ms"]), scale.y(point["quality"])
    focus = "" if kind == "tried" else ' tabindex="0"'
    return f'<circle class="{kind}" cx="{x}" cy="{y}" r="{radius}" data-i="{number}"{focus}/>'


def _steps(scale: _Scale, points: Sequence[dict[str, Any]]) -> str:
    path = f"M{scale.x(points[0]['latency_ms'])} {scale.y(points[0]['quality'])}"
    for point in points[1:]:
        path += f"H{scale.x(point['latency_ms'])}V{scale.y(point['quality'])}"
    return f"{path}H{WIDTH - RIGHT}"


def _axes(scale: _Scale, measure: str, goal: dict[str, Any]) -> list[str]:
    bottom, lines = HEIGHT - BOTTOM, []
    for tick in scale.latency_ticks():
        x = scale.x(tick)
        lines.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{TOP}" y2="{bottom}"/>')
        lines.append(f'<text x="{x}" y="{bottom + 16}" text-anchor="middle">{tick:g}</text>')
    for tick in scale.quality_ticks():
        y = scale.y(tick)
        lines.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        lines.append(f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{tick:.3g}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    lines.append(f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">p{goal["percentile"]:g} in ms</text>')
    lines.append(f'<text x="{LEFT}" y="{TOP - 6}">{escape(measure)}</text>')
    x = scale.x(goal["budget_ms"])
    return [*lines, f'<line class="budget" x1="{x}" x2="{x}" y1="{TOP}" y2="{bottom}"/>']


def _table(report: dict[str, Any]) -> str:
    rows = []
    for point in _shown(report):
        kind = ' class="chosen"' if point is report["chosen_point"] else ""
        cells = [f"{point['latency_ms']:.1f}", f"{point['validated_ms']:.1f}", f"{point['quality']:.4f}"]
        cells += [f"{point['validated']:.4f}", f"{point['low']:.4f}", f"{point['high']:.4f}", escape(point["label"])]
        rows.append(f"<tr{kind}>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    heads = ("ms", "ms, left out", report["measure"], "left out", "low", "high", "cascade")
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
