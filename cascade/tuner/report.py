"""What tuning found, for people and for machines: the YAML file, the JSON file and the summary."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cascade.errors import ConfigError, InputError
from cascade.load import parse_config
from cascade.registry import Registry
from cascade.schema import CascadeConfig, StageEntry
from cascade.tuner.choice import Goal
from cascade.tuner.front import FrontPoint
from cascade.tuner.tuning import Tuned, Worth, budgets_ms
from cascade.yamltree import scalar

LITTLE = 0.002
"""Quality that nobody would pay for."""


def to_yaml(config: CascadeConfig, comments: list[str]) -> str:
    """A configuration as a YAML file.

    Args:
        config: the cascade.
        comments: lines to put before it, without their number sign.
    """
    top = {"version": 1, **config.settings.model_dump(mode="json", exclude_defaults=True, exclude={"version"})}
    lines = [*(f"# {line}".rstrip() for line in comments)]
    lines += [f"{key}: {scalar(value)}" for key, value in top.items()]
    lines.append("stages:")
    for entry in config.stages:
        if not entry.retrievers:
            lines.append(f"  - {_flow(_settings(entry))}")
            continue
        outer = {key: value for key, value in _settings(entry).items() if key != "retrievers"}
        first, *others = [f"{key}: {scalar(value)}" for key, value in outer.items()]
        lines += [f"  - {first}", *(f"    {other}" for other in others), "    retrievers:"]
        lines += [f"      - {_flow(_settings(inner))}" for inner in entry.retrievers]
    return "\n".join(lines) + "\n"


def tuned_yaml(tuned: Tuned, folder: Path, registry: Registry | None = None) -> str:
    """The chosen cascade as a commented file, checked as the engine will check it.

    Args:
        tuned: the result.
        folder: where the file will lie, which relative paths to models start from.
        registry: the kinds of stage; the installed ones by default.

    Raises:
        InputError: it would not be valid there.
    """
    text = to_yaml(tuned.config, _comments(tuned))
    try:
        parse_config(text, source="the tuned cascade", folder=folder, registry=registry)
    except ConfigError as error:
        raise InputError(
            f"{error}\nthe tuned cascade is not valid in {folder}; write it beside the recorded one"
        ) from error
    return text


def _comments(tuned: Tuned) -> list[str]:
    goal, chosen, header = tuned.tuning.goal, tuned.chosen, tuned.space.recording.header
    load = "one query at a time" if tuned.load is None else f"{tuned.load.rate:g} queries a second"
    return [
        f"Chosen by 'cascade tune' for {goal.budget_ms:g} ms at p{goal.percentile:g}, {load}, out of "
        f"{len(tuned.tuning.trials)} cascades:",
        chosen.label + ".",
        f"Expected, on queries that it was not chosen by: {goal.measure} {chosen.validated:.3f} "
        f"({chosen.low:.3f} to {chosen.high:.3f} at {goal.confidence:.0%} confidence), "
        f"{_latency(chosen, goal)}.",
        f"Recorded on {header.machine}, {header.index.documents} documents.",
        *_warnings(tuned),
    ]


def _warnings(tuned: Tuned) -> list[str]:
    """What stands between the chosen cascade and the budget."""
    goal, chosen, lines = tuned.tuning.goal, tuned.chosen, []
    if chosen.validated_ms > goal.budget_ms:
        lines.append(
            f"Warning: on queries that it was not chosen by, its p{goal.percentile:g} is {chosen.validated_ms:.1f} ms, "
            f"above {goal.budget_ms:g} ms; ask for less, or record more queries."
        )
    if tuned.config.settings.budget_ms is None:
        lines.append(
            "Warning: it has no budget_ms, so that nothing ends a slow query; state one, here or with each query, "
            "where answers must be on time."
        )
    listwise = [entry.settings.name for entry in tuned.config.stages if entry.kind.role == "listwise"]
    if listwise:
        lines.append(
            f"Approximate: {', '.join(listwise)} scored each candidate in the window in which it was recorded, which "
            "another depth would fill differently; 'cascade tune --verify' measures it."
        )
    return lines


def _settings(entry: StageEntry) -> dict[str, Any]:
    settings = entry.settings
    plain: dict[str, Any] = json.loads(settings.model_dump_json(exclude_defaults=True))
    first = {"name": settings.name, "kind": settings.kind, "top_k": settings.top_k}
    return first | {key: value for key, value in plain.items() if key not in first}


def _flow(values: Mapping[str, Any]) -> str:
    return "{" + ", ".join(f"{key}: {scalar(value)}" for key, value in values.items()) + "}"


def to_json(tuned: Tuned) -> dict[str, Any]:
    """Everything that was found, as JSON holds it."""
    tuning, goal = tuned.tuning, tuned.tuning.goal
    latency, quality = tuning.latency(tuning.tuning), tuning.quality(tuning.tuning)
    slowest = max(point.latency_ms for point in tuned.front)
    return {
        **tuned.front.to_json(),
        "goal": {
            "budget_ms": goal.budget_ms,
            "percentile": goal.percentile,
            "measure": goal.measure,
            "confidence": goal.confidence,
            "rate": None if tuned.load is None else tuned.load.rate,
        },
        "chosen": tuned.chosen.label,
        "chosen_point": asdict(tuned.chosen),
        "queries": {
            "tuning": int(tuning.folds[0].tuning.sum()),
            "validation": int(tuning.folds[0].validation.sum()),
            "folds": len(tuning.folds),
        },
        "hypervolume": {"latency_ms": slowest, "value": tuned.front.hypervolume(slowest)},
        "worth": [
            {"stage": worth.stage, "gain": worth.gain, "low": worth.low, "high": worth.high, "chosen": worth.chosen}
            for worth in tuned.worth
        ],
        "tried": [
            {"label": trial.point.label(), "latency_ms": _finite(ms), "quality": float(value)}
            for trial, ms, value in zip(tuning.trials, latency.tolist(), quality.tolist(), strict=True)
        ],
    }


def summary(tuned: Tuned) -> list[str]:
    """What a person wants to know, line by line."""
    goal, chosen, folds = tuned.tuning.goal, tuned.chosen, tuned.tuning.folds
    tuning, validation = int(folds[0].tuning.sum()), int(folds[0].validation.sum())
    how = f"chosen by {tuning} queries, reported on {validation} others"
    if len(folds) > 1:
        how = (
            f"{len(folds)}-fold cross-validation over {int(folds[0].tuning.sum() + folds[0].validation.sum())} queries"
        )
    lines = [
        f"{len(tuned.tuning.trials)} cascades tried, {len(tuned.front)} of them best for their latency; {how}.",
        "",
        f"For {goal.budget_ms:g} ms at p{goal.percentile:g}: {chosen.label}",
        f"  {_figures(chosen, goal)}",
        *(f"  {line}" for line in _kept(tuned)),
        *(f"  {warning}" for warning in _warnings(tuned)),
        "",
        f"What a p{goal.percentile:g} of so many milliseconds buys:",
        *_buys(tuned),
        "",
        "Stages:",
        *(f"  {_verdict(worth, goal)}" for worth in tuned.worth),
    ]
    wasted = _wasted(tuned)
    return [*lines, "", "Where money is wasted:", *(f"  {line}" for line in wasted)] if wasted else lines


def _kept(tuned: Tuned) -> list[str]:
    """Why the chosen cascade is not the best one of the front."""
    best = tuned.front.within(tuned.tuning.goal.budget_ms)
    if best.same(tuned.chosen):
        return []
    gain = best.quality - tuned.chosen.quality
    return [f"{best.label} did better by {gain:.3f} where both were tried, which may be chance."]


def _buys(tuned: Tuned) -> list[str]:
    lines = []
    for budget_ms in budgets_ms(tuned.tuning.goal.budget_ms):
        if budget_ms < tuned.front.points[0].latency_ms:
            lines.append(
                f"  {budget_ms:6g} ms  nothing: the fastest cascade takes {tuned.front.points[0].latency_ms:.3g}"
            )
            continue
        point = tuned.tuning.within(budget_ms)
        lines.append(f"  {budget_ms:6g} ms  {point.validated:.3f}  {point.label} ({point.latency_ms:.1f} ms)")
    return lines


def _verdict(worth: Worth, goal: Goal) -> str:
    if worth.gain is None or worth.low is None or worth.high is None:
        advice = "always there: every cascade" if worth.chosen else "does not fit: no cascade"
        return f"{worth.stage}: {advice} that meets {goal.budget_ms:g} ms has it"
    interval = f"{worth.gain:+.3f} {goal.measure} ({worth.low:+.3f} to {worth.high:+.3f})"
    if worth.high < 0:
        advice = "drop it; cascades with it are worse"
    elif worth.low > 0:
        advice = "keep it" if worth.chosen else "consider it; it was not chosen, but on queries left out it helps"
    elif worth.gain < LITTLE:
        advice = "drop it; it gains nothing that these queries can show" if worth.chosen else "not needed"
    else:
        advice = "undecided; more judged queries would tell"
    return f"{worth.stage}: {advice}: {interval}"


def _wasted(tuned: Tuned) -> list[str]:
    """Steps along the front that cost more than a tenth of the latency and gain next to nothing."""
    lines, base = [], tuned.front.points[0]
    for point in tuned.front.points[1:]:
        if point.quality - base.quality >= LITTLE:
            base = point
        elif point.latency_ms > 1.1 * base.latency_ms:
            lines.append(
                f"from {base.latency_ms:.1f} to {point.latency_ms:.1f} ms for {point.quality - base.quality:+.4f}: "
                f"{base.label} does as well as {point.label}"
            )
    best = tuned.front.points[-1]
    latency = tuned.tuning.latency(tuned.tuning.tuning)
    slower = int((latency > best.latency_ms).sum()) - (tuned.chosen.latency_ms > best.latency_ms)
    if slower:
        lines.append(f"{slower} cascades are slower than the best one, {best.label}, and none of them is better")
    return lines


def _figures(point: FrontPoint, goal: Goal) -> str:
    return (
        f"{goal.measure} {point.validated:.3f} ({point.low:.3f} to {point.high:.3f} at {goal.confidence:.0%}), "
        f"{_latency(point, goal)}"
    )


def _latency(point: FrontPoint, goal: Goal) -> str:
    end = "or more" if point.high_ms is None else f"to {point.high_ms:.1f}"
    return f"p{goal.percentile:g} {point.validated_ms:.1f} ms ({point.low_ms:.1f} {end})"


def _finite(value: float) -> float | None:
    return value if value != float("inf") else None
