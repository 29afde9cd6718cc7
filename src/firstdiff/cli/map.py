"""`firstdiff map`: which module of the port is which of the reference?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from firstdiff.cli import options
from firstdiff.cli.output import echo_json, progress

_SIDE = "A safetensors file or folder, a subject (hf:DIR, file.py:name), or a trace."


def map_(
    reference: Annotated[str, typer.Argument(help=_SIDE, metavar="REF")],
    port: Annotated[str, typer.Argument(help=_SIDE, metavar="PORT")],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE.toml",
            help="Write the map, for --map of diff and check.",
        ),
    ] = None,
    framework: options.Framework = None,
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """Map modules by their weights, whatever their names.

    Print the map, and with -o write it as TOML for --map of diff and check.
    """
    from firstdiff.auditing import map_modules
    from firstdiff.diff.weights.maptext import lines, toml
    from firstdiff.traces.errors import OptionError

    if output is not None and output.exists() and not force:
        raise OptionError(f"{output} exists; name another file, or overwrite it with --force")
    with progress(quiet=json) as step:
        result = map_modules(reference, port, framework=framework, progress=step)
    if output is not None:
        output.write_text(toml(result), encoding="utf-8")
    if json:
        echo_json(result.as_dict())
    else:
        typer.echo("\n".join(lines(result)))
