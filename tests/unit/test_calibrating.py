"""Probabilities in answers."""

from __future__ import annotations

import math

import pytest

from cascade.api import Cascade
from cascade.types import Ranking
from tests.tuner_for_tests import Machine, config_of

TEXTS = [f"text {number}" for number in range(20)]


def reranked(settings: str = "", **options: int) -> Ranking:
    """Texts in the order of a stage whose scores are from 0 to 1.6."""
    text = f"""
version: 1
name: calibrated
stages:
  - {{name: words, kind: made_up_retriever, top_k: 60}}
  - {{name: late, kind: made_up_reranker, seed: 3, top_k: 15{settings}}}
"""
    with Cascade(config_of(text, Machine())) as engine:
        return engine.rerank("which?", TEXTS, **options)


PLATT = ", probability: {platt: {a: 4.0, b: -2.0}}"


def test_hits_have_a_probability_where_the_stage_is_calibrated():
    hits = reranked(PLATT).hits
    assert [hit.probability for hit in hits] == pytest.approx([1 / (1 + math.exp(2 - 4 * hit.score)) for hit in hits])
    plain = reranked().hits
    assert [hit.probability for hit in plain] == [None] * 20
    assert [(hit.doc_id, hit.score) for hit in hits] == [(hit.doc_id, hit.score) for hit in plain]


def test_improbable_hits_are_left_out_also_those_that_fill_up_an_answer():
    probable = [hit for hit in reranked(PLATT).hits if hit.probability is not None and hit.probability >= 0.5]
    assert 0 < len(probable) < 15
    assert reranked(f"{PLATT}, min_probability: 0.5").hits == tuple(probable)
    assert reranked(f"{PLATT}, min_probability: 0.5", top_k=3).hits == tuple(probable[:3])
    assert len(reranked(f"{PLATT}, min_probability: 1.0")) == 0
