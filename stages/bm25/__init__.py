"""BM25: the lexical retriever that most cascades start with."""

from stages.bm25.kind import KIND, Bm25Settings

__all__ = ["KIND", "Bm25Settings"]
