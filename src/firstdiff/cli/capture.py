"""`firstdiff capture`: record one run of a model into a trace."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from firstdiff.cli import options
from firstdiff.cli.output import echo_json, progress
from firstdiff.decoding import Decoding


def capture(
    subject: Annotated[
        str,
        typer.Argument(
            metavar="SUBJECT", help="hf:DIR, hf:ID, file.py:name or package.module:name"
        ),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="The trace to write.")
    ],
    prompt: Annotated[
        str | None, typer.Option(help="Text, encoded by the model's own tokenizer.")
    ] = None,
    prompt_file: Annotated[
        Path | None, typer.Option(help="The same, from a file: a row a line.")
    ] = None,
    input_ids: Annotated[
        str | None, typer.Option(help="Token ids: 1,2,3 or rows 1,2,3;4,5,6.")
    ] = None,
    inputs: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Inputs by keyword: a .npz, a .safetensors or a trace."),
    ] = None,
    steps: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Decode N tokens after the prompt: those of --inputs TRACE where it decodes, else the most likely.",
        ),
    ] = 0,
    greedy: Annotated[
        bool, typer.Option("--greedy", help="Take the most likely tokens, whatever --inputs holds.")
    ] = False,
    dtype: options.Dtype = None,
    select: options.Select = None,
    inputs_of: options.InputsOnly = False,
    outputs_only: options.OutputsOnly = False,
    level: options.Level = "module",
    digest: options.Digest = False,
    weights: options.Weights = None,
    floor: Annotated[
        list[str] | None,
        typer.Option(
            "--floor",
            metavar="DTYPE",
            help="Record the noise floor of this dtype; repeatable. Default: the "
            "reference's own and bfloat16. PyTorch only.",
        ),
    ] = None,
    no_floor: Annotated[
        bool,
        typer.Option(
            "--no-floor", help="Record no noise floor: quicker, but judged by a stand-in."
        ),
    ] = False,
    attn_implementation: options.AttnImplementation = "eager",
    trust_remote_code: options.TrustRemoteCode = False,
    eager: options.Eager = False,
    exact: options.Exact = False,
    stream: options.Stream = False,
    passes: options.Passes = 1,
    max_iterations: options.MaxIterations = None,
    framework: options.Framework = None,
    no_verify: options.NoVerify = False,
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """Record every module's inputs and outputs in one run of SUBJECT."""
    from firstdiff.recording import capture as record

    with progress(quiet=json) as step:
        result = record(
            subject,
            output,
            prompt=prompt,
            prompt_file=prompt_file,
            input_ids=input_ids,
            inputs=inputs,
            steps=Decoding(steps) if greedy else steps,
            dtype=dtype,
            select=tuple(select or ()),
            inputs_only=inputs_of,
            outputs_only=outputs_only,
            level=level,
            digest=digest,
            weights=weights,
            floor=() if no_floor else (tuple(floor) if floor else None),
            attn_implementation=attn_implementation,
            trust_remote_code=trust_remote_code,
            mode="eager" if eager else "jit",
            exact=exact,
            stream=stream,
            passes=passes,
            max_iterations=max_iterations,
            framework=framework,
            verify=not no_verify,
            force=force,
            progress=step,
        )
    if json:
        echo_json(result.as_dict())
    else:
        typer.echo("\n".join(result.lines()))
