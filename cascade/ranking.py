"""Operations on rankings as arrays: merging, reordering, cutting, and looking up the hits. Pure and deterministic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from cascade.index import Collection
from cascade.stage import StageSettings
from cascade.types import Candidates, Hit, Rows, Scores


class DocumentRows(Protocol):
    """Knows which document a passage belongs to."""

    @property
    def one_passage_each(self) -> bool:
        """Whether every document is a single passage."""
        ...

    def doc_rows(self, rows: Rows) -> npt.NDArray[np.integer[Any]]:
        """Integers [n]: the number of the document that each row belongs to."""
        ...


def merge(found: Sequence[tuple[Rows, Scores]], k: int) -> tuple[Rows, Scores]:
    """The best ``k`` of several searches over separate ranges: int32 [m], float32 [m], best first, ties by row."""
    if not found:
        return np.empty(0, np.int32), np.empty(0, np.float32)
    rows = np.concatenate([part for part, _ in found])
    scores = np.concatenate([part for _, part in found])
    order = (-scores).argsort(kind="stable")  # quick, since each search gave its rows in order
    if _misplaced(rows[order], scores[order]):
        order = np.lexsort((rows, -scores))
    order = order[:k]
    return rows[order], scores[order]


def _misplaced(rows: Rows, scores: Scores) -> bool:
    """Whether rows of equal score do not rise."""
    return bool(np.logical_or.reduce((scores[1:] == scores[:-1]) & (rows[1:] < rows[:-1])))


def interleave(found: Sequence[tuple[Rows, Scores]]) -> tuple[Rows, Scores]:
    """Every row of any input once: all first places, all second places, and so on; what to do without a fuser.

    >>> a, b = np.array([4, 2], np.int32), np.array([7, 4, 1], np.int32)
    >>> rows, _ = interleave([(a, np.ones(2, np.float32)), (b, np.ones(3, np.float32))])
    >>> rows.tolist()
    [4, 7, 2, 1]
    """
    if not found:
        return np.empty(0, np.int32), np.empty(0, np.float32)
    if len(found) == 1:
        return found[0]
    place = np.concatenate([np.arange(len(rows)) for rows, _ in found])
    order = np.argsort(place, kind="stable")
    rows = np.concatenate([rows for rows, _ in found])[order]
    scores = np.concatenate([scores for _, scores in found])[order]
    _, first = np.unique(rows, return_index=True)
    first.sort()
    return rows[first], scores[first]


def reorder(
    candidates: Candidates,
    scores: npt.NDArray[np.floating[Any]],
    known: npt.NDArray[np.bool_],
    stage: int,
    ties: Scores | None = None,
) -> Candidates:
    """Candidates with a new score first, by that score; the others after them in the order they had.

    Args:
        candidates: n candidates in rank order.
        scores: floats [n], the new scores; ignored where not known.
        known: bool [n], which candidates have one.
        stage: position of the stage that gave them.
        ties: float32 [n], what decides between equal scores; then, or without, the earlier order does.
    """
    scored = known.nonzero()[0]
    if len(scored) == 0:
        return candidates
    everything = len(scored) == len(candidates)
    new = scores if everything else scores[scored]
    best_first = _falling(new) if ties is None else np.lexsort((-ties[scored], -new))
    new = new[best_first].astype(np.float32, copy=False)
    best_first = best_first if everything else scored[best_first]
    first = Candidates(candidates.rows[best_first], new, np.full(len(scored), stage, np.int16))
    return first if everything else Candidates.concatenate(first, candidates[~known])


def _falling(scores: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.intp]:
    """Positions by falling score, of equal ones the earlier first."""
    order = (-scores).argsort()  # in registers, much quicker than a stable one, which only equal scores need
    ordered = scores[order]
    if np.logical_or.reduce(ordered[1:] == ordered[:-1]):
        order = (-scores).argsort(kind="stable")
    return order


def cut(
    candidates: Candidates, top_k: int, documents: DocumentRows, per_document: int
) -> tuple[Candidates, Candidates]:
    """The passages of the first ``top_k`` documents, at most ``per_document`` of each, and the rest, both in order."""
    if documents.one_passage_each:
        return candidates[:top_k], candidates[top_k:]
    keep = within(*places(documents.doc_rows(candidates.rows)), top_k, per_document)
    return candidates[keep], candidates[~keep]


def places(docs: npt.NDArray[np.integer[Any]]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """int64 [n] twice: how many documents appear before each passage's does, and its document's earlier passages.

    Args:
        docs: integers [n], the documents of passages in rank order.
    """
    order, new = _by_document(docs)
    starts = new.nonzero()[0]
    group, first = new.cumsum() - 1, order[starts]
    number = np.empty(len(first), np.int64)
    number[first.argsort()] = np.arange(len(first))
    before, earlier = np.empty((2, len(order)), np.int64)
    before[order], earlier[order] = number[group], np.arange(len(order)) - starts[group]
    return before, earlier


def within(
    before: npt.NDArray[np.int64], earlier: npt.NDArray[np.int64], top_k: int, per_document: int
) -> npt.NDArray[np.bool_]:
    """Which passages, bool [n], belong to the first ``top_k`` documents, and are among the first so many of theirs.

    Args:
        before: of ``places``.
        earlier: likewise.
        top_k: documents.
        per_document: passages of each.
    """
    keep: npt.NDArray[np.bool_] = (before < top_k) & (earlier < per_document)
    return keep


def best_passages(candidates: Candidates, documents: DocumentRows, top_k: int | None) -> Candidates:
    """The first ``top_k`` documents, each by its best passage: a document's score is the maximum over its passages."""
    if not documents.one_passage_each:
        candidates = candidates[first_of_each(documents.doc_rows(candidates.rows))]
    return candidates if top_k is None else candidates[:top_k]


