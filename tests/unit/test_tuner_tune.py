"""Tuning over a recording of made-up stages: studies, journals, load, and what is written of it."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from cascade.cli.tune import to_verify
from cascade.errors import InputError
from cascade.load import parse_config
from cascade.tuner import (
    Effort,
    Goal,
    Judgments,
    Load,
    Recording,
    Replayer,
    SearchSpace,
    SpaceSettings,
    Tuned,
    Verified,
    replay,
    tune,
)
from cascade.tuner.page import page
from cascade.tuner.plot import png
from cascade.tuner.report import summary, to_json, to_yaml, tuned_yaml
from cascade.tuner.tuning import TRIALS, budgets_ms
from cascade.types import Qrel
from tests.tuner_for_tests import CASCADE, Machine, config_of, judgments, recorded

MACHINE = Machine()
REGISTRY = MACHINE.registry()
GOAL = Goal(40.0, percentile=80, confidence=0.9)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return recorded(tmp_path_factory.mktemp("tune"), MACHINE, queries=24)


@pytest.fixture(scope="module")
def tuned(recording: Recording) -> Tuned:
    return tuned_for(recording, GOAL)


def tuned_for(recording: Recording, goal: Goal, **options: object) -> Tuned:
    space = SearchSpace.of(recording, budgets_ms=[goal.budget_ms], registry=REGISTRY)
    return tune(recording, judgments(recording), goal, space=space, **options)  # type: ignore[arg-type]


def test_the_chosen_cascade_is_the_best_that_meets_the_budget(tuned: Tuned) -> None:
    answers = tuned.tuning.tuning
    latency, quality = tuned.tuning.latency(answers), tuned.tuning.quality(answers)
    assert tuned.chosen.latency_ms <= 40
    assert tuned.chosen.quality == quality[latency <= 40].max()
    assert len(tuned.tuning.trials) == 3 * 15 * 2


def test_the_chosen_cascade_replays_to_what_was_reported_of_it(recording: Recording, tuned: Tuned) -> None:
    judged = Judgments.of(judgments(recording), recording)
    evaluation = Replayer(recording, judged, registry=REGISTRY).run(tuned.config)
    assert evaluation.mean("nDCG@10") == pytest.approx(tuned.chosen.quality)
    assert evaluation.latency_ms(80) == pytest.approx(tuned.chosen.latency_ms)


def test_the_file_is_a_cascade_that_says_what_was_expected_of_it(tuned: Tuned, tmp_path: Path) -> None:
    text = tuned_yaml(tuned, tmp_path, REGISTRY)
    assert [entry.settings for entry in parse_config(text, registry=REGISTRY).stages] == [
        entry.settings for entry in tuned.config.stages
    ]
    assert "# Chosen by 'cascade tune' for 40 ms at p80, one query at a time, out of 90 cascades:" in text
    assert f"nDCG@10 {tuned.chosen.validated:.3f}" in text


def test_the_summary_says_what_budgets_buy_and_what_each_stage_is_worth(tuned: Tuned) -> None:
    text = "\n".join(summary(tuned))
    for budget_ms in (25, 40, 50, 100, 200):
        assert re.search(rf"^ +{budget_ms} ms  ", text, re.MULTILINE)
    for stage in ("words", "meaning", "quick", "slow"):
        assert re.search(rf"^  {stage}: (keep it|drop it|consider it|not needed|undecided)", text, re.MULTILINE)
    assert "5-fold cross-validation over 24 queries" in text


def test_a_choice_that_does_not_keep_the_budget_comes_with_a_warning(tuned: Tuned, tmp_path: Path) -> None:
    limited = replace(tuned.config, settings=tuned.config.settings.model_copy(update={"budget_ms": 40.0}))
    free = replace(tuned.config, settings=tuned.config.settings.model_copy(update={"budget_ms": None}))
    for config, ms, late, endless in (
        (limited, 39.0, False, False),
        (limited, 41.5, True, False),
        (free, 39.0, False, True),
    ):
        other = replace(tuned, config=config, chosen=replace(tuned.chosen, validated_ms=ms))
        for text in ("\n".join(summary(other)), tuned_yaml(other, tmp_path, REGISTRY)):
            assert ("its p80 is 41.5 ms, above 40 ms" in text) == late
            assert ("Warning: it has no budget_ms" in text) == endless


def test_a_choice_with_a_listwise_stage_is_marked_as_approximate(tuned: Tuned, tmp_path: Path) -> None:
    text = CASCADE + "  - {name: list, kind: made_up_listwise, seed: 9, top_k: 5}\n"
    other = replace(tuned, config=parse_config(text, registry=REGISTRY))
    for written in ("\n".join(summary(other)), tuned_yaml(other, tmp_path, REGISTRY)):
        assert "Approximate: list scored each candidate in the window in which it was recorded" in written
    assert "Approximate" not in "\n".join(summary(tuned))


def test_a_stage_that_all_or_none_have_is_not_passed_over(recording: Recording) -> None:
    settings = SpaceSettings(retrievers=[["words"]], rerankers=[[], ["quick"]], budgets_ms=[None])
    space = SearchSpace.of(recording, settings, registry=REGISTRY)
    found = tune(recording, judgments(recording), GOAL, space=space)
    assert "  words: always there: every cascade that meets 40 ms has it" in summary(found)
    assert "  slow: does not fit: no cascade that meets 40 ms has it" in summary(found)
    assert [worth["stage"] for worth in to_json(found)["worth"]] == ["words", "meaning", "quick", "slow"]


def test_the_page_needs_nothing_and_names_every_point(tuned: Tuned) -> None:
    report = to_json(tuned)
    text = page(report, ["<b>not markup</b>"])
    assert not re.search(r"(src|href)\s*=|https?://|@import|url\(", text)
    assert "&lt;b&gt;not markup" in text

    class Circles(HTMLParser):
        numbers: tuple[int, ...] = ()

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            if tag == "circle":
                self.numbers += (int(dict(attrs)["data-i"] or -1),)

    circles = Circles()
    circles.feed(text)
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text)
    assert found is not None
    names = json.loads(found[1])
    assert circles.numbers == tuple(range(len(names)))
    assert len(names) == len(report["tried"]) + len(report["points"])


def test_a_choice_off_the_front_is_shown_and_verified_beside_it(tuned: Tuned) -> None:
    latency = tuned.tuning.latency(tuned.tuning.tuning)
    on_front = {point.details["trial"] for point in tuned.front}
    number = next(i for i in range(len(latency)) if i not in on_front and latency[i] <= 40)
    off = replace(tuned.chosen, label="kept", latency_ms=float(latency[number]), quality=0.1, details={"trial": number})
    other = replace(tuned, chosen=off)
    report = to_json(other)
    assert page(report, []).count('class="chosen"') == page(to_json(tuned), []).count('class="chosen"') == 2
    assert len(re.findall("<circle", page(report, []))) == len(report["tried"]) + len(report["points"]) + 1
    assert f"did better by {tuned.chosen.quality - 0.1:.3f} where both were tried" in "\n".join(summary(other))
    assert "did better by" not in "\n".join(summary(tuned))
    points = to_verify(other)
    assert off in points
    assert [point.latency_ms for point in points] == sorted(point.latency_ms for point in points)
    assert len(points) == min(10, len(tuned.front) + 1)
    assert tuned.front.points[-1] in points
    assert len(to_verify(tuned)) == min(10, len(tuned.front))


def test_the_report_is_json_and_the_picture_a_png(tuned: Tuned) -> None:
    pytest.importorskip("matplotlib")
    report = json.loads(json.dumps(to_json(tuned), allow_nan=False))
    assert report["hypervolume"]["value"] > 0
    assert png(report).startswith(b"\x89PNG")


def test_a_missing_package_says_what_to_install(
    tuned: Tuned, recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("matplotlib", "matplotlib.figure", "matplotlib.backends.backend_agg", "optuna", "pandas"):
        monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(InputError, match=r"matplotlib; run `pip install 'cascade-ranking\[tune\]'`"):
        png(to_json(tuned))
    with pytest.raises(InputError, match=r"pandas; run `pip install 'cascade-ranking\[frames\]'`"):
        tuned.front.to_frame()
    with pytest.raises(InputError, match=r"optuna; run `pip install 'cascade-ranking\[tune\]'`"):
        tuned_for(recording, GOAL, effort=Effort(trials=10))


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_an_optimiser_finds_a_good_cascade_with_a_part_of_the_trials(
    recording: Recording, tuned: Tuned, sampler: str
) -> None:
    pytest.importorskip("optuna")
    found = tuned_for(recording, GOAL, effort=Effort(trials=45, sampler=sampler))  # type: ignore[arg-type]
    assert len({trial.point.key for trial in found.tuning.trials}) == 45
    slowest = max(point.latency_ms for point in tuned.front)
    assert found.front.hypervolume(slowest) > 0.9 * tuned.front.hypervolume(slowest)


class Interrupted(Exception):
    """Stands for the user's Ctrl-C."""


