"""Measuring runs: effectiveness, significance, and what each stage of a cascade is worth."""

from cascade.evaluation.compare import COMPARED_MEASURES, Comparison, System, compare
from cascade.evaluation.gap import GapReport, StageReport, gap_report
from cascade.evaluation.html import report_page
from cascade.evaluation.measures import DEFAULT_MEASURES, Evaluation, Run, evaluate, parse_measures, ranked
from cascade.evaluation.probability import (
    Calibrated,
    LabelledScores,
    LastScores,
    Method,
    calibrate_scores,
    expected_calibration_error,
)
from cascade.evaluation.render import render, render_calibration, render_comparison
from cascade.evaluation.runs import StagedRun, StageRun
from cascade.evaluation.significance import bootstrap_interval, holm, paired_t_test, randomisation_test
from cascade.evaluation.staged import judged_queries, run_staged

__all__ = [
    "COMPARED_MEASURES",
    "DEFAULT_MEASURES",
    "Calibrated",
    "Comparison",
    "Evaluation",
    "GapReport",
    "LabelledScores",
    "LastScores",
    "Method",
    "Run",
    "StageReport",
    "StageRun",
    "StagedRun",
    "System",
    "bootstrap_interval",
    "calibrate_scores",
    "compare",
    "evaluate",
    "expected_calibration_error",
    "gap_report",
    "holm",
    "judged_queries",
    "paired_t_test",
    "parse_measures",
    "randomisation_test",
    "ranked",
    "render",
    "render_calibration",
    "render_comparison",
    "report_page",
    "run_staged",
]
