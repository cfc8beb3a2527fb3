"""What YAML may say of a BM25 stage. Imports nothing heavy."""

from __future__ import annotations

from typing import Literal, TypeAlias

from cascade.stage import Context, Stage, StageKind, StageSettings, index_field

Backend: TypeAlias = Literal["bm25s", "rank_bm25"]
Method: TypeAlias = Literal["lucene", "robertson", "atire"]
StopWords: TypeAlias = Literal["english", "none"]
Stemmer: TypeAlias = Literal[
    "none",
    "arabic",
    "danish",
    "dutch",
    "english",
    "finnish",
    "french",
    "german",
    "greek",
    "hindi",
    "hungarian",
    "indonesian",
    "italian",
    "norwegian",
    "portuguese",
    "romanian",
    "russian",
    "spanish",
    "swedish",
    "tamil",
    "turkish",
]


class Bm25Settings(StageSettings):
    """Settings of ``kind: bm25``.

    ``method`` names the variant of Kamphuis et al., "Which BM25 Do You Mean?" (ECIR 2020). BM25L and BM25+ are left
    out: they give passages without any of the query's terms a score above zero.
    """

    backend: Backend = index_field("bm25s", description="bm25s: fast; rank_bm25: slow, in memory, for comparison")
    method: Method = index_field("lucene", description="variant of the formula")
    k1: float = index_field(1.2, ge=0, le=100, description="how fast repetitions of a term saturate")
    b: float = index_field(0.75, ge=0, le=1, description="how much long passages are held back")
    stemmer: Stemmer = index_field("english", description="Snowball stemmer, or none")
    stopwords: StopWords = index_field("english", description="words left out, or none")


def _load(settings: Bm25Settings, context: Context) -> Stage:
    from stages.bm25.stage import Bm25Stage

    return Bm25Stage(settings)


KIND = StageKind(
    kind="bm25",
    role="retriever",
    settings=Bm25Settings,
    load=_load,
    indexed=True,
    summary="lexical retrieval by BM25 over an inverted index on disk",
)
