"""Effectiveness measures by their ir-measures names, as in ``nDCG@10``."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import ir_measures
from ir_measures.providers import FallbackProvider

from cascade.errors import InputError
from cascade.types import Qrel, ScoredDoc

Run: TypeAlias = Mapping[str, Sequence[str]]
"""For each query_id the doc_ids of its ranking, best first."""

DEFAULT_MEASURES = ("nDCG@10", "RR@10", "P@10", "R@100", "Judged@10")

_EXAMPLES = "nDCG@10, RR@10, P(rel=2)@10, R@100, AP, Judged@10"
_MAX_CUTOFF = 10**6
# First those that come with ir-measures, then those whose package may be installed. All compute in this process; gdeval
# runs Perl, and reads only queries whose ids are numbers.
_PROVIDERS: Any = FallbackProvider(  # type: ignore[no-untyped-call]
    [
        *(ir_measures.pytrec_eval, ir_measures.judged, ir_measures.msmarco, ir_measures.compat, ir_measures.accuracy),
        *(ir_measures.cwl_eval, ir_measures.pyndeval),
    ]
)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How good a run is.

    Args:
        means: for each measure, in the order asked for, its mean over all judged queries (the sum, for counts).
        by_query: for each measure, its value for every judged query.
        missing: judged queries without results; they count as zero, as with ``trec_eval -c``.
        unjudged: queries with results but without judgments; nothing can be said of them, so they are left out.
    """

    means: Mapping[str, float]
    by_query: Mapping[str, Mapping[str, float]]
    missing: tuple[str, ...]
    unjudged: tuple[str, ...]


def parse_measures(names: Iterable[str]) -> tuple[ir_measures.Measure, ...]:
    """The measures of these names, each once.

    Raises:
        InputError: a name is unknown, or its parameters are wrong.
    """
    return tuple(dict.fromkeys(_parse(name) for name in names))


def evaluate(run: Run, qrels: Sequence[Qrel], measures: Sequence[str] = DEFAULT_MEASURES) -> Evaluation:
    """Measures a run; the order of its lists is the ranking, whatever the scores were.

    Raises:
        InputError: there are no judgments, a measure is unknown, or a ranking has a document twice.
    """
    parsed = parse_measures(measures)
    judgments: dict[str, dict[str, int]] = {}
    for qrel in qrels:
        judgments.setdefault(qrel.query_id, {})[qrel.doc_id] = qrel.relevance
    if not judgments:
        raise InputError("qrels: expected at least one judgment, got none; nothing can be measured without")
    scored = {query_id: _descending(query_id, run[query_id]) for query_id in judgments if run.get(query_id)}
    by_query: dict[str, dict[str, float]] = {repr(measure): dict.fromkeys(judgments, 0.0) for measure in parsed}
    aggregators = {repr(measure): measure.aggregator() for measure in parsed}
    for metric in _PROVIDERS.iter_calc(parsed, judgments, scored):
        by_query[repr(metric.measure)][metric.query_id] = float(metric.value)
    for name, values in by_query.items():
        for value in values.values():
            aggregators[name].add(value)
    return Evaluation(
        means={name: float(aggregator.result()) for name, aggregator in aggregators.items()},
        by_query=by_query,
        missing=tuple(query_id for query_id in judgments if query_id not in scored),
        unjudged=tuple(query_id for query_id in run if query_id not in judgments),
    )


def ranked(run: Mapping[str, Sequence[ScoredDoc]]) -> dict[str, list[str]]:
    """A run as ``read_run`` gives it, reduced to what is measured: its order."""
    return {query_id: [result.doc_id for result in results] for query_id, results in run.items()}


def _descending(query_id: str, doc_ids: Sequence[str]) -> dict[str, float]:
    """A score for every document that says its place, so that no tool finds ties to break its own way."""
    scores = {doc_id: float(len(doc_ids) - index) for index, doc_id in enumerate(doc_ids)}
    if len(scores) < len(doc_ids):
        raise InputError(f"run: query {query_id!r}: expected each document once, got one twice; remove duplicates")
    return scores


def _parse(name: str) -> ir_measures.Measure:
    # Not ir_measures.parse_measure: it relies on syntax node classes that Python 3.14 no longer has.
    try:
        node = ast.parse(name[:200].strip(), mode="eval").body
        parameters: dict[str, Any] = {}
        cutoff = None
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
            cutoff = ast.literal_eval(node.right)
            node = node.left
        if isinstance(node, ast.Call) and not node.args:
            parameters = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in node.keywords}
            node = node.func
        if not isinstance(node, ast.Name):
            raise ValueError("not of the form Name(parameter=value)@cutoff")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise InputError(f"measures: expected a name like {_EXAMPLES}, got {name[:80]!r}; correct its form") from None
    known = ir_measures.measures.registry
    if node.id not in known:
        close = difflib.get_close_matches(node.id, known, n=1, cutoff=0.5)
        hint = f", did you mean {close[0]!r}?" if close else ""
        raise InputError(f"measures: unknown {node.id[:80]!r}{hint}; known are, for example, {_EXAMPLES}")
    prototype = known[node.id]
    if cutoff is not None:
        parameters[prototype.AT_PARAM] = cutoff
    return _check(prototype, parameters, name)


def _check(prototype: ir_measures.Measure, parameters: Mapping[str, Any], name: str) -> ir_measures.Measure:
    """The measure with these parameters, if it can be computed with them."""
    unknown = parameters.keys() - prototype.SUPPORTED_PARAMS.keys()
    if unknown:
        raise InputError(
            f"measures: {name!r}: expected parameters among {sorted(prototype.SUPPORTED_PARAMS)}, "
            f"got {sorted(unknown)}; remove them"
        )
    # trec_eval ends the whole process at a cutoff below 1.
    for parameter, most in (("cutoff", _MAX_CUTOFF), ("rel", 1000)):
        value = parameters.get(parameter, 1)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            raise InputError(f"measures: {name!r}: expected {parameter} from 1 to {most}, got {value!r}; correct it")
    measure: ir_measures.Measure = prototype(**parameters)
    try:
        measure.validate_params()  # type: ignore[no-untyped-call]
    except AssertionError:
        raise InputError(f"measures: {name!r}: expected other parameters; write it as one of {_EXAMPLES}") from None
    if not _PROVIDERS.supports(measure):
        needed = [provider.NAME for provider in _PROVIDERS.providers if provider.supports(measure)]
        install = "".join(f"run `pip install 'ir-measures[{package}]'`, or " for package in needed)
        raise InputError(f"measures: {name!r} cannot be computed here; {install}choose for example {_EXAMPLES}")
    return measure
