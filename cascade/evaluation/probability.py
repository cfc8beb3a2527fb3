"""What a stage's score says of relevance: fitted to judged queries, and how far off it is on others."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from cascade.calibrating import Isotonic, Platt, Probability
from cascade.engine import QueryRun
from cascade.errors import InputError
from cascade.planner import PlannedStage
from cascade.ranking import best_passages
from cascade.types import Qrel, Scores
from cascade.yamltree import scalar

Floats: TypeAlias = npt.NDArray[np.float64]
Flags: TypeAlias = npt.NDArray[np.bool_]

FOLDS = 5
BINS = 10
NEWTON_STEPS = 100
NEWTON_ENDS = 1e-12


class Method(str, Enum):
    """How to fit."""

    PLATT = "platt"
    ISOTONIC = "isotonic"


@dataclass(frozen=True, slots=True)
class LabelledScores:
    """Scores of one stage and whether what it scored is relevant.

    Args:
        stage: its name.
        scores: float64 [n].
        relevant: bool [n].
        query: int64 [n], a number for the query of each.
    """

    stage: str
    scores: Floats
    relevant: Flags
    query: npt.NDArray[np.int64]

    def only(self, which: Flags) -> LabelledScores:
        """Some of them."""
        return LabelledScores(self.stage, self.scores[which], self.relevant[which], self.query[which])


@dataclass(frozen=True, slots=True)
class Calibrated:
    """A fitted probability.

    Args:
        stage: whose scores it is for.
        probability: for the stage's settings, fitted to all queries.
        error: expected calibration error on queries that it was not fitted to.
        queries: how many there were.
        scores: how many scores of theirs.
        relevant: how many of these were of relevant documents.
    """

    stage: str
    probability: Probability
    error: float
    queries: int
    scores: int
    relevant: int

    def yaml(self) -> str:
        """The line for the stage's settings."""
        return "probability: " + scalar(self.probability.model_dump(exclude_none=True, mode="json"))


class LastScores:
    """Gathers, run by run, what the last stage of a cascade says of the documents that it scores.

    As in the measures, what nobody judged counts as not relevant; where many relevant documents are unjudged, the
    probabilities will be too low.

    Args:
        stage: the last of the plan.
        qrels: judgments of the queries.

    Raises:
        InputError: the stage combines scores.
    """

    def __init__(self, stage: PlannedStage, qrels: Sequence[Qrel]) -> None:
        if stage.combine is not None:
            raise InputError(
                f"stage {stage.name!r}: expected scores of its own, got combined ones, which compare candidates of one "
                "query only; calibrate it without combine"
            )
        self._stage = stage.name
        self._relevant = {(qrel.query_id, qrel.doc_id) for qrel in qrels if qrel.relevance > 0}
        self._found: list[tuple[Scores, list[bool]]] = []

    def add(self, run: QueryRun) -> None:
        """Takes in one more finished query."""
        last, collection = len(run.cascade.stages) - 1, run.cascade.collection
        order = run.order_after(last)
        best = best_passages(order[order.stages == last], collection, None)
        labels = [(run.query.query_id, doc_id) in self._relevant for doc_id in collection.doc_ids(best.rows)]
        self._found.append((best.scores, labels))

    def labelled(self) -> LabelledScores:
        """All that was gathered.

        Raises:
            InputError: that is nothing.
        """
        if not any(labels for _, labels in self._found):
            got = "expected scores of judged queries, got none; give it more time, or other queries"
            raise InputError(f"stage {self._stage!r}: {got}")
        return LabelledScores(
            self._stage,
            np.concatenate([scores for scores, _ in self._found]).astype(np.float64),
            np.array([label for _, labels in self._found for label in labels], np.bool_),
            np.repeat(np.arange(len(self._found)), [len(labels) for _, labels in self._found]),
        )


def calibrate_scores(labelled: LabelledScores, method: Method, *, seed: int = 0) -> Calibrated:
    """Fits a probability to all queries; its error comes from fits that leave out a fifth of the queries in turn.

    Args:
        labelled: scores of several queries.
        method: Platt's has two parameters and suits few judgments; isotonic takes any rising shape, and needs more.
        seed: of the division into fifths.

    Raises:
        InputError: there are too few queries or labels of one kind, or scores do not rise with relevance.
    """
    queries = np.unique(labelled.query)
    if len(queries) < FOLDS:
        raise InputError(f"calibration: expected at least {FOLDS} queries with scores, got {len(queries)}; judge more")
    fold_of = np.empty(len(queries), np.int64)
    fold_of[np.random.default_rng(seed).permutation(len(queries))] = np.arange(len(queries)) % FOLDS
    fold, chances = fold_of[np.searchsorted(queries, labelled.query)], np.empty(len(labelled.scores))
    for held_out in range(FOLDS):
        own = fold == held_out
        chances[own] = _fitted(labelled.only(~own), method)(labelled.scores[own])
    return Calibrated(
        stage=labelled.stage,
        probability=_fitted(labelled, method),
        error=expected_calibration_error(chances, labelled.relevant),
        queries=len(queries),
        scores=len(labelled.scores),
        relevant=int(labelled.relevant.sum()),
    )


def _fitted(labelled: LabelledScores, method: Method) -> Probability:
    if method is Method.PLATT:
        return Probability(platt=fit_platt(labelled.scores, labelled.relevant))
    return Probability(isotonic=fit_isotonic(labelled.scores, labelled.relevant))


