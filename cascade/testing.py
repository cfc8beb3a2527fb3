"""The contract suite: what every stage must keep to, ours and yours, as plain functions for any test framework.

``check_stage`` does everything for one configured stage; the others check one part each and raise ``AssertionError``
with what was expected and what came::

    from cascade.testing import check_stage

    def test_my_stage_keeps_the_contract(tmp_path):
        check_stage(KIND, {"name": "mine", "kind": "mine", "top_k": 10}, passages, tmp_path)

Give it a few dozen passages of mixed length, with ``HOSTILE_TEXTS`` among them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from cascade.stage import (
    Batch,
    Context,
    Encoded,
    Fuser,
    ListwiseReranker,
    Opened,
    Passages,
    Reranker,
    Retriever,
    Role,
    Stage,
    StageKind,
    StageSettings,
    Work,
)
from cascade.types import Query, Rows, Scores

Result = tuple[Rows, Scores]

TOLERANCE = 1e-4
"""Most that a score may depend on its batch, absolutely and relatively: float32 sums in another order."""

HOSTILE_TEXTS = (
    "",
    " \t\n",
    "word " * 5_000,
    "x" * 20_000,
    "nul \0 inside, lone surrogate \udcff at large",
    "مرحبا بالعالم, שלום, 東京都に行く, हिन्दी, cafe\u0301 café, 👩\u200d👩\u200d👧",
)

QUERIES = tuple(
    Query(f"q{number}", text)
    for number, text in enumerate(
        (
            "how do bees find their way back to the hive",
            "what causes the tides",
            "csv.reader",
            *HOSTILE_TEXTS,
            "the of and",
        )
    )
)

_ROLES: Mapping[str, type[Any]] = {
    "retriever": Retriever,
    "reranker": Reranker,
    "listwise": ListwiseReranker,
    "fuser": Fuser,
}


def check_stage(
    kind: StageKind,
    settings: Mapping[str, Any],
    passages: Passages,
    folder: Path,
    *,
    exact: bool = True,
    tolerance: float = TOLERANCE,
) -> None:
    """Checks a stage from its settings to its scores: loads it, builds its part of an index, opens it every way.

    Args:
        kind: what the entry point names.
        settings: valid settings as YAML would give them.
        passages: what to build and open it over.
        folder: an empty folder to write to; relative paths in the settings start from it.
        exact: see ``check_retriever``.
        tolerance: most that scores may differ where they should be equal.
    """
    parsed = check_kind(kind, settings, Context(folder))
    stage = kind.load(parsed, Context(folder))
    again = kind.load(parsed, Context(folder))
    _require(stage.fingerprint() == again.fingerprint(), "two loads of the same settings differ in fingerprint()")
    role = kind.role_of(parsed)
    openings = [_open(stage, passages, None, role)]
    if kind.indexed:
        directory = folder / "index"
        _build(stage, passages, directory)
        written = {file: file.read_bytes() for file in _files(directory)}
        _require(bool(written), "build() wrote nothing although the kind says indexed=True")
        _build(again, passages, directory)
        unchanged = written == {file: file.read_bytes() for file in _files(directory)}
        _require(unchanged, "a second build() changed the files")
        first, second = (_open(loaded, passages, directory, role) for loaded in (stage, again))
        for one, other in zip(_sample(first, passages), _sample(second, passages), strict=True):
            _require(np.array_equal(one, other), "reopening the index gives other results")
        readers = [getattr(opened, "query_reader", "") for opened in (first, second)]
        _require(readers[0] == readers[1], f"two loads of the same settings name other readers: {readers}")
        openings.append(first)
    for opened in openings:
        if isinstance(opened, Retriever):
            check_retriever(opened, passages, exact=exact)
        elif isinstance(opened, Reranker):
            check_reranker(opened, passages, tolerance=tolerance)
        elif isinstance(opened, ListwiseReranker):
            check_listwise(opened, passages, tolerance=tolerance)
        else:
            check_fuser(opened, len(getattr(parsed, "retrievers", ())) or 2)


def check_kind(kind: StageKind, settings: Mapping[str, Any], context: Context) -> StageSettings:
    """Checks what a kind says of itself and how it treats settings; returns the parsed settings."""
    _require(bool(kind.summary), "summary is empty; `cascade stages` shows it")
    _require(issubclass(kind.settings, StageSettings), f"{kind.settings} does not derive from StageSettings")
    parsed = kind.settings.model_validate(dict(settings))
    _require(parsed.kind == kind.kind, f"the settings name kind {parsed.kind!r}, this is {kind.kind!r}")
    try:
        kind.settings.model_validate({**settings, "no_such_setting": 1})
    except ValidationError:
        pass
    else:
        raise AssertionError("an unknown setting is accepted; keep extra='forbid'")
    _require(kind.settings.model_config.get("frozen") is True, "settings can be changed; keep frozen=True")
    shaped = parsed.index_settings()
    _require(json.loads(json.dumps(shaped)) == shaped, f"index settings do not survive JSON: {shaped}")
    role = kind.role_of(parsed)
    _require(role in _ROLES, f"role {role!r} is not one of {', '.join(_ROLES)}")
    problems = list(kind.check(parsed, context))
    _require(not problems, f"check() finds fault with these settings: {problems}")
    return parsed


def check_retriever(
    opened: Retriever, passages: Passages, queries: Sequence[Query] = QUERIES, *, exact: bool = True
) -> None:
    """Checks ranges, order, bounds and determinism of a retriever.

    Args:
        opened: the retriever over ``passages``.
        passages: what it searches.
        queries: what it is asked.
        exact: whether it promises the true best ``k`` of any range of rows; False for approximate search.
    """
    n = len(passages)
    ranges = list(opened.ranges())
    ends = [0, *(stop for _, stop in sorted(ranges))]
    _require(
        [start for start, _ in sorted(ranges)] == ends[:-1] and ends[-1] == n,
        f"ranges() must cover rows 0 to {n} once each, got {ranges}",
    )
    for query in queries:
        encoded = opened.encode_query(query)
        for start, stop in ranges:
            _check_work(opened.work(encoded, start, stop))
            for k in (0, 1, 10, n + 5):
                found = opened.search(encoded, k, start, stop)
                _check_ranked(found, k, start, stop, f"search({query.text[:40]!r}, k={k}, {start}, {stop})")
                _same(found, opened.search(encoded, k, start, stop), "the same search gives other results")
        if exact:
            _check_exact(opened, encoded, n)
    encodings = [opened.encode_query(query) for query in queries]
    _check_reading(opened, queries, lambda q: [part for span in ranges for part in opened.search(q, 10, *span)])
    _check_threads(
        lambda: [part for encoded in encodings for span in ranges for part in opened.search(encoded, 10, *span)]
    )


def check_reranker(
    opened: Reranker, passages: Passages, queries: Sequence[Query] = QUERIES, *, tolerance: float = TOLERANCE
) -> None:
    """Checks that a pair's score depends on the pair alone, whatever the batch around it."""
    rows = _some_rows(passages)
    encoded = [opened.encode_query(query) for query in queries]
    for query in encoded:
        lengths = opened.lengths(query, rows)
        _require(lengths.dtype == np.int32 and lengths.shape == rows.shape, f"lengths(): {_shape(lengths, len(rows))}")
        _require(bool((lengths >= 0).all()), "lengths() has negative entries")
        _check_scores(opened.score(Batch.single(query, rows[:3])), 3)
    main, other = encoded[0], encoded[1]
    together = opened.score(Batch.single(main, rows))
    _check_scores(together, len(rows))

    def close(scores: Scores, expected: Scores, what: str) -> None:
        _check_scores(scores, len(expected))
        worst = float(np.max(np.abs(scores - expected) - tolerance * np.abs(expected), initial=0.0))
        _require(worst <= tolerance, f"{what}: scores differ by {worst:.2g}, more than {tolerance:.2g}")

    alone = [opened.score(Batch.single(main, rows[i : i + 1])) for i in range(len(rows))]
    close(np.concatenate(alone), together, "a batch and its pairs one by one")
    close(opened.score(Batch.single(main, rows[::-1].copy()))[::-1], together, "a batch and its reverse")
    close(opened.score(Batch.single(main, np.repeat(rows, 2)))[::2], together, "a batch with every row twice")
    mixed = Batch((other, main), np.tile(np.array([1, 0], np.int32), len(rows)), np.repeat(rows, 2))
    scores = opened.score(mixed)
    close(scores[::2], together, "a batch of two queries and one of the first")
    close(scores[1::2], opened.score(Batch.single(other, rows)), "a batch of two queries and one of the second")
    _check_scores(opened.score(Batch.single(main, rows[:0])), 0)
    _check_reading(opened, queries, lambda query: [opened.score(Batch.single(query, rows))])
    _require(np.array_equal(opened.score(Batch.single(main, rows)), together), "the same batch gives other scores")
    _check_threads(lambda: [opened.score(Batch.single(main, rows))])


