"""Judged collections in memory, several under one numbering of questions and passages."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cascade.errors import InputError
from cascade.io import read_corpus, read_qrels, read_queries
from cascade.types import Document
from stages.training.settings import Collection as CollectionSettings
from stages.training.synthetic import make_queries

MOST_TIED = 16
"""Questions tied to each other by their judgments that are held out together."""

Relevance = Mapping[int, int]
"""Passage number -> relevance, of one question."""


@dataclass(frozen=True, slots=True)
class Judged:
    """Collections side by side. Questions and passages are numbered through, collection by collection.

    Args:
        names: of the collections, [c].
        passages: texts, with titles before them, [p].
        text_starts: int64 [p]: how many characters of a passage are its title's, the space after it included.
        questions: texts, [q].
        relevance: for each question what is judged; only of passages of its own collection.
        passage_starts: int64 [c + 1]: passages of collection i are ``passage_starts[i]`` up to the next.
        question_starts: the same for questions.
        synthetic: bool [q], questions that were made from their one relevant passage; None where there are none.
    """

    names: tuple[str, ...]
    passages: list[str]
    text_starts: npt.NDArray[np.int64]
    questions: list[str]
    relevance: list[Relevance]
    passage_starts: npt.NDArray[np.int64]
    question_starts: npt.NDArray[np.int64]
    synthetic: npt.NDArray[np.bool_] | None = None

    @property
    def collection_of(self) -> npt.NDArray[np.int64]:
        """int64 [q]: the collection of each question."""
        return np.repeat(np.arange(len(self.names)), np.diff(self.question_starts))

    @property
    def digest(self) -> str:
        """16 hex digits over texts and judgments."""
        digest = hashlib.sha256()
        for part in (self.names, self.passages, map(str, self.text_starts), self.questions, map(str, self.relevance)):
            for text in part:
                digest.update(text.encode(errors="replace") + b"\0")
            digest.update(b"\1")
        return digest.hexdigest()[:16]

    def positives(self, question: int) -> list[int]:
        """Passages judged relevant."""
        return [row for row, relevance in self.relevance[question].items() if relevance > 0]

    def held_out(self, share: float) -> npt.NDArray[np.bool_]:
        """Bool [q]: questions kept for evaluation, chosen by their words, so that one asked twice is on one side.

        No synthetic ones.

        Questions of which the same passage was judged irrelevant are on one side, too, and those that are so tied to
        them: what the one is answered by resembles the other. But where judgments tie more than ``MOST_TIED`` of them,
        as pooled ones do, each is chosen by itself: all of them would be on one side.
        """
        numbers = np.array(
            [zlib.crc32(" ".join(text.lower().split()).encode(errors="replace")) for text in self.questions]
        )
        rejected = {row for judged in self.relevance for row, value in judged.items() if value <= 0}
        for group in _tied([rejected.intersection(judged) for judged in self.relevance]):
            if 1 < len(group) <= MOST_TIED:
                numbers[group] = zlib.crc32(np.unique(numbers[group]).tobytes())
        chosen: npt.NDArray[np.bool_] = numbers < share * 2**32
        return chosen if self.synthetic is None else chosen & ~self.synthetic


def _tied(marks: Sequence[Collection[int]]) -> list[list[int]]:
    """Numbers of those that share a mark, or are so tied through others; smaller groups join the largest."""
    groups: dict[int, list[int]] = {}
    group_of: dict[int, int] = {}
    for number, own in enumerate(marks):
        tied = {group_of[mark] for mark in own if mark in group_of}
        home = max(tied, key=lambda group: len(groups[group]), default=number)
        members = groups.setdefault(home, [])
        for other in tied - {home}:
            moved = groups.pop(other)
            members += moved
            for member in moved:
                group_of |= dict.fromkeys(marks[member], home)
        members.append(number)
        group_of |= dict.fromkeys(own, home)
    return list(groups.values())


def read_judged(collections: Sequence[CollectionSettings], seed: int) -> Judged:
    """Reads collections; unjudged questions, and those without any relevant passage, are left out.

    Raises:
        InputError: a file is wrong, or a collection has no judged question.
    """
    names = _names(collections)
    passages: list[str] = []
    text_starts: list[int] = []
    questions: list[str] = []
    relevance: list[Relevance] = []
    synthetic: list[bool] = []
    starts = [(0, 0)]
    for collection in collections:
        rng = np.random.default_rng(seed)
        documents, asked, judged = _read(collection, rng)
        first = len(passages)
        passages += [document.full_text for document in documents]
        text_starts += [len(document.full_text) - len(document.text) for document in documents]
        made = make_queries(passages[first:], text_starts[first:], collection.synthetic_queries, rng)
        relevance += [{row + first: value for row, value in one.items()} for one in judged]
        relevance += [{row + first: 1} for _, row in made]
        questions += [*asked, *(query for query, _ in made)]
        synthetic += [*(False for _ in asked), *(True for _ in made)]
        starts.append((len(passages), len(questions)))
    bounds = np.array(starts, np.int64)
    return Judged(
        names,
        passages,
        np.array(text_starts, np.int64),
        questions,
        relevance,
        bounds[:, 0],
        bounds[:, 1],
        np.array(synthetic, np.bool_) if any(synthetic) else None,
    )


def _read(
    collection: CollectionSettings, rng: np.random.Generator
) -> tuple[list[Document], list[str], list[dict[int, int]]]:
    """Documents, questions, and what is judged of each, by document number within the collection."""
    qrels = collection.path if collection.qrels is None else collection.qrels
    judgments: dict[str, dict[str, int]] = {}
    for qrel in read_qrels(qrels):
        judgments.setdefault(qrel.query_id, {})[qrel.doc_id] = qrel.relevance
    asked = [
        query
        for query in read_queries(collection.path)
        if any(relevance > 0 for relevance in judgments.get(query.query_id, {}).values())
    ]
    if collection.max_queries is not None and len(asked) > collection.max_queries:
        chosen = np.sort(rng.choice(len(asked), collection.max_queries, replace=False))
        asked = [asked[i] for i in chosen]
    documents = [one.document for one in read_corpus(collection.path)]
    if collection.max_passages is not None and len(documents) > collection.max_passages:
        needed = {doc_id for query in asked for doc_id in judgments[query.query_id]}
        order = rng.permutation(len(documents)).tolist()
        order.sort(key=lambda i: documents[i].doc_id not in needed)
        documents = [documents[i] for i in sorted(order[: max(collection.max_passages, len(needed))])]
    rows = {document.doc_id: row for row, document in enumerate(documents)}
    relevance = [
        {rows[doc_id]: value for doc_id, value in judgments[query.query_id].items() if doc_id in rows}
        for query in asked
    ]
    _judge_alike([query.text for query in asked], relevance)
    answerable = [i for i, one in enumerate(relevance) if any(value > 0 for value in one.values())]
    if not answerable:
        raise InputError(
            f"{collection.path}: expected questions with a relevant passage of the corpus, found none among "
            f"{len(judgments)} judged ones; do corpus, queries and qrels belong together?"
        )
    return documents, [asked[i].text for i in answerable], [relevance[i] for i in answerable]


def _judge_alike(questions: Sequence[str], relevance: list[dict[int, int]]) -> None:
    """What is relevant to a question is so to the same words asked again, where nothing else was judged."""
    together: dict[str, dict[int, int]] = {}
    for text, judged in zip(questions, relevance, strict=True):
        together.setdefault(text, {}).update((row, value) for row, value in judged.items() if value > 0)
    for text, judged in zip(questions, relevance, strict=True):
        judged.update((row, value) for row, value in together[text].items() if row not in judged)


def _names(collections: Sequence[CollectionSettings]) -> tuple[str, ...]:
    """Folder names, or whole paths where two folders have the same name."""
    short = [collection.path.resolve().name for collection in collections]
    if len(set(short)) == len(short):
        return tuple(short)
    names = tuple(str(collection.path) for collection in collections)
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InputError(f"{twice[0]}: expected each collection once, got it {len(twice)} times; give it a weight")
    return names
