from __future__ import annotations

import numpy as np
import pytest

from stages.models import HFTokenizer
from stages.models.catalogue import bundled
from stages.training.keywords import Keywords
from stages.training.tokens import tokenise


@pytest.fixture(scope="module")
def tokenizer() -> HFTokenizer:
    return HFTokenizer(bundled("bundled:bi-encoder").folder(), 32)


@pytest.mark.parametrize(
    ("question", "typed"),
    [
        ("What is the capital of Peru?", "capital Peru"),
        ("Which planets do not have moons?", "planets not have moons"),
        ("How do I get from Rome to Pisa?", "get from Rome to Pisa"),
        ("Who are you?", "Who are you?"),  # a single keyword is left, which asks nothing
    ],
)
def test_a_question_is_cut_to_what_would_be_typed(tokenizer: HFTokenizer, question: str, typed: str) -> None:
    asked, expected = tokenise(tokenizer, [question, typed], 32)
    np.testing.assert_array_equal(Keywords.of(1.0, tokenizer, 0).cut(asked, 0), expected)


def test_about_the_asked_share_of_groups_is_cut_and_always_the_same_ones(tokenizer: HFTokenizer) -> None:
    (asked,) = tokenise(tokenizer, ["What is the capital of Peru?"], 32)

    def cut(seed: int) -> list[bool]:
        some = Keywords.of(0.25, tokenizer, seed)
        return [len(some.cut(asked, number)) < len(asked) for number in range(2000)]

    assert 0.2 < np.mean(cut(0)) < 0.3
    assert cut(0) == cut(0)
    assert cut(0) != cut(1)