def check_listwise(
    opened: ListwiseReranker, passages: Passages, queries: Sequence[Query] = QUERIES, *, tolerance: float = TOLERANCE
) -> None:
    """Checks windows of every size up to the largest, determinism and hostile queries."""
    _require(opened.window >= 1, f"window must be at least 1, got {opened.window}")
    rows = _some_rows(passages)[: opened.window]
    for query in queries:
        encoded = opened.encode_query(query)
        lengths = opened.lengths(encoded, rows)
        _require(lengths.dtype == np.int32 and lengths.shape == rows.shape, f"lengths(): {_shape(lengths, len(rows))}")
        _check_scores(opened.score_window(encoded, rows[:1]), 1)
    encoded = opened.encode_query(queries[0])
    for size in (0, 1, 2, len(rows)):
        _check_scores(opened.score_window(encoded, rows[:size]), len(rows[:size]))
    _check_reading(opened, queries, lambda query: [opened.score_window(query, rows)], tolerance)
    first, second = opened.score_window(encoded, rows), opened.score_window(encoded, rows)
    _require(np.allclose(first, second, tolerance, tolerance), "the same window gives other scores")
    _check_threads(lambda: [opened.score_window(encoded, rows)])


def check_fuser(opened: Fuser, retrievers: int) -> None:
    """Checks that every row comes back once and in order, whatever the rankings of the ``retrievers`` hold."""
    random = np.random.default_rng(0)

    def ranking(n: int, bad: float | None = None) -> Result:
        scores = -np.sort(-random.normal(size=n).astype(np.float32))
        if bad is not None:
            scores[-2:] = bad
        return random.permutation(1000)[:n].astype(np.int32), scores

    none = ranking(0)
    cases = {
        "full rankings": [ranking(50) for _ in range(retrievers)],
        "one ranking": [ranking(20), *[none] * (retrievers - 1)],
        "no rankings": [none] * retrievers,
        "single rows": [ranking(1) for _ in range(retrievers)],
        "NaN scores": [ranking(9, math.nan) for _ in range(retrievers)],
        "infinite scores": [ranking(9, -math.inf) for _ in range(retrievers)],
    }
    for case, rankings in cases.items():
        found = opened.fuse(rankings)
        _check_ranked(found, 10**6, 0, 1000, f"fuse of {case}")
        expected = np.unique(np.concatenate([rows for rows, _ in rankings]))
        _require(np.array_equal(np.sort(found[0]), expected), f"fuse of {case}: not every row comes back once")
        _same(found, opened.fuse(rankings), f"fuse of {case}: a second call gives another result")
    _check_threads(lambda: list(opened.fuse(cases["full rankings"])))


