"""A sequence classifier of transformers as a plain module from three tensors to logits."""

from __future__ import annotations

import inspect

import torch
import transformers
from torch import nn


class Classifier(nn.Module):
    """Gives logits [n, labels] of pairs.

    Args:
        model: a sequence-classification model.
    """

    def __init__(self, model: transformers.PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        self._segments = "token_type_ids" in inspect.signature(model.forward).parameters

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
    ) -> torch.Tensor:
        """Logits [n, labels] of pairs, int64 [n, L] each; a model without segments does without the last."""
        segments = {"token_type_ids": token_type_ids} if self._segments else {}
        logits: torch.Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask, **segments).logits
        return logits
