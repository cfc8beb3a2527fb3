"""A transformer that reads a query and passages together, and starts from what a bi-encoder knows of relevance.

A cross-encoder with a fresh classification head has to learn relevance anew and forgets, on little data, what its base
knew. This one cannot do worse than its base on the day it is made:

- *Gated attention.* In the first layers query and passage see only themselves, as in the bi-encoder; in the others the
  attention from one text to another carries a learned bias, a gate, which starts half shut. With all gates shut the
  model is the bi-encoder, token for token: every text has its own [CLS] and [SEP], and its positions start at zero.
- *Late interaction head.* The score is the mean of the query tokens' best matches among the passage's tokens (MaxSim,
  Khattab and Zaharia 2020, section 3.3), weighted by a learned function of these, plus the cosine of the two mean
  vectors, plus a small network over the two [CLS] states, which starts at zero.

Reading several passages at once is the same model with one more gate, between passages. Nothing in it knows in which
order they stand, so their order cannot matter. Keeping the first layers apart is due to MacAvaney et al. 2020 (PreTTR).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers.processors import TemplateProcessing
from torch import nn
from torch.nn import functional

from stages.models.layout import JOINT_ENCODER, layout, read_config
from stages.models.tokenizer import read_tokenizer

NEVER = -1e4
"""Added to the logit of attention that must not happen; finite, so that a row of nothing else gives no NaN."""


@dataclass(frozen=True, slots=True)
class JointConfig:
    """The shape of a joint encoder.

    Args:
        hidden: width d.
        layers: number of layers.
        heads: attention heads a layer.
        inner: width of the feed-forward part.
        vocabulary: number of token ids.
        positions: most tokens of one text, special ones included.
        separate: how many of the first layers keep the texts apart.
        eps: of the layer normalisations.
    """

    hidden: int
    layers: int
    heads: int
    inner: int
    vocabulary: int
    positions: int
    separate: int
    eps: float = 1e-12

    @classmethod
    def of(cls, config: dict[str, Any]) -> JointConfig:
        """From a BERT checkpoint's ``config.json``, whose key ``separate_layers`` is ours."""
        layers = int(config["num_hidden_layers"])
        return cls(
            hidden=int(config["hidden_size"]),
            layers=layers,
            heads=int(config["num_attention_heads"]),
            inner=int(config["intermediate_size"]),
            vocabulary=int(config["vocab_size"]),
            positions=int(config["max_position_embeddings"]),
            separate=int(config.get("separate_layers", layers // 2)),
            eps=float(config.get("layer_norm_eps", 1e-12)),
        )


def save_joint_files(folder: Path, base: Path, separate: int | None = None) -> dict[str, Any]:
    """Writes what a joint encoder's folder holds beside its weights, and gives its configuration.

    Args:
        folder: where to; must exist.
        base: folder of the BERT encoder that it is made from.
        separate: layers that keep the texts apart; by default half of them.
    """
    config = read_config(base)
    layers = int(config["num_hidden_layers"])
    config |= {"architectures": [JOINT_ENCODER], "separate_layers": layers // 2 if separate is None else separate}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    tokenizer = read_tokenizer(base)
    around = layout(base)
    special = [(tokenizer.id_to_token(id_), id_) for id_ in {*around.head, *around.tail}]
    head, tail = (" ".join(tokenizer.id_to_token(id_) for id_ in part) for part in (around.head, around.tail))
    tokenizer.post_processor = TemplateProcessing(
        single=f"{head} $A {tail}", pair=f"{head} $A {tail} {head}:1 $B:1 {tail}:1", special_tokens=special
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return config


class _SelfAttention(nn.Module):
    def __init__(self, config: JointConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.query = nn.Linear(config.hidden, config.hidden)
        self.key = nn.Linear(config.hidden, config.hidden)
        self.value = nn.Linear(config.hidden, config.hidden)

    def forward(self, states: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        split = (*states.shape[:2], self.heads, -1)
        query, key, value = (part(states).view(split).transpose(1, 2) for part in (self.query, self.key, self.value))
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype))
        return mixed.transpose(1, 2).reshape(states.shape)


class _Output(nn.Module):
    def __init__(self, width: int, config: JointConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(width, config.hidden)
        self.LayerNorm = nn.LayerNorm(config.hidden, config.eps)

    def forward(self, inner: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.LayerNorm(states + self.dense(inner))
        return out


class _Layer(nn.Module):
    """One BERT layer; the names of its parts are those of BERT's checkpoints."""

    def __init__(self, config: JointConfig) -> None:
        super().__init__()
        self.attention = nn.ModuleDict({"self": _SelfAttention(config), "output": _Output(config.hidden, config)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(config.hidden, config.inner)})
        self.output = _Output(config.inner, config)

    def forward(self, states: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        attended = self.attention["output"](self.attention["self"](states, bias), states)
        out: torch.Tensor = self.output(functional.gelu(self.intermediate["dense"](attended)), attended)
        return out


class _Embeddings(nn.Module):
    def __init__(self, config: JointConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocabulary, config.hidden)
        self.position_embeddings = nn.Embedding(config.positions, config.hidden)
        self.token_type_embeddings = nn.Embedding(2, config.hidden)
        self.LayerNorm = nn.LayerNorm(config.hidden, config.eps)

    def forward(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        # every text is a first text to itself: segment 0 throughout
        total = self.word_embeddings(ids) + self.position_embeddings(positions) + self.token_type_embeddings.weight[0]
        out: torch.Tensor = self.LayerNorm(total)
        return out


class LateInteractionHead(nn.Module):
    """A score from the states of query and passage; on the first day half MaxSim, half cosine.

    Args:
        hidden: width d of the states.
        scale: how far apart scores lie: that of a softmax over candidates.
    """

    full_precision = True
    """Stays in float32 where the rest is not: in bfloat16, scores of twenty would come in steps of an eighth."""

    def __init__(self, hidden: int, scale: float = 20.0) -> None:
        super().__init__()
        self.token_weight = nn.Linear(hidden, 1)
        self.mix = nn.Parameter(torch.tensor([scale / 2, scale / 2]))
        self.inner = nn.Linear(2 * hidden, hidden)
        self.out = nn.Linear(hidden, 1)
        for module in (self.token_weight, self.out):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)

    def forward(
        self, states: torch.Tensor, query: torch.Tensor, passage: torch.Tensor, first: torch.Tensor
    ) -> torch.Tensor:
        """Scores [n, k].

        Args:
            states: [n, L, d].
            query: [n, L], 1 where a token belongs to the query, else 0.
            passage: [n, k, L], the same for each of k passages.
            first: int64 [n, k], where each passage begins.
        """
        unit = functional.normalize(states, dim=-1)
        similarity = unit @ unit.transpose(1, 2)
        best = (similarity[:, None] + (1 - passage)[:, :, None, :] * NEVER).amax(-1)
        weight = functional.softplus(self.token_weight(states).squeeze(-1)) * query
        weight = weight / weight.sum(-1, keepdim=True)
        maxsim = (best * weight[:, None]).sum(-1)

        middle = functional.normalize(query[:, None] @ states, dim=-1)
        middles = functional.normalize(passage @ states, dim=-1)
        cosine = (middle * middles).sum(-1)

        starts = states.gather(1, first[:, :, None].expand(-1, -1, states.shape[-1]))
        both = torch.cat((states[:, :1].expand_as(starts), starts), -1)
        learned = self.out(functional.gelu(self.inner(both))).squeeze(-1)
        score: torch.Tensor = self.mix[0] * maxsim + self.mix[1] * cosine + learned
        return score


class WindowScorer(nn.Module):
    """A joint encoder that scores a window of passages at once, as a runtime calls it.

    Args:
        model: the encoder.
        passages: in a window; one that an input does not have gets a score without meaning.
    """

    def __init__(self, model: JointEncoder, passages: int) -> None:
        super().__init__()
        self.model = model
        self.passages = passages

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
    ) -> torch.Tensor:
        """Scores [n, passages] of int64 [n, L] ids, mask and numbers of texts; see ``JointEncoder.listwise``."""
        return self.model.listwise(input_ids, attention_mask, token_type_ids, self.passages)


class JointEncoder(nn.Module):
    """Reads ``[CLS] query [SEP] [CLS] passage [SEP]``, and further passages in the same way.

    Args:
        config: the shape.
        gate: what the gates start at, added to the logits of attention across texts.
    """

    def __init__(self, config: JointConfig, gate: float = -2.0) -> None:
        super().__init__()
        self.config = config
        self.embeddings = _Embeddings(config)
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(_Layer(config) for _ in range(config.layers))})
        joint = config.layers - config.separate
        self.gates = nn.Parameter(torch.full((joint,), gate))
        """Bias of attention between query and passage, for each layer from ``separate`` on."""
        self.passage_gates = nn.Parameter(torch.full((joint,), gate))
        """The same between two passages."""
        self.head = LateInteractionHead(config.hidden)
        self.frozen_layers = 0
        """The first layers, with the embeddings, that take no part in training."""

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
    ) -> torch.Tensor:
        """Scores [n, 1] of pairs.

        Args:
            input_ids: int64 [n, L].
            attention_mask: int64 [n, L], 1 for a token and 0 for padding, which is on the right.
            token_type_ids: int64 [n, L], 0 for the query and 1 for the passage.
        """
        return self.listwise(input_ids, attention_mask, token_type_ids, 1)

    def listwise(self, ids: torch.Tensor, mask: torch.Tensor, texts: torch.Tensor, passages: int) -> torch.Tensor:
        """Scores [n, passages], each given with sight of the other passages; their order changes nothing.

        Args:
            ids: int64 [n, L].
            mask: int64 [n, L], 1 for a token and 0 for padding, which is on the right.
            texts: int64 [n, L], 0 for the query and p for the p-th passage, in ascending order.
            passages: number k of passages. One that an input does not have gets a score without meaning.
        """
        numbers = torch.arange(passages + 1, device=ids.device)
        member = ((texts[:, None] == numbers[None, :, None]) & (mask[:, None] != 0)).float()
        lengths = member.sum(-1).to(torch.int64)
        first = lengths.cumsum(-1) - lengths
        states = self._states(ids, mask, texts, first)
        within = torch.clamp(first[:, 1:], max=ids.shape[1] - 1)
        scores: torch.Tensor = self.head(states.float(), member[:, 0], member[:, 1:], within)
        return scores

    def _states(self, ids: torch.Tensor, mask: torch.Tensor, texts: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
        place = torch.arange(ids.shape[1], device=ids.device)[None] - first.gather(1, texts)
        place = place.clamp(max=self.config.positions - 1)  # of padding, whose place is its column
        own = texts[:, None, :, None] == texts[:, None, None, :]
        of_query = (texts[:, None, :, None] == 0) | (texts[:, None, None, :] == 0)
        dtype = self.gates.dtype
        padding = (1 - mask)[:, None, None, :].to(dtype) * NEVER
        across, between = (~own & of_query).to(dtype), (~own & ~of_query).to(dtype)

        def bias(layer: int) -> torch.Tensor:
            joint = layer - self.config.separate
            if joint < 0:
                return padding + (across + between) * NEVER
            return padding + across * self.gates[joint] + between * self.passage_gates[joint]

        def run(states: torch.Tensor, layers: range) -> torch.Tensor:
            for i in layers:
                states = self.encoder["layer"][i](states, bias(i))  # type: ignore[index]
            return states

        frozen = min(self.frozen_layers, self.config.layers)
        if not frozen:
            return run(self.embeddings(ids, place), range(self.config.layers))
        with torch.no_grad():
            states = run(self.embeddings(ids, place), range(frozen))
        return run(states, range(frozen, self.config.layers))
