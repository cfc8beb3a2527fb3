import numpy as np
import pytest

from cascade.stage import Batch
from stages.cross_encoder.pairs import Pairs
from stages.models import Layout

BERT = Layout(head=(101,), tail=(102,), before=(101,), between=(102,), after=(102,), segments=True, first_between=1)
ROBERTA = Layout(head=(1,), tail=(2,), before=(1,), between=(2, 2), after=(2,), segments=False, first_between=0)


class Tokens:
    ids = np.array([11, 12, 13, 14, 21, 31, 32], np.int32)
    offsets = np.array([0, 4, 5, 5, 7], np.int64)


def ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int32)


NO_PREFIX = ints()


def test_pairs_are_framed_padded_and_segmented() -> None:
    pairs = Pairs(BERT, 0, Tokens(), max_passage_tokens=3, passage_prefix=NO_PREFIX)
    found = pairs.assemble(Batch((ints(5, 6), ints(7)), ints(0, 1, 1), ints(0, 1, 2)))
    assert found.ids.tolist() == [
        [101, 5, 6, 102, 11, 12, 13, 102],
        [101, 7, 102, 21, 102, 0, 0, 0],
        [101, 7, 102, 102, 0, 0, 0, 0],
    ]
    assert found.mask.tolist() == [[1] * 8, [1] * 5 + [0] * 3, [1] * 4 + [0] * 4]
    assert found.segments is not None
    assert found.segments.tolist() == [[0] * 4 + [1] * 4, [0] * 3 + [1] * 2 + [0] * 3, [0] * 3 + [1] + [0] * 4]


def test_layouts_without_segments_and_with_two_separators() -> None:
    pairs = Pairs(ROBERTA, 9, Tokens(), max_passage_tokens=8, passage_prefix=NO_PREFIX)
    found = pairs.assemble(Batch.single(ints(5), ints(3)))
    assert found.ids.tolist() == [[1, 5, 2, 2, 31, 32, 2, 9]]
    assert found.segments is None


def test_a_passage_prefix_belongs_to_the_passage() -> None:
    pairs = Pairs(BERT, 0, Tokens(), max_passage_tokens=1, passage_prefix=ints(8, 9))
    found = pairs.assemble(Batch.single(ints(5), ints(0)))
    assert found.ids.tolist() == [[101, 5, 102, 8, 9, 11, 102, 0]]
    assert found.segments is not None
    assert found.segments.tolist() == [[0, 0, 0, 1, 1, 1, 1, 0]]
    assert pairs.lengths(ints(5), ints(0)).tolist() == [7]


def test_lengths_are_those_of_the_assembled_pairs() -> None:
    pairs, rows = Pairs(BERT, 0, Tokens(), max_passage_tokens=3, passage_prefix=NO_PREFIX), ints(3, 2, 1, 0)
    found = pairs.assemble(Batch.single(ints(5, 6), rows))
    assert pairs.lengths(ints(5, 6), rows).tolist() == found.mask.sum(1).tolist() == [7, 5, 6, 8]


@pytest.mark.parametrize("seed", range(5))
def test_assembling_agrees_with_joining_lists(seed: int) -> None:
    random = np.random.default_rng(seed)
    texts = [random.integers(10, 99, random.integers(0, 12)) for _ in range(20)]
    tokens = Tokens()
    tokens.ids = np.concatenate(texts).astype(np.int32)
    tokens.offsets = np.cumsum([0, *map(len, texts)])
    queries = tuple(random.integers(10, 99, size).astype(np.int32) for size in (4, 0, 9))
    query_of, rows = random.integers(0, 3, 30).astype(np.int32), random.integers(0, 20, 30).astype(np.int32)
    pairs = Pairs(ROBERTA, 0, tokens, max_passage_tokens=7, passage_prefix=NO_PREFIX)
    found = pairs.assemble(Batch(queries, query_of, rows))
    for pair, (query, row) in enumerate(zip(query_of, rows, strict=True)):
        expected = [1, *queries[query], 2, 2, *texts[row][:7], 2]
        assert found.ids[pair, : len(expected)].tolist() == expected
        assert found.mask[pair].sum() == len(expected)
    assert found.ids.shape[1] % 8 == 0
