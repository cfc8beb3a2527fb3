"""Traces as OpenTelemetry spans: one for each query, below it one for each stage."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cascade.errors import InputError
from cascade.telemetry.observer import Observation
from cascade.trace import StageTrace

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, TracerProvider


class OpenTelemetryObserver:
    """Makes a span of every query, inside whatever span was current where it was asked.

    Its children are the stages, theirs the retrievers of a fusion. Times are those of the trace, not of the reporting.
    Text of queries and documents is never exported.
    """

    def __init__(self, tracer_provider: TracerProvider | None = None) -> None:
        """Prepares the tracer.

        Args:
            tracer_provider: where spans go; the process's global provider by default.

        Raises:
            InputError: when opentelemetry-api is not installed.
        """
        try:
            from opentelemetry import trace
        except ImportError:
            needs = "OpenTelemetryObserver needs the package opentelemetry-api"
            raise InputError(f"{needs}; run `pip install 'cascade-ranking[otel]'`") from None
        self._api = trace
        self._tracer = trace.get_tracer("cascade", tracer_provider=tracer_provider)

    def answered(self, observation: Observation) -> None:
        """Exports the spans of one query."""
        trace, error, start = observation.trace, observation.error, _ns(observation.started_at)
        attributes = {
            "cascade.name": trace.cascade,
            "cascade.query_id": observation.query.query_id,
            "cascade.budget_s": trace.budget_s,
            "cascade.waited_s": trace.waited_s,
            "cascade.overshoot_s": trace.overshoot_s,
            "cascade.degraded": trace.degraded,
        }
        span = self._start(f"rank {trace.cascade}", attributes, start)
        end = start + _ns(trace.seconds)
        # Each stage begins where the one before it ended, the last ends with the query; what is left was before them.
        began = max(start, end - sum(_ns(stage.seconds) for stage in trace.stages))
        for stage in trace.stages:
            self._stage(stage, began, self._api.set_span_in_context(span))
            began += _ns(stage.seconds)
        if error is not None:
            span.set_attribute("error.type", type(error).__name__)
            span.record_exception(error, timestamp=end)
            span.set_status(self._api.StatusCode.ERROR, str(error))
        span.end(end)

    def _stage(self, stage: StageTrace, began: int, parent: Context) -> None:
        attributes = {
            "cascade.stage.kind": stage.kind,
            "cascade.stage.received": stage.received,
            "cascade.stage.planned": stage.planned,
            "cascade.stage.scored": stage.scored,
            "cascade.stage.passed": stage.passed,
            "cascade.stage.batches": stage.batches,
            "cascade.stage.reason": stage.reason,
            "cascade.stage.detail": stage.detail,
            "cascade.stage.predicted_s": stage.predicted_s,
            "cascade.stage.waited_s": stage.waited_s,
            "cascade.stage.budget_s": stage.budget_s,
            "cascade.stage.slack_s": stage.slack_s,
            "cascade.stage.saved_s": stage.saved_s,
            "cascade.stage.quarantined": stage.quarantined,
            "cascade.stage.degraded": stage.degraded,
        }
        span = self._start(stage.name, attributes, began, parent)
        inner_began = began
        for part in stage.retrievers:
            self._stage(part, inner_began, self._api.set_span_in_context(span))
            inner_began += _ns(part.seconds)
        if stage.reason == "failed":
            span.set_status(self._api.StatusCode.ERROR, stage.detail)
        span.end(began + _ns(stage.seconds))

    def _start(self, name: str, attributes: Mapping[str, Any], began: int, parent: Context | None = None) -> Span:
        """A span without the attributes that say nothing: empty texts, and numbers that are not finite."""
        known = {
            key: value
            for key, value in attributes.items()
            if value != "" and not (isinstance(value, float) and not math.isfinite(value))
        }
        return self._tracer.start_span(name, parent, attributes=known, start_time=began)


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
