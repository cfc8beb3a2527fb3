import io
import json
import random
from collections.abc import Mapping, Sequence

import pytest
from rich.console import Console

from cascade.errors import InputError
from cascade.evaluation import Comparison, System, compare, render_comparison
from cascade.evaluation.measures import evaluate
from cascade.evaluation.runs import StagedRun, StageRun
from cascade.evaluation.significance import bootstrap_interval, holm, paired_t_test, randomisation_test
from cascade.types import Qrel

QUERIES = [f"q{i}" for i in range(20)]
QRELS = [Qrel(query_id, "good", 1) for query_id in QUERIES]
FIRST, SECOND, NEVER = ["good", "x", "y"], ["x", "good", "y"], ["x", "y"]


def ranking(better: int, order: Sequence[str], otherwise: Sequence[str]) -> dict[str, Sequence[str]]:
    """``order`` for the first ``better`` queries."""
    return {query_id: order if i < better else otherwise for i, query_id in enumerate(QUERIES)}


PLAIN = System("plain", ranking(20, SECOND, SECOND))
BETTER = System("better", ranking(15, FIRST, SECOND))
MIXED = System("mixed", ranking(9, FIRST, NEVER))


def text_of(comparison: Comparison) -> str:
    console = Console(file=io.StringIO(), width=80, color_system=None)
    console.print(render_comparison(comparison))
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_every_two_are_compared_by_every_measure() -> None:
    comparison = compare([PLAIN, BETTER, MIXED], QRELS, ["nDCG@10", "P@1"])
    assert [(pair.before, pair.after) for pair in comparison.pairs] == [
        ("plain", "better"),
        ("plain", "mixed"),
        ("better", "mixed"),
    ]
    assert [[change.measure for change in pair.changes] for pair in comparison.pairs] == [["nDCG@10", "P@1"]] * 3
    assert comparison.test_count == 6
    change = comparison.pairs[0].changes[1]
    assert (change.before, change.after, change.difference) == pytest.approx((0.0, 0.75, 0.75))
    assert (change.wins, change.losses, change.ties) == (15, 0, 5)
    assert comparison.pairs[2].changes[1].difference == pytest.approx(9 / 20 - 15 / 20)


def test_figures_are_those_of_the_tests_corrected_over_pairs_and_measures() -> None:
    systems, measures = [PLAIN, BETTER, MIXED], ["nDCG@10", "P@1"]
    comparison = compare(systems, QRELS, measures, seed=3)
    values = [evaluate(system.ranked, QRELS, measures).by_query for system in systems]
    t_tests, randomisations = [], []
    for i, j in ((0, 1), (0, 2), (1, 2)):
        for measure in measures:
            old, new = (list(values[k][measure].values()) for k in (i, j))
            t_tests.append(paired_t_test(old, new).p_value)
            randomisations.append(randomisation_test(old, new, seed=3))
    changes = [change for pair in comparison.pairs for change in pair.changes]
    assert [change.t_test.p_value for change in changes] == pytest.approx(t_tests)
    assert [change.t_test.p_adjusted for change in changes] == pytest.approx(holm(t_tests))
    assert [change.randomisation.p_value for change in changes] == pytest.approx(randomisations)
    assert [change.randomisation.p_adjusted for change in changes] == pytest.approx(holm(randomisations))
    last = changes[-1]
    differences = [values[2]["P@1"][q] - values[1]["P@1"][q] for q in QUERIES]
    assert (last.low, last.high) == pytest.approx(bootstrap_interval(differences, seed=3))


def test_worst_losses_come_first_with_their_text() -> None:
    comparison = compare([BETTER, MIXED], QRELS, texts={"q9": "what is\n\x1b[31m good?"}, worst=7)
    worst = comparison.pairs[0].worst
    assert [loss.query_id for loss in worst] == ["q9", "q10", "q11", "q12", "q13", "q14", "q15"]
    assert [loss.before - loss.after for loss in worst[:6]] == [1.0] * 6
    assert worst[6].before - worst[6].after == pytest.approx(0.6309, abs=1e-4)
    text = text_of(comparison)
    assert "what is [31m good?" in text
    assert "\x1b" not in text
    assert compare([BETTER, MIXED], QRELS, worst=0).pairs[0].worst == ()


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        (PLAIN, BETTER, "better is better than plain: nDCG@10 +0.277 (0.631 to 0.908, p = 0.0004)."),
        (BETTER, PLAIN, "plain is worse than better: nDCG@10 -0.277 (0.908 to 0.631, p = 0.0004)."),
        (PLAIN, MIXED, "mixed over plain: nDCG@10 -0.181 (0.631 to 0.450, p = 0.26) may be chance."),
        (PLAIN, System("twin", PLAIN.ranked), "twin equals plain: nDCG@10 is the same for every query."),
    ],
)
def test_sentence_says_who_is_better(before: System, after: System, sentence: str) -> None:
    assert compare([before, after], QRELS).pairs[0].sentence == sentence


