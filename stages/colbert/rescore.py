"""Late interaction over candidates: their token embeddings come from the index, or are computed when there is none."""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from cascade.errors import IndexCorrupt, ModelError
from cascade.index import files
from cascade.stage import Batch, Context, Passages, Progress, Reranker, Stage, Tokens
from cascade.types import Query, Rows, Scores
from stages.colbert.codec import Bits, Codec, centroid_count, digest, read_codec, sample_rows, train
from stages.colbert.encoder import TokenEncoder, encoder_of, passages_of
from stages.colbert.importance import Importance, document_frequencies, read_frequencies, store_frequencies
from stages.colbert.lookup import Lookup, QueryTables, maxsim_compressed
from stages.colbert.maxsim import Compute, maxsim
from stages.colbert.pooling import pool, pooled_lengths
from stages.colbert.settings import ColbertSettings
from stages.colbert.store import CODEC, StoredRecords, StoredVectors, TokenVectors, Writer, ragged_offsets
from stages.models import HFTokenizer, locate, one_thread
from stages.runtimes.queries import Embed, EncoderReads, QueryRead, QueryReader

logger = logging.getLogger(__name__)

_FLOATS: Mapping[int, Literal["float16", "float32"]] = {16: "float16", 32: "float32"}
"""Types of embeddings that are not compressed, by their bits."""

_STORED_BATCH_TOKENS = 8192
"""Past this, the gathered embeddings fall out of the CPU's cache before the product reads them."""


class ColbertStage(Stage):
    """A late-interaction model that rescores candidates.

    Raises:
        ModelError: the checkpoint cannot be used.
    """

    def __init__(self, settings: ColbertSettings, context: Context) -> None:
        self._encoder = encoder_of(settings, locate(settings.model, context))
        self._settings = settings

    @property
    def tokenizer(self) -> HFTokenizer:
        """The checkpoint's tokenizer; its window leaves room for the special tokens and the marker."""
        return self._encoder.tokenizer

    def fingerprint(self) -> str:
        """Identifies weights, markers, skipped words and lengths."""
        return self._encoder.fingerprint

    def build(self, passages: Passages, directory: Path, progress: Progress) -> None:
        """Writes the embedding of every token, block by block; goes on after the last block that is on the disk.

        Compressed, a sample of the passages is encoded first, to train the codec on.
        """
        bits, total = self._settings.bits, len(passages)
        work = _Work(self._encoder, passages.tokens(self.tokenizer), total, self._settings.pooling)
        source = hashlib.sha256(repr((self.fingerprint(), bits, self._settings.pooling)).encode())
        source.update(np.ascontiguousarray(work.tokens.ids).data)
        source.update(work.lengths.data)
        if bits == 16 or bits == 32:
            codec = None
            writer = Writer(directory, work.lengths, self._encoder.dim, _FLOATS[bits], source.hexdigest())
        else:
            codec = _trained(directory / CODEC, work, bits, source.hexdigest())
            writer = Writer(directory, work.lengths, codec.record_bytes, "uint8", source.hexdigest() + digest(codec))
        for start, stop in writer.missing():
            vectors = work.vectors(np.arange(start, stop))
            writer.write(start, stop, vectors if codec is None else codec.encode(vectors))
            progress(stop, total)
        store_frequencies(directory, self._frequencies(work.tokens))
        writer.finish()

    def open(self, passages: Passages, directory: Path | None) -> Reranker:
        """The stage over these passages; without a directory, each call encodes the passages that it scores.

        All query tokens are of equal weight then: passages without an index are the candidates of some question, whose
        own words are frequent among them.
        """
        compute, bits = self._settings.compute, self._settings.bits
        if directory is None:
            vectors: TokenVectors = EncodedVectors(self._encoder, passages.tokens(self.tokenizer))
            return ColbertReranker(self._encoder.queries, self._encoder.query_embeddings, vectors, compute)
        importance = self._importance(passages, directory) if self._settings.query_weights == "idf" else None
        embed = functools.partial(self._encoder.query_embeddings, importance=importance)
        queries = self._encoder.queries, embed
        if bits == 16 or bits == 32:
            vectors = StoredVectors(directory, len(passages), self._encoder.dim, _FLOATS[bits])
            return ColbertReranker(*queries, vectors, compute, _STORED_BATCH_TOKENS)
        return CompressedReranker(*queries, StoredRecords(directory, len(passages), self._encoder.dim, bits))

    def _importance(self, passages: Passages, directory: Path) -> Importance:
        found = read_frequencies(directory, self.tokenizer.vocab_size)
        if found is None:
            found = self._frequencies(passages.tokens(self.tokenizer))
        return Importance(found, len(passages))

    def _frequencies(self, tokens: Tokens) -> npt.NDArray[np.int32]:
        return document_frequencies(tokens, self.tokenizer.vocab_size)


