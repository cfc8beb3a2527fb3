"""``cascade schema``."""

from __future__ import annotations

import json

from cascade.cli.output import say
from cascade.registry import Registry
from cascade.schema import json_schema


def schema() -> None:
    """Prints the JSON Schema of cascade files, for editors; it covers every installed kind of stage.

    Example: cascade schema > cascade.schema.json
    """
    registry = Registry()
    print(json.dumps(json_schema(registry), indent=2))
    for error in registry.usable()[1]:
        say(f"left out: {error}")
