"""The ``cascade`` command. One file a command: it parses, calls the library and prints."""

from cascade.cli.app import main

__all__ = ["main"]
