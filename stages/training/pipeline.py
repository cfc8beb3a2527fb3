"""From settings to a trained model: prepare, learn, choose, save."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from cascade.errors import InputError
from cascade.stage import StepProgress
from cascade.training import TrainingReport
from stages.training.batches import Collator
from stages.training.depth import deepest_within, measure_depths
from stages.training.keywords import Keywords
from stages.training.loop import LoopSettings, Objective, fit
from stages.training.losses import anchor_kl, centred_mse, listwise_kl, margin_mse, own_candidates, softmax_loss
from stages.training.preparation import Prepared, prepare, typical_candidates
from stages.training.quality import MEAN
from stages.training.sampling import Lessons
from stages.training.scoring import score_groups
from stages.training.settings import CommonSettings, DistillSettings, TrainSettings
from stages.training.students import Base, Student, build, read_base
from stages.training.students.base import Hinted, spread
from stages.training.students.options import learning_rates
from stages.training.teachers import Teaching

Quality = dict[str, dict[str, float]]

_EVALUATIONS = 4
_WARM_UP_PASSAGES = 256


def train(settings: TrainSettings, told: StepProgress) -> TrainingReport:
    """Trains on judgments, by a softmax over each question's candidates.

    Raises:
        InputError: the data are wrong, or another training began in the same place.
        ModelError: the base cannot be used.
        KeyboardInterrupt: after an interrupt; the same call goes on from there.
    """
    ready = prepare(settings, told)
    student = build(settings.kind, chosen_layers(_base(settings), settings), settings)
    share = student.lookalikes if settings.lookalikes is None else settings.lookalikes
    return _learn(ready, student, ready.labelled(student, share), _judgments(settings), _baselines(ready), ())


def distill(settings: DistillSettings, told: StepProgress) -> TrainingReport:
    """Trains a student on the scores of teachers.

    Raises:
        InputError, ModelError, KeyboardInterrupt: as for ``train``.
    """
    ready = prepare(settings, told)
    base = _base(settings)
    notes: tuple[str, ...] = ()
    if settings.target_ms is None:
        base = chosen_layers(base, settings)
    else:
        base, notes = _fitting(ready, base, settings, settings.target_ms)
    student = build(settings.kind, base, settings)
    texts, mined, digest = ready.texts, ready.candidates, ready.judged.digest
    teaching = Teaching(texts, mined, digest, settings, ready.place.cache, ready.device, told)
    lessons = ready.taught(student, teaching, settings)
    quality = _baselines(ready)
    quality["teacher"] = ready.held.quality(
        teaching.scores(settings.teachers, torch.tensor(ready.held.questions).int().numpy(), ready.held.groups)
    )
    return _learn(ready, student, lessons, _distillation(student, settings), quality, notes)


def _learn(
    ready: Prepared, student: Student, lessons: Lessons, objective: Objective, quality: Quality, notes: tuple[str, ...]
) -> TrainingReport:
    """Trains, keeps the better of the trained weights and their means with the first ones, and saves."""
    settings, device = ready.settings, ready.device
    student.to(device.name)
    student.eval()
    student.warm_up([lessons.passages[row] for row in lessons.groups.rows[:, 0][:_WARM_UP_PASSAGES].tolist()])
    student.freeze(*_frozen(student, settings))
    rates = learning_rates(student, settings.learning_rates)

    def measure(model: Student = student) -> dict[str, float]:
        model.eval()
        held = ready.held
        scores = score_groups(model, ready.texts, held.questions, held.groups, device, ready.told, "evaluation")
        return held.quality(scores)

    quality["before"] = measure()
    first = _copy(student)
    steps = ready.steps(student)
    loop = LoopSettings(
        steps=steps,
        batch=ready.batch(student),
        learning_rates=rates,
        warm_up=settings.warm_up,
        weight_decay=settings.weight_decay,
        eval_every=-(-steps // _EVALUATIONS) if settings.eval_every is None else settings.eval_every,
        patience=settings.patience,
        seed=settings.seed,
    )
    keywords = Keywords.of(settings.keywords, student.tokenizer, settings.seed) if settings.keywords > 0 else None
    collate = Collator(student, lessons, ready.judged, ready.candidates, keywords)
    fit(student, collate, objective, measure, ready.place.folder, loop, device, ready.told)
    trained = _copy(student)
    tried: dict[float, dict[str, float]] = {}
    for share in settings.end_weights:
        student.load_state_dict(_between(first, trained, share))
        tried[share] = measure()
    best = max(tried, key=lambda share: tried[share][MEAN])
    student.load_state_dict(_between(first, trained, best))
    saved = ready.place.save(student, settings)
    # storing weights may round them, so what is told is told of the stored ones
    quality["after"] = measure(build(settings.kind, read_base(str(saved)), settings).to(device.name))
    if best != 1:
        notes = (*notes, f"weights: {best:.0%} trained, {1 - best:.0%} those before training")
    if quality["after"][MEAN] <= quality["before"][MEAN]:
        notes = (*notes, "training did not improve the model on held-out questions: lower learning rates, or more data")
    ready.place.deliver(saved, settings, quality)
    return TrainingReport(settings.out, quality, notes)


def _labels(scores: torch.Tensor, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    return softmax_loss(scores, batch["targets"], batch["left_out"])


def _judgments(settings: TrainSettings) -> Objective:
    def objective(scores: torch.Tensor, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        loss = _labels(scores, batch)
        if settings.anchor == 0:
            return loss
        return loss + settings.anchor * anchor_kl(scores, batch["bi_encoder"])

    return objective


def _distillation(student: Student, settings: DistillSettings) -> Objective:
    def objective(found: torch.Tensor | Hinted, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        scores, teacher = found.scores if isinstance(found, Hinted) else found, batch["teacher"]
        own = own_candidates(scores, teacher.shape[1]) if student.in_batch else scores
        if settings.loss == "margin-mse":
            taught = margin_mse(own, teacher)
        else:
            taught = listwise_kl(own, teacher, settings.temperature)
        if settings.square_weight > 0:
            taught = taught + settings.square_weight * centred_mse(own, teacher)
        if settings.label_weight > 0:
            taught = (1 - settings.label_weight) * taught + settings.label_weight * _labels(scores, batch)
        return taught + settings.hints * found.error if isinstance(found, Hinted) else taught

    return objective


def _base(settings: CommonSettings) -> Base:
    """What the student is made from, all of its layers, each as wide as is asked for."""
    base = read_base(settings.base)
    return base if settings.feed_forward is None else base.narrow(settings.feed_forward)


def chosen_layers(base: Base, settings: CommonSettings) -> Base:
    """The base with the layers that the settings ask for.

    Raises:
        InputError, ModelError: it does not have them.
    """
    if settings.keep_layers is not None:
        return base.keep(settings.keep_layers)
    if settings.layers is not None:
        if settings.layers > base.layers:
            raise InputError(f"layers: expected at most the {base.layers} of {base.folder}, got {settings.layers}")
        return base.keep(spread(settings.layers, base.layers))
    return base


def _fitting(ready: Prepared, base: Base, settings: DistillSettings, target_ms: float) -> tuple[Base, tuple[str, ...]]:
    """The base with as many layers as score the candidates in time."""

    def make(depth: int) -> Student:
        return build(settings.kind, base.keep(spread(depth, base.layers)), settings)

    questions, passages = ready.tokens(make(1))
    question, candidates = typical_candidates(ready.held, questions, passages, settings.candidates)
    depths = range(1, base.layers + 1)
    seconds = ready.place.depths(lambda: measure_depths(make, depths, question, candidates, ready.device))
    depth = deepest_within(target_ms / 1000, seconds)
    times = ", ".join(f"{layers}: {took * 1000:.1f} ms" for layers, took in seconds.items())
    note = f"{depth} layers score {settings.candidates} candidates within {target_ms:g} ms here ({times})"
    return base.keep(spread(depth, base.layers)), (note,)


def _baselines(ready: Prepared) -> Quality:
    return {"BM25": ready.held.quality(ready.held.bm25), "bi-encoder": ready.held.quality(ready.held.dense)}


def _frozen(student: Student, settings: CommonSettings) -> tuple[int, bool]:
    """Layers that do not learn, and whether the embeddings do not."""
    if settings.frozen_layers is not None:
        return min(settings.frozen_layers, student.depth), not settings.train_embeddings
    return (0, False) if settings.train_embeddings else (student.depth // 2, True)


def _copy(student: Student) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in student.state_dict().items()}


def _between(
    first: Mapping[str, torch.Tensor], last: Mapping[str, torch.Tensor], share: float
) -> dict[str, torch.Tensor]:
    """(1 - share) * first + share * last: the mean in weight space of Wortsman et al. 2022 (arXiv 2109.01903)."""
    return {name: torch.lerp(first[name], last[name], share) for name in last}
