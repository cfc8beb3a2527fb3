"""What can be said to a training; the command line and a YAML file say it in the same words. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, model_validator

StudentKind: TypeAlias = Literal["colbert", "cross-encoder", "listwise", "bi-encoder", "distilbert"]
Share: TypeAlias = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Rate: TypeAlias = Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)]


def _folder(info: ValidationInfo) -> Path | None:
    """What relative paths in this field start from; None for the working directory."""
    context = info.context or {}
    folder: Path | None = context.get("folders", {}).get(info.field_name, context.get("folder"))
    return folder


CONTRASTS = "bundled:contrasts"
"""In place of a folder: the questions of ``stages/training/contrasts``, each with a passage that only resembles it."""


def _path_in_folder(path: Path, info: ValidationInfo) -> Path:
    folder = _folder(info)
    return path if folder is None else folder / path


def _collection_in_folder(path: Path, info: ValidationInfo) -> Path:
    return Path(__file__).parent / "contrasts" if str(path) == CONTRASTS else _path_in_folder(path, info)


def kind_and_reference(ref: str) -> tuple[StudentKind | None, str]:
    """The parts of ``[KIND=]REF``; a folder may have an equals sign in its name.

    >>> kind_and_reference("colbert=bundled:bi-encoder"), kind_and_reference("runs/lr=3e-5")
    (('colbert', 'bundled:bi-encoder'), (None, 'runs/lr=3e-5'))
    """
    for kind in get_args(StudentKind):
        if ref.startswith(f"{kind}="):
            return kind, ref.removeprefix(f"{kind}=")
    return None, ref


def _reference_in_folder(ref: str, info: ValidationInfo) -> str:
    folder = _folder(info)
    kind, name = kind_and_reference(ref)
    if folder is None or name.startswith(("bundled:", "hf:")):
        return ref
    return str(folder / name) if kind is None else f"{kind}={folder / name}"


Place: TypeAlias = Annotated[Path, AfterValidator(_path_in_folder)]
"""A path; where validation has a ``folder`` in its context, that of a YAML file, it starts from there.

