"""Which runtime, at which precision."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from cascade.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

logger = logging.getLogger(__name__)

RuntimeName: TypeAlias = Literal["auto", "torch", "openvino"]
Dtype: TypeAlias = Literal["auto", "float32", "bfloat16", "float16", "int8"]
Ints: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float32]


class Runtime(Protocol):
    """A loaded model; may be used by many threads at once."""

    @property
    def outputs(self) -> int:
        """Number of outputs for each input."""
        ...

    def prepare(self, threads: int) -> None:
        """Gets ready for callers of which each may use so many cores; to be called before the first ``run``."""
        ...

    def run(self, ids: Ints, mask: Ints, segments: Ints | None) -> Floats:
        """float32 [n, outputs].

        Args:
            ids: int64 [n, L].
            mask: int64 [n, L], 1 for a token and 0 for padding, which is on the right.
            segments: int64 [n, L]; None for all zeros.
        """
        ...


def runtime_problems(runtime: RuntimeName, dtype: Dtype) -> Sequence[tuple[str, str]]:
    """Why the two settings cannot be had here, as (field, message) pairs; loads nothing."""
    if runtime == "torch" and dtype == "int8":
        return [("dtype", "int8 needs runtime: openvino or auto; torch runs float32, bfloat16 and float16")]
    if runtime == "openvino" and dtype == "float16":
        return [("dtype", "float16 is for torch on a GPU; OpenVINO runs int8, bfloat16 and float32")]
    if (runtime == "openvino" or dtype == "int8") and not openvino_installed():
        field, choice = ("runtime", "openvino") if runtime == "openvino" else ("dtype", "int8")
        return [(field, f"{choice} needs the package openvino; run `pip install 'cascade-ranking[openvino]'`")]
    return []


def openvino_installed() -> bool:
    """Whether there is OpenVINO, seen without importing it."""
    return importlib.util.find_spec("openvino") is not None


def load_runtime(
    ref: str, folder: Path, load_module: Callable[[Path], nn.Module], runtime: RuntimeName, dtype: Dtype
) -> Runtime:
    """The model on the runtime that the settings ask for.

    ``auto`` takes what ``cascade models optimize`` has made of the model, and torch if it has made nothing. Nothing is
    made here: quantising takes a minute, which would be a surprise when a service starts.

    Args:
        ref: the model as the configuration names it, for messages.
        folder: model folder.
        load_module: gives the torch module; not called where another runtime needs none.
        runtime: what runs it.
        dtype: of weights and activations; ``auto`` is int8 on OpenVINO and float32 on torch.

    Raises:
        ModelError: there is no such form of the model, it is damaged, or the model cannot be loaded.
    """
    for _, problem in runtime_problems(runtime, dtype):
        raise ModelError(f"{ref}: {problem}")
    if runtime != "torch" and dtype != "float16" and openvino_installed():
        from stages.runtimes.forms import find_form
        from stages.runtimes.openvino import OpenVINORuntime

        precision = "int8" if dtype == "auto" else dtype
        form = find_form(folder, precision)
        if form is not None:
            return OpenVINORuntime(form.model, precision, form.outputs)
        command = f"cascade models optimize {ref} --precision {precision}"
        if runtime == "openvino" or dtype == "int8":
            raise ModelError(f"{ref}: expected an OpenVINO form in {precision}, found none; run `{command}`")
        logger.info("%s: runs on torch; `%s` makes a faster form of it", ref, command)
    from stages.runtimes.torch import TorchRuntime

    return TorchRuntime(load_module(folder), "float32" if dtype == "auto" or dtype == "int8" else dtype)
