"""`firstdiff prompt`: inputs that can reveal mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from firstdiff.cli import options
from firstdiff.cli.output import echo_json, progress


def prompt(
    subject: Annotated[
        str,
        typer.Argument(
            metavar="SUBJECT", help="hf:DIR, hf:ID, file.py:name or package.module:name"
        ),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE.npz", help="The file to write.")
    ],
    text: Annotated[
        str | None, typer.Option(help="Real text instead of drawn ids, for hf: with a tokenizer.")
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(help="Length of the rows; default: what the model asks for.")
    ] = None,
    longest: Annotated[int, typer.Option(help="Length of the rows at most.")] = 4096,
    seed: Annotated[int, typer.Option(help="Seed of the drawn ids.")] = 0,
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """Write inputs that can reveal a fault.

    Two rows, unequally padded and long enough; for firstdiff capture --inputs.
    """
    from firstdiff.prompting import prompt as make

    with progress(quiet=json) as step:
        step("loading the model")
        made = make(
            subject, output, text=text, tokens=tokens, longest=longest, seed=seed, force=force
        )
    if json:
        shapes = {
            n: {"dtype": t.dtype, "shape": list(t.value.shape)} for n, t in made.inputs.items()
        }
        echo_json({"path": str(made.path), "inputs": shapes, "notes": list(made.notes)})
    else:
        typer.echo("\n".join(made.lines()))
