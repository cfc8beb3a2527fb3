"""One suite over every stage that an entry point of this distribution names."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from cascade.registry import STAGES_GROUP, Registry
from cascade.stage import Batch, Context, Fuser, Passages, Reranker, Retriever, Stage, StageKind, StageSettings
from cascade.testing import check_fuser, check_kind, check_reranker, check_retriever, check_stage
from cascade.types import Rows, Scores

KINDS = ("bm25", "colbert", "cross_encoder", "dense", "fusion", "listwise")
NEURAL = ("colbert", "cross_encoder", "dense", "listwise")
HEAVY = (
    "torch",
    "transformers",
    "tokenizers",
    "numba",
    "bm25s",
    "rank_bm25",
    "pyarrow",
    "faiss",
    "openvino",
    "onnxruntime",
)

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "bm25": ("bm25", {}),
    "bm25 by rank_bm25": ("bm25", {"backend": "rank_bm25", "method": "atire"}),
    "bm25 on bare words": ("bm25", {"stemmer": "none", "stopwords": "none", "method": "robertson"}),
    "dense": ("dense", {"model": "bundled:bi-encoder"}),
    "colbert": ("colbert", {"model": "bundled:bi-encoder"}),
    "cross_encoder": ("cross_encoder", {}),
    "cross_encoder of our own": ("cross_encoder", {"model": "bundled:cross-encoder"}),
    "listwise": ("listwise", {"model": "bundled:listwise"}),
    "colbert in 4 bits, pooled": ("colbert", {"model": "bundled:bi-encoder", "bits": 4, "pooling": 2}),
    "colbert uncompressed": ("colbert", {"model": "bundled:bi-encoder", "bits": 16}),
    "fusion by ranks": ("fusion", {"retrievers": ("a", "b", "c"), "rrf_k": 10}),
    "fusion by scores": ("fusion", {"retrievers": ("a", "b"), "method": "weighted", "weights": {"a": 1, "b": 0.5}}),
}


def test_every_entry_point_is_in_the_suite():
    named = {entry.name for entry in distribution("cascade-ranking").entry_points if entry.group == STAGES_GROUP}

    assert named == set(KINDS) == {kind for kind, _ in CASES.values()}


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.slow if kind in NEURAL else ()) for case, (kind, _) in CASES.items()]
)
def test_stage_keeps_the_contract(case: str, passages: Passages, tmp_path: Path, request: pytest.FixtureRequest):
    kind, own = CASES[case]
    if case == "cross_encoder":
        own = {"model": str(request.getfixturevalue("classifier"))}

    check_stage(Registry().get(kind), {"name": "stage", "kind": kind, "top_k": 10, **own}, passages, tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_importing_a_kind_loads_nothing_heavy(kind: str):
    code = f"import sys, stages.{kind} as module; module.KIND; print([m for m in {HEAVY} if m in sys.modules])"

    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert loaded.strip() == "[]"


class _Lengths(Reranker):
    """Scores a passage by its length."""

    def __init__(self, passages: Passages) -> None:
        self._lengths = np.array([len(text) for text in passages.iterate()], np.float32)

    def score(self, batch: Batch) -> Scores:
        return self._lengths[batch.rows]


class _BatchDependent(_Lengths):
    def score(self, batch: Batch) -> Scores:
        scores = super().score(batch)
        return scores - scores.mean(dtype=np.float32) if len(scores) else scores


class _WrongType(_Lengths):
    def score(self, batch: Batch) -> Scores:
        return super().score(batch).astype(np.float64)  # type: ignore[return-value]


class _AllRows(Retriever):
    """Finds every row, with the score 1."""

    def __init__(self, passages: Passages) -> None:
        self._n = len(passages)

    def ranges(self) -> list[tuple[int, int]]:
        return [(0, self._n)]

    def search(self, query: Any, k: int, start: int, stop: int) -> tuple[Rows, Scores]:
        rows = np.arange(start, min(stop, start + k), dtype=np.int32)
        return rows, np.ones(len(rows), np.float32)


class _Backwards(_AllRows):
    def search(self, query: Any, k: int, start: int, stop: int) -> tuple[Rows, Scores]:
        rows, scores = super().search(query, k, start, stop)
        return rows[::-1].copy(), scores


class _HalfCovered(_AllRows):
    def ranges(self) -> list[tuple[int, int]]:
        return [(0, self._n // 2)]


class _Generous(_AllRows):
    def search(self, query: Any, k: int, start: int, stop: int) -> tuple[Rows, Scores]:
        return super().search(query, k + 1, start, stop)


class _Forgetful(Fuser):
    def fuse(self, rankings: Any) -> tuple[Rows, Scores]:
        return rankings[0]


class _Plain(Stage):
    def open(self, passages: Passages, directory: Path | None) -> Reranker:
        return _Lengths(passages)


class _Lax(StageSettings, extra="ignore"):
    """Settings that accept anything."""


def _plain(settings: type[StageSettings]) -> StageKind:
    return StageKind("plain", "reranker", settings, lambda settings, context: _Plain(), summary="length of the text")


def test_a_third_partys_stage_passes(passages: Passages, tmp_path: Path):
    check_stage(_plain(StageSettings), {"name": "p", "kind": "plain", "top_k": 3}, passages, tmp_path)
    check_retriever(_AllRows(passages), passages)


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [(_BatchDependent, "one by one"), (_WrongType, r"expected float32 \[3\], got float64 \[3\]")],
)
def test_broken_rerankers_are_found_out(broken: type[_Lengths], complaint: str, passages: Passages):
    with pytest.raises(AssertionError, match=complaint):
        check_reranker(broken(passages), passages)


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [(_Backwards, "ties by row"), (_HalfCovered, "must cover"), (_Generous, "too many")],
)
def test_broken_retrievers_are_found_out(broken: type[_AllRows], complaint: str, passages: Passages):
    with pytest.raises(AssertionError, match=complaint):
        check_retriever(broken(passages), passages)


def test_a_fuser_that_loses_rows_is_found_out():
    with pytest.raises(AssertionError, match="not every row comes back once"):
        check_fuser(_Forgetful(), 2)


def test_settings_that_accept_unknown_keys_are_found_out():
    with pytest.raises(AssertionError, match="unknown setting is accepted"):
        check_kind(_plain(_Lax), {"name": "p", "kind": "plain", "top_k": 3}, Context(Path()))


def test_settings_that_are_wrong_stay_wrong():
    with pytest.raises(ValidationError, match="top_k"):
        check_kind(_plain(StageSettings), {"name": "p", "kind": "plain", "top_k": 0}, Context(Path()))
