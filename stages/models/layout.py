"""Where a checkpoint wants its special tokens: asked of its own tokenizer, never guessed from its name."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cascade.errors import ModelError
from stages.models.tokenizer import read_tokenizer

JOINT_ENCODER = "JointEncoder"
"""What ``config.json`` of a ``stages.models.joint.JointEncoder`` names as its architecture."""
PASSAGES_AT_ONCE = "passages_at_once"
"""Key of ``config.json`` that only a listwise ranker has."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The token ids around one text (``head`` text ``tail``) and around a pair (``before`` a ``between`` b ``after``).

    Args:
        head: ids before a single text.
        tail: ids after a single text.
        before: ids before the first text of a pair.
        between: ids between the two.
        after: ids after the second.
        segments: whether the model tells the texts apart by segment ids, 0 and 1.
        first_between: how many ids of ``between`` are in the first text's segment.
    """

    head: tuple[int, ...]
    tail: tuple[int, ...]
    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]
    segments: bool
    first_between: int

    @property
    def single_extra(self) -> int:
        """Special tokens around a single text."""
        return len(self.head) + len(self.tail)

    @property
    def pair_extra(self) -> int:
        """Special tokens in a pair."""
        return len(self.before) + len(self.between) + len(self.after)


def layout(folder: Path) -> Layout:
    """The layout of a model folder, found by tokenising a probe.

    Raises:
        ModelError: files are unreadable, or the model orders its input in a way not supported.
    """
    tokenizer = read_tokenizer(folder)
    single = tokenizer.encode("a", add_special_tokens=True)
    pair = tokenizer.encode("a", "a", add_special_tokens=True)
    head, tail = _around(single.ids, single.sequence_ids, 0)
    before, rest = _around(pair.ids, pair.sequence_ids, 0)
    _, after = _around(pair.ids, pair.sequence_ids, 1)
    second = pair.sequence_ids.index(1) if 1 in pair.sequence_ids else len(pair.ids)
    between = tuple(pair.ids[len(pair.ids) - len(rest) : second])
    segments = _uses_segments(folder)
    ones = sum(pair.type_ids)
    turn = len(pair.ids) - ones
    if segments and not (pair.type_ids == [0] * turn + [1] * ones and second - len(between) <= turn <= second):
        raise ModelError(
            f"{folder / 'tokenizer.json'}: expected segment 0 for the first text and 1 for the second, "
            f"got {pair.type_ids} for a pair; this input layout is not supported"
        )
    return Layout(head, tail, before, between, after, segments, turn - (second - len(between)) if segments else 0)


def passages_at_once(folder: Path) -> int:
    """Passages of the windows that a listwise ranker was trained on; 1 for any other model.

    Raises:
        ModelError: ``config.json`` is unreadable.
    """
    found = read_config(folder).get(PASSAGES_AT_ONCE, 1)
    return found if isinstance(found, int) else 1


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json`` of a model folder.

    Raises:
        ModelError: it is missing or no JSON object.
    """
    return _read_json(folder / "config.json")


def _around(ids: list[int], sequences: list[int | None], which: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    places = [i for i, sequence in enumerate(sequences) if sequence == which]
    if not places:
        return (), ()
    return tuple(ids[: places[0]]), tuple(ids[places[-1] + 1 :])


def _uses_segments(folder: Path) -> bool:
    if int(read_config(folder).get("type_vocab_size") or 0) < 2:
        return False
    path = folder / "tokenizer_config.json"
    inputs = _read_json(path).get("model_input_names") if path.is_file() else None
    return inputs is None or "token_type_ids" in inputs


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot read it: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content
