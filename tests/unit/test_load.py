from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import Field

from cascade.errors import ConfigError, Problem
from cascade.load import load_config, parse_config
from cascade.registry import Registry
from cascade.schema import CascadeConfig
from cascade.stage import Context, Stage, StageKind, StageSettings
from cascade.yamltree import MAX_BYTES

BM25 = "{name: bm25, kind: bm25, top_k: 100}"
DENSE = "{name: dense, kind: dense, top_k: 100}"
LATE = '{name: late, kind: colbert, model: "bundled:bi-encoder", top_k: 10}'
HEAD = "version: 1\nname: x\nstages:\n"


def problems(text: str, **options: Any) -> list[str]:
    """Every problem of a text as it is printed."""
    with pytest.raises(ConfigError) as caught:
        parse_config(text, source="f.yaml", **options)
    return str(caught.value).splitlines()


def stages(*lines: str) -> str:
    return HEAD + "".join(f"  - {line}\n" for line in lines)


def fusion(*lines: str, own: str = "top_k: 50") -> str:
    inner = "".join(f"      - {line}\n" for line in lines)
    return HEAD + f"  - name: f\n    kind: fusion\n    {own}\n    retrievers:\n{inner}"


def test_a_good_file_keeps_every_setting() -> None:
    config = parse_config(stages(BM25, LATE), source="f.yaml", folder=Path("somewhere"))
    assert (config.source, config.folder, config.settings.name) == ("f.yaml", Path("somewhere"), "x")
    assert [(entry.settings.name, entry.settings.top_k) for entry in config.entries()] == [("bm25", 100), ("late", 10)]
    assert (config.settings.budget_ms, config.settings.on_overrun, config.settings.quantile) == (None, "partial", 0.99)


def test_a_fusion_keeps_its_retrievers_in_order() -> None:
    config = parse_config(fusion(BM25, DENSE))
    assert [entry.settings.name for entry in config.entries()] == ["bm25", "dense", "f"]
    assert config.stages[0].role == "fuser"


# The file


def test_a_missing_file_and_a_folder_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path, tmp_path / "nul\0"):
        with pytest.raises(ConfigError) as caught:
            load_config(path)
        assert str(caught.value).startswith(f"{path}: cannot be read: ")
        assert str(caught.value).endswith("; expected a YAML file")


