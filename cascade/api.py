"""``Cascade``: the engine as a Python object."""

from __future__ import annotations

import gc
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import numpy as np

from cascade.arguments import FROM_CONFIG, Budget, as_documents, as_query, as_seconds, check_count, check_top_k
from cascade.calibration import SAMPLE, TEXT_WARM_UP, WARM_UP, calibrate, knows_all
from cascade.clock import Clock, Deadline, MonotonicClock
from cascade.cores import cores
from cascade.cost import CostModel, CostProfile, joined
from cascade.engine import QueryRun
from cascade.errors import BadIndex, InputError, Overloaded
from cascade.executor import Executor, Ticket
from cascade.index import Corpus, Index, Manifest, MemoryPassages, build_index
from cascade.load import load_config
from cascade.opening import LoadedStages, with_budget
from cascade.planner import Plan, plan
from cascade.registry import Registry
from cascade.schema import CascadeConfig
from cascade.stage import Context, StepProgress
from cascade.tasks import OpenedCascade
from cascade.telemetry import Observation, Observer, Observers
from cascade.types import Candidates, Document, Query, Ranking
from cascade.workqueue import admit

logger = logging.getLogger(__name__)

MOST_BUDGETS = 64
AT_ONCE = 64
ASYNCIO_TICK_S = 0.001
"""By how much asyncio may be late with a timeout: its selector counts whole milliseconds, rounded up."""
COSTS_FILE = "costs.json"


