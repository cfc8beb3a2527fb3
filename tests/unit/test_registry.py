from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from cascade import registry as module
from cascade.errors import UnknownKind
from cascade.registry import Registry
from cascade.stage import Stage, StageKind, StageSettings


def _load(settings: object, context: object) -> Stage:
    raise NotImplementedError


def kind(name: str) -> StageKind:
    return StageKind(kind=name, role="reranker", settings=StageSettings, load=_load)


def offer(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    """Has installed packages offer these kinds."""
    found = [EntryPoint(name, value, module.STAGES_GROUP) for name, value in values.items()]
    monkeypatch.setattr(module, "entry_points", lambda group: [e for e in found if e.group == group])


def test_our_kinds_are_installed() -> None:
    registry = Registry()
    assert {"bm25", "colbert", "cross_encoder", "dense", "fusion"} <= set(registry.names())
    assert [registry.get(name).kind for name in registry.names()] == registry.names()
    assert all(registry.get(name).summary for name in registry.names())


def test_an_unknown_kind_is_told_the_nearest_name() -> None:
    with pytest.raises(UnknownKind, match=r"unknown 'cross_encodr'; did you mean 'cross_encoder'\?"):
        Registry().get("cross_encodr")


def test_a_kind_like_no_other_is_told_all_names() -> None:
    with pytest.raises(UnknownKind, match="unknown 'zzz'; installed kinds: bm25, "):
        Registry().get("zzz")


def test_given_kinds_win_over_entry_points_and_can_be_added_later() -> None:
    mine = kind("bm25")
    registry = Registry([mine])
    assert registry.get("bm25") is mine
    other = kind("mine")
    registry.add(other)
    assert registry.get("mine") is other
    assert "mine" in registry.names()


def test_a_kind_is_imported_when_first_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "lazy_kind_for_test.py").write_text("print('imported')\nfrom stages.bm25 import KIND\n")
    monkeypatch.syspath_prepend(tmp_path)
    offer(monkeypatch, lazy="lazy_kind_for_test:KIND")
    registry = Registry()
    assert registry.names() == ["lazy"]
    assert capsys.readouterr().out == ""
    assert registry.get("lazy") is registry.get("lazy")
    assert capsys.readouterr().out == "imported\n"


def test_a_kind_that_does_not_import_names_its_module_and_leaves_the_others_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    offer(monkeypatch, broken="no_such_module_anywhere:KIND", bm25="stages.bm25:KIND")
    registry = Registry()
    with pytest.raises(UnknownKind, match="'broken' is offered by no_such_module_anywhere:KIND, which does not import"):
        registry.get("broken")
    assert registry.get("bm25").kind == "bm25"
    kinds, (wrong,) = registry.usable()
    assert [kind.kind for kind in kinds] == ["bm25"]
    assert "no_such_module_anywhere" in str(wrong)


def test_something_else_than_a_kind_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, odd="math:pi")
    with pytest.raises(UnknownKind, match="'odd': math:pi is a float, expected a StageKind"):
        Registry().get("odd")
