"""From a plan to stages that score: loads the models and opens them over a collection."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable
from pathlib import Path

from cascade.index import Collection, Index, IndexedStage
from cascade.planner import Plan, PlannedStage
from cascade.stage import Context, Stage, Tokenizer
from cascade.tasks import OpenedCascade, OpenedStage


class LoadedStages:
    """The loaded stages of a plan, each loaded once, when first needed."""

    def __init__(self, plan: Plan, context: Context, threads: int, shared: LoadedStages | None = None) -> None:
        """Loads nothing yet.

        Args:
            plan: whose stages.
            context: what they may know of the outside.
            threads: threads that one task of theirs may use.
            shared: of another plan, whose loaded stages serve this one, too, where their settings agree.
        """
        self.plan = plan
        self._context = context
        self._threads = threads
        self._stages: dict[tuple[Path, str], Stage] = {} if shared is None else shared._stages

    def stage(self, planned: PlannedStage) -> Stage:
        """The stage with its weights; stages whose settings agree share them.

        Raises:
            ModelError: when its model cannot be loaded.
        """
        key = self._context.folder, planned.cost_key
        if key not in self._stages:
            self._stages[key] = planned.kind.load(planned.settings, self._context)
            self.use_threads()
        return self._stages[key]

    def use_threads(self) -> None:
        """Has torch use its number of threads in tasks of the calling thread.

        Every thread that works has to say so before it does: otherwise it would start with the number of the moment,
        which is one while another encodes a query.
        """
        torch = sys.modules.get("torch")  # loaded by a stage, or not needed
        if torch is not None:
            torch.set_num_threads(self._threads)

    def tokenizers(self, *, rerankers_only: bool = False) -> list[Tokenizer]:
        """How the stages read passages."""
        wanted = [unit for unit in self.plan.units() if not rerankers_only or unit.role in ("reranker", "listwise")]
        found = (self.stage(unit).tokenizer for unit in wanted)
        return [tokenizer for tokenizer in found if tokenizer is not None]

    def indexed(self) -> list[IndexedStage]:
        """The stages as an index is built for them."""
        return [
            IndexedStage(unit.kind.kind, unit.settings.index_settings(), self.stage(unit), unit.kind.indexed)
            for unit in self.plan.units()
            if unit.role != "fuser"
        ]

    def open_index(self, index: Index) -> OpenedCascade:
        """Every stage over an index.

        Raises:
            IndexMismatch: when the index was built with other models or settings.
        """

        def directory(unit: PlannedStage) -> Path | None:
            if not unit.kind.indexed:
                return None
            return index.stage_directory(unit.kind.kind, unit.settings.index_settings(), self.stage(unit).fingerprint())

        return self._open(self.plan.stages, index, directory, "")

    def open_texts(self, collection: Collection) -> OpenedCascade:
        """The rerankers over passages that come from no index; the retrievers are passed over."""
        rerankers = tuple(stage for stage in self.plan.stages if stage.role in ("reranker", "listwise"))
        return self._open(rerankers, collection, lambda unit: None, "+text")

    def _open(
        self,
        stages: tuple[PlannedStage, ...],
        collection: Collection,
        directory: Callable[[PlannedStage], Path | None],
        suffix: str,
    ) -> OpenedCascade:
        def opened(planned: PlannedStage) -> OpenedStage:
            inner = tuple(opened(retriever) for retriever in planned.retrievers)
            stage = self.stage(planned).open(collection, directory(planned))
            return OpenedStage(planned, stage, planned.cost_key + suffix, inner)

        return OpenedCascade(self.plan, collection, tuple(opened(planned) for planned in stages))


def with_budget(cascade: OpenedCascade, budget_s: float) -> OpenedCascade:
    """The cascade under another total budget.

    The stages' own budgets grow and shrink in proportion to the total, but retrieval does not shrink, since there is
    no answer without it; ``inf`` lifts all of them. Where the plan states no total, their sum counts as such.
    """
    plan = cascade.plan
    if budget_s == plan.budget_s:
        return cascade
    if budget_s == math.inf:
        return _scaled(cascade, budget_s, math.inf)
    own_s = sum(stage.budget_s for stage in plan.stages if stage.budget_s != math.inf)
    whole_s = plan.budget_s if plan.budget_s != math.inf else own_s
    return _scaled(cascade, budget_s, budget_s / whole_s if whole_s > 0 else 1.0)


def _scaled(cascade: OpenedCascade, budget_s: float, factor: float) -> OpenedCascade:
    def scaled(stage: OpenedStage) -> OpenedStage:
        inner = tuple(scaled(retriever) for retriever in stage.retrievers)
        own_s = _times(stage.planned.budget_s, factor if stage.reranks else max(1.0, factor))
        planned = dataclasses.replace(stage.planned, budget_s=own_s, retrievers=tuple(part.planned for part in inner))
        return stage.planned_as(planned, inner)

    stages = tuple(scaled(stage) for stage in cascade.stages)
    plan = dataclasses.replace(cascade.plan, budget_s=budget_s, stages=tuple(stage.planned for stage in stages))
    return OpenedCascade(plan, cascade.collection, stages)


def _times(budget_s: float, factor: float) -> float:
    """A budget times a factor; no limit stays no limit, also when nothing is left of the others."""
    return budget_s if budget_s == math.inf else budget_s * factor