def test_bytes_that_are_not_utf8_are_named_with_their_line(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes(b"version: 1\nname: caf\xe9\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert caught.value.problems == (Problem("", "expected UTF-8, got byte 0xe9", 2),)


@pytest.mark.parametrize(("prefix", "line_end"), [(b"\xef\xbb\xbf", "\n"), (b"", "\r\n"), (b"\xef\xbb\xbf", "\r\n")])
def test_byte_order_marks_and_line_ends_of_other_systems_are_read(tmp_path: Path, prefix: bytes, line_end: str) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes(prefix + stages(BM25).replace("\n", line_end).encode())
    config = load_config(path)
    assert config.stages[0].settings.name == "bm25"
    assert (config.source, config.folder) == (str(path), tmp_path)


def test_a_large_file_is_refused_after_its_first_bytes(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    with path.open("wb") as file:
        file.truncate(10_000_000)
    with pytest.raises(ConfigError, match=f"expected at most {MAX_BYTES} bytes, got more"):
        load_config(path)


def test_an_endless_file_is_refused_too() -> None:
    with pytest.raises(ConfigError, match=f"expected at most {MAX_BYTES} bytes, got more"):
        load_config("/dev/zero")


# The top level


def test_problems_are_reported_all_at_once_in_the_order_of_the_file() -> None:
    text = """\
version: 2
name: "not a name"
budget: 10
quantile: 1
slack: keep
passages: {max_tokens: 3, overlap: 2}
passages: {}
stages:
  - {name: f, kind: bm25, top_k: 0, k1: x, method: lucen}
  - {name: r, kind: cross_encodr, top_k: 3}
  - {kind: colbert, modell: x}
  - 7
"""
    assert problems(text) == [
        "f.yaml:1: version: expected 1, got 2",
        "f.yaml:2: name: expected a string of at most 64 letters, digits, '.', '_' and '-', got 'not a name'",
        "f.yaml:3: budget: unknown key; did you mean 'budget_ms'?",
        "f.yaml:4: quantile: expected a number >= 0.5 and < 1, got 1",
        "f.yaml:5: slack: expected one of carry, drop, got 'keep'",
        "f.yaml:6: passages.max_tokens: expected an integer >= 16 or null, got 3",
        "f.yaml:6: passages.overlap: unknown key; did you mean 'overlap_tokens'?",
        "f.yaml:7: duplicate key 'passages', first given in line 6; keep one",
        "f.yaml:9: stages[0].k1: expected a number >= 0 and <= 100, got 'x'",
        "f.yaml:9: stages[0].method: expected one of lucene, robertson, atire, got 'lucen'",
        "f.yaml:9: stages[0].top_k: expected an integer >= 1, got 0",
        "f.yaml:10: stages[1].kind: unknown 'cross_encodr'; did you mean 'cross_encoder'?",
        "f.yaml:11: stages[2]: expected a key 'name'"
        " (a string of at most 64 letters, digits, '.', '_' and '-'), got none",
        "f.yaml:11: stages[2]: expected a key 'top_k' (an integer >= 1), got none",
        "f.yaml:11: stages[2]: expected a key 'model' (a string of 1 to 4096 characters), got none",
        "f.yaml:11: stages[2].modell: unknown key; did you mean 'model'?",
        "f.yaml:12: stages[3]: expected a mapping with name, kind and top_k, got 7",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "f.yaml:1: expected a mapping with version, name and stages, got []"),
        ("null", "f.yaml:1: expected a mapping with version, name and stages, got null"),
        ("version: true\nname: x\nstages: [" + BM25 + "]", "f.yaml:1: version: expected 1, got true"),
        ("version: 1.0\nname: x\nstages: [" + BM25 + "]", "f.yaml:1: version: expected 1, got 1.0"),
        ("version: 1\nname: x", "f.yaml:1: stages: expected a list of at least one stage, got nothing"),
        ("version: 1\nname: x\nstages: []", "f.yaml:3: stages: expected a list of at least one stage, got []"),
        ("version: 1\nname: x\nstages:", "f.yaml:3: stages: expected a list of at least one stage, got null"),
        (
            "version: 1\nname: x\nstages: {a: 1}",
            "f.yaml:3: stages: expected a list of at least one stage, got {'a': 1}",
        ),
        (HEAD + "  - " + BM25 + "\nfrobnicate: 1", "f.yaml:5: frobnicate: unknown key; known keys: version, name, "),
        (HEAD + "  - " + BM25 + "\nstagse: []", "f.yaml:5: stagse: unknown key; did you mean 'stages'?"),
        (HEAD + "  - " + BM25 + "\n<<: {budget_ms: 3}", "f.yaml:5: <<: unknown key; known keys: "),
        ("version: 1\nstages: [" + BM25 + "]", "f.yaml:1: expected a key 'name' (a string of "),
    ],
)
def test_the_top_level(text: str, message: str) -> None:
    (line,) = problems(text)
    assert line.startswith(message)


# One stage


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("top_k: '5'", "top_k: expected an integer >= 1, got '5'"),
        ("top_k: 5.0", "top_k: expected an integer >= 1, got 5.0"),
        ("top_k: true", "top_k: expected an integer >= 1, got true"),
        ("top_k: 5, budget_ms: 0", "budget_ms: expected a number > 0 or null, got 0"),
        ("top_k: 5, budget_ms: .nan", "budget_ms: expected a number > 0 or null, got nan"),
        ("top_k: 5, budget_ms: soon", "budget_ms: expected a number > 0 or null, got 'soon'"),
        ("top_k: 5, on_overrun: stop", "on_overrun: expected one of partial, skip, fail or null, got 'stop'"),
        ("top_k: 5, on_error: ignore", "on_error: expected one of degrade, fail, got 'ignore'"),
        ("top_k: 5, b: 1.5", "b: expected a number >= 0 and <= 1, got 1.5"),
        ("top_k: 5, topk: 5", "topk: unknown key; did you mean 'top_k'?"),
        ("top_k: 5, zzz: 5", "zzz: unknown key; known keys: name, kind, top_k, budget_ms, "),
        ("top_k: 5, method: [lucene]", "method: expected one of lucene, robertson, atire, got ['lucene']"),
    ],
)
def test_settings_of_a_stage(settings: str, message: str) -> None:
    (line,) = problems(stages(f"{{name: a, kind: bm25, {settings}}}"))
    assert line.startswith(f"f.yaml:4: stages[0].{message}")


