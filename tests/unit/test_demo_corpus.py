import re
import subprocess
import sys
from collections import Counter

import pytest
import Stemmer

from cascade.cli.app import run_command
from cascade.demo import gather, load_questions
from cascade.demo._parsing import Library
from cascade.errors import InputError
from cascade.io import read_corpus, read_qrels, read_queries

KINDS = {"module", "class", "function", "method", "property"}
CATEGORIES = {"plain", "paraphrase", "negation", "look-alike", "condition", "error-driven", "task", "keyword"}
FUNCTION_WORDS = """
    a an and any are as at be been but by can do does for from has have how i if in into is it its me more my no not of
    off on one or out over several so some that the their them these they thing this to two up what when which while
    who will with would you your
"""


@pytest.fixture(scope="module")
def corpus():
    return list(gather())


@pytest.fixture(scope="module")
def by_id(corpus):
    return {document.doc_id: document for document in corpus}


@pytest.fixture(scope="module")
def questions(by_id):
    return load_questions(by_id)


def test_there_are_several_thousand_documents_each_under_one_well_formed_name(corpus):
    ids = [document.doc_id for document in corpus]
    assert len(ids) > 4000
    assert ids == sorted(set(ids))
    assert [i for i in ids if not all(re.fullmatch(r"[A-Za-z]\w*", part) for part in i.split("."))] == []


def test_every_document_has_a_docstring_a_title_that_starts_with_its_name_and_a_known_kind(corpus):
    for document in corpus:
        assert document.text.strip() == document.text != ""
        assert document.title.startswith(document.doc_id)
        assert document.metadata["kind"] in KINDS
        assert document.metadata["module"]


def test_gathering_twice_gives_the_same_documents(corpus):
    assert list(gather()) == corpus


@pytest.mark.parametrize(
    ("doc_id", "kind"),
    [
        ("csv", "module"),
        ("csv.reader", "function"),
        ("str.split", "method"),
        ("dict.get", "method"),
        ("sorted", "function"),
        ("KeyError", "class"),
        ("OSError", "class"),
        ("json.dumps", "function"),
        ("json.JSONDecoder", "class"),
        ("collections.deque", "class"),
        ("collections.Counter.most_common", "method"),
        ("collections.abc.Mapping", "class"),
        ("os.path.join", "function"),
        ("os.listdir", "function"),
        ("pathlib.Path.mkdir", "method"),
        ("pathlib.PurePath.suffix", "property"),
        ("asyncio.sleep", "function"),
        ("random.randint", "function"),
        ("datetime.datetime.strptime", "method"),
        ("decimal.Decimal.quantize", "method"),
        ("socket.socket.settimeout", "method"),
        ("signal.signal", "function"),
        ("concurrent.futures.ThreadPoolExecutor", "class"),
        ("multiprocessing.Pool", "function"),
        ("ipaddress.IPv4Network.hosts", "method"),
    ],
)
def test_documents_have_the_name_that_people_use(by_id, doc_id, kind):
    assert by_id[doc_id].metadata["kind"] == kind


@pytest.mark.parametrize(
    "doc_id",
    [
        "_csv.reader",
        "asyncio.tasks.sleep",
        "json.decoder.JSONDecoder",
        "posixpath.join",
        "random.Random.randint",
        "EnvironmentError",
        "os.MutableMapping",
        "tkinter",
        "this",
    ],
)
def test_second_names_private_names_and_left_out_modules_are_absent(by_id, doc_id):
    assert doc_id not in by_id


def test_titles_show_arguments_without_self(by_id):
    assert by_id["str.split"].title == "str.split(sep=None, maxsplit=-1)"
    assert by_id["contextlib.ExitStack.callback"].title == "contextlib.ExitStack.callback(callback, /, *args, **kwds)"
    assert by_id["os.path.join"].title == "os.path.join(a, *p)"


