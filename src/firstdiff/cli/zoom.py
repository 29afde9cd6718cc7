"""`firstdiff zoom`: look into one module, function by function, on both sides."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from firstdiff.cli import options
from firstdiff.cli.output import progress


def zoom(
    reference: Annotated[
        str,
        typer.Argument(
            help="The reference: hf:DIR or file.py:name; or its trace captured with --level function or op.",
            metavar="REF",
        ),
    ],
    port: Annotated[
        str,
        typer.Argument(
            help="The port: file.py:name, package.module:name or hf:DIR.", metavar="PORT"
        ),
    ],
    module: Annotated[
        str | None,
        typer.Argument(
            help="The module, layers.0.self_attn; . is the model itself. Default: where the two first diverge.",
            metavar="MODULE",
        ),
    ] = None,
    inputs: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Inputs by keyword: a .npz, a .safetensors or a trace. Default: the reference's own.",
        ),
    ] = None,
    level: Annotated[
        str,
        typer.Option(metavar="LEVEL", help="What to print: function, or op for operations too."),
    ] = "function",
    map_file: options.Map = None,
    dtype: options.Dtype = None,
    eager: options.Eager = False,
    exact: options.Exact = False,
    framework: options.Framework = None,
    attn_implementation: options.AttnImplementation = "eager",
    trust_remote_code: options.TrustRemoteCode = False,
    html: options.Html = None,
    all_rows: Annotated[
        bool, typer.Option("--all", help="Print arguments too, not only results.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Name the function inside MODULE that goes wrong.

    On both sides, with file and line, each judged on right inputs.
    """
    from firstdiff.diff.report.zoom import print_zoom, write_zoom_html
    from firstdiff.traces.errors import OptionError
    from firstdiff.zooming import zoom as run

    if level not in ("function", "op"):
        raise OptionError(f"--level {level}: it is function or op")
    with progress(quiet=json) as step:
        result = run(
            reference,
            port,
            module,
            inputs=inputs,
            map=map_file,
            dtype=dtype,
            mode="eager" if eager else "jit",
            exact=exact,
            framework=framework,
            attn_implementation=attn_implementation,
            trust_remote_code=trust_remote_code,
            progress=step,
        )
    if html is not None:
        write_zoom_html(result, html)
    if json:
        typer.echo(result.to_json())
    else:
        print_zoom(result, level="op" if level == "op" else "function", all_rows=all_rows)
    raise typer.Exit(result.exit_code)
