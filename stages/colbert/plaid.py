"""PLAID: late interaction that finds passages by itself, with colbert-ai's indexer and searcher.

Queries are encoded here, as for rescoring, which is equal to colbert-ai's own way and may leave out [MASK]s.

Santhanam et al. 2022 (arXiv 2205.09707): centroids generate and prune candidates, residuals of 2 bits score the rest.
colbert-ai compiles C++ at first use, for about a minute; torch keeps the result in ``TORCH_EXTENSIONS_DIR``.

colbert-ai asks transformers to trust remote code and reads its index with ``torch.load``. So a checkpoint with code of
its own, or without safetensors, never reaches it, and an index should only be opened where its files are known to be
those that this module wrote: the index's manifest has their checksums.
"""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cascade.errors import IndexCorrupt, InputError, ModelError
from cascade.stage import Context, Passages, Progress, Retriever, Stage
from cascade.types import Query, Rows, Scores
from stages.colbert.checkpoint import read_format
from stages.colbert.encoder import TokenEncoder, encoder_of
from stages.colbert.settings import ColbertSettings, missing_packages
from stages.models import HFTokenizer, fingerprint, locate
from stages.models.layout import read_config
from stages.models.weights import BASE_KEY, export_folder

logger = logging.getLogger(__name__)

_BITS = 2
_INDEX = "plaid"
_METADATA = "metadata.json"


class PlaidStage(Stage):
    """A late-interaction model that finds passages by PLAID.

    Raises:
        ModelError: colbert-ai is not installed, or must not or cannot read the checkpoint.
    """

    def __init__(self, settings: ColbertSettings, context: Context) -> None:
        missing = missing_packages()
        if missing:
            raise ModelError(f"plaid needs {', '.join(missing)}: pip install 'cascade-ranking[plaid]'")
        folder = locate(settings.model, context).resolve()
        form = read_format(folder)
        if form.kind != "colbert-ai":
            raise ModelError(f"{folder}: plaid reads checkpoints of colbert-ai, got one of kind {form.kind}")
        if "auto_map" in read_config(folder):
            raise ModelError(f"{folder}: config.json: auto_map names code to run, which is never trusted")
        self._folder = folder
        self._top_k = settings.top_k
        self._encoder = encoder_of(settings, folder)
        self._passage_tokens = settings.max_passage_tokens or form.passage_tokens
        self._query_tokens = settings.max_query_tokens or form.query_tokens

    @property
    def tokenizer(self) -> HFTokenizer:
        """The checkpoint's own: documents beyond its window are split, since colbert-ai would cut them off."""
        return self._encoder.tokenizer

    def fingerprint(self) -> str:
        """Identifies the weights, and how much of a passage they read."""
        return f"{fingerprint(self._folder)}-{self._passage_tokens}"

    def build(self, passages: Passages, directory: Path, progress: Progress) -> None:
        """Has colbert-ai index all passages in one go; what an interrupted call left is thrown away.

        Holds all texts in memory.

        Raises:
            InputError: there are too few tokens to find centroids in.
        """
        from colbert import Indexer

        shutil.rmtree(directory / _INDEX, ignore_errors=True)
        texts = [*passages.iterate()]
        with standing_alone(self._folder) as checkpoint, _contained(directory):
            indexer = Indexer(str(checkpoint), config=self._config(directory), verbose=0)
            try:
                indexer.index(_INDEX, texts, overwrite=True)
            except RuntimeError as error:
                raise InputError(f"plaid cannot index {len(texts)} passages: {error}; use backend: rescore") from error
        progress(len(texts), len(texts))

    def open(self, passages: Passages, directory: Path | None) -> PlaidRetriever:
        """Opens what ``build`` wrote.

        Raises:
            ModelError: there is no index.
            IndexCorrupt: colbert-ai cannot read it.
        """
        if directory is None:
            raise ModelError("plaid searches an index and there is none; build one, or use backend: rescore")
        from colbert import Searcher

        if not (directory / _INDEX / _METADATA).is_file():
            raise IndexCorrupt(f"{directory / _INDEX / _METADATA}: no such file; build the index again")
        with standing_alone(self._folder) as checkpoint, _contained(directory):
            try:
                searcher = Searcher(
                    index=_INDEX,
                    index_root=str(directory.resolve()),
                    checkpoint=str(checkpoint),
                    collection=["passages are kept elsewhere"],
                    config=self._config(directory),
                    verbose=0,
                )
            except (OSError, ValueError, KeyError, RuntimeError, EOFError, AssertionError) as error:
                raise IndexCorrupt(f"{directory}: colbert-ai cannot open it: {error}; rebuild the index") from error
        if len(searcher.ranker.doclens) != len(passages):
            raise IndexCorrupt(
                f"{directory}: expected {len(passages)} passages, got {len(searcher.ranker.doclens)}; rebuild the index"
            )
        return PlaidRetriever(searcher, self._encoder, len(passages))

    def _config(self, directory: Path) -> Any:
        from colbert.infra import ColBERTConfig

        cells, threshold, candidates = _search_effort(self._top_k)
        return ColBERTConfig(
            index_path=str(directory.resolve() / _INDEX),
            nbits=_BITS,
            doc_maxlen=self._passage_tokens,
            query_maxlen=self._query_tokens,
            ncells=cells,
            centroid_score_threshold=threshold,
            ndocs=candidates,
        )


