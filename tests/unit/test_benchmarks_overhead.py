"""The engine's own time: which calls count as decisions."""

from __future__ import annotations

from collections import Counter

from benchmarks import overhead
from cascade import scheduler


def test_the_decisions_of_a_query_are_those_of_the_scheduler_and_of_the_cost_model_and_can_be_made_again() -> None:
    opened = overhead.free_cascade()
    costs = overhead.known(opened)
    untouched = scheduler.batches
    calls = overhead.decisions_of_one_query(opened, costs)
    assert scheduler.batches is untouched
    made = Counter(function.__name__ for function, _ in calls)
    batches = sum(stage.batches for stage in overhead.drive(opened, costs).trace.stages)
    encodings = len(opened.stages)
    assert made["observe"] == batches + encodings
    assert made["may_start"] >= batches + encodings
    assert made["batches"] == made["by_length"] == len(overhead.RERANKERS)
    assert made["seconds"] == 0, "what a decision calls itself is a part of it"
    for function, arguments in calls:
        function(*arguments)
