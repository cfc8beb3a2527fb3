"""For all tests: Hypothesis sets no time limit, which a busy machine would miss; no user's cache is seen."""

from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("suite", deadline=None)
settings.load_profile("suite")


@pytest.fixture(scope="module")
def in_float32() -> Iterator[None]:
    """Passages are encoded in float32 whatever the CPU can do, to be compared with what others make of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stages.runtimes.states.cpu_has_bfloat16", lambda: False)
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_optimized_models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Faster forms of models that the user once made are out of sight."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
