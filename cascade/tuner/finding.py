"""The first stage of a swift replay: retrievers, and what fuses them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Container, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cascade import scheduler
from cascade.cost import CostModel
from cascade.ranking import first_of_each, interleave
from cascade.stage import Fuser, Work
from cascade.tasks import OpenedCascade, OpenedStage, foreseen
from cascade.tuner.recording import Recording, UnitData
from cascade.types import Rows, Scores

SHARED = 96
"""Beginnings of cascades whose results are kept, so that those that begin alike need not repeat them."""
ONCE = Work(1.0)
_MOST_FUSED = Work(pairs=1e4)
"""More than is ever fused: whoever has time for that has time for less."""


class Unknown(Exception):
    """The engine itself has to replay this query."""


class Found(NamedTuple):
    """What a first stage gives.

    Args:
        parts: of each retriever, int32 [n] positions among the query's recorded candidates and float32 [n] scores.
        fused: whether there was time to fuse them.
        searched: of each retriever, how many ranges it searched, negative where what it found was thrown away; with
            ``fused``, it decides what is found.
        now: virtual seconds after it.
        scored: rows searched.
        read: the readers that have read the query.
        degraded: whether it was cut short.
        over: whether the deadline came.
    """

    parts: list[tuple[Rows, Scores]]
    fused: bool
    searched: tuple[int, ...]
    now: float
    scored: int
    read: frozenset[str]
    degraded: bool = False
    over: bool = False


class Span(NamedTuple):
    """The tasks of a retriever, in seconds from its beginning.

    Args:
        last: when the last begins.
        needed: the latest end that is predicted for any.
        whole: when the last really ends.
    """

    last: float
    needed: float
    whole: float


class Searched(NamedTuple):
    """What a retriever does under a limit.

    Args:
        part: int32 [n] positions among the query's recorded candidates and float32 [n] scores.
        now: virtual seconds after it.
        ranges: how many it searched.
        encoded: whether there was time for its query-side work.
        over: whether the deadline came.
    """

    part: tuple[Rows, Scores]
    now: float
    ranges: int
    encoded: bool
    over: bool


class Documents:
    """Which document a candidate belongs to, for candidates given as positions."""

    def __init__(self, one_passage_each: bool, documents: Rows) -> None:
        self.one_passage_each = one_passage_each
        _, numbers = np.unique(documents, return_inverse=True)
        self._documents = numbers.astype(np.uint16 if len(numbers) <= 2**16 else np.int32)  # short ones sort quickly

    def doc_rows(self, rows: Rows) -> npt.NDArray[np.integer[Any]]:
        """Integers [n]: a number for the document of each position."""
        return self._documents[rows]

    def first(self, rows: Rows, top_k: int) -> slice | npt.NDArray[np.intp]:
        """Where in ``rows`` the first ``top_k`` documents appear, rising; mostly near the beginning."""
        if self.one_passage_each:
            return slice(top_k)
        looked_at = 4 * top_k
        while True:
            found = first_of_each(self._documents[rows[:looked_at]])
            if len(found) >= top_k or looked_at >= len(rows):
                return found[:top_k]
            looked_at *= 4


class Shared:
    """What replays of different cascades over one recording have in common."""

    def __init__(self, recording: Recording, recorded: bool) -> None:
        self.recording = recording
        self.recorded = recorded
        one_each, queries = recording.header.index.one_passage_each, range(len(recording))
        self.documents = [Documents(one_each, recording.documents[query]) for query in queries]
        self.positions = {
            name: [np.searchsorted(recording.rows[q], data.rows[q]).astype(np.int32) for q in queries]
            for name, data in recording.units.items()
            if data.unit.role == "retriever"
        }
        self.spans: dict[tuple[str, float, bool], dict[int, Span]] = {}
        self._kept: OrderedDict[object, dict[int, Any]] = OrderedDict()

    def results(self, key: object) -> dict[int, Any]:
        """What was kept under ``key``, by query; the latest used keys stay."""
        if key in self._kept:
            self._kept.move_to_end(key)
        else:
            self._kept[key] = {}
            if len(self._kept) > SHARED:
                self._kept.popitem(last=False)
        return self._kept[key]


class Minima:
    """The least that each of several stages can do, in predicted seconds, worked out when first asked for.

    Args:
        stages: in the order in which they run.
        minimum: of one, given the readers that have read the query before it.
    """

    def __init__(self, stages: Sequence[OpenedStage], minimum: Callable[[OpenedStage, frozenset[str]], float]) -> None:
        self._stages = stages
        self._minimum = minimum
        self._known: dict[tuple[int, frozenset[str]], list[float]] = {}

    def __call__(self, number: int, read: frozenset[str]) -> list[float]:
        """Of the ``number``-th stage (from 0) and all after it, where some readers have read the query."""
        if (number, read) not in self._known:
            coming = foreseen(self._stages[number:], read)
            self._known[number, read] = [self._minimum(stage, before) for stage, before in coming]
        return self._known[number, read]


class Finder:
    """Replays the first stage of a cascade.

    Args:
        cascade: opened over the recording.
        costs: what the scheduler believes; does not change.
        shared: with other cascades.
        units: what was recorded of each stage, by the name that it has in this cascade.
        expires: when the deadline ends the query, whatever it is doing.
    """

    def __init__(
        self,
        cascade: OpenedCascade,
        costs: CostModel,
        shared: Shared,
        units: dict[str, UnitData],
        expires: float,
    ) -> None:
        self._cascade, self._costs, self._shared, self._units = cascade, costs, shared, units
        self._expires = expires
        self._handling_s = shared.recording.handling_s
        self._stage = cascade.stages[0]
        self._retrievers = self._stage.retrievers or (self._stage,)
        self._fused = bool(self._stage.retrievers)
        self._minima_s = Minima(self._retrievers, self._minimum)
        self._foreseen = list(foreseen(self._retrievers))
        self._all_read = frozenset(stage.reader for stage in self._retrievers)
        most = sum(cascade.rows_wanted(stage.planned.top_k) for stage in self._retrievers)
        self._fusing_s = self._predicted_fuse_s(Work(pairs=float(most))) if self._fused else 0.0

    def _minimum(self, stage: OpenedStage, read: frozenset[str]) -> float:
        """Predicted seconds of the least that a retriever can do, as the engine has it."""
        search_s = stage.ranges * self._costs.typical_s(stage.key("search"))
        return self._costs.rates(stage.key(stage.encoding(read))).seconds(ONCE) + search_s

    def whole(self, query: int) -> Found:
        """The first stage without limits."""
        parts, searched, now = [], [], 0.0
        for stage, read in self._foreseen:
            data, wanted = self._units[stage.planned.name], self._cascade.rows_wanted(stage.planned.top_k)
            parts.append((self._shared.positions[data.unit.name][query][:wanted], data.scores[query][:wanted]))
            searched.append(len(data.unit.ranges))
            now = sum(self._seconds(stage, query, read), now)
        if self._fused:
            now += self._fuse_s(parts)
        rows = self._shared.recording.header.index.passages
        return Found(parts, self._fused, tuple(searched), now, rows, self._all_read)

    def ranked(self, found: Found) -> tuple[Rows, Scores]:
        """The ranking that the retrievers' make together.

        Raises:
            Unknown: there is nothing to fuse.
        """
        if not self._fused:
            return found.parts[0]
        return self._fuse(found.parts) if found.fused else interleave(found.parts)

    def unhindered(self, query: int, deadline: float, now_after: float) -> bool:
        """Whether no task of the first stage would meet a limit.

        Args:
            query: which.
            deadline: of the stage.
            now_after: when it ends without limits.
        """
        now = 0.0
        for number, (stage, read) in enumerate(self._foreseen):
            own, span = self._own_deadline(number, now, deadline, read), self._span(stage, query, read)
            if not (now + span.last < own and now + span.needed <= own):
                return False
            now += span.whole
        if self._fused and not scheduler.may_start(now_after, self._predicted_fuse_s(_MOST_FUSED), deadline):
            return False
        return now_after < self._expires

    def within(self, query: int, deadline: float) -> Found:
        """The first stage under a limit that it meets; what ``retrieval.py`` does."""
        parts: list[tuple[Rows, Scores]] = []
        searched: list[int] = []
        now, most, whole, over = 0.0, 0, True, False
        read: frozenset[str] = frozenset()
        for number, stage in enumerate(self._retrievers):
            own, ranges = self._own_deadline(number, now, deadline, read), self._units[stage.planned.name].unit.ranges
            opening = min(now + stage.planned.budget_s, deadline)
            part, now, count, encoded, over = self._search(stage, query, now, own, opening if most == 0 else None, read)
            read |= {stage.reader} if encoded else set()
            complete = count == len(ranges)
            most = max(most, sum(stop - start for start, stop in ranges[:count]))
            whole = whole and complete
            if self._fused and stage.planned.on_overrun == "skip" and not complete and (count or over):
                part, count = (part[0][:0], part[1][:0]), -1
            parts.append(part)
            searched.append(count)
            if over:
                break
        fused = False
        if self._fused and not over and most > 0:
            fused = scheduler.may_start(now, self._costs.likely_s(self._stage.key("fuse"), _work(parts)), deadline)
            if fused:
                now += self._fuse_s(parts)
                over = now >= self._expires
        degraded = not whole or over or (self._fused and not fused)
        return Found(parts, fused and not over, tuple(searched), min(now, self._expires), most, read, degraded, over)

    def _search(
        self, stage: OpenedStage, query: int, now: float, deadline: float, opening: float | None, read: frozenset[str]
    ) -> Searched:
        """What ``retrieval.retrieve`` does.

        Args:
            stage: the retriever.
            query: which.
            now: when it begins.
            deadline: when it has to end.
            opening: when its first range has to end, where there is no answer without that; else None.
            read: the readers that have read the query before it.
        """
        data = self._units[stage.planned.name]
        rows, scores = self._shared.positions[data.unit.name][query], data.scores[query]
        encode_s, *seconds = self._seconds(stage, query, read)
        nothing = rows[:0], scores[:0]
        first, key = opening is not None, stage.key("search")
        if not scheduler.may_start(now, self._begin_s(stage, read, first), deadline if opening is None else opening):
            return Searched(nothing, now, 0, False, False)
        now, searched = now + encode_s, 0
        for task, spent_s in zip(data.tasks[query].tolist(), seconds, strict=True):
            end = deadline if opening is None or searched > 0 else opening
            predicted_s = self._predicted_s(key, Work(*task[:3]), first and searched == 0)
            if now >= self._expires or not scheduler.may_start(now, predicted_s, end):
                break
            now += spent_s
            searched += now < self._expires
        inside = np.zeros(len(rows), np.bool_)
        for start, stop in data.unit.ranges[:searched]:
            inside |= (data.rows[query] >= start) & (data.rows[query] < stop)
        wanted = self._cascade.rows_wanted(stage.planned.top_k)
        found = rows[inside][:wanted], scores[inside][:wanted]
        return Searched(found, now, searched, True, now >= self._expires)

    def _own_deadline(self, number: int, now: float, deadline: float, read: frozenset[str]) -> float:
        if not self._fused:
            return deadline
        end = deadline - (self._fusing_s if number > 0 else 0.0)
        least_s, *later_s = self._minima_s(number, read)
        reserve_s = scheduler.reserve(later_s, end - now - least_s)
        own_s = self._retrievers[number].planned.budget_s
        return scheduler.stage_deadline(now, end, own_s, 0.0, reserve_s)

    def _fuse(self, parts: list[tuple[Rows, Scores]]) -> tuple[Rows, Scores]:
        fuser = self._stage.opened
        assert isinstance(fuser, Fuser)
        if not any(len(rows) for rows, _ in parts):
            raise Unknown("nothing was found")
        return fuser.fuse(parts)

    def _fuse_s(self, parts: list[tuple[Rows, Scores]]) -> float:
        rates = self._shared.recording.rates.get(self._stage.key("fuse"))
        return self._handling_s + (0.0 if rates is None else rates.seconds(_work(parts)))

    def _predicted_fuse_s(self, work: Work) -> float:
        return self._costs.rates(self._stage.key("fuse")).seconds(work)

    def _seconds(self, stage: OpenedStage, query: int, read: Container[str]) -> list[float]:
        """Seconds of each task of a retriever: the query-side work, then its ranges."""
        data, rates, encoding = self._units[stage.planned.name], self._shared.recording.rates, stage.encoding(read)
        if self._shared.recorded:
            seconds = [float(data.encode_s[encoding][query]), *data.tasks[query][:, 3].tolist()]
        else:
            works = [Work(*task[:3]) for task in data.tasks[query].tolist()]
            searches = [rates[stage.key("search")].seconds(work) for work in works]
            seconds = [rates[stage.key(encoding)].seconds(ONCE), *searches]
        return [own + self._handling_s for own in seconds]

    def _span(self, stage: OpenedStage, query: int, read: Container[str]) -> Span:
        key = (stage.cost_key, self._cascade.plan.quantile, stage.reader in read)
        known = self._shared.spans.setdefault(key, {})
        if query not in known:
            data, now, last, needed = self._units[stage.planned.name], 0.0, 0.0, self._begin_s(stage, read)
            rates = [self._costs.rates(stage.key(stage.encoding(read))), self._costs.rates(stage.key("search"))]
            works = [ONCE, *(Work(*task[:3]) for task in data.tasks[query].tolist())]
            for number, (work, seconds) in enumerate(zip(works, self._seconds(stage, query, read), strict=True)):
                last, needed = now, max(needed, now + rates[min(number, 1)].seconds(work))
                now += seconds
            known[query] = Span(last, needed, now)
        return known[query]

    def _begin_s(self, stage: OpenedStage, read: Container[str], first: bool = False) -> float:
        """Predicted seconds without which a retriever does not begin."""
        return self._predicted_s(stage.key(stage.encoding(read)), ONCE, first) + self._costs.typical_s(
            stage.key("search")
        )

    def _predicted_s(self, key: str, work: Work, first: bool) -> float:
        """Predicted seconds of a task: on average where there is no answer without it, at the quantile otherwise."""
        return self._costs.likely_s(key, work) if first else self._costs.rates(key).seconds(work)


def _work(parts: list[tuple[Rows, Scores]]) -> Work:
    return Work(pairs=float(sum(len(rows) for rows, _ in parts)))
