"""How fast is MaxSim over the compressed index, next to maxsim-cpu over float32, and does it rank as well?

    pip install maxsim-cpu
    python -m benchmarks.maxsim --out benchmarks/results/maxsim.json

Speed: one query of 32 tokens against candidates of 30 to 140 tokens, 128 wide. The ways take turns, so that all meet
the same machine; what is compared are medians. Two threads share the candidates of one query, as maxsim-cpu's do. A
query's tables are worked out once, however many candidates there are: that is timed by itself, and with the rest.

Quality: the demo's questions over ``--documents`` of its documents, all judged ones among them, by the token embeddings
of all-MiniLM-L6-v2, projected from 384 dimensions to their 128 principal ones. Every question ranks all of these
documents.

maxsim-cpu 0.1.0 gives wrong scores, or crashes, at 384 dimensions. So both parts first compare its scores with the
definition's, and stop where they differ.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from benchmarks.common import machine_record, print_table
from cascade.io import write_json_atomic

if TYPE_CHECKING:
    from stages.colbert.lookup import QueryTables

Floats32: TypeAlias = npt.NDArray[np.float32]
Peer: TypeAlias = Callable[[Floats32, list[Floats32]], Any]

THREADS = 2
PEER = "maxsim-cpu"
QUERY_TOKENS = 32
TOKENS = (30, 140)
AGREEMENT = 1e-4
"""Most that the peer's cosines may be off."""

BITS = (2, 4)
"""Of the compressed forms that are measured."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """Documents as float32 token embeddings, one after the other."""

    vectors: Floats32
    offsets: npt.NDArray[np.int64]

    @property
    def documents(self) -> list[Floats32]:
        """Views of each document's embeddings."""
        return [self.vectors[start:stop] for start, stop in pairwise(self.offsets.tolist())]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=1000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=100, help="timed rounds of each way")
    parser.add_argument("--documents", type=int, default=2000, help="of the demo, to rank; 0 measures speed alone")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "RAYON_NUM_THREADS"):  # read when the peer's and torch's pools start
        os.environ[name] = str(THREADS)
    try:
        import maxsim_cpu
    except ImportError:
        print(f"{PEER} is not installed: pip install {PEER}", file=sys.stderr)
        return 1
    peer = maxsim_cpu.maxsim_scores_variable
    speed = compare_speed(peer, arguments.candidates, arguments.dim, arguments.rounds)
    figures: dict[str, Any] = {
        "candidates": arguments.candidates,
        "dim": arguments.dim,
        "query tokens": QUERY_TOKENS,
        "threads of the peer": THREADS,
        "speed": speed,
    }
    print_table(
        ["way", *speed[PEER]], [[name, *(f"{value:.2f}" for value in way.values())] for name, way in speed.items()]
    )
    if arguments.documents:
        figures["quality"] = quality = compare_quality(peer, arguments.documents, arguments.dim)
        print_table(["way", "nDCG@10"], [[name, f"{value:.4f}"] for name, value in quality.items()])
    write_json_atomic(arguments.out, {"machine": machine_record(), PEER: version(PEER), **figures})
    return 0


def unit(rng: np.random.Generator, rows: int, dim: int) -> Floats32:
    """Random directions."""
    vectors = rng.normal(size=(rows, dim)).astype(np.float32)
    lengths: Floats32 = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / lengths


class Compressed:
    """A corpus as the compressed index has it, and the threads that score it.

    Args:
        corpus: to compress.
        bits: for each dimension.
        pool: of ``THREADS`` threads.
    """

    def __init__(self, corpus: Corpus, bits: Any, pool: ThreadPoolExecutor) -> None:
        from stages.colbert.codec import centroid_count, train
        from stages.colbert.lookup import Lookup

        sample = corpus.vectors[:: max(len(corpus.vectors) >> 14, 1)]
        codec = train(sample, centroid_count(len(corpus.vectors)), bits)
        self._lookup = Lookup(codec)
        self._records = codec.encode(corpus.vectors)
        self._offsets = corpus.offsets
        self._parts = _split(corpus.offsets, THREADS)
        self._pool = pool

    def tables(self, query: Floats32) -> QueryTables:
        """What is worked out once a query, on one thread."""
        from stages.models import one_thread

        with one_thread():
            return self._lookup.tables(query)

    def score(self, tables: QueryTables) -> Floats32:
        """Every document's score, by this thread."""
        return self._score_part(tables, self._offsets)

    def score_threaded(self, tables: QueryTables) -> Floats32:
        """Every document's score, by the pool's threads."""
        return np.concatenate([*self._pool.map(self._score_part, [tables] * len(self._parts), self._parts)])

    def answer(self, query: Floats32) -> Floats32:
        """Every document's score from the query's embeddings on, by the pool's threads."""
        return self.score_threaded(self.tables(query))

    def _score_part(self, tables: QueryTables, offsets: npt.NDArray[np.int64]) -> Floats32:
        from stages.colbert.lookup import maxsim_compressed

        return maxsim_compressed(tables, self._records, offsets[:-1], offsets[1:])


