"""The training loop: that of transformers, with our loss, our learning rates, our evaluation and exact resumption."""

from __future__ import annotations

import json
import logging
import shutil
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch.utils.data import Dataset, SequentialSampler
from transformers import EarlyStoppingCallback, PrinterCallback, TrainerCallback, TrainingArguments
from transformers import Trainer as TransformersTrainer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import get_last_checkpoint

from cascade.errors import InputError
from cascade.io import atomic_write
from cascade.stage import StepProgress
from stages.training.batches import Collator
from stages.training.device import Device
from stages.training.quality import MEAN
from stages.training.students import Student

logger = logging.getLogger(__name__)

METRICS = "metrics.jsonl"
SAVE_EVERY_S = 300.0
"""Seconds after which there is another checkpoint, evaluation or not: what a machine that dies may cost."""
_MOST_LOGS = 200

Objective = Callable[[Any, Mapping[str, Any]], torch.Tensor]
"""What a student says of a batch of ``Collator``, and that batch -> loss."""


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """How the loop runs.

    Args:
        steps: number of batches.
        batch: questions in one.
        learning_rates: by part of the student.
        warm_up: share of the steps in which they rise.
        weight_decay: of matrices.
        eval_every: steps between evaluations, each of which leaves a checkpoint; there are others in between.
        patience: evaluations without gain before it stops; None for never.
        seed: of dropout.
    """

    steps: int
    batch: int
    learning_rates: Mapping[str, float]
    warm_up: float
    weight_decay: float
    eval_every: int
    patience: int | None
    seed: int


def fit(
    student: Student,
    collate: Collator,
    objective: Objective,
    measure: Callable[[], Mapping[str, float]],
    folder: Path,
    settings: LoopSettings,
    device: Device,
    told: StepProgress,
) -> None:
    """Trains a student, which is its best self of all evaluations afterwards.

    Goes on from the last checkpoint in ``folder``, where there is one, as if it had never stopped. The first interrupt
    (SIGINT) ends the step, with its evaluation where one is due, leaves a checkpoint and raises; a second one raises at
    once.

    Args:
        student: on the CPU or already on the device.
        collate: makes batches of the groups, taken in their order.
        objective: the loss.
        measure: the student's quality by collection, and ``MEAN``.
        folder: of checkpoints and ``METRICS``.
        settings: of the loop.
        device: where.
        told: of steps done.

    Raises:
        InputError: the loss is not finite.
        KeyboardInterrupt: after an interrupt.
    """
    interrupted = threading.Event()
    with _quiet(), _catch_interrupt(interrupted):
        loop: Any = _Loop(student, collate, objective, measure, _arguments(folder, settings, device), settings)
        loop.add_callback(_Watch(interrupted, folder / METRICS, told))
        if settings.patience is not None:
            loop.add_callback(_Patience(settings.patience))
        last, steps = _last_checkpoint(folder)
        _cut(folder / METRICS, steps)
        if last is not None:
            logger.info("%s: goes on from there", last)
        loop.train(resume_from_checkpoint=last)
    if interrupted.is_set():
        raise KeyboardInterrupt


def _last_checkpoint(folder: Path) -> tuple[str | None, int]:
    """The last whole checkpoint and how many steps were done then; what was only begun is deleted.

    The trainer writes its state last, so that a folder without one is from a process that died while it wrote.
    """
    for checkpoint in folder.glob("checkpoint-*"):
        try:
            json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            logger.warning("%s: was not written to its end; goes on from an earlier one", checkpoint)
            shutil.rmtree(checkpoint)
    last = get_last_checkpoint(str(folder))  # type: ignore[no-untyped-call]
    return last, 0 if last is None else int(last.rpartition("-")[2])


def _cut(metrics: Path, steps: int) -> None:
    """Leaves out what was noted after so many steps: they are done again."""
    if metrics.is_file():
        lines = metrics.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and 0 < json.loads(line)["step"] <= steps]
        with atomic_write(metrics) as file:
            file.writelines(kept)


class _Numbers(Dataset[int]):
    """0, 1, 2, ...: the collator knows what they stand for."""

    def __init__(self, length: int) -> None:
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, number: int) -> int:
        return number


