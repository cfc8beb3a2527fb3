"""A shallow cross-encoder that every library reads: DistilBERT (Sanh et al. 2019) made from layers of a BERT."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import DistilBertConfig, DistilBertForSequenceClassification

from cascade.types import TokenIds
from stages.models import pad
from stages.training.students.base import ATTENTION, Base, Hinted, Matches, Student, framed, load_into, write_folder

_HEAD = ("pre_classifier.", "classifier.")
_PARTS = {
    "attention.self.query": "attention.q_lin",
    "attention.self.key": "attention.k_lin",
    "attention.self.value": "attention.v_lin",
    "attention.output.dense": "attention.out_lin",
    "attention.output.LayerNorm": "sa_layer_norm",
    "intermediate.dense": "ffn.lin1",
    "output.dense": "ffn.lin2",
    "output.LayerNorm": "output_layer_norm",
}


_ONE_SCORE = {
    "architectures": ["DistilBertForSequenceClassification"],
    "num_labels": 1,
    "id2label": {"0": "LABEL_0"},
    "label2id": {"LABEL_0": 0},
}


class DistilBert(Student):
    """``DistilBertForSequenceClassification`` with one label: the score of ``[CLS] question [SEP] passage [SEP]``."""

    in_batch = False
    batch_queries: ClassVar[int] = 4
    learning_rates: ClassVar[Mapping[str, float]] = {"layers": 1e-4, "head": 1e-3}

    def __init__(self, base: Base, max_query_tokens: int, max_passage_tokens: int) -> None:
        super().__init__(base, max_query_tokens, max_passage_tokens)
        if base.config["model_type"] == "distilbert":
            config, state = {**base.config, **_ONE_SCORE}, dict(base.state)
        else:
            config, state = distilbert_config(base.config), distilbert_state(base.state, base.layers)
        still = {"dropout": 0.0, "attention_dropout": 0.0, "seq_classif_dropout": 0.0}
        shape: Any = DistilBertConfig
        self.model = DistilBertForSequenceClassification(shape(**{**config, **still}, attn_implementation=ATTENTION))
        load_into(self.model, state, _HEAD, base.folder)
        self._config = config
        self.tellers = nn.ModuleList(_teller(int(config["dim"])) for _ in range(int(config["n_layers"]) - 1))
        """Tell from each inner layer how well the other text matches a token: of a question, and of a passage."""

    def collate(self, questions: Sequence[TokenIds], passages: Sequence[TokenIds], group: int) -> dict[str, Any]:
        """Pairs, padded to the longest."""
        cls, sep = [self.tokenizer.cls_id], [self.tokenizer.sep_id]
        pairs = [
            framed([*cls, *questions[i // group].tolist(), *sep], passage, sep) for i, passage in enumerate(passages)
        ]
        ids, mask = pad(pairs, self.tokenizer.pad_id)
        return {"ids": ids, "mask": mask, "group": group}

    def forward(self, **inputs: Any) -> torch.Tensor | Hinted:
        """Scores [q, group]; with ``hints``, what the inner layers tell of them is compared with them, too."""
        hints: torch.Tensor | None = inputs.get("hints")
        found = self.model(inputs["ids"], inputs["mask"], output_hidden_states=hints is not None)
        scores: torch.Tensor = found.logits.view(-1, inputs["group"])
        if hints is None:
            return scores
        given = ~hints.isnan()
        told = (teller(states).float() for teller, states in zip(self.tellers, found.hidden_states[1:], strict=False))
        errors = [functional.mse_loss(one[given], hints[given]) for one in told]
        return Hinted(scores, torch.stack(errors).mean())

    def place_hints(
        self, questions: Sequence[TokenIds], hints: Sequence[tuple[Matches, Matches]], inputs: Mapping[str, Any]
    ) -> dict[str, torch.Tensor]:
        """``hints`` float32 [pairs, L, 2]: of tokens of questions, and of passages; NaN for all others."""
        if not self.tellers:
            return {}
        placed = np.full((*inputs["ids"].shape, 2), np.nan, np.float32)
        for i, (asked, read) in enumerate(hints):
            passage = 2 + len(questions[i // inputs["group"]])  # after [CLS], the question and [SEP]
            placed[i, 1 : 1 + len(asked), 0] = asked
            placed[i, passage : passage + len(read), 1] = read
        return {"hints": torch.from_numpy(placed)}

    def part_of(self, name: str) -> str:
        """What tells scores and hints learns faster than the encoder."""
        return "head" if "classifier." in name or name.startswith("tellers.") else "layers"

    def save(self, folder: Path, half: bool, shared: bool) -> None:
        """A folder of transformers."""
        write_folder(folder, self.base, self._config, self.model.state_dict(), half, shared)
        path = folder / "tokenizer_config.json"
        settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        settings |= {"tokenizer_class": "DistilBertTokenizer", "model_input_names": ["input_ids", "attention_mask"]}
        path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _teller(width: int) -> nn.Linear:
    teller = nn.Linear(width, 2)
    nn.init.zeros_(teller.weight)
    nn.init.constant_(teller.bias, 0.5)
    return teller


def distilbert_config(bert: Mapping[str, Any]) -> dict[str, Any]:
    """The ``config.json`` of a DistilBERT of the shape of a BERT."""
    return {
        "model_type": "distilbert",
        "vocab_size": bert["vocab_size"],
        "max_position_embeddings": bert["max_position_embeddings"],
        "dim": bert["hidden_size"],
        "hidden_dim": bert["intermediate_size"],
        "n_layers": bert["num_hidden_layers"],
        "n_heads": bert["num_attention_heads"],
        "activation": bert.get("hidden_act", "gelu"),
        "pad_token_id": bert.get("pad_token_id", 0),
        **_ONE_SCORE,
    }


def distilbert_state(bert: Mapping[str, torch.Tensor], layers: int) -> dict[str, torch.Tensor]:
    """A BERT's tensors by DistilBERT's names.

    DistilBERT has no segments: the constant embedding of the first segment is added to every position, so that the
    outputs for texts of segment 0 are those of the BERT.
    """
    state = {f"distilbert.{name}": tensor for name, tensor in bert.items() if name.startswith("embeddings.")}
    segments = state.pop("distilbert.embeddings.token_type_embeddings.weight")
    positions = "distilbert.embeddings.position_embeddings.weight"
    state[positions] = state[positions] + segments[0]
    for layer in range(layers):
        for theirs, ours in _PARTS.items():
            for kind in ("weight", "bias"):
                state[f"distilbert.transformer.layer.{layer}.{ours}.{kind}"] = bert[
                    f"encoder.layer.{layer}.{theirs}.{kind}"
                ]
    return state
