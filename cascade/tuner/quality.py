"""Effectiveness of many rankings at once: the usual measures over arrays, any other through ir-measures.

The formulas are those of trec_eval, which ir-measures calls; a test holds them equal.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cascade.errors import InputError
from cascade.evaluation import evaluate, parse_measures
from cascade.tuner.recording import Recording
from cascade.types import Qrel

Floats = npt.NDArray[np.float64]

WHOLE = 1000
"""Documents that a measure without a cutoff looks at."""
_FAST = re.compile(r"(nDCG|RR|P|R)@([1-9][0-9]{0,5})")


@dataclass(frozen=True, slots=True)
class Judgments:
    """Judgments of a recording's queries, as arrays.

    Args:
        qrels: as they were read, of recorded queries only.
        relevance: of each query, int32 [candidates], the relevance of each recorded row's document; 0 if not judged.
        ideal: of each query, int32 [relevant], the relevances above 0, highest first.
        judged: bool [queries], which have judgments.
    """

    qrels: tuple[Qrel, ...]
    relevance: tuple[npt.NDArray[np.int32], ...]
    ideal: tuple[npt.NDArray[np.int32], ...]
    judged: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, qrels: Sequence[Qrel], recording: Recording, *, partial: bool = False) -> Judgments:
        """Judgments for a recording.

        Args:
            qrels: of the recorded queries.
            recording: whose candidates they are looked up for.
            partial: leave out judgments of queries that were not recorded.

        Raises:
            InputError: queries were judged that were not recorded, or none that were.
        """
        unknown = sorted({qrel.query_id for qrel in qrels} - recording.numbers.keys())
        known = [qrel for qrel in qrels if qrel.query_id in recording.numbers]
        if not known:
            raise InputError(
                f"qrels: expected judgments of the {len(recording)} queries of {recording.source}, such as "
                f"{recording.queries[0].query_id!r}, got none; take the judgments that belong to the recorded queries"
            )
        if unknown and not partial:
            raise InputError(
                f"qrels: {len(unknown)} judged queries are not in {recording.source}, for example {unknown[0]!r}; "
                f"record them, too, or pass --partial (partial=True in Python) to leave their judgments out"
            )
        codes = {doc_id: code for code, doc_id in enumerate(recording.doc_ids)}
        relevance = [np.zeros(len(recording.rows[query]), np.int32) for query in range(len(recording))]
        ideal: list[list[int]] = [[] for _ in recording.queries]
        judged = np.zeros(len(recording), np.bool_)
        for qrel in known:
            query = recording.numbers[qrel.query_id]
            judged[query] = True
            if qrel.relevance > 0:
                ideal[query].append(qrel.relevance)
                if qrel.doc_id in codes:
                    relevance[query][recording.documents[query] == codes[qrel.doc_id]] = qrel.relevance
        ordered = tuple(np.array(sorted(values, reverse=True), np.int32) for values in ideal)
        return cls(tuple(known), tuple(relevance), ordered, judged)


@dataclass(frozen=True, slots=True)
class Answers:
    """Final rankings.

    Args:
        query: int64 [n], number of the query that each answers.
        rows: of each, int32, the best passage of each document, best first; empty where the query was refused.
    """

    query: npt.NDArray[np.int64]
    rows: Sequence[npt.NDArray[np.int32]]


def measure(
    names: Sequence[str], answers: Answers, judgments: Judgments, recording: Recording
) -> dict[str, npt.NDArray[np.float64]]:
    """Measures answers.

    Args:
        names: of measures, as in ``nDCG@10``.
        answers: the rankings.
        judgments: of their queries.
        recording: that they are over.

    Returns:
        For each measure by its proper name, float64 [n]; nan for a query without judgments.

    Raises:
        InputError: a measure is unknown.
    """
    proper = [repr(parsed) for parsed in parse_measures(names)]
    fast = {name: match for name in proper if (match := _FAST.fullmatch(name))}
    values: dict[str, Floats] = {}
    if fast:
        width = max(int(match[2]) for match in fast.values())
        gains = _gains(answers, judgments, recording, min(width, max(1, *map(len, answers.rows), 1)))
        for name, match in fast.items():
            values[name] = _FORMULAS[match[1]](gains, [judgments.ideal[q] for q in answers.query], int(match[2]))
    slow = [name for name in proper if name not in fast]
    if slow:
        values |= _by_ir_measures(slow, answers, judgments, recording)
    unknown = ~judgments.judged[answers.query]
    for name in proper:
        values[name][unknown] = np.nan
    return {name: values[name] for name in proper}


def _gains(answers: Answers, judgments: Judgments, recording: Recording, width: int) -> Floats:
    """float64 [n, width]: the relevance at each rank; 0 past the end."""
    gains = np.zeros((len(answers.rows), width))
    for number, (query, rows) in enumerate(zip(answers.query.tolist(), answers.rows, strict=True)):
        best = rows[:width]
        gains[number, : len(best)] = judgments.relevance[query][np.searchsorted(recording.rows[query], best)]
    return gains


def _ndcg(gains: Floats, ideal: Sequence[npt.NDArray[np.int32]], k: int) -> Floats:
    """Sum of rel(i) / log2(i + 1) over ranks i <= k, divided by that of the ideal order.

    Järvelin & Kekäläinen, Cumulated Gain-Based Evaluation of IR Techniques, TOIS 2002; with trec_eval's linear gain.
    """
    discounts = 1.0 / np.log2(np.arange(2, max(k, gains.shape[1]) + 2))
    found = gains[:, :k] @ discounts[: min(k, gains.shape[1])]
    best = np.array([float(values[:k] @ discounts[: min(k, len(values))]) for values in ideal])
    return _shares(found, best)


def _reciprocal_rank(gains: Floats, ideal: Sequence[npt.NDArray[np.int32]], k: int) -> Floats:
    """1 / rank of the first relevant document, 0 where there is none among the first k."""
    relevant = gains[:, :k] > 0
    return np.where(relevant.any(axis=1), 1.0 / (1.0 + relevant.argmax(axis=1)), 0.0)


def _precision(gains: Floats, ideal: Sequence[npt.NDArray[np.int32]], k: int) -> Floats:
    """Share of the first k ranks that hold a relevant document."""
    shares: Floats = (gains[:, :k] > 0).sum(axis=1) / k
    return shares


def _recall(gains: Floats, ideal: Sequence[npt.NDArray[np.int32]], k: int) -> Floats:
    """Share of the relevant documents that are among the first k."""
    total = np.array([len(values) for values in ideal], np.float64)
    found = (gains[:, :k] > 0).sum(axis=1).astype(np.float64)
    return _shares(found, total)


def _shares(part: Floats, whole: Floats) -> Floats:
    shares: Floats = np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)
    return shares


_FORMULAS: Mapping[str, Callable[[Floats, Sequence[npt.NDArray[np.int32]], int], Floats]] = {
    "nDCG": _ndcg,
    "RR": _reciprocal_rank,
    "P": _precision,
    "R": _recall,
}


def _by_ir_measures(
    names: Sequence[str], answers: Answers, judgments: Judgments, recording: Recording
) -> dict[str, Floats]:
    """Each answer as a query of its own, since one query may have been answered several times."""
    by_query: dict[int, list[Qrel]] = {}
    for qrel in judgments.qrels:
        by_query.setdefault(recording.numbers[qrel.query_id], []).append(qrel)
    run, qrels = {}, []
    for number, (query, rows) in enumerate(zip(answers.query.tolist(), answers.rows, strict=True)):
        documents = recording.documents[query][np.searchsorted(recording.rows[query], rows[:WHOLE])]
        run[str(number)] = [recording.doc_ids[document] for document in documents.tolist()]
        qrels += [Qrel(str(number), qrel.doc_id, qrel.relevance) for qrel in by_query.get(query, ())]
    measured = evaluate(run, qrels, names).by_query
    return {
        name: np.array([measured[name].get(str(number), np.nan) for number in range(len(answers.rows))])
        for name in names
    }
