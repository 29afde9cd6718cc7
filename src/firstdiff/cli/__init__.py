"""The command line: one file a command. It composes what the rooms offer and computes nothing."""

from firstdiff.cli.program import main

__all__ = ["main"]