@pytest.mark.parametrize("trials", [1000, 40], ids=["exhaustive", "optimised"])
def test_an_interrupted_study_goes_on_from_its_journal(recording: Recording, tmp_path: Path, trials: int) -> None:
    effort = Effort(trials=trials, journal=tmp_path / "study.jsonl")

    def stop(done: int, total: int) -> None:
        if done >= 20:
            raise Interrupted

    with pytest.raises(Interrupted):
        tuned_for(recording, GOAL, effort=effort, progress=stop)
    assert effort.journal is not None
    with effort.journal.open("a") as file:
        file.write('{"point": "cut off in the mid')
    told: list[int] = []
    resumed = tuned_for(recording, GOAL, effort=effort, progress=lambda done, total: told.append(done))
    assert told[0] >= 16
    anew = tuned_for(recording, GOAL, effort=Effort(trials=trials))
    assert to_json(resumed) == to_json(anew)


def test_a_journal_of_other_judgments_is_refused(recording: Recording, tmp_path: Path) -> None:
    effort = Effort(journal=tmp_path / "study.jsonl")
    space = SearchSpace.of(recording, SpaceSettings(rerankers=[[]], budgets_ms=[None]), registry=REGISTRY)
    tune(recording, judgments(recording), GOAL, space=space, effort=effort)
    tune(recording, judgments(recording), Goal(50.0, 80, confidence=0.9), space=space, effort=effort)
    with pytest.raises(InputError, match="other judgments"):
        tune(recording, judgments(recording)[1:], GOAL, space=space, effort=effort)


