"""What runs the transformer. Another runtime is another class with ``logits``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch

from stages.cross_encoder.pairs import PairInput
from stages.models import load_transformer


class Runtime(Protocol):
    """A loaded sequence-classification model; may be used by many threads at once."""

    @property
    def labels(self) -> int:
        """Number of outputs a pair."""
        ...

    def logits(self, pairs: PairInput) -> npt.NDArray[np.float32]:
        """float32 [n, labels]."""
        ...


class TorchRuntime:
    """The checkpoint in torch.

    Args:
        folder: model folder.
        dtype: of weights and activations.

    Raises:
        ModelError: the folder is not that of a sequence-classification model.
    """

    def __init__(self, folder: Path, dtype: Literal["float32", "bfloat16"]) -> None:
        self._model = load_transformer(folder, "sequence-classification").to(getattr(torch, dtype))

    @property
    def labels(self) -> int:
        """Number of outputs a pair."""
        return int(self._model.config.num_labels)

    def logits(self, pairs: PairInput) -> npt.NDArray[np.float32]:
        """float32 [n, labels]."""
        inputs = {"input_ids": torch.from_numpy(pairs.ids), "attention_mask": torch.from_numpy(pairs.mask)}
        if pairs.segments is not None:
            inputs["token_type_ids"] = torch.from_numpy(pairs.segments)
        with torch.inference_mode():
            logits: npt.NDArray[np.float32] = self._model(**inputs).logits.float().numpy()
        return logits
