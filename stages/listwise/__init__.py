"""Listwise reranking: several passages in one forward pass, each scored with sight of the others."""

from stages.listwise.kind import KIND

__all__ = ["KIND"]
