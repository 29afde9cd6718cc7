"""Options that several commands share, so that one spelling and one help text serve them all."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite the output file.")]
Select = Annotated[
    list[str] | None,
    typer.Option("--select", metavar="GLOB", help="Keep modules whose path matches; repeatable."),
]
InputsOnly = Annotated[
    bool, typer.Option("--inputs-of", help="Record what modules receive, not what they return.")
]
OutputsOnly = Annotated[
    bool, typer.Option("--outputs-only", help="Record what modules return, not what they receive.")
]
Level = Annotated[
    str,
    typer.Option(
        "--level",
        metavar="LEVEL",
        help="module; function: what the model's own functions take and return too; "
        "op: every operation as well.",
    ),
]
Digest = Annotated[
    bool, typer.Option("--digest", help="Keep statistics of every activation, not its elements.")
]
Weights = Annotated[
    bool | None,
    typer.Option(
        "--weights/--no-weights",
        help="Keep every parameter in full, or nothing of them; default: digests.",
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        "--dtype", help="Load the weights in this dtype: float32, bfloat16, float16, float64."
    ),
]
Eager = Annotated[bool, typer.Option("--eager", help="JAX: run op by op instead of under jit.")]
Exact = Annotated[bool, typer.Option("--exact", help="JAX: compile without excess precision.")]
Stream = Annotated[
    bool,
    typer.Option(
        "--stream", help="JAX: write each value while the model runs; one device, little memory."
    ),
]
Passes = Annotated[
    int,
    typer.Option(
        "--passes", metavar="N", help="JAX: run N times and record a slice each time; less memory."
    ),
]
MaxIterations = Annotated[
    int | None,
    typer.Option(
        "--max-iterations",
        metavar="N",
        help="JAX: keep the first N iterations of while loops, not only the last one.",
    ),
]
Framework = Annotated[
    str | None,
    typer.Option(
        "--framework",
        metavar="NAME",
        help="The port's framework, when the guess is wrong: linen, nnx, equinox, haiku, keras or functions.",
    ),
]
AttnImplementation = Annotated[
    str, typer.Option("--attn-implementation", help="Hugging Face attention implementation.")
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option("--trust-remote-code", help="Allow code that lies beside a Hugging Face model."),
]
NoVerify = Annotated[
    bool,
    typer.Option(
        "--no-verify", help="Do not check that tracing left the model's output unchanged."
    ),
]
Map = Annotated[
    Path | None,
    typer.Option(
        "--map",
        metavar="FILE.toml",
        help='Module pairs of your own: "reference path" = "port path".',
    ),
]
Parquet = Annotated[
    Path | None,
    typer.Option("--parquet", metavar="FILE", help="Also write the table of pairs as Parquet."),
]
Html = Annotated[
    Path | None,
    typer.Option("--html", metavar="FILE", help="Also write the report as one HTML page."),
]
All = Annotated[
    bool, typer.Option("--all", help="Print every row; agreeing ones are collapsed otherwise.")
]