@pytest.mark.parametrize(
    ("kind", "got"), [("{name: a, top_k: 1}", "nothing"), ("{kind: 3}", "3"), ("{kind: [bm25]}", "['bm25']")]
)
def test_a_stage_without_a_kind_is_told_the_kinds(kind: str, got: str) -> None:
    (line,) = problems(stages(kind))
    assert line.startswith("f.yaml:4: stages[0].kind: expected a kind of stage (bm25, colbert, cross_encoder, dense, ")
    assert line.endswith(f", got {got}")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("bundled:bi-encodr", "bundled:bi-encodr: no such bundled model; there are bundled:bi-encoder"),
        ("models/none", "models/none: no model folder at "),
        ("hf:org/name", "hf:org/name: expected hf:ORG/NAME@REVISION"),
        ('"a\\0b"', "'a\\x00b': a path cannot hold a NUL character"),
        ("''", "expected a string of 1 to 4096 characters, got ''"),
    ],
)
def test_a_model_that_is_not_there(model: str, message: str) -> None:
    (line,) = problems(stages(f"{{name: a, kind: dense, model: {model}, top_k: 5}}"))
    assert line.startswith(f"f.yaml:4: stages[0].model: {message}")


@pytest.mark.parametrize("kind", ["dense", "colbert"])
def test_a_model_that_scores_pairs_encodes_no_texts(kind: str) -> None:
    first = "{name: a, kind: bm25, top_k: 9}\n  - " if kind == "colbert" else ""
    (line,) = problems(stages(f"{first}{{name: b, kind: {kind}, model: bundled:cross-encoder, top_k: 5}}"))
    assert line.endswith("model: expected an encoder of texts, got a model that scores pairs; take kind: cross_encoder")


def test_what_comes_with_the_package_is_loaded_by_name() -> None:
    assert load_config("bundled:two-stage").settings.name == "two-stage"
    with pytest.raises(ConfigError, match="no cascade 'two-stages' comes with the package; there are default,"):
        load_config("bundled:two-stages")


