import io
import math

from rich.console import Console

from cascade.cli.output import BAR_WIDTH, waterfall
from cascade.trace import Trace
from tests.fakes import stage_trace as stage


def drawn(*stages, seconds=1.0, waited_s=0.0):
    """The lines of a waterfall, without what fills them up on the right."""
    out = io.StringIO()
    Console(file=out, width=200).print(waterfall(Trace("shop", math.inf, seconds, waited_s, stages)))
    return [line.rstrip() for line in out.getvalue().splitlines()]


def bars(lines):
    """From which column to which the bar of each stage reaches on the time line, two to the right of the names."""
    rows = [(line.split("█")[0].rstrip(), line) for line in lines if "█" in line]
    edge = max(len(name) for name, _ in rows) + 2
    return {name.strip(): (line.index("█") - edge, line.rindex("█") + 1 - edge) for name, line in rows}


def test_bars_lie_where_the_work_lay_in_time():
    first = stage("fused", 0.5, waited_s=0.25, retrievers=(stage("bm25", 0.375, waited_s=0.25), stage("dense", 0.125)))
    found = bars(drawn(first, stage("ce", 0.5), waited_s=0.25))
    assert BAR_WIDTH == 40
    assert found == {"fused": (0, 20), "bm25": (0, 15), "dense": (15, 20), "ce": (20, 40)}


def test_what_is_of_no_stage_lies_before_them():
    assert bars(drawn(stage("a", 0.25), stage("b", 0.5))) == {"a": (10, 20), "b": (20, 40)}


def test_the_time_that_a_saturated_stage_saved_is_shown():
    lines = drawn(stage("ce", 0.5, reason="saturated", saved_s=0.0125), stage("last", 0.5))
    assert any(line.endswith("saturated, saved 12.5 ms") for line in lines)
    assert any(line.startswith("last") and line.endswith(" complete") for line in lines)
