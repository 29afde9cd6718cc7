"""`firstdiff recover`: make a trace of what a stopped capture left."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from firstdiff.cli import options
from firstdiff.cli.output import echo_json


def recover(
    part: Annotated[
        Path, typer.Argument(help="What a stopped capture left: FILE.part.", metavar="FILE.part")
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="The trace to write; default: FILE."),
    ] = None,
    json: options.Json = False,
) -> None:
    """Make a trace of what a stopped capture left.

    It holds everything that was committed to FILE.part before the capture stopped.
    """
    from firstdiff.inspection import show
    from firstdiff.traces import recover as restore

    path = restore(part, output)
    summary = show(path)
    if json:
        echo_json(summary.as_dict())
    else:
        typer.echo(f"{path}: {len(summary.activations)} activations recovered")
