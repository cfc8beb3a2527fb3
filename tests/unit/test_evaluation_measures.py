import math
import random
from collections.abc import Iterator

import ir_measures
import numpy as np
import pytest

from cascade.errors import InputError
from cascade.evaluation import DEFAULT_MEASURES, evaluate, parse_measures, ranked
from cascade.types import Qrel, ScoredDoc

QRELS = [Qrel("a", "d1", 2), Qrel("a", "d2", 1), Qrel("a", "d3", 0), Qrel("b", "d1", 1), Qrel("c", "d9", 0)]


def test_values_match_a_calculation_by_hand() -> None:
    result = evaluate({"a": ["d3", "d2", "dx", "d1"], "b": ["d2", "d1"]}, QRELS)
    dcg = 1 / math.log2(3) + 2 / math.log2(5)
    ideal = 2 + 1 / math.log2(3)
    assert result.by_query["nDCG@10"] == pytest.approx({"a": dcg / ideal, "b": 1 / math.log2(3), "c": 0.0})
    assert result.by_query["RR@10"] == {"a": 0.5, "b": 0.5, "c": 0.0}
    assert result.by_query["P@10"] == pytest.approx({"a": 0.2, "b": 0.1, "c": 0.0})
    assert result.by_query["R@100"] == {"a": 1.0, "b": 1.0, "c": 0.0}
    assert result.by_query["Judged@10"] == {"a": 0.75, "b": 0.5, "c": 0.0}
    assert result.means["RR@10"] == pytest.approx(1 / 3)
    assert list(result.means) == list(DEFAULT_MEASURES)


def test_judged_queries_without_results_count_as_zero_and_unjudged_ones_are_named() -> None:
    result = evaluate({"b": ["d1"], "c": [], "z": ["d1"]}, QRELS, ["RR@10"])
    assert result.means == {"RR@10": pytest.approx(1 / 3)}
    assert result.missing == ("a", "c")
    assert result.unjudged == ("z",)


def test_a_run_that_found_nothing_is_zero_everywhere() -> None:
    assert set(evaluate({}, QRELS).means.values()) == {0.0}


def test_means_agree_with_ir_measures_on_random_runs() -> None:
    chance = random.Random(7)
    docs = [f"d{i}" for i in range(30)]
    qrels = [Qrel(f"q{q}", doc, chance.choice([0, 0, 1, 2])) for q in range(12) for doc in chance.sample(docs, 10)]
    run = {f"q{q}": chance.sample(docs, 20) for q in range(10)}
    names = [*DEFAULT_MEASURES, "AP(rel=2)", "nDCG", "Success@1", "Rprec"]
    expected = ir_measures.calc_aggregate(
        [ir_measures.parse_measure(name) for name in names],
        [ir_measures.Qrel(*qrel) for qrel in qrels],
        [ir_measures.ScoredDoc(q, doc, -float(i)) for q, found in run.items() for i, doc in enumerate(found)],
    )
    assert evaluate(run, qrels, names).means == pytest.approx({repr(m): v for m, v in expected.items()})


def test_order_of_the_list_is_the_ranking_even_where_trec_eval_would_break_ties_by_name() -> None:
    run = ranked({"b": [ScoredDoc("b", "d1", 1.0), ScoredDoc("b", "zz", 1.0)]})
    assert evaluate(run, QRELS, ["P@1"]).by_query["P@1"]["b"] == 1.0


def test_names_are_normalised_and_kept_once() -> None:
    measures = parse_measures(["MRR@10", " RR@10", "P(rel=2)@5", "nDCG(gains={1: 3})", "IPrec@0.5"])
    assert [repr(measure) for measure in measures] == ["RR@10", "P(rel=2)@5", "nDCG(gains={1:3})", "IPrec@0.5"]


def test_measures_of_a_package_that_is_not_installed_say_which(monkeypatch: pytest.MonkeyPatch) -> None:
    for provider in (ir_measures.cwl_eval, ir_measures.pyndeval):
        monkeypatch.setattr(provider, "_is_available", False)
    with pytest.raises(InputError, match=r"run `pip install 'ir-measures\[cwl_eval\]'`, or choose for example"):
        parse_measures(["RBP(rel=1)"])
    with pytest.raises(InputError, match=r"run `pip install 'ir-measures\[pyndeval\]'`, or choose for example"):
        parse_measures(["alpha_nDCG@10"])


def test_measures_of_an_installed_package_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Halves(ir_measures.providers.Evaluator):  # type: ignore[misc]
        def _iter_calc(self, run: object) -> Iterator[ir_measures.Metric]:
            for measure in self.measures:
                yield ir_measures.Metric(query_id="a", measure=measure, value=np.float64(0.5))

    monkeypatch.setattr(ir_measures.cwl_eval, "_is_available", True)
    monkeypatch.setattr(ir_measures.cwl_eval, "_evaluator", lambda measures, qrels: Halves(measures, set("abc")))
    values = evaluate({"a": ["d1"]}, QRELS, ["RBP(rel=1)", "P@1"]).by_query
    assert values == {"RBP(rel=1)": {"a": 0.5, "b": 0.0, "c": 0.0}, "P@1": {"a": 1.0, "b": 0.0, "c": 0.0}}
    assert type(values["RBP(rel=1)"]["a"]) is float


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("NDCGG@10", "unknown 'NDCGG', did you mean 'NDCG'"),
        ("qqqqq", "unknown 'qqqqq'; known are, for example, nDCG@10"),
        ("nDCG@", "expected a name like nDCG@10, .* got 'nDCG@'"),
        ("__import__('os')", "expected a name like"),
        ("(" * 500, "expected a name like"),
        ("", "expected a name like"),
        ("nDCG@-1", "expected a name like|expected cutoff from 1"),
        ("nDCG@0", "expected cutoff from 1 to 1000000, got 0"),
        ("nDCG@10.5", "expected cutoff from 1"),
        ("P", "expected other parameters"),
        ("P(foo=1)@10", r"expected parameters among \['cutoff', 'judged_only', 'rel'\], got \['foo'\]"),
        ("P(rel=0)@10", "expected rel from 1 to 1000, got 0"),
        ("ERR@20", "'ERR@20' cannot be computed here"),
    ],
)
def test_bad_name_is_refused(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_measures([name])


def test_no_judgments_and_repeated_documents_are_refused() -> None:
    with pytest.raises(InputError, match="expected at least one judgment"):
        evaluate({"a": ["d1"]}, [])
    with pytest.raises(InputError, match="query 'a': expected each document once"):
        evaluate({"a": ["d1", "d1"]}, QRELS)