def fit_platt(scores: Floats, relevant: Flags) -> Platt:
    """The logistic curve of the greatest likelihood, towards Platt's targets.

    These, (N+ + 1) / (N+ + 2) for relevant and 1 / (N- + 2) for other documents instead of 1 and 0, keep it finite
    where a score separates the two. Newton's method with halved steps: Lin, Lin & Weng, "A Note on Platt's
    Probabilistic Outputs for Support Vector Machines" (Machine Learning 68, 2007).

    Args:
        scores: float64 [n].
        relevant: bool [n].

    Raises:
        InputError: all are relevant or none is, all scores are equal, or they fall with relevance.

    >>> fitted = fit_platt(np.array([0.0, 1.0, 2.0, 3.0]), np.array([False, True, False, True]))
    >>> fitted(np.array([1.5])).round(3).tolist(), fitted.a > 0
    ([0.5], True)
    """
    _check(scores, relevant)
    positive = int(relevant.sum())
    targets = np.where(relevant, (positive + 1) / (positive + 2), 1 / (len(scores) - positive + 2))
    middle, spread = float(scores.mean()), float(scores.std())
    slope, offset = _logistic((scores - middle) / spread, targets)
    if slope <= 0:
        raise InputError(
            "calibration: expected scores that rise with relevance, got scores that do not; are the judgments of this "
            "collection?"
        )
    return Platt(a=slope / spread, b=offset - slope * middle / spread)


def _logistic(x: Floats, targets: Floats) -> tuple[float, float]:
    """Slope and offset of least cross-entropy."""
    design = np.stack([x, np.ones_like(x)], axis=1)

    def loss(at: Floats) -> float:
        logits = design @ at
        return float((np.logaddexp(0.0, logits) - targets * logits).sum())

    at = np.array([0.0, np.log(targets.mean() / (1 - targets.mean()))])
    for _ in range(NEWTON_STEPS):
        chances = np.exp(-np.logaddexp(0.0, -(design @ at)))
        gradient = design.T @ (chances - targets)
        hessian = (design * (chances * (1 - chances))[:, None]).T @ design + NEWTON_ENDS * np.eye(2)
        step, now = np.linalg.solve(hessian, gradient), loss(at)
        while loss(at - step) > now and np.abs(step).max() > NEWTON_ENDS:
            step = step / 2
        at = at - step
        if np.abs(step).max() <= NEWTON_ENDS:
            break
    return float(at[0]), float(at[1])


def fit_isotonic(scores: Floats, relevant: Flags) -> Isotonic:
    """The rising step function of least squares, by pooling adjacent violators, with straight lines between its steps.

    Ayer et al., "An Empirical Distribution Function for Sampling with Incomplete Information" (Annals of Mathematical
    Statistics 26, 1955); for probabilities Zadrozny & Elkan, as ``Isotonic`` says.

    Args:
        scores: float64 [n].
        relevant: bool [n].

    Raises:
        InputError: all are relevant or none is, or all scores are equal.

    >>> fit_isotonic(np.array([1.0, 2.0, 3.0, 4.0]), np.array([False, True, False, True])).model_dump()
    {'scores': [1.0, 2.0, 3.0, 4.0], 'values': [0.0, 0.5, 0.5, 1.0]}
    """
    _check(scores, relevant)
    levels, level_of, counts = np.unique(scores, return_inverse=True, return_counts=True)
    hits = np.bincount(level_of, weights=relevant)
    blocks: list[tuple[float, float, float, float]] = []  # lowest and highest score, relevant, all
    for block in zip(levels.tolist(), levels.tolist(), hits.tolist(), counts.tolist(), strict=True):
        lowest, highest, own_hits, own = block
        while blocks and blocks[-1][2] * own >= own_hits * blocks[-1][3]:  # its share is not smaller
            before = blocks.pop()
            lowest, own_hits, own = before[0], own_hits + before[2], own + before[3]
        blocks.append((lowest, highest, own_hits, own))
    points = list(
        itertools.chain.from_iterable(
            [(score, own_hits / own) for score in dict.fromkeys((lowest, highest))]
            for lowest, highest, own_hits, own in blocks
        )
    )
    return Isotonic(scores=[score for score, _ in points], values=[value for _, value in points])


def expected_calibration_error(chances: Floats, relevant: Flags, bins: int = BINS) -> float:
    """Mean distance of what was said from what came true, over bins of equally many, nearly equal probabilities.

    ECE = sum over bins b: n_b / n * |share of relevant in b - mean probability in b|; Naeini, Cooper & Hauskrecht,
    "Obtaining Well Calibrated Probabilities Using Bayesian Binning" (AAAI 2015). Bins of equal mass, since most
    candidates are improbable and bins of equal width would hold nearly all or nearly none: Nixon et al., "Measuring
    Calibration in Deep Learning" (CVPR Workshops 2019). Equal probabilities share their labels, so that the order in
    which they come does not matter.

    >>> chances, relevant = np.array([0.0, 0.5, 0.5, 0.9]), np.array([False, True, False, True])
    >>> round(expected_calibration_error(chances, relevant, bins=2), 6)
    0.025
    """
    order = np.argsort(chances, kind="stable")
    _, level_of, counts = np.unique(chances, return_inverse=True, return_counts=True)
    shares = (np.bincount(level_of, weights=relevant) / counts)[level_of]
    gaps = [abs(float((shares[part] - chances[part]).sum())) for part in np.array_split(order, min(bins, len(order)))]
    return sum(gaps) / len(order)


def _check(scores: Floats, relevant: Flags) -> None:
    positive = int(relevant.sum())
    if not 0 < positive < len(relevant):
        raise InputError(
            f"calibration: expected scores of relevant and of other documents, got {positive} and "
            f"{len(relevant) - positive}; judge more queries"
        )
    if np.ptp(scores) == 0:
        raise InputError(f"calibration: expected scores that differ, got {scores[0]:g} for all")
