"""OpenVINO: conversion from torch, quantisation by NNCF, and what runs the result."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cascade.cores import cores
from cascade.errors import ModelError
from stages.models.loading import quiet_transformers
from stages.runtimes.choice import Ints
from stages.runtimes.compiled import INPUTS, CompiledRuntime, shapes


def import_openvino() -> Any:
    """The package, kept from telling its maker over the network what it is used for."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


class OpenVINORuntime(CompiledRuntime):
    """A model in OpenVINO's own format, which stays on disk until it is read.

    Args:
        model: the ``.xml`` file.
        precision: float32, bfloat16 (for the whole) or int8 (already in the file; for the rest bfloat16 where the
            processor multiplies it, else float32).
        outputs: number of outputs for each input.

    Raises:
        ModelError: the file cannot be read.
    """

    def __init__(self, model: Path, precision: str, outputs: int) -> None:
        super().__init__(outputs)
        self._core = import_openvino().Core()
        try:
            self._model = self._core.read_model(model)
        except RuntimeError as error:
            raise ModelError(f"{model}: cannot read the model: {error}; delete its folder and make it again") from error
        half = precision == "int8" and "BF16" in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        self._hint = "bf16" if half or precision == "bfloat16" else "f32"
        given = [port.get_names() for port in self._model.inputs]
        self._order = [next(i for i, name in enumerate(INPUTS) if name in names) for names in given]
        self._threads = 0
        self.compiled: Any = None
        self._requests = threading.local()
        self._met: set[tuple[int, int]] = set()

    def prepare(self, threads: int, longest: int = 0, most: int = 1) -> None:
        """Compiles the model, for as many callers at once as there are cores for.

        A stream is what one caller uses; further callers wait. Threads are not bound to cores: other stages, and other
        processes, use the same ones. Every new shape of inputs costs as much again as its first run, for kernels that
        are made then; so each is run once here.
        """
        if threads != self._threads:
            self._compile(threads)
        for shape in shapes(longest, most):
            if shape not in self._met:
                self._met.add(shape)
                self.infer((np.zeros(shape, np.int64), np.ones(shape, np.int64), np.zeros(shape, np.int64)))

    def _compile(self, threads: int) -> None:
        streams = max(1, cores() // threads)
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": streams,
            "INFERENCE_NUM_THREADS": streams * threads,
            "INFERENCE_PRECISION_HINT": self._hint,
            "ENABLE_CPU_PINNING": False,
        }
        self.compiled = self._core.compile_model(self._model, "CPU", options)
        self._requests = threading.local()
        self._threads = threads
        self._met.clear()

    def infer(self, parts: tuple[Ints, Ints, Ints]) -> Any:
        """See ``CompiledRuntime``."""
        given = {port: parts[i] for port, i in enumerate(self._order)}
        return self._request().infer(given, share_inputs=True, share_outputs=True)[0]

    def _request(self) -> Any:
        """The calling thread's own."""
        if not hasattr(self._requests, "mine"):
            if self.compiled is None:
                raise RuntimeError("prepare() comes before run()")
            self._requests.mine = self.compiled.create_infer_request()
        return self._requests.mine


def load(model: Path, precision: str, outputs: int) -> OpenVINORuntime:
    """See ``Engine.load``."""
    return OpenVINORuntime(model, precision, outputs)


def convert(module: Any, examples: Sequence[tuple[Ints, Ints, Ints]], precision: str, target: Path) -> None:
    """See ``Engine.convert``.

    int8 quantises matrix products, weights and activations, the way that suits transformers: post-training, with
    SmoothQuant (Xiao et al. 2022, arXiv 2211.10438).
    """
    import torch

    openvino = import_openvino()
    named = [dict(zip(INPUTS, example, strict=True)) for example in examples]
    example = {name: torch.from_numpy(part) for name, part in named[0].items()}
    with warnings.catch_warnings(), torch.no_grad(), quiet_transformers():
        warnings.simplefilter("ignore")  # tracing warns of every constant
        try:
            model = openvino.convert_model(module, example_input=example)
        except Exception as error:  # the converter's errors have no common type of their own
            raise ModelError(f"OpenVINO cannot convert {type(module).__name__}: {error}; use runtime: torch") from error
        if precision == "int8":
            names = [set(port.get_names()) for port in model.inputs]
            kept = [{key: part for key, part in one.items() if any(key in given for given in names)} for one in named]
            model = _quantize(model, kept)
    openvino.save_model(model, target, compress_to_fp16=False)


def _quantize(model: Any, inputs: list[dict[str, Ints]]) -> Any:
    try:
        import nncf
    except ImportError as error:
        raise ModelError(f"int8 needs the package nncf: {error}; `pip install 'cascade-ranking[openvino]'`") from error
    nncf.set_log_level(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()):  # where it would draw bars of its own
        return nncf.quantize(
            model, nncf.Dataset(inputs), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(inputs)
        )
