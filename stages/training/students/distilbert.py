"""A shallow cross-encoder that every library reads: DistilBERT (Sanh et al. 2019) made from layers of a BERT."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from transformers import DistilBertConfig, DistilBertForSequenceClassification

from cascade.types import TokenIds
from stages.models import pad
from stages.training.students.base import ATTENTION, Base, Student, framed, load_into, write_folder

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

    def collate(self, questions: Sequence[TokenIds], passages: Sequence[TokenIds], group: int) -> dict[str, Any]:
        """Pairs, padded to the longest."""
        cls, sep = [self.tokenizer.cls_id], [self.tokenizer.sep_id]
        pairs = [
            framed([*cls, *questions[i // group].tolist(), *sep], passage, sep) for i, passage in enumerate(passages)
        ]
        ids, mask = pad(pairs, self.tokenizer.pad_id)
        return {"ids": ids, "mask": mask, "group": group}

    def forward(self, **inputs: Any) -> torch.Tensor:
        """Scores [q, group]."""
        logits: torch.Tensor = self.model(input_ids=inputs["ids"], attention_mask=inputs["mask"]).logits
        return logits.view(-1, inputs["group"])

    def part_of(self, name: str) -> str:
        """The classifier on top learns faster than the encoder."""
        return "head" if "classifier." in name else "layers"

    def save(self, folder: Path, half: bool, shared: bool) -> None:
        """A folder of transformers."""
        write_folder(folder, self.base, self._config, self.model.state_dict(), half, shared)
        path = folder / "tokenizer_config.json"
        settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        settings |= {"tokenizer_class": "DistilBertTokenizer", "model_input_names": ["input_ids", "attention_mask"]}
        path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


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
