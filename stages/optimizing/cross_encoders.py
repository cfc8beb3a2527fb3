"""Makes a faster form of a cross-encoder, and lets it prove that it still ranks as the model does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from cascade.index.memory import MemoryPassages
from cascade.optimizing import JudgedQuestion, Optimized, Precision, Progress
from cascade.stage import Batch, Context
from cascade.types import Document, Query, Scores
from stages.cross_encoder.kind import CrossEncoderSettings
from stages.cross_encoder.stage import CrossEncoder, CrossEncoderStage
from stages.models import layout, load_cross_encoder, longest_input
from stages.runtimes.choice import Ints
from stages.runtimes.engines import Engine
from stages.runtimes.first_token import first_token_only
from stages.runtimes.forms import described, form_folder, new_form
from stages.runtimes.parity import Refused, compare

_QUERY_TOKENS = 32
_PAIR_TOKENS = 256
_CALIBRATION_QUESTIONS = 300


def optimize(
    engine: Engine,
    model: str,
    folder: Path,
    precisions: Sequence[Precision],
    questions: Sequence[JudgedQuestion],
    progress: Progress,
) -> Optimized:
    """Puts a form of the cross-encoder in ``folder`` into the cache folder, in the first precision that ranks alike.

    Activations learn their ranges from each question's first candidate. The questions need not be of the domain that
    the model will serve: what is hard to quantise in a transformer, a few wide channels, depends on its weights and
    special tokens, not on the topic (Xiao et al. 2022, arXiv 2211.10438, section 3).

    Raises:
        ModelError: the model cannot be loaded or converted, or every form ranks too differently.
    """
    reranker = _reranker(model, folder, questions)
    batches = _batches(reranker, questions)
    reference = _scores(reranker, batches, "float32", progress)

    first = [Batch(batch.queries, batch.query_of[:1], batch.rows[:1]) for batch in batches[:_CALIBRATION_QUESTIONS]]
    refused: list[Refused] = []
    for precision in precisions:
        progress(f"converting to {precision}", 0, 1)
        try:
            with new_form(folder, engine, precision) as (target, report):
                module = first_token_only(load_cross_encoder(folder))
                engine.convert(module, [_input(reranker, one) for one in first], precision, target)
                progress(f"converting to {precision}", 1, 1)
                runtime = engine.load(target, precision, reranker.runtime.outputs)
                runtime.prepare(torch.get_num_threads())
                scores = _scores(reranker.on(runtime), batches, precision, progress)
                parity = compare(reference, scores, [question.relevance for question in questions])
                parity.require(f"{model} in {precision}", "use another --precision, or runtime: torch")
                report |= described(model, engine, precision, runtime.outputs, parity)
        except Refused as error:
            refused.append(error)
        else:
            return Optimized(
                form_folder(folder, engine, precision), precision, asdict(parity), tuple(map(str, refused))
            )
    raise refused[-1]


def _reranker(model: str, folder: Path, questions: Sequence[JudgedQuestion]) -> CrossEncoder:
    longest = longest_input(folder)
    room = _PAIR_TOKENS if longest is None else min(longest, _PAIR_TOKENS)
    settings = CrossEncoderSettings(
        name="model",
        kind="cross_encoder",
        top_k=1,
        model=model,
        runtime="torch",
        dtype="float32",
        max_query_tokens=_QUERY_TOKENS,
        max_passage_tokens=room - _QUERY_TOKENS - layout(folder).pair_extra,
    )
    texts = [text for question in questions for text in question.passages]
    passages = MemoryPassages([Document(str(number), text) for number, text in enumerate(texts)])
    return CrossEncoderStage(settings, Context(Path())).open(passages, None)


def _batches(reranker: CrossEncoder, questions: Sequence[JudgedQuestion]) -> list[Batch]:
    ends = np.cumsum([0, *(len(question.passages) for question in questions)], dtype=np.int32)
    encoded = [reranker.encode_query(Query("", question.text)) for question in questions]
    return [
        Batch.single(query, np.arange(start, stop, dtype=np.int32))
        for query, start, stop in zip(encoded, ends[:-1], ends[1:], strict=True)
    ]


def _scores(reranker: CrossEncoder, batches: Sequence[Batch], step: str, progress: Progress) -> list[Scores]:
    scores = []
    for done, batch in enumerate(batches):
        progress(f"ranking in {step}", done, len(batches))
        scores.append(reranker.score(batch))
    return scores


def _input(reranker: CrossEncoder, batch: Batch) -> tuple[Ints, Ints, Ints]:
    pairs = reranker.assemble(batch)
    return pairs.ids, pairs.mask, np.zeros_like(pairs.ids) if pairs.segments is None else pairs.segments
