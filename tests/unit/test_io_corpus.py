import gzip
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cascade.errors import InputError
from cascade.io import Corpus, read_corpus
from cascade.io.html_text import html_text
from cascade.types import Document


def documents(path: Path, **options: int) -> list[Document]:
    return [item.document for item in read_corpus(path, **options)]


def write(path: Path, content: str | bytes) -> Path:
    data = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


TWO_LINES = '{"_id": "a", "title": "T", "text": "one", "year": 2020}\n\n{"id": 7, "text": "zwei ü"}\n'


@pytest.mark.parametrize("name", ["c.jsonl", "c.jsonl.gz", "c.ndjson", "v1.2.jsonl"])
def test_jsonl_gives_id_title_text_and_everything_else_as_metadata(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, TWO_LINES)
    items = list(read_corpus(path))
    assert [item.document for item in items] == [
        Document("a", "one", "T", {"year": 2020}),
        Document("7", "zwei ü", "", {}),
    ]
    assert [item.place for item in items] == [f"{path}:1", f"{path}:3"]


def test_beir_folder_reads_its_corpus_and_unfolds_the_metadata_field(tmp_path: Path) -> None:
    write(tmp_path / "corpus.jsonl.gz", '{"_id": "a", "text": "t", "title": null, "metadata": {"url": "u"}, "x": [1]}')
    assert documents(tmp_path) == [Document("a", "t", "", {"url": "u", "x": [1]})]


def test_tsv_without_header_has_two_or_three_columns(tmp_path: Path) -> None:
    assert documents(write(tmp_path / "a.tsv", "1\tone\r\n2\ttwo\n")) == [Document("1", "one"), Document("2", "two")]
    assert documents(write(tmp_path / "b.tsv", "1\tT\tone\n")) == [Document("1", "one", "T")]


def test_tsv_header_names_the_columns_in_any_order(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "\ufefftext\tlang\tdoc_id\none\ten\td1\n")
    assert documents(path) == [Document("d1", "one", "", {"lang": "en"})]


def test_csv_reads_quotes_newlines_and_fields_beyond_the_modules_own_limit(tmp_path: Path) -> None:
    long = "word " * 40_000
    path = write(tmp_path / "a.csv", f'id,title,text,lang\n1,"A ""b""","two\nlines",en\n2,,"{long}",\n')
    items = list(read_corpus(path))
    assert items[0].document == Document("1", "two\nlines", 'A "b"', {"lang": "en"})
    assert items[1].document.text == long
    assert [item.place for item in items] == [f"{path}:2", f"{path}:4"]


def test_parquet_converts_what_json_cannot_hold(tmp_path: Path) -> None:
    import datetime

    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    table = pa.table(
        {"id": [1, 2], "text": ["one", "two"], "day": [datetime.date(2020, 1, 2), None], "tags": [["a"], []]}
    )
    path = tmp_path / "c.parquet"
    pq.write_table(table, path)
    items = list(read_corpus(path))
    assert items[0].document == Document("1", "one", "", {"day": "2020-01-02", "tags": ["a"]})
    assert items[1].document.metadata == {"day": None, "tags": []}
    assert items[1].place == f"{path}:row 2"


def test_parquet_damage_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"c\.parquet: expected Parquet"):
        documents(write(tmp_path / "c.parquet", b"PAR1 not really"))


def test_folder_of_texts_is_sorted_titled_and_identified_by_relative_path(tmp_path: Path) -> None:
    write(tmp_path / "b" / "page.HTML", "<head><title>Pa &amp; ge</title><style>p{}</style></head><p>One</p>two")
    write(tmp_path / "a b%.md", "```\n# not this\n```\n## The title ##\nbody")
    write(tmp_path / "c.txt", "plain")
    write(tmp_path / "c.png", "ignored")
    write(tmp_path / ".git" / "x.txt", "hidden")
    items = list(read_corpus(tmp_path))
    assert [item.document for item in items] == [
        Document("a%20b%25.md", "```\n# not this\n```\n## The title ##\nbody", "The title"),
        Document("b/page.HTML", "One\ntwo", "Pa & ge"),
        Document("c.txt", "plain"),
    ]
    assert items[1].place == str(tmp_path / "b" / "page.HTML")


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
@pytest.mark.parametrize("is_folder", [False, True])
def test_link_out_of_the_folder_is_refused(tmp_path: Path, is_folder: bool) -> None:
    secret = write(tmp_path / "outside" / "secret.txt", "s")
    folder = write(tmp_path / "corpus" / "ok.txt", "fine").parent
    (folder / "link.txt").symlink_to(secret.parent if is_folder else secret)
    with pytest.raises(InputError, match=r"link\.txt: expected every file inside .* got a link to .*outside"):
        documents(folder)


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_links_inside_the_folder_neither_loop_nor_hide_files(tmp_path: Path) -> None:
    write(tmp_path / ".data" / "real.txt", "r")
    (tmp_path / "seen.txt").symlink_to(tmp_path / ".data" / "real.txt")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert documents(tmp_path) == [Document("seen.txt", "r")]


