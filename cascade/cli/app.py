"""Puts the commands together, and turns errors into messages and exit codes."""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
import threading
from importlib import import_module
from types import FrameType
from typing import Annotated, Any

import typer

from cascade.errors import BadIndex, CascadeError, ConfigError, InputError, ModelError

EXIT_FAILED, EXIT_USAGE, EXIT_CONFIG, EXIT_INPUT, EXIT_INDEX, EXIT_MODEL, EXIT_INTERRUPTED = 1, 2, 3, 4, 5, 6, 130

_ClickException: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")
"""Of the click inside typer or, with an older typer, of the package click; typer does not export it."""

COMMANDS = {
    "demo": "demo.demo",
    "validate": "validate.validate",
    "schema": "schema.schema",
    "index": "index.index",
    "search": "search.search",
    "run": "run.run",
    "rerank": "rerank.rerank",
    "eval": "eval_.evaluate",
    "compare": "compare.compare",
    "calibrate": "calibrate.calibrate",
    "record": "record.record",
    "tune": "tune.tune",
    "adapt": "adapt.adapt",
    "train": "train.train",
    "distill": "distill.distill",
    "models": "models.models",
    "stages": "stages.stages",
    "version": "version.version",
}
"""Each command's module in this folder, and the function in it, or the group of commands."""


def build_app(command: str | None = None) -> typer.Typer:
    """The command line; only one of its commands where that is known, so that checking a file loads no engine."""
    app = typer.Typer(
        name="cascade",
        help="Multi-stage ranking under one latency budget, from a YAML file.",
        epilog="Exit codes: 0 done, 1 failed, 2 usage, 3 configuration, 4 input, 5 index, 6 model, 130 interrupted.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    for name, place in COMMANDS.items() if command is None else [(command, COMMANDS[command])]:
        module, _, function = place.partition(".")
        found = getattr(import_module(f"cascade.cli.{module}"), function)
        if isinstance(found, typer.Typer):
            app.add_typer(found, name=name)
        else:
            app.command(name)(found)
    app.callback()(common)
    return app


def common(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say on stderr what the engine is doing.")] = False,
) -> None:
    """Multi-stage ranking under one latency budget, from a YAML file."""
    logging.basicConfig(level=logging.INFO if verbose else logging.ERROR, format="%(levelname)s %(name)s: %(message)s")


def main() -> None:
    """The entry point of the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a title must not end a search on an old terminal
    signal.signal(signal.SIGINT, _interrupt)
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: list[str]) -> int:
    """Runs one command line; the exit code. Errors made on purpose become one message on stderr."""
    named = next((argument for argument in arguments if not argument.startswith("-")), None)
    try:
        app = build_app(named if named in COMMANDS else None)
        result = app(arguments, standalone_mode=False)
        sys.stdout.flush()
    except typer.Exit as done:
        return done.exit_code
    except _ClickException as error:
        error.show()
        return EXIT_USAGE
    except (KeyboardInterrupt, typer.Abort):
        result = EXIT_INTERRUPTED  # which newer versions of typer give by themselves
    except (BrokenPipeError, SystemExit) as error:
        if not isinstance(error, BrokenPipeError) and not isinstance(error.__context__, BrokenPipeError):
            raise
        # the reader, such as head, has had enough; typer and rich turn that into an exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (CascadeError, OSError) as error:
        if _interrupted.is_set():  # a library may turn an interrupt into an error of its own
            print("interrupted", file=sys.stderr)
            return EXIT_INTERRUPTED
        print(error if isinstance(error, ConfigError) else f"error: {error}", file=sys.stderr)
        return _exit_code(error)
    if result == EXIT_INTERRUPTED:
        print("interrupted", file=sys.stderr)
    return result if isinstance(result, int) else 0


_interrupted = threading.Event()


def _interrupt(number: int, frame: FrameType | None) -> None:
    _interrupted.set()
    raise KeyboardInterrupt


def _exit_code(error: Exception) -> int:
    codes = ((ConfigError, EXIT_CONFIG), (InputError, EXIT_INPUT), (BadIndex, EXIT_INDEX), (ModelError, EXIT_MODEL))
    return next((code for kind, code in codes if isinstance(error, kind)), EXIT_FAILED)
