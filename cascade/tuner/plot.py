"""The Pareto plot as a picture."""

from __future__ import annotations

import io
from typing import Any

from cascade.errors import InputError

Report = dict[str, Any]


def png(report: Report) -> bytes:
    """The plot of ``report.to_json`` as PNG.

    Raises:
        InputError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError(
            "the PNG plot needs the package matplotlib; run `pip install 'cascade-ranking[tune]'`, "
            "or look at the web page, which needs nothing"
        ) from None
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    tried = [trial for trial in report["tried"] if trial["latency_ms"] is not None]
    axes.scatter(
        [trial["latency_ms"] for trial in tried],
        [trial["quality"] for trial in tried],
        s=8,
        color="0.75",
        label="tried",
        zorder=1,
    )
    points, goal = report["points"], report["goal"]
    at = [point["latency_ms"] for point in points]
    axes.step(at, [point["quality"] for point in points], where="post", color="C0", label="front", zorder=2)
    below = [max(0.0, point["validated"] - point["low"]) for point in points]
    above = [max(0.0, point["high"] - point["validated"]) for point in points]
    values = [point["validated"] for point in points]
    axes.errorbar(
        at, values, [below, above], fmt="o", color="C1", ms=4, capsize=2, label="on queries left out", zorder=3
    )
    chosen = report["chosen_point"]
    axes.plot(chosen["latency_ms"], chosen["quality"], "D", color="C3", ms=6, label="chosen", zorder=4)
    axes.axvline(goal["budget_ms"], color="C3", linestyle="--", label=f"{goal['budget_ms']:g} ms")
    axes.set_xscale("log")
    axes.set_xlabel(f"latency, p{goal['percentile']:g}, milliseconds")
    axes.set_ylabel(report["measure"])
    axes.set_title(f"chosen: {report['chosen']}", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
