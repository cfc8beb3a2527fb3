import importlib
from pathlib import Path

import pytest

from cascade.errors import InputError
from cascade.load import parse_config

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CHAIN = """
version: 1
name: chain
stages:
  - {name: bm25, kind: bm25, top_k: 200}
  - {name: late-interaction, kind: colbert, model: bundled:bi-encoder, top_k: 50}
  - {name: last, kind: colbert, model: bundled:bi-encoder, top_k: 10}
"""


@pytest.fixture(scope="module")
def budgets():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("budgets")


def top_ks(config):
    return [entry.settings.top_k for entry in config.stages]


def test_cutting_the_last_stage_never_lets_a_cut_grow(budgets):
    chain = parse_config(CHAIN)
    assert top_ks(budgets.cut(chain, 20)) == [200, 20, 10]
    assert top_ks(budgets.cut(chain, 5)) == [200, 5, 5]
    assert top_ks(budgets.cut(chain, 80)) == [200, 50, 10]
    with pytest.raises(InputError, match="expected a reranker"):
        budgets.cut(parse_config(budgets.BM25), 5)


def test_the_last_stage_may_be_left_out_but_not_the_only_one(budgets):
    assert top_ks(budgets.shortened(parse_config(CHAIN))) == [200, 50]
    assert budgets.shortened(parse_config(budgets.BM25)).stages


def test_the_reference_reads_the_candidates_of_the_cascades_own_first_stage(budgets):
    reference = budgets.over_first_stage(parse_config(CHAIN), parse_config(CHAIN), 100)
    assert [entry.settings.name for entry in reference.stages] == ["bm25", "last"]
    assert top_ks(reference) == [100, 10]


def row(system, quality, mean_ms):
    return {"system": system, "nDCG@10": quality, "mean ms": mean_ms}


def test_the_best_setting_is_the_best_of_those_in_time(budgets):
    reference = row("all", 0.5, 1000.0)
    settings = [row("quick", 0.48, 20.0), row("better", 0.495, 90.0), row("slow", 0.52, 300.0)]
    goal = budgets.best(settings, reference)
    assert goal["best"] == "better"
    assert goal["quality kept"] == pytest.approx(0.99)
    assert goal["share of time"] == pytest.approx(0.09)
    assert goal["met"]
    assert not budgets.best(settings[:1], reference)["met"]
    assert not budgets.best(settings[2:], reference)["met"]


def test_the_picture_is_a_png(budgets):
    pytest.importorskip("matplotlib")
    cells = [
        {"system": system, "budget ms": ms, "nDCG@10": quality + ms / 1000}
        for system, quality in (("cascade", 0.5), ("cross-encoder alone", 0.4), ("BM25", 0.3))
        for ms in (10.0, 100.0)
    ]
    report = {
        "cells": cells,
        "whole": [row("all", 0.7, 1000.0)],
        "goals": [{"reference": "all"}],
        "collection": "npl",
        "documents": 11429,
        "machine": {"machine": "a machine"},
    }
    assert budgets.plot(report).startswith(b"\x89PNG")