class _Work:
    """The embeddings that a build stores, for any rows.

    Args:
        encoder: makes them.
        tokens: of all passages.
        total: how many passages there are.
        pooling: how many embeddings become one.
    """

    def __init__(self, encoder: TokenEncoder, tokens: Tokens, total: int, pooling: int) -> None:
        self.tokens = tokens
        self.dim = encoder.dim
        self._encoder = encoder
        self._pooling = pooling
        self._kept = encoder.kept(tokens, np.arange(total))
        self.lengths = pooled_lengths(self._kept, pooling)
        """int64 [passages]: embeddings of each."""

    def vectors(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """float32 [tokens, dim], row after row.

        Raises:
            ModelError: the model gives numbers that are not finite, which no form of storage would keep.
        """
        ids = [*passages_of(self.tokens, rows, self._encoder.tokenizer.window)]
        vectors = self._encoder.encode_passages(ids, exact=False)
        if not np.isfinite(vectors).all():
            raise ModelError(f"expected finite token embeddings, got others for rows {rows[0]} to {rows[-1]}")
        return pool(vectors, ragged_offsets(self._kept[rows]), self._pooling)


def _trained(path: Path, work: _Work, bits: Bits, source: str) -> Codec:
    """The codec that an interrupted build of the same source has left, or else a new one, which is then there."""
    try:
        codec, trained_on = read_codec(path, work.dim, bits)
        if trained_on == source:
            return codec
    except IndexCorrupt as error:
        logger.debug("%s: no codec of an earlier build: %s", path, error)
    rows = sample_rows(work.lengths)
    blocks = [work.vectors(rows[first : first + Writer.block]) for first in range(0, len(rows), Writer.block)]
    sample = np.concatenate([np.empty((0, work.dim), np.float32), *blocks])
    codec = train(sample, centroid_count(int(work.lengths.sum())), bits)
    files.write_atomically(path, codec.to_bytes(source))
    return codec


class EncodedVectors:
    """Token embeddings computed on demand, and not kept."""

    def __init__(self, encoder: TokenEncoder, tokens: Tokens) -> None:
        self._encoder = encoder
        self._tokens = tokens

    def lengths(self, rows: Rows) -> npt.NDArray[np.int32]:
        """int32 [n]: tokens that the encoder reads for each row."""
        return self._encoder.lengths(self._tokens, rows)

    def gather(self, rows: Rows) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Embeddings of the rows in the order asked for: [tokens, dim], and int64 [n + 1] where each row begins."""
        ids = [*passages_of(self._tokens, rows, self._encoder.tokenizer.window)]
        return self._encoder.encode_passages(ids), ragged_offsets(self._encoder.kept(self._tokens, rows))


class ColbertReranker(EncoderReads, Reranker):
    """Scores pairs by MaxSim.

    Args:
        queries: reads queries.
        embed: from what that reads to a query's embeddings.
        vectors: where the passages' embeddings come from.
        compute: type of the product.
        batch_tokens: most tokens in one batch.
    """

    def __init__(
        self,
        queries: QueryReader,
        embed: Embed,
        vectors: TokenVectors,
        compute: Compute,
        batch_tokens: int = Reranker.batch_tokens,
    ) -> None:
        super().__init__(queries, embed)
        self.batch_tokens = batch_tokens
        self._vectors = vectors
        self._compute = compute
        _compile(compute)

    def lengths(self, query: npt.NDArray[np.float32], rows: Rows) -> npt.NDArray[np.int32]:
        """int32 [n]: tokens of each passage, from the index or as the encoder would read them."""
        return self._vectors.lengths(rows)

    def score(self, batch: Batch) -> Scores:
        """float32 [n]: MaxSim of each pair, at most the number of query tokens and at least minus that."""
        scores = np.empty(len(batch), np.float32)
        for number, query in enumerate(batch.queries):
            pairs = np.flatnonzero(batch.query_of == number)
            vectors, offsets = self._vectors.gather(batch.rows[pairs])
            scores[pairs] = maxsim(query, vectors, offsets, self._compute)
        return scores


class CompressedReranker(EncoderReads, Reranker):
    """Scores pairs by MaxSim over compressed embeddings.

    Args:
        queries: reads queries.
        embed: from what that reads to a query's embeddings.
        stored: the passages' embeddings.
    """

    batch_tokens = 16384

    def __init__(self, queries: QueryReader, embed: Embed, stored: StoredRecords) -> None:
        super().__init__(queries, embed)
        self._stored = stored
        self._lookup = Lookup(stored.codec)
        nothing = np.empty((0, stored.codec.dim), np.float32), np.empty(0, np.int64)
        # Has numba compile now, for just these arrays, and not on the first query's time.
        maxsim_compressed(self._lookup.tables(nothing[0]), stored.records, nothing[1], nothing[1])

    def encode_read(self, query: Query, reading: QueryRead) -> QueryTables:
        """The query's embeddings, multiplied with all that a passage's can be made of."""
        embeddings = self._embed(reading)
        with one_thread():
            return self._lookup.tables(embeddings)

    def lengths(self, query: QueryTables, rows: Rows) -> npt.NDArray[np.int32]:
        """int32 [n]: stored tokens of each passage."""
        return self._stored.lengths(rows)

    def score(self, batch: Batch) -> Scores:
        """float32 [n]: MaxSim of each pair, about as exact as the codec's bits allow."""
        scores = np.empty(len(batch), np.float32)
        for number, query in enumerate(batch.queries):
            pairs = np.flatnonzero(batch.query_of == number)
            scores[pairs] = maxsim_compressed(query, self._stored.records, *self._stored.spans(batch.rows[pairs]))
        return scores


def _compile(compute: Compute) -> None:
    """Has numba compile its kernel now and not on the first query's time."""
    maxsim(np.ones((1, 1), np.float32), np.ones((1, 1), np.float32), np.array([0, 1]), compute)