def test_relative_models_are_looked_for_beside_the_file(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text(stages("{name: a, kind: dense, model: weights/mine, top_k: 5}"))
    with pytest.raises(ConfigError, match=str(tmp_path / "weights" / "mine")):
        load_config(path)


def test_a_check_that_raises_is_a_problem_of_its_stage() -> None:
    def check(settings: StageSettings, context: Context) -> Sequence[tuple[str, str]]:
        raise OSError("disk on fire")

    def load(settings: StageSettings, context: Context) -> Stage:
        raise NotImplementedError

    registry = Registry([StageKind("odd", "retriever", StageSettings, load, check=check)])
    (line,) = problems(stages("{name: a, kind: odd, top_k: 5}"), registry=registry)
    assert line == "f.yaml:4: stages[0]: 'odd' could not be checked: disk on fire"


def test_settings_of_a_third_party_are_explained_like_ours() -> None:
    class Nested(StageSettings):
        flags: dict[str, bool] = Field(default_factory=dict)
        sizes: list[int] | None = None
        share: float = Field(0.5, ge=0, allow_inf_nan=False)

    def load(settings: Nested, context: Context) -> Stage:
        raise NotImplementedError

    registry = Registry([StageKind("odd", "retriever", Nested, load)])
    line = "{name: a, kind: odd, top_k: 5, flags: {x: 1}, sizes: [1, b], share: .inf}"
    assert problems(stages(line), registry=registry) == [
        "f.yaml:4: stages[0].flags.x: expected true or false, got 1",
        "f.yaml:4: stages[0].share: expected a finite number, got inf",
        "f.yaml:4: stages[0].sizes[1]: expected an integer, got 'b'",
    ]
    assert problems(stages("{name: a, kind: odd, top_k: 5, flags: 1, sizes: 2}"), registry=registry) == [
        "f.yaml:4: stages[0].flags: expected a mapping, got 1",
        "f.yaml:4: stages[0].sizes: expected a list or null, got 2",
    ]


# Stages together


def test_a_reranker_in_first_place() -> None:
    assert problems(stages(LATE)) == [
        "f.yaml:4: stages[0].kind: expected a retriever or a fusion of retrievers in first place, "
        "got 'colbert', a reranker; put a stage that finds candidates before it"
    ]


def test_a_retriever_or_fusion_after_the_first_place() -> None:
    inner = f"{{name: f, kind: fusion, top_k: 20, retrievers: [{BM25}, {DENSE}]}}"
    expected = "expected a reranker after the first place, got"
    hint = "several retrievers go into one fusion stage"
    assert problems(stages("{name: first, kind: bm25, top_k: 100}", DENSE)) == [
        f"f.yaml:5: stages[1].kind: {expected} 'dense', a retriever; {hint}"
    ]
    assert problems(stages("{name: first, kind: bm25, top_k: 100}", inner)) == [
        f"f.yaml:5: stages[1].kind: {expected} 'fusion', a fuser; {hint}"
    ]


def test_top_k_cannot_grow_whatever_stands_between() -> None:
    late = LATE.replace("late", "l2").replace("10", "20")
    assert problems(stages(BM25, LATE, late)) == [
        "f.yaml:6: stages[2].top_k: top_k cannot grow: expected at most 10, got 20 after late passed on 10"
    ]
    assert problems(stages(BM25, LATE, "7", late)) == [
        "f.yaml:6: stages[2]: expected a mapping with name, kind and top_k, got 7",
        "f.yaml:7: stages[3].top_k: top_k cannot grow: expected at most 10, got 20 after late passed on 10",
    ]


def test_a_top_k_that_stays_is_fine() -> None:
    assert len(parse_config(stages(BM25, LATE.replace("10", "100"))).stages) == 2


def budgets(whole: str, *parts: str) -> str:
    first, *rest = parts
    lines = [BM25.replace("}", f", budget_ms: {first}}}")]
    lines += [LATE.replace("late", f"l{i}").replace("}", f", budget_ms: {ms}}}") for i, ms in enumerate(rest)]
    return stages(*lines) + f"budget_ms: {whole}\n"


def test_budgets_that_add_up_to_more_than_the_whole() -> None:
    assert problems(budgets("50", "20", "30.5")) == [
        "f.yaml:6: budget_ms: expected at least what stages add up to, 20 + 30.5 = 50.5, got 50"
    ]


def test_budgets_that_add_up_to_the_whole_are_fine_however_floats_round() -> None:
    assert sum((0.1, 0.2)) > 0.3
    assert parse_config(budgets("0.3", "0.1", "0.2")).settings.budget_ms == 0.3


def test_two_stages_of_one_name_even_inside_a_fusion() -> None:
    assert problems(stages(BM25, LATE.replace("late", "bm25"))) == [
        "f.yaml:5: stages[1].name: expected a name of its own, got 'bm25', which stages[0] has already"
    ]
    assert problems(fusion(BM25, DENSE.replace("dense,", "f,", 1))) == [
        "f.yaml:9: stages[0].retrievers[1].name: expected a name of its own, got 'f', which stages[0] has already"
    ]


# Fusion


@pytest.mark.parametrize(
    ("inner", "got"),
    [("", "nothing"), (", retrievers: 3", "3"), (", retrievers: []", "[]"), (f", retrievers: [{BM25}]", "[{'name'")],
)
def test_a_fusion_needs_two_retrievers(inner: str, got: str) -> None:
    (line,) = problems(stages(f"{{name: f, kind: fusion, top_k: 5{inner}}}"))
    assert line.startswith(
        f"f.yaml:4: stages[0].retrievers: expected a list of at least two retrievers to fuse, got {got}"
    )


def test_everything_wrong_in_and_around_a_fusion_is_found_at_once() -> None:
    text = fusion(
        "{name: a, kind: bm25, top_k: 5, k1: -1}",
        "{name: b, kind: bm26, top_k: 5}",
        LATE,
        "[]",
        own="topk: 50\n    rrf_k: .inf\n    weights: {a: -1, b: x}",
    )
    assert problems(text) == [
        "f.yaml:4: stages[0]: expected a key 'top_k' (an integer >= 1), got none",
        "f.yaml:6: stages[0].topk: unknown key; did you mean 'top_k'?",
        "f.yaml:7: stages[0].rrf_k: expected a finite number, got inf",
        "f.yaml:8: stages[0].weights.a: expected a number >= 0, got -1",
        "f.yaml:8: stages[0].weights.b: expected a number >= 0, got 'x'",
        "f.yaml:10: stages[0].retrievers[0].k1: expected a number >= 0 and <= 100, got -1",
        "f.yaml:11: stages[0].retrievers[1].kind: unknown 'bm26'; did you mean 'bm25'?",
        "f.yaml:12: stages[0].retrievers[2].kind: expected a retriever, got 'colbert', a reranker",
        "f.yaml:13: stages[0].retrievers[3]: expected a mapping with name, kind and top_k, got []",
    ]


def test_a_fusion_cannot_pass_on_more_than_its_retrievers_find() -> None:
    assert problems(fusion(BM25, DENSE, own="top_k: 201")) == [
        "f.yaml:6: stages[0].top_k: top_k cannot grow: expected at most 200, "
        "got 201 where the retrievers pass on 200 in all"
    ]


def test_budgets_inside_a_fusion_fit_into_its_own_and_into_the_whole() -> None:
    timed = [line.replace("}", ", budget_ms: 6}") for line in (BM25, DENSE)]
    assert problems(fusion(*timed, own="top_k: 5\n    budget_ms: 10")) == [
        "f.yaml:7: stages[0].budget_ms: expected at least what stages[0].retrievers add up to, 6 + 6 = 12, got 10"
    ]
    assert problems(fusion(*timed) + "budget_ms: 10\n") == [
        "f.yaml:10: budget_ms: expected at least what stages add up to, 12 = 12, got 10"
    ]


def test_weights_are_checked_against_the_names_of_the_retrievers() -> None:
    lines = problems(fusion(BM25, DENSE, own="top_k: 5\n    weights: {bm52: 1}"))
    assert "f.yaml:7: stages[0].weights: no retriever is called 'bm52'; did you mean 'bm25'?" in lines
    assert "f.yaml:7: stages[0].weights: expected a weight for each of bm25, dense, got none for bm25, dense" in lines


def test_a_fusion_does_not_nest() -> None:
    inner = f"{{name: g, kind: fusion, top_k: 20, retrievers: [{BM25}, {DENSE}]}}"
    assert problems(fusion(inner, BM25.replace("bm25,", "other,", 1))) == [
        "f.yaml:8: stages[0].retrievers[0].kind: expected a retriever, got 'fusion', a fuser"
    ]


def test_a_configuration_cannot_be_changed_afterwards() -> None:
    config: CascadeConfig = parse_config(stages(BM25))
    with pytest.raises(ValueError, match="frozen"):
        config.settings.name = "y"  # type: ignore[misc]


def test_a_wrong_field_hides_nothing_that_is_wrong_with_the_others(tmp_path):
    text = """version: 2
name: late
budget_ms: 10
stages:
  - {name: bm25, kind: bm25, top_k: 100, budget_ms: 8, k1: high}
  - {name: bm25, kind: colbert, top_k: 200, budget_ms: 30, model: ./missing, dtype: int3}
"""
    with pytest.raises(ConfigError) as raised:
        parse_config(text, folder=tmp_path)
    assert [problem.path for problem in raised.value.problems] == [
        "version",
        "budget_ms",
        "stages[0].k1",
        "stages[1].dtype",
        "stages[1].model",
        "stages[1].name",
        "stages[1].top_k",
    ]


def test_a_stand_in_for_a_wrong_field_is_not_compared_with_anything():
    text = """version: 1
name: early
stages:
  - {name: bm25, kind: bm25, top_k: none}
  - {name: 7, kind: colbert, top_k: 200, model: bundled:bi-encoder}
"""
    with pytest.raises(ConfigError) as raised:
        parse_config(text)
    assert [problem.path for problem in raised.value.problems] == ["stages[0].top_k", "stages[1].name"]


# Combined scores


def combining(combine: str) -> str:
    """Two rerankers after a fusion; the first of them combines. Its weights are in line 11."""
    late = f'{{name: late, kind: colbert, model: "bundled:bi-encoder", top_k: 10,\n     combine: {combine}}}'
    again = '{name: again, kind: colbert, model: "bundled:bi-encoder", top_k: 5}'
    return fusion(BM25, DENSE) + f"  - {late}\n  - {again}\n"


def test_scores_of_earlier_stages_and_of_single_retrievers_may_be_combined() -> None:
    config = parse_config(combining("{bm25: 0, f: 1.5, late: 2}"))
    assert config.stages[1].settings.combine == {"bm25": 0, "f": 1.5, "late": 2}
    assert config.stages[2].settings.combine is None


@pytest.mark.parametrize(
    ("combine", "messages"),
    [
        ("{late: 1, bm52: 1}", [".bm52: no stage is called 'bm52'; did you mean 'bm25'?"]),
        ("{late: 1, x: 1}", [".x: no stage is called 'x'; expected names of: bm25, dense, f, late"]),
        (
            "{late: 1, again: 1}",
            [".again: 'again' comes after this stage; expected names of: bm25, dense, f, late"],
        ),
        ("{bm25: 1}", [": expected a weight of 'late' itself, too, got none; 0 leaves its score out"]),
        ("{}", [": expected a weight of 'late' itself, too, got none; 0 leaves its score out"]),
        ("{late: 0, bm25: 0.0}", [": expected at least one weight above 0, got none"]),
        ("{late: -0.5}", [".late: expected a number >= 0 and <= 1000, got -0.5"]),
        ("{late: .inf}", [".late: expected a finite number, got inf"]),
        ("{late: .nan}", [".late: expected a finite number, got nan"]),
        ("{late: true}", [".late: expected a number >= 0 and <= 1000, got true"]),
        ("late", [": expected a mapping or null, got 'late'"]),
        (
            "{dense: -1, lat: 0}",
            [
                ": expected a weight of 'late' itself, too, got none; 0 leaves its score out",
                ".dense: expected a number >= 0 and <= 1000, got -1",
                ".lat: no stage is called 'lat'; did you mean 'late'?",
            ],
        ),
    ],
)
def test_every_wrong_weight_is_named_with_its_line(combine: str, messages: list[str]) -> None:
    assert problems(combining(combine)) == [f"f.yaml:11: stages[1].combine{message}" for message in messages]


def test_names_of_broken_stages_count_in_combinations() -> None:
    text = stages("{name: bm25, kind: bm26, top_k: 9}", LATE[:-1] + ", combine: {bm25: 1, late: 1}}")
    (line,) = problems(text)
    assert line.startswith("f.yaml:4: stages[0].kind: ")


def test_only_rerankers_combine() -> None:
    first = BM25[:-1] + ", combine: {bm25: 1}}"
    message = "expected none for a retriever: only rerankers combine scores; remove it"
    assert problems(stages(first)) == [f"f.yaml:4: stages[0].combine: {message}"]
    (line,) = problems(fusion(first, DENSE))
    assert line == f"f.yaml:8: stages[0].retrievers[0].combine: {message}"
    own = fusion(BM25, DENSE, own="top_k: 5\n    combine: {f: 1}")
    assert problems(own) == [f"f.yaml:7: stages[0].combine: {message.replace('retriever', 'fuser')}"]


# Adaptive depth


def test_only_stages_that_score_candidates_one_by_one_stop_early() -> None:
    first = BM25[:-1] + ", adaptive: 0.9}"
    message = "expected none for a retriever: only what scores candidates one by one can stop early; remove it"
    assert problems(stages(first)) == [f"f.yaml:4: stages[0].adaptive: {message}"]
    (line,) = problems(fusion(first, DENSE))
    assert line == f"f.yaml:8: stages[0].retrievers[0].adaptive: {message}"
    own = fusion(BM25, DENSE, own="top_k: 5\n    adaptive: 0.9")
    assert problems(own) == [f"f.yaml:7: stages[0].adaptive: {message.replace('retriever', 'fuser')}"]
    assert parse_config(stages(BM25, LATE[:-1] + ", adaptive: 0.9}")).stages[1].settings.adaptive == 0.9


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("adaptive: 1", "expected a number > 0 and < 1 or null, got 1"),
        ("adaptive: 0.0", "expected a number > 0 and < 1 or null, got 0.0"),
        ("adaptive: .nan", "expected a number > 0 and < 1 or null, got nan"),
        ("adaptive: true", "expected a number > 0 and < 1 or null, got true"),
        (
            "adaptive: 0.9, combine: {late: 1}",
            "expected none beside combine, whose scores move with every candidate more; remove either",
        ),
    ],
)
def test_a_wrong_confidence_is_named(keys: str, message: str) -> None:
    assert problems(stages(BM25, f"{LATE[:-1]}, {keys}}}")) == [f"f.yaml:5: stages[1].adaptive: {message}"]


