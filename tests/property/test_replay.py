"""Replay equals the engine: the same rankings, the same seconds, for any cascade over recorded stages."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cascade.clock import Deadline
from cascade.engine import QueryRun
from cascade.ranking import best_passages
from cascade.tasks import Outcome
from cascade.tuner import Recording, Replayer
from cascade.tuner.replayer import Turn
from cascade.tuner.stages import SteadyCosts, Timing
from tests.tuner_for_tests import CASCADE, Machine, config_of, opened, recorded

PASSAGES, DEPTH = 500, 100
WORDS = {"name": "words", "kind": "made_up_retriever", "seed": 1, "ranges": 3, "reader": "shared"}
MEANING = {"name": "meaning", "kind": "made_up_retriever", "seed": 2, "reader": "shared"}
QUICK = {"name": "quick", "kind": "made_up_reranker", "seed": 3, "token_us": 4.0, "ties": True, "reader": "shared"}
SLOW = {"name": "slow", "kind": "made_up_reranker", "seed": 4, "token_us": 40.0}

settings.register_profile("replay", deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
several = settings(settings.get_profile("replay"), max_examples=100)


class Recorded:
    """A recording, and what it was made of."""

    def __init__(self, folder: Path, per_document: int) -> None:
        self.per_document = per_document
        self.machine = Machine(sigma=0.4)
        self.recording: Recording = recorded(
            folder, self.machine, passages=PASSAGES, depth=DEPTH, per_document=per_document
        )

        self.recording.handling_s = 0.00013  # under a virtual clock the engine itself takes no time
        self.recording.finish_s = 0.0021  # nor does it learn to keep back more than the least
        self._replayers: dict[str, Replayer] = {}

    def replayer(self, timing: Timing = "recorded") -> Replayer:
        """One for all cascades, so that what they share cannot differ between them unnoticed."""
        if timing not in self._replayers:
            self._replayers[timing] = Replayer(self.recording, timing=timing, registry=self.machine.registry())
        return self._replayers[timing]


@pytest.fixture(scope="module", params=[1, 3], ids=["one passage each", "three passages each"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return Recorded(tmp_path_factory.mktemp("recording"), request.param)


@st.composite
def cascades(draw: st.DrawFn, *, limited: bool) -> str:
    """A cascade over the recorded stages: any subset and order, any depths, with or without limits of time."""
    chosen = draw(st.sampled_from([[WORDS], [MEANING], [WORDS, MEANING], [MEANING, WORDS]]))
    chain = draw(st.sampled_from([[], [QUICK], [SLOW], [QUICK, SLOW], [SLOW, QUICK]]))
    top_k = sorted(draw(st.lists(st.integers(1, DEPTH), min_size=len(chain) + 1, max_size=len(chain) + 1)))[::-1]
    cuts = iter(top_k)

    def limit(*choices: float | None) -> dict[str, Any]:
        if not limited:
            return {}
        own = {"budget_ms": draw(st.sampled_from([None, *choices]))}
        return own | {"on_overrun": draw(st.sampled_from([None, "partial", "skip"]))}

    if len(chosen) == 1:
        stages = [{**chosen[0], "top_k": next(cuts), **limit(1.0, 2.0, 10.0)}]
    else:
        inner = [
            {**one, "top_k": draw(st.integers(max(1, top_k[0] // 2 + 1), DEPTH)), **limit(1.0, 1.7, 10.0)}
            for one in chosen
        ]
        fusion = draw(st.sampled_from([{"method": "rrf"}, {"method": "weighted"}, {"method": "rrf", "rrf_k": 5.0}]))
        stages = [{"name": "hybrid", "kind": "fusion", "top_k": next(cuts), **fusion, "retrievers": inner}]
    before = [stage["name"] for stage in (*stages[0].get("retrievers", ()), stages[0])]
    for one, top in zip(chain, cuts, strict=True):
        stages.append({**one, "top_k": top, **limit(4.0, 15.0, 40.0, 100.0)})
        if draw(st.booleans()):
            weights = st.dictionaries(st.sampled_from(before), st.sampled_from([0, 0.3, 1]), max_size=3)
            stages[-1]["combine"] = {**draw(weights), one["name"]: draw(st.sampled_from([0.2, 1]))}
        elif draw(st.booleans()):
            stages[-1]["adaptive"] = draw(st.sampled_from([0.01, 0.3, 0.9]))
        before.append(one["name"])
    top = {"version": 1, "name": "drawn", "stages": stages}
    top["quantile"] = draw(st.sampled_from([0.5, 0.9, 0.99]))
    top["passages"] = {"per_document": draw(st.integers(1, 3))}
    if limited:
        own = sum(stage.get("budget_ms") or 0 for outer in stages for stage in (outer, *outer.get("retrievers", ())))
        top["budget_ms"] = draw(
            st.sampled_from([None, *(own + more for more in (0.9, 1.8, 3.0, 4.5, 12.0, 40.0, 100.0))])
        )
        top["slack"] = draw(st.sampled_from(["carry", "drop"]))
        top["on_overrun"] = draw(st.sampled_from(["partial", "skip"]))
    return json.dumps(top)


@several
@given(text=cascades(limited=False))
def test_a_replayed_ranking_is_the_live_one(made: Recorded, text: str) -> None:
    """The live one: the very stages that were recorded, run by the engine at the same depths."""
    config = config_of(text, made.machine)
    live = opened(config, PASSAGES, made.per_document)
    costs = SteadyCosts(made.recording.profile(0.99))
    replayed = made.replayer().rankings(config)
    for query in made.recording.queries[:4]:
        run = QueryRun(live, query, clock=made.machine.clock, deadline=Deadline.never(), costs=costs)
        task = run.start()
        while task is not None:
            began = made.machine.clock.now()
            task = run.advance(Outcome(task.call(), None, began, made.machine.clock.now()))
        order = run.order_after(len(live.stages) - 1)
        best = best_passages(order, live.collection, live.stages[-1].planned.top_k)
        assert replayed[query.query_id] == live.collection.doc_ids(best.rows)


@several
@given(
    text=st.one_of(cascades(limited=False), *[cascades(limited=True)] * 3),
    timing=st.sampled_from(["recorded", "typical"]),
)
def test_the_short_way_gives_what_the_engine_gives(made: Recorded, text: str, timing: Timing) -> None:
    config = config_of(text, made.machine)
    replayer = made.replayer(timing)
    short, whole = replayer.run(config), replayer.by_engine(config)
    np.testing.assert_allclose(short.seconds, whole.seconds, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(short.degraded, whole.degraded)
    for name in short.scored:
        np.testing.assert_array_equal(short.scored[name], whole.scored[name], err_msg=name)
        np.testing.assert_allclose(short.stage_seconds[name], whole.stage_seconds[name], rtol=1e-9, atol=1e-12)
    assert replayer.rankings(config) == replayer.rankings(config, by_engine=True)


def test_served_without_limits_is_the_same_since_beliefs_decide_nothing(made: Recorded) -> None:
    stages = [{**WORDS, "top_k": 80}, {**QUICK, "top_k": 40}, {**SLOW, "top_k": 10}]
    config = config_of(json.dumps({"version": 1, "name": "free", "stages": stages}), made.machine)
    run, turns = made.replayer().run(config), [Turn(query) for query in range(len(made.recording))]
    served = made.replayer().served(config, [*(Turn(query, limited=False) for query in range(3)), *turns])
    served = served.only(np.arange(len(served)) >= 3)
    np.testing.assert_allclose(served.seconds, run.seconds, rtol=1e-9)
    slow = made.replayer().served(config, turns, pace=3.0)
    np.testing.assert_allclose(slow.seconds, 3 * run.seconds, rtol=1e-9)
    some = [len(run.seconds) - 1, 0]
    np.testing.assert_allclose(made.replayer().unlimited_s(config, some), run.seconds[some], rtol=1e-9)
    for name in run.scored:
        np.testing.assert_array_equal(served.scored[name], run.scored[name])


def test_served_learns_that_tasks_are_steadier_than_the_recorded_ones(made: Recorded) -> None:
    stages = [{**WORDS, "top_k": 80}, {**SLOW, "top_k": 10}]
    config = config_of(json.dumps({"version": 1, "name": "tight", "budget_ms": 30, "stages": stages}), made.machine)
    replayer = made.replayer("typical")
    run, once = replayer.run(config), [Turn(query) for query in range(len(made.recording))]
    fresh = replayer.served(config, once)
    later = replayer.served(config, [*(Turn(query, limited=False) for query in range(5)), *once, *once])
    settled = later.only(np.arange(len(later)) >= 5 + len(once))
    assert settled.scored["slow"].mean() > fresh.scored["slow"].mean() > run.scored["slow"].mean()
    assert settled.seconds.max() <= 0.030


def test_the_recorded_cascade_itself_is_replayable(made: Recorded) -> None:
    config = config_of(CASCADE, made.machine)
    assert all(len(ranking) == 10 for ranking in made.replayer().rankings(config).values())


def test_what_was_scored_in_vain_by_a_stage_that_skips_is_forgotten_alike(made: Recorded) -> None:
    partly = 0
    for budget_ms in range(6, 60, 3):
        stages = [{**MEANING, "top_k": 60}, {**QUICK, "top_k": 10, "budget_ms": budget_ms, "on_overrun": "skip"}]
        top = {"version": 1, "name": "skips", "quantile": 0.5, "stages": stages}
        config = config_of(json.dumps(top), made.machine)
        replayer = made.replayer()
        evaluation = replayer.run(config)
        partly += int((evaluation.degraded & (evaluation.scored["quick"] > 0)).sum())
        assert replayer.rankings(config) == replayer.rankings(config, by_engine=True)
    assert partly > 0


def test_a_query_that_ends_in_a_retriever_without_time_has_no_answer(made: Recorded) -> None:
    retrievers = [{**WORDS, "top_k": 30}, {**MEANING, "top_k": 30, "budget_ms": 0.001, "on_overrun": "fail"}]
    fusion = {"name": "hybrid", "kind": "fusion", "top_k": 30, "retrievers": retrievers}
    config = config_of(json.dumps({"version": 1, "name": "fails", "stages": [fusion]}), made.machine)
    assert not any(made.replayer().rankings(config).values())


@pytest.mark.parametrize("budget_ms", [None, 45])
def test_what_is_too_improbable_is_left_out_alike(made: Recorded, budget_ms: int | None) -> None:
    """Also where the time was short, so that some documents keep the score of an earlier stage."""
    retrievers = [{**one, "top_k": 80} for one in (WORDS, MEANING)]
    fusion = {"name": "hybrid", "kind": "fusion", "top_k": 60, "retrievers": retrievers}
    quick = {**QUICK, "top_k": 40, "probability": {"platt": {"a": 2.0, "b": -1.0}}, "min_probability": 0.45}
    slow = {**SLOW, "top_k": 15, "probability": {"platt": {"a": 3.0, "b": -3.0}}, "min_probability": 0.5}
    top = {"version": 1, "name": "probable", "budget_ms": budget_ms, "stages": [fusion, quick, slow]}
    config = config_of(json.dumps(top), made.machine)
    replayed = made.replayer().rankings(config)
    assert replayed == made.replayer().rankings(config, by_engine=True)
    assert 0 < sum(map(len, replayed.values())) < 15 * len(replayed)
    if budget_ms is None:
        live = opened(config, PASSAGES, made.per_document)
        clock, costs = made.machine.clock, SteadyCosts(made.recording.profile(0.99))
        for query in made.recording.queries:
            run = QueryRun(live, query, clock=clock, deadline=Deadline.never(), costs=costs)
            task = run.start()
            while task is not None:
                task = run.advance(Outcome(task.call(), None, clock.now(), clock.now()))
            assert replayed[query.query_id] == [hit.doc_id for hit in run.result()]


def test_stages_that_stop_early_are_replayed_alike(made: Recorded) -> None:
    """Made-up scores follow no curve, so that only a stage that may be unsure stops."""
    stopped = 0
    for budget_ms, on_overrun, top_k in itertools.product((None, 20, 60), ("partial", "skip"), (2, 5)):
        late = {**QUICK, "top_k": top_k, "budget_ms": budget_ms, "on_overrun": on_overrun, "adaptive": 0.01}
        stages = [{**MEANING, "top_k": 100}, late, {**SLOW, "top_k": 2, "adaptive": 0.5}]
        config = config_of(json.dumps({"version": 1, "name": "early", "quantile": 0.5, "stages": stages}), made.machine)
        replayer = made.replayer()
        short, whole = replayer.run(config), replayer.by_engine(config)
        np.testing.assert_array_equal(short.scored["quick"], whole.scored["quick"])
        np.testing.assert_array_equal(short.degraded, whole.degraded)
        np.testing.assert_allclose(short.seconds, whole.seconds, rtol=1e-9)
        assert replayer.rankings(config) == replayer.rankings(config, by_engine=True)
        stopped += int((~short.degraded & (short.scored["quick"] < 100)).sum())
    assert stopped > 0
