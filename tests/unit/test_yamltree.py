from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cascade.errors import ConfigError, Problem
from cascade.yamltree import MAX_BYTES, MAX_DEPTH, MAX_VALUES, Tree, parse_yaml, render, scalar, show


def only_problem(text: str) -> Problem:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "f.yaml")
    (problem,) = caught.value.problems
    return problem


def test_every_value_knows_its_line() -> None:
    tree = parse_yaml("a: 1\nb:\n  - x\n  - {c: 2,\n     d: 3}\n", "f.yaml")
    assert tree.data == {"a": 1, "b": ["x", {"c": 2, "d": 3}]}
    assert tree.line(("a",)) == 1
    assert tree.line(("b", 0)) == 3
    assert tree.line(("b", 1, "d")) == 5


def test_what_has_no_line_has_that_of_what_is_around_it() -> None:
    tree = parse_yaml("a:\n  b: {c: 1}\n", "f.yaml")
    assert tree.line(("a", "b", "missing", 3)) == 2
    assert Tree().line(("a",)) == 0


def test_scalars_are_null_truth_number_or_text() -> None:
    text = "[null, ~, true, no, 12, -0x1f, 1.5, .inf, 'no', \"1\", 2020-01-02, 2020-99-99, =, <<, 1e3]"
    data = parse_yaml(text, "f.yaml").data
    assert data == [
        *(None, None, True, False, 12, -31, 1.5, float("inf")),
        *("no", "1", "2020-01-02", "2020-99-99", "=", "<<", "1e3"),
    ]


@pytest.mark.parametrize("digits", ["1" * 5000, "0x_"])
def test_a_number_that_python_will_not_read_stays_text(digits: str) -> None:
    assert parse_yaml(f"a: {digits}", "f.yaml").data == {"a": digits}


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a: 1\nb: [1\nc: 2", 3, "not valid YAML: did not find expected ',' or ']'"),
        ("a:\n\t- b", 2, "not valid YAML: found character that cannot start any token"),
        ("a: 1\nb: \x00", 2, "not valid YAML: control characters are not allowed, got character U+0000"),
        ('a: "\\ud800"', 1, "not valid YAML: found invalid Unicode character escape code"),
        ("a: 1\nb: \ud800", 2, "expected Unicode text, got half a surrogate pair, U+D800; remove it"),
        ("a: &x 1", 1, "anchors are not allowed, got &x; write the value out where it is used"),
        ("a: 1\nb: *x", 2, "aliases are not allowed, got *x; write the value out"),
        ("a: !!python/object:os.system x", 1, "tags are not allowed, got 'tag:yaml.org,2002:python/object:os.system'"),
        ("a: !local {b: c}", 1, "tags are not allowed, got '!local'; write plain values"),
        ("a: ! x", 1, "tags are not allowed, got '!'; write plain values"),
        ("a: 1\n---\nb: 2", 2, "expected one document, got a second one; put it in a file of its own"),
        ("", 0, "expected a mapping with version, name and stages, got an empty file"),
        ("# nothing\n", 0, "expected a mapping with version, name and stages, got an empty file"),
    ],
)
def test_what_is_refused_at_sight(text: str, line: int, message: str) -> None:
    problem = only_problem(text)
    assert problem.line == line
    assert problem.path == ""
    assert problem.message.startswith(message)


def test_an_alias_bomb_is_refused_at_its_first_anchor() -> None:
    bomb = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    assert only_problem(bomb) == Problem("", "anchors are not allowed, got &a; write the value out where it is used", 1)


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? "])
def test_deep_nesting_is_refused_at_the_limit(opening: str) -> None:
    problem = only_problem(opening * 50_000)
    assert problem.message == f"expected at most {MAX_DEPTH} levels of nesting, got more"


def test_nesting_to_the_limit_is_read() -> None:
    data = parse_yaml("[" * MAX_DEPTH + "]" * MAX_DEPTH, "f.yaml").data
    for _ in range(MAX_DEPTH - 1):
        (data,) = data
    assert data == []


def test_too_many_values_are_refused_before_any_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    composed: list[str] = []
    monkeypatch.setattr(yaml, "compose", lambda text, Loader: composed.append(text))  # noqa: N803
    problem = only_problem("a: [" + "1," * MAX_VALUES + "]")
    assert "keys and values, got more" in problem.message
    assert composed == []


def test_a_large_text_is_refused_before_it_is_scanned(monkeypatch: pytest.MonkeyPatch) -> None:
    scanned: list[str] = []
    monkeypatch.setattr(yaml, "parse", lambda text, Loader: scanned.append(text))  # noqa: N803
    problem = only_problem("é" * (MAX_BYTES // 2 + 1))
    assert (
        problem.message == f"expected at most {MAX_BYTES} bytes, got {MAX_BYTES + 2}; a cascade file is a page or two"
    )
    assert scanned == []


def test_duplicate_and_impossible_keys_are_kept_for_the_report_and_reading_goes_on() -> None:
    text = "a: 1\nb: {c: 1, c: 2}\na: 3\n1: x\n? [d]\n: y\n? {e: f}\n: z\nnull: q\nlast: 1\n"
    tree = parse_yaml(text, "f.yaml")
    assert tree.data == {"a": 1, "b": {"c": 1}, "last": 1}
    assert tree.problems == [
        Problem("b", "duplicate key 'c', first given in line 2; keep one", 2),
        Problem("", "duplicate key 'a', first given in line 1; keep one", 3),
        Problem("", "expected a string as key, got 1; put it in quotes", 4),
        Problem("", "expected a string as key, got a list or mapping; put it in quotes", 5),
        Problem("", "expected a string as key, got a list or mapping; put it in quotes", 7),
        Problem("", "expected a string as key, got null; put it in quotes", 9),
    ]


@pytest.mark.parametrize(
    ("where", "path"),
    [
        ((), ""),
        (("stages", 2, "top_k"), "stages[2].top_k"),
        (("a\nb\x1b[31m",), "'a\\nb\\x1b[31m'"),
        (("passages", ""), "passages.''"),
        (("k" * 100,), "'" + "k" * 76 + "..."),
    ],
)
def test_paths_are_one_printable_line(where: tuple[str | int, ...], path: str) -> None:
    assert render(where) == path


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "null"), (True, "true"), (False, "false"), (1, "1"), ("1", "'1'"), ([None], "[None]"), ("a\n", "'a\\n'")],
)
def test_values_are_quoted_as_yaml_says_them(value: object, shown: str) -> None:
    assert show(value) == shown


def test_long_values_are_cut() -> None:
    assert len(show("x" * 10_000)) == 80


TEXTS = st.text('aé😀"\\\n\t:#')
PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS


@given(st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3)))
def test_a_written_value_is_read_back(value: object) -> None:
    """JSON's own 5e-05 would come back as text, and its halves of an emoji apart."""
    assert yaml.safe_load(scalar(value)) == value
