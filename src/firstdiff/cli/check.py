"""`firstdiff check`: run a port on the reference's own inputs, and compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from firstdiff.cli import options
from firstdiff.cli.git_bisect import git_exit_codes
from firstdiff.cli.output import progress
from firstdiff.cli.verdict import deliver


def check(
    reference: Annotated[Path, typer.Argument(help="The reference's trace.", metavar="REF")],
    subject: Annotated[
        str,
        typer.Argument(
            metavar="SUBJECT", help="The port: file.py:name, package.module:name, or hf:DIR."
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="Keep the port's trace here; otherwise it is removed.",
        ),
    ] = None,
    map_file: options.Map = None,
    steps: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Decode N steps with the reference's tokens; default: as many as it has, 0: none.",
        ),
    ] = None,
    dtype: options.Dtype = None,
    select: options.Select = None,
    eager: options.Eager = False,
    exact: options.Exact = False,
    stream: options.Stream = False,
    passes: options.Passes = 1,
    max_iterations: options.MaxIterations = None,
    framework: options.Framework = None,
    no_verify: options.NoVerify = False,
    no_replay: Annotated[
        bool,
        typer.Option("--no-replay", help="Do not look for further faults after a divergence."),
    ] = False,
    no_zoom: Annotated[
        bool,
        typer.Option(
            "--no-zoom",
            help="Do not look for the wrong function inside the module that diverges "
            "(which takes a REF captured with --level function).",
        ),
    ] = False,
    parquet: options.Parquet = None,
    html: options.Html = None,
    all_rows: options.All = False,
    force: options.Force = False,
    git_bisect: Annotated[
        bool,
        typer.Option(
            "--git-bisect", help="Exit codes for git bisect run: 125 where it does not run."
        ),
    ] = False,
    json: options.Json = False,
) -> None:
    """Capture SUBJECT with the inputs of REF, then diff the two."""
    from firstdiff.checking import check as run

    with git_exit_codes(git_bisect), progress(quiet=json) as step:
        result = run(
            reference,
            subject,
            output=output,
            map=map_file,
            steps=steps,
            dtype=dtype,
            select=tuple(select or ()),
            mode="eager" if eager else "jit",
            exact=exact,
            stream=stream,
            passes=passes,
            max_iterations=max_iterations,
            framework=framework,
            verify=not no_verify,
            replay=not (no_replay or git_bisect),
            zoom=not (no_zoom or git_bisect),
            force=force,
            progress=step,
        )
    deliver(result, parquet=parquet, html=html, all_rows=all_rows, json=json)
