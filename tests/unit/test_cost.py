from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from cascade import cost as costs
from cascade.cores import cores
from cascade.cost import FREE, Cost, CostModel, CostProfile, Rates, Sample, fit, machine
from cascade.errors import InputError
from cascade.stage import Work

RATES = Rates(0.001, 0.0002, 1e-5, 1e-8)
WORKS = [Work(n, n * t, n * t * t) for n in (1.0, 4.0, 16.0) for t in (16.0, 64.0, 256.0)]


def profile(spread: float = 1.3, quantile: float = 0.9, deviation: float = 0.1) -> CostProfile:
    return CostProfile(quantile, machine(), {"ce/score": Cost(RATES, spread, 50, deviation, 0.01)})


def test_a_fit_finds_the_rates_that_made_the_samples():
    fitted = fit([Sample(work, RATES.seconds(work)) for work in WORKS], 0.9)
    assert fitted.rates == pytest.approx(RATES, rel=1e-6)
    assert fitted.spread == pytest.approx(1.0)
    assert fitted.samples == len(WORKS)


def test_no_rate_is_negative_even_where_least_squares_would_make_it_so():
    rng = np.random.default_rng(0)
    samples = [Sample(work, 0.01 * float(rng.uniform(0.5, 2.0))) for work in WORKS]
    assert min(fit(samples, 0.9).rates) >= 0


def test_the_spread_covers_the_stated_share_of_new_tasks():
    rng = np.random.default_rng(1)
    made = [Sample(work, RATES.seconds(work) * float(rng.lognormal(0, 0.3))) for work in WORKS * 60]
    fitted = fit(made[::2], 0.9)
    within = [sample.seconds <= fitted.rates.seconds(sample.work) * fitted.spread for sample in made[1::2]]
    assert 0.84 < float(np.mean(within)) < 0.96


def test_a_fit_refuses_what_cannot_have_been_measured():
    with pytest.raises(ValueError, match="no samples"):
        fit([], 0.9)
    for seconds in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="positive and finite"):
            fit([Sample(WORKS[0], seconds)], 0.9)


def test_a_profile_is_saved_and_loaded_whole(tmp_path):
    profile().save(tmp_path / "costs.json")
    assert CostProfile.load(tmp_path / "costs.json") == profile()
    assert [path.name for path in tmp_path.iterdir()] == ["costs.json"]


def test_newer_costs_join_those_of_other_stages_and_replace_their_own():
    one, other = Cost(RATES, 1.1, 1), Cost(RATES, 1.2, 2)
    old = CostProfile(0.9, machine(), {"ce/score": one, "bm25/search": one})
    new = CostProfile(0.9, machine(), {"ce/score": other}, "warm-up")
    both = old.updated(new)
    assert both.costs == {"ce/score": other, "bm25/search": one}
    assert both.source == "calibrated + warm-up"
    assert both.updated(new).source == both.source
    for apart in (dataclasses.replace(new, quantile=0.8), dataclasses.replace(new, machine="a supercomputer")):
        assert old.updated(apart) == apart


def test_a_profile_of_another_machine_is_refused(tmp_path):
    elsewhere = dataclasses.replace(profile(), machine="a supercomputer")
    elsewhere.save(tmp_path / "costs.json")
    with pytest.raises(InputError, match=r"measured on 'a supercomputer', this is .*cascade calibrate"):
        CostProfile.load(tmp_path / "costs.json")


@pytest.mark.parametrize(
    "change",
    [
        {"version": 99},
        {"quantile": 1.5},
        {"costs": []},
        {"costs": {"ce/score": {"fixed_s": -1}}},
        {"costs": {"ce/score": {**RATES._asdict(), "spread": 0.5, "samples": 1, "deviation": 0, "typical_s": 0}}},
        {"costs": {"ce/score": {**RATES._asdict(), "spread": "x", "samples": 1, "deviation": 0, "typical_s": 0}}},
    ],
)
def test_a_damaged_profile_is_an_input_error_that_names_the_file(tmp_path, change):
    path = tmp_path / "costs.json"
    profile().save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InputError, match=r"costs\.json"):
        CostProfile.load(path)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "\x00"])
def test_what_is_no_profile_is_an_input_error(tmp_path, text):
    path = tmp_path / "costs.json"
    path.write_text(text)
    with pytest.raises(InputError, match="expected a cost profile"):
        CostProfile.load(path)


def test_predictions_carry_the_spread():
    model = CostModel(profile())
    assert model.rates("ce/score").seconds(WORKS[0]) == pytest.approx(1.3 * RATES.seconds(WORKS[0]))
    assert model.rates("unheard of") == FREE
    assert model.typical_s("ce/score") == 0.01


def ratio(model: CostModel, work: Work = WORKS[4]) -> float:
    return model.rates("ce/score").seconds(work) / RATES.seconds(work)


