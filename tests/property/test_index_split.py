from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from cascade.index import MemoryPassages, PassageSettings
from cascade.index.documents import byte_slices
from cascade.index.split import Splitter
from cascade.types import Document
from tests.index_for_tests import WordTokenizer

TEXTS = st.text(st.sampled_from("ab .!?\n\t-é漢🙂。\0"), max_size=300)


@given(TEXTS, TEXTS.map(lambda text: text[:40]), st.integers(1, 40), st.integers(0, 50))
@settings(max_examples=300, deadline=None)
def test_passages_cover_the_text_in_order_and_fit(text: str, title: str, window: int, overlap: int) -> None:
    tokenizer = WordTokenizer(window)
    document = Document("d", text, title)
    slices = Splitter(PassageSettings(overlap_tokens=overlap), [tokenizer]).split([document])[0]
    assert slices[0][0] == 0
    assert slices[-1][1] == len(text)
    for (begin, end), (following, following_end) in pairwise(slices):
        assert begin < following
        assert end <= following_end
        assert text[end:following].strip() == "", "nothing but white space lies between passages"
    title_tokens = len(tokenizer.encode([title])[0])
    room = max(window - title_tokens, window // 4, 1)
    if len(slices) > 1:
        assert all(len(tokenizer.encode([text[start:stop]])[0]) <= room for start, stop in slices)


@given(TEXTS, st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), max_size=6))
@settings(max_examples=200, deadline=None)
def test_byte_slices_cut_what_character_slices_cut(text: str, ends: list[tuple[int, int]]) -> None:
    slices = [tuple(sorted(min(end, len(text)) for end in pair)) for pair in ends]
    encoded = text.encode()
    found = [encoded[start:stop].decode() for start, stop in byte_slices(text, slices)]  # type: ignore[arg-type]
    assert found == [text[start:stop] for start, stop in slices]


@given(st.lists(TEXTS, max_size=5))
@settings(max_examples=100, deadline=None)
def test_every_row_belongs_to_a_document_that_knows_it(texts: list[str]) -> None:
    documents = [Document(str(number), text) for number, text in enumerate(texts)]
    passages = MemoryPassages(documents, PassageSettings(overlap_tokens=2), [WordTokenizer(8)])
    rows = [row for document in documents for row in passages.rows_of(document.doc_id).tolist()]
    assert rows == list(range(len(passages)))
