"""``adaptive`` learned on recorded runs."""

from __future__ import annotations

import pytest

from cascade.errors import InputError
from cascade.tuner import Recording, Replayer, learn_stopping
from cascade.tuner.stopping import LEVELS
from tests.tuner_for_tests import Machine, config_of, recorded

MACHINE = Machine()
CASCADE = """
version: 1
name: made-up
stages:
  - {name: words, kind: made_up_retriever, seed: 1, top_k: 100}
  - {name: quick, kind: made_up_reranker, seed: 3, token_us: 4.0, top_k: 60}
  - {name: slow, kind: made_up_reranker, seed: 4, token_us: 40.0, top_k: 4, budget_ms: 10000}
"""


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return recorded(tmp_path_factory.mktemp("recording"), MACHINE, text=CASCADE, queries=60)


def learned(recording: Recording, confidence: float, text: str = CASCADE):
    return learn_stopping(recording, config_of(text, MACHINE), confidence, registry=MACHINE.registry())


def test_the_least_level_that_errs_seldom_enough_is_chosen(recording: Recording) -> None:
    quick, slow = learned(recording, 0.8)
    assert (quick.stage, slow.stage) == ("quick", "slow")
    assert slow.chosen is not None
    assert slow.chosen.stopped > 0
    assert slow.chosen.scored < slow.chosen.of == 60
    assert slow.chosen.saved_ms > 0
    assert (slow.chosen.missed * 60 + 1) / 61 <= 0.2
    allowed = [one for one in slow.tried if (one.missed * 60 + 1) / 61 <= 0.2]
    assert slow.chosen is allowed[-1]
    assert [one.adaptive for one in slow.tried] == list(LEVELS[: len(slow.tried)])
    if len(slow.tried) < len(LEVELS):
        assert (slow.tried[-1].missed * 60 + 1) / 61 > 0.2


def test_what_is_chosen_does_in_replay_what_was_learned(recording: Recording) -> None:
    _, slow = learned(recording, 0.8)
    assert slow.chosen is not None
    text = CASCADE.replace("top_k: 4,", f"top_k: 4, adaptive: {slow.chosen.adaptive},")
    replayer = Replayer(recording, registry=MACHINE.registry())
    replayed = replayer.run(config_of(text, MACHINE))
    assert replayed.scored["slow"].mean() == pytest.approx(slow.chosen.scored)
    plain, early = replayer.rankings(config_of(CASCADE, MACHINE)), replayer.rankings(config_of(text, MACHINE))
    missed = sum(set(plain[name]) != set(early[name]) for name in plain)
    assert missed / 60 == pytest.approx(slow.chosen.missed)


def test_the_surer_one_wants_to_be_the_less_is_saved(recording: Recording) -> None:
    saved = []
    for confidence in (0.5, 0.8, 0.97):
        chosen = learned(recording, confidence)[1].chosen
        saved.append(0.0 if chosen is None else chosen.saved_ms)
    assert saved == sorted(saved, reverse=True)
    assert saved[0] > saved[-1]


@pytest.mark.parametrize(
    ("confidence", "text", "message"),
    [
        (0.99, CASCADE, "needs at least 99 recorded queries, got 60"),
        (1.0, CASCADE, "confidence: expected a number between 0 and 1, got 1.0"),
        (0.9, "\n".join(CASCADE.splitlines()[:5]), "expected a reranker that scores one by one"),
    ],
)
def test_what_cannot_be_learned_is_said(recording: Recording, confidence: float, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        learned(recording, confidence, text)
