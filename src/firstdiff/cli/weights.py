"""`firstdiff weights`: did the port load the reference's weights?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from firstdiff.cli import options
from firstdiff.cli.output import progress

_SIDE = "A safetensors file or folder, a subject (hf:DIR, file.py:name), or a trace."


def weights(
    reference: Annotated[str, typer.Argument(help=_SIDE, metavar="REF")],
    port: Annotated[str, typer.Argument(help=_SIDE, metavar="PORT")],
    parquet: Annotated[
        Path | None,
        typer.Option(
            "--parquet", metavar="FILE", help="Also write the table of verdicts as Parquet."
        ),
    ] = None,
    all_rows: Annotated[bool, typer.Option("--all", help="Print every parameter.")] = False,
    framework: options.Framework = None,
    json: options.Json = False,
) -> None:
    """Find every parameter of REF in PORT by its values.

    Say what is missing, transposed, exchanged, untied, or wrong otherwise.
    """
    from firstdiff.auditing import weights as audit
    from firstdiff.diff.weights.report import lines

    with progress(quiet=json) as step:
        result = audit(reference, port, framework=framework, progress=step)
    if parquet is not None:
        result.frame().to_parquet(parquet)
    typer.echo(result.to_json() if json else "\n".join(lines(result, all_rows=all_rows)))
    raise typer.Exit(result.exit_code)
