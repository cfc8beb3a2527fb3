"""Late interaction over candidates: their token embeddings come from the index, or are computed when there is none."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cascade.stage import Batch, Context, Passages, Progress, Reranker, Stage, Tokens
from cascade.types import Query, Rows, Scores
from stages.colbert.encoder import TokenEncoder, passages_of
from stages.colbert.maxsim import Compute, maxsim
from stages.colbert.settings import ColbertSettings
from stages.colbert.store import StoredVectors, TokenVectors, Writer, ragged_offsets
from stages.models import HFTokenizer, locate, one_thread

_STORED_BATCH_TOKENS = 8192
"""Past this, the gathered embeddings fall out of the CPU's cache before the product reads them."""


class ColbertStage(Stage):
    """A late-interaction model that rescores candidates.

    Raises:
        ModelError: the checkpoint cannot be used.
    """

    def __init__(self, settings: ColbertSettings, context: Context) -> None:
        folder = locate(settings.model, context)
        self._encoder = TokenEncoder(folder, settings.max_passage_tokens, settings.max_query_tokens)
        self._settings = settings

    @property
    def tokenizer(self) -> HFTokenizer:
        """The checkpoint's tokenizer; its window leaves room for the special tokens and the marker."""
        return self._encoder.tokenizer

    def fingerprint(self) -> str:
        """Identifies weights, markers, skipped words and lengths."""
        return self._encoder.fingerprint

    def build(self, passages: Passages, directory: Path, progress: Progress) -> None:
        """Writes the embedding of every token, block by block; goes on after the last block that is on the disk."""
        tokens = passages.tokens(self.tokenizer)
        total = len(passages)
        kept = self._encoder.kept(tokens, np.arange(total))
        source = self.fingerprint() + hashlib.sha256(np.ascontiguousarray(tokens.ids).data).hexdigest()
        writer = Writer(directory, kept, self._encoder.dim, self._settings.dtype, source)
        for start, stop in writer.missing():
            block = [*passages_of(tokens, np.arange(start, stop), self.tokenizer.window)]
            writer.write(start, stop, self._encoder.encode_passages(block))
            progress(stop, total)
        writer.finish()

    def open(self, passages: Passages, directory: Path | None) -> ColbertReranker:
        """The stage over these passages; without a directory, each call encodes the passages that it scores."""
        if directory is None:
            vectors: TokenVectors = EncodedVectors(self._encoder, passages.tokens(self.tokenizer))
            return ColbertReranker(self._encoder, vectors, self._settings.compute)
        stored = StoredVectors(directory, len(passages), self._encoder.dim, self._settings.dtype)
        return ColbertReranker(self._encoder, stored, self._settings.compute, _STORED_BATCH_TOKENS)


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


class ColbertReranker(Reranker):
    """Scores pairs by MaxSim.

    Args:
        encoder: encodes the queries.
        vectors: where the passages' embeddings come from.
        compute: type of the product.
        batch_tokens: most tokens in one batch.
    """

    def __init__(
        self, encoder: TokenEncoder, vectors: TokenVectors, compute: Compute, batch_tokens: int = Reranker.batch_tokens
    ) -> None:
        self.batch_tokens = batch_tokens
        self._encoder = encoder
        self._vectors = vectors
        self._compute = compute
        _compile(compute)

    def encode_query(self, query: Query) -> npt.NDArray[np.float32]:
        """float32 [query tokens, dim]."""
        with one_thread():
            return self._encoder.encode_query(query.text)

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


def _compile(compute: Compute) -> None:
    """Has numba compile its kernel now and not on the first query's time."""
    maxsim(np.ones((1, 1), np.float32), np.ones((1, 1), np.float32), np.array([0, 1]), compute)
