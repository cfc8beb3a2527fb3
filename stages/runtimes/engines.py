"""The packages that run forms of models, in the order in which ``runtime: auto`` looks for one."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cascade.errors import ModelError
from cascade.optimizing import Precision

if TYPE_CHECKING:
    from stages.runtimes.choice import Ints
    from stages.runtimes.compiled import CompiledRuntime


@dataclass(frozen=True, slots=True)
class Engine:
    """A package that runs forms; naming one imports nothing.

    Args:
        name: as settings, the extra of this package and the name of a form spell it.
        title: as messages spell it.
        package: what must be installed.
        files: what a form consists of, the model first.
        precisions: what it runs, the fastest first.
        makers: packages that matter to what comes out when a form is made.
    """

    name: Literal["openvino", "onnx"]
    title: str
    package: str
    files: tuple[str, ...]
    precisions: tuple[Precision, ...]
    makers: tuple[str, ...]

    @property
    def installed(self) -> bool:
        """Whether the package is there, seen without importing it."""
        return importlib.util.find_spec(self.package) is not None

    @property
    def version(self) -> str:
        """Of the installed package, fit for the name of a folder."""
        return version(self.package).replace("/", "_")

    def require(self, precision: str | None) -> None:
        """Checks that forms can be made here, in that precision if one is named.

        Raises:
            ModelError: the package is not installed, or does not run that precision.
        """
        if not self.installed:
            raise ModelError(self.missing("making a form"))
        if precision not in (None, *self.precisions):
            runs = ", ".join(self.precisions)
            raise ModelError(f"{self.title} runs {runs}, not {precision}; take another --precision")

    def missing(self, what: str) -> str:
        """What to say where ``what`` cannot be had without the package."""
        return f"{what} needs the package {self.package}; run `pip install 'cascade-ranking[{self.name}]'`"

    def command(self, ref: str, precision: str | None = None) -> str:
        """What makes a form of a model."""
        runtime = "" if self is ENGINES[0] else f" --runtime {self.name}"
        return f"cascade models optimize {ref}{runtime}" + ("" if precision is None else f" --precision {precision}")

    def load(self, model: Path, precision: str, outputs: int) -> CompiledRuntime:
        """A form, to be prepared before use.

        Args:
            model: its first file.
            precision: it was made in.
            outputs: number of outputs for each input.

        Raises:
            ModelError: the file cannot be read.
        """
        runtime: CompiledRuntime = self._module().load(model, precision, outputs)
        return runtime

    def convert(self, module: Any, examples: Sequence[tuple[Ints, Ints, Ints]], precision: str, target: Path) -> None:
        """Writes a torch module as a form, for any number and length of inputs.

        Args:
            module: in float32 on the CPU; traced with the first example, so it must not branch on values.
            examples: inputs like those to come: one suffices, but int8 may need some hundred to learn the range of
                every activation.
            precision: one of ``precisions``.
            target: the form's first file; others go beside it.

        Raises:
            ModelError: the package cannot do it.
        """
        self._module().convert(module, examples, precision, target)

    def _module(self) -> Any:
        return importlib.import_module(f"stages.runtimes.{self.name}")


OPENVINO = Engine(
    "openvino",
    "OpenVINO",
    "openvino",
    ("model.xml", "model.bin"),
    ("int8", "bfloat16", "float32"),
    ("openvino", "nncf", "torch", "transformers"),
)
ONNX = Engine(
    "onnx",
    "ONNX Runtime",
    "onnxruntime",
    ("model.onnx",),
    ("int8", "float32"),
    ("onnxruntime", "onnx", "torch", "transformers"),
)
ENGINES = (OPENVINO, ONNX)
