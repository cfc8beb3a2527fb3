"""How answers and traces look in a terminal."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from cascade.stage import StepProgress
from cascade.trace import StageTrace, Trace
from cascade.types import Hit, Ranking

console = Console(highlight=False, markup=False, emoji=False)
messages = Console(stderr=True, highlight=False, markup=False, emoji=False)

BAR_WIDTH = 40
SNIPPET = 100
PIPE_WIDTH = 1000
PROGRESS_LINE_S = 15.0


def show(value: RenderableType) -> None:
    """A table or text on stdout; lines are broken for terminals only, since a program would not know a broken line."""
    if console.is_terminal:
        console.print(value)
    else:
        Console(highlight=False, markup=False, emoji=False, width=PIPE_WIDTH).print(value)


def say(message: str) -> None:
    """One message on stderr, wrapped only by the terminal."""
    messages.print(message, soft_wrap=True)


def answer_dict(ranking: Ranking) -> dict[str, Any]:
    """An answer as plain data for ``--json``."""
    return {
        "query": ranking.query.text,
        "hits": [
            {
                "rank": hit.rank,
                "doc_id": hit.doc_id,
                "score": hit.score,
                "stage": hit.stage,
                "probability": hit.probability,
                "title": hit.title,
                "text": hit.text,
                "metadata": dict(hit.metadata),
            }
            for hit in ranking
        ],
        "trace": ranking.trace.to_dict(),
    }


def print_json(value: Any) -> None:
    """One line of JSON on stdout, escaped where stdout could not show it otherwise."""
    line = json.dumps(value, ensure_ascii=False)
    try:
        line.encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        line = json.dumps(value)
    print(line)


def print_hits(ranking: Ranking) -> None:
    """The hits, one line each; the full text where stdout is not a terminal would break a pipe's columns."""
    if not console.is_terminal:
        for hit in ranking:
            print(f"{hit.rank}\t{hit.doc_id}\t{hit.score:.6g}\t{hit.stage}")
        return
    table = Table(box=None, pad_edge=False, show_header=True, header_style="bold")
    for name in ("rank", "document", "score", "by", "text"):
        table.add_column(name, no_wrap=name != "text", justify="right" if name in ("rank", "score") else "left")
    for hit in ranking:
        table.add_row(str(hit.rank), Text(hit.doc_id), f"{hit.score:.3f}", hit.stage, Text(snippet(hit)))
    show(table)


def snippet(hit: Hit) -> str:
    """The beginning of a hit's text on one line."""
    text = " ".join(hit.text.split())
    return text if len(text) <= SNIPPET else text[: SNIPPET - 1] + "…"


def waterfall(trace: Trace) -> Group:
    """A trace as a table of what each stage did, and a bar for each on a common time line.

    A stage's bar holds its waiting, as its seconds do; what is of no stage came before them.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("stage", "in", "planned", "scored", "out", "predicted", "ms", "budget", "slack", "ended"):
        table.add_column(name, justify="left" if name in ("stage", "ended") else "right", no_wrap=name != "stage")
    lines = Table(box=None, pad_edge=False)
    notes = []
    at_s = max(0.0, trace.seconds - sum(stage.seconds for stage in trace.stages))
    for stage in trace.stages:
        inner_s = at_s
        for part in stage.retrievers:
            _add(table, lines, part, "  " + part.name, inner_s, trace.seconds)
            inner_s += part.seconds
        _add(table, lines, stage, stage.name, at_s, trace.seconds)
        at_s += stage.seconds
        notes += [f"{part.name}: {note}" for part in (*stage.retrievers, stage) if (note := _note(part))]
    whole = f"{trace.cascade}: {ms(trace.seconds)} ms of {ms(trace.budget_s)}; waited {ms(trace.waited_s)} ms"
    if trace.overshoot_s > 0:
        whole += f"; {ms(trace.overshoot_s)} ms late"
    return Group(Text(whole, style="bold"), table, lines, *(Text(note, style="yellow") for note in notes))


def _add(table: Table, lines: Table, stage: StageTrace, name: str, start_s: float, whole_s: float) -> None:
    counts = (str(n) for n in (stage.received, stage.planned, stage.scored, stage.passed))
    times = (ms(s) for s in (stage.predicted_s, stage.seconds, stage.budget_s, stage.slack_s))
    style = "yellow" if stage.degraded else ""
    ended = f"{stage.reason}, saved {ms(stage.saved_s)} ms" if stage.saved_s > 0 else stage.reason
    table.add_row(Text(name), *counts, *times, ended, style=style)
    unit_s = max(whole_s, 1e-9) / BAR_WIDTH
    left = min(BAR_WIDTH - 1, round(start_s / unit_s))
    width = max(1, min(BAR_WIDTH - left, round(stage.seconds / unit_s)))
    lines.add_row(Text(name), " " * left + "█" * width, style=style)


def _note(stage: StageTrace) -> str:
    if stage.quarantined:
        return f"{stage.quarantined} scores were not finite; {stage.detail}".rstrip("; ")
    return stage.detail


def ms(seconds: float) -> str:
    """Milliseconds for a table; a dash where there is no finite number."""
    return f"{seconds * 1000:.1f}" if seconds == seconds and abs(seconds) != float("inf") else "–"


@contextmanager
def progress_bar() -> Iterator[StepProgress]:
    """A progress display on stderr; yields a function told of (step, done, total).

    Bars in a terminal; elsewhere, as in a log of a build, a line now and then.
    """
    if not messages.is_terminal:
        yield _progress_lines()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=messages, transient=True) as progress:
        tasks: dict[str, Any] = {}

        def told(step: str, done: int, total: int) -> None:
            if step not in tasks:
                tasks[step] = progress.add_task(step, total=total or None)
            progress.update(tasks[step], completed=done, total=total or None)

        yield told


def _progress_lines() -> StepProgress:
    said_at = time.monotonic()

    def told(step: str, done: int, total: int) -> None:
        nonlocal said_at
        if time.monotonic() - said_at >= PROGRESS_LINE_S:
            said_at = time.monotonic()
            say(f"{step}: {done:,} of {total:,}" if total else f"{step}: {done:,}")

    return told
