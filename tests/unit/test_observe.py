"""Observers: what they are told, what they make of it, and that they cannot hurt."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from prometheus_client import CollectorRegistry

from cascade.api import Cascade, index_corpus
from cascade.errors import Cancelled, DeadlineExceeded, InputError, Overloaded, StageError
from cascade.index import Index
from cascade.io import read_corpus
from cascade.load import parse_config
from cascade.registry import Registry
from cascade.schema import CascadeConfig
from cascade.stage import Batch, Opened, Passages, Reranker, Stage, StageKind, StageSettings
from cascade.telemetry import Observation, Observer, Observers, OpenTelemetryObserver, PrometheusObserver
from cascade.trace import StageTrace, Trace
from cascade.types import Query, Ranking, Scores
from tests.fakes import FakeRetriever, Fault, Hangs, no_fault, raises
from tests.fakes import stage_trace as part

STARTED_AT = 1_700_000_000.0
STARTED_NS = 1_700_000_000 * 10**9


FUSED = part("fused", 0.5, retrievers=(part("bm25", 0.125), part("dense", 0.25)))
CUT = part("ce", 0.25, budget_s=0.2, reason="budget")
BROKEN = part("late", 0.0625, reason="failed", detail="out of memory")


def seen(
    *stages: StageTrace, seconds: float = 1.0, budget_s: float = math.inf, error: Exception | None = None
) -> Observation:
    return Observation(
        Query("q7", "a secret"), Trace("shop", budget_s, seconds, 0.0, stages), error, started_at=STARTED_AT
    )


# Spans


class Spans:
    """The spans that an ``OpenTelemetryObserver`` has ended, by name."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.observer = OpenTelemetryObserver(self.provider)

    def after(self, observation: Observation) -> dict[str, ReadableSpan]:
        self.observer.answered(observation)
        return {span.name: span for span in self.exporter.get_finished_spans()}


@pytest.fixture
def spans() -> Spans:
    return Spans()


def interval(span: ReadableSpan) -> tuple[float, float]:
    """Seconds since ``STARTED_AT``."""
    assert span.start_time is not None
    assert span.end_time is not None
    return (span.start_time - STARTED_NS) / 1e9, (span.end_time - STARTED_NS) / 1e9


def test_spans_nest_as_stages_do(spans: Spans) -> None:
    found = spans.after(seen(FUSED, CUT))
    assert {name: span.parent and span.parent.span_id for name, span in found.items()} == {
        "rank shop": None,
        "fused": found["rank shop"].context.span_id,
        "bm25": found["fused"].context.span_id,
        "dense": found["fused"].context.span_id,
        "ce": found["rank shop"].context.span_id,
    }


def test_spans_lie_where_the_work_lay_in_time(spans: Spans) -> None:
    found = spans.after(seen(FUSED, CUT, seconds=1.0))
    assert {name: interval(span) for name, span in found.items()} == {
        "rank shop": (0.0, 1.0),
        "fused": (0.25, 0.75),  # what is not of any stage came before them
        "bm25": (0.25, 0.375),
        "dense": (0.375, 0.625),
        "ce": (0.75, 1.0),
    }


def test_spans_say_what_the_trace_says_and_no_text(spans: Spans) -> None:
    found = spans.after(seen(FUSED, CUT, budget_s=0.875))
    assert dict(found["rank shop"].attributes or {}) == {
        "cascade.name": "shop",
        "cascade.query_id": "q7",
        "cascade.budget_s": 0.875,
        "cascade.waited_s": 0.0,
        "cascade.overshoot_s": 0.125,
        "cascade.degraded": True,
    }
    assert dict(found["ce"].attributes or {}) == {
        "cascade.stage.kind": "fake",
        "cascade.stage.received": 10,
        "cascade.stage.planned": 9,
        "cascade.stage.scored": 8,
        "cascade.stage.passed": 5,
        "cascade.stage.batches": 2,
        "cascade.stage.reason": "budget",
        "cascade.stage.waited_s": 0.0,
        "cascade.stage.budget_s": 0.2,
        "cascade.stage.saved_s": 0.0,
        "cascade.stage.quarantined": 0,
        "cascade.stage.degraded": True,
    }
    assert "cascade.stage.budget_s" not in (found["fused"].attributes or {})


