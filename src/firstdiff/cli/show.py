"""`firstdiff show`: look into a trace."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

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
        str | None, typer.Argument(metavar="GLOB", help="Only modules whose path matches.")
    ] = None,
    header: Annotated[bool, typer.Option("--header", help="Only how the trace was made.")] = False,
    json: options.Json = False,
) -> None:
    """Print a trace's header and its activations.

    One activation's statistics when GLOB matches just that.
    """
    from firstdiff.inspection import show as list_trace

    listing = list_trace(trace, glob)
    if json:
        echo_json(listing.as_dict())
        return
    lines = [] if glob and not header else header_lines(listing)
    if len(listing.activations) == 1 and not header:
        lines += statistics_lines(listing.activations[0])
    elif not header:
        lines += ["", *activation_lines(listing)] if lines else activation_lines(listing)
    typer.echo("\n".join(lines))


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
        f"check     {head.tracing or 'not known whether tracing changed the output'}",
        f"floors    {', '.join(head.extra.get('floors', {})) or 'none'}",
        f"holds     {listing.total} activations of {len(head.modules)} modules",
        f"weights   {weights_line(listing)}",
    ]
    if head.never_fired:
        lines.append(
            f"silent    {len(head.never_fired)} modules never ran: {', '.join(head.never_fired[:8])}"
        )
    return lines + [f"note      {note}" for note in head.notes]


def weights_line(listing: Listing) -> str:
    """What the trace keeps of the model's parameters."""
    digests, whole = listing.digests, listing.weights
    if not digests and not whole:
        return "nothing kept"
    if digests <= whole:
        return f"{whole} parameters in full"
    return f"digests of {digests} parameters{f', {whole} of them in full' if whole else ''}"


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


def activation_lines(listing: Listing) -> list[str]:
    """One line an activation, in columns; never wrapped, so that it can be searched and cut."""
    rows = [("order", "activation", "tensor", "rms", "min", "max", "non-finite")]
    for activation in listing.activations:
        tensor = describe(activation.dtype, activation.shape)
        rows.append(
            (str(activation.order), activation_name(activation), tensor, *numbers(activation))
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    left = (1, 2)
    return [
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def numbers(activation: Activation) -> tuple[str, str, str, str]:
    """rms, min, max and the number of non-finite elements, as text."""
    digest = activation.digest
    if digest is None:
        return "", "", "", ""
    bad = digest.nan + digest.posinf + digest.neginf
    return f"{digest.rms:.4g}", f"{digest.min:.4g}", f"{digest.max:.4g}", str(bad) if bad else ""


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
