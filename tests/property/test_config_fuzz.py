"""Whatever a configuration file holds: a configuration or a ConfigError, nothing else."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cascade.errors import ConfigError
from cascade.load import load_config, parse_config
from cascade.planner import plan
from cascade.registry import Registry

REGISTRY = Registry()
CONFIG = (Path(__file__).parents[2] / "configs" / "hybrid.yaml").read_text()

KEYS = st.sampled_from(
    [
        "version",
        "name",
        "budget_ms",
        "stages",
        "kind",
        "top_k",
        "retrievers",
        "model",
        "weights",
        "passages",
        "k1",
        "<<",
    ]
)
WORDS = st.sampled_from(["bm25", "dense", "colbert", "fusion", "rrf", "bundled:bi-encoder", "hf:a/b@c", "~nobody/m"])
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.dates(), WORDS)
TREES: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS | st.text(max_size=8), inner, max_size=6),
    max_leaves=20,
)


def check(text: str) -> None:
    with contextlib.suppress(ConfigError):
        plan(parse_config(text, registry=REGISTRY))


@given(st.text())
@example("? [\n")
@example("a: \ud800")
@example("a: " + "1" * 5000)
@example("stages: [{name: a, kind: dense, top_k: 1, model: '" + "a" * 3000 + "'}]")
@example("stages: [{name: a, kind: dense, top_k: 1, model: '~nobody-of-that-name/m'}]")
@settings(max_examples=200, deadline=None)
def test_any_text(text: str) -> None:
    check(text)


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes(raw)
    with contextlib.suppress(ConfigError):
        load_config(path, REGISTRY)


@given(TREES)
@settings(max_examples=200, deadline=None)
def test_any_tree(tree: Any) -> None:
    check(yaml.safe_dump(tree))


@given(st.dictionaries(KEYS, TREES, max_size=6), st.lists(st.dictionaries(KEYS, TREES, max_size=6), max_size=4))
@settings(max_examples=200, deadline=None)
def test_any_stages(top: dict[str, Any], stages: list[dict[str, Any]]) -> None:
    check(yaml.safe_dump({"version": 1, "name": "x", **top, "stages": stages}))


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_a_good_file_with_a_piece_replaced(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(CONFIG)))
    stop = data.draw(st.integers(start, min(len(CONFIG), start + 10)))
    check(CONFIG[:start] + data.draw(st.text(max_size=5)) + CONFIG[stop:])


@given(st.lists(st.tuples(st.integers(1, 10), st.integers(1, 10)), min_size=1, max_size=5), st.integers(1, 50))
@settings(deadline=None)
def test_cuts_and_budgets_are_accepted_exactly_when_they_fit(parts: list[tuple[int, int]], whole: int) -> None:
    first, *rest = parts
    stages = [{"name": "s", "kind": "bm25", "top_k": first[0], "budget_ms": first[1]}]
    for i, (top_k, ms) in enumerate(rest):
        stages.append({"name": f"r{i}", "kind": "cross_encoder", "top_k": top_k, "budget_ms": ms})
    for stage in stages[1:]:
        stage["model"] = "hf:a/b@c"
    text = yaml.safe_dump({"version": 1, "name": "x", "budget_ms": whole, "stages": stages})
    cuts = [top_k for top_k, _ in parts]
    if sum(ms for _, ms in parts) <= whole and cuts == sorted(cuts, reverse=True):
        assert len(parse_config(text, registry=REGISTRY).stages) == len(parts)
    else:
        with pytest.raises(ConfigError):
            parse_config(text, registry=REGISTRY)