def first_of_each(docs: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.intp]:
    """Where each document appears for the first time, rising."""
    order, new = _by_document(docs)
    first = order[new]
    first.sort()
    return first


def _by_document(docs: npt.NDArray[np.integer[Any]]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
    """Positions with those of one document together, each document's rising; and where another document begins."""
    order = docs.argsort(kind="stable")
    grouped = docs[order]
    new = np.ones(len(docs), np.bool_)
    np.not_equal(grouped[1:], grouped[:-1], out=new[1:])
    return order, new


def hits(best: Candidates, collection: Collection, stages: Sequence[StageSettings]) -> tuple[Hit, ...]:
    """The documents of an answer, without those that the stage which last scored them holds too improbable.

    Args:
        best: one passage of each document, best first.
        collection: what they come from.
        stages: settings of the cascade's stages.
    """
    chances: list[float | None] = [None] * len(best)
    if any(stage.probability is not None for stage in stages):
        best, chances = _probable(best, stages)
    columns = zip(
        collection.doc_ids(best.rows),
        best.scores.tolist(),
        best.stages.tolist(),
        collection.passage_texts(best.rows),
        collection.titles(best.rows),
        map(collection.metadata, best.rows.tolist()),
        chances,
        strict=True,
    )
    return tuple(
        Hit(
            rank=rank,
            doc_id=doc_id,
            score=score,
            stage=stages[stage].name if stage >= 0 else "",
            text=text,
            title=title,
            metadata=metadata,
            probability=chance,
        )
        for rank, (doc_id, score, stage, text, title, metadata, chance) in enumerate(columns, start=1)
    )


def _probable(best: Candidates, stages: Sequence[StageSettings]) -> tuple[Candidates, list[float | None]]:
    """The candidates that are probable enough, and how probable they are; None where that is not known."""
    chances, keep = np.full(len(best), np.nan), np.ones(len(best), np.bool_)
    for number, stage in enumerate(stages):
        if stage.probability is None:
            continue
        own = best.stages == number
        chances[own] = stage.probability(best.scores[own].astype(np.float64))
        if stage.min_probability is not None:
            keep &= ~(own & (chances < stage.min_probability))
    return best[keep], [None if np.isnan(chance) else chance for chance in chances[keep].tolist()]
