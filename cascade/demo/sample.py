"""Judged questions with candidates, to measure a reranker on where there is nothing else."""

from __future__ import annotations

import random

from cascade.demo.corpus import gather
from cascade.demo.questions import load_questions
from cascade.optimizing import JudgedQuestion

CANDIDATES = 20
_CHARACTERS = 1000


def judged_questions() -> list[JudgedQuestion]:
    """The demo's questions, each with its judged documents and with others, drawn at random, to make up twenty.

    What was judged not relevant looks as if it were, so the candidates are hard to tell apart.
    """
    texts = {document.doc_id: document.full_text[:_CHARACTERS] for document in gather()}
    queries, qrels, _ = load_questions(texts)
    judged: dict[str, dict[str, int]] = {}
    for qrel in qrels:
        judged.setdefault(qrel.query_id, {})[qrel.doc_id] = qrel.relevance
    doc_ids, chosen = list(texts), random.Random(0)
    questions = []
    for query in queries:
        candidates = dict(judged[query.query_id])
        while len(candidates) < CANDIDATES:
            candidates.setdefault(chosen.choice(doc_ids), 0)
        passages = tuple(texts[doc_id] for doc_id in candidates)
        questions.append(JudgedQuestion(query.text, passages, tuple(candidates.values())))
    return questions
