"""ONNX: export from torch, dynamic quantisation, and ONNX Runtime, which runs on what OpenVINO does not."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cascade.errors import ModelError
from stages.models.loading import quiet_transformers
from stages.runtimes.choice import Ints
from stages.runtimes.compiled import INPUTS, CompiledRuntime

_OPSET = 17
_WARNINGS_OFF = 3


class ONNXRuntime(CompiledRuntime):
    """A model in ONNX, in one session that all threads share.

    Args:
        model: the ``.onnx`` file.
        outputs: number of outputs for each input.
    """

    def __init__(self, model: Path, outputs: int) -> None:
        super().__init__(outputs)
        self._model = model
        self._threads = 0
        self.session: Any = None
        self._order: list[tuple[str, int]] = []

    def prepare(self, threads: int, longest: int = 0, most: int = 1) -> None:
        """Reads the model. A caller works with ``threads - 1`` helpers, which sleep between calls and are shared.

        Nothing depends on the shape of inputs.

        Raises:
            ModelError: the file cannot be read.
        """
        if threads == self._threads:
            return
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _WARNINGS_OFF
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self.session = onnxruntime.InferenceSession(self._model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors have no common type of their own
            raise ModelError(
                f"{self._model}: cannot read the model: {error}; delete its folder and make it again"
            ) from error
        self._order = [(given.name, INPUTS.index(given.name)) for given in self.session.get_inputs()]
        self._threads = threads

    def infer(self, parts: tuple[Ints, Ints, Ints]) -> Any:
        """See ``CompiledRuntime``."""
        if self.session is None:
            raise RuntimeError("prepare() comes before run()")
        return self.session.run(None, {name: parts[i] for name, i in self._order})[0]


def load(model: Path, precision: str, outputs: int) -> ONNXRuntime:
    """See ``Engine.load``."""
    return ONNXRuntime(model, outputs)


def convert(module: Any, examples: Sequence[tuple[Ints, Ints, Ints]], precision: str, target: Path) -> None:
    """See ``Engine.convert``; in int8 the ranges of activations are found anew for every input, without examples."""
    import torch

    example = tuple(torch.from_numpy(part) for part in examples[0])
    axes = {name: {0: "inputs", 1: "length"} for name in INPUTS} | {"out": {0: "inputs"}}
    with TemporaryDirectory(dir=target.parent) as folder, _quiet(), torch.no_grad(), quiet_transformers():
        whole = target if precision == "float32" else Path(folder) / "float32.onnx"
        try:
            torch.onnx.export(
                module,
                example,
                str(whole),
                input_names=list(INPUTS),
                output_names=["out"],
                dynamic_axes=axes,
                opset_version=_OPSET,
                dynamo=False,
            )
        except Exception as error:  # the exporter's errors have no common type of their own
            raise ModelError(f"cannot export {type(module).__name__} to ONNX: {error}; use runtime: torch") from error
        if precision == "int8":
            _quantize(whole, target)


def _quantize(source: Path, target: Path) -> None:
    try:
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ImportError as error:
        raise ModelError(f"int8 needs the package onnx: {error}; `pip install 'cascade-ranking[onnx]'`") from error
    quantize_dynamic(
        source, target, op_types_to_quantize=["MatMul", "Gemm"], per_channel=True, weight_type=QuantType.QInt8
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without warnings of every constant that was traced, and without advice on the root logger."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.setLevel(level)
