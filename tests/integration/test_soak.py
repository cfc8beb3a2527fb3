"""Some hundred queries through one engine, on every way through it: nothing may be left behind."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import threading
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from cascade.api import Cascade, index_corpus
from cascade.io import read_corpus
from cascade.load import parse_config

CONFIG = "version: 1\nname: soak\nstages:\n  - {name: bm25, kind: bm25, top_k: 20}\n"
WORDS = ["cat", "dog", "purr", "bark", "milk", "bone", "sleep", "run", "tree", "mouse"]
QUERIES = [f"{first} {second}" for first, second in itertools.permutations(WORDS, 2)]
ROUND = 150
"""Queries between two looks."""
LEFT_BEHIND = 32 * 1024
"""Bytes that two rounds may differ by: a leak of one trace a query would be many times that."""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cascade]:
    folder = tmp_path_factory.mktemp("soak")
    lines = [
        f'{{"_id": "{i}", "text": "{" ".join(words)}"}}' for i, words in enumerate(itertools.permutations(WORDS, 3))
    ]
    Path(folder, "corpus.jsonl").write_text("\n".join(lines) + "\n")
    config = parse_config(CONFIG)
    index_corpus(config, read_corpus(folder / "corpus.jsonl"), folder / "index", threads=1)
    (folder / "soak.yaml").write_text(CONFIG)
    with Cascade.from_yaml(folder / "soak.yaml", index=folder / "index", threads=1) as engine:
        yield engine


async def withdrawn(engine: Cascade, query: str) -> None:
    """A caller that goes away."""
    asking = asyncio.create_task(engine.asearch(query))
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)


async def all_withdrawn(engine: Cascade, queries: Sequence[str]) -> None:
    for query in queries:
        await withdrawn(engine, query)


def ask(engine: Cascade) -> None:
    """One round: alone, with plenty of time, with none, several at once, and withdrawn."""
    queries = [*itertools.islice(itertools.cycle(QUERIES), ROUND)]
    for query in queries[:60]:
        assert len(engine.search(query, top_k=5)) == 5
    for query in queries[60:90]:
        assert engine.search(query, budget_ms=1000.0).trace.stages[0].scored > 0
    for query in queries[90:100]:
        assert engine.search(query, budget_ms=0.0).degraded
    assert len(engine.search_many(queries[100:140])) == 40
    asyncio.run(all_withdrawn(engine, queries[140:]))


def held() -> tuple[int, int, int]:
    """Bytes allocated from Python, open descriptors, threads."""
    gc.collect()
    return tracemalloc.get_traced_memory()[0], len(list(Path("/proc/self/fd").iterdir())), threading.active_count()


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="descriptors are counted in /proc")  # noqa: PTH112
@pytest.mark.usefixtures("traced")
def test_a_round_of_queries_leaves_nothing_behind(engine: Cascade) -> None:
    ask(engine)
    ask(engine)
    memory, descriptors, threads = held()
    ask(engine)
    ask(engine)
    memory_after, descriptors_after, threads_after = held()
    assert (descriptors_after, threads_after) == (descriptors, threads)
    assert memory_after - memory < LEFT_BEHIND


def test_an_engine_takes_its_threads_with_it(engine: Cascade, tmp_path: Path) -> None:
    before = threading.active_count()
    with Cascade(engine.config, index=engine.index, threads=1) as second:
        second.search(QUERIES[0])
        assert threading.active_count() > before
    assert threading.active_count() == before