def observe(model: CostModel, factor: float, times: int, sigma: float = 0.0, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    for i in range(times):
        work = WORKS[i % len(WORKS)]
        model.observe("ce/score", work, RATES.seconds(work) * factor * float(rng.lognormal(0, sigma)))


def test_a_machine_ten_times_slower_is_followed_within_ten_tasks_and_forgotten_again():
    model = CostModel(profile())
    observe(model, 1.0, 50, sigma=0.1)
    assert 1.0 < ratio(model) < 1.6
    observe(model, 10.0, 10, sigma=0.1)
    assert 10.0 < ratio(model) < 40.0
    observe(model, 1.0, 60, sigma=0.1)
    assert 1.0 < ratio(model) < 2.0


def test_one_pause_does_not_scare_the_scheduler_off():
    model = CostModel(profile())
    observe(model, 1.0, 50, sigma=0.1)
    before = ratio(model)
    observe(model, 1000.0, 1)
    assert ratio(model) < 2 * before


@pytest.mark.parametrize("quantile", [0.8, 0.95, 0.99])
@pytest.mark.parametrize("sigma", [0.05, 0.5])
def test_online_predictions_hold_for_the_stated_share_of_tasks(quantile, sigma):
    model = CostModel(profile(quantile=quantile))
    rng = np.random.default_rng(2)
    held = []
    for i in range(4000):
        work = WORKS[i % len(WORKS)]
        seconds = RATES.seconds(work) * float(rng.lognormal(0.5, sigma))
        held.append(seconds <= model.rates("ce/score").seconds(work))
        model.observe("ce/score", work, seconds)
    assert float(np.mean(held[500:])) == pytest.approx(quantile, abs=0.02)


def test_a_first_task_makes_a_guess_that_later_ones_correct():
    model = CostModel.unknown()
    assert model.profile.source == "none"
    assert not model.knows("new/score")
    model.observe("new/score", WORKS[4], 5.0)  # it compiled something
    assert model.rates("new/score").seconds(WORKS[4]) > 5.0
    for _ in range(100):
        model.observe("new/score", WORKS[4], 0.01)
    assert model.rates("new/score").seconds(WORKS[4]) == pytest.approx(0.01, rel=0.5)


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_observations_change_nothing(seconds):
    model = CostModel(profile())
    model.observe("ce/score", WORKS[0], seconds)
    model.observe("ce/score", Work(), 1.0)
    assert ratio(model) < 10
    assert not CostModel.unknown().knows("ce/score")


def test_a_prediction_that_lets_nothing_start_relaxes_soon_to_what_was_fitted_and_slowly_beyond():
    model = CostModel(profile())
    observe(model, 100.0, 100)
    assert ratio(model) > 50
    before = ratio(model)
    for _ in range(costs._PATIENCE):
        model.relax("ce/score")
    assert ratio(model) == before
    for _ in range(40):
        model.relax("ce/score")
    assert 0.6 <= ratio(model) <= 1.0
    for _ in range(200):
        model.relax("ce/score")
    assert ratio(model) < 0.3
    model.relax("unheard of")


def test_a_prediction_is_not_doubted_while_it_is_being_tested():
    model = CostModel(profile(spread=2.0))
    for _ in range(200):
        model.observe("ce/score", WORKS[4], RATES.seconds(WORKS[4]))
        before = ratio(model)
        for _ in range(costs._PATIENCE):
            model.relax("ce/score")
        assert ratio(model) == before


def test_a_guess_relaxes_until_something_is_tried():
    model = CostModel.unknown()
    model.observe("new/score", WORKS[4], 5.0)
    for _ in range(100):
        model.relax("new/score")
    assert model.rates("new/score").seconds(WORKS[4]) < 0.01


def test_a_model_settles_to_what_it_is_on_average_while_it_follows_tasks():
    """Twice as slow as it was measured to be, and far steadier than its spread says; the last task does not decide."""
    profile = CostProfile(0.99, machine(), {"k": Cost(Rates(0.001), spread=3.0, samples=100, deviation=0.4)})
    rng = np.random.default_rng(0)
    noisy = 0.002 * np.exp(rng.normal(0, 0.05, 400))
    settled = CostModel(profile)
    settled.settle({"k": [Sample(Work(1.0), float(seconds)) for seconds in (*noisy, 0.008)], "unknown": []})
    assert 0.0021 < settled.rates("k").fixed_s < 0.0026
    assert not settled.knows("unknown")
    followed = CostModel(profile)
    followed.observe("k", Work(1.0), 0.008)
    assert followed.rates("k").fixed_s > settled.rates("k").fixed_s


def test_replacing_the_profile_forgets_what_was_learnt():
    model = CostModel(profile())
    observe(model, 100.0, 50)
    model.replace(profile(spread=2.0))
    assert ratio(model) == pytest.approx(2.0)
    assert model.profile.costs["ce/score"].spread == 2.0


def test_the_fingerprint_of_a_machine_is_stable_and_counts_its_cores():
    assert machine() == machine()
    assert machine().endswith(f", {cores()} cores")
    assert costs.PROFILE_VERSION == 2
