"""The program: its commands, and what becomes of an error.

Exit codes: 0 the traces agree, 1 they diverge, 2 trouble (bad input, interrupted, out of disk).
"""

from __future__ import annotations

import functools
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from firstdiff.cli.bisect import bisect
from firstdiff.cli.capture import capture
from firstdiff.cli.check import check
from firstdiff.cli.demo import demo
from firstdiff.cli.diff import diff
from firstdiff.cli.map import map_
from firstdiff.cli.prompt import prompt
from firstdiff.cli.recover import recover
from firstdiff.cli.replay import replay
from firstdiff.cli.selfcheck import selfcheck
from firstdiff.cli.show import show
from firstdiff.cli.weights import weights
from firstdiff.cli.zoom import zoom
from firstdiff.traces.errors import FirstdiffError, SubjectError
from firstdiff.version import __version__

TROUBLE = 2

app = typer.Typer(
    name="firstdiff",
    help="Where does a JAX port of a PyTorch model first go wrong, and why?",
    epilog="Exit codes: 0 the traces agree, 1 they diverge, 2 trouble.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """``command`` with Ctrl-C told apart from exit code 1, which means that the traces diverge."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except KeyboardInterrupt:
            raise FirstdiffError("interrupted") from None

    return run


for command in (
    *(capture, check, diff, show, recover, demo),
    *(weights, map_, replay, bisect, zoom, selfcheck, prompt),
):
    app.command(command.__name__.rstrip("_"))(guarded(command))


def print_version(wanted: bool) -> None:
    """Print the version and stop, when asked for."""
    if wanted:
        typer.echo(f"firstdiff {__version__}")
        raise typer.Exit


@app.callback()
def firstdiff(
    version: Annotated[
        bool,
        typer.Option("--version", callback=print_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Where does a JAX port of a PyTorch model first go wrong, and why?"""


def main() -> None:
    """Run the command line; never a traceback for a user's mistake."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        app()
    except FirstdiffError as error:
        sys.exit(report(error))
    except BrokenPipeError:  # `firstdiff show ref.h5 | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def report(error: FirstdiffError) -> int:
    """Print one line; below it the traceback of the user's own code, when that is what failed."""
    typer.echo(f"firstdiff: {error}", err=True)
    if isinstance(error, SubjectError) and error.__cause__ is not None:
        typer.echo(users_traceback(error.__cause__), err=True)
    return TROUBLE


def users_traceback(error: BaseException) -> str:
    """The traceback of ``error`` without our frames and those of installed packages, unless there are no others."""
    found = traceback.TracebackException.from_exception(error, lookup_lines=True)
    installed = (str(Path(__file__).parents[1]), "site-packages", "<frozen ")
    own = [frame for frame in found.stack if not any(part in frame.filename for part in installed)]
    if own:
        found.stack = traceback.StackSummary.from_list(own)
    return "".join(found.format(chain=False)).rstrip()