def test_a_span_says_what_its_stage_handed_on_and_saved(spans: Spans) -> None:
    found = spans.after(seen(part("ce", 0.25, reason="saturated", slack_s=0.5, saved_s=0.375)))
    attributes = found["ce"].attributes or {}
    assert (attributes["cascade.stage.slack_s"], attributes["cascade.stage.saved_s"]) == (0.5, 0.375)


def test_a_failed_stage_is_an_error_and_the_query_that_it_degrades_is_none(spans: Spans) -> None:
    found = spans.after(seen(BROKEN))
    assert (found["late"].status.status_code, found["late"].status.description) == (StatusCode.ERROR, "out of memory")
    assert found["rank shop"].status.status_code is StatusCode.UNSET


def test_what_the_caller_got_instead_of_a_ranking_is_recorded(spans: Spans) -> None:
    found = spans.after(seen(seconds=0.5, error=Overloaded("too much", 2.0)))
    (span,) = found.values()
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "too much")
    assert (span.attributes or {})["error.type"] == "Overloaded"
    assert [event.timestamp - STARTED_NS for event in span.events] == [500_000_000]


# Metrics


class Metrics:
    """A ``PrometheusObserver`` over a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.observer = PrometheusObserver(self.registry)

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, {"cascade": "shop", **labels})


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def test_queries_are_counted_by_what_became_of_them(metrics: Metrics) -> None:
    for observation in (
        seen(FUSED),
        seen(CUT),
        seen(FUSED, BROKEN),
        seen(error=Overloaded("too much", 2.0)),
        seen(CUT, error=DeadlineExceeded("late", Ranking(Query("", ""), (), seen(CUT).trace))),
        seen(BROKEN, error=StageError("broken")),
        seen(error=Cancelled("withdrawn")),
    ):
        metrics.observer.answered(observation)
    assert metrics.value("cascade_queries_total") == 7
    assert metrics.value("cascade_queries_degraded_total") == 2
    assert metrics.value("cascade_queries_refused_total") == 1
    assert metrics.value("cascade_queries_failed_total", error="DeadlineExceeded") == 1
    assert metrics.value("cascade_queries_failed_total", error="StageError") == 1
    assert metrics.value("cascade_queries_failed_total", error="Overloaded") is None
    assert metrics.value("cascade_query_duration_seconds_count") == 5


def test_stages_and_retrievers_are_counted_by_the_reason_of_their_end(metrics: Metrics) -> None:
    metrics.observer.answered(seen(FUSED, CUT, part("late", 0.0, reason="skipped")))
    metrics.observer.answered(seen(FUSED, CUT, BROKEN))
    assert metrics.value("cascade_stages_total", stage="bm25", reason="complete") == 2
    assert metrics.value("cascade_stages_total", stage="ce", reason="budget") == 2
    assert metrics.value("cascade_stages_total", stage="late", reason="skipped") == 1
    assert metrics.value("cascade_stages_total", stage="late", reason="failed") == 1
    assert metrics.value("cascade_stage_duration_seconds_sum", stage="fused") == 1.0
    assert metrics.value("cascade_stage_duration_seconds_count", stage="late") == 1


def test_overshoot_is_measured_where_there_is_a_budget(metrics: Metrics) -> None:
    metrics.observer.answered(seen(FUSED, seconds=1.0))
    assert metrics.value("cascade_query_overshoot_seconds_count") is None
    metrics.observer.answered(seen(FUSED, seconds=1.0, budget_s=2.0))
    metrics.observer.answered(seen(FUSED, seconds=2.25, budget_s=2.0))
    assert metrics.value("cascade_query_overshoot_seconds_count") == 2
    assert metrics.value("cascade_query_overshoot_seconds_bucket", le="0.0") == 1
    assert metrics.value("cascade_query_overshoot_seconds_sum") == 0.25


@pytest.mark.parametrize(
    ("observer", "package", "extra"),
    [
        (OpenTelemetryObserver, "opentelemetry", "otel"),
        (PrometheusObserver, "prometheus_client", "prometheus"),
    ],
)
def test_a_missing_package_is_named(
    observer: type[Observer], package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"run `pip install 'cascade-ranking\[{extra}\]'`"):
        observer()


# The thread between


class Remembers:
    """Keeps what it is told, and where ``where`` stood then."""

    def __init__(self) -> None:
        self.told: list[Observation] = []
        self.contexts: list[str] = []

    def answered(self, observation: Observation) -> None:
        self.told.append(observation)
        self.contexts.append(where.get())


class Breaks(Remembers):
    def answered(self, observation: Observation) -> None:
        super().answered(observation)
        raise RuntimeError("no disk")


class Blocks(Remembers):
    """Does not come back from its first report before ``release`` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.release = threading.Event(), threading.Event()

    def answered(self, observation: Observation) -> None:
        super().answered(observation)
        self.entered.set()
        assert self.release.wait(60)