def _require(condition: bool, message: str) -> None:
    if not condition:  # not an assert statement, which python -O leaves out
        raise AssertionError(message)


def _open(stage: Stage, passages: Passages, directory: Path | None, role: Role) -> Opened:
    opened = stage.open(passages, directory)
    _require(isinstance(opened, _ROLES[role]), f"open() gives {type(opened).__name__}, which is no {role}")
    return opened


def _build(stage: Stage, passages: Passages, directory: Path) -> None:
    reports: list[tuple[int, int]] = []
    directory.mkdir(exist_ok=True)
    stage.build(passages, directory, lambda done, total: reports.append((done, total)))
    n = len(passages)
    _require(reports == sorted(reports), f"progress goes backwards: {reports}")
    _require(bool(reports) and reports[-1] == (n, n), f"progress must end with ({n}, {n}), got {reports[-1:]}")


def _files(directory: Path) -> list[Path]:
    return sorted(file for file in directory.rglob("*") if file.is_file())


def _some_rows(passages: Passages, most: int = 12) -> Rows:
    """The shortest, the longest and others evenly between, by length of their text."""
    lengths = [len(text) for text in passages.iterate()]
    by_length = np.argsort(lengths, kind="stable")
    picked = np.linspace(0, len(lengths) - 1, min(most, len(lengths))).astype(int)
    rows: Rows = by_length[picked].astype(np.int32)
    return rows


