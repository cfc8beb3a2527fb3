"""Sentence vectors of many texts by a bi-encoder, as fast as the hardware gives them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from cascade.stage import StepProgress
from stages.models import HFTokenizer, layout, load_transformer, pad
from stages.models.pooling import Pooling, pooled, stated_pooling
from stages.training.device import Device
from stages.training.tokens import Ragged

Vectors = npt.NDArray[np.float16]

_BATCH_TOKENS = {"cpu": 4096, "cuda": 131_072}


def embed(folder: Path, texts: Ragged, device: Device, told: StepProgress, step: str) -> Vectors:
    """float16 [n, d]: unit vectors, pooled as the bi-encoder says.

    Args:
        folder: of the bi-encoder.
        texts: token ids without special tokens; an empty text gets the vector of its special tokens.
        device: where.
        told: of the texts done.
        step: what to call that.
    """
    model: Any = load_transformer(folder, "encoder")
    model.to(device.name)
    around = layout(folder)
    pooling = stated_pooling(folder)
    head, tail = np.array(around.head, np.int32), np.array(around.tail, np.int32)
    pad_id = HFTokenizer(folder, window=1).pad_id
    vectors = np.empty((len(texts), int(model.config.hidden_size)), np.float16)
    lengths = texts.lengths
    order = np.argsort(-lengths, kind="stable")
    done = 0
    while done < len(order):
        size = max(1, _BATCH_TOKENS[device.name] // int(lengths[order[done]] + around.single_extra))
        batch = order[done : done + size]
        ids, mask = pad([np.concatenate((head, texts[i], tail)) for i in batch.tolist()], pad_id)
        with device.autocast():
            vectors[batch] = _unit(model, ids.to(device.name), mask.to(device.name), pooling)
        done += len(batch)
        told(step, done, len(order))
    return vectors


def _unit(model: Any, ids: torch.Tensor, mask: torch.Tensor, pooling: Pooling) -> Vectors:
    with torch.inference_mode():
        states = model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        whole = torch.nn.functional.normalize(pooled(states, mask, pooling), dim=-1)
        unit: Vectors = whole.to(torch.float16).cpu().numpy()
    return unit
