"""The dense stage: how passages become vectors in an index, and queries vectors to compare them with."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cascade.stage import Context, Passages, Progress, Retriever, Stage, Tokens
from cascade.types import TokenIds
from stages.dense.encoder import Encoder
from stages.dense.kind import DenseSettings
from stages.dense.retriever import GRAPH, ExactRetriever, HnswRetriever, read_graph, write_graph
from stages.dense.vectors import BLOCK, VECTORS, Shape, Vectors, finish, write
from stages.models import HFTokenizer, fingerprint, locate
from stages.models.pooling import stated_pooling
from stages.runtimes.queries import reader_identity
from stages.runtimes.states import load_states


class DenseStage(Stage):
    """One bi-encoder with its weights loaded."""

    def __init__(self, settings: DenseSettings, context: Context) -> None:
        folder = locate(settings.model, context)
        self._settings = settings
        self._tokenizer = HFTokenizer(folder, settings.max_passage_tokens)
        pooling = stated_pooling(folder) if settings.pooling == "auto" else settings.pooling
        self._encoder = Encoder(folder, self._tokenizer, pooling, settings.normalise)
        weights = fingerprint(folder)
        self._fingerprint = f"{weights}-{pooling}"
        # A prefix is tokenised for itself, since passages come as ids; its last space would be a token to some.
        prefixes = (settings.passage_prefix.rstrip(), settings.query_prefix.rstrip())
        self._passage_prefix, query_prefix = self._tokenizer.encode(prefixes)
        self._encoder.require_room(len(self._passage_prefix) + settings.max_passage_tokens)
        self._encoder.require_room(len(query_prefix) + settings.max_query_tokens)
        states = load_states(settings.model, folder, settings.runtime)
        identity = reader_identity(weights, settings.runtime)
        self._reader = self._encoder.reader(query_prefix, settings.max_query_tokens, states, identity)

    @property
    def tokenizer(self) -> HFTokenizer:
        """The bi-encoder's own."""
        return self._tokenizer

    def fingerprint(self) -> str:
        """Of the weights and of the pooling in force."""
        return self._fingerprint

    def build(self, passages: Passages, directory: Path, progress: Progress) -> None:
        """Writes ``vectors.npy`` block by block, then the graph if one is wanted.

        Goes on from the last whole block of an interrupted call. Memory does not grow with the collection, except
        for the graph.
        """
        settings, dimension = self._settings, self._encoder.dimension
        tokens = passages.tokens(self._tokenizer)
        shape = Shape(len(passages), dimension, settings.dtype, self._source(tokens))
        write(directory, shape, lambda start, stop: self._embed(tokens, start, stop, exact=False), progress)
        if settings.search == "hnsw":
            vectors = Vectors.read(directory / VECTORS, len(passages), dimension)
            write_graph(directory / GRAPH, vectors, dimension, settings.hnsw_links, settings.hnsw_ef_construction)
        finish(directory)

    def open(self, passages: Passages, directory: Path | None) -> Retriever:
        """A retriever over the index, or over vectors computed now; without an index always exact."""
        rows, dimension = len(passages), self._encoder.dimension
        queries = self._reader, self._encoder.query_vector
        if directory is None:
            return ExactRetriever(self._embed_all(passages), *queries)
        vectors = Vectors.read(directory / VECTORS, rows, dimension)
        if self._settings.search == "exact":
            return ExactRetriever(vectors, *queries)
        graph = read_graph(directory / GRAPH, rows, dimension)
        return HnswRetriever(vectors, *queries, graph, self._settings.hnsw_ef_search)

    def _embed_all(self, passages: Passages) -> Vectors:
        tokens = passages.tokens(self._tokenizer)
        blocks = [
            self._embed(tokens, start, min(start + BLOCK, len(passages)), exact=True)
            for start in range(0, len(passages), BLOCK)
        ]
        return Vectors(np.concatenate(blocks) if blocks else np.empty((0, self._encoder.dimension), np.float32))

    def _embed(self, tokens: Tokens, start: int, stop: int, *, exact: bool) -> npt.NDArray[np.float32]:
        limit = self._settings.max_passage_tokens
        sequences: list[TokenIds] = []
        for row in range(start, stop):
            begin, end = int(tokens.offsets[row]), int(tokens.offsets[row + 1])
            sequences.append(np.concatenate((self._passage_prefix, tokens.ids[begin : min(end, begin + limit)])))
        return self._encoder.encode(sequences, exact=exact)

    def _source(self, tokens: Tokens) -> str:
        """Identifies what the vectors are made from, as far as it can be told without reading all of it."""
        settings = self._settings
        parts = (
            self._fingerprint,
            self._tokenizer.fingerprint,
            settings.passage_prefix,
            settings.max_passage_tokens,
            settings.normalise,
            int(tokens.offsets[-1]),
        )
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
