"""A classifier reads its last layer only at the first token, so only that is computed there; exact.

Worth a sixth of the time of six layers, and half of that of two.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from stages.models.classifier import Classifier


def first_token_only(module: nn.Module) -> nn.Module:
    """The module with the least work in its last layer; unchanged unless a BERT or DistilBERT sequence classifier."""
    model: Any = getattr(module, "model", None)
    if not isinstance(module, Classifier):
        return module
    kind = model.config.model_type
    if kind == "bert" and getattr(model.config, "position_embedding_type", "absolute") in (None, "absolute"):
        return _FirstTokenBert(model)
    return _FirstTokenDistilBert(model) if kind == "distilbert" else module


class _Head(nn.Sequential):
    """From the first token's state to logits."""

    full_precision = True
    """Stays in float32 where the rest is not: in bfloat16, close scores would be equal."""


class _FirstTokenBert(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.bert = model.bert
        self.head = _Head(model.bert.pooler, model.classifier)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
    ) -> torch.Tensor:
        states = self.bert.embeddings(input_ids=input_ids, token_type_ids=token_type_ids)
        bias = _bias(attention_mask, states.dtype)
        *layers, last = self.bert.encoder.layer
        for layer in layers:
            states = _states(layer(states, bias))
        own = last.attention.self
        mixed = _attend(states, bias, (own.query, own.key, own.value), own.num_attention_heads)
        attended = last.attention.output(mixed, states[:, :1])
        first = last.output(last.intermediate(attended), attended)
        logits: torch.Tensor = self.head(first.float())
        return logits


class _FirstTokenDistilBert(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.distilbert = model.distilbert
        self.head = _Head(model.pre_classifier, nn.ReLU(), model.classifier)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
    ) -> torch.Tensor:
        states = self.distilbert.embeddings(input_ids)
        bias = _bias(attention_mask, states.dtype)
        *layers, last = self.distilbert.transformer.layer
        for layer in layers:
            states = _states(layer(states, bias))
        own = last.attention
        mixed = own.out_lin(_attend(states, bias, (own.q_lin, own.k_lin, own.v_lin), own.n_heads))
        attended = last.sa_layer_norm(mixed + states[:, :1])
        first = last.output_layer_norm(last.ffn(attended) + attended)[:, 0]
        logits: torch.Tensor = self.head(first.float())
        return logits


def _bias(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """[n, 1, 1, L], to be added to the logits of attention: 0 for a token, as low as can be for padding."""
    return (1 - mask)[:, None, None, :].to(dtype) * torch.finfo(dtype).min


def _states(out: Any) -> torch.Tensor:
    """A layer's states [n, L, d], which transformers 4 puts into a tuple and transformers 5 does not."""
    states: torch.Tensor = out[0] if isinstance(out, tuple) else out
    return states


def _attend(
    states: torch.Tensor, bias: torch.Tensor, parts: tuple[nn.Module, nn.Module, nn.Module], heads: int
) -> torch.Tensor:
    """What the first token takes from all tokens: [n, 1, d]."""
    query, key, value = (
        part(read).unflatten(-1, (heads, -1)).transpose(1, 2)
        for part, read in zip(parts, (states[:, :1], states, states), strict=True)
    )
    mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    return mixed.transpose(1, 2).flatten(2)
