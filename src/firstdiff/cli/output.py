"""What commands print besides reports: JSON, and progress on standard error."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console


def echo_json(data: Any) -> None:
    """Print ``data`` as JSON; NaN and infinities become null, so that every parser reads it."""
    typer.echo(json.dumps(finite(data), indent=2, allow_nan=False))


def finite(data: Any) -> Any:
    """``data`` with each non-finite float replaced by None."""
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, dict):
        return {str(key): finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [finite(value) for value in data]
    return data


@contextmanager
def progress(*, quiet: bool = False) -> Iterator[Callable[[str], None]]:
    """A function that shows what is going on, on standard error; a spinner where that is a terminal.

    A message that ends with a full stop (what something will cost) stays on the screen.
    """
    console = Console(stderr=True)
    if quiet or not sys.stderr.isatty():
        yield lambda _message: None
        return
    with console.status("starting") as status:

        def show(message: str) -> None:
            if message.endswith("."):
                console.print(message, style="dim", highlight=False, soft_wrap=True)
            else:
                status.update(message)

        yield show
