"""`firstdiff show`: look into a trace."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from firstdiff.cli import options
from firstdiff.cli.output import echo_json

if TYPE_CHECKING:
    from firstdiff.inspection import Listing
    from firstdiff.traces import Activation


def show(
    trace: Annotated[
        Path, typer.Argument(metavar="TRACE", help="A trace, or the .part of a stopped capture.")
    ],
    glob: Annotated[
        str | None, typer.Argument(metavar="[GLOB]", help="Only modules whose path matches.")
    ] = None,
    header: Annotated[bool, typer.Option("--header", help="Only how the trace was made.")] = False,
    json: options.Json = False,
) -> None:
    """Print a trace's header and its activations; one activation's statistics when GLOB matches just that."""
    from firstdiff.inspection import show as list_trace

    listing = list_trace(trace, glob)
    if json:
        echo_json(listing.as_dict())
        return
    console = Console(highlight=False)
    if glob is None or header:
        console.print("\n".join(header_lines(listing)), markup=False)
    if header:
        return
    if len(listing.activations) == 1:
        console.print("\n".join(statistics_lines(listing.activations[0])), markup=False)
    else:
        console.print(activation_table(listing))


def header_lines(listing: Listing) -> list[str]:
    """The header in a few lines."""
    head = listing.header
    what = [
        head.model.get("type") or head.model.get("class") or "model",
        head.framework,
        head.dtype,
        head.mode,
        head.device,
    ]
    lines = [
        f"{listing.path}{'' if listing.complete else '  (stopped before it was complete)'}",
        f"subject   {head.subject or '-'}",
        f"model     {' · '.join(str(item) for item in what if item)}",
        f"made      {head.created} with {', '.join(f'{k} {v}' for k, v in sorted(head.versions.items()))}",
        f"inputs    {', '.join(f'{name} {describe(d, s)}' for name, (d, s) in listing.inputs.items()) or '-'}",
        f"precision {', '.join(f'{k}={v}' for k, v in head.precision.items()) or '-'}",
        f"check     {check_line(head.output_check)}",
        f"floors    {', '.join(head.extra.get('floors', {})) or 'none'}",
        f"holds     {listing.total} activations of {len(head.modules)} modules",
    ]
    if head.never_fired:
        lines.append(
            f"silent    {len(head.never_fired)} modules never ran: {', '.join(head.never_fired[:8])}"
        )
    return lines + [f"note      {note}" for note in head.notes]


def check_line(check: dict[str, object]) -> str:
    """Whether tracing changed the model's output."""
    if not check.get("checked"):
        return "not checked whether tracing changed the output"
    if check.get("bitwise"):
        return "tracing did not change the output"
    return f"tracing changed the output by at most {check.get('max_abs')}"


def describe(dtype: str, shape: tuple[int, ...]) -> str:
    """`f32[2,3]`, as the field writes it."""
    short = {"bfloat16": "bf16", "bool": "bool"}.get(dtype) or dtype.replace("float", "f").replace(
        "uint", "u"
    ).replace("int", "i")
    return f"{short}[{','.join(map(str, shape))}]"


def activation_name(activation: Activation) -> str:
    """`layers.0.self_attn.q_proj output`, with leaf, method, call and step where they say something."""
    key = activation.key
    name = f"{key.path or '(model)'} {key.site}"
    name += f" {key.leaf}" if key.leaf else ""
    name += f" .{key.method}" if key.method not in ("forward", "__call__") else ""
    name += f" call {key.call}" if key.call else ""
    return name + (f" step {key.step}" if key.step else "")


def activation_table(listing: Listing) -> Table:
    """One line an activation."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("order", justify="right")
    table.add_column("activation", overflow="fold")
    table.add_column("tensor", no_wrap=True)
    for column in ("rms", "min", "max", "non-finite"):
        table.add_column(column, justify="right")
    for activation in listing.activations:
        digest = activation.digest
        numbers = ("", "", "", "")
        if digest is not None:
            bad = digest.nan + digest.posinf + digest.neginf
            numbers = (
                f"{digest.rms:.4g}",
                f"{digest.min:.4g}",
                f"{digest.max:.4g}",
                str(bad) if bad else "",
            )
        table.add_row(
            str(activation.order),
            activation_name(activation),
            describe(activation.dtype, activation.shape),
            *numbers,
        )
    return table


def statistics_lines(activation: Activation) -> list[str]:
    """Everything known of one activation."""
    lines = [
        activation_name(activation),
        f"tensor    {describe(activation.dtype, activation.shape)}",
    ]
    lines.append(f"class     {activation.class_name or '-'}    order {activation.order}")
    if activation.source:
        lines.append(f"source    {activation.source}")
    for axis in activation.axes:
        lines.append(
            f"inside    {axis.kind} of {axis.size}"
            + (f", number {axis.index}" if axis.index is not None else "")
        )
    digest = activation.digest
    if digest is not None:
        lines.append(
            f"elements  {digest.count}: {digest.nan} NaN, {digest.posinf} +inf, {digest.neginf} -inf"
        )
        lines.append(
            f"finite    mean {digest.mean:.6g}, rms {digest.rms:.6g}, min {digest.min:.6g}, max {digest.max:.6g}"
        )
        lines.append(f"checksum  {digest.checksum:016x}")
    if activation.place is not None:
        place = activation.place
        lines.append(f"stored    {place.dataset} at byte {place.offset}, {place.nbytes} bytes")
    return lines
