"""Queries as an encoder reads them: framed by its special tokens, each token with its state in the last layer.

That is most of what a dense retriever and a late-interaction stage do with a query. Where both use one encoder in one
way, their readers have one name, and the engine has the query read once.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from dataclasses import astuple, dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from cascade.stage import QuerySide
from cascade.types import Query, TokenIds
from stages.models import HFTokenizer
from stages.runtimes.choice import Floats, RuntimeName
from stages.runtimes.states import States


def reader_identity(weights: str, runtime: RuntimeName) -> str:
    """Of an encoder and what runs it: the fingerprint of its weights, and the runtime that a stage's settings name."""
    return f"{weights}/{runtime}"


@dataclass(frozen=True, slots=True)
class QueryRead:
    """What an encoder has read.

    Args:
        own: int32 [n], token ids of the query itself.
        mask: int64 [L], 1 for a token that the others attend to.
        states: float32 [L, d], of all tokens in the last layer.
    """

    own: TokenIds
    mask: npt.NDArray[np.int64]
    states: Floats


@dataclass(frozen=True, slots=True)
class QueryFrame:
    """How an encoder wants its queries.

    Args:
        head: token ids before the query.
        tail: token ids after it.
        room: most tokens of the query itself.
        expansion: what fills up shorter queries to the same length; None to leave them short.
        attend: whether the others attend to that.
    """

    head: tuple[int, ...]
    tail: tuple[int, ...]
    room: int
    expansion: int | None = None
    attend: bool = False


Embed: TypeAlias = Callable[[QueryRead], npt.NDArray[np.float32]]
"""From a query as an encoder read it to float32: its one vector, [dimension], or one of each token, [tokens, dim]."""


class QueryReader:
    """Reads queries; may be used by many threads at once.

    Args:
        tokenizer: the encoder's.
        frame: how it wants queries.
        states: runs it.
        identity: of the encoder and of what runs it.
    """

    def __init__(self, tokenizer: HFTokenizer, frame: QueryFrame, states: States, identity: str) -> None:
        self.frame = frame
        self.name = hashlib.sha256(repr((identity, astuple(frame))).encode()).hexdigest()[:16]
        """Readers of one name read alike; empty for one that may read otherwise."""
        self._tokenizer = tokenizer
        self._states = states

    def on(self, states: States) -> QueryReader:
        """The same, run by something else, and without a name."""
        other = copy.copy(self)
        other._states, other.name = states, ""
        return other

    def read(self, text: str) -> QueryRead:
        """What the encoder reads, on the calling thread; in time that does not grow with a text beyond its room."""
        frame = self.frame
        own = self._tokenizer.encode_start(text, frame.room)
        ids = np.concatenate((frame.head, own, frame.tail)).astype(np.int64)
        mask = np.ones(len(ids), np.int64)
        if frame.expansion is not None:
            missing = frame.room - len(own)
            ids = np.pad(ids, (0, missing), constant_values=frame.expansion)
            mask = np.pad(mask, (0, missing), constant_values=int(frame.attend))
        return QueryRead(own, mask, self._states.states(ids[None], mask[None])[0])


class EncoderReads(QuerySide):
    """The query-side work of a stage whose queries an encoder reads.

    Args:
        queries: reads them.
        embed: makes vectors of what that reads.
    """

    def __init__(self, queries: QueryReader, embed: Embed) -> None:
        self.query_reader = queries.name
        self._queries = queries
        self._embed = embed

    def read_query(self, query: Query) -> QueryRead:
        """The states of its tokens."""
        return self._queries.read(query.text)

    def encode_read(self, query: Query, reading: QueryRead) -> Any:
        """What ``embed`` makes of them."""
        return self._embed(reading)