class PlaidRetriever(Retriever):
    """Searches a PLAID index, which cannot be cut into ranges of rows."""

    def __init__(self, searcher: Any, encoder: TokenEncoder, passages: int) -> None:
        self._searcher = searcher
        self._encoder = encoder
        self._passages = passages

    def encode_query(self, query: Query) -> Any:
        """A float32 tensor [1, query tokens, dim]."""
        import torch

        return torch.from_numpy(self._encoder.encode_query(query.text))[None]

    def ranges(self) -> Sequence[tuple[int, int]]:
        """One range, the whole collection."""
        return [(0, self._passages)]

    def search(self, query: Any, k: int, start: int, stop: int) -> tuple[Rows, Scores]:
        """The best ``k`` rows or fewer, best first, ties by row: int32 [m] and float32 [m].

        Raises:
            ValueError: for a part of the collection.
        """
        if (start, stop) != (0, self._passages):
            raise ValueError(f"plaid searches rows 0 to {self._passages} at once, not {start} to {stop}")
        found, _, scores = self._searcher.dense_search(query, k)
        rows, values = np.array(found, np.int32), np.array(scores, np.float32)
        order = np.lexsort((rows, -values))
        return rows[order], values[order]


def _search_effort(top_k: int) -> tuple[int, float, int]:
    """Cells probed for each query token, least score of a centroid, candidates scored: colbert-ai's own choice.

    Set here because its searcher takes them from the first query's ``k`` and keeps them for all others.
    """
    if top_k <= 10:
        return 1, 0.5, 256
    if top_k <= 100:
        return 2, 0.45, 1024
    return 4, 0.4, max(top_k * 4, 4096)


@contextlib.contextmanager
def standing_alone(folder: Path) -> Iterator[Path]:
    """The model folder, or a copy with all weights for as long as the block runs, where it leaves some to its base.

    colbert-ai draws at random what it does not find, without a word.
    """
    if BASE_KEY not in read_config(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="cascade-plaid-") as place:
        copy = Path(place) / "checkpoint"
        export_folder(folder, copy)
        yield copy


@contextlib.contextmanager
def _contained(directory: Path) -> Iterator[None]:
    """Keeps colbert-ai's files in the directory, its work in this process, and its messages in the log.

    Except what faiss says while it clusters: that goes to the process's standard output, past Python.
    """
    from colbert.infra import Run, RunConfig

    config = RunConfig(nranks=1, root=str(directory.resolve()), experiment=".", avoid_fork_if_possible=True)
    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output), Run().context(config):
            yield
    finally:
        for line in filter(None, map(str.strip, output.getvalue().splitlines())):
            logger.debug("colbert-ai: %s", line)
