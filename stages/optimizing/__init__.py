"""Makes faster forms of models for OpenVINO, and lets each prove that it still ranks as the model does.

The entry point of ``cascade models optimize``: cross-encoders score pairs, encoders make the vectors of queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cascade.errors import ModelError
from cascade.optimizing import JudgedQuestion, Optimized, Precision, Progress
from cascade.stage import Context
from stages.models import locate, scores_pairs
from stages.runtimes.choice import openvino_installed


def optimize(
    model: str, precision: Precision | None, questions: Sequence[JudgedQuestion], progress: Progress
) -> Optimized:
    """Puts an OpenVINO form of the model into the cache folder; see ``cascade.optimizing.Optimizer``.

    Left to itself it makes int8 of a cross-encoder. Of an encoder it makes bfloat16: a query's few tokens gain little
    from int8 and lose more, since they meet passages that were not rounded.

    Raises:
        ModelError: OpenVINO is missing, the model cannot be loaded or converted, or the form ranks too differently.
    """
    if not openvino_installed():
        raise ModelError("making a form needs the package openvino; run `pip install 'cascade-ranking[openvino]'`")
    folder = locate(model, Context(Path()))
    if scores_pairs(folder):
        from stages.optimizing import cross_encoders

        return cross_encoders.optimize(model, folder, precision or "int8", questions, progress)
    from stages.optimizing import encoders

    return encoders.optimize(model, folder, precision or "bfloat16", questions, progress)
