"""A faster form of an encoder, for queries: it must rank passages that the model itself encoded as the model does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from cascade.index.memory import MemoryPassages
from cascade.optimizing import JudgedQuestion, Optimized, Precision
from cascade.stage import StepProgress
from cascade.types import Document, Scores
from stages.colbert.checkpoint import UNTRAINED, read_format
from stages.colbert.encoder import TokenEncoder
from stages.colbert.maxsim import maxsim
from stages.colbert.rescore import EncodedVectors
from stages.dense.encoder import Encoder
from stages.models import HFTokenizer, layout
from stages.models.pooling import stated_pooling
from stages.runtimes.choice import Ints
from stages.runtimes.engines import Engine
from stages.runtimes.forms import described, form_folder, new_form
from stages.runtimes.parity import Parity, compare
from stages.runtimes.states import States, StatesModule

_QUERY_TOKENS = 32
_PASSAGE_TOKENS = 120


def optimize(
    engine: Engine,
    model: str,
    folder: Path,
    precision: Precision,
    questions: Sequence[JudgedQuestion],
    progress: StepProgress,
) -> Optimized:
    """Puts a form of the encoder in ``folder`` into the cache folder.

    A checkpoint made for late interaction has to rank alike by MaxSim. Any other has to do so by cosine as well, since
    stages of both kinds take it; what is reported is where the form comes off worse.

    Raises:
        ModelError: the model cannot be loaded or converted, or the form ranks too differently.
    """
    progress(f"converting to {precision}", 0, 1)
    module = StatesModule(folder).eval()
    with new_form(folder, engine, precision) as (target, report):
        engine.convert(module, _examples(folder, questions), precision, target)
        progress(f"converting to {precision}", 1, 1)
        form = engine.load(target, precision, module.hidden)
        form.prepare(threads=1)
        trials: list[_Trial] = [_MaxSim(folder, form)]
        if read_format(folder).kind == UNTRAINED:
            trials.append(_Cosine(folder, form))
        parities = [trial.run(questions, progress) for trial in trials]
        for parity in parities:
            parity.require(f"{model} in {precision}", "use another --precision, or runtime: torch")
        worst = min(parities, key=lambda parity: parity.ndcg - parity.ndcg_float32)
        report |= described(model, engine, precision, module.hidden, worst)
    return Optimized(form_folder(folder, engine, precision), precision, asdict(worst))


class _Trial(ABC):
    """One way of scoring, done with the model's queries and with the form's."""

    name: str

    @abstractmethod
    def scores(self, question: JudgedQuestion) -> tuple[Scores, Scores]:
        """float32 [candidates] of the model and of the form."""

    def run(self, questions: Sequence[JudgedQuestion], progress: StepProgress) -> Parity:
        """How the rankings compare over all questions."""
        found = []
        for done, question in enumerate(questions):
            progress(f"ranking by {self.name}", done, len(questions))
            found.append(self.scores(question))
        reference, scores = zip(*found, strict=True)
        return compare(reference, scores, [question.relevance for question in questions])


class _MaxSim(_Trial):
    name = "MaxSim"

    def __init__(self, folder: Path, form: States) -> None:
        self._slow = TokenEncoder(folder, _PASSAGE_TOKENS, _QUERY_TOKENS)
        self._fast = self._slow.with_queries_on(form)

    def scores(self, question: JudgedQuestion) -> tuple[Scores, Scores]:
        passages = MemoryPassages([Document(str(number), text) for number, text in enumerate(question.passages)])
        vectors = EncodedVectors(self._slow, passages.tokens(self._slow.tokenizer))
        found = vectors.gather(np.arange(len(question.passages), dtype=np.int32))
        slow, fast = (maxsim(encoder.encode_query(question.text), *found) for encoder in (self._slow, self._fast))
        return slow, fast


class _Cosine(_Trial):
    name = "cosine"

    def __init__(self, folder: Path, form: States) -> None:
        self._tokenizer = HFTokenizer(folder, _PASSAGE_TOKENS)
        self._encoder = Encoder(folder, self._tokenizer, stated_pooling(folder), normalise=True)
        slow = self._encoder.reader(np.empty(0, np.int32), _QUERY_TOKENS, None, "")
        self._readers = slow, slow.on(form)

    def scores(self, question: JudgedQuestion) -> tuple[Scores, Scores]:
        passages = self._encoder.encode([ids[:_PASSAGE_TOKENS] for ids in self._tokenizer.encode(question.passages)])
        slow, fast = (self._encoder.query_vector(reader.read(question.text)) for reader in self._readers)
        return passages @ slow, passages @ fast


def _examples(folder: Path, questions: Sequence[JudgedQuestion]) -> list[tuple[Ints, Ints, Ints]]:
    """Queries as the form will get them, framed by their special tokens."""
    tokenizer, special = HFTokenizer(folder, _PASSAGE_TOKENS), layout(folder)
    head, tail = (np.array(ids, np.int32) for ids in (special.head, special.tail))
    found = []
    for question in questions:
        text = tokenizer.encode_start(question.text, _QUERY_TOKENS)
        ids = np.concatenate((head, text, tail))[None].astype(np.int64)
        found.append((ids, np.ones_like(ids), np.zeros_like(ids)))
    return found
