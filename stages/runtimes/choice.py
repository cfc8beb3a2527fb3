"""Which runtime, at which precision."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from cascade.errors import ModelError
from stages.runtimes.engines import ENGINES, Engine

if TYPE_CHECKING:
    from torch import nn

    from stages.runtimes.forms import Use

logger = logging.getLogger(__name__)

RuntimeName: TypeAlias = Literal["auto", "torch", "openvino", "onnx"]
Dtype: TypeAlias = Literal["auto", "float32", "bfloat16", "float16", "int8"]
Ints: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float32]


class Runtime(Protocol):
    """A loaded model; may be used by many threads at once."""

    @property
    def outputs(self) -> int:
        """Number of outputs for each input."""
        ...

    def prepare(self, threads: int, longest: int = 0, most: int = 1) -> None:
        """Gets ready for callers of which each may use so many cores; to be called before the first ``run``.

        Args:
            threads: cores for each caller.
            longest: tokens of inputs for which what depends on their shape is compiled now rather than later.
            most: how many such inputs at once.
        """
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
        return [("dtype", "int8 needs runtime: openvino, onnx or auto; torch runs float32, bfloat16 and float16")]
    named = [engine for engine in ENGINES if engine.name == runtime]
    for engine in named:
        if dtype not in ("auto", *engine.precisions):
            other = "float16 is for torch on a GPU" if dtype == "float16" else f"{engine.title} has no {dtype}"
            return [("dtype", f"{other}; {engine.title} runs {', '.join(engine.precisions)}")]
        if not engine.installed:
            return [("runtime", engine.missing(engine.name))]
    if dtype == "int8" and not any(engine.installed for engine in ENGINES):
        return [("dtype", ENGINES[0].missing("int8"))]
    return []


def engines_of(runtime: RuntimeName) -> Sequence[Engine]:
    """What is installed of that which may run a form, under a setting."""
    return [engine for engine in ENGINES if runtime in ("auto", engine.name) and engine.installed]


def load_runtime(
    ref: str,
    folder: Path,
    load_module: Callable[[Path], nn.Module],
    runtime: RuntimeName,
    dtype: Dtype,
    use: Use = "plain",
) -> Runtime:
    """The model on the runtime that the settings ask for.

    ``auto`` takes what ``cascade models optimize`` has made of the model, for OpenVINO before ONNX Runtime, and torch
    if it has made nothing. Nothing is made here: quantising takes minutes, which would be a surprise when a service
    starts.

    Args:
        ref: the model as the configuration names it, for messages.
        folder: model folder.
        load_module: gives the torch module; not called where another runtime needs none.
        runtime: what runs it.
        dtype: of weights and activations; ``auto`` is float32 on torch, elsewhere the fastest that was made.
        use: what a form must be for.

    Raises:
        ModelError: there is no such form of the model, it is damaged, or the model cannot be loaded.
    """
    for _, problem in runtime_problems(runtime, dtype):
        raise ModelError(f"{ref}: {problem}")
    engines = engines_of(runtime)
    if engines:
        from stages.runtimes.forms import load_form

        form = load_form(folder, engines, dtype, use)
        if form is not None:
            return form
    able = [engine for engine in engines if dtype == "auto" or dtype in engine.precisions]
    if able:
        command = able[0].command(ref, None if dtype == "auto" else dtype)
        if runtime != "auto" or dtype == "int8":
            raise ModelError(f"{ref}: expected a form of it for {able[0].title}, found none; run `{command}`")
        logger.info("%s: runs on torch; `%s` makes a faster form of it", ref, command)
    from stages.runtimes.torch import TorchRuntime

    return TorchRuntime(load_module(folder), "float32" if dtype == "auto" or dtype == "int8" else dtype)
