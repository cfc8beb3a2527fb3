"""Search spaces: what is derived, what a file may say, and that every point is a valid cascade."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from cascade.errors import ConfigError, InputError
from cascade.load import parse_config
from cascade.planner import plan
from cascade.tuner import First, Limits, Point, Recording, SearchSpace
from cascade.tuner.report import to_yaml
from tests.tuner_for_tests import CASCADE, Machine, recorded

REGISTRY = Machine().registry()


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return recorded(tmp_path_factory.mktemp("space"), Machine(), queries=3)


def space_of(recording: Recording, folder: Path, text: str) -> SearchSpace:
    path = folder / "space.yaml"
    path.write_text(text)
    return SearchSpace.load(path, recording, budgets_ms=[50], registry=REGISTRY)


def test_a_derived_space_has_every_subset_cheap_rerankers_first(recording: Recording) -> None:
    space = SearchSpace.of(recording, budgets_ms=[50], registry=REGISTRY)
    assert space.settings.retrievers == [["words"], ["meaning"], ["words", "meaning"]]
    assert space.settings.rerankers == [[], ["quick"], ["slow"], ["quick", "slow"]]
    assert space.settings.depths == [10, 20, 50, 100]
    assert space.settings.budgets_ms == [None, 50.0]
    # three ways to find, chains of 0, 1, 1 and 2 of four depths (1 + 4 + 4 + 6), with and without a limit
    assert space.size == 3 * 15 * 2
    keys = [point.key for point in space.points()]
    assert len(set(keys)) == len(keys)


def test_every_point_is_a_cascade_that_a_file_can_state(recording: Recording) -> None:
    space = SearchSpace.of(recording, budgets_ms=[50], registry=REGISTRY)
    for point in space.points():
        config = space.config(point)
        again = parse_config(to_yaml(config, [point.label()]), registry=REGISTRY)
        assert plan(again) == plan(config)
        assert [entry.settings.top_k for entry in config.stages] == [*point.depths, min(10, *point.depths, 10)]


def test_a_chain_without_some_of_the_stages_combines_those_that_it_has(tmp_path: Path) -> None:
    text = CASCADE.replace("top_k: 10}", "top_k: 10, combine: {hybrid: 1, words: 0.5, quick: 0, slow: 0.7}}")
    own = recorded(tmp_path, Machine(), text=text, queries=1)
    space = SearchSpace.of(own, registry=REGISTRY)
    combined = {}
    for point in space.points():
        config = space.config(point)
        assert plan(parse_config(to_yaml(config, []), registry=REGISTRY)) == plan(config)
        if "slow" in point.rerankers:
            combined[(point.first.retrievers, point.rerankers)] = config.stages[-1].settings.combine
    assert combined == {
        (("words",), ("slow",)): {"words": 0.5, "slow": 0.7},
        (("words",), ("quick", "slow")): {"words": 0.5, "quick": 0, "slow": 0.7},
        (("meaning",), ("slow",)): None,
        (("meaning",), ("quick", "slow")): {"quick": 0, "slow": 0.7},
        (("words", "meaning"), ("slow",)): {"hybrid": 1, "words": 0.5, "slow": 0.7},
        (("words", "meaning"), ("quick", "slow")): {"hybrid": 1, "words": 0.5, "quick": 0, "slow": 0.7},
    }


def test_every_choice_of_an_optimiser_is_a_point_of_the_space(recording: Recording, tmp_path: Path) -> None:
    text = "retrieve: [20, 100]\ndepths: [10, 30, 90, 100]\nbudgets_ms: [null, 50, 80]\non_overrun: [partial, skip]\n"
    space = space_of(recording, tmp_path, text)
    keys, rng = {point.key for point in space.points()}, random.Random(3)
    sampled = {space.sample(lambda name, count: rng.randrange(count)).key for _ in range(3000)}
    assert sampled <= keys
    assert len(sampled) > 0.9 * len(keys)


def test_a_file_states_a_part_and_the_rest_is_derived(recording: Recording, tmp_path: Path) -> None:
    space = space_of(
        recording,
        tmp_path,
        "retrievers: [[words, meaning]]\nretrieve: [30]\nfusions: [{method: rrf, rrf_k: 1.5}, {method: weighted}]\n"
        "rerankers: [[slow]]\ndepths: [40]\nbudgets_ms: [60]\nstage_budgets_ms: {slow: [20, 70]}\n"
        "slack: [carry, drop]\n",
    )
    points = list(space.points())
    assert len(points) == 2 * 2  # a budget of 70 for a stage does not fit into 60
    config = space.config(points[-1], "mine")
    fusion, slow = config.stages
    assert (fusion.settings.top_k, slow.settings.top_k, slow.settings.budget_ms) == (40, 10, 20)
    assert fusion.settings.model_dump()["method"] == "weighted"
    assert (config.settings.budget_ms, config.settings.slack) == (60, "drop")


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("depth: [10]", ConfigError, r"space.yaml:1: depth: unknown key; did you mean 'depths'"),
        ("version: 1\ndepths: [0]", ConfigError, r"space.yaml:2: depths\[0\]: expected an integer >= 1, got 0"),
        ("depths: []", ConfigError, r"depths: expected"),
        (
            "rerankers: [[fast]]",
            InputError,
            r"rerankers: expected names of recorded rerankers \(quick, slow\), got 'fast'",
        ),
        ("retrievers: [[]]", InputError, "at least one in each list"),
        ("rerankers: [[slow, slow]]", InputError, "each stage once"),
        ("retrieve: [101]", InputError, "retrieve: expected at most 100, as recorded, got 101"),
        ("depths: [300]\nrerankers: [[slow]]", InputError, "no cascade fits it"),
        ("fusions: [{method: rff}]\nretrievers: [[words, meaning]]", InputError, "stage 'hybrid': method"),
    ],
)
def test_what_is_wrong_with_a_space_is_said(
    recording: Recording, tmp_path: Path, text: str, error: type[Exception], message: str
) -> None:
    def first_cascade() -> None:
        space = space_of(recording, tmp_path, text)
        space.config(next(space.points()))

    with pytest.raises(error, match=message):
        first_cascade()


def test_a_label_says_what_matters() -> None:
    limits = Limits(50.0, (None, 20.0), "drop", "skip")
    point = Point(First(("bm25", "dense"), 400), ("colbert", "cross"), (100, 20), limits)
    assert point.label() == "bm25+dense 400 > colbert 100 > cross 20 (20 ms), 50 ms skip drop"
    assert Point(First(("bm25",)), (), (), Limits()).label() == "bm25"
