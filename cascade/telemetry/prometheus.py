"""Traces as Prometheus metrics."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from cascade.errors import Cancelled, InputError, Overloaded
from cascade.telemetry.observer import Observation
from cascade.trace import StageTrace

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

DURATIONS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
OVERSHOOTS_S = (0.0, *DURATIONS_S)
"""The bucket at 0 counts the queries that were on time."""


class PrometheusObserver:
    """Counts queries and stages, and measures how long they take.

    ===================================  =======================  =====================================================
    metric                               labels                   what
    ===================================  =======================  =====================================================
    cascade_queries_total                cascade                  queries, refused ones included
    cascade_queries_degraded_total       cascade                  answered, with a stage that did less than asked
    cascade_queries_refused_total        cascade                  refused at the door (``Overloaded``)
    cascade_queries_failed_total         cascade, error           ended by another error, by its class
    cascade_stages_total                 cascade, stage, reason   stages, by why they ended: complete, budget, failed, …
    cascade_query_duration_seconds       cascade                  histogram; waiting included, refused queries not
    cascade_query_overshoot_seconds      cascade                  histogram; past the budget, where there is one
    cascade_stage_duration_seconds       cascade, stage           histogram; waiting included, skipped stages not
    ===================================  =======================  =====================================================

    The retrievers of a fusion count as stages. Give one observer to all engines of a process: a registry takes each
    metric once.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        """Registers the metrics.

        Args:
            registry: where; the process's global registry by default.

        Raises:
            InputError: when prometheus-client is not installed.
        """
        try:
            from prometheus_client import REGISTRY, Counter, Histogram
        except ImportError:
            needs = "PrometheusObserver needs the package prometheus-client"
            raise InputError(f"{needs}; run `pip install 'cascade-ranking[prometheus]'`") from None
        to = REGISTRY if registry is None else registry
        by_cascade, by_stage = ("cascade",), ("cascade", "stage")

        def counter(name: str, what: str, labels: tuple[str, ...]) -> Counter:
            return Counter(f"cascade_{name}_total", what, labels, registry=to)

        def histogram(name: str, what: str, labels: tuple[str, ...], buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"cascade_{name}_seconds", what, labels, buckets=buckets, registry=to)

        self._queries = counter("queries", "Queries, refused ones included.", by_cascade)
        self._degraded = counter("queries_degraded", "Queries answered with less than was asked for.", by_cascade)
        self._refused = counter("queries_refused", "Queries refused because of overload.", by_cascade)
        self._failed = counter("queries_failed", "Queries that ended in an error.", (*by_cascade, "error"))
        self._stages = counter("stages", "Stages by the reason why they ended.", (*by_stage, "reason"))
        self._seconds = histogram("query_duration", "Time of a query, waiting included.", by_cascade, DURATIONS_S)
        self._overshoot = histogram("query_overshoot", "Time past the budget of a query.", by_cascade, OVERSHOOTS_S)
        self._stage_seconds = histogram("stage_duration", "Time of a stage, waiting included.", by_stage, DURATIONS_S)

    def answered(self, observation: Observation) -> None:
        """Counts one query."""
        trace, error = observation.trace, observation.error
        self._queries.labels(trace.cascade).inc()
        if isinstance(error, Overloaded):
            self._refused.labels(trace.cascade).inc()
            return
        if error is not None:
            self._failed.labels(trace.cascade, type(error).__name__).inc()
        elif trace.degraded:
            self._degraded.labels(trace.cascade).inc()
        if not isinstance(error, Cancelled):  # its end says when the caller lost patience
            self._seconds.labels(trace.cascade).observe(trace.seconds)
            if trace.budget_s != math.inf:
                self._overshoot.labels(trace.cascade).observe(trace.overshoot_s)
        for stage in trace.stages:
            self._count(trace.cascade, stage)

    def _count(self, cascade: str, stage: StageTrace) -> None:
        self._stages.labels(cascade, stage.name, stage.reason).inc()
        if stage.reason not in ("skipped", "cancelled"):
            self._stage_seconds.labels(cascade, stage.name).observe(stage.seconds)
        for part in stage.retrievers:
            self._count(cascade, part)
