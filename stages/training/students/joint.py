"""Cross-encoders that read a question with one passage or with several; see ``stages.models.joint``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from cascade.errors import ModelError
from cascade.types import TokenIds
from stages.models import pad
from stages.models.joint import JointConfig, JointEncoder
from stages.models.layout import JOINT_ENCODER, PASSAGES_AT_ONCE
from stages.models.tokenizer import read_tokenizer
from stages.training.students.base import Base, Student, framed, load_into, write_folder

MOST_TOKENS = 512
"""Of one input."""

_FRESH = ("gates", "passage_gates", "head.")


class CrossEncoder(Student):
    """A ``JointEncoder`` that reads pairs."""

    in_batch = False
    batch_queries: ClassVar[int] = 4
    learning_rates: ClassVar = {"layers": 5e-5, "head": 1e-3, "gates": 1e-2, "mix": 5e-2}

    lookalikes: ClassVar[float] = 0.5

    passages_at_once = 1

    def __init__(self, base: Base, max_query_tokens: int, max_passage_tokens: int) -> None:
        super().__init__(base, max_query_tokens, max_passage_tokens)
        if base.config.get("model_type") != "bert":
            raise ModelError(f"{base.folder}: a joint encoder starts from a BERT; choose another base")
        shape = JointConfig.of(dict(base.config))
        self.encoder = JointEncoder(shape)
        load_into(self.encoder, base.state, _FRESH, base.folder)
        own = {key: value for key, value in base.config.items() if key != PASSAGES_AT_ONCE}
        self._config = {**own, "architectures": [JOINT_ENCODER], "separate_layers": shape.separate}
        self._require_room()

    def collate(self, questions: Sequence[TokenIds], passages: Sequence[TokenIds], group: int) -> dict[str, Any]:
        """Inputs ``[CLS] question [SEP] [CLS] passage [SEP] ...``, each text numbered by its place."""
        cls, sep = [self.tokenizer.cls_id], [self.tokenizer.sep_id]
        asked = [framed(cls, question, sep) for question in questions]
        inputs: list[TokenIds] = []
        texts: list[TokenIds] = []
        for i, question in enumerate(asked):
            own = [framed(cls, passage, sep) for passage in passages[i * group : (i + 1) * group]]
            for first in range(0, group, self.passages_at_once):
                parts = [question, *own[first : first + self.passages_at_once]]
                inputs.append(np.concatenate(parts))
                texts.append(np.repeat(np.arange(len(parts), dtype=np.int32), [len(part) for part in parts]))
        ids, mask = pad(inputs, self.tokenizer.pad_id)
        numbers, _ = pad(texts, 0)
        return {"ids": ids, "mask": mask, "texts": numbers, "group": group}

    def forward(self, **inputs: Any) -> torch.Tensor:
        """Scores [q, group]."""
        scores = self.encoder.listwise(inputs["ids"], inputs["mask"], inputs["texts"], self.passages_at_once)
        group: int = inputs["group"]
        per_question = -(-group // self.passages_at_once) * self.passages_at_once
        return scores.view(-1, per_question)[:, :group]

    def part_of(self, name: str) -> str:
        """Gates and the mixture of the head's features learn at rates of their own."""
        if "gates" in name:
            return "gates"
        if name.endswith("head.mix"):
            return "mix"
        return "head" if ".head." in name else "layers"

    def freeze(self, layers: int, embeddings: bool) -> None:
        """As for any student; gates learn all the same, so only layers below the first gate run without a gradient."""
        super().freeze(layers, embeddings)
        self.encoder.frozen_layers = min(layers, self.encoder.config.separate)

    def save(self, folder: Path, half: bool, shared: bool) -> None:
        """A folder of architecture ``JointEncoder``, whose tokenizer puts pairs together as ``collate`` does."""
        write_folder(folder, self.base, self._config, self.encoder.state_dict(), half, shared)
        tokenizer = read_tokenizer(self.base.folder)
        tokenizer.post_processor = _template(self.tokenizer.cls_id, self.tokenizer.sep_id)
        tokenizer.save(str(folder / "tokenizer.json"))

    def _require_room(self) -> None:
        most = min(MOST_TOKENS, int(self.base.config["max_position_embeddings"]))
        longest = self.max_query_tokens + 2 + self.passages_at_once * (self.max_passage_tokens + 2)
        if longest > most:
            raise ModelError(
                f"expected inputs of at most {most} tokens, got {longest}: a question of {self.max_query_tokens} and "
                f"{self.passages_at_once} of {self.max_passage_tokens}; lower max_passage_tokens or list_size"
            )


class Listwise(CrossEncoder):
    """A ``JointEncoder`` that reads several passages at once."""

    learning_rates: ClassVar = CrossEncoder.learning_rates

    def __init__(self, base: Base, max_query_tokens: int, max_passage_tokens: int, passages: int) -> None:
        self.passages_at_once = passages
        super().__init__(base, max_query_tokens, max_passage_tokens)
        self._config[PASSAGES_AT_ONCE] = passages


def _template(cls_id: int, sep_id: int) -> Any:
    from tokenizers.processors import TemplateProcessing

    return TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS]:0 $A:0 [SEP]:0 [CLS]:1 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", cls_id), ("[SEP]", sep_id)],
    )