def compare_speed(peer: Peer, candidates: int, dim: int, rounds: int) -> Mapping[str, Mapping[str, float]]:
    """Milliseconds of each way, and how many times faster than the peer it is."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(TOKENS[0], TOKENS[1] + 1, candidates)
    corpus = Corpus(unit(rng, int(lengths.sum()), dim), np.concatenate(([0], np.cumsum(lengths))))
    query = unit(rng, QUERY_TOKENS, dim)
    require_agreement(peer, query, corpus)
    ways: dict[str, Callable[[], Any]] = {PEER: partial(peer, query, corpus.documents)}
    with ThreadPoolExecutor(THREADS) as pool:
        for bits in BITS:
            ours = Compressed(corpus, bits, pool)
            tables = ours.tables(query)
            ways |= {
                f"{bits} bits, tables alone": partial(ours.tables, query),
                f"{bits} bits, 1 thread": partial(ours.score, tables),
                f"{bits} bits, {THREADS} threads": partial(ours.score_threaded, tables),
                f"{bits} bits, {THREADS} threads, with tables": partial(ours.answer, query),
            }
        medians = take_turns(ways, rounds)
    return {name: {"median ms": ms, f"times faster than {PEER}": medians[PEER] / ms} for name, ms in medians.items()}


def _split(offsets: npt.NDArray[np.int64], parts: int) -> list[npt.NDArray[np.int64]]:
    """Offsets of so many runs of documents with about as many tokens each."""
    cuts = np.searchsorted(offsets, np.linspace(0, offsets[-1], parts + 1))
    return [offsets[first : last + 1] for first, last in pairwise(cuts.tolist())]


def require_agreement(peer: Peer, query: Floats32, corpus: Corpus) -> None:
    """Ends the program where the peer's scores are not MaxSim's."""
    from stages.colbert.maxsim import maxsim

    difference = np.abs(np.asarray(peer(query, corpus.documents)) - maxsim(query, corpus.vectors, corpus.offsets)).max()
    if not difference < AGREEMENT * len(query):
        sys.exit(f"{PEER} differs from MaxSim by {difference:.3g} at {query.shape[1]} dimensions: not compared")


def take_turns(ways: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median milliseconds of each way, all of them once a round."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 3):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            if number >= 3:  # the first rounds compile and fill caches
                taken[name].append((time.perf_counter() - began) * 1000)
    return {name: statistics.median(times) for name, times in taken.items()}


def compare_quality(peer: Peer, documents: int, dim: int) -> Mapping[str, float]:
    """nDCG@10 of each way over part of the demo."""
    from cascade.demo import gather, load_questions
    from cascade.evaluation import evaluate

    texts = {document.doc_id: document.full_text for document in gather()}
    questions, qrels, _ = load_questions(texts)
    chosen = _judged_and_others(texts, {qrel.doc_id for qrel in qrels}, documents)
    queries, corpus = encode([question.text for question in questions], [texts[doc_id] for doc_id in chosen], dim)
    require_agreement(peer, queries[0], corpus)
    scores = {PEER: [np.asarray(peer(query, corpus.documents)) for query in queries]}
    with ThreadPoolExecutor(THREADS) as pool:
        for bits in BITS:
            ours = Compressed(corpus, bits, pool)
            scores[f"{bits} bits"] = [ours.answer(query) for query in queries]
    figures = {}
    for name, found in scores.items():
        orders = [np.argsort(-each, kind="stable")[:10] for each in found]
        run = {q.query_id: [chosen[i] for i in order] for q, order in zip(questions, orders, strict=True)}
        figures[name] = evaluate(run, qrels, ("nDCG@10",)).means["nDCG@10"]
    return figures


def _judged_and_others(doc_ids: Iterable[str], judged: set[str], wanted: int) -> list[str]:
    """The judged documents, and others drawn at random until there are as many as wanted."""
    others = sorted(set(doc_ids) - judged)
    drawn = np.random.default_rng(0).permutation(len(others))[: max(wanted - len(judged), 0)]
    return sorted(judged) + [others[i] for i in drawn]


def encode(queries: Sequence[str], texts: Sequence[str], dim: int) -> tuple[list[Floats32], Corpus]:
    """Token embeddings of queries and documents, in the ``dim`` principal directions of those of the documents."""
    from cascade.index import MemoryPassages
    from cascade.stage import Context
    from cascade.types import Document
    from stages.colbert.encoder import TokenEncoder, passages_of
    from stages.models import locate

    encoder = TokenEncoder(locate("bundled:bi-encoder", Context(Path())))
    tokens = MemoryPassages([Document(str(i), text) for i, text in enumerate(texts)]).tokens(encoder.tokenizer)
    rows = np.arange(len(texts))
    vectors = encoder.encode_passages([*passages_of(tokens, rows, encoder.tokenizer.window)])
    offsets = np.concatenate(([0], np.cumsum(encoder.kept(tokens, rows))))
    _, directions = np.linalg.eigh(vectors.T @ vectors)
    axes = directions[:, -dim:]
    return [_projected(encoder.encode_query(query), axes) for query in queries], Corpus(
        _projected(vectors, axes), offsets
    )


def _projected(vectors: Floats32, axes: Floats32) -> Floats32:
    projected = np.ascontiguousarray(vectors @ axes)
    unit: Floats32 = projected / np.linalg.norm(projected, axis=1, keepdims=True)
    return unit


if __name__ == "__main__":
    sys.exit(main())
