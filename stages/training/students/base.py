"""What a model has to offer to be trained, and the checkpoint that it is made from."""

from __future__ import annotations

import json
import re
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from cascade.errors import ModelError
from cascade.stage import Context
from cascade.types import TokenIds
from stages.models import HFTokenizer, locate, read_weights, save_weights
from stages.models.layout import read_config

SHARED = "bundled:bi-encoder"
"""The model that a saved folder may leave its weights to; see ``stages.models.weights``."""

ATTENTION = None if torch.cuda.is_available() else "eager"
"""Of transformers: on a CPU, torch's fused attention takes several times as long backwards as plain products do."""

Matches: TypeAlias = npt.NDArray[np.float16]
"""Cosine of each token of a text with what it matches best in the other text of a pair."""

_PREFIX = re.compile(r"^bert\.")
_LAYER = re.compile(r"^encoder\.layer\.(\d+)\.")
_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
_READ = ("bert", "distilbert")


@dataclass(frozen=True, slots=True)
class Base:
    """A BERT checkpoint in memory.

    Args:
        folder: where it came from.
        config: its ``config.json``.
        state: tensors by name, without the prefix ``bert.``.
    """

    folder: Path
    config: Mapping[str, Any]
    state: Mapping[str, torch.Tensor]

    @property
    def layers(self) -> int:
        """Number of layers."""
        return int(self.config.get("num_hidden_layers", self.config.get("n_layers", 0)))

    def keep(self, layers: Sequence[int]) -> Base:
        """The same with only these layers, from 0, in their order.

        Raises:
            ModelError: there is no such layer.
        """
        if list(layers) == list(range(self.layers)):
            return self
        if max(layers) >= self.layers:
            raise ModelError(f"{self.folder}: expected layers below {self.layers}, got {max(layers)}; choose others")
        if self.config.get("model_type") != "bert":
            raise ModelError(f"{self.folder}: layers can be chosen of a BERT only; train all of this base")
        place = {layer: number for number, layer in enumerate(layers)}
        state: dict[str, torch.Tensor] = {}
        for name, tensor in self.state.items():
            match = _LAYER.match(name)
            if match is None:
                state[name] = tensor
            elif (number := place.get(int(match[1]))) is not None:
                state[f"encoder.layer.{number}.{name[match.end() :]}"] = tensor
        joint = self.config.get("separate_layers")
        if joint is not None:
            first = int(joint)
            open_ = [layer - first for layer in layers if layer >= first]
            for gates in ("gates", "passage_gates"):
                state[gates] = state[gates][open_]
            joint = {"separate_layers": sum(layer < first for layer in layers)}
        return replace(self, config={**self.config, "num_hidden_layers": len(layers), **(joint or {})}, state=state)

    def narrow(self, units: int) -> Base:
        """The same with so many units in the feed-forward part of each layer: those whose weights are largest.

        Largest by the product of the norms of what leads to a unit and of what it leads to.

        Raises:
            ModelError: a layer has fewer, or other names.
        """
        has = int(self.config.get("intermediate_size", 0))
        if units > has:
            raise ModelError(
                f"{self.folder}: expected at most the {has} feed-forward units of a layer of this BERT, got {units}"
            )
        state = dict(self.state)
        for layer in range(self.layers):
            first, second = (f"encoder.layer.{layer}.{part}.dense" for part in ("intermediate", "output"))
            into, out = state[f"{first}.weight"], state[f"{second}.weight"]
            kept = torch.topk(into.norm(dim=1) * out.norm(dim=0), units).indices.sort().values
            state |= {f"{first}.weight": into[kept], f"{first}.bias": state[f"{first}.bias"][kept]}
            state[f"{second}.weight"] = out[:, kept]
        return replace(self, config={**self.config, "intermediate_size": units}, state=state)


def read_base(ref: str) -> Base:
    """The checkpoint that ``ref`` names.

    Raises:
        ModelError: it cannot be read, or is no BERT.
    """
    folder = locate(ref, Context(folder=Path()))
    config = read_config(folder)
    if config.get("model_type") not in _READ:
        raise ModelError(
            f"{ref}: expected a checkpoint of model_type {' or '.join(_READ)}, got {config.get('model_type')!r}; "
            "choose another base"
        )
    return Base(folder, config, {_PREFIX.sub("", name): tensor for name, tensor in read_weights(folder).items()})


