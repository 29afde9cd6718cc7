"""`firstdiff diff`: compare two traces."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from firstdiff.cli import options
from firstdiff.cli.verdict import deliver


def diff(
    reference: Annotated[Path, typer.Argument(help="The reference's trace.", metavar="REF")],
    port: Annotated[Path, typer.Argument(help="The port's trace.", metavar="PORT")],
    map_file: options.Map = None,
    parquet: options.Parquet = None,
    html: options.Html = None,
    all_rows: options.All = False,
    json: options.Json = False,
) -> None:
    """Align two traces and find the first point of divergence."""
    from firstdiff.diff import diff as compare

    deliver(
        compare(reference, port, map=map_file),
        parquet=parquet,
        html=html,
        all_rows=all_rows,
        json=json,
    )
