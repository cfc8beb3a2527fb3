"""Fusion: one ranking out of those of several retrievers."""

from stages.fusion.kind import KIND, FusionSettings

__all__ = ["KIND", "FusionSettings"]
