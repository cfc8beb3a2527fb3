"""Observers of answered queries: what an ``Observer`` is, and those for OpenTelemetry and Prometheus."""

from cascade.telemetry.observer import Observation, Observer, Observers
from cascade.telemetry.otel import OpenTelemetryObserver
from cascade.telemetry.prometheus import PrometheusObserver

__all__ = ["Observation", "Observer", "Observers", "OpenTelemetryObserver", "PrometheusObserver"]
