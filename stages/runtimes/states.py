"""The states of an encoder's last layer: of one query, by torch or by a form made for it; of many passages, by torch.

A query is a dozen tokens, so that reading the weights and calling hundreds of small operators takes most of the time.
Without what transformers does around each of them, torch needs two thirds of it; a compiled graph needs less, and
bfloat16 reads half as much. So queries stay on the CPU, while passages, of which there are many at once, go to a GPU
where there is one. Of these the products take the time, which bfloat16 halves and more where the CPU has it.
"""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn import functional

from cascade.errors import ModelError
from stages.models import cpu_has_bfloat16, load_transformer, one_thread
from stages.runtimes.choice import Floats, Ints, RuntimeName, engines_of, runtime_problems

logger = logging.getLogger(__name__)

_LONGEST_QUERY = 66
"""Tokens of queries, special ones included, for which a form is ready at once: as many as stages read by default."""


class States(Protocol):
    """A loaded encoder; may be used by many threads at once."""

    def states(self, ids: Ints, mask: Ints) -> Floats:
        """float32 [n, L, d], the last layer's states of int64 [n, L] token ids and their mask."""
        ...


class TorchStates:
    """A loaded encoder of transformers, run on the calling thread alone.

    Args:
        model: in evaluation mode.
    """

    def __init__(self, model: Any) -> None:
        config = model.config
        absolute = getattr(config, "position_embedding_type", "absolute") in (None, "absolute")
        plain = config.model_type == "bert" and config.hidden_act == "gelu" and absolute and not config.is_decoder
        self._model: nn.Module = _PlainBert(model) if plain else _LastStates(model)

    def states(self, ids: Ints, mask: Ints) -> Floats:
        """float32 [n, L, d]; see ``States``."""
        with torch.inference_mode(), one_thread():
            found: Floats = self._model(torch.from_numpy(ids), torch.from_numpy(mask)).numpy()
        return found


class BatchStates:
    """A loaded encoder of transformers for batches of passages: in float16 on the first GPU, else on the CPU.

    In float32 from where float16 does not hold its values. A CPU that multiplies in bfloat16 may do so, all else in
    float32: several times as fast, at cosines of .9998 and more to what float32 gives.

    Args:
        model: in evaluation mode; stays as it is.
        device: as torch calls it; None for the first GPU, or the CPU where there is none.
    """

    def __init__(self, model: nn.Module, device: str | None = None) -> None:
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._model = model
        self._moved: nn.Module | None = None

    def states(self, ids: torch.Tensor, mask: torch.Tensor, *, exact: bool = True) -> torch.Tensor:
        """float32 [n, L, d] on the CPU, of int64 [n, L] token ids and their mask.

        Args:
            ids: token ids.
            mask: 1 for a token and 0 for padding.
            exact: whether a CPU is to keep to float32. In bfloat16 a passage's states differ in the third decimal with
                what else is in its batch, which an index, where it is encoded once, may put up with.
        """
        if self._moved is None:  # not before there are passages to encode: a service that only searches has none
            self._moved = self._model if self.device == "cpu" else copy.deepcopy(self._model).to(self.device).half()
        with torch.inference_mode():
            states = self._forward(self._moved, ids, mask, exact)
            if self._moved is not self._model and not torch.isfinite(states).all():  # beyond what float16 holds
                self._moved = copy.deepcopy(self._model).to(self.device)
                states = self._forward(self._moved, ids, mask, exact)
        return states

    def _forward(self, model: nn.Module, ids: torch.Tensor, mask: torch.Tensor, exact: bool) -> torch.Tensor:
        half = self.device == "cpu" and not exact and cpu_has_bfloat16()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            out = model(input_ids=ids.to(self.device), attention_mask=mask.to(self.device))
        states: torch.Tensor = out.last_hidden_state.float().cpu()
        return states


class _LastStates(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        return states


class _PlainBert(nn.Module):
    """The modules of a ``BertModel``, called one after the other."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.embeddings = model.embeddings
        self.layers = model.encoder.layer
        self.heads = int(model.config.num_attention_heads)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        parts = self.embeddings
        positions = parts.position_embeddings.weight[: ids.shape[1]]
        states: torch.Tensor = parts.LayerNorm(
            parts.word_embeddings(ids) + parts.token_type_embeddings.weight[0] + positions
        )
        bias = None if bool(mask.all()) else mask.bool()[:, None, None, :]
        for layer in self.layers:
            own, after = layer.attention.self, layer.attention.output
            query, key, value = (
                part(states).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (own.query, own.key, own.value)
            )
            mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
            attended = after.LayerNorm(after.dense(mixed.transpose(1, 2).flatten(2)) + states)
            inner = functional.gelu(layer.intermediate.dense(attended))
            states = layer.output.LayerNorm(layer.output.dense(inner) + attended)
        return states


class StatesModule(nn.Module):
    """Gives the last layer's states [n, L, d] of texts.

    Args:
        folder: of the encoder.

    Raises:
        ModelError: it cannot be loaded.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.model: Any = load_transformer(folder, "encoder")
        self.hidden = int(self.model.config.hidden_size)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
    ) -> torch.Tensor:
        """States of int64 [n, L] ids and mask; the third argument is what other models need."""
        states: torch.Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return states


def load_states(ref: str, folder: Path, runtime: RuntimeName) -> States | None:
    """What ``cascade models optimize`` has made of an encoder; None where torch is to encode.

    Args:
        ref: the model as the configuration names it, for messages.
        folder: model folder.
        runtime: ``auto`` takes the fastest form that is there, and torch if there is none.

    Raises:
        ModelError: a form is asked for and there is none, or the form is damaged.
    """
    for _, problem in runtime_problems(runtime, "auto"):
        raise ModelError(f"{ref}: {problem}")
    engines = engines_of(runtime)
    if not engines:
        return None
    from stages.runtimes.forms import load_form

    form = load_form(folder, engines, "auto")
    if form is not None:
        form.prepare(threads=1, longest=_LONGEST_QUERY)
        return form
    command = engines[0].command(ref)
    if runtime != "auto":
        raise ModelError(f"{ref}: expected a form for {engines[0].title}, found none; run `{command}`")
    logger.info("%s: queries are encoded by torch; `%s` makes that faster", ref, command)
    return None
