"""Queries and judgments that belong together."""

from __future__ import annotations

from pathlib import Path

from cascade.cli.output import say
from cascade.evaluation import judged_queries
from cascade.io import read_qrels, read_queries
from cascade.types import Qrel, Query


def read_judged(queries: Path, qrels: Path) -> tuple[list[Query], list[Qrel]]:
    """The queries of a file that are judged, and their judgments; says on stderr how many had to be left out.

    Raises:
        InputError: a file is wrong, or they have no query in common.
    """
    asked, judgments = read_queries(queries), read_qrels(qrels)
    wanted, theirs = judged_queries(asked, judgments)
    without = len(asked) - len(wanted)
    others = len({qrel.query_id for qrel in judgments}) - len(wanted)
    if without:
        say(f"{queries}: {without} of {len(asked)} queries have no judgments and are left out")
    if others:
        say(f"{qrels}: {others} judged queries are not among those asked and do not count")
    return wanted, theirs
