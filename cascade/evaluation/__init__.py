"""Measuring runs: effectiveness, significance, and what each stage of a cascade is worth."""

from cascade.evaluation.gap import GapReport, StagedRun, StageReport, StageRun, gap_report
from cascade.evaluation.measures import DEFAULT_MEASURES, Evaluation, Run, evaluate, parse_measures, ranked
from cascade.evaluation.render import render
from cascade.evaluation.significance import bootstrap_interval, holm, paired_t_test, randomisation_test
from cascade.evaluation.staged import run_staged

__all__ = [
    "DEFAULT_MEASURES",
    "Evaluation",
    "GapReport",
    "Run",
    "StageReport",
    "StageRun",
    "StagedRun",
    "bootstrap_interval",
    "evaluate",
    "gap_report",
    "holm",
    "paired_t_test",
    "parse_measures",
    "randomisation_test",
    "ranked",
    "render",
    "run_staged",
]
