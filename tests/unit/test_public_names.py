from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

import cascade
from cascade import resources
from cascade.errors import InputError
from cascade.resources import config_path


def test_every_public_name_is_there_and_is_that_of_its_module() -> None:
    for name in cascade.__all__:
        value = getattr(cascade, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert value.__name__ == name
            assert value.__module__.startswith("cascade.")


def test_what_type_checkers_see_is_what_is_there() -> None:
    tree = ast.parse(inspect.getsource(cascade))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {
        (statement.module, alias.name)
        for statement in block.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    assert seen == {(module, name) for name, module in cascade._MODULE_OF.items()}
    assert sorted(name for _, name in seen) == sorted(cascade.__all__)


def test_public_names_are_listed_and_others_are_not_there() -> None:
    assert set(cascade.__all__) <= set(dir(cascade))
    with pytest.raises(AttributeError, match="module 'cascade' has no attribute 'Cascad'"):
        cascade.Cascad  # noqa: B018


def test_every_error_of_the_tree_is_public() -> None:
    from cascade import errors

    tree = [name for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, Exception)]
    assert set(tree) <= set(cascade.__all__)


def test_bundled_configs_are_found_by_name() -> None:
    assert config_path("default.yaml").read_text().startswith("#")
    with pytest.raises(InputError, match=r"no cascade 'none' comes with the package; there are default, "):
        config_path("none.yaml")


def test_the_installed_configs_come_before_those_of_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = (tmp_path / "installed", tmp_path / "checkout")
    for folder in folders:
        folder.mkdir()
        (folder / "a.yaml").touch()
    (folders[1] / "b.yaml").touch()
    monkeypatch.setattr(resources, "_FOLDERS", folders)
    assert config_path("a.yaml") == folders[0] / "a.yaml"
    assert config_path("b.yaml") == folders[1] / "b.yaml"
