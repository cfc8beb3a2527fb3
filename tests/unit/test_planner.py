from __future__ import annotations

import math
from pathlib import Path

import pytest

from cascade.load import load_config, parse_config
from cascade.planner import Plan, plan

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
RECORDED = sorted((ROOT / "benchmarks").glob("*.yaml"))

TEXT = """
version: 1
name: small
budget_ms: 100
on_overrun: skip
slack: drop
quantile: 0.9
overload: refuse
max_waiting: 7
passages: {max_tokens: 64, overlap_tokens: 8, per_document: 2}
stages:
  - name: both
    kind: fusion
    top_k: 20
    budget_ms: 30
    retrievers:
      - {name: words, kind: bm25, top_k: 15, budget_ms: 5}
      - {name: meaning, kind: dense, top_k: 15, on_overrun: fail}
  - {name: late, kind: colbert, model: "bundled:bi-encoder", top_k: 10, on_error: fail}
"""


def planned(text: str) -> Plan:
    return plan(parse_config(text))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_config_is_planned(path: Path) -> None:
    config = load_config(path)
    result = plan(config)
    assert result.name == path.stem
    assert [stage.name for stage in result.stages] == [entry.settings.name for entry in config.stages]
    assert result.stages[0].role in ("retriever", "fuser")
    own_s = sum(stage.budget_s for stage in result.stages if stage.budget_s != math.inf)
    assert own_s <= result.budget_s * (1 + 1e-9) < math.inf


def test_stages_whose_scores_a_later_one_combines_are_marked() -> None:
    combining = TEXT.replace("on_error: fail}", "combine: {words: 0.3, both: 0, late: 1}}")
    units = {unit.name: unit for unit in planned(combining).units()}
    assert units["late"].combine == {"words": 0.3, "both": 0, "late": 1}
    assert [name for name, unit in units.items() if unit.combined_later] == ["words", "both"]
    assert not any(unit.combined_later or unit.combine for unit in planned(TEXT).units())


def test_a_stage_that_may_stop_early_says_how_sure_it_is_to_be() -> None:
    late = planned(TEXT.replace("on_error: fail}", "adaptive: 0.9}")).stages[1]
    plain = planned(TEXT).stages[1]
    assert (late.adaptive, plain.adaptive) == (0.9, None)
    assert late.cost_key == plain.cost_key


def test_there_are_configs() -> None:
    names = {"default.yaml", "two-stage.yaml", "four-stage.yaml", "hybrid.yaml", "msmarco.yaml"}
    assert names <= {path.name for path in CONFIGS}


def test_what_benchmarks_record_is_planned_and_has_every_stage_of_the_bundled_configs() -> None:
    family, *_ = (plan(load_config(path)) for path in RECORDED)
    known = {unit.cost_key for unit in family.units()}
    bundled = [plan(load_config(path)) for path in CONFIGS if path.stem != "msmarco"]
    assert known >= {unit.cost_key for cascade in bundled for unit in cascade.units() if unit.role != "fuser"}


def test_milliseconds_become_seconds_and_no_limit_infinity() -> None:
    result = planned(TEXT)
    assert result.budget_s == 0.1
    assert [unit.budget_s for unit in result.units()] == [0.005, math.inf, 0.03, math.inf]
    assert planned("version: 1\nname: x\nstages: [{name: a, kind: bm25, top_k: 1}]").budget_s == math.inf


def test_everything_said_at_the_top_is_in_the_plan() -> None:
    result = planned(TEXT)
    assert (result.name, result.slack, result.quantile) == ("small", "drop", 0.9)
    assert (result.overload, result.max_waiting) == ("refuse", 7)
    assert (result.passages.max_tokens, result.passages.overlap_tokens, result.passages.per_document) == (64, 8, 2)


def test_a_stage_inherits_on_overrun_unless_it_says_its_own() -> None:
    assert {unit.name: unit.on_overrun for unit in planned(TEXT).units()} == {
        "words": "skip",
        "meaning": "fail",
        "both": "skip",
        "late": "skip",
    }


def test_roles_cuts_and_errors_come_from_the_stages() -> None:
    both, late = planned(TEXT).stages
    assert (both.role, late.role) == ("fuser", "reranker")
    assert (both.top_k, late.top_k) == (20, 10)
    assert (both.on_error, late.on_error) == ("degrade", "fail")
    assert [inner.name for inner in both.retrievers] == ["words", "meaning"]


def test_the_cost_key_follows_what_decides_the_cost_and_nothing_else() -> None:
    def key(line: str) -> str:
        return planned(f"version: 1\nname: x\nstages:\n  - {{{line}}}").stages[0].cost_key

    plain = key("name: a, kind: bm25, top_k: 5")
    assert plain.startswith("bm25-")
    assert plain == key("name: b, kind: bm25, top_k: 9, budget_ms: 3, on_overrun: fail, on_error: fail")
    assert plain == key("name: a, kind: bm25, top_k: 5, k1: 1.2")
    assert plain != key("name: a, kind: bm25, top_k: 5, k1: 1.3")
    assert plain != key("name: a, kind: dense, top_k: 5")