where: contextvars.ContextVar[str] = contextvars.ContextVar("where", default="nowhere")


def test_an_observer_that_raises_is_logged_and_dropped_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    breaks, remembers = Breaks(), Remembers()
    observers = Observers([breaks, remembers])
    for _ in range(3):
        observers.tell(seen(FUSED))
    observers.close()
    assert (len(breaks.told), len(remembers.told)) == (1, 3)
    (record,) = caplog.records
    assert "told of no further queries" in record.message
    assert record.exc_info is not None


def test_when_the_last_observer_is_dropped_nothing_is_kept() -> None:
    observers = Observers([Breaks()])
    observers.tell(seen(FUSED))
    observers.close()
    assert not observers


def test_observers_run_in_the_context_of_the_caller() -> None:
    remembers = Remembers()
    observers = Observers([remembers])
    token = where.set("in a request")
    observers.tell(seen(FUSED))
    where.reset(token)
    observers.tell(seen(FUSED))
    observers.close()
    assert remembers.contexts == ["in a request", "nowhere"]


def test_reports_beyond_the_limit_are_lost_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    blocks = Blocks()
    observers = Observers([blocks], most_waiting=2)
    observers.tell(seen())
    assert blocks.entered.wait(60)
    for _ in range(5):
        observers.tell(seen())
    blocks.release.set()
    observers.close()
    assert len(blocks.told) == 3
    assert [record.message for record in caplog.records] == ["observers are slower than queries: 3 reports were lost"]


def test_closing_does_not_wait_for_an_observer_that_hangs(caplog: pytest.LogCaptureFixture) -> None:
    blocks = Blocks()
    observers = Observers([blocks])
    observers.tell(seen())
    assert blocks.entered.wait(60)
    with caplog.at_level(logging.WARNING):
        observers.close(drain_s=0.0)
    assert "still busy" in caplog.text
    observers.tell(seen())
    blocks.release.set()
    observers.close()
    assert len(blocks.told) == 1


# The whole engine


class ByLength(Reranker):
    """Longest text first."""

    def __init__(self, passages: Passages, fault: Fault) -> None:
        self._passages, self._fault = passages, fault

    def score(self, batch: Batch) -> Scores:
        lengths = np.array([len(text) for text in self._passages.texts(batch.rows)], np.float32)
        return cast(Scores, self._fault(lengths))


class Opens(Stage):
    """A stage that is nothing but what it opens to."""

    def __init__(self, opened: Callable[[Passages], Opened]) -> None:
        self._opened = opened

    def open(self, passages: Passages, directory: Path | None) -> Opened:
        return self._opened(passages)


def shop_config(fault: Fault = no_fault, top: str = "", stage: str = "") -> CascadeConfig:
    """Everything there is, longest first; ``top`` and ``stage`` are further YAML."""
    everything = Opens(lambda passages: FakeRetriever(len(passages)))
    longest = Opens(lambda passages: ByLength(passages, fault))
    kinds = [
        StageKind("everything", "retriever", StageSettings, lambda settings, context: everything),
        StageKind("by_length", "reranker", StageSettings, lambda settings, context: longest),
    ]
    text = (
        f"version: 1\nname: shop\n{top}stages:\n"
        "  - {name: all, kind: everything, top_k: 10}\n"
        f"  - {{name: longest, kind: by_length, top_k: 2{stage}}}\n"
    )
    return parse_config(text, registry=Registry(kinds))


@pytest.fixture
def remembers() -> Remembers:
    return Remembers()


@pytest.fixture
def over_index(tmp_path: Path) -> Callable[..., Cascade]:
    """Makes an engine over a small index."""
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(f'{{"_id": "{n}", "text": "{"word " * n}"}}\n' for n in (1, 3, 2)))

    def make(observer: Observer, **config: Any) -> Cascade:
        made = shop_config(**config)
        index_corpus(made, read_corpus(corpus), tmp_path / "index")
        return Cascade(made, index=Index.open(tmp_path / "index"), observers=[observer])

    return make