# Probabilities


def calibrated(settings: str) -> str:
    return stages(BM25, LATE[:-1] + f", {settings}}}")


def test_a_score_may_be_worth_a_probability() -> None:
    late = parse_config(calibrated("probability: {platt: {a: 2, b: -1}}, min_probability: 0.5")).stages[1].settings
    assert late.probability is not None
    assert late.probability(np.array([0.5])).tolist() == [0.5]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("probability: {}", "probability: expected either platt or isotonic, got {}"),
        ("probability: {platt: {a: 0, b: 1}}", "probability.platt.a: expected a number > 0, got 0"),
        ("probability: {platt: {a: 1}}", "probability.platt: expected a key 'b' (a number), got none"),
        ("probability: {plat: {a: 1, b: 1}}", "probability.plat: unknown key; did you mean 'platt'?"),
        (
            "probability: {isotonic: {scores: [1, 2], values: [0.5, 1.5]}}",
            "probability.isotonic.values[1]: expected a number >= 0 and <= 1, got 1.5",
        ),
        (
            "probability: {isotonic: {scores: [1, 2], values: [0.5, 0.4]}}",
            "probability.isotonic: expected scores that rise and values that do not fall, got ",
        ),
        (
            "probability: {isotonic: {scores: [1, 2], values: [0.5]}}",
            "probability.isotonic: expected as many scores as values, got 2 and 1, got ",
        ),
        (
            "min_probability: 0.5",
            "min_probability: expected a probability, too, which says what a score is worth, got ",
        ),
        (
            "combine: {late: 1}, probability: {platt: {a: 1, b: 1}}",
            "probability: expected none beside combine, whose scores compare candidates of one query only; remove ",
        ),
    ],
)
def test_what_is_wrong_with_a_probability_is_said(settings: str, message: str) -> None:
    found = problems(calibrated(settings))
    assert [line for line in found if line.startswith(f"f.yaml:5: stages[1].{message}")] == found[:1]
    assert len(found) == 1


def test_a_retriever_that_is_fused_has_no_probability() -> None:
    first = BM25[:-1] + ", probability: {platt: {a: 1, b: 0}}, min_probability: 0.1}"
    fault = "expected none for a retriever that is fused: answers have the fusion's scores; remove it"
    at = "f.yaml:8: stages[0].retrievers[0]"
    assert problems(fusion(first, DENSE)) == [f"{at}.min_probability: {fault}", f"{at}.probability: {fault}"]
