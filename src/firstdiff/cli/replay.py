"""`firstdiff replay`: force one side's values into the other, and list every fault."""

from __future__ import annotations

from typing import Annotated

import typer

from firstdiff.cli import options
from firstdiff.cli.output import progress


def replay(
    reference: Annotated[
        str,
        typer.Argument(help="The reference: its trace REF.h5, or hf:DIR.", metavar="REF"),
    ],
    port: Annotated[
        str,
        typer.Argument(
            help="The port: file.py:name, package.module:name or hf:DIR; its trace PORT.h5 where REF is hf:DIR.",
            metavar="PORT",
        ),
    ],
    only: Annotated[
        str | None,
        typer.Option("--only", metavar="GLOB", help="Judge only modules whose path matches."),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option("--from", metavar="LAYER", help="Judge from this module on: layers.12."),
    ] = None,
    map_file: options.Map = None,
    dtype: options.Dtype = None,
    eager: options.Eager = False,
    exact: options.Exact = False,
    framework: options.Framework = None,
    attn_implementation: options.AttnImplementation = "eager",
    trust_remote_code: options.TrustRemoteCode = False,
    all_rows: options.All = False,
    json: options.Json = False,
) -> None:
    """Judge every module on right inputs.

    So that all faults show at once, each on its own.
    """
    from firstdiff.diff.report.replay import print_replay
    from firstdiff.replaying import replay as run

    with progress(quiet=json) as step:
        result = run(
            reference,
            port,
            only=only,
            start=start,
            map=map_file,
            dtype=dtype,
            mode="eager" if eager else "jit",
            exact=exact,
            framework=framework,
            attn_implementation=attn_implementation,
            trust_remote_code=trust_remote_code,
            progress=step,
        )
    if json:
        typer.echo(result.to_json())
    else:
        print_replay(result, all_rows=all_rows)
    raise typer.Exit(result.exit_code)
