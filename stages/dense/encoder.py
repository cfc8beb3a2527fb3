"""A transformer that turns token ids into one vector a text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from cascade.errors import ModelError
from cascade.types import TokenIds
from stages.models import HFTokenizer, layout, load_transformer, longest_input, pad
from stages.models.pooling import Pooling, pooled
from stages.runtimes.queries import QueryFrame, QueryRead, QueryReader
from stages.runtimes.states import BatchStates, States, TorchStates

_BATCH_TOKENS = 4096


class Encoder:
    """A loaded bi-encoder; may be used by many threads at once.

    Args:
        folder: model folder.
        tokenizer: the checkpoint's tokenizer.
        pooling: how token vectors become one: their mean, or that of the first token.
        normalise: scale each vector to length 1.
    """

    def __init__(self, folder: Path, tokenizer: HFTokenizer, pooling: Pooling, normalise: bool) -> None:
        self._folder = folder
        self._model = load_transformer(folder, "encoder")
        self._layout = layout(folder)
        self._tokenizer = tokenizer
        self._pooling = pooling
        self._normalise = normalise
        self._passages = BatchStates(self._model)

    def reader(self, prefix: TokenIds, room: int, states: States | None, identity: str) -> QueryReader:
        """What reads queries for this encoder.

        Args:
            prefix: token ids put before each.
            room: most tokens of a query, prefix left out.
            states: runs the model; None for torch.
            identity: of the model and of what runs it.
        """
        frame = QueryFrame((*self._layout.head, *prefix.tolist()), self._layout.tail, room)
        return QueryReader(self._tokenizer, frame, states or TorchStates(self._model), identity)

    @property
    def dimension(self) -> int:
        """Components of a vector."""
        return int(self._model.config.hidden_size)

    def require_room(self, tokens: int) -> None:
        """Raises ``ModelError`` unless texts of this many tokens, prefix included, fit the model's positions."""
        limit = longest_input(self._folder)
        if limit is not None and tokens + self._layout.single_extra > limit:
            raise ModelError(
                f"{self._folder}: expected texts of at most {limit - self._layout.single_extra} tokens, prefix "
                f"included, got {tokens}; lower max_passage_tokens or max_query_tokens"
            )

    def encode(self, sequences: Sequence[TokenIds], *, exact: bool = True) -> npt.NDArray[np.float32]:
        """Vectors of texts given as token ids without special tokens.

        Texts of similar length share a batch, so that little is spent on padding.

        Args:
            sequences: the texts.
            exact: see ``BatchStates.states``.

        Returns:
            float32 [texts, dimension], in the order given.

        Raises:
            ModelError: the model gives NaN or infinity.
        """
        vectors = np.empty((len(sequences), self.dimension), np.float32)
        order = np.argsort([-len(sequence) for sequence in sequences], kind="stable")
        start = 0
        while start < len(order):
            longest = len(sequences[order[start]]) + self._layout.single_extra
            batch = order[start : start + max(1, _BATCH_TOKENS // longest)]
            vectors[batch] = self._forward([sequences[i] for i in batch], exact)
            start += len(batch)
        return self._finite(vectors)

    def query_vector(self, query: QueryRead) -> npt.NDArray[np.float32]:
        """The vector of a query, float32 [dimension].

        Raises:
            ModelError: the model gives NaN or infinity.
        """
        states, mask = torch.from_numpy(query.states[None]), torch.from_numpy(query.mask[None])
        found: npt.NDArray[np.float32] = self._finite(self._pooled(states, mask))[0]
        return found

    def _forward(self, sequences: Sequence[TokenIds], exact: bool) -> npt.NDArray[np.float32]:
        head, tail = (np.array(ids, np.int32) for ids in (self._layout.head, self._layout.tail))
        framed = [np.concatenate((head, sequence, tail)) for sequence in sequences]
        ids, mask = pad(framed, self._tokenizer.pad_id, multiple=1)
        return self._pooled(self._passages.states(ids, mask, exact=exact), mask)

    def _pooled(self, hidden: torch.Tensor, mask: torch.Tensor) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            vectors = pooled(hidden, mask, self._pooling)
            if self._normalise:
                vectors = torch.nn.functional.normalize(vectors, dim=1)
        result: npt.NDArray[np.float32] = vectors.numpy()
        return result

    def _finite(self, vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        if not np.isfinite(vectors).all():
            raise ModelError(
                f"{self._folder}: expected finite embeddings, got NaN or infinity; its weights are damaged"
            )
        return vectors
