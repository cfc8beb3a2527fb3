"""Unit tests of the folder in which a training happens."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages.training.cache import Cache
from stages.training.workplace import Workplace


def test_a_training_that_goes_on_has_the_layers_that_it_began_with(tmp_path: Path) -> None:
    place = Workplace(tmp_path / "model", tmp_path, Cache(tmp_path / "cache"))
    assert place.depths(lambda: {1: 0.25, 2: 0.5}) == {1: 0.25, 2: 0.5}
    assert place.depths(lambda: pytest.fail("measured again")) == {1: 0.25, 2: 0.5}
