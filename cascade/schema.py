"""The YAML language as data: the settings of a cascade, and the JSON Schema that editors check files against.

The settings of a stage belong to its kind (``StageSettings`` and its subclasses); what is common to the whole cascade
is here. ``load.py`` fills these records from a file, ``planner.py`` turns them into a plan.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, field_validator

from cascade.registry import Registry
from cascade.stage import STAGE_NAME, OnOverrun, Role, StageKind, StageSettings

Slack: TypeAlias = Literal["carry", "drop"]
Overload: TypeAlias = Literal["degrade", "refuse"]

FORMAT_VERSION = 1


class _Block(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class PassageSettings(_Block):
    """How documents are split into the passages that stages score."""

    max_tokens: int | None = Field(None, ge=16, description="tokens of a passage; default: the smallest model window")
    overlap_tokens: int = Field(32, ge=0, description="tokens that neighbouring passages share")
    per_document: int = Field(3, ge=1, description="passages of one document that a stage passes on")


class CascadeSettings(_Block):
    """The top level of a YAML file, apart from its stages."""

    version: Literal[1] = Field(description="version of the YAML language")
    name: str = Field(pattern=STAGE_NAME, description="what traces and reports call the cascade")
    budget_ms: float | None = Field(None, ge=0, description="milliseconds for the whole query, waiting included")
    on_overrun: OnOverrun = Field("partial", description="what a stage does when its time ends")
    slack: Slack = Field("carry", description="carry: later stages get what earlier ones leave; drop: they do not")
    quantile: float = Field(0.99, ge=0.5, lt=1, description="share of tasks that must end within their predicted time")
    overload: Overload = Field("degrade", description="what a query meets that cannot be answered in time")
    max_waiting: int = Field(1000, ge=1, description="queries that may wait at once; one more is refused")
    passages: PassageSettings = Field(default_factory=PassageSettings, description="how documents are split")

    @field_validator("version", mode="before")
    @classmethod
    def _whole_number(cls, value: Any) -> Any:
        """Refuses ``true`` and ``1.0``, which equal 1 in Python."""
        if value == FORMAT_VERSION and type(value) is not int:
            raise ValueError(f"expected {FORMAT_VERSION}")
        return value


@dataclass(frozen=True, slots=True)
class StageEntry:
    """One stage of a configuration, with the retrievers that it fuses where it is a fuser."""

    kind: StageKind
    settings: StageSettings
    retrievers: tuple[StageEntry, ...] = ()

    @property
    def role(self) -> Role:
        """What the stage opens to under its settings."""
        return self.kind.role_of(self.settings)


@dataclass(frozen=True, slots=True)
class CascadeConfig:
    """A configuration that has passed every check that needs no model.

    Args:
        source: the file it came from, for messages.
        folder: what relative paths in it start from.
        settings: the top level.
        stages: in order, the first a retriever or a fuser, the others rerankers.
    """

    source: str
    folder: Path
    settings: CascadeSettings
    stages: tuple[StageEntry, ...]

    def entries(self) -> Iterator[StageEntry]:
        """Every stage that has settings of its own: fused retrievers before their fuser."""
        for stage in self.stages:
            yield from stage.retrievers
            yield stage


def json_schema(registry: Registry) -> dict[str, Any]:
    """The JSON Schema (2020-12) of a cascade file, with the settings of every installed kind of stage that imports."""
    top = CascadeSettings.model_json_schema()
    definitions: dict[str, Any] = top.pop("$defs", {})
    retrievers: list[dict[str, str]] = []
    stages: list[dict[str, str]] = []
    for kind in registry.usable()[0]:
        name = kind.kind
        own = kind.settings.model_json_schema(ref_template=f"#/$defs/{name}.{{model}}")
        definitions.update({f"{name}.{inner}": schema for inner, schema in own.pop("$defs", {}).items()})
        own["properties"]["kind"] = {"const": name, "description": own["properties"]["kind"].get("description", "")}
        if kind.role in ("retriever", "fuser"):  # they come first, so that there is nothing to combine with
            del own["properties"]["combine"]
        if kind.role in ("retriever", "fuser", "listwise"):
            del own["properties"]["adaptive"]
        if kind.role == "fuser":
            own["properties"]["retrievers"] = {
                "type": "array",
                "minItems": 2,
                "items": {"$ref": "#/$defs/retriever"},
                "description": "the retrievers whose rankings are fused",
            }
            own["required"] = sorted({*own.get("required", []), "retrievers"})
        own["title"] = name
        definitions[f"stage.{name}"] = own
        reference = {"$ref": f"#/$defs/stage.{name}"}
        stages.append(reference)
        if kind.role == "retriever" or callable(kind.role):
            retrievers.append(reference)
    definitions["retriever"] = {"oneOf": retrievers}
    definitions["stage"] = {"oneOf": stages}
    top["properties"]["stages"] = {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/stage"}}
    top["required"] = sorted({*top.get("required", []), "stages"})
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "cascade",
        **{key: value for key, value in top.items() if key not in ("title", "description")},
        "$defs": definitions,
    }