def test_a_journal_of_another_version_or_with_a_broken_line_is_refused(
    recording: Recording, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "study.jsonl"
    space = SearchSpace.of(recording, SpaceSettings(rerankers=[[]], budgets_ms=[None]), registry=REGISTRY)
    tune(recording, judgments(recording), GOAL, space=space, effort=Effort(journal=path))
    whole = path.read_text()
    for broken in (
        '{"point": "cut off in the mid',
        '{"point": "x"}',
        "7",
        '{"point": "x", "quality": ["a"], "seconds": []}',
    ):
        path.write_text(whole + broken + "\n" + whole.splitlines()[-1] + "\n")
        number = len(whole.splitlines()) + 1
        with pytest.raises(InputError, match=rf"study.jsonl:{number}: the journal is damaged: .*; remove that line"):
            tune(recording, judgments(recording), GOAL, space=space, effort=Effort(journal=path))
    path.write_text(whole)
    monkeypatch.setattr("cascade.tuner.study.cascade_version", lambda: "99.0")
    with pytest.raises(InputError, match="another recording or version"):
        tune(recording, judgments(recording), GOAL, space=space, effort=Effort(journal=path))


def test_a_budget_that_nothing_meets_says_what_would(recording: Recording) -> None:
    with pytest.raises(InputError, match=r"no cascade meets 0.5 ms at p80; the fastest, .* takes [0-9.]+ ms; raise"):
        tuned_for(recording, Goal(0.5, 80, confidence=0.9))


def test_judgments_that_nothing_found_leave_an_empty_front(recording: Recording) -> None:
    qrels = [Qrel(query.query_id, "d-nowhere", 1) for query in recording.queries]
    space = SearchSpace.of(recording, SpaceSettings(rerankers=[[]]), registry=REGISTRY)
    with pytest.raises(InputError, match="the Pareto front is empty"):
        tune(recording, qrels, GOAL, space=space)


def test_too_few_queries_for_the_confidence_are_said(recording: Recording) -> None:
    with pytest.raises(InputError, match="p95 at 95% confidence needs at least 59 judged queries, got 24"):
        tuned_for(recording, Goal(40.0))


def test_under_load_queries_wait_and_are_refused(recording: Recording) -> None:
    text = CASCADE.replace("name: made-up\n", "name: made-up\nbudget_ms: 100\noverload: refuse\n")
    config = config_of(text, MACHINE)
    replayer = Replayer(recording, Judgments.of(judgments(recording), recording), registry=REGISTRY)
    alone, calm, busy = replayer.run(config), *(replayer.run(config, Load(rate)) for rate in (0.5, 2000.0))
    assert not calm.refused.any()
    assert calm.mean("nDCG@10") == pytest.approx(alone.mean("nDCG@10"), abs=0.05)
    assert busy.refused.mean() > 0.5
    assert np.isinf(busy.latency_ms(99))
    assert busy.mean("nDCG@10") < 0.5 * calm.mean("nDCG@10")
    assert (busy.seconds[~busy.refused] <= 0.1).all()


def test_a_replay_is_a_table_and_a_record(recording: Recording) -> None:
    pytest.importorskip("pandas")
    space = SearchSpace.of(recording, registry=REGISTRY)
    config = space.config(next(space.points()))
    evaluation = Replayer(recording, Judgments.of(judgments(recording), recording), registry=REGISTRY).run(config)
    assert list(evaluation.to_frame()["query_id"]) == [query.query_id for query in recording.queries]
    low, high = evaluation.interval("nDCG@10")
    assert low < evaluation.mean("nDCG@10") < high
    low_ms, high_ms = evaluation.latency_interval_ms(50)
    assert high_ms is not None
    assert low_ms <= evaluation.latency_ms(50) <= high_ms
    assert json.loads(json.dumps(evaluation.to_json()))["answers"] == 24
    without = replay(recording, config)
    with pytest.raises(InputError, match="was not computed"):
        without.mean("nDCG@10")


def test_judgments_of_other_queries_are_left_out_when_asked(recording: Recording) -> None:
    config = config_of(CASCADE, MACHINE)
    qrels = judgments(recording)
    more = [*qrels, Qrel("unknown", "d1", 1)]
    with pytest.raises(InputError, match="partial=True in Python"):
        replay(recording, config, more)
    alone, partly = replay(recording, config, qrels), replay(recording, config, more, partial=True)
    assert partly.mean("nDCG@10") == alone.mean("nDCG@10")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (("seed: 4", "seed: 5"), "no recorded stage has its settings; recorded are words"),
        (("top_k: 80", "top_k: 101"), "top_k: expected at most 100 documents, the recorded depth, got 101"),
        (("version: 1", "version: 1\npassages: {max_tokens: 64}"), "passages.max_tokens: expected None, as recorded"),
    ],
)
def test_what_was_not_recorded_cannot_be_replayed(recording: Recording, changed: tuple[str, str], message: str) -> None:
    config = config_of(CASCADE.replace(*changed), MACHINE)
    with pytest.raises(InputError, match=re.escape(message)):
        replay(recording, config)


