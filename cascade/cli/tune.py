"""``cascade tune``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from cascade.cli.options import in_a_folder
from cascade.cli.output import console, messages, progress_bar
from cascade.errors import InputError
from cascade.index import Index
from cascade.io import atomic_write, atomic_write_bytes, read_qrels, write_json_atomic
from cascade.schema import CascadeConfig
from cascade.tuner import Effort, FrontPoint, Goal, Judgments, Load, Recording, SearchSpace, Tuned, Verified
from cascade.tuner import tune as tune_cascade
from cascade.tuner.page import page
from cascade.tuner.plot import png
from cascade.tuner.report import summary, to_json, tuned_yaml
from cascade.tuner.study import Sampler
from cascade.tuner.tuning import TRIALS, budgets_ms
from cascade.tuner.verification import spread
from cascade.tuner.verification import verify as verify_live

MOST_VERIFIED = 10


def tune(
    recording: Annotated[Path, typer.Option("--recording", metavar="FILE", help="A recording of 'cascade record'.")],
    qrels: Annotated[Path, typer.Option("--qrels", metavar="FILE", help="Judgments: TREC or BEIR.")],
    budget_ms: Annotated[float, typer.Option("--budget-ms", metavar="MS", help="What the percentile has to meet.")],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            metavar="FILE",
            callback=in_a_folder,
            help="Of the tuned cascade. Beside it: NAME.front.json, .html and .png; NAME.study.jsonl, what was tried, "
            "so that the study can go on; NAME.verified.json of --verify.",
        ),
    ],
    percentile: Annotated[float, typer.Option("--percentile", help="Of the latency.")] = 95.0,
    measure: Annotated[str, typer.Option("--measure", "-m", help="Of quality.")] = "nDCG@10",
    confidence: Annotated[float, typer.Option("--confidence", help="Of the error bars.")] = 0.95,
    rate: Annotated[
        float | None, typer.Option("--rate", help="Queries a second, at random times; default: one at a time.")
    ] = None,
    servers: Annotated[int, typer.Option("--servers", min=1, help="Tasks at the same time, with --rate.")] = 1,
    space: Annotated[
        Path | None, typer.Option("--space", metavar="FILE", help="Cascades to choose from; default: derived.")
    ] = None,
    trials: Annotated[int, typer.Option("--trials", min=1, help="Cascades to try at most.")] = TRIALS,
    sampler: Annotated[str, typer.Option("--sampler", help="Of spaces larger than --trials: tpe or nsga2.")] = "tpe",
    processes: Annotated[int, typer.Option("--processes", min=1, help="That share the work.")] = 1,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the sampler and the split of the queries.")] = 0,
    partial: Annotated[
        bool, typer.Option("--partial", help="Leave out judgments of queries that were not recorded.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Run the best cascades live, few queries several times; needs --index.")
    ] = False,
    index: Annotated[Path | None, typer.Option("--index", "-i", metavar="DIR", help="The recorded index.")] = None,
    threads: Annotated[
        int | None,
        typer.Option("--threads", min=1, help="Of each task, with --verify; default: as many as were recorded with."),
    ] = None,
) -> None:
    """Finds the best cascade for a latency budget by replaying a recording, without running any model.

    Half of the queries are kept to report on, or five-fold cross-validation is used where there are few. An interrupted
    study goes on when the command is given again.

    Example: cascade tune --recording T.parquet --qrels qrels.tsv --out tuned.yaml --budget-ms 50
    """
    if verify and index is None:
        raise typer.BadParameter("--verify runs cascades live and needs --index")
    chosen_sampler = _sampler(sampler)
    recorded = Recording.load(recording)
    opened = None if index is None else Index.open(index)
    if opened is not None:
        recorded.require_index(opened, str(index))
    goal = Goal(budget_ms, percentile, measure, confidence)
    limits_ms = budgets_ms(budget_ms)
    chosen_space = (
        SearchSpace.of(recorded, budgets_ms=limits_ms)
        if space is None
        else SearchSpace.load(space, recorded, budgets_ms=limits_ms)
    )
    load = None if rate is None else Load(rate, servers, seed)
    judged = read_qrels(qrels)
    effort = Effort(trials, processes, chosen_sampler, seed, _beside(out, "study.jsonl"))
    with progress_bar() as told:
        tuned = tune_cascade(
            recorded,
            judged,
            goal,
            space=chosen_space,
            load=load,
            effort=effort,
            partial=partial,
            seeds=_seeds(chosen_space) if space is None else (),
            progress=lambda done, total: told("cascades", done, total),
        )
    _write(tuned, out)
    if verify and opened is not None:
        judgments = Judgments.of(judged, recorded, partial=partial)
        _verify(tuned, out, judgments, opened, threads)


def _seeds(space: SearchSpace) -> list[CascadeConfig]:
    """The recorded cascade, where it was recorded as deeply as it retrieves."""
    config = space.recorded()
    try:
        space.seed(config)
    except InputError:
        return []
    return [config]


def _sampler(name: str) -> Sampler:
    if name == "tpe":
        return "tpe"
    if name == "nsga2":
        return "nsga2"
    raise typer.BadParameter(f"--sampler: expected tpe or nsga2, got {name!r}")


def _write(tuned: Tuned, out: Path) -> None:
    """Writes the YAML file last: where it would not be valid, all else is there already, and worth having."""
    lines, report = summary(tuned), to_json(tuned)
    table, site, plot = (_beside(out, f"front.{kind}") for kind in ("json", "html", "png"))
    write_json_atomic(table, report)
    with atomic_write(site) as file:
        file.write(page(report, lines))
    written = [table.name, site.name]
    try:
        picture = png(report)
    except InputError as error:
        messages.print(Text(f"no {plot.name}: {error}"), soft_wrap=True)
    else:
        with atomic_write_bytes(plot) as raw:
            raw.write(picture)
        written.append(plot.name)
    console.print(Text("\n".join(lines)), soft_wrap=True)
    messages.print(Text(f"{out.parent}: {', '.join(written)} written"))
    text = tuned_yaml(tuned, out.parent)
    with atomic_write(out) as file:
        file.write(text)
    messages.print(Text(f"{out} written"))


def _beside(out: Path, ending: str) -> Path:
    """``tuned.front.json`` beside ``tuned.yaml``: named after it, so that several results lie in one folder."""
    return out.with_name(f"{out.stem}.{ending}")


def to_verify(tuned: Tuned) -> list[FrontPoint]:
    """The chosen point and some of the front, evenly spread, by rising latency."""
    others = [point for point in tuned.front if not point.same(tuned.chosen)]
    points = [tuned.chosen, *(others[i] for i in spread(len(others), MOST_VERIFIED - 1))]
    return sorted(points, key=lambda point: point.latency_ms)


def _verify(tuned: Tuned, out: Path, judgments: Judgments, index: Index, threads: int | None) -> None:
    configs: list[tuple[str, CascadeConfig]] = [
        (point.label, tuned.config_of(point, folder=out.parent)) for point in to_verify(tuned)
    ]
    goal = tuned.tuning.goal
    with progress_bar() as told:
        verified = verify_live(
            configs,
            tuned.space.recording,
            judgments,
            index,
            measure=goal.measure,
            percentile=goal.percentile,
            threads=threads,
            progress=lambda done, total: told("live, blocks of queries", done, total),
        )
    write_json_atomic(_beside(out, "verified.json"), [one.to_json() for one in verified])
    for line in _lines(verified, goal.measure, goal.percentile):
        console.print(Text(line), soft_wrap=True)


def _lines(verified: Sequence[Verified], measure: str, percentile: float) -> list[str]:
    heads = (f"p{percentile:g} predicted", "measured", "off", f"{measure} predicted", "measured", "holds")
    lines = ["  ".join(heads) + "  cascade"]
    for one in verified:
        cells = [f"{one.predicted_ms:.1f} ms", f"{one.measured_ms:.1f} ms", f"{one.latency_error:+.0%}"]
        cells += [f"{one.predicted:.4f}", f"{one.measured:.4f}", "yes" if one.holds else "no"]
        padded = [cell.rjust(len(head)) for cell, head in zip(cells, heads, strict=True)]
        lines.append("  ".join([*padded, one.label]))
    held = sum(one.holds for one in verified)
    paces = [one.pace for one in verified]
    between = f"{min(paces):.2f} to {max(paces):.2f}"
    lines.append(f"allowing for a machine that takes {between} times as long as when recorded")
    return [*lines, f"{held} of {len(verified)} within 10 % of p{percentile:g} and 0.005 of {measure}"]
