from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from pydantic import BaseModel

from cascade.errors import ConfigError
from cascade.load import parse_config
from cascade.registry import Registry
from cascade.schema import json_schema
from cascade.stage import Context, Stage, StageKind, StageSettings

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
BM25 = {"name": "bm25", "kind": "bm25", "top_k": 10}
DENSE = {"name": "dense", "kind": "dense", "top_k": 10}
LATE = {"name": "late", "kind": "colbert", "model": "bundled:bi-encoder", "top_k": 5}


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    return Draft202012Validator(json_schema(Registry()))


def cascade(*stages: Any, **top: Any) -> dict[str, Any]:
    return {"version": 1, "name": "x", "stages": list(stages), **top}


def test_it_is_a_valid_schema_of_2020_12(validator: Draft202012Validator) -> None:
    assert validator.schema["$schema"] == Draft202012Validator.META_SCHEMA["$id"]
    Draft202012Validator.check_schema(validator.schema)


def test_every_reference_leads_somewhere(validator: Draft202012Validator) -> None:
    def references(value: Any) -> set[str]:
        if isinstance(value, list):
            return {ref for item in value for ref in references(item)}
        if isinstance(value, dict):
            own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
            return own | {ref for item in value.values() for ref in references(item)}
        return set()

    known = {f"#/$defs/{name}" for name in validator.schema["$defs"]}
    assert references(validator.schema) <= known


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_config_is_accepted(path: Path, validator: Draft202012Validator) -> None:
    assert list(validator.iter_errors(yaml.safe_load(path.read_text()))) == []


@pytest.mark.parametrize(
    "good",
    [
        cascade(BM25, LATE),
        cascade({**BM25, "budget_ms": None, "k1": 2}),
        cascade({"name": "f", "kind": "fusion", "top_k": 5, "retrievers": [BM25, DENSE], "weights": {"bm25": 1}}),
        cascade({"name": "f", "kind": "fusion", "top_k": 5, "retrievers": [BM25, {**LATE, "backend": "plaid"}]}),
        cascade(BM25, budget_ms=10.5, passages={"max_tokens": 64}),
        cascade(BM25, {**LATE, "combine": {"bm25": 0, "late": 0.5}}),
        cascade(BM25, {**LATE, "adaptive": 0.95}),
    ],
)
def test_what_it_accepts(good: dict[str, Any], validator: Draft202012Validator) -> None:
    assert list(validator.iter_errors(good)) == []


@pytest.mark.parametrize(
    "bad",
    [
        [],
        cascade(),
        cascade(7),
        cascade({"name": "a", "top_k": 1}),
        cascade({**BM25, "kind": "bm26"}),
        cascade({**BM25, "topk": 1}),
        cascade({**BM25, "top_k": 0}),
        cascade({**BM25, "top_k": "5"}),
        cascade({**BM25, "name": "a b"}),
        cascade({**BM25, "k1": -1}),
        cascade({**BM25, "on_error": "ignore"}),
        cascade(BM25, {"name": "late", "kind": "colbert", "top_k": 5}),
        cascade({"name": "f", "kind": "fusion", "top_k": 5}),
        cascade({"name": "f", "kind": "fusion", "top_k": 5, "retrievers": [BM25]}),
        cascade({"name": "f", "kind": "fusion", "top_k": 5, "retrievers": ["bm25", "dense"]}),
        cascade({"name": "f", "kind": "fusion", "top_k": 5, "retrievers": [BM25, {"name": "c", "kind": "fusion"}]}),
        cascade({**BM25, "combine": {"bm25": 1}}),
        cascade({**BM25, "adaptive": 0.9}),
        cascade(BM25, {**LATE, "adaptive": 1}),
        cascade(BM25, {**LATE, "combine": {"late": -1}}),
        cascade(BM25, {**LATE, "combine": ["late"]}),
        cascade(BM25, frobnicate=1),
        cascade(BM25, version=2),
        cascade(BM25, quantile=1),
        cascade(BM25, passages={"overlap": 1}),
        {"version": 1, "stages": [BM25]},
        {"version": 1, "name": "x"},
    ],
)
def test_what_it_refuses_the_loader_refuses_too(bad: Any, validator: Draft202012Validator) -> None:
    assert list(validator.iter_errors(bad))
    with pytest.raises(ConfigError):
        parse_config(yaml.safe_dump(bad))


def test_every_key_of_every_kind_is_described(validator: Draft202012Validator) -> None:
    definitions = validator.schema["$defs"]
    stages = {name: schema for name, schema in definitions.items() if name.startswith("stage.")}
    assert len(stages) >= 5
    for schema in (validator.schema, definitions["PassageSettings"], *stages.values()):
        undescribed = [key for key, value in schema["properties"].items() if not value.get("description")]
        assert undescribed in ([], ["stages"])


def _load(settings: object, context: Context) -> Stage:
    raise NotImplementedError


def test_two_kinds_may_call_different_things_by_one_name() -> None:
    def kind(name: str, least: int) -> StageKind:
        inner = type("Options", (BaseModel,), {"__annotations__": {f"option{least}": int}})
        settings = type("Settings", (StageSettings,), {"__annotations__": {"options": inner}})
        return StageKind(name, "retriever", settings, _load)

    registry = Registry([kind("one", 1), kind("two", 2)])
    validator = Draft202012Validator(json_schema(registry))
    for name, option in (("one", "option1"), ("two", "option2")):
        stage = {"name": "a", "kind": name, "top_k": 1, "options": {option: 3}}
        assert list(validator.iter_errors(cascade(stage))) == []
        assert list(validator.iter_errors(cascade({**stage, "options": {}})))