def _sample(opened: Opened, passages: Passages) -> list[npt.NDArray[Any]]:
    """Some results of a retriever or reranker, to compare two of them."""
    results: list[npt.NDArray[Any]] = []
    for query in QUERIES[:3]:
        if isinstance(opened, Retriever):
            encoded = opened.encode_query(query)
            results.extend(part for span in opened.ranges() for part in opened.search(encoded, 10, *span))
        elif isinstance(opened, Reranker):
            results.append(opened.score(Batch.single(opened.encode_query(query), _some_rows(passages))))
    return results


def _check_exact(opened: Retriever, encoded: Encoded, n: int) -> None:
    rows, scores = opened.search(encoded, n, 0, n)
    few = opened.search(encoded, 3, 0, n)
    _same(few, (rows[:3], scores[:3]), "the best 3 are not the first 3 of all")
    middle = n // 3
    parts = [opened.search(encoded, n, *span) for span in ((0, middle), (middle, n))]
    joined, values = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    order = np.lexsort((joined, -values))
    _require(
        np.array_equal(np.sort(joined), np.sort(rows)) and np.allclose(values[order], scores, TOLERANCE, TOLERANCE),
        "two ranges together do not give what the whole gives",
    )


def _check_ranked(found: Result, k: int, start: int, stop: int, what: str) -> None:
    rows, scores = found
    _require(rows.dtype == np.int32 and rows.ndim == 1, f"{what}: rows must be int32 [m], got {rows.dtype}")
    _check_scores(scores, len(rows), what)
    _require(len(rows) <= min(k, stop - start), f"{what}: {len(rows)} rows are too many")
    _require(bool(((rows >= start) & (rows < stop)).all()), f"{what}: rows outside of the range")
    _require(len(np.unique(rows)) == len(rows), f"{what}: a row comes twice")
    _require(
        np.array_equal(np.lexsort((rows, -scores)), np.arange(len(rows))), f"{what}: not best first with ties by row"
    )


def _check_scores(scores: Scores, n: int, what: str = "score") -> None:
    _require(scores.dtype == np.float32 and scores.shape == (n,), f"{what}: {_shape(scores, n, 'float32')}")
    _require(bool(np.isfinite(scores).all()), f"{what}: a score is not a finite number")


def _check_reading(
    opened: Retriever | Reranker | ListwiseReranker,
    queries: Sequence[Query],
    results: Callable[[Encoded], list[npt.NDArray[Any]]],
    tolerance: float = 0.0,
) -> None:
    """What others have read of a query serves as well, however often it is encoded."""
    _require(isinstance(opened.query_reader, str), f"query_reader must be a string, got {opened.query_reader!r}")
    for query in queries if opened.query_reader else ():
        expected, reading = results(opened.encode_query(query)), opened.read_query(query)
        for _ in range(2):
            for one, other in zip(results(opened.encode_read(query, reading)), expected, strict=True):
                close = np.allclose(one, other, tolerance, tolerance)
                _require(close, "encode_read() gives another query than encode_query()")


def _check_work(work: Work) -> None:
    parts = (work.pairs, work.tokens, work.squares)
    _require(all(math.isfinite(part) and part >= 0 for part in parts), f"work() must be finite and >= 0, got {work}")


def _check_threads(call: Callable[[], list[npt.NDArray[Any]]]) -> None:
    """Two threads at once get what one gets alone."""
    expected = call()
    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(call) for _ in range(2)]:
            for one, other in zip(future.result(), expected, strict=True):
                equal = one.shape == other.shape and np.allclose(one, other, TOLERANCE, TOLERANCE)
                _require(equal, "two threads at once get other results than one")


def _same(one: Result, other: Result, message: str) -> None:
    _require(np.array_equal(one[0], other[0]) and np.array_equal(one[1], other[1]), message)


def _shape(array: npt.NDArray[Any], n: int, dtype: str = "int32") -> str:
    return f"expected {dtype} [{n}], got {array.dtype} {list(array.shape)}"