def spread(layers: int, of: int) -> tuple[int, ...]:
    """Numbers of ``layers`` layers of ``of`` at equal distances, the last one always among them.

    >>> spread(3, 6), spread(1, 6), spread(6, 6)
    ((1, 3, 5), (5,), (0, 1, 2, 3, 4, 5))
    """
    return tuple((i + 1) * of // layers - 1 for i in range(layers))


class Hinted(NamedTuple):
    """Scores [q, group] of a student that was given hints, and the mean squared error of what it tells of them."""

    scores: torch.Tensor
    error: torch.Tensor


class Student(nn.Module, ABC):
    """A model in training: reads groups of passages for each of several questions, and gives scores.

    Args:
        base: what it starts from.
        max_query_tokens: of a question, without special tokens.
        max_passage_tokens: of a passage, without special tokens.
    """

    in_batch: ClassVar[bool]
    """Whether each question is scored with the passages of all others, too."""
    batch_queries: ClassVar[int]
    """Questions in a batch where nothing else is asked for."""
    learning_rates: ClassVar[Mapping[str, float]]
    """Of each part."""
    lookalikes: ClassVar[float] = 0.0
    """Share of the questions with a lookalike among their negatives where nothing else is asked for."""

    def __init__(self, base: Base, max_query_tokens: int, max_passage_tokens: int) -> None:
        super().__init__()
        self.base = replace(base, state={})  # the module holds the tensors from here on
        self.max_query_tokens = max_query_tokens
        self.max_passage_tokens = max_passage_tokens
        self.tokenizer = HFTokenizer(base.folder, max_passage_tokens)

    @abstractmethod
    def collate(self, questions: Sequence[TokenIds], passages: Sequence[TokenIds], group: int) -> dict[str, Any]:
        """What ``forward`` takes, on the CPU.

        Args:
            questions: q token id arrays without special tokens, not longer than the student's limits.
            passages: q * group of them; passages ``i * group`` and following belong to question i.
            group: passages for each question.
        """

    @abstractmethod
    def forward(self, **inputs: Any) -> Any:
        """Scores [q, group], or [q, q * group] of a student with ``in_batch``; ``Hinted`` where it is given hints."""

    def place_hints(
        self, questions: Sequence[TokenIds], hints: Sequence[tuple[Matches, Matches]], inputs: Mapping[str, Any]
    ) -> dict[str, torch.Tensor]:
        """What ``forward`` takes beside ``inputs``; nothing of a student that takes no hints.

        Args:
            questions: as ``collate`` was given them.
            hints: of each pair the best matches of the question's first tokens and of the passage's.
            inputs: what ``collate`` gave.
        """
        return {}

    @abstractmethod
    def part_of(self, name: str) -> str:
        """The part, a key of ``learning_rates``, that a parameter belongs to."""

    @abstractmethod
    def save(self, folder: Path, half: bool, shared: bool) -> None:
        """Writes a model folder that stages read.

        Args:
            folder: an empty folder.
            half: store matrices in float16.
            shared: leave out what equals ``SHARED``, and keep of matrices near its own the difference, in 8 bits.
        """

    def warm_up(self, passages: Sequence[TokenIds]) -> None:
        """Looks at some passages before the first step, as a fresh projection does."""

    def freeze(self, layers: int, embeddings: bool) -> None:
        """Takes the first layers, and the embeddings where ``embeddings``, out of training."""
        frozen = tuple(f"layer.{layer}." for layer in range(layers))
        for name, parameter in self.named_parameters():
            below = any(f".{layer}" in name for layer in frozen) or (embeddings and "embeddings." in name)
            parameter.requires_grad_(not below and parameter.is_floating_point())

    @property
    def depth(self) -> int:
        """Number of layers."""
        return self.base.layers


def load_into(module: nn.Module, state: Mapping[str, torch.Tensor], fresh: Iterable[str], folder: Path) -> bool:
    """Loads tensors by name; whether the parts named ``fresh``, which a base need not have, were there.

    Raises:
        ModelError: another tensor is missing, or one is of another shape.
    """
    prefixes = tuple(fresh)
    wanted = module.state_dict()
    missing = sorted(name for name in wanted if name not in state)
    lacking = [name for name in missing if not name.startswith(prefixes)] if prefixes else missing
    if lacking:
        raise ModelError(f"{folder}: expected the weights of a BERT, got none for {', '.join(lacking[:5])}")
    try:
        module.load_state_dict({name: state[name] for name in wanted if name in state}, strict=False)
    except RuntimeError as error:
        raise ModelError(f"{folder}: weights do not fit config.json: {error}") from error
    return not missing


def write_folder(
    folder: Path, base: Base, config: Mapping[str, Any], state: Mapping[str, torch.Tensor], half: bool, shared: bool
) -> None:
    """Writes configuration, tokenizer and weights; ``base_model`` of the base does not carry over."""
    for name in _FILES:
        if (base.folder / name).is_file():
            shutil.copyfile(base.folder / name, folder / name)
    content = {key: value for key, value in config.items() if key not in ("base_model", "_name_or_path")}
    (folder / "config.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    save_weights(folder, state, base=SHARED if shared else None, half=half)


def framed(before: Sequence[int], ids: TokenIds, after: Sequence[int]) -> TokenIds:
    """int32: ids between special tokens."""
    whole = np.empty(len(before) + len(ids) + len(after), np.int32)
    whole[: len(before)] = before
    whole[len(before) : len(before) + len(ids)] = ids
    whole[len(before) + len(ids) :] = after
    return whole
