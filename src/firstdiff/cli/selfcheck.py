"""`firstdiff selfcheck`: a model against itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from firstdiff.cli import options
from firstdiff.cli.output import echo_json, progress


def selfcheck(
    subject: Annotated[
        str,
        typer.Argument(
            metavar="SUBJECT", help="hf:DIR, hf:ID, file.py:name or package.module:name"
        ),
    ],
    inputs: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Inputs by keyword: a .npz, a .safetensors or a trace."),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            metavar="NAME",
            help="Make this check alone, by its name in the output; repeatable.",
        ),
    ] = None,
    dtype: options.Dtype = None,
    eager: options.Eager = False,
    framework: options.Framework = None,
    json: options.Json = False,
) -> None:
    """Check SUBJECT against itself; needs no reference.

    Run twice, jitted and eager, batched and single, padded and not, decoding and not, in two dtypes.
    """
    from firstdiff.selfchecking import selfcheck as run

    with progress(quiet=json) as step:
        result = run(
            subject,
            inputs=inputs,
            only=tuple(only or ()),
            dtype=dtype,
            mode="eager" if eager else "jit",
            framework=framework,
            progress=step,
        )
    if json:
        echo_json(result.as_dict())
    else:
        typer.echo("\n".join(result.lines()))
    raise typer.Exit(result.exit_code)
