"""Reading and writing every outside format: corpora, queries, judgments, runs."""

from cascade.io.atomic import atomic_write, atomic_write_bytes, write_json_atomic
from cascade.io.corpus import Corpus, SourcedDocument, read_corpus
from cascade.io.qrels import read_qrels
from cascade.io.queries import read_queries
from cascade.io.runs import RunWriter, read_run, write_run

__all__ = [
    "Corpus",
    "RunWriter",
    "SourcedDocument",
    "atomic_write",
    "atomic_write_bytes",
    "read_corpus",
    "read_qrels",
    "read_queries",
    "read_run",
    "write_json_atomic",
    "write_run",
]
