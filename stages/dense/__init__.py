"""Dense retrieval with one vector a passage (Karpukhin et al. 2020, arXiv 2004.04906)."""

from stages.dense.kind import KIND, DenseSettings

__all__ = ["KIND", "DenseSettings"]
