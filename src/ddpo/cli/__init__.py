"""The command line: a file per command, each of which parses, calls and prints."""

from ddpo.cli.program import main

__all__ = ["main"]