class Cascade:
    """A multi-stage ranking engine: retrieves, reranks stage by stage, and answers on time.

    Thread-safe: share one among all threads. Close it, or use it as a context manager, to stop its worker. While one
    that has a budget is open, what existed when it was opened is left out of garbage collection (``gc.freeze``): to
    search the hundreds of thousands of objects behind the models stops every thread for longer than a query may take.

    >>> engine = Cascade.from_yaml("configs/default.yaml", index="idx")  # doctest: +SKIP
    >>> engine.search("how to prevent heart attacks?", top_k=10, budget_ms=80)  # doctest: +SKIP
    """

    def __init__(
        self,
        config: CascadeConfig,
        *,
        index: Index | None = None,
        costs: CostProfile | None = None,
        workers: int = 1,
        threads: int | None = None,
        clock: Clock | None = None,
        observers: Iterable[Observer] = (),
        models_of: Cascade | None = None,
    ) -> None:
        """Loads the models and opens them over the index.

        Args:
            config: a checked configuration.
            index: what ``search`` looks in; without one there is only ``rerank``, whose stages have to encode every
                passage, so that a budget made for an index is soon used up.
            costs: what this machine's work costs. If the configuration has a budget, stages that it says nothing of
                are measured shortly now; the others are called twice, so that no query waits for what is compiled
                then.
            workers: tasks executed at the same time.
            threads: threads of each task; by default the cores divided among the workers.
            clock: time; the machine's by default.
            observers: told of every query once it is over; see ``cascade.telemetry``.
            models_of: another engine, whose loaded models serve this one, too, where the settings of a stage agree.

        Raises:
            InputError: for a number of workers or threads that cannot be.
            ModelError: when a model cannot be loaded.
            IndexMismatch: when the index was built with other models or settings.
        """
        check_count("workers", workers)
        check_count("threads", threads)
        self.config = config
        self.plan: Plan = plan(config)
        self.index = index
        self._clock: Clock = MonotonicClock() if clock is None else clock
        threads = max(1, cores() // workers) if threads is None else threads
        shared = None if models_of is None else models_of._stages
        self._stages: LoadedStages = LoadedStages(self.plan, Context(config.folder), threads, shared)
        self._opened: OpenedCascade | None = None
        self._scaled: dict[float, OpenedCascade] = {}
        if index is None:
            measured = self._stages.open_texts(MemoryPassages(SAMPLE))  # the first query does not wait for models
            effort = TEXT_WARM_UP
        else:
            index.require_passages(self.plan.passages)
            measured = self._opened = self._stages.open_index(index)
            effort = WARM_UP
        if costs is not None and costs.quantile != self.plan.quantile:
            logger.warning(
                "the cost profile says what %g of tasks take, the configuration wants quantile: %g; measuring anew, "
                "until 'cascade calibrate' has run with this configuration",
                costs.quantile,
                self.plan.quantile,
            )
            costs = None
        if _limited(self.plan):
            costs = calibrate(measured, self._clock, quantile=self.plan.quantile, effort=effort, known=costs)
        elif costs is not None and not knows_all(costs, measured):
            costs = replace(costs, source=joined([costs.source, "none"]))
        self.costs = CostModel.unknown(self.plan.quantile) if costs is None else CostModel(costs)
        self._executor = Executor(
            self.costs,
            workers=workers,
            max_waiting=self.plan.max_waiting,
            clock=self._clock,
            prepare=self._stages.use_threads,
        )
        self._observers = Observers(observers)
        self._frozen = _limited(self.plan)
        if self._frozen:
            _freeze()

    @classmethod
    def from_yaml(
        cls,
        path: str | Path,
        *,
        index: str | Path | None = None,
        costs: str | Path | CostProfile | None = None,
        registry: Registry | None = None,
        workers: int = 1,
        threads: int | None = None,
        verify: bool = True,
        observers: Iterable[Observer] = (),
    ) -> Cascade:
        """The engine that a YAML file describes.

        Args:
            path: the configuration.
            index: an index directory made by ``cascade index``.
            costs: a profile made by ``cascade calibrate``; by default the one in the index directory, if it has one
                and was measured on this machine.
            registry: the kinds of stage that the file may use; the installed ones by default.
            workers: tasks executed at the same time.
            threads: threads of each task.
            verify: check the index's checksums.
            observers: told of every query once it is over.

        Raises:
            ConfigError: when the file is wrong.
            BadIndex: when the index is missing, damaged, or made with other models or settings.
            ModelError: when a model cannot be loaded.
        """
        config = load_config(path, registry)
        opened = None if index is None else Index.open(index, verify=verify)
        profile = CostProfile.load(Path(costs)) if isinstance(costs, str | Path) else costs
        if profile is None and index is not None:
            profile = profile_at(Path(index) / COSTS_FILE)
        return cls(config, index=opened, costs=profile, workers=workers, threads=threads, observers=observers)

    def __enter__(self) -> Cascade:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Takes no more queries, gives those under way some seconds to end, drops the others, and stops the workers.

        Observers are told of all that ended before.
        """
        self._executor.close()
        self._observers.close()
        if self._frozen:
            self._frozen = False
            _thaw()

    def search(self, query: str | Query, top_k: int | None = None, budget_ms: Budget = FROM_CONFIG) -> Ranking:
        """The best documents of the index for a query.

        Args:
            query: the question.
            top_k: documents wanted; by default as many as the last stage passes on. More than that appends what
                earlier stages cut, in their order.
            budget_ms: milliseconds from now to the answer. The stages' own budgets are scaled with it.

        Raises:
            InputError: for a query or a number that cannot be used.
            DeadlineExceeded: when the time ran out in a stage that says ``on_overrun: fail``.
            StageError: when a stage failed that says ``on_error: fail``.
            Overloaded: when the query could not be answered in time behind those already waiting.
            Cancelled: when the engine was closed meanwhile.
        """
        check_top_k(top_k)
        ticket = self._submit(self._need_index(), as_query(query), as_seconds(budget_ms, self.plan.budget_s))
        return self._answer(ticket, top_k)

    async def asearch(self, query: str | Query, top_k: int | None = None, budget_ms: Budget = FROM_CONFIG) -> Ranking:
        """``search`` for asyncio. Cancelling it drops the query before its next batch."""
        import asyncio  # whoever calls this has loaded it; the others need not

        check_top_k(top_k)
        ticket = self._submit(self._need_index(), as_query(query), as_seconds(budget_ms, self.plan.budget_s))
        left_s = ticket.left_s() - ASYNCIO_TICK_S
        try:
            await asyncio.wait_for(asyncio.wrap_future(ticket.future), None if left_s == math.inf else max(0.0, left_s))
        except asyncio.TimeoutError:
            ticket.expire()
        except asyncio.CancelledError:
            ticket.cancel()
            raise
        finally:
            self._tell(ticket.run)
        ranking = ticket.run.result(top_k)
        self._executor.answered(ticket.run)
        return ranking

    def search_many(
        self, queries: Iterable[str | Query], top_k: int | None = None, budget_ms: Budget = None
    ) -> list[Ranking]:
        """The answers to many queries, in order; see ``stream``."""
        return list(self.stream(queries, top_k, budget_ms))

    def stream(
        self, queries: Iterable[str | Query], top_k: int | None = None, budget_ms: Budget = None
    ) -> Iterator[Ranking]:
        """Answers queries one after the other as they come, in order.

        Without a budget, the default, several are under way at once and share batches. With one, each query is alone
        with its time, as a single client would be.

        Raises:
            As ``search``.
        """
        check_top_k(top_k)
        for run in self.runs(queries, budget_ms):
            yield run.result(top_k)

    def runs(self, queries: Iterable[str | Query], budget_ms: Budget = None) -> Iterator[QueryRun]:
        """Like ``stream``, but yields the finished runs, which also know the order after each stage."""
        cascade, budget_s = self._need_index(), as_seconds(budget_ms, self.plan.budget_s)
        at_once = max(1, min(AT_ONCE, self.plan.max_waiting // 2)) if budget_s == math.inf else 1
        waiting: deque[Ticket] = deque()
        try:
            for query in queries:
                if len(waiting) >= at_once:
                    yield self._handed_over(waiting.popleft())
                waiting.append(self._submit(cascade, as_query(query), budget_s))
            while waiting:
                yield self._handed_over(waiting.popleft())
        finally:
            for ticket in waiting:  # nobody wants them any more
                ticket.cancel()
                self._tell(ticket.run)

    def rerank(
        self,
        query: str | Query,
        passages: Sequence[str | Document],
        top_k: int | None = None,
        budget_ms: Budget = FROM_CONFIG,
    ) -> Ranking:
        """Orders given passages by the cascade's rerankers; needs no index.

        Args:
            query: the question.
            passages: texts or documents, best first if they have an order. The ``doc_id`` of a text is its position,
                from 0.
            top_k: documents wanted; all of them by default.
            budget_ms: milliseconds from now to the answer; passages are split and tokenised before the first look at
                the clock.

        Raises:
            InputError: for too many or too long passages, for two of one ``doc_id``, and as in ``search``.
        """
        entered = self._clock.now()
        check_top_k(top_k)
        documents = as_documents(passages)
        collection = MemoryPassages(documents, self.plan.passages, self._stages.tokenizers(rerankers_only=True))
        cascade = self._stages.open_texts(collection)
        rows = np.arange(len(collection), dtype=np.int32)
        budget_s = as_seconds(budget_ms, self.plan.budget_s)
        ticket = self._submit(cascade, as_query(query), budget_s, Candidates.unscored(rows), entered=entered)
        return self._answer(ticket, len(documents) if top_k is None else top_k)

    def calibrate(self, progress: Callable[[str, float], None] = lambda stage, share: None) -> CostProfile:
        """Measures thoroughly what the stages cost on this machine and uses it from now on.

        Args:
            progress: told of each stage and the share (0 to 1) of its measuring that is done.
        """
        profile = calibrate(self._need_index(), self._clock, quantile=self.plan.quantile, progress=progress)
        self.costs.replace(profile)
        return profile

    def _need_index(self) -> OpenedCascade:
        if self._opened is None:
            raise BadIndex(
                "search needs an index: make one with 'cascade index' and pass index=DIR; rerank() needs none"
            )
        return self._opened

    def _submit(
        self,
        cascade: OpenedCascade,
        query: Query,
        budget_s: float,
        candidates: Candidates | None = None,
        entered: float | None = None,
    ) -> Ticket:
        now = self._clock.now()
        entered = now if entered is None else entered
        run = QueryRun(
            self._under(cascade, budget_s),
            query,
            clock=self._clock,
            deadline=Deadline(entered + budget_s),
            costs=self.costs,
            health=self._executor.health,
            candidates=candidates,
            entered=entered,
            finish_s=self._executor.finish_s,
        )
        try:
            if budget_s != math.inf:
                admit(run, self._executor.queued_s(run.deadline.at), now)
            return self._executor.submit(run)
        except Overloaded as error:
            self._tell(run, error)
            raise

    def _finished(self, ticket: Ticket) -> QueryRun:
        """Waits for a query to be over."""
        try:
            ticket.wait()
        finally:
            self._tell(ticket.run)
        return ticket.run

    def _handed_over(self, ticket: Ticket) -> QueryRun:
        run = self._finished(ticket)
        self._executor.answered(run)
        return run

    def _answer(self, ticket: Ticket, top_k: int | None) -> Ranking:
        ranking = self._finished(ticket).result(top_k)
        self._executor.answered(ticket.run)
        return ranking

    def _tell(self, run: QueryRun, refused: Overloaded | None = None) -> None:
        """Reports a query that is over, or was refused, to the observers, who hear of it on their own thread."""
        if self._observers:
            started_at = time.time() - (self._clock.now() - run.entered)
            error = _error_of(run) if refused is None else refused
            self._observers.tell(Observation(run.query, run.trace, error, started_at))

    def _under(self, cascade: OpenedCascade, budget_s: float) -> OpenedCascade:
        """``with_budget``, remembered for the index, since callers use few budgets and ask often."""
        if cascade is not self._opened:
            return with_budget(cascade, budget_s)
        scaled = self._scaled.get(budget_s)
        if scaled is None:
            if len(self._scaled) >= MOST_BUDGETS:
                self._scaled.clear()
            scaled = self._scaled[budget_s] = with_budget(cascade, budget_s)
        return scaled


def index_corpus(
    config: CascadeConfig,
    corpus: Corpus,
    target: str | Path,
    *,
    force: bool = False,
    threads: int | None = None,
    progress: StepProgress = lambda step, done, total: None,
) -> Manifest:
    """Builds the index of a corpus for a cascade's stages.

    Args:
        config: whose stages to index for.
        corpus: the documents, as ``cascade.io.read_corpus`` gives them.
        target: the index directory.
        force: replace an index that is there already.
        threads: threads to encode with; all cores by default.
        progress: told of each step, and how many of how many rows are done.

    Raises:
        InputError: when the corpus is wrong, or there is an index already and ``force`` is not given.
        IndexLocked: when another process is writing to the directory.
        ModelError: when a model cannot be loaded.
    """
    planned = plan(config)
    stages = LoadedStages(planned, Context(config.folder), cores() if threads is None else threads)
    return build_index(target, corpus, stages.indexed(), planned.passages, force=force, progress=progress)


def _error_of(run: QueryRun) -> Exception | None:
    """What ``result`` raises; that of a ``DeadlineExceeded`` carries no hits here."""
    try:
        run.result(top_k=0)
    except Exception as error:
        return error
    return None


_freezing = threading.Lock()
_freezers = 0
"""Engines that keep what is old out of garbage collection."""


def _freeze() -> None:
    global _freezers
    with _freezing:
        _freezers += 1
        gc.collect()
        gc.freeze()


def _thaw() -> None:
    """For the last of them; what another has frozen stays so."""
    global _freezers
    with _freezing:
        _freezers -= 1
        if _freezers == 0:
            gc.unfreeze()


def _limited(plan: Plan) -> bool:
    return plan.budget_s != math.inf or any(unit.budget_s != math.inf for unit in plan.units())


def profile_at(path: Path) -> CostProfile | None:
    """The profile in a file, unless there is none or it was measured on another machine."""
    if not path.exists():
        return None
    try:
        return CostProfile.load(path)
    except InputError as error:
        logger.warning("%s; measuring anew", error)
        return None
