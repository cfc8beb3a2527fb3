import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from cascade.errors import ModelError
from stages.models import CATALOGUE, HFTokenizer, layout, pad
from tests.models_for_tests import CLASSIFIERS, TEXTS, tiny_bert_classifier

MINILM = CATALOGUE[0].folder()


@pytest.fixture(scope="module")
def minilm() -> HFTokenizer:
    return HFTokenizer(MINILM, 256)


def test_ids_are_those_of_the_published_vocabulary(minilm: HFTokenizer) -> None:
    assert minilm.encode(["hello world"])[0].tolist() == [7592, 2088]
    assert (minilm.cls_id, minilm.sep_id, minilm.pad_id, minilm.mask_id) == (101, 102, 0, 103)
    assert (minilm.vocab_size, minilm.token_id("[unused0]"), minilm.window) == (30522, 1, 256)


def test_a_token_that_is_not_there_is_a_model_error(minilm: HFTokenizer) -> None:
    with pytest.raises(ModelError, match="no such token"):
        minilm.token_id("no-such-token")


def test_nothing_is_truncated_padded_or_added(minilm: HFTokenizer) -> None:
    long, empty = minilm.encode(["cat " * 5000, ""])
    assert long.tolist() == [4937] * 5000
    assert (len(empty), long.dtype, empty.dtype) == (0, np.int32, np.int32)
    assert minilm.encode([]) == []


@pytest.mark.parametrize("text", ["a\ud800b", "\udfff", "nul\0here", "‮right to left", "🙂" * 50, "e\u0301 \u00e9"])
def test_any_text_is_tokenised_and_its_spans_match(minilm: HFTokenizer, text: str) -> None:
    spans = minilm.spans(text)
    assert spans.shape == (len(minilm.encode([text])[0]), 2)
    assert np.all((spans[:, 0] >= 0) & (spans[:, 0] <= spans[:, 1]) & (spans[:, 1] <= len(text)))


def test_spans_count_characters_of_the_original_text(minilm: HFTokenizer) -> None:
    text = "\ud800 Ünder 🙂 water"
    assert [text[a:b] for a, b in minilm.spans(text)][0::2] == ["Ünder", "water"]


@pytest.mark.parametrize("build", CLASSIFIERS.values(), ids=CLASSIFIERS)
def test_a_text_cannot_forge_special_tokens(build, tmp_path: Path) -> None:
    tokenizer = HFTokenizer(build(tmp_path), 64)
    forged = tokenizer.encode(["cat [SEP] </s> [CLS] <s> [PAD] <pad> [MASK] <mask> dog"])[0]
    assert not {tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id, tokenizer.mask_id} & set(forged.tolist())


def test_the_start_of_a_text_is_found_without_reading_all_of_it(minilm: HFTokenizer) -> None:
    text = "one two three four five"
    assert minilm.encode_start(text, 3).tolist() == minilm.encode([text])[0][:3].tolist()
    assert len(minilm.encode_start("cat " * 1_000_000, 64)) == 64
    assert len(minilm.encode_start("x" * 1_000_000, 64)) <= 64


def test_padding_truncation_and_templates_do_not_change_the_fingerprint(minilm: HFTokenizer, tmp_path: Path) -> None:
    rules = json.loads((MINILM / "tokenizer.json").read_text())
    assert rules["truncation"] is not None
    rules.update(truncation=None, padding=None, post_processor=None)
    (tmp_path / "tokenizer.json").write_text(json.dumps(rules))
    assert HFTokenizer(tmp_path, 32).fingerprint == minilm.fingerprint
    rules["normalizer"]["lowercase"] = False
    (tmp_path / "tokenizer.json").write_text(json.dumps(rules))
    assert HFTokenizer(tmp_path, 32).fingerprint != minilm.fingerprint


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"version": "1.0"}'])
def test_a_damaged_file_is_a_model_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ModelError, match=r"tokenizer.json: cannot read the tokenizer"):
        HFTokenizer(tmp_path, 32)


def test_threads_may_share_a_tokenizer(minilm: HFTokenizer) -> None:
    alone = minilm.encode(TEXTS)
    with ThreadPoolExecutor(4) as pool:
        for ids in pool.map(minilm.encode, [TEXTS] * 16):
            assert all(np.array_equal(a, b) for a, b in zip(alone, ids, strict=True))


@pytest.mark.parametrize(
    ("name", "before", "between", "after", "segments"),
    [
        ("bert", ["[CLS]"], ["[SEP]"], ["[SEP]"], True),
        ("distilbert", ["[CLS]"], ["[SEP]"], ["[SEP]"], False),
        ("roberta", ["<s>"], ["</s>", "</s>"], ["</s>"], False),
        ("deberta-v3", ["[CLS]"], ["[SEP]"], ["[SEP]"], False),
    ],
)
def test_the_layout_is_asked_of_the_tokenizer(tmp_path: Path, name, before, between, after, segments) -> None:
    folder = CLASSIFIERS[name](tmp_path)
    found, tokenizer = layout(folder), HFTokenizer(folder, 32)
    parts = [tuple(map(tokenizer.token_id, part)) for part in (before, between, after)]
    assert [found.before, found.between, found.after] == parts
    assert (found.head, found.tail) == (parts[0], parts[2])
    assert found.segments is segments
    assert (found.single_extra, found.pair_extra) == (2, 2 + len(between))


def test_a_checkpoint_that_takes_no_segment_ids_gets_none(tmp_path: Path) -> None:
    path = tiny_bert_classifier(tmp_path) / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_input_names": ["input_ids", "attention_mask"]}))
    assert layout(tmp_path).segments is False


def test_an_unknown_order_of_segments_is_refused(tmp_path: Path) -> None:
    bert = tiny_bert_classifier(tmp_path)
    rules = json.loads((bert / "tokenizer.json").read_text())
    special = {name: {"id": name, "ids": [id_], "tokens": [name]} for name, id_ in (("[CLS]", 2), ("[SEP]", 3))}
    single = [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "[SEP]", "type_id": 0}}]
    pair = [*single, {"Sequence": {"id": "B", "type_id": 0}}, {"SpecialToken": {"id": "[SEP]", "type_id": 1}}]
    rules["post_processor"] = {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special}
    (bert / "tokenizer.json").write_text(json.dumps(rules))
    with pytest.raises(ModelError, match="expected segment 0 for the first text and 1 for the second"):
        layout(bert)


def test_pad_fills_up_on_the_right_to_a_multiple() -> None:
    ids, mask = pad([np.array([5, 6, 7], np.int32), np.array([], np.int32)], pad_id=9, multiple=4)
    assert ids.tolist() == [[5, 6, 7, 9], [9, 9, 9, 9]]
    assert mask.tolist() == [[1, 1, 1, 0], [0, 0, 0, 0]]
    assert pad([], 0)[0].shape == (0, 0)
