"""Options that several commands share, and what they stand for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from cascade.arguments import FROM_CONFIG, Budget


def in_a_folder(path: Path | None) -> Path | None:
    """Refuses an output file whose folder is not there, before the work instead of after it."""
    if path is not None and not path.parent.is_dir():
        raise typer.BadParameter(f"there is no folder {path.parent}; make it, or write somewhere else")
    return path


Config: TypeAlias = Annotated[
    Path,
    typer.Option(
        "--config", "-c", metavar="FILE", help="The cascade: a YAML file, or bundled:default, bundled:hybrid, ..."
    ),
]
IndexDir: TypeAlias = Annotated[Path, typer.Option("--index", "-i", metavar="DIR", help="An index of 'cascade index'.")]
Verify: TypeAlias = Annotated[
    bool, typer.Option("--verify/--no-verify", help="Whether to check the index's checksums first.")
]
Threads: TypeAlias = Annotated[
    int | None, typer.Option("--threads", min=1, help="Threads of each task; default: as many as there are cores.")
]
CorpusPath: TypeAlias = Annotated[
    Path,
    typer.Option(
        "--corpus", metavar="PATH", help="JSONL, TSV, CSV, Parquet, a BEIR folder, or a folder of .txt, .md and .html."
    ),
]
Queries: TypeAlias = Annotated[
    Path, typer.Option("--queries", "-q", metavar="FILE", help="Questions: JSONL, TSV or a BEIR folder.")
]
QrelsPath: TypeAlias = Annotated[
    Path, typer.Option("--qrels", metavar="FILE", help="Judgments: TREC, BEIR's TSV, or a BEIR folder.")
]
Measures: TypeAlias = Annotated[
    list[str] | None, typer.Option("--measure", "-m", help="A measure such as nDCG@10; may be given several times.")
]
TopK: TypeAlias = Annotated[
    int | None, typer.Option("--top-k", "-k", min=0, help="Documents wanted; default: the last stage's top_k.")
]
BudgetMs: TypeAlias = Annotated[
    float | None,
    typer.Option("--budget-ms", min=0, metavar="MS", help="Milliseconds for each query; default: the configured ones."),
]
NoBudget: TypeAlias = Annotated[
    bool, typer.Option("--no-budget", help="No time limit: every stage at full depth, for measuring quality alone.")
]
OutputRun: TypeAlias = Annotated[
    Path,
    typer.Option("--output", "-o", metavar="FILE", callback=in_a_folder, help="Where the run goes, in TREC format."),
]
JsonFile: TypeAlias = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", callback=in_a_folder, help="Write it all as JSON, too.")
]


def budget(budget_ms: float | None, no_budget: bool) -> Budget:
    """What the two budget options mean together."""
    if no_budget and budget_ms is not None:
        raise typer.BadParameter("--budget-ms and --no-budget exclude each other; give one")
    if no_budget:
        return None
    return FROM_CONFIG if budget_ms is None else budget_ms