def test_random_noise_is_seldom_a_finding() -> None:
    generator = random.Random(7)

    def noise() -> Mapping[str, Sequence[str]]:
        return {query_id: generator.sample(FIRST, 3) for query_id in QUERIES}

    systems = [System(f"noise-{i}", noise()) for i in range(5)]
    sentences = [pair.sentence for pair in compare(systems, QRELS).pairs]
    assert len(sentences) == 10
    assert all(sentence.endswith("may be chance.") for sentence in sentences)


def test_judged_queries_without_results_count_as_zero_and_are_told() -> None:
    part = System("part", dict.fromkeys(QUERIES[:10], FIRST))
    comparison = compare([PLAIN, part], QRELS)
    assert comparison.systems[1].missing == 10
    assert comparison.systems[1].means["RR@10"] == pytest.approx(0.5)
    assert "part: 10 judged queries have no results, which counts as zero." in text_of(comparison)


def test_cascades_bring_their_latency() -> None:
    seconds = {query_id: 0.001 * (i + 1) for i, query_id in enumerate(QUERIES)}
    run = StagedRun(
        (StageRun("bm25", PLAIN.ranked, PLAIN.ranked, seconds, dict.fromkeys(QUERIES, 3)),), seconds, budget_s=0.015
    )
    comparison = compare([System.of("live", run), BETTER], QRELS)
    latency = comparison.systems[0].latency_ms
    assert latency is not None
    assert (latency.p50, latency.p95, latency.p99) == pytest.approx((10.0, 19.0, 20.0))
    assert comparison.systems[0].over_budget == pytest.approx(0.25)
    assert comparison.systems[1].latency_ms is None
    assert "share batches" not in text_of(comparison)
    unlimited = compare([System("live", PLAIN.ranked, seconds), BETTER], QRELS)
    assert unlimited.systems[0].over_budget is None
    assert "Without a budget queries may share batches" in text_of(unlimited)
    assert "live 10.00 19.00 20.00 25.0%" in " ".join(text_of(comparison).split())


def test_too_few_queries_are_said_to_be_too_few() -> None:
    few = compare([PLAIN, BETTER], QRELS[:5])
    assert few.smallest_p == pytest.approx(4 * 2 / 2**5)
    assert few.pairs[0].changes[0].randomisation.p_adjusted == pytest.approx(few.smallest_p)
    assert "Too few queries: with 5 of them and 4 comparisons" in text_of(few)
    assert "Too few" not in text_of(compare([PLAIN, BETTER], QRELS))


def test_comparison_is_json_and_fits_80_characters() -> None:
    comparison = compare([PLAIN, BETTER, MIXED], QRELS)
    parsed = json.loads(json.dumps(comparison.to_json(), allow_nan=False))
    assert [system["name"] for system in parsed["systems"]] == ["plain", "better", "mixed"]
    assert list(parsed["systems"][0]["means"]) == ["nDCG@10", "RR@10", "P@10", "R@100", "Judged@10"]
    assert parsed["pairs"][0]["changes"][0].keys() >= {"measure", "difference", "low", "high", "wins", "losses", "ties"}
    assert parsed["pairs"][2]["worst"][0] == {"query_id": "q9", "before": 1.0, "after": 0.0, "text": ""}
    assert "…" not in text_of(comparison)


@pytest.mark.parametrize(
    ("systems", "qrels", "message"),
    [
        ([PLAIN], QRELS, "at least two runs with distinct names"),
        ([PLAIN, PLAIN], QRELS, "at least two runs with distinct names"),
        (
            [PLAIN, System("other", {"z1": FIRST})],
            QRELS,
            "other: expected results for judged queries, such as 'q0', got",
        ),
        ([PLAIN, BETTER], QRELS[:1], "at least 2 judged queries, got 1"),
        ([PLAIN, BETTER], [], "at least one judgment"),
    ],
)
def test_what_cannot_be_compared_is_refused(systems: list[System], qrels: list[Qrel], message: str) -> None:
    with pytest.raises(InputError, match=message):
        compare(systems, qrels)