def test_a_reranked_query_becomes_spans_and_metrics(spans: Spans, metrics: Metrics) -> None:
    tracer = spans.provider.get_tracer("web")
    with (
        Cascade(shop_config(), observers=[spans.observer, metrics.observer]) as shop,
        tracer.start_as_current_span("request"),
    ):
        ranking = shop.rerank("which?", ["a", "bbb", "cc"])
    assert [hit.text for hit in ranking] == ["bbb", "cc", "a"]
    found = {span.name: span for span in spans.exporter.get_finished_spans()}
    request, query, stage = found["request"], found["rank shop"], found["longest"]
    assert query.parent is not None
    assert query.parent.span_id == request.context.span_id
    assert (stage.attributes or {})["cascade.stage.scored"] == 3
    (_, query_end), (_, stage_end) = interval(query), interval(stage)
    assert stage_end == query_end
    assert metrics.value("cascade_queries_total") == 1
    assert metrics.value("cascade_stage_duration_seconds_count", stage="longest") == 1
    assert metrics.value("cascade_query_duration_seconds_sum") == ranking.trace.seconds


def test_the_observer_has_the_trace_that_the_caller_has(remembers: Remembers) -> None:
    with Cascade(shop_config(), observers=[remembers]) as shop:
        ranking = shop.rerank(Query("q1", "which?"), ["a", "bbb"])
    (observation,) = remembers.told
    assert observation.query == Query("q1", "which?")
    assert observation.trace == ranking.trace
    assert observation.error is None


def test_every_way_of_asking_reports_each_query_once(over_index: Callable[..., Cascade], remembers: Remembers) -> None:
    with over_index(remembers) as shop:
        shop.search("search")
        asyncio.run(shop.asearch("asearch"))
        shop.search_many(["many 1", "many 2"])
        for run in shop.runs(["run"]):
            assert run.done
        shop.rerank("rerank", ["a"])
    assert [told.query.text for told in remembers.told] == ["search", "asearch", "many 1", "many 2", "run", "rerank"]
    assert all(told.error is None and not told.trace.degraded for told in remembers.told)


def test_a_degraded_and_a_failed_query_are_told_apart(remembers: Remembers) -> None:
    with Cascade(shop_config(raises), observers=[remembers]) as shop:
        assert shop.rerank("which?", ["a", "bbb"]).degraded
    strict = shop_config(raises, stage=", on_error: fail")
    with Cascade(strict, observers=[remembers]) as shop, pytest.raises(StageError):
        shop.rerank("which?", ["a", "bbb"])
    degraded, failed = remembers.told
    assert (degraded.error, degraded.trace.degraded) == (None, True)
    assert isinstance(failed.error, StageError)
    assert [stage.reason for stage in failed.trace.stages] == ["failed"]


def test_a_query_out_of_time_is_reported_with_its_error(remembers: Remembers) -> None:
    config = shop_config(top="on_overrun: fail\n")
    with Cascade(config, observers=[remembers]) as shop, pytest.raises(DeadlineExceeded):
        shop.rerank("which?", ["a", "bbb"], budget_ms=0)
    (observation,) = remembers.told
    assert isinstance(observation.error, DeadlineExceeded)


def test_refused_and_withdrawn_queries_are_reported(over_index: Callable[..., Cascade], remembers: Remembers) -> None:
    hangs = Hangs()

    async def three_at_once(shop: Cascade) -> None:
        under_way = asyncio.create_task(shop.asearch("under way"))
        await asyncio.sleep(0)
        assert await asyncio.to_thread(hangs.entered.wait, 60)
        waiting = asyncio.create_task(shop.asearch("waiting"))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await shop.asearch("refused")
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        hangs.release.set()
        await under_way

    with over_index(remembers, fault=hangs, top="max_waiting: 1\n") as shop:
        asyncio.run(three_at_once(shop))
    told = {observation.query.text: observation for observation in remembers.told}
    assert list(told) == ["refused", "waiting", "under way"]
    assert isinstance(told["refused"].error, Overloaded)
    assert told["refused"].trace.stages == ()
    assert isinstance(told["waiting"].error, Cancelled)
    assert told["under way"].error is None


def test_an_observer_that_raises_costs_no_answer(caplog: pytest.LogCaptureFixture) -> None:
    with Cascade(shop_config(), observers=[Breaks()]) as shop:
        for _ in range(2):
            assert len(shop.rerank("which?", ["a", "bbb"])) == 2
    assert caplog.text.count("told of no further queries") == 1
