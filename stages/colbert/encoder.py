"""Token embeddings of queries and passages, put together exactly as the checkpoint's own library does it."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cascade.errors import ModelError
from cascade.stage import Tokens
from cascade.types import TokenIds
from stages.colbert.checkpoint import Format, read_format, read_projection
from stages.colbert.importance import Importance
from stages.colbert.settings import ColbertSettings
from stages.models import HFTokenizer, fingerprint, layout, load_transformer, longest_input, pad

if TYPE_CHECKING:
    import torch

    from stages.runtimes.choice import RuntimeName
    from stages.runtimes.queries import QueryRead
    from stages.runtimes.states import States

_BATCH_TOKENS = 8192
_COUNT_AT_ONCE = 65536


class TokenEncoder:
    """A late-interaction checkpoint, ready to encode; may be used by many threads at once.

    Args:
        folder: the checkpoint; ``stages.colbert.checkpoint`` says which kinds there are.
        passage_tokens: most tokens of a passage, special tokens and marker included; None for the checkpoint's own.
        query_tokens: the same for queries.
        queries: what runs the checkpoint on queries; None for torch.
        runtime: what the settings say of that.
        expand_queries: whether queries are filled up with [MASK]; None for what the checkpoint says.

    Raises:
        ModelError: the checkpoint cannot be read, or has fewer positions than asked for.
    """

    def __init__(
        self,
        folder: Path,
        passage_tokens: int | None = None,
        query_tokens: int | None = None,
        queries: States | None = None,
        runtime: RuntimeName = "torch",
        expand_queries: bool | None = None,
    ) -> None:
        import torch

        from stages.runtimes.queries import QueryFrame, QueryReader, reader_identity
        from stages.runtimes.states import BatchStates, TorchStates

        form = read_format(folder)
        positions = longest_input(folder)
        self._passage_tokens = _length(passage_tokens, form.passage_tokens, positions, folder)
        special = layout(folder)
        marked = 1 if form.document_marker else 0
        self.tokenizer = HFTokenizer(folder, window=max(self._passage_tokens - special.single_extra - marked, 1))
        self._tail = np.array(special.tail, np.int32)
        self._document_head = self._head(special.head, form.document_marker)
        self._model = load_transformer(folder, "encoder")
        self._passages = BatchStates(self._model)
        self._skipped = self._skip_table(form)
        expands = form.expand_queries if expand_queries is None else expand_queries
        projection = read_projection(form)
        hidden = int(self._model.config.hidden_size)
        if projection is not None and projection.shape[1] != hidden:
            raise ModelError(f"{folder}: the projection takes {projection.shape[1]} values, the encoder gives {hidden}")
        self._projection = None if projection is None else torch.from_numpy(projection)
        self.dim = hidden if projection is None else projection.shape[0]
        shape = (form.query_marker, form.document_marker, form.skip_words, self._passage_tokens, self.dim)
        weights = fingerprint(folder)
        digest = hashlib.sha256(repr((weights, shape)).encode())
        if projection is not None:
            digest.update(np.ascontiguousarray(projection).data)
        self.fingerprint = digest.hexdigest()[:16]
        """16 hex digits over everything that shapes the embedding of a passage."""
        head = self._head(special.head, form.query_marker)
        length = _length(query_tokens, form.query_tokens, positions, folder)
        frame = QueryFrame(
            head=tuple(head.tolist()),
            tail=special.tail,
            room=max(length - len(head) - len(special.tail), 0),
            expansion=self.tokenizer.mask_id if expands else None,
            attend=form.attend_to_expansion,
        )
        states, identity = queries or TorchStates(self._model), reader_identity(weights, runtime)
        self.queries = QueryReader(self.tokenizer, frame, states, identity)
        """Reads queries."""

    def encode_query(self, text: str, importance: Importance | None = None) -> npt.NDArray[np.float32]:
        """float32 [query tokens, dim], made on the calling thread; see ``query_embeddings``."""
        return self.query_embeddings(self.queries.read(text), importance)

    def query_embeddings(self, query: QueryRead, importance: Importance | None = None) -> npt.NDArray[np.float32]:
        """float32 [query tokens, dim]: rows of length 1, or as long as they are important.

        Where queries are expanded there are always as many rows as the query length: [MASK] tokens fill up what the
        query leaves, and score like the others. Khattab and Zaharia 2020, section 3.2. Special tokens are of average
        importance.
        """
        import torch

        embeddings = self._unit(torch.from_numpy(query.states))
        if importance is not None:
            first = len(self.queries.frame.head)
            embeddings[first : first + len(query.own)] *= importance(query.own)[:, None]
        return embeddings

    def with_queries_on(self, queries: States) -> TokenEncoder:
        """The same, but for what runs the checkpoint on queries."""
        other = copy.copy(self)
        other.queries = self.queries.on(queries)
        return other

    def encode_passages(self, passages: Sequence[TokenIds], *, exact: bool = True) -> npt.NDArray[np.float32]:
        """Embeddings of the kept tokens of passages, one passage after the other, in batches of similar length.

        Args:
            passages: token ids without special tokens; what exceeds the window is cut off. An empty passage has no
                embeddings, not even those of its special tokens: they would match something.
            exact: see ``BatchStates.states``.

        Returns:
            float32 [tokens, dim], rows of length 1. ``kept`` tells how many of them each passage has.
        """
        inputs = [self._framed(ids) for ids in passages]
        parts: list[npt.NDArray[np.float32]] = [np.empty((0, self.dim), np.float32)] * len(inputs)
        for batch in _batches([len(ids) for ids in inputs]):
            ids, mask = pad([inputs[i] for i in batch], self.tokenizer.pad_id)
            states = self._unit(self._passages.states(ids, mask, exact=exact))
            for i, state in zip(batch, states, strict=True):
                parts[i] = state[: len(inputs[i])][~self._skipped[inputs[i]]]
        return np.concatenate(parts) if parts else np.empty((0, self.dim), np.float32)

    def kept(self, tokens: Tokens, rows: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
        """int64 [n]: how many embeddings ``encode_passages`` gives for each row, known from its ids alone."""
        special = np.concatenate((self._document_head, self._tail))
        framing = int((~self._skipped[special]).sum())
        counts = np.empty(len(rows), np.int64)
        for first in range(0, len(rows), _COUNT_AT_ONCE):
            part = rows[first : first + _COUNT_AT_ONCE]
            counts[first : first + len(part)] = [
                int((~self._skipped[ids]).sum()) + framing if len(ids) else 0
                for ids in passages_of(tokens, part, self.tokenizer.window)
            ]
        return counts

    def lengths(self, tokens: Tokens, rows: npt.NDArray[np.integer]) -> npt.NDArray[np.int32]:
        """int32 [n]: tokens that the model reads for each row, special ones included; none for an empty passage."""
        ids = tokens.offsets[rows + 1] - tokens.offsets[rows]
        framed = np.minimum(ids, self.tokenizer.window) + len(self._document_head) + len(self._tail)
        return np.where(ids == 0, 0, framed).astype(np.int32)

    def _framed(self, ids: TokenIds) -> TokenIds:
        if not len(ids):
            return ids
        return np.concatenate((self._document_head, ids[: self.tokenizer.window], self._tail))

    def _unit(self, states: torch.Tensor) -> npt.NDArray[np.float32]:
        import torch

        with torch.inference_mode():
            if self._projection is not None:
                states = states @ self._projection.T
            unit: npt.NDArray[np.float32] = torch.nn.functional.normalize(states, p=2, dim=-1).numpy()
        return unit

    def _head(self, head: Sequence[int], marker: str) -> TokenIds:
        marked = [self.tokenizer.token_id(marker)] if marker else []
        return np.array([*head[:1], *marked, *head[1:]], np.int32)

    def _skip_table(self, form: Format) -> npt.NDArray[np.bool_]:
        """Which ids, bool [vocabulary], are read in passages but not kept."""
        table = np.zeros(max(self.tokenizer.vocab_size, int(self._model.config.vocab_size)), np.bool_)
        for ids in self.tokenizer.encode(form.skip_words):
            table[ids[:1]] = True
        return table


def encoder_of(settings: ColbertSettings, folder: Path) -> TokenEncoder:
    """The encoder that a stage is configured with.

    Raises:
        ModelError: the checkpoint, or the form that is to encode queries, cannot be used.
    """
    from stages.runtimes.states import load_states

    queries = load_states(settings.model, folder, settings.runtime)
    lengths = settings.max_passage_tokens, settings.max_query_tokens
    return TokenEncoder(folder, *lengths, queries, settings.runtime, settings.expand_queries)


def passages_of(tokens: Tokens, rows: npt.NDArray[np.integer], window: int) -> Iterator[TokenIds]:
    """The ids of each row, cut off at the window."""
    starts = tokens.offsets[rows]
    stops = np.minimum(tokens.offsets[rows + 1], starts + window)
    for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
        yield tokens.ids[start:stop]


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices of the inputs that are not empty, longest first, in batches of at most so many padded tokens."""
    order = sorted((i for i, length in enumerate(lengths) if length), key=lambda i: -lengths[i])
    while order:
        size = max(_BATCH_TOKENS // lengths[order[0]], 1)
        yield order[:size]
        order = order[size:]


def _length(wanted: int | None, own: int, positions: int | None, folder: Path) -> int:
    if wanted is not None and positions is not None and wanted > positions:
        raise ModelError(f"{folder}: has positions for {positions} tokens, but {wanted} are asked for")
    chosen = own if wanted is None else wanted
    return chosen if positions is None else min(chosen, positions)
