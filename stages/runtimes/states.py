"""Encoding one query on OpenVINO: the states of an encoder's last layer.

A query is a dozen tokens, so that reading the weights and calling two hundred small operators takes most of the time in
torch; a compiled graph calls fewer, and bfloat16 reads half as much.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from cascade.errors import ModelError
from stages.models import load_transformer
from stages.runtimes.choice import Floats, Ints, RuntimeName, openvino_installed, runtime_problems

logger = logging.getLogger(__name__)

_PRECISIONS = ("int8", "bfloat16", "float32")


class States(Protocol):
    """A loaded encoder; may be used by many threads at once."""

    def states(self, ids: Ints, mask: Ints) -> Floats:
        """float32 [n, L, d], the last layer's states of int64 [n, L] token ids and their mask."""
        ...


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
        ModelError: OpenVINO is asked for and there is no form, or the form is damaged.
    """
    for _, problem in runtime_problems(runtime, "auto"):
        raise ModelError(f"{ref}: {problem}")
    if runtime == "torch" or not openvino_installed():
        return None
    from stages.runtimes.forms import find_form
    from stages.runtimes.openvino import OpenVINORuntime

    for precision in _PRECISIONS:
        form = find_form(folder, precision)
        if form is not None:
            loaded = OpenVINORuntime(form.model, precision, form.outputs)
            loaded.prepare(threads=1)
            return loaded
    command = f"cascade models optimize {ref}"
    if runtime == "openvino":
        raise ModelError(f"{ref}: expected an OpenVINO form of it, found none; run `{command}`")
    logger.info("%s: queries are encoded by torch; `%s` makes that faster", ref, command)
    return None
