"""How a comparison leaves the program: text or JSON, a table when asked for, and the exit code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from firstdiff.diff import Diff


def deliver(
    result: Diff, *, parquet: Path | None, html: Path | None, all_rows: bool, json: bool
) -> None:
    """Print ``result`` and leave with its exit code: 0 the traces agree, 1 they diverge."""
    from firstdiff.diff.report.text import print_diff

    if parquet is not None:
        result.to_parquet(parquet)
    if html is not None:
        result.to_html(html)
    if json:
        typer.echo(result.to_json())
    else:
        print_diff(result, all_rows=all_rows)
    raise typer.Exit(result.exit_code)
