"""`firstdiff bisect`: search the depth of a model for the first fault."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from firstdiff.cli import options
from firstdiff.cli.output import echo_json, progress


def bisect(
    reference: Annotated[Path, typer.Argument(help="The reference's trace.", metavar="REF")],
    port: Annotated[
        str,
        typer.Argument(
            help="The port: its trace, or file.py:name, package.module:name, hf:DIR.",
            metavar="PORT",
        ),
    ],
    map_file: options.Map = None,
    dtype: options.Dtype = None,
    eager: options.Eager = False,
    exact: options.Exact = False,
    framework: options.Framework = None,
    functions: Annotated[
        bool,
        typer.Option(
            "--functions/--no-functions",
            help="Look inside the module that is found, for the function and the line.",
        ),
    ] = True,
    json: options.Json = False,
) -> None:
    """Find the first fault in O(log n) runs.

    Or in as many readings of two traces. Works where a full capture does not fit.
    """
    from firstdiff.bisecting import bisect as run
    from firstdiff.diff.report.bisection import closing_lines, step_line

    with progress(quiet=json) as step:
        result = run(
            reference,
            port,
            map=map_file,
            dtype=dtype,
            mode="eager" if eager else "jit",
            exact=exact,
            framework=framework,
            functions=functions,
            on_step=lambda found: None if json else typer.echo(step_line(found)),
            progress=step,
        )
    if json:
        echo_json(result.as_dict())
    else:
        typer.echo("\n".join(closing_lines(result)))
    raise typer.Exit(result.exit_code)