def test_every_iteration_starts_anew(tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl", TWO_LINES)
    corpus = read_corpus(path)
    first = iter(corpus)
    next(first)
    assert [item.document.doc_id for item in corpus] == ["a", "7"]
    assert next(first).document.doc_id == "7"


def test_fingerprint_changes_with_the_files_and_not_with_the_folder(tmp_path: Path) -> None:
    def corpus(folder: str, content: str, mtime: int) -> Corpus:
        path = write(tmp_path / folder / "c.jsonl", content)
        os.utime(path, ns=(0, mtime))
        return read_corpus(path)

    base = corpus("a", TWO_LINES, 5).fingerprint
    assert base.startswith(f"jsonl:1 files:{len(TWO_LINES.encode())} bytes:")
    assert corpus("b", TWO_LINES, 5).fingerprint == base
    assert corpus("b", TWO_LINES, 6).fingerprint != base
    assert corpus("b", TWO_LINES + "\n", 5).fingerprint != base


def test_surrogates_in_text_are_replaced_and_pairs_kept(tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl", r'{"_id": "a", "text": "x\ud800y \ud83d\ude00", "k\udfff": ["\ud800"]}')
    assert documents(path) == [Document("a", "x\ufffdy \U0001f600", "", {"k\ufffd": ["\ufffd"]})]


BAD_LINES = {
    "not json": ("{", "expected a JSON object, got invalid JSON"),
    "not an object": ("[1]", r"expected a JSON object, got list \[1\]"),
    "no id": ('{"text": "t"}', r"expected an id in '_id', 'id' or 'doc_id', got the fields \['text'\]"),
    "no text": ('{"_id": "a"}', "expected the field 'text'"),
    "text of wrong type": ('{"_id": "a", "text": null}', "text: expected a string, got NoneType None"),
    "id of wrong type": ('{"_id": true, "text": ""}', "_id: expected a string or an integer, got bool True"),
    "empty id": ('{"_id": "", "text": ""}', "_id: expected an id, got an empty one"),
    "space in id": ('{"_id": "a b", "text": ""}', r"without whitespace.* got ' ' in str 'a b'; replace it"),
    "NUL in id": (r'{"_id": "a\u0000", "text": ""}', "control characters"),
    "surrogate in id": (r'{"_id": "a\ud800", "text": ""}', "surrogates"),
    "long id": (json.dumps({"_id": "a" * 5000, "text": ""}), "at most 4096 characters, got 5000"),
    "NaN": ('{"_id": "a", "text": "", "x": NaN}', "expected finite numbers, got nan"),
    "deep": ('{"_id": "a", "text": "", "x": ' + "[" * 40 + "]" * 40 + "}", "at most 32 levels"),
    "very deep": ('{"_id": "a", "text": "", "x": ' + "[" * 10**5 + "]" * 10**5 + "}", "nested too deeply"),
    "very long number": ('{"_id": ' + "9" * 5000 + ', "text": ""}', "got: Exceeds the limit"),
}


@pytest.mark.parametrize("case", BAD_LINES)
def test_bad_record_names_its_line(tmp_path: Path, case: str) -> None:
    line, message = BAD_LINES[case]
    path = write(tmp_path / "c.jsonl", '{"_id": "ok", "text": ""}\n' + line)
    with pytest.raises(InputError, match=message) as caught:
        documents(path)
    assert str(caught.value).startswith(f"{path}:2: ")
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.jsonl", b'{"_id": "a", "text": "\xff"}', "c.jsonl:1: expected UTF-8, got byte 0xff at byte 23"),
        ("c.jsonl", b"", "c.jsonl: expected at least one document, found none"),
        ("c.jsonl", b"\n \n", "c.jsonl: expected at least one document, found none"),
        ("c.tsv", b"1\n", "c.tsv:1: expected id and text, or id, title and text"),
        ("c.tsv", b"1\tone\n2\ttw\to\n", r"c.tsv:2: expected 2 columns \(_id, text\), got 3"),
        ("c.tsv", b"id\ttext\tid\n", "c.tsv:1: expected each column once, got 'id' twice"),
        ("c.csv", b"1,one\n", "c.csv:1: expected a header with an id column and 'text'"),
        ("c.csv", b'id,text\n1,"one\n2,two\n', "c.csv:2: expected CSV, got: unexpected end of data"),
        ("c.csv", b"id,text\n1,one,more\n", r"c.csv:2: expected 2 columns \(id, text\), got 3"),
        ("c.docx", b"x", r"c.docx: expected a folder or a file that ends in .jsonl"),
    ],
)
def test_bad_file_is_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        documents(write(tmp_path / name, content))


