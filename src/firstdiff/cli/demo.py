"""`firstdiff demo`: the product in a minute, on a model that it makes itself."""

from __future__ import annotations

import json as json_module
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from firstdiff.cli.output import echo_json, progress

if TYPE_CHECKING:
    from firstdiff.captured import Capture
    from firstdiff.diff import Diff


def demo(
    framework: Annotated[
        str,
        typer.Option(
            help="linen, nnx, equinox, haiku, keras or function; linen alone beside Qwen2."
        ),
    ] = "linen",
    fault: Annotated[
        str,
        typer.Option(metavar="NAME", help="The mistake in the faulty port; --list shows them."),
    ] = "rotary_interleaved",
    listed: Annotated[
        bool, typer.Option("--list", help="List the mistakes by name, and do nothing else.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of the weights and the prompt.")] = 0,
    dtype: Annotated[str, typer.Option(help="Dtype of both sides.")] = "float32",
    keep: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keep the checkpoint and the traces in this folder."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Check a faulty port of a tiny model, then the right one.

    The model is captured in PyTorch and the ports run in JAX. It is Qwen2, or the one that
    has the fault: GPT-2, BERT, ViT, Gemma, Mixtral.
    """
    from firstdiff.demonstration import demo as run

    if listed:
        print_faults(json)
        return
    with ExitStack() as stack:
        folder = keep or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="firstdiff-demo-"))
        )
        step = stack.enter_context(progress(quiet=json))
        result = run(
            folder,
            framework=framework,
            fault=fault,
            seed=seed,
            dtype=dtype,
            on_capture=lambda capture: None if json else print_capture(capture, fault),
            on_diff=lambda title, found: None if json else print_result(title, found, framework),
            progress=step,
        )
    if json:
        both = {"faulty": result.faulty, "right": result.right}
        echo_json({name: json_module.loads(found.to_json()) for name, found in both.items()})
    elif keep:
        typer.echo(
            f"\nThe checkpoint and the three traces are in {keep}; look into one: firstdiff show {keep}/ref.h5"
        )


def print_faults(json: bool) -> None:
    """Every fault in a line, below the model that has it."""
    from firstdiff.demonstration import catalogue

    found = catalogue()
    if json:
        echo_json(found)
        return
    wide = max(len(name) for faults in found.values() for name in faults)
    for title, faults in found.items():
        typer.echo(f"{title}: {len(faults)} faults")
        for name, sentence in faults.items():
            typer.echo(f"  {name:<{wide}}  {sentence}")


def print_capture(capture: Capture, fault: str) -> None:
    """The reference, once."""
    from firstdiff.demonstration import title_of

    typer.echo(f"A tiny {title_of(fault)} in PyTorch, recorded once:\n")
    reference = replace(capture, path=Path(capture.path.name))  # the folder may be a temporary one
    typer.echo("\n".join(reference.lines()))


def print_result(title: str, result: Diff, framework: str) -> None:
    """One port's verdict under a heading of its own."""
    from firstdiff.diff.report.text import print_diff

    article = "An" if framework in ("nnx", "equinox") else "A"
    typer.echo(f"\n{article} {framework} port of it: {title}\n")
    print_diff(result)