def test_a_given_cascade_is_tried_whether_or_not_the_space_has_it(recording: Recording, tmp_path: Path) -> None:
    """Its stages have names of their own and limits that no point of the space has."""
    text = CASCADE.replace("name: made-up", "name: by-hand\nbudget_ms: 900").replace("name: slow", "name: reader")
    config = config_of(text.replace("top_k: 40}", "top_k: 33, budget_ms: 300}"), MACHINE)
    space = SearchSpace.of(recording, SpaceSettings(retrievers=[["words"]], rerankers=[[]]), registry=REGISTRY)
    effort = Effort(journal=tmp_path / "study.jsonl")
    found = tune(recording, judgments(recording), GOAL, space=space, effort=effort, seeds=[config, config])
    assert len(found.tuning.trials) == space.size + 1
    trial = found.tuning.trials[-1]
    assert trial.point.label() == "by-hand: words+meaning 80 > quick 60 (300 ms) > slow 33, 900 ms"
    judged = Judgments.of(judgments(recording), recording)
    evaluation = Replayer(recording, judged, registry=REGISTRY).run(config)
    np.testing.assert_array_equal(trial.seconds, evaluation.seconds)
    best = next(point for point in found.front if point.details["trial"] == len(found.tuning.trials) - 1)
    assert best.details["point"]["given"] == "by-hand"
    assert to_yaml(found.config_of(best, "by-hand"), []) == to_yaml(config, [])
    again = tune(recording, judgments(recording), GOAL, space=space, effort=effort, seeds=[config])
    assert to_json(again) == to_json(found)
    with pytest.raises(InputError, match="no recorded stage has its settings"):
        tune(
            recording, judgments(recording), GOAL, space=space, seeds=[config_of(text.replace("d: 4", "d: 5"), MACHINE)]
        )