def test_truncated_and_false_gzip_are_refused(tmp_path: Path) -> None:
    packed = gzip.compress(os.urandom(1000).hex().encode())
    for data in (packed[:500], b"not gzip", packed[:-8] + b"\0" * 8):
        path = tmp_path / "c.jsonl.gz"
        path.write_bytes(data)
        with pytest.raises(InputError, match="expected a complete gzip file"):
            documents(path)


def test_line_or_file_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl", TWO_LINES)
    assert len(documents(path, max_bytes=60)) == 2
    with pytest.raises(InputError, match=r"c\.jsonl:1: expected a line of at most 20 bytes"):
        documents(path, max_bytes=20)
    write(tmp_path / "f" / "x.txt", "x" * 21)
    with pytest.raises(InputError, match=r"x\.txt: expected a file of at most 20 bytes"):
        documents(tmp_path / "f", max_bytes=20)


def test_missing_path_and_empty_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found nothing there"):
        read_corpus(tmp_path / "no.jsonl")
    with pytest.raises(InputError, match="expected at least one document"):
        documents(tmp_path)


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ("a < b <3 &lt;i&gt; &#xD800;", ("", "a < b <3 <i> \ufffd")),
        ('<p title="a > b">in<!-- > out --> in', ("", "in in")),
        ("<p title=it's>x</p>y", ("", "x\ny")),
        ("<SCRIPT>if (a</b>) '</p>'</Script >x<style>y", ("", "x")),
        ("line\nbreaks<br>are\n  blocks", ("", "line breaks\nare blocks")),
        ("<title>one\n two</title><svg><title>no</title></svg>x", ("one two", "x")),
        ("<!doctype html><?php x ?>t<a href='", ("", "t")),
    ],
)
def test_html_keeps_what_a_reader_sees(page: str, expected: tuple[str, str]) -> None:
    assert html_text(page) == expected


@pytest.mark.parametrize(
    "piece", ["<!--", "<a ", "<a b='", "<![CDATA[", "</", "<?", "<script>", "<title>", "&#", "= '"]
)
def test_unclosed_markup_takes_linear_time(piece: str) -> None:
    # Quadratic work on these 2.5 MB would run for hours.
    assert isinstance(html_text(piece * 500_000), tuple)


def test_endless_entity_is_an_input_error(tmp_path: Path) -> None:
    write(tmp_path / "x.html", f"&#{'9' * 5000};")
    with pytest.raises(InputError, match=r"x\.html: expected HTML, got a malformed entity"):
        documents(tmp_path)


def test_reading_text_formats_does_not_import_pyarrow() -> None:
    code = "import sys, cascade.io; sys.exit('pyarrow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_corpus_streams_instead_of_reading_all(tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl", '{"_id": "a", "text": "t"}\n' + "broken\n")
    stream = iter(read_corpus(path))
    assert next(stream).document.doc_id == "a"
    with pytest.raises(InputError, match=re.escape(f"{path}:2")):
        next(stream)
