"""``Cascade`` as its users see it, over a small real corpus and real weights."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cascade import FROM_CONFIG, Cascade, Document, Index, Query, Ranking, Registry, api, parse_config
from cascade.api import index_corpus
from cascade.errors import BadIndex, Cancelled, CascadeError, IndexMismatch, IndexMissing, InputError, StageError
from cascade.io import read_corpus
from cascade.stage import Batch, Context, Opened, Passages, Reranker, Stage, StageKind, StageSettings
from cascade.telemetry import Observation
from cascade.types import Scores
from tests.fakes import Hangs

QUESTION = "configure logging to a file"
RERANKERS = """\
version: 1
name: texts
passages: {max_tokens: 32, overlap_tokens: 0, per_document: 1}
stages:
  - {name: bm25, kind: bm25, top_k: 100}
  - {name: late, kind: colbert, model: "bundled:bi-encoder", top_k: 2}
"""
ANIMALS = ["the stock market fell sharply", "penguins cannot fly but swim well", "a recipe for onion soup"]


@pytest.fixture(scope="module")
def reranker() -> Any:
    with Cascade(parse_config(RERANKERS)) as opened:
        yield opened


def ids(ranking: Ranking) -> list[str]:
    return [hit.doc_id for hit in ranking]


def test_impossible_numbers_of_workers_are_refused() -> None:
    for name, number in (("workers", 0), ("threads", -1), ("workers", True)):
        with pytest.raises(InputError, match=f"{name}: expected an integer >= 1"):
            Cascade(parse_config(RERANKERS), **{name: number})


def test_what_one_engine_keeps_from_garbage_collection_another_does_not_give_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    called: list[str] = []
    fake = SimpleNamespace(**{name: partial(called.append, name) for name in ("collect", "freeze", "unfreeze")})
    monkeypatch.setattr(api, "gc", fake)
    monkeypatch.setattr(api, "_freezers", 0)
    limited = parse_config(RERANKERS.replace("name: texts", "name: texts\nbudget_ms: 1000"))
    old, unlimited = Cascade(limited), Cascade(parse_config(RERANKERS))
    new = Cascade(limited)
    for engine in (old, old, unlimited):
        engine.close()
    assert called == ["collect", "freeze"] * 2
    new.close()
    assert called[4:] == ["unfreeze"]


# Answers


def test_search_finds_what_was_asked_for(engine: Cascade) -> None:
    ranking = engine.search(QUESTION)
    assert len(ranking) == 5
    assert "logging.basicConfig" in ids(ranking)
    assert [hit.rank for hit in ranking] == [1, 2, 3, 4, 5]
    assert {hit.stage for hit in ranking} == {"late-short"}
    scores = [hit.score for hit in ranking]
    assert scores == sorted(scores, reverse=True)
    assert not ranking.degraded


def test_hits_carry_title_passage_and_metadata_of_their_document(engine: Cascade, small: Any) -> None:
    documents = {document.doc_id: document for document in small.documents}
    for hit in engine.search(QUESTION, top_k=50):
        document = documents[hit.doc_id]
        assert hit.title == document.title
        assert hit.text in document.text
        assert dict(hit.metadata) == dict(document.metadata)


def test_more_than_the_last_cut_appends_what_earlier_stages_cut_in_their_order(engine: Cascade) -> None:
    everything = ids(engine.search(QUESTION, top_k=10_000))
    assert len(everything) == len(set(everything)) > 60
    for top_k in (1, 5, 6, 20, 21, 60, 61):
        assert ids(engine.search(QUESTION, top_k=top_k)) == everything[:top_k]
    stages = [hit.stage for hit in engine.search(QUESTION, top_k=10_000)]
    assert stages == ["late-short"] * 20 + ["late"] * 40 + ["hybrid"] * (len(stages) - 60)
    (run,) = engine.runs([QUESTION])
    assert run.order_after(2).rows[: len(run.passed_by(2))].tolist() == run.passed_by(2).rows.tolist()


def test_no_document_wanted_and_more_than_there_are(engine: Cascade, small: Any) -> None:
    assert ids(engine.search(QUESTION, top_k=0)) == []
    assert len(engine.search(QUESTION, top_k=10**30)) <= len(small.documents)


def test_a_query_keeps_its_identifier(engine: Cascade) -> None:
    query = Query("q7", QUESTION)
    ranking = engine.search(query)
    assert ranking.query is query
    assert ids(ranking) == ids(engine.search(QUESTION))


def test_a_long_document_is_split_and_appears_once_with_one_of_its_passages(engine: Cascade, small: Any) -> None:
    (document,) = [each for each in small.documents if each.doc_id == "logging.basicConfig"]
    assert engine.index is not None
    assert len(engine.index.rows_of(document.doc_id)) > 1
    hits = [hit for hit in engine.search(QUESTION, top_k=1000) if hit.doc_id == document.doc_id]
    assert len(hits) == 1
    assert len(hits[0].text) < len(document.text)


def test_search_many_answers_as_search_does_and_in_order(engine: Cascade) -> None:
    texts = {"q1": QUESTION, "q2": "remove the last element", "q3": "square root"}

    queries = [Query(key, text) for key, text in texts.items()]
    together = engine.search_many(queries, top_k=10)
    assert [ranking.query for ranking in together] == queries
    assert [ids(ranking) for ranking in together] == [ids(engine.search(query, top_k=10)) for query in queries]
    assert engine.search_many([]) == []


def test_queries_are_answered_as_they_come(engine: Cascade) -> None:
    taken: list[int] = []

    def endless() -> Any:
        for i in range(1_000_000):
            taken.append(i)
            yield f"question {i}"

    stream = engine.stream(endless(), top_k=1)
    assert len(next(stream)) == 1
    assert len(taken) < 100


def test_eight_threads_get_the_answers_of_one(engine: Cascade) -> None:
    questions = ["open a file", "sort a list", "parse a date", "join two threads"]
    alone = {question: engine.search(question, top_k=30) for question in questions}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda i: engine.search(questions[i % 4], top_k=30), range(24)))
    for answer in answers:
        expected = alone[answer.query.text]
        assert ids(answer) == ids(expected)
        np.testing.assert_allclose([hit.score for hit in answer], [hit.score for hit in expected], rtol=1e-4)


# Time


def test_the_trace_says_what_every_stage_did(engine: Cascade) -> None:
    trace = engine.search(QUESTION).trace
    assert (trace.cascade, trace.budget_s, trace.overshoot_s) == ("small", math.inf, 0.0)
    assert [stage.name for stage in trace.stages] == ["hybrid", "late", "late-short"]
    assert [part.name for part in trace.stages[0].retrievers] == ["bm25", "dense"]
    assert engine.index is not None
    assert trace.stages[0].received == len(engine.index)
    for before, after in pairwise(trace.stages):
        assert after.received == before.passed
    for stage in trace.stages:
        assert (stage.reason, stage.detail, stage.degraded) == ("complete", "", False)
    assert trace.to_dict()["budget_ms"] is None
    assert sum(stage.seconds for stage in trace.stages) <= trace.seconds


@pytest.mark.parametrize("budget_ms", [0, 0.0, 1])
def test_hardly_any_time_gives_an_answer_that_says_so(engine: Cascade, budget_ms: float) -> None:
    ranking = engine.search(QUESTION, budget_ms=budget_ms)
    assert ranking.degraded
    assert ranking.trace.budget_s == pytest.approx(budget_ms / 1000)
    assert len(ranking.trace.stages) == 3
    assert set(ids(ranking)) <= set(ids(engine.search(QUESTION, top_k=10_000)))


def test_plenty_of_time_and_no_limit_give_the_same_answer(engine: Cascade) -> None:
    for budget_ms in (60_000, 60_000.0, 1e300, 10**400, math.inf, None, FROM_CONFIG):
        ranking = engine.search(QUESTION, budget_ms=budget_ms)
        assert not ranking.degraded, ranking.trace.to_json()
        assert ids(ranking) == ids(engine.search(QUESTION))


@pytest.mark.parametrize("budget_ms", [-1, math.nan, "5", True, [5]])
def test_an_impossible_budget_is_refused(engine: Cascade, reranker: Cascade, budget_ms: Any) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: engine.search(QUESTION, budget_ms=budget_ms),
        lambda: engine.search_many([QUESTION], budget_ms=budget_ms),
        lambda: asyncio.run(engine.asearch(QUESTION, budget_ms=budget_ms)),
        lambda: reranker.rerank(QUESTION, ["a"], budget_ms=budget_ms),
    ]
    for call in calls:
        with pytest.raises(InputError, match="budget_ms: expected a number of milliseconds >= 0, or None"):
            call()


@pytest.mark.parametrize("top_k", [-1, 2.0, "5", True])
def test_an_impossible_top_k_is_refused(engine: Cascade, reranker: Cascade, top_k: Any) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: engine.search(QUESTION, top_k=top_k),
        lambda: engine.search_many([QUESTION], top_k=top_k),
        lambda: asyncio.run(engine.asearch(QUESTION, top_k=top_k)),
        lambda: reranker.rerank(QUESTION, ["a"], top_k=top_k),
    ]
    for call in calls:
        with pytest.raises(InputError, match="top_k: expected an integer >= 0, or None"):
            call()


def test_stages_that_a_profile_says_nothing_of_are_measured_and_the_trace_says_so(small: Any) -> None:
    limited = parse_config(small.config.read_text() + "budget_ms: 60000\n")
    with Cascade(limited, index=Index.open(small.index, verify=False)) as whole:
        known = whole.costs.profile
    half = {key: cost for key, cost in known.costs.items() if not key.startswith("colbert-")}
    part = replace(known, costs=half, source="calibrated")
    with Cascade(limited, index=Index.open(small.index, verify=False), costs=part) as opened:
        assert opened.search(QUESTION).trace.costs == "calibrated + warm-up"
        assert opened.costs.profile.costs.keys() == known.costs.keys()
        assert all(opened.costs.profile.costs[key] == cost for key, cost in half.items())
    with Cascade.from_yaml(small.config, index=small.index, costs=part, verify=False) as unlimited:
        assert unlimited.search(QUESTION).trace.costs == "calibrated + none"


# asyncio


def test_asearch_answers_as_search_does(engine: Cascade) -> None:
    async def ask() -> list[Ranking]:
        return list(await asyncio.gather(*(engine.asearch(QUESTION, top_k=k) for k in (1, 3, 30))))

    for ranking in asyncio.run(ask()):
        assert ids(ranking) == ids(engine.search(QUESTION, top_k=len(ranking)))


def test_asearch_keeps_its_deadline(engine: Cascade) -> None:
    assert asyncio.run(engine.asearch(QUESTION, budget_ms=0)).degraded


def test_a_cancelled_asearch_is_dropped_and_the_engine_goes_on(engine: Cascade) -> None:
    async def withdraw() -> None:
        tasks = [asyncio.create_task(engine.asearch(QUESTION)) for _ in range(5)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)

    asyncio.run(withdraw())
    assert not engine.search(QUESTION).degraded


# Hostile queries


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \t\n",
        "the of and is",
        "\ud800 lone surrogates \udfff",
        "a NUL \0 inside",
        "😀🏳️‍🌈 emoji",
        "מחרוזת \u202eright to left",
        "caf\u00e9 cafe\u0301",
        "w" * 100_000,
        "(((OR AND NOT \"'*?:^~",
    ],
    ids=lambda text: ascii(text[:12]),
)
def test_any_text_is_a_query(engine: Cascade, reranker: Cascade, text: str) -> None:
    ranking = engine.search(text)
    assert ranking.query.text == text
    assert len(ranking) == 5
    assert not ranking.degraded
    assert sorted(ids(reranker.rerank(text, ANIMALS, top_k=3))) == ["0", "1", "2"]


def test_equal_in_meaning_to_unicode_is_equal_to_the_engine(engine: Cascade) -> None:
    assert ids(engine.search("caf\u00e9", top_k=20)) == ids(engine.search("cafe\u0301", top_k=20))


def test_a_query_of_a_hundred_thousand_terms_is_answered(engine: Cascade) -> None:
    assert len(engine.search("logging file " * 50_000)) == 5


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("x" * 1_000_001, "query: expected at most 1000000 characters, got 1000001"),
        (None, "query: expected a string or a Query, got NoneType"),
        (b"bytes", "query: expected a string or a Query, got bytes"),
    ],
    ids=["huge", "none", "bytes"],
)
def test_what_is_no_query(engine: Cascade, reranker: Cascade, query: Any, message: str) -> None:
    for call in (engine.search, lambda query: reranker.rerank(query, ["a"])):
        with pytest.raises(InputError, match=message):
            call(query)


# Reranking without an index


def test_texts_are_reranked_and_named_by_their_position(reranker: Cascade) -> None:
    ranking = reranker.rerank("birds of Antarctica", ANIMALS)
    assert len(ranking) == 3
    assert (ranking[0].doc_id, ranking[0].text, ranking[0].stage) == ("1", ANIMALS[1], "late")
    assert [stage.name for stage in ranking.trace.stages] == ["late"]
    assert ids(reranker.rerank("birds of Antarctica", ANIMALS, top_k=1)) == ["1"]


def test_documents_are_reranked_under_their_own_names(reranker: Cascade) -> None:
    documents = [Document(f"d{i}", text, title=f"t{i}", metadata={"n": i}) for i, text in enumerate(ANIMALS)]
    ranking = reranker.rerank(Query("q", "soup"), documents)
    assert (ranking[0].doc_id, ranking[0].title, dict(ranking[0].metadata)) == ("d2", "t2", {"n": 2})
    assert sorted(ids(ranking)) == ["d0", "d1", "d2"]
    assert ids(reranker.rerank("soup", [*documents[:2], ANIMALS[2]]))[0] == "2"


def test_nothing_to_rerank(reranker: Cascade) -> None:
    ranking = reranker.rerank("soup", [])
    assert (len(ranking), ranking.degraded) == (0, False)


def test_empty_texts_are_reranked_too(reranker: Cascade) -> None:
    assert sorted(ids(reranker.rerank("soup", ["", " ", "soup"]))) == ["0", "1", "2"]


def test_no_time_to_rerank_keeps_the_order_given(reranker: Cascade) -> None:
    ranking = reranker.rerank("soup", ANIMALS, budget_ms=0)
    assert ids(ranking) == ["0", "1", "2"]
    assert ranking.degraded
    assert {hit.stage for hit in ranking} == {""}


def test_the_best_passage_of_a_long_document_decides_and_is_shown(reranker: Cascade) -> None:
    filler = "The committee discussed the budget of the harbour at length. " * 20
    documents = [Document("none", filler), Document("end", filler + "Penguins swim in the cold sea.")]
    ranking = reranker.rerank("what do penguins do?", documents)
    assert ids(ranking) == ["end", "none"]
    assert "Penguins" in ranking[0].text
    assert len(ranking[0].text) < 400


def test_a_budget_of_ages_in_a_file_is_none() -> None:
    config = parse_config(RERANKERS + "budget_ms: 1.0e+300\n")
    with Cascade(config) as cascade:
        assert not cascade.rerank("soup", ANIMALS).degraded


def test_a_megabyte_of_text_is_one_document_in_the_time_it_was_given(reranker: Cascade) -> None:
    ranking = reranker.rerank("penguins", [Document("huge", "swim far " * 120_000), Document("b", "penguins")], None, 1)
    assert sorted(ids(ranking)) == ["b", "huge"]
    assert all(len(hit.text) < 1000 for hit in ranking)
    assert ranking.degraded


def test_a_stage_passes_on_so_many_passages_of_a_document(reranker: Cascade) -> None:
    long = [f"Penguins swim in sea number {i}. " * 20 for i in range(4)]
    (stage,) = reranker.rerank("penguins", long).trace.stages
    assert stage.received > 2 * len(long)
    assert stage.passed == 2  # top_k: 2 documents, per_document: 1
    with Cascade(parse_config(RERANKERS.replace("per_document: 1", "per_document: 2"))) as two_each:
        (stage,) = two_each.rerank("penguins", long).trace.stages
    assert stage.passed == 4


@pytest.mark.parametrize(
    ("passages", "message"),
    [
        ("soup", "passages: expected a sequence of texts or documents, got one string"),
        (["soup", 3], r"passages\[1\]: expected a string or a Document, got int"),
        ([Document("a", "x"), Document("a", "y")], r"documents\[1\]: doc_id 'a' is that of documents\[0\] too"),
        (["x"] * 10_001, "passages: expected at most 10000, got 10001"),
        (["x" * 5_000_001] * 2, "passages: expected at most 10000000 characters in all, got 10000002"),
    ],
    ids=["string", "type", "duplicate", "many", "long"],
)
def test_passages_that_are_refused(reranker: Cascade, passages: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        reranker.rerank("soup", passages)


def test_a_cascade_without_rerankers_keeps_the_order_given() -> None:
    with Cascade(parse_config("version: 1\nname: x\nstages: [{name: a, kind: bm25, top_k: 5}]")) as cascade:
        ranking = cascade.rerank("soup", ANIMALS)
    assert ids(ranking) == ["0", "1", "2"]
    assert ranking.trace.stages == ()


def test_models_are_loaded_when_the_cascade_is_made_not_by_the_first_query() -> None:
    loaded: list[str] = []

    def load(settings: OddSettings, context: Context) -> Stage:
        loaded.append(settings.name)
        return OddStage(settings)

    text = "version: 1\nname: x\nstages: [{name: a, kind: bm25, top_k: 5}, {name: b, kind: odd, gives: '1', top_k: 5}]"
    registry = Registry([StageKind("odd", "reranker", OddSettings, load)])
    with Cascade(parse_config(text, registry=registry)) as cascade:
        assert loaded == ["b"]
        cascade.rerank("soup", ANIMALS)
    assert loaded == ["b"]


# Opening and closing


def test_search_needs_an_index(reranker: Cascade) -> None:
    with pytest.raises(BadIndex, match=r"search needs an index: .*rerank\(\) needs none"):
        reranker.search("soup")


def test_an_index_that_is_not_there(small: Any, tmp_path: Path) -> None:
    with pytest.raises(IndexMissing, match=str(tmp_path)):
        Cascade.from_yaml(small.config, index=tmp_path / "none")


@pytest.mark.parametrize(
    ("old", "new", "quoted"),
    [
        (
            "kind: dense,",
            "kind: dense, passage_prefix: 'passage: ',",
            ['"passage_prefix": ""', '"passage_prefix": "passage: "'],
        ),
        ("kind: bm25,", "kind: bm25, k1: 0.9,", ['"k1": 1.2', '"k1": 0.9']),
        ("stages:", "passages: {max_tokens: 77}\nstages:", ["77"]),
    ],
    ids=["dense", "bm25", "passages"],
)
def test_an_index_made_with_other_settings_is_refused_with_both_values(
    small: Any, old: str, new: str, quoted: Sequence[str]
) -> None:
    config = parse_config(small.config.read_text().replace(old, new, 1))
    with pytest.raises(IndexMismatch) as caught:
        Cascade(config, index=Index.open(small.index))
    for part in quoted:
        assert part in str(caught.value)


def test_a_closed_cascade_answers_no_more_and_can_be_closed_again(small: Any) -> None:
    with Cascade.from_yaml(small.config, index=small.index, verify=False) as opened:
        assert len(opened.search(QUESTION, top_k=1)) == 1
    for call in (lambda: opened.search(QUESTION), lambda: asyncio.run(opened.asearch(QUESTION))):
        with pytest.raises(CascadeError, match="the engine has been closed; make a new one"):
            call()
    opened.close()


# Stages of others


class OddSettings(StageSettings):
    gives: str = "nan"


class OddStage(Stage, Reranker):
    """Scores by position, but for what it was told to give; its own opened form."""

    def __init__(self, settings: OddSettings) -> None:
        self.settings = settings

    def open(self, passages: Passages, directory: Path | None) -> Opened:
        return self

    def score(self, batch: Batch) -> Scores:
        if self.settings.gives == "error":
            raise RuntimeError("out of order")
        scores = batch.rows.astype(np.float32)
        scores[::2] = np.float32(self.settings.gives)
        return scores


def odd(small: Any, gives: str, on_error: str = "degrade") -> Cascade:
    """The small cascade with a stage at its end that misbehaves."""
    kind = StageKind("odd", "reranker", OddSettings, lambda settings, context: OddStage(settings))
    line = f"  - {{name: odd, kind: odd, gives: '{gives}', on_error: {on_error}, top_k: 5}}\n"
    lines = [line for line in small.config.read_text().splitlines(keepends=True) if "late" not in line]
    config = parse_config("".join(lines) + line, registry=Registry([kind]))
    return Cascade(config, index=Index.open(small.index, verify=False))


def test_queries_that_nobody_waits_for_any_more_are_withdrawn_and_reported(tmp_path: Path) -> None:
    gate = Hangs()
    ended: list[tuple[str, type]] = []

    class Noting:
        def answered(self, observation: Observation) -> None:
            ended.append((observation.query.text, type(observation.error)))

    class Gated(OddStage):
        def score(self, batch: Batch) -> Scores:
            return gate(np.zeros(len(batch), np.float32))  # type: ignore[no-any-return]

    kind = StageKind("gated", "reranker", OddSettings, lambda settings, context: Gated(settings))
    text = "version: 1\nname: x\nstages: [{name: a, kind: bm25, top_k: 5}, {name: b, kind: gated, top_k: 5}]"
    config, corpus = parse_config(text, registry=Registry([kind])), tmp_path / "corpus.jsonl"
    corpus.write_text('{"_id": "d", "text": "an owl"}\n')
    index_corpus(config, read_corpus(corpus), tmp_path / "index")

    def asked() -> Iterator[str]:
        yield from ("owl 1", "owl 2", "owl 3")
        assert gate.entered.wait(60)
        raise LookupError("no more")

    with Cascade(config, index=Index.open(tmp_path / "index"), observers=[Noting()]) as opened:
        with pytest.raises(LookupError):
            opened.search_many(asked())
        gate.release.set()
        assert len(opened.search("owl 4")) == 1
    assert ended == [(f"owl {i}", Cancelled) for i in (1, 2, 3)] + [("owl 4", type(None))]


@pytest.mark.parametrize("gives", ["nan", "inf", "-inf"])
def test_scores_that_are_not_finite_are_quarantined_and_flagged(small: Any, gives: str) -> None:
    with odd(small, gives) as cascade:
        first, again = (cascade.search(QUESTION, top_k=60) for _ in range(2))
    assert first.degraded
    assert first.trace.stages[-1].quarantined > 0
    assert all(math.isfinite(hit.score) for hit in first)
    assert ids(first) == ids(again)
    assert len(first) == 60


def test_huge_scores_are_scores(small: Any) -> None:
    with odd(small, "3e38") as cascade:
        ranking = cascade.search(QUESTION, top_k=60)
    assert not ranking.degraded
    assert ranking[0].score == np.float32(3e38)


def test_a_stage_that_raises_leaves_the_order_as_it_was(small: Any) -> None:
    with odd(small, "error") as cascade:
        ranking = cascade.search(QUESTION, top_k=60)
    assert ranking.trace.stages[-1].reason == "failed"
    assert "out of order" in ranking.trace.stages[-1].detail
    assert {hit.stage for hit in ranking} == {"hybrid"}
    with odd(small, "error", on_error="fail") as cascade, pytest.raises(StageError, match="out of order"):
        cascade.search(QUESTION)


def test_an_engine_may_use_the_models_that_another_has_loaded(small: Any) -> None:
    loaded: list[str] = []

    def counting(kind: StageKind) -> StageKind:
        def noted(settings: Any, context: Context) -> Stage:
            loaded.append(kind.kind)
            return kind.load(settings, context)

        return replace(kind, load=noted)

    registry = Registry([counting(Registry().get(name)) for name in ("bm25", "colbert")])
    config = parse_config(small.config.read_text(), registry=registry)
    index = Index.open(small.index, verify=False)
    with Cascade(config, index=index) as one:
        before = list(loaded)
        with Cascade(config, index=index, models_of=one) as other:
            assert loaded == before != []
            first, second = ([hit.doc_id for hit in engine.search(QUESTION, budget_ms=None)] for engine in (one, other))
            assert first == second
