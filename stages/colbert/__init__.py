"""Late interaction: one embedding a token, MaxSim between a query's and a passage's. Importing this loads no torch."""

from __future__ import annotations

from cascade.stage import Context, Stage, StageKind
from stages.colbert.settings import ColbertSettings, problems, role

__all__ = ["KIND", "ColbertSettings"]


def _load(settings: ColbertSettings, context: Context) -> Stage:
    if settings.backend == "plaid":
        from stages.colbert.plaid import PlaidStage

        plaid: Stage = PlaidStage(settings, context)
        return plaid
    from stages.colbert.rescore import ColbertStage

    return ColbertStage(settings, context)


KIND = StageKind(
    kind="colbert",
    role=role,
    settings=ColbertSettings,
    load=_load,
    indexed=True,
    check=problems,
    summary="late interaction over token embeddings (ColBERT), to rescore candidates or, with PLAID, to find them",
)