def test_the_recorded_cascade_is_one_to_try(recording: Recording) -> None:
    space = SearchSpace.of(recording, registry=REGISTRY)
    recorded_one, config = space.recorded(), config_of(CASCADE, MACHINE)
    assert to_yaml(recorded_one, []) == to_yaml(config, [])
    assert space.seed(recorded_one).label() == "made-up: words+meaning 80 > quick 60 > slow 40"


def test_an_optimiser_does_not_see_the_queries_that_are_reported_on(
    recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna")
    monkeypatch.setattr("cascade.tuner.choice.ENOUGH", 10)
    seen: list[int] = []

    def objectives(quality: np.ndarray, seconds: np.ndarray, percentile: float) -> tuple[float, float]:
        seen.extend((len(quality), len(seconds)))
        return float(np.nanmean(quality)), float(seconds.max())

    monkeypatch.setattr("cascade.tuner.study._objectives", objectives)
    found = tuned_for(recording, GOAL, effort=Effort(trials=40))
    assert {*seen} == {int(found.tuning.folds[0].tuning.sum())} == {12}


def test_what_each_answer_is_to_is_known_before_any_is_given(recording: Recording) -> None:
    space = SearchSpace.of(recording, registry=REGISTRY)
    replayer, config = Replayer(recording, registry=REGISTRY), space.config(next(space.points()))
    for load in (None, Load(20.0)):
        np.testing.assert_array_equal(replayer.run(config, load).query, replayer.answered(load))


def test_what_a_budget_buys_is_looked_for_among_cascades_limited_to_it(
    recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cascade.tuner.space.Registry", lambda: REGISTRY)
    found = tune(recording, judgments(recording), GOAL)
    tried = {trial.point.limits.budget_ms for trial in found.tuning.trials}
    assert tried == {None, 25.0, 40.0, 50.0, 100.0, 200.0}


@pytest.mark.parametrize("depth", [200, 400, 1000])
def test_four_stages_are_few_enough_to_try_every_cascade_of(tmp_path: Path, depth: int) -> None:
    """As many as the README's cascade has, recorded as deeply as it retrieves or more."""
    deep = recorded(tmp_path, Machine(), queries=1, depth=depth, passages=1500)
    assert SearchSpace.of(deep, budgets_ms=budgets_ms(500.0), registry=REGISTRY).size <= TRIALS


def test_queries_that_halving_would_make_too_few_take_turns(
    recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cascade.tuner.choice.ENOUGH", 20)
    space = SearchSpace.of(recording, SpaceSettings(rerankers=[[]], budgets_ms=[None]), registry=REGISTRY)
    for percentile, folds in ((80, 1), (85, 5)):  # 11 and 15 of 24 queries are needed
        found = tune(recording, judgments(recording), Goal(40.0, percentile, confidence=0.9), space=space)
        assert len(found.tuning.folds) == folds


def test_a_cascade_that_refuses_too_much_is_verified_without_a_time() -> None:
    refusing = Verified("refuses", math.inf, 20.0, 0.3, 0.3, 1.0).to_json()
    assert refusing == {
        "label": "refuses",
        "predicted_ms": None,
        "measured_ms": 20.0,
        "predicted": 0.3,
        "measured": 0.3,
        "pace": 1.0,
        "latency_error": -1.0,
        "holds": False,
    }
    assert Verified("fine", 20.0, 21.0, 0.3, 0.3, 1.0).to_json()["holds"] is True
