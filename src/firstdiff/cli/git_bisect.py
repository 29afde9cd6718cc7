"""Exit codes for `git bisect run`: 125 skips a commit, 128 stops the search."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from firstdiff.traces.errors import FirstdiffError, TraceError

SKIP = 125
STOP = 128


@contextmanager
def git_exit_codes(wanted: bool) -> Iterator[None]:
    """Inside, a port that does not load or run ends the program with 125, a reference that cannot be read with 128.

    A port that leaves by itself (`sys.exit` while it is imported) does not run either. Without ``wanted``: nothing.
    """
    if not wanted:
        yield
        return
    try:
        yield
    except TraceError as error:
        typer.echo(f"firstdiff: {error}", err=True)
        raise typer.Exit(STOP) from error
    except FirstdiffError as error:
        typer.echo(f"firstdiff: skipped: {error}", err=True)
        raise typer.Exit(SKIP) from error
    except SystemExit as left:
        typer.echo(f"firstdiff: skipped: the port left with exit code {left.code}", err=True)
        raise typer.Exit(SKIP) from left