def test_gathering_imports_nothing_graphical_and_says_nothing():
    program = (
        "import sys\n"
        "from cascade.demo import gather\n"
        "count = sum(1 for _ in gather())\n"
        "unwanted = {'tkinter', '_tkinter', 'turtle', 'this', 'antigravity', 'idlelib', 'curses', 'torch'}\n"
        "print(count > 4000, sorted(unwanted & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("True []\n", "")


def test_a_library_is_read_without_running_it(tmp_path):
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "__init__.py").write_text('"""A package."""\nfrom ._inner import *\nraise SystemExit\n')
    (tmp_path / "pkg" / "_inner.py").write_text(
        "class _Base:\n"
        "    def shared(self, x: int = 1) -> int:\n"
        '        """Inherited from a private base."""\n'
        "class Thing(_Base):\n"
        '    """A thing."""\n'
        "    @property\n"
        "    def size(self):\n"
        '        """How big."""\n'
        "def undocumented(): ...\n"
        "def _private():\n"
        '    """Not for users."""\n'
    )
    library = Library({"pkg": tmp_path / "pkg" / "__init__.py", "pkg._inner": tmp_path / "pkg" / "_inner.py"})
    found = {entry.name: (entry.kind, entry.signature) for entry in library.entries(["pkg"])}
    assert found == {
        "pkg": ("module", ""),
        "pkg.Thing": ("class", ""),
        "pkg.Thing.shared": ("method", "(x=1)"),
        "pkg.Thing.size": ("property", ""),
    }


def test_every_question_has_an_answer_under_this_python(by_id, questions):
    queries, qrels, report = questions
    assert len(queries) >= 180
    assert len({query.query_id for query in queries}) == len({query.text for query in queries}) == len(queries)
    answered = {qrel.query_id for qrel in qrels if qrel.relevance == 2 and qrel.doc_id in by_id}
    assert answered == {query.query_id for query in queries}
    assert report.dropped_questions == ()


def test_every_category_has_enough_questions_and_zero_judgments(questions):
    _, qrels, report = questions
    counts = Counter(report.categories.values())
    assert set(counts) == CATEGORIES
    assert min(counts.values()) >= 18
    assert {report.categories[qrel.query_id] for qrel in qrels if qrel.relevance == 0} == CATEGORIES


def test_judgments_are_unique_graded_0_to_2_and_few_are_lost_to_the_version(questions):
    _, qrels, report = questions
    assert len({(qrel.query_id, qrel.doc_id) for qrel in qrels}) == len(qrels) == report.judgments
    assert {qrel.relevance for qrel in qrels} == {0, 1, 2}
    assert report.dropped_judgments < 0.05 * report.judgments


def test_paraphrases_share_no_content_word_with_the_documents_that_answer_them(by_id, questions):
    queries, qrels, report = questions
    stem = Stemmer.Stemmer("english").stemWord

    def stems(text):
        words = re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", text).lower())
        return {stem(word) for word in words if word not in FUNCTION_WORDS.split()}

    texts = {query.query_id: query.text for query in queries if report.categories[query.query_id] == "paraphrase"}
    shared = {
        (qrel.query_id, qrel.doc_id): common
        for qrel in qrels
        if qrel.query_id in texts and qrel.relevance > 0
        if (common := stems(texts[qrel.query_id]) & stems(by_id[qrel.doc_id].full_text))
    }
    assert shared == {}


def test_judgments_of_absent_documents_are_dropped_and_counted(questions):
    _, all_qrels, _ = questions
    queries, qrels, report = load_questions(["sorted", "list.sort"])
    assert {qrel.doc_id for qrel in qrels} == {"sorted", "list.sort"}
    assert {query.query_id for query in queries} == {qrel.query_id for qrel in qrels}
    assert "plain-01" in report.dropped_questions
    assert report.dropped_judgments > len(all_qrels) / 2


def test_a_foreign_corpus_is_refused():
    with pytest.raises(InputError, match=r"doc_ids: expected ids of the demo corpus, got 1 others"):
        load_questions({"d1"})


def test_the_collection_can_be_written_and_read(corpus, questions, tmp_path, capsys):
    folder = tmp_path / "new" / "demo"
    assert run_command(["demo", "--export", str(folder)]) == 0
    assert [one.document for one in read_corpus(folder)] == corpus
    queries, qrels, _ = questions
    assert read_queries(folder) == queries
    assert read_qrels(folder) == qrels
