"""Makes faster forms of models, and lets each prove that it still ranks as the model does.

The entry points of ``cascade models optimize``, one for each engine; see ``cascade.optimizing.Optimizer``.
Cross-encoders score pairs, listwise rankers windows, encoders make the vectors of queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from cascade.optimizing import JudgedQuestion, Optimized, Precision
from cascade.stage import Context, StepProgress
from stages.models import locate, scores_pairs
from stages.models.layout import passages_at_once
from stages.runtimes.engines import ONNX, OPENVINO, Engine


def _optimize(
    engine: Engine, model: str, precision: Precision | None, questions: Sequence[JudgedQuestion], progress: StepProgress
) -> Optimized:
    engine.require(precision)
    folder = locate(model, Context(Path()))
    if scores_pairs(folder):
        from stages.optimizing.cross_encoders import Pairs
        from stages.optimizing.listwise import Windows
        from stages.optimizing.ranking import optimize

        wanted = engine.precisions if precision is None else (precision,)
        reader = Pairs(model, folder, questions) if passages_at_once(folder) == 1 else Windows(model, folder, questions)
        return optimize(engine, model, folder, wanted, questions, reader, progress)
    from stages.optimizing import encoders

    # a query's few tokens gain little from int8 and lose more, since they meet passages that were not rounded
    careful: Precision = "bfloat16" if "bfloat16" in engine.precisions else "float32"
    return encoders.optimize(engine, model, folder, precision or careful, questions, progress)


openvino = partial(_optimize, OPENVINO)
onnx = partial(_optimize, ONNX)