``folders`` in the same context names the fields that start from elsewhere; None is the working directory.
"""
Reference: TypeAlias = Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_reference_in_folder)]
"""A model, as in cascades: bundled:NAME, hf:ORG/NAME@REVISION or a folder."""


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Collection(_Settings):
    """One BEIR folder."""

    path: Annotated[Path, AfterValidator(_collection_in_folder)] = Field(
        description="folder with corpus.jsonl, queries.jsonl and qrels/; or bundled:contrasts"
    )
    qrels: Place | None = Field(None, description="judgments; default: the one file in qrels/")
    weight: float = Field(1.0, gt=0, le=1e6, allow_inf_nan=False, description="relative share of the questions drawn")
    max_queries: int | None = Field(None, ge=1, description="judged questions kept, chosen at random; default: all")
    max_passages: int | None = Field(
        None, ge=1, description="passages kept: all that are judged, others at random; default: all"
    )
    synthetic_queries: int = Field(
        0,
        ge=0,
        le=10_000_000,
        description="queries made from its passages, to learn from beside the judged ones: titles, sentences, keywords",
    )


class CommonSettings(_Settings):
    """What training and distillation have in common."""

    kind: StudentKind = Field(description="what to train")
    data: tuple[Collection, ...] = Field(min_length=1, description="collections to learn from")
    out: Place = Field(description="folder of the trained model; checkpoints and caches lie in OUT.training beside it")
    base: Reference = Field("bundled:bi-encoder", description="model to start from")
    bi_encoder: Reference = Field("bundled:bi-encoder", description="finds negatives, and tells false ones")
    cache: Place | None = Field(None, description="folder of embeddings, negatives and scores; default: OUT.training")

    steps: int | None = Field(None, ge=1, description="batches to learn from; default: as many as epochs need")
    epochs: float = Field(1.0, gt=0, le=1000, description="how often each question is seen on average")
    batch_queries: int | None = Field(None, ge=1, description="questions in a batch; default: the student's")
    negatives: int = Field(7, ge=1, le=255, description="passages beside the relevant one for each question")
    list_size: int = Field(4, ge=2, le=32, description="of a listwise student: passages in one input")
    false_negative_margin: float = Field(
        1.05,
        gt=0,
        le=10,
        description="part of the relevant passage's bi-encoder score that a negative must stay below; at 1 and less, "
        "nothing that the bi-encoder gets wrong is ever learned",
    )
    positive_depth: int = Field(
        20, ge=1, description="leave out questions whose relevant passages no retriever has among so many"
    )
    keywords: Share = Field(
        0.0, description="share of the questions that are cut to their keywords, as people type them"
    )
    max_query_tokens: int = Field(32, ge=4, le=512, description="tokens of a question, without special ones")
    max_passage_tokens: int = Field(110, ge=8, le=512, description="tokens of a passage, without special ones")
    expand_queries: bool = Field(
        False, description="colbert: fill questions up to max_query_tokens with [MASK]s, which score like other tokens"
    )

    keep_layers: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(
        None, description="layers of the base that the student has, from 0; default: all, or as many as layers says"
    )
    layers: int | None = Field(None, ge=1, description="number of layers, taken from the base at equal distances")
    feed_forward: int | None = Field(
        None, ge=1, description="units of each layer's feed-forward part, those of largest weights; default: the base's"
    )
    frozen_layers: int | None = Field(None, ge=0, description="first layers that do not learn; default: half of them")
    train_embeddings: bool = Field(False, description="whether word embeddings learn, too; then nothing may be frozen")
    learning_rates: dict[str, Rate] = Field({}, description="by part of the student: layers, head, projection, ...")
    warm_up: Share = Field(0.1, description="share of the steps in which the learning rate rises")
    weight_decay: float = Field(0.01, ge=0, le=1, description="of AdamW, for matrices")
    end_weights: tuple[Share, ...] = Field(
        (1.0, 0.5), min_length=1, description="shares of the trained weights, averaged with the first, to choose from"
    )

    held_out: float = Field(0.05, gt=0, le=0.9, description="share of the questions that are kept for evaluation")
    eval_queries: int = Field(40, ge=1, description="held-out questions of each collection that are evaluated")
    eval_depth: int = Field(10, ge=1, le=50, description="candidates from each retriever in evaluation")
    eval_every: int | None = Field(None, ge=1, description="steps between evaluations; default: a quarter of all")
    patience: int | None = Field(None, ge=1, description="stop after so many evaluations without gain; default: never")

    seed: int = Field(0, ge=0, lt=2**32, description="of every random choice")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where to compute; auto: a GPU if there is one")
    precision: Literal["auto", "bfloat16", "float32"] = Field(
        "auto", description="of the products; auto: bfloat16 where the hardware has it"
    )
    threads: int | None = Field(None, ge=1, description="of the CPU; default: one for each core")
    half: bool = Field(
        False, description="store matrices in float16; those that share_weights keeps as differences take 8 bits anyway"
    )
    share_weights: bool = Field(
        False,
        description="leave out what equals bundled:bi-encoder, and of matrices near its own keep the difference in 8 "
        "bits; other libraries cannot read the folder then",
    )

    @model_validator(mode="after")
    def _consistent(self) -> CommonSettings:
        if self.keep_layers is not None and self.layers is not None:
            raise ValueError("keep_layers and layers exclude each other; give one")
        if self.keep_layers is not None and (
            not self.keep_layers or list(self.keep_layers) != sorted(set(self.keep_layers))
        ):
            raise ValueError("keep_layers: expected different numbers in ascending order")
        if self.train_embeddings and self.frozen_layers:
            raise ValueError("train_embeddings needs frozen_layers: 0; nothing reaches embeddings below frozen layers")
        return self


class TrainSettings(CommonSettings):
    """Settings of ``cascade train``."""

    kind: Literal["colbert", "cross-encoder", "listwise", "bi-encoder"] = Field(description="what to train")
    lookalikes: Share | None = Field(
        None,
        description="share of the questions whose last negative is their relevant passage with a number, a name or the "
        "answering sentence changed; default: 0.5 for cross-encoder and listwise, 0 for others",
    )
    anchor: float = Field(
        0.0,
        ge=0,
        le=100,
        allow_inf_nan=False,
        description="weight of what keeps the student's softmax over the candidates near the bi-encoder's",
    )


class DistillSettings(CommonSettings):
    """Settings of ``cascade distill``."""

    kind: StudentKind = Field("distilbert", description="what the student is")
    teachers: tuple[Reference, ...] = Field(
        min_length=1, description="models whose scores the student learns; several are averaged"
    )
    loss: Literal["listwise-kl", "margin-mse"] = Field("listwise-kl", description="how it learns them")
    temperature: float = Field(1.0, gt=0, le=100, description="of listwise-kl: divides the teacher's scores")
    square_weight: float = Field(
        0.0,
        ge=0,
        le=100,
        allow_inf_nan=False,
        description="of the squared error of scores, beside the loss: a softmax that is sure of one passage hardly "
        "sees the others",
    )
    hints: float = Field(
        0.0,
        ge=0,
        le=1000,
        allow_inf_nan=False,
        description="distilbert only: weight of telling, from each inner layer, how well a teacher colbert=... without "
        "training matches each token; with the student's tokenizer",
    )
    label_weight: Share = Field(0.0, description="share of the judgments in the loss; the rest is the teacher's")
    pool: int = Field(16, ge=2, le=256, description="passages that the teacher scores for each question")
    target_ms: float | None = Field(
        None, gt=0, description="milliseconds in which the student is to score its candidates on this machine"
    )
    candidates: int = Field(20, ge=1, le=10_000, description="how many candidates target_ms is for")

    @model_validator(mode="after")
    def _fits(self) -> DistillSettings:
        if self.pool <= self.negatives:
            raise ValueError(f"pool: expected more than negatives = {self.negatives}, got {self.pool}")
        if self.hints > 0 and (
            self.kind != "distilbert" or not any(ref.startswith("colbert=") for ref in self.teachers)
        ):
            raise ValueError(
                f"hints: expected a student distilbert and a teacher colbert=..., got {self.kind} and "
                f"{', '.join(self.teachers)}"
            )
        if self.target_ms is not None and self.kind in ("colbert", "bi-encoder"):
            raise ValueError(f"target_ms is for students that read question and passage together, not for {self.kind}")
        if self.target_ms is not None and (self.layers is not None or self.keep_layers is not None):
            raise ValueError("target_ms chooses the layers; leave layers and keep_layers out")
        return self
