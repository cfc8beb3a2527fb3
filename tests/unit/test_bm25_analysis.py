from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from stages.bm25.analysis import ENGLISH_STOP_WORDS, MAX_TERM, Analyser


@pytest.fixture(scope="module")
def words() -> Analyser:
    return Analyser("none", "none")


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("The Cat SAT.", ["the", "cat", "sat"]),
        ("covid-19 state-of-the-art", ["covid", "19", "state", "of", "the", "art"]),
        ("csv.reader", ["csv.reader", "csv", "reader"]),
        ("snake_case __init__", ["snake_case", "snake", "case", "init"]),
        ("std::vector", ["std::vector", "std", "vector"]),
        ("CamelCase HTTPServer", ["camelcase", "camel", "case", "httpserver", "http", "server"]),
        ("end.Next", ["end.next", "end", "next"]),
        ("U.S.A. e.g.", ["usa", "eg"]),
        ("1,000,000 and 1,2", ["1000000", "and", "1", "2"]),
        ("3.14 2.0.1 10.0.0.1", ["3.14", "2.0.1", "10.0.0.1"]),
        ("python3.11 BM25", ["python3.11", "python3", "11", "bm25"]),
        ("don't O’Neil", ["don't", "o'neil"]),
        ("", []),
        ("... --- !?", []),
    ],
)
def test_words_compounds_and_numbers(words: Analyser, text: str, terms: list[str]):
    assert words(text) == terms


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("Größe STRASSE straße", ["grösse", "strasse", "strasse"]),
        ("cafe\u0301 café", ["café", "café"]),
        ("Ｈｅｌｌｏ ﬁre", ["hello", "fire"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("مرحبا بالعالم", ["مرحبا", "بالعالم"]),
        ("한국어 문서", ["한국어", "문서"]),
        ("東京都 水 BM25検索", ["東京", "京都", "水", "bm25", "検索"]),
        ("a\ud800b \0c 😀 👩\u200d👧 d", ["a", "b", "c", "d"]),
    ],
)
def test_writing_systems(words: Analyser, text: str, terms: list[str]):
    assert words(text) == terms


def test_a_decomposed_text_gives_the_terms_of_the_composed_one(words: Analyser):
    assert words("e\u0301te\u0301 " * 500) == words("été " * 500)


def test_stop_words_are_dropped_whatever_their_case():
    assert Analyser("none", "english")("To be, or NOT to be: that is THE question") == ["question"]
    assert len(ENGLISH_STOP_WORDS) == 33


def test_stemming_joins_forms_and_keeps_the_language_apart():
    assert Analyser("english", "none")("reading reads read's") == ["read", "read", "read"]
    assert Analyser("german", "none")("Häuser Hauses") == ["haus", "haus"]


@pytest.mark.parametrize(
    "unit", ["x", "a.", "a_", "aB", "'a", "1,000,", "水", "\u0300\u0327", "\u0958", "½", "\ufdfa", " ", "\ud800"]
)
def test_a_megabyte_without_spaces_gives_short_terms(words: Analyser, unit: str):
    text = "a" + unit * (2**20 // len(unit.encode("utf-8", "surrogatepass")))

    terms = words(text)

    assert max(map(len, terms)) <= MAX_TERM
    assert len(terms) <= 18 * len(text)


def test_long_words_are_cut_not_lost(words: Analyser):
    assert [len(term) for term in words("x" * 300)] == [128, 128, 44]


def test_threads_agree():
    text = " ".join(f"reading{i} houses{i} running" for i in range(2_000))
    shared, expected = Analyser(), Analyser()(text)

    with ThreadPoolExecutor(4) as pool:
        assert all(terms == expected for terms in pool.map(shared, [text] * 8))