class _Loop(TransformersTrainer):
    def __init__(
        self,
        student: Student,
        collate: Collator,
        objective: Objective,
        measure: Callable[[], Mapping[str, float]],
        arguments: TrainingArguments,
        settings: LoopSettings,
    ) -> None:
        numbers = _Numbers(len(collate.lessons.groups))
        super().__init__(student, arguments, data_collator=collate, train_dataset=numbers, eval_dataset=_Numbers(1))
        self.remove_callback(PrinterCallback)  # type: ignore[no-untyped-call]
        self._numbers = numbers
        self._student = student
        self._objective = objective
        self._measure = measure
        self._settings = settings

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        loss = self._objective(model(**inputs["student"]), inputs)
        if not torch.isfinite(loss):
            rates = ", ".join(f"{part} {rate:g}" for part, rate in self._settings.learning_rates.items())
            raise InputError(
                f"step {self.state.global_step + 1}: expected a finite loss, got {loss.item()}; "
                f"lower the learning rates ({rates}) or use precision float32"
            )
        return loss

    def create_optimizer(self) -> torch.optim.Optimizer:
        if self.optimizer is None:
            groups: dict[tuple[str, bool], list[torch.nn.Parameter]] = {}
            for name, parameter in self._student.named_parameters():
                if parameter.requires_grad:
                    key = self._student.part_of(name), parameter.ndim > 1
                    groups.setdefault(key, []).append(parameter)
            self.optimizer = torch.optim.AdamW(
                {
                    "params": parameters,
                    "lr": self._settings.learning_rates[part],
                    "weight_decay": self._settings.weight_decay if matrices else 0.0,
                }
                for (part, matrices), parameters in groups.items()
            )
        return self.optimizer

    def evaluate(self, *arguments: Any, **options: Any) -> dict[str, float]:
        metrics = {f"eval_{name}": value for name, value in self._measure().items()}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(self._numbers)


class _Patience(EarlyStoppingCallback):
    """Stops after so many evaluations without gain, and again where a run that had stopped is taken up."""

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        if self.early_stopping_patience_counter >= self.early_stopping_patience:
            control.should_training_stop = True


class _Watch(TrainerCallback):
    """Reports, writes the metrics file, and stops on request."""

    def __init__(self, interrupted: threading.Event, metrics: Path, told: StepProgress) -> None:
        self._interrupted = interrupted
        self._metrics = metrics
        self._told = told
        self._saved_at = time.monotonic()

    def on_save(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self._saved_at = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self._told("training", state.global_step, state.max_steps)
        if state.global_step >= state.max_steps:
            control.should_evaluate = True
        if time.monotonic() - self._saved_at > SAVE_EVERY_S:
            control.should_save = True
        if self._interrupted.is_set():
            control.should_save = True
            control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **others: Any) -> None:
        line = {"step": state.global_step, **logs}
        with self._metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        logger.info("%s", line)


def _arguments(folder: Path, settings: LoopSettings, device: Device) -> TrainingArguments:
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=settings.steps,
        per_device_train_batch_size=settings.batch,
        lr_scheduler_type="linear",
        warmup_steps=round(settings.warm_up * settings.steps),
        bf16=device.half,
        use_cpu=device.name == "cpu",
        seed=settings.seed,
        eval_strategy="steps",
        eval_steps=settings.eval_every,
        save_strategy="steps",
        save_steps=settings.eval_every,
        save_total_limit=2,
        restore_callback_states_from_checkpoint=True,  # patience goes on counting where it was
        load_best_model_at_end=True,
        metric_for_best_model=f"eval_{MEAN}",
        greater_is_better=True,
        logging_strategy="steps",
        logging_steps=max(1, settings.steps // _MOST_LOGS),
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=device.name == "cuda",
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # one GPU even where there are several: groups are not to be split
    return arguments


@contextmanager
def _catch_interrupt(interrupted: threading.Event) -> Iterator[None]:
    """The first SIGINT sets the event, the second raises; elsewhere than in the main thread there are none."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def note(number: int, frame: FrameType | None) -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt
        interrupted.set()

    before = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what transformers and torch say of their own affairs from the user."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
